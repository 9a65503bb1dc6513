"""Parties that lie in a masked session, each by name (protocol.md §12.7, §12.8, §12.9)."""

import os
from dataclasses import replace

import numpy as np
import pytest

from secagg.client_noise.statement import ClientStatement
from secagg.errors import (
    ConflictError,
    EndorsementInvalid,
    HashMismatch,
    MalformedError,
    OpeningError,
    PolicyViolation,
    ProtocolViolation,
    RoleViolation,
    SessionClosed,
    SignatureInvalid,
    SizeLimitError,
    TooFewContributions,
)
from secagg.masked.client import MaskedClient, make_leaves
from secagg.masked.messages import SharingMessage, SignedSurvivorSet, SurvivorSet, UnmaskRequest, leaf_data
from secagg.masked.server import AdvertiseRound
from secagg.masked.sharing import Secret
from secagg.masked.vectors import vector_root
from secagg.merkle import root
from secagg.privacy import stated
from secagg.run import MemoryJournal
from tests.secagg.masked.sessions import Masked
from tests.small import DAY, NOW


def chosen(session: Masked, members: tuple[int, ...], ctx: str | None = None) -> SignedSurvivorSet:
    """A set that the coordinator signs, whatever it is."""
    return session.parties.coordinator.sign(SurvivorSet(ctx=ctx or session.descriptor.ctx, members=members))


# --- the client ---------------------------------------------------------------------------------------------------


def test_a_client_that_shares_another_key_than_it_uses_is_named_when_it_vanishes() -> None:
    session = Masked(absent={"upload": {2}})
    shared, message = session.shared[2]
    leaves = make_leaves(shared.receiver, shared.holders, Secret(os.urandom(32)), "share", os.urandom)
    statement = message.signed.statement.model_copy(
        update={"root": root(leaf_data(leaf.commitment, leaf.box) for leaf in leaves).hex()}
    )
    session.shared[2] = shared, SharingMessage(session.signers[2].sign(statement), leaves)
    with pytest.raises(OpeningError, match=session.signers[2].identity.title):
        session.finish().open()


def test_a_client_that_shares_another_self_mask_than_it_uses_is_named() -> None:
    session = Masked()
    message = session.uploaded[1][1]
    statement = message.signed.statement.model_copy(update={"self_mask": "00" * 32})
    lie = replace(message, signed=session.signers[1].sign(statement))
    session.uploaded[1] = session.uploaded[1][0], lie
    with pytest.raises(OpeningError, match=session.signers[1].identity.title):
        session.finish().open()


def test_a_client_whose_boxes_do_not_open_is_complained_about_and_the_sum_still_comes_out() -> None:
    session = Masked()
    shared, message = session.shared[4]
    bad = replace(message.leaves[0], box=bytes(len(message.leaves[0].box)))
    leaves = (bad, *message.leaves[1:])
    statement = message.signed.statement.model_copy(
        update={"root": root(leaf_data(leaf.commitment, leaf.box) for leaf in leaves).hex()}
    )
    session.shared[4] = shared, SharingMessage(session.signers[4].sign(statement), leaves)
    assert session.uploaded[0][1].signed.statement.complaints == (4,)
    assert session.finish().open().members == (0, 1, 2, 3, 4, 5)


def test_a_holder_that_answers_with_a_wrong_share_is_named_and_its_answer_is_left_out() -> None:
    session = Masked()
    unmasking = session.unmasking
    signed = session.endorsed[3].unmask(unmasking.request(3), NOW)
    first = signed.statement.self_shares[0].model_copy(update={"share": "00" * 36})
    lie = signed.statement.model_copy(update={"self_shares": (first, *signed.statement.self_shares[1:])})
    with pytest.raises(ProtocolViolation, match=session.signers[3].identity.title):
        unmasking.add(session.signers[3].sign(lie))
    for number in (0, 1, 2, 4, 5):
        unmasking.add(session.endorsed[number].unmask(unmasking.request(number), NOW))
    assert len(unmasking.open().members) == 6


def test_a_holder_that_gives_the_other_secret_is_refused() -> None:
    session = Masked()
    unmasking = session.unmasking
    signed = session.endorsed[3].unmask(unmasking.request(3), NOW)
    moved = signed.statement.model_copy(update={"self_shares": (), "key_shares": signed.statement.self_shares})
    with pytest.raises(ProtocolViolation, match="does not ask for"):
        unmasking.add(session.signers[3].sign(moved))


def test_a_client_that_shares_with_others_than_its_holders_is_refused() -> None:
    session = Masked()
    told = session.uploading.shared_with(0)
    fewer = replace(told, members=told.members[:-1], deliveries=told.deliveries[:-1])
    statement = stated(session.plan.training, "test")
    _, message = session.shared[0][0].upload(fewer, session.changes[0], statement, os.urandom, NOW)
    with pytest.raises(ProtocolViolation, match="others than its holders"):
        session.uploading.add(message)


