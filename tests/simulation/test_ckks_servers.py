"""Coordinators that lie in a ckks session, and the network (protocol.md §13.3 to §13.5).

Whatever is tried, one of two things holds: the sums that come out are exactly those of a set of at least n_min members,
or the attempt is refused with a typed error, and then the key was not touched or the session is burnt.
"""

import os
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from secagg.ckks.client import accept_session
from secagg.ckks.coordinator import check_arrived, fix_set
from secagg.ckks.descriptor import create_ckks_session
from secagg.ckks.keyholder import ShownUpload
from secagg.ckks.messages import Chosen, SignedCkksApproval, UploadSet
from secagg.descriptor import RosterMember
from secagg.errors import (
    ConflictError,
    EndorsementInvalid,
    HashMismatch,
    PolicyViolation,
    ProtocolViolation,
    RoleViolation,
    SessionClosed,
    SignatureInvalid,
    SizeLimitError,
    TooFewContributions,
)
from secagg.run import MemoryJournal, certify
from secagg_client.ckks_run import CkksClientRun
from secagg_client.patience import Patience
from secagg_host.events import EventLog
from tests.secagg.ckks.sessions import Ckks
from tests.simulation.ckks_session import exactly_opened, open_shown
from tests.simulation.ends import ckks_end
from tests.simulation.invariants import check_ckks, nothing_opened
from tests.small import DAY, NOW


def test_an_honest_session_opens_the_exact_sum_of_any_set_that_is_large_enough(session: Ckks) -> None:
    for count in (3, 4, 5):
        fresh = session.again()
        exactly_opened(fresh, fresh.open(count), range(count))


def test_a_set_below_n_min_is_not_opened(fresh: Ckks) -> None:
    with pytest.raises(TooFewContributions):
        fresh.chosen(2)
    two = UploadSet(ctx=fresh.descriptor.ctx, members=fresh.chosen(4).statement.members[:2])
    signed = fresh.parties.coordinator.sign(two)
    nothing_opened(fresh, lambda: open_shown(fresh, list(fresh.shown(2)), signed), TooFewContributions,
                   "nothing is opened below 3")  # fmt: skip


def test_overlapping_sets_are_not_opened_one_after_the_other(fresh: Ckks) -> None:
    """Their difference would be one upload."""
    exactly_opened(fresh, fresh.open(4), range(4))
    nothing_opened(fresh, lambda: fresh.open(5), ConflictError, "only one is ever served")
    nothing_opened(fresh, lambda: fresh.open(3), ConflictError, "only one is ever served")
    exactly_opened(fresh, fresh.open(4), range(4))


def test_an_upload_passed_off_as_the_sum_is_refused(fresh: Ckks) -> None:
    """One ciphertext shown for every member: each upload must be the one that its client signed."""
    first = fresh.uploads[0]
    for shown in (
        [ShownUpload(first.signed, first.blocks)],
        [ShownUpload(first.signed, first.blocks)] * 4,
        [ShownUpload(one.signed, first.blocks) for one in fresh.uploads[:4]],
    ):
        nothing_opened(fresh, lambda shown=shown: open_shown(fresh, shown), (ProtocolViolation, HashMismatch))  # type: ignore[misc]


def test_an_altered_ciphertext_is_refused_and_not_held_against_its_client(fresh: Ckks) -> None:
    """Another last block, bent or sealed anew in the client's name: nothing of that upload gets into a sum."""
    shown = list(fresh.shown(4))
    blocks = fresh.uploads[1].blocks
    again = fresh.encrypted(1, fresh.inner(1)).blocks[-1]
    shown[1] = ShownUpload(fresh.uploads[1].signed, (*blocks[:-1], again))
    nothing_opened(fresh, lambda: open_shown(fresh, shown), HashMismatch, "not what the client signed")
    shown[1] = ShownUpload(fresh.uploads[1].signed, (*blocks[:-1], b"\xff" * len(blocks[-1])))
    nothing_opened(fresh, lambda: open_shown(fresh, shown), HashMismatch, "not what the client signed")
    exactly_opened(fresh, fresh.open(4), range(4))


def test_adding_to_the_sum_is_refused(fresh: Ckks) -> None:
    """An upload that is in no set, the same one twice, or one of the coordinator's own making."""
    nothing_opened(fresh, lambda: fresh.open(4, fresh.shown(5)), ProtocolViolation, "not in the set")
    twice = [*fresh.shown(4), *list(fresh.shown(1))]
    nothing_opened(fresh, lambda: open_shown(fresh, twice), ProtocolViolation, "not in the set")
    own = fresh.uploads[4].signed.model_copy(
        update={"signature": fresh.parties.coordinator.sign(fresh.uploads[4].signed.statement).signature}
    )
    members = (*fresh.chosen(4).statement.members, Chosen(client=own.signer, upload=own.statement.digest))
    ordered = tuple(sorted(members, key=lambda one: one.client))
    signed = fresh.parties.coordinator.sign(UploadSet(ctx=fresh.descriptor.ctx, members=ordered))
    forged = [*fresh.shown(4), ShownUpload(own, fresh.uploads[4].blocks)]
    other = fresh.again()
    nothing_opened(other, lambda: open_shown(other, forged, signed), SignatureInvalid)


