"""Coordinators that lie in a masked session, and the network (protocol.md §12.2 to §12.8)."""

import os
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from secagg.descriptor import RosterMember
from secagg.errors import (
    CertificateInvalid,
    ConflictError,
    EndorsementInvalid,
    HashMismatch,
    MalformedError,
    NotReady,
    PolicyViolation,
    ProtocolViolation,
    SessionClosed,
    SignatureInvalid,
    TooFewContributions,
)
from secagg.masked.client import MaskedClient
from secagg.masked.descriptor import MaskedSpec, SignedMaskedDescriptor, create_masked_session
from secagg.masked.messages import SignedSurvivorSet, SurvivorSet, UnmaskRequest
from secagg.masked.server import AdvertiseRound
from secagg.masked.vectors import MaskedTotal
from secagg.plan import TensorInit
from secagg.privacy import stated
from secagg.run import MemoryJournal, certify
from secagg_client.masked_run import MaskedClientRun
from secagg_client.patience import Patience
from secagg_host.events import EventLog
from tests.secagg.masked.sessions import Masked
from tests.simulation.ends import masked_end
from tests.simulation.invariants import check_masked
from tests.simulation.masked_session import burnt, exact
from tests.small import DAY, NOW


def chosen(session: Masked, members: tuple[int, ...], ctx: str | None = None) -> SignedSurvivorSet:
    """A set that the coordinator signs, whatever it is."""
    return session.parties.coordinator.sign(SurvivorSet(ctx=ctx or session.descriptor.ctx, members=members))


def test_a_forged_directory_is_refused() -> None:
    session = Masked()
    first = session.advertised[0][0]
    directory = session.sharing.directory
    with pytest.raises(TooFewContributions):
        first.share(directory[:3], os.urandom, NOW)
    with pytest.raises(ProtocolViolation, match="own advertisement"):
        first.share(directory[1:], os.urandom, NOW)
    with pytest.raises(MalformedError, match="in order"):
        first.share((directory[0], *reversed(directory[1:])), os.urandom, NOW)
    with pytest.raises(MalformedError, match="in order"):
        first.share((directory[0], *directory), os.urandom, NOW)
    own_key = directory[1].statement.model_copy(update={"mask_key": directory[2].statement.mask_key})
    forged = directory[1].model_copy(update={"statement": own_key})
    with pytest.raises(SignatureInvalid):
        first.share((directory[0], forged, *directory[2:]), os.urandom, NOW)


def test_after_a_draw_that_stopped_the_client_there_is_no_second_draw() -> None:
    """Else a coordinator would show bad directories until it likes the draw."""
    session = Masked()
    first, directory = session.advertised[0][0], session.sharing.directory
    forged = directory[1].model_copy(update={"signature": directory[2].signature})
    with pytest.raises(SignatureInvalid):
        first.share((directory[0], forged, *directory[2:]), os.urandom, NOW)
    with pytest.raises(ConflictError, match="'drawn'"):
        first.share(directory, os.urandom, NOW)


def test_altered_repeated_or_misdirected_boxes_are_refused() -> None:
    session = Masked()
    first, statement = session.shared[0][0], stated(session.plan.training, "test")
    told = session.uploading.shared_with(0)
    altered = replace(told.deliveries[0], box=bytes(len(told.deliveries[0].box)))
    cases = [
        (HashMismatch, replace(told, deliveries=(altered, *told.deliveries[1:]))),
        (ProtocolViolation, replace(told, deliveries=(told.deliveries[0], *told.deliveries))),
        (ProtocolViolation, replace(told, members=told.members[1:])),
        (ProtocolViolation, replace(told, members=told.members[:-1])),
        (TooFewContributions, replace(told, members=(0, 1, 2), deliveries=told.deliveries[:2])),
    ]
    for error, lie in cases:
        with pytest.raises(error):
            first.upload(lie, session.changes[0], statement, os.urandom, NOW)
    other = session.uploading.shared_with(1).deliveries[-1]
    _, message = first.upload(
        replace(told, deliveries=(*told.deliveries[:-1], other)), session.changes[0], statement, os.urandom, NOW
    )
    assert message.signed.statement.complaints == (
        5,
    )  # a box for member 1: to member 0 it looks like the sender's fault