def test_a_client_whose_masks_do_not_cancel_burns_the_session() -> None:
    """It signs a vector under other masks, consistently. Nobody can be named; nothing is released."""
    session = Masked()
    uploaded, message = session.uploaded[0]
    vector = np.frombuffer(os.urandom(message.vector.nbytes), np.uint8).copy()
    vector[-1] = 0
    root_of_it = vector_root(session.descriptor.shape, vector)
    statement = message.signed.statement.model_copy(update={"vector_root": root_of_it})
    session.uploaded[0] = uploaded, replace(message, signed=session.signers[0].sign(statement), vector=vector)
    with pytest.raises(OpeningError, match="masks are left"):
        session.finish().open()


def test_a_vector_that_is_not_the_signed_one_or_of_wrong_length_is_not_added() -> None:
    session = Masked()
    message = session.uploaded[0][1]
    bent = message.vector.copy()
    bent[0] ^= 1
    with pytest.raises(HashMismatch, match="not the one that it signed"):
        session.uploading.add(replace(message, vector=bent))
    short = message.vector[:-1].copy()
    shape = session.descriptor.shape
    statement = message.signed.statement.model_copy(
        update={"vector_bytes": short.nbytes, "vector_root": vector_root(shape, short)}
    )
    with pytest.raises(SizeLimitError):
        session.uploading.add(replace(message, signed=session.signers[0].sign(statement), vector=short))
    assert session.uploading.total.count == 0


def test_two_masked_inputs_are_refused_by_the_client_itself_and_by_the_coordinator() -> None:
    session = Masked()
    message = session.uploaded[0][1]
    with pytest.raises(ConflictError, match="takes no second one"):
        session.upload(0)
    session.uploading.add(message)
    other = message.vector.copy()
    other[0] ^= 1
    statement = message.signed.statement.model_copy(
        update={"vector_root": vector_root(session.descriptor.shape, other)}
    )
    with pytest.raises(ConflictError, match="the first one stays"):
        session.uploading.add(replace(message, signed=session.signers[0].sign(statement), vector=other))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epsilon": 99.0}, "another privacy"),
        (
            {"client_level": ClientStatement(noise_multiplier=1.0, colluders=1, delta=1e-6, releases=1)},
            "other client-level noise",
        ),
    ],
)
def test_a_client_that_states_another_privacy_is_refused(change: dict[str, object], words: str) -> None:
    """Weaker than was agreed on, or noise for whole clients, which this session has not."""
    session = Masked()
    message = session.uploaded[0][1]
    privacy = message.signed.statement.privacy.model_copy(update=change)
    statement = message.signed.statement.model_copy(update={"privacy": privacy})
    with pytest.raises(PolicyViolation, match=words):
        session.uploading.add(replace(message, signed=session.signers[0].sign(statement)))


def test_keys_of_low_order_and_second_advertisements_are_refused() -> None:
    session = Masked()
    advertising = AdvertiseRound(session.descriptor)
    signed = session.advertised[0][1]
    advertising.add(signed)
    weak = signed.statement.model_copy(update={"mask_key": "00" * 32})
    with pytest.raises(MalformedError, match="low order"):
        advertising.add(session.signers[0].sign(weak))
    second = signed.statement.model_copy(update={"mask_key": session.advertised[1][1].statement.mask_key})
    with pytest.raises(ConflictError):
        advertising.add(session.signers[0].sign(second))


def test_a_stranger_and_a_forged_advertisement_are_refused() -> None:
    session, stranger = Masked(), Masked().parties.clients["Hospital 12"]
    advertising = AdvertiseRound(session.descriptor)
    with pytest.raises(RoleViolation):
        advertising.add(stranger.sign(session.advertised[0][1].statement))
    forged = session.advertised[0][1].model_copy(update={"signature": session.advertised[1][1].signature})
    with pytest.raises(SignatureInvalid):
        advertising.add(forged)
    with pytest.raises(ProtocolViolation):
        advertising.add(session.signers[1].sign(session.advertised[0][1].statement))


def test_replays_from_another_session_are_refused_in_every_round() -> None:
    old, new = Masked(), Masked()
    with pytest.raises(ProtocolViolation, match="another session"):
        AdvertiseRound(new.descriptor).add(old.advertised[0][1])
    with pytest.raises(ProtocolViolation, match="another session"):
        new.sharing.add(old.shared[0][1])
    with pytest.raises(ProtocolViolation, match="another session"):
        new.uploading.add(old.uploaded[0][1])
    _, endorsement = old.uploaded[0][0].endorse(old.consistency.chosen, NOW)
    with pytest.raises(ProtocolViolation, match="another session"):
        new.consistency.add(endorsement)
    with pytest.raises(ProtocolViolation, match="another session"):
        new.uploaded[0][0].endorse(old.consistency.chosen, NOW)


# --- the coordinator ----------------------------------------------------------------------------------------------


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
    opened = unmasking.open()
    mean = session.descriptor.quantiser.decode_mean(opened.sums, 6)
    assert np.abs(mean - np.mean(session.changes, axis=0)).max() <= 1 / (2**16 - 1)
