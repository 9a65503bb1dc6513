"""What each key-holder checks itself, and that it answers once (protocol.md §4, §8)."""

from dataclasses import replace

import pytest

from secagg.boxes import BoxContext, seal_box
from secagg.coordinator import SessionSpec
from secagg.descriptor import CommitteeMember, SignedDescriptor
from secagg.errors import (
    CertificateInvalid,
    ConflictError,
    EndorsementInvalid,
    HashMismatch,
    MalformedError,
    PolicyViolation,
    ProtocolViolation,
    SessionClosed,
    ShareError,
    SignatureInvalid,
    TooFewContributions,
)
from secagg.evidence import BLINDING_BYTES, MemberEvidence
from secagg.keyholder import KeyHolder
from secagg.merkle import leaf_hash, path, root
from secagg.messages import Candidate, SignedCandidate, SignedEndorsement, SignedFinalSet
from secagg.release import committee_note
from secagg.run import MemoryJournal, MemoryKeys
from tests.small import DAY, Small, reboxed, small_plan

OTHER = "ce" * 32


def candidate_of(small: Small, keep: slice) -> SignedCandidate:
    statement = small.candidate.statement.model_copy(update={"members": small.candidate.statement.members[keep]})
    return small.parties.coordinator.sign(statement)


def test_the_share_sum_is_in_the_journal_and_answered_from_there_ever_after() -> None:
    """Key erased, session expired: the second answer can come from the record alone."""
    small = Small()
    holder = small.committee[0]
    first = small.share(holder)
    stored = holder.journal.get(f"share/{small.descriptor.ctx}/1")
    assert stored == len(first.share).to_bytes(4, "little") + first.share + first.signed.to_bytes()
    holder.erase(small.descriptor)
    small.now = small.descriptor.expires_at + 1
    assert small.share(holder) == first
    with pytest.raises(SessionClosed):
        small.share(replace(holder, journal=MemoryJournal()))


class FullDisk(MemoryJournal):
    """Takes no share sum."""

    def record(self, key: str, value: bytes) -> bytes:
        """Raise OSError for a share sum."""
        if key.startswith("share/"):
            raise OSError("no space left on device")
        return super().record(key, value)


def test_a_share_sum_that_cannot_be_recorded_is_not_given() -> None:
    small = Small()
    assert small.endorsed
    full = replace(small.committee[0], journal=FullDisk())
    full.approve(small.proposal, small.now)
    with pytest.raises(OSError, match="no space left"):
        small.share(full)


def another_final(small: Small) -> tuple[SignedFinalSet, list[SignedEndorsement]]:
    """U less its first member, endorsed by t key-holders as if they endorsed twice."""
    chosen = small.settled.final.statement
    fewer = chosen.model_copy(update={"members": chosen.members[1:]})
    endorsed = [
        holder.signer.sign(one.statement.model_copy(update={"set_digest": fewer.digest}))
        for holder, one in zip(small.committee, small.endorsed, strict=True)
    ]
    return small.parties.coordinator.sign(fewer), endorsed


def test_no_share_sum_for_a_second_set_though_t_key_holders_endorsed_it() -> None:
    """The difference of two sums would be one member's share; with t of them, its key."""
    small = Small()
    holder = small.committee[0]
    first = small.share(holder)
    other, endorsed = another_final(small)
    shown = small.shown(holder, small.chosen[1:])
    with pytest.raises(ConflictError, match="given for another set"):
        holder.sum_shares(small.descriptor, other, endorsed, shown, small.now)
    assert small.share(holder) == first

    fresh = small.committee[1]
    given = fresh.sum_shares(
        small.descriptor, other, endorsed, small.shown(fresh, small.chosen[1:]), small.now
    )  # who was asked for that set first answers it, and no other
    assert given.signed.statement.final_digest == other.statement.digest
    with pytest.raises(ConflictError, match="given for another set"):
        small.share(fresh)


class AskedTwiceAtOnce(MemoryJournal):
    """Shows nothing recorded until something is to be recorded: another thread was there in between."""

    def get(self, key: str) -> bytes | None:
        """None for a share sum."""
        return None if key.startswith("share/") else super().get(key)