def test_different_sets_to_different_clients_open_nothing() -> None:
    """Half of the clients see U without member 5: neither half has enough endorsements."""
    session = Masked(n_min=4)
    whole, less = chosen(session, (0, 1, 2, 3, 4, 5)), chosen(session, (0, 1, 2, 3, 4))
    assert session.consistency
    shown = {0: less, 1: less, 2: less, 3: whole, 4: whole, 5: whole}
    endorsed = {number: session.uploaded[number][0].endorse(signed, NOW) for number, signed in shown.items()}
    every = tuple(signed for _, signed in endorsed.values())
    deliveries = session.consistency.close().request(0).deliveries
    for number, (client, _) in endorsed.items():
        with pytest.raises(EndorsementInvalid, match="endorsed another set"):
            client.unmask(UnmaskRequest(every, ()), NOW)
        same = tuple(signed for member, (_, signed) in endorsed.items() if shown[member] == shown[number])
        with pytest.raises(EndorsementInvalid, match="4 must"):
            client.unmask(UnmaskRequest(same, deliveries), NOW)
        with pytest.raises(EndorsementInvalid, match="4 must"):
            client.unmask(UnmaskRequest(same * 3, deliveries), NOW)
    session.__dict__["endorsed"] = {number: client for number, (client, _) in endorsed.items()}
    burnt(session, "fewer than 4 shares", session.consistency.close(), kind=NotReady)


def test_a_second_set_is_never_endorsed_nor_both_secrets_given() -> None:
    """Asked first with member 5 in U, then without: the shares of its mask key stay where they are."""
    session = Masked()
    unmasking = session.unmasking
    answer = session.endorsed[0].unmask(unmasking.request(0), NOW)
    with pytest.raises(ConflictError, match="takes no second one"):
        session.uploaded[0][0].endorse(chosen(session, (0, 1, 2, 3, 4)), NOW)
    again = session.endorsed[0].unmask(replace(unmasking.request(0), deliveries=()), NOW)
    assert again == answer
    given = {revealed.member for revealed in answer.statement.self_shares}
    assert given == {1, 2, 3, 4, 5}
    assert answer.statement.key_shares == ()
    assert len(exact(session)) == 6


def test_a_restarted_client_does_not_begin_again() -> None:
    session = Masked()
    client = session.joined[0]
    client.advertise(os.urandom, NOW)
    with pytest.raises(ConflictError, match="it has vanished"):
        client.advertise(os.urandom, NOW)


def test_sets_below_n_min_without_the_client_or_with_strangers_are_refused() -> None:
    session = Masked(absent={"share": {5}})
    first = session.uploaded[0][0]
    for error, members in (
        (TooFewContributions, (0, 1, 2)),
        (ProtocolViolation, (1, 2, 3, 4)),
        (ProtocolViolation, (0, 1, 2, 3, 5)),
        (ProtocolViolation, (0, 1, 2, 3, 99)),
    ):
        with pytest.raises(error):
            first.endorse(chosen(session, members), NOW)
    with pytest.raises(SignatureInvalid):
        first.endorse(session.signers[1].sign(chosen(session, (0, 1, 2, 3)).statement), NOW)
    with pytest.raises(ProtocolViolation, match="another session"):
        first.endorse(chosen(session, (0, 1, 2, 3), ctx="00" * 32), NOW)


def test_boxes_of_members_outside_the_set_are_not_opened() -> None:
    session = Masked()
    assert session.uploaded
    for number in range(6):
        session.uploading.add(session.uploaded[number][1])
    dropped = session.uploading.taken.pop(5)
    consistency = session.uploading.close(session.parties.coordinator)
    endorsed = {n: session.uploaded[n][0].endorse(consistency.chosen, NOW) for n in range(5)}
    for _, signed in endorsed.values():
        consistency.add(signed)
    with_five = replace(consistency, uploads={**consistency.uploads, 5: dropped}).close().request(0)
    with pytest.raises(ProtocolViolation, match="out of turn"):
        endorsed[0][0].unmask(with_five, NOW)
    session.__dict__["endorsed"] = {number: client for number, (client, _) in endorsed.items()}
    unmasking = consistency.close()
    for number, client in session.endorsed.items():
        unmasking.add(client.unmask(unmasking.request(number), NOW))
    burnt(session, "masks are left", unmasking)  # its vector is in the sum, and its masks stay there


def test_a_policy_refuses_another_coordinator_a_lower_n_min_fewer_corrupt_and_inventions() -> None:
    session = Masked()
    policy = session.policy
    few = dict(list(policy.institutions.items())[:3])
    others = {f"Elsewhere {i}": f"{i:064x}" for i in range(9)}
    for changed, message in (
        ({"coordinator": "00" * 32}, "not the one that is pinned"),
        ({"n_min": 5}, "at least 5"),
        ({"assumed_corrupt_clients": 2}, "at least 2 are assumed"),
        ({"institutions": {**few, **others}}, "inventions"),
    ):
        with pytest.raises(PolicyViolation, match=message):
            policy.model_copy(update=changed).check(session.descriptor)