def test_an_upload_that_is_withheld_is_missed(fresh: Ckks) -> None:
    nothing_opened(fresh, lambda: fresh.open(4, fresh.shown(3)), ProtocolViolation, "does not show 1 uploads")


def test_a_set_of_another_session_or_signed_by_another_is_refused(fresh: Ckks) -> None:
    members = fresh.chosen(4).statement.members
    other = fresh.parties.coordinator.sign(UploadSet(ctx="ab" * 32, members=members))
    nothing_opened(fresh, lambda: open_shown(fresh, list(fresh.shown()), other), ProtocolViolation, "another session")
    forged = fresh.signers[0].sign(fresh.chosen(4).statement)
    nothing_opened(fresh, lambda: open_shown(fresh, list(fresh.shown()), forged), SignatureInvalid)


def test_a_session_that_was_not_approved_is_not_opened(fresh: Ckks) -> None:
    """Nor by a key-holder that lost its journal: it has approved nothing, as far as it knows."""
    holder = replace(fresh.holder, journal=MemoryJournal())
    chosen, shown = fresh.chosen(), fresh.shown()
    nothing_opened(
        fresh, lambda: holder.open(fresh.descriptor, chosen, shown, os.urandom, NOW), ProtocolViolation, "not approved"
    )


def test_one_key_serves_one_session(fresh: Ckks) -> None:
    """Descriptors that differ by client are two sessions; the clients of one never get an approval."""
    roster = [RosterMember(certificate=signer.identity.pem) for signer in fresh.signers]
    offer, pem = fresh.descriptor.offer, fresh.holder.signer.identity.pem
    again = create_ckks_session(fresh.spec, fresh.plan, roster, pem, offer, fresh.parties.coordinator, NOW, os.urandom)
    with pytest.raises(ConflictError, match="this key serves another session"):
        fresh.holder.approve(again, NOW)
    approval = fresh.holder.approve(fresh.signed, NOW)
    with pytest.raises(EndorsementInvalid, match="for another session"):
        accept_session(again, approval, fresh.holder.policy, fresh.parties.authority, NOW)


def test_members_off_the_roster_are_refused(fresh: Ckks) -> None:
    stranger = certify(["Elsewhere"], 0, NOW).clients["Elsewhere"].identity.fingerprint
    members = sorted(
        [*fresh.chosen(4).statement.members, Chosen(client=stranger, upload="ab" * 32)], key=lambda one: one.client
    )
    signed = fresh.parties.coordinator.sign(UploadSet(ctx=fresh.descriptor.ctx, members=tuple(members)))
    nothing_opened(fresh, lambda: open_shown(fresh, list(fresh.shown()), signed), RoleViolation)


def test_a_policy_pins_key_holder_coordinator_model_and_institutions(fresh: Ckks) -> None:
    """Another model, more epsilon, a lower n_min, a roster of inventions."""
    policy = fresh.holder.policy
    approval = fresh.holder.approve(fresh.signed, NOW)
    strange = "cd" * 32
    for changed, words in (
        ({"keyholder": strange}, "key-holder is not the one"),
        ({"coordinator": strange}, "coordinator is not the one"),
        ({"n_min": 4}, "n_min is 3"),
        ({"base_model_hashes": (strange,)}, "base model"),
        ({"max_epsilon": 0.1}, "epsilon"),
        ({"institutions": {str(i): f"{i:064x}" for i in range(4)}}, "inventions of the coordinator"),
    ):
        with pytest.raises(PolicyViolation, match=words):
            accept_session(fresh.signed, approval, policy.model_copy(update=changed), fresh.parties.authority, NOW)


def test_inventions_that_fill_a_set_up_are_refused(fresh: Ckks) -> None:
    """The roster has enough pinned institutions, the set has not."""
    keep = dict(list(fresh.holder.policy.institutions.items())[:3])
    policy = fresh.holder.policy.model_copy(update={"institutions": keep})
    holder = replace(fresh.holder, policy=policy)
    pinned = set(keep.values())
    few = [one for one in fresh.uploads if one.signed.signer not in pinned]
    uploads = {one.signed.signer: one for one in [*few, *[u for u in fresh.uploads if u.signed.signer in pinned][:2]]}
    signed = fix_set(fresh.descriptor, {k: v.signed for k, v in uploads.items()}, fresh.parties.coordinator)
    shown = [ShownUpload(one.signed, one.blocks) for one in uploads.values()]
    nothing_opened(
        fresh, lambda: holder.open(fresh.descriptor, signed, shown, os.urandom, NOW), PolicyViolation, "in the set"
    )