def test_of_two_sets_asked_for_at_once_one_share_sum_is_given() -> None:
    small = Small()
    assert small.endorsed
    holder = replace(small.committee[0], journal=AskedTwiceAtOnce())
    holder.approve(small.proposal, small.now)
    first = small.share(holder)
    other, endorsed = another_final(small)
    with pytest.raises(ConflictError, match="given for another set"):
        holder.sum_shares(small.descriptor, other, endorsed, small.shown(holder, small.chosen[1:]), small.now)
    assert small.share(holder) == first


def test_endorsement_is_given_once_per_release_and_stage() -> None:
    """The server shows two groups of key-holders two sets; each key-holder keeps to its first."""
    small = Small()
    holder = small.committee[0]
    small.endorse_candidate(holder)
    other = candidate_of(small, slice(0, 3))
    with pytest.raises(ConflictError, match="the coordinator showed two"):
        holder.endorse_candidate(small.descriptor, other, small.shown(holder, small.uploads[:3]), (), small.now)


def test_a_box_forged_in_an_absent_members_name_is_refused() -> None:
    """HPKE lets anyone seal a box; only the client's signature over the root makes it the client's."""
    small = Small()
    holder = small.committee[0]
    victim = small.uploads[0]
    upload = victim.signed.statement
    context = BoxContext(
        ctx=small.descriptor.ctx,
        client=upload.client,
        holder=holder.signer.identity.fingerprint,
        index=1,
        ciphertext_root=upload.ciphertext_root,
    )
    key = bytes.fromhex(small.descriptor.committee[0].offer.statement.public_key)
    forged = (
        seal_box(bytes(small.descriptor.parameters.share_bytes), bytes(BLINDING_BYTES), key, context),
        *victim.boxes[1:],
    )
    shown = small.shown(holder, [replace(victim, boxes=forged), *small.uploads[1:]])
    with pytest.raises(HashMismatch, match="Merkle path"):
        holder.endorse_candidate(small.descriptor, small.candidate, shown, (), small.now)

    resigned = upload.model_copy(update={"boxes_root": root(forged).hex()})
    leaves = [leaf_hash(box) for box in forged]
    lying = small.parties.coordinator.sign(resigned)
    evidence = [MemberEvidence(lying, forged[0], path(leaves, 0)), *small.shown(holder)[1:]]
    with pytest.raises(SignatureInvalid):
        holder.endorse_candidate(small.descriptor, small.candidate, evidence, (), small.now)


def test_another_clients_upload_in_a_members_place_is_refused() -> None:
    small = Small()
    holder = small.committee[0]
    swapped = [small.uploads[1], small.uploads[0], *small.uploads[2:]]
    with pytest.raises(SignatureInvalid):
        holder.endorse_candidate(small.descriptor, small.candidate, small.shown(holder, swapped), (), small.now)


def test_a_missing_member_is_refused() -> None:
    small = Small()
    holder = small.committee[0]
    with pytest.raises(ProtocolViolation, match="showed no upload"):
        holder.endorse_candidate(
            small.descriptor, small.candidate, small.shown(holder, small.uploads[:-1]), (), small.now
        )


def test_a_candidate_set_not_signed_by_the_coordinator_is_refused() -> None:
    small = Small()
    holder = small.committee[0]
    forged = small.parties.holders[1].sign(small.candidate.statement)
    with pytest.raises(SignatureInvalid):
        holder.endorse_candidate(small.descriptor, forged, small.shown(holder), (), small.now)


def test_a_candidate_set_of_another_session_is_refused() -> None:
    small = Small()
    holder = small.committee[0]
    statement: Candidate = small.candidate.statement.model_copy(update={"ctx": "00" * 32})
    with pytest.raises(ProtocolViolation, match="another session"):
        holder.endorse_candidate(
            small.descriptor, small.parties.coordinator.sign(statement), small.shown(holder), (), small.now
        )


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 10,
        b"\xff" * 15872 + bytes(BLINDING_BYTES),
        bytes(15872),
        bytes(15872) + b"\xff" * BLINDING_BYTES,
        bytes(15872 + BLINDING_BYTES + 1),
    ],
    ids=["empty", "short", "residue", "no-blinding", "blinding-residue", "long"],
)
def test_a_client_that_signs_a_bad_box_is_complained_about_and_left_out(content: bytes) -> None:
    small = Small(clients=4)
    small.uploads = [reboxed(small, 0, {1: (content, b"")}), *small.uploads[1:]]
    culprit = small.uploads[0].signed.statement.client
    assert [complaint.client for complaint in small.answers[1].statement.complaints] == [culprit]
    assert culprit not in {member.client for member in small.settled.final.statement.members}
    assert len(small.opened.used) == 4
    assert [excluded for excluded in small.release if "release.json" in excluded]