def test_a_descriptor_that_was_changed_or_has_expired_is_refused() -> None:
    session = Masked()
    journal, signer = MemoryJournal(), session.signers[0]
    with pytest.raises(SessionClosed):
        MaskedClient.join(session.signed, signer, session.policy, session.parties.authority, journal, NOW + DAY + 1)
    changed = session.descriptor.model_copy(update={"n_min": 5})
    with pytest.raises(SignatureInvalid):
        MaskedClient.join(
            session.signed.model_copy(update={"statement": changed}),
            signer, session.policy, session.parties.authority, journal, NOW,
        )  # fmt: skip


def test_another_model_or_adapter_in_a_masked_descriptor_is_refused() -> None:
    """Its hash is in ctx, and each client's policy pins it: nobody advertises, let alone trains."""
    session = Masked()
    plan = session.plan
    other_clip = plan.tensors[1].model_copy(update={"clip": 9.0})
    planted = plan.tensors[0].model_copy(update={"init": TensorInit(kind="seeded", bound=0.9)})
    for changed, words in (
        ({"base_model_hash": "cd" * 32}, "base model cdcdcdcdcdcdcdcd is not one that is pinned"),
        ({"tensors": (plan.tensors[0], other_clip)}, "adapter schema"),
        ({"tensors": (planted, plan.tensors[1])}, "adapter schema"),
    ):
        swapped = Masked(plan=plan.model_copy(update=changed))
        assert swapped.descriptor.ctx != session.descriptor.ctx
        with pytest.raises(PolicyViolation, match=words):
            join(swapped.signed, session)


def join(signed: SignedMaskedDescriptor, session: Masked, number: int = 0, now: int = NOW) -> MaskedClient:
    """A member of `session`, by its policy, is shown this descriptor."""
    authority, signer = session.parties.authority, session.signers[number]
    return MaskedClient.join(signed, signer, session.policy, authority, MemoryJournal(), now)


def test_masked_descriptors_that_differ_by_client_are_two_sessions_and_neither_is_opened() -> None:
    """Half of the clients are shown one, half another: messages are bound to its ctx, and neither half is enough."""
    one, two = Masked(), Masked()
    assert one.descriptor.ctx != two.descriptor.ctx
    halves = AdvertiseRound(one.descriptor), AdvertiseRound(two.descriptor)
    for number in range(6):
        mine, other = (0, 1) if number < 3 else (1, 0)
        signed = (one, two)[mine].advertised[number][1]
        halves[mine].add(signed)
        with pytest.raises(ProtocolViolation, match="another session"):
            halves[other].add(signed)
    for half in halves:
        with pytest.raises(TooFewContributions, match="3 clients advertised"):
            half.close()
    mixed = (*one.sharing.directory[:3], *two.sharing.directory[3:])
    with pytest.raises(ProtocolViolation, match="another session"):  # a coordinator that does not check
        one.advertised[0][0].share(mixed, os.urandom, NOW)


def test_a_masked_descriptor_for_one_client_with_a_lower_n_min_or_made_up_clients_is_refused() -> None:
    """It would be alone with inventions: whatever it then signed would be of no other session."""
    session = Masked()
    with pytest.raises(PolicyViolation, match="n_min is 3"):
        join(Masked(n_min=3).signed, session)
    invented = certify([f"Elsewhere {i}" for i in range(5)], 0, NOW)
    roster = {signer.identity.title: signer for signer in (session.signers[0], *invented.clients.values())}
    alone = Masked(parties=replace(session.parties, clients=roster))
    with pytest.raises(CertificateInvalid):
        join(alone.signed, session)


def test_after_its_expiry_a_client_takes_no_step_of_a_masked_session() -> None:
    """By its own clock, whatever the coordinator says; the last second is still in time."""
    session = Masked()
    late = session.descriptor.expires_at + 1
    statement, request = stated(session.plan.training, "test"), session.unmasking.request(0)
    steps = (
        lambda now: session.joined[1].advertise(os.urandom, now),
        lambda now: session.advertised[0][0].share(session.sharing.directory, os.urandom, now),
        lambda now: session.shared[0][0].upload(
            session.uploading.shared_with(0), session.changes[0], statement, os.urandom, now
        ),
        lambda now: session.uploaded[0][0].endorse(session.consistency.chosen, now),
        lambda now: session.endorsed[0].unmask(request, now),
    )
    for step in steps:
        with pytest.raises(SessionClosed, match="expired"):
            step(late)
    session.endorsed[0].unmask(request, late - 1)