def test_a_client_wants_the_key_holders_own_approval(fresh: Ckks) -> None:
    policy, authority = fresh.holder.policy, fresh.parties.authority
    approval = fresh.holder.approve(fresh.signed, NOW)
    forged = fresh.parties.coordinator.sign(approval.statement)
    with pytest.raises(SignatureInvalid):
        accept_session(fresh.signed, forged, policy, authority, NOW)
    other = fresh.holder.signer.sign(approval.statement.model_copy(update={"ctx": "ab" * 32}))
    with pytest.raises(EndorsementInvalid):
        accept_session(fresh.signed, other, policy, authority, NOW)


def test_games_with_the_clock_are_refused(fresh: Ckks) -> None:
    policy, authority = fresh.holder.policy, fresh.parties.authority
    approval = fresh.holder.approve(fresh.signed, NOW)
    with pytest.raises(SessionClosed):
        accept_session(fresh.signed, approval, policy, authority, NOW + DAY)
    late = fresh.descriptor.expires_at + 1
    chosen, shown = fresh.chosen(), fresh.shown()
    with pytest.raises(SessionClosed, match="expired"):
        fresh.holder.approve(fresh.signed, late)
    nothing_opened(
        fresh, lambda: fresh.holder.open(fresh.descriptor, chosen, shown, os.urandom, late), SessionClosed, "expired"
    )
    moved = fresh.descriptor.model_copy(update={"expires_at": late + DAY})
    with pytest.raises(SignatureInvalid):
        fresh.holder.approve(fresh.signed.model_copy(update={"statement": moved}), NOW)


def test_an_acknowledged_upload_that_is_left_out_has_two_papers_that_prove_it(fresh: Ckks) -> None:
    """The coordinator signed a receipt for the fifth and fixed a set without it: `check_ckks` judges each receipt."""
    end = ckks_end(fresh, fresh.uploads[:4], forgotten=fresh.uploads[4:])
    assert end.opened is not None
    assert len(end.receipts) == 5
    check_ckks(end)


def client_run(fresh: Ckks, approval: SignedCkksApproval, at: int) -> CkksClientRun:
    """The run of client 0 in so far as it judges a session, by a clock that says `at`."""
    nothing: Any = None
    calls: Any = SimpleNamespace(approval=lambda ctx: approval)
    return CkksClientRun(
        signer=fresh.signers[0], authority=fresh.parties.authority, policy=fresh.holder.policy, shelf=nothing,
        calls=calls, publication=nothing, training=nothing, release=nothing,
        patience=Patience(EventLog(), clock=lambda: float(at)), random=os.urandom,
    )  # fmt: skip


def test_a_ckks_session_dated_in_the_future_is_refused_before_training(fresh: Ckks) -> None:
    roster, holder = [RosterMember(certificate=signer.identity.pem) for signer in fresh.signers], fresh.holder
    spec, offer = fresh.spec.model_copy(update={"expiry_seconds": DAY - 600}), fresh.descriptor.offer
    ahead = create_ckks_session(
        spec, fresh.plan, roster, holder.signer.identity.pem, offer, fresh.parties.coordinator, NOW + 600, os.urandom
    )
    approval = replace(holder, journal=MemoryJournal()).approve(ahead, NOW)
    with pytest.raises(ProtocolViolation, match="dated in the future"):
        client_run(fresh, approval, NOW).check(ahead)
    approval = holder.approve(fresh.signed, NOW)
    assert client_run(fresh, approval, NOW).check(fresh.signed) == fresh.descriptor


# --- the network --------------------------------------------------------------------------------------------------


def test_uploads_in_another_order_give_the_same_sums(fresh: Ckks) -> None:
    shown = list(reversed(list(fresh.shown(5))))
    exactly_opened(fresh, fresh.open(5, shown), range(5))


def test_an_upload_that_is_cut_is_not_taken(fresh: Ckks) -> None:
    """By the coordinator as it comes in, and by the key-holder as it is shown."""
    good = fresh.uploads[0]
    for blocks in (good.blocks[:-1], (), (*good.blocks[:-1], good.blocks[-1][:-8])):
        with pytest.raises((HashMismatch, SizeLimitError)):
            check_arrived(fresh.descriptor, good.signed, blocks)
        shown = [ShownUpload(good.signed, blocks), *list(fresh.shown(4))[1:]]
        nothing_opened(fresh, lambda s=shown: open_shown(fresh, s), (HashMismatch, SizeLimitError))  # type: ignore[misc]
    exactly_opened(fresh, fresh.open(4), range(4))