def test_shares_are_summed_only_over_a_set_that_t_key_holders_endorsed() -> None:
    small = Small()
    holder = small.committee[0]
    with pytest.raises(EndorsementInvalid, match="2 key-holders endorsed"):
        holder.sum_shares(
            small.descriptor, small.settled.final, small.endorsed[:2], small.shown(holder, small.chosen), small.now
        )
    with pytest.raises(EndorsementInvalid, match="two endorsements"):
        holder.sum_shares(
            small.descriptor, small.settled.final, [small.endorsed[0]] * 3, small.shown(holder), small.now
        )
    with pytest.raises(EndorsementInvalid, match="another session, stage or set"):
        holder.sum_shares(small.descriptor, small.settled.final, small.answers, small.shown(holder), small.now)


def test_the_final_set_must_follow_from_the_answers() -> None:
    small = Small()
    final = small.settled.final.statement
    smaller = small.parties.coordinator.sign(final.model_copy(update={"members": final.members[1:]}))
    with pytest.raises(ProtocolViolation, match="less those complained about"):
        small.committee[0].endorse_final(
            small.descriptor,
            small.candidate,
            smaller,
            small.settled.answers,
            small.settled.degree_answers,
            (),
            small.now,
        )


def test_the_session_key_is_erased_and_nothing_opens_afterwards() -> None:
    small = Small()
    assert small.settled
    holder = small.committee[0]
    assert small.endorsed
    holder.erase(small.descriptor)
    with pytest.raises(SessionClosed, match="erased"):
        small.share(holder)


def test_an_expired_session_is_not_served() -> None:
    small = Small()
    holder = small.committee[0]
    late = small.descriptor.expires_at + 1
    with pytest.raises(SessionClosed, match="expired"):
        holder.endorse_candidate(small.descriptor, small.candidate, small.shown(holder), (), late)
    with pytest.raises(SessionClosed, match="expired"):
        holder.approve(small.proposal, late)


def test_one_key_offer_serves_one_descriptor() -> None:
    """A coordinator that makes a second descriptor from the same offers gets no approval for it."""
    small = Small()
    assert small.session
    again = Small()
    again.parties = small.parties
    again.members = small.members
    again.roster = small.roster
    with pytest.raises(ConflictError, match="make a new offer"):
        small.committee[0].approve(again.proposal, small.now)


def test_a_session_key_that_seals_nothing_is_refused_before_anybody_trains() -> None:
    """A point of low order: every client would fail after its training."""
    small = Small()
    bad = small.members[0]
    key = bad.offer.statement.public_key[:-64] + "00" * 32
    offer = small.parties.holders[0].sign(bad.offer.statement.model_copy(update={"public_key": key}))
    small.members = [CommitteeMember(certificate=bad.certificate, offer=offer), *small.members[1:]]
    with pytest.raises(MalformedError, match="low order"):
        small.committee[1].approve(small.proposal, small.now)
    raw, context = bytes.fromhex(key), BoxContext(ctx=OTHER, client=OTHER, holder=OTHER, index=1, ciphertext_root=OTHER)
    with pytest.raises(MalformedError, match="nothing can be sealed"):
        seal_box(b"share", b"", raw, context)


def test_institutions_that_differ_in_case_or_spaces_are_one() -> None:
    small = Small(clients=3)
    small.changes = dict.fromkeys(("Hospital 1", "hospital 1", "Hospital  1"), small.changes["Hospital 1"])
    with pytest.raises(TooFewContributions, match="3 uploads from 1 institutions"):
        assert small.candidate


def test_a_session_that_was_not_approved_is_not_endorsed() -> None:
    small = Small()
    assert small.uploads
    fresh = replace(small.committee[0], journal=MemoryJournal(), keys=MemoryKeys())
    with pytest.raises(PolicyViolation, match="not approved"):
        fresh.endorse_candidate(small.descriptor, small.candidate, small.shown(fresh), (), small.now)