def test_another_expiry_is_another_session_and_times_out_of_order_are_none() -> None:
    """A coordinator that would have more time signs another descriptor, whose ctx no message is bound to."""
    session, spec = Masked(), MaskedSpec(n_min=4, upload_seconds=DAY // 2, expiry_seconds=DAY)
    moved = session.descriptor.model_copy(update={"expires_at": session.descriptor.expires_at + DAY})
    with pytest.raises(SignatureInvalid):
        join(session.signed.model_copy(update={"statement": moved}), session)
    roster = [RosterMember(certificate=signer.identity.pem) for signer in session.signers]
    for changed, words in (
        ({"upload_seconds": DAY}, "in the order"),
        ({"round_seconds": DAY // 8 + 1}, "do not fit between"),
    ):
        with pytest.raises(MalformedError, match=words):
            create_masked_session(
                spec.model_copy(update=changed), session.plan, roster, session.parties.coordinator, NOW, os.urandom
            )


def client_run(session: Masked, at: int) -> MaskedClientRun:
    """The run of member 0 in so far as it judges a session, by a clock that says `at`."""
    nothing: Any = None
    return MaskedClientRun(
        signer=session.signers[0], authority=session.parties.authority, policy=session.policy, shelf=nothing,
        journal=MemoryJournal(), contribution=nothing, publication=nothing, training=nothing, release=nothing,
        patience=Patience(EventLog(), clock=lambda: float(at)), random=os.urandom,
    )  # fmt: skip


def test_a_masked_session_dated_in_the_future_or_past_its_deadline_is_refused_before_training() -> None:
    session = Masked()
    roster = [RosterMember(certificate=signer.identity.pem) for signer in session.signers]
    spec = MaskedSpec(n_min=4, dropout_rate=0.2, upload_seconds=DAY // 2, expiry_seconds=DAY)
    ahead = create_masked_session(spec, session.plan, roster, session.parties.coordinator, NOW + 600, os.urandom)
    with pytest.raises(ProtocolViolation, match="dated in the future"):
        client_run(session, NOW).check(ahead)
    with pytest.raises(SessionClosed, match="deadline has passed"):
        client_run(session, session.descriptor.upload_deadline + 1).check(session.signed)
    assert client_run(session, session.descriptor.upload_deadline).check(session.signed).number == 0


def test_a_masked_round_that_is_closed_before_its_time_leaves_clients_out_and_opens_the_others_exactly() -> None:
    """The coordinator's clock says who has vanished, and nothing else: members 5 and 6 were there all the time.

    Member 6 had a receipt: with the certificate it proves that its upload was dropped (`check_masked` judges it).
    """
    session = Masked(clients=7, dropout_rate=0.3)
    for number in (0, 1, 2, 3, 4, 6):
        session.uploading.add(session.uploaded[number][1])
    dropped = session.uploading.taken.pop(6)
    session.uploading.total = MaskedTotal(session.descriptor.shape)
    for number in range(5):
        session.uploading.total.add(session.uploaded[number][1].vector)
    consistency = session.uploading.close(session.parties.coordinator)
    session.__dict__["endorsed"] = {}
    for number in range(5):
        session.endorsed[number], signed = session.uploaded[number][0].endorse(consistency.chosen, NOW)
        consistency.add(signed)
    for number in (5, 6):
        with pytest.raises(ProtocolViolation, match="leaves this client out"):
            session.uploaded[number][0].endorse(consistency.chosen, NOW)
    unmasking = consistency.close()
    for number in range(5):
        unmasking.add(session.endorsed[number].unmask(unmasking.request(number), NOW))
    session.uploading.taken = {**session.uploading.taken, 6: dropped}
    end = masked_end(session, unmasking)
    check_masked(end)
    assert end.opened is not None
    assert end.opened.members == (0, 1, 2, 3, 4)
    assert 6 in end.receipts


# --- the network --------------------------------------------------------------------------------------------------


def test_reordered_and_repeated_messages_change_nothing() -> None:
    session = Masked()
    for _ in range(2):
        for _, message in reversed(list(session.shared.values())):
            session.sharing.add(message)
        for _, upload in reversed(list(session.uploaded.values())):
            session.uploading.add(upload)
    unmasking = session.unmasking
    for _ in range(2):
        for number in (5, 3, 1, 0, 2, 4):
            unmasking.add(session.endorsed[number].unmask(unmasking.request(number), NOW))
    end = masked_end(session, unmasking)
    check_masked(end)
    assert end.opened is not None
    mean = session.descriptor.quantiser.decode_mean(end.opened.sums, 6)
    assert np.abs(mean - np.mean(session.changes, axis=0)).max() <= 1 / (2**16 - 1)