def test_a_roster_filled_with_unknown_institutions_is_refused() -> None:
    """The coordinator invents all clients but two; the policy asks for three that it knows (protocol.md §4.4)."""
    small = Small()
    invented = Small(clients=4)
    small.roster = [*small.roster[:2], *invented.roster]
    strict = small.policy
    holder: KeyHolder = replace(small.committee[0], policy=strict, authority=small.parties.authority)
    with pytest.raises((CertificateInvalid, PolicyViolation)) as refused:
        holder.approve(small.proposal, small.now)
    assert "authority" in str(refused.value) or "inventions" in str(refused.value)
    with pytest.raises(PolicyViolation, match="inventions of the coordinator"):
        strict.check(small.proposal.descriptor.statement)


def test_a_set_with_too_few_pinned_institutions_is_refused() -> None:
    small = Small(clients=5)
    pinned = dict(list(small.policy.institutions.items())[:3])
    holder = replace(small.committee[0], policy=small.policy.model_copy(update={"institutions": pinned}))
    assert small.session
    members = [m for m in small.candidate.statement.members if m.client not in list(pinned.values())[:1]]
    keep = [u for u in small.uploads if u.signed.statement.client in {m.client for m in members}]
    fewer = small.parties.coordinator.sign(small.candidate.statement.model_copy(update={"members": tuple(members)}))
    with pytest.raises(PolicyViolation, match="only 2 pinned institutions"):
        holder.endorse_candidate(small.descriptor, fewer, small.shown(holder, keep), (), small.now)


def test_clients_need_t_approvals() -> None:
    small = Small()
    few = SignedDescriptor(descriptor=small.proposal.descriptor, approvals=small.session.approvals[:2])
    with pytest.raises(EndorsementInvalid, match="2 key-holders approved"):
        few.check(approved=True)
    doubled = SignedDescriptor(
        descriptor=small.proposal.descriptor, approvals=(*small.session.approvals[:2], small.session.approvals[0])
    )
    with pytest.raises(EndorsementInvalid):
        doubled.check(approved=True)


def test_a_member_whose_box_fails_after_the_answer_was_left_out_yields_no_share() -> None:
    """A key-holder that cannot open one member's box does not make up a share."""
    small = Small()
    small.uploads = [reboxed(small, 0, {1: (b"", b"")}), *small.uploads[1:]]
    small.answers = [a for a in small.answers if not a.statement.complaints]
    small.degree_answers = [small.answer_degree_check(small.committee[i]) for i in (0, 2, 3)]
    small.endorsed = [small.endorse_final(small.committee[i]) for i in (0, 2, 3)]
    assert len(small.settled.final.statement.members) == 4
    with pytest.raises(ShareError, match="no good"):
        small.share(small.committee[1])
    small.shares = [small.share(small.committee[i]) for i in (0, 2, 3)]
    assert len(small.opened.used) == 3


def test_secrets_do_not_print() -> None:
    small = Small()
    holder = small.committee[0]
    key = holder.keys.get(holder._own_offer(small.descriptor))
    assert "redacted" in repr(key)
    assert key.to_bytes().hex() not in repr(holder)
    assert "redacted" in repr(holder.signer)


def test_session_spec_without_corruption_says_that_everyone_is_honest() -> None:
    small = Small(holders=3, spec=SessionSpec(
        n_min=3, n_max=10, corrupt_keyholders=0, upload_seconds=DAY, expiry_seconds=2 * DAY
    ))  # fmt: skip
    assert small.descriptor.threshold == 2
    assert "assumed honest" in committee_note(small.descriptor)


def test_what_a_key_holder_is_shown_and_keeps_does_not_depend_on_the_length() -> None:
    """Its work is opening boxes and adding shares of short keys: the ciphertexts never reach it."""

    def sizes(length: int) -> tuple[int, int]:
        small = Small(clients=3, plan=small_plan(length))
        holder = small.committee[0]
        assert small.share(holder)
        shown = sum(len(one.upload.to_bytes()) + len(one.box) + 32 * len(one.path) for one in small.shown(holder))
        assert isinstance(holder.journal, MemoryJournal)
        return shown, sum(len(value) for value in holder.journal._records.values())

    (shown, kept), (shown_long, kept_long) = sizes(300), sizes(60_000)
    assert abs(shown_long - shown) <= 3 * 4  # the number of bytes announced has more digits
    assert kept_long == kept
