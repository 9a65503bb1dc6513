"""The degree check (protocol.md §8.4, §9.1a): who is left out, who is named, who cannot be framed."""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from math import comb
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg import shamir
from secagg.certificate import CERTIFICATE, certificate_file, parse_certificate
from secagg.coordinator import MAX_SUBSETS, _groups, mean_change, settle
from secagg.degree import challenge, verdict_over, verify_answers
from secagg.descriptor import quorum
from secagg.errors import (
    ConflictError,
    EndorsementInvalid,
    OpeningError,
    ProtocolViolation,
    TooFewContributions,
    VerificationError,
)
from secagg.evidence import BLINDINGS, ShareAnswer
from secagg.keyholder import KeyHolder
from secagg.messages import DegreeAnswer, SetMember, SignedDegreeAnswer
from secagg.policy import Anchors
from secagg.run import MemoryJournal
from secagg.sealing import fresh_key
from secagg.sets import remaining_members
from secagg.verify import verify_release
from tests.small import Small, content, inconsistent, lying, reboxed
from tests.twin import sealed as twin

OTHER = "77" * 32


def members(small: Small) -> list[str]:
    return [member.client for member in small.settled.final.statement.members]


def names(small: Small) -> list[str]:
    return [upload.signed.statement.client for upload in small.uploads]


def exact(small: Small) -> bool:
    """Whether the released mean is that of the members' changes, up to rounding."""
    by_print = {signer.identity.fingerprint: small.changes[name] for name, signer in small.parties.clients.items()}
    mean = np.mean([by_print[client] for client in members(small)], axis=0)
    released = mean_change(small.descriptor, small.settled.final.statement, small.opened.opening)
    return bool(np.allclose(released, mean, atol=2 / (2**16 - 1)))


def check(small: Small) -> str:
    certificate = verify_release(small.release, Anchors.model_validate(anchors_of(small))).certificate
    return certificate.degree_check.outcome


def anchors_of(small: Small) -> dict[str, object]:
    return {name: getattr(small.policy, name) for name in Anchors.model_fields}


def six(clients: int = 4) -> Small:
    """m = 6, f = 1, t = 4: the least committee of which one key-holder frames nobody."""
    return Small(clients=clients, holders=6)


# Honest parties.


def test_honest_members_pass_and_the_release_says_checked() -> None:
    small = Small()
    assert len(small.degree_answers) == 4
    assert members(small) == names(small)
    assert check(small) == "checked"
    assert exact(small)


def test_t_answers_prove_nothing_and_the_release_says_so() -> None:
    """With three of four answers any shares lie on a polynomial of degree 2."""
    small = Small()
    small.uploads = [inconsistent(small, 0, [0]), *small.uploads[1:]]
    small.degree_answers = [small.answer_degree_check(holder) for holder in small.committee[1:]]
    assert members(small) == names(small)
    small.shares = [small.share(holder) for holder in small.committee[1:]]
    assert check(small) == "unchecked"


@pytest.mark.parametrize(
    ("holders", "corrupt", "answers", "words"),
    [
        (4, 1, 3, "UNCHECKED, 3 answers are too few"),
        (4, 1, 4, "consistent by 4 answers, if all who answered are honest"),
        (6, 1, 5, "consistent by 5 answers, if all who answered are honest"),
        (6, 1, 6, "consistent by 6 answers"),
        (3, 0, 3, "consistent by 3 answers"),
    ],
)
def test_the_words_say_whether_it_holds_against_liars(holders: int, corrupt: int, answers: int, words: str) -> None:
    """From t + f + 1 answers on (protocol.md §8.4.5). With f = 0 all are honest by assumption."""
    spec = Small().session_spec.model_copy(update={"corrupt_keyholders": corrupt})
    small = Small(holders=holders, spec=spec)
    small.degree_answers = [small.answer_degree_check(holder) for holder in small.committee[:answers]]
    checks = verify_release(small.release, Anchors.model_validate(anchors_of(small))).checks
    found = next(line for line in checks if line.startswith("degree check: "))
    assert words in found
    assert ("if all who answered are honest" in found) is ("if all who answered are honest" in words)


def test_a_key_holder_that_works_with_a_client_and_answers_last_passes_it_where_the_words_say_if() -> None:
    """The reason for the words: four answers fit, and the client's shares do not; the session is burnt."""
    small = Small()
    small.uploads = [inconsistent(small, 0, [0]), *small.uploads[1:]]
    honest = [np.frombuffer(bytes.fromhex(a.statement.values), "<u4").astype(np.uint64) for a in small.degree_answers]
    points = {place + 1: values for place, values in enumerate(honest[:3])}
    fitting = shamir.interpolate(points, [1, 2, 3], 4).astype("<u4").tobytes().hex()
    last = small.degree_answers[3].statement.model_copy(update={"values": fitting})
    small.degree_answers = [*small.degree_answers[:3], small.committee[3].signer.sign(last)]
    assert members(small) == names(small)
    settled = small.settled
    found = remaining_members(small.descriptor, small.candidate.statement, settled.answers, settled.degree_answers)
    assert found.degree.in_words(small.descriptor).endswith("consistent by 4 answers, if all who answered are honest")
    small.shares = small.shares[:3]  # the fourth gives none
    with pytest.raises(OpeningError, match="burnt"):
        assert small.opened


def test_answers_are_what_the_twin_computes() -> None:
    small = Small()
    candidate = small.candidate.statement
    seed = bytes.fromhex(candidate.ctx) + (1).to_bytes(4, "little") + bytes.fromhex(candidate.digest)
    rows = twin.degree_challenge(seed)
    assert challenge(candidate).tolist() == rows
    for place, signed in enumerate(small.degree_answers):
        values = np.frombuffer(bytes.fromhex(signed.statement.values), "<u4").reshape(-1, BLINDINGS).tolist()
        for victim in range(4):
            held = content(small, victim, place)
            assert values[victim] == twin.degree_answer(rows, held.share, held.blinding)


def test_an_answer_alone_is_uniform_whatever_the_share() -> None:
    """Blindings are fresh for each upload: the answers for one key, shared 400 times, fill the field evenly."""
    key = fresh_key(os.urandom)
    small = Small()
    coefficients = challenge(small.candidate.statement)
    found = []
    for _ in range(400):
        share = shamir.share_key(key, 3, 4, os.urandom)[0]
        rows = twin.degree_answer(coefficients.tolist(), share.packed, share.blinding)
        found += rows
    counts = np.histogram(found, bins=16, range=(0, shamir.FIELD))[0]
    assert ((counts - 100) ** 2 / 100).sum() < 80  # chi-square, 15 degrees of freedom: exceeded with 1e-10


# A client that lies.


@pytest.mark.parametrize("place", range(4))
def test_a_client_with_inconsistent_shares_is_left_out_and_named(place: int) -> None:
    small = Small()
    small.uploads = [small.uploads[0], inconsistent(small, 1, [place]), *small.uploads[2:]]
    assert members(small) == [name for i, name in enumerate(names(small)) if i != 1]
    assert exact(small)
    certificate = verify_release(small.release, Anchors.model_validate(anchors_of(small))).certificate
    assert certificate.degree_check.left_out == {names(small)[1]: "inconsistent-shares-or-a-lying-key-holder"}
    assert [(one.client, one.reason) for one in certificate.excluded] == [
        (names(small)[1], "degree check: the shares that it gave to key-holders are inconsistent, or a key-holder lied "
         "about them")
    ]  # fmt: skip


def test_without_the_check_that_client_would_have_burnt_the_session() -> None:
    """The check is what saves it: the same upload, taken unchecked, does not open."""
    small = Small()
    small.uploads = [small.uploads[0], inconsistent(small, 1, [0, 1]), *small.uploads[2:]]
    small.degree_answers = []
    assert members(small) == names(small)
    with pytest.raises(OpeningError, match="burnt"):
        assert small.opened


def test_a_client_whose_blinding_is_inconsistent_is_left_out() -> None:
    small = Small()
    held = content(small, 2, 3)
    off = (int.from_bytes(held.blinding[:4], "little") + 1) % shamir.FIELD
    blinding = off.to_bytes(4, "little") + held.blinding[4:]
    small.uploads = [*small.uploads[:2], reboxed(small, 2, {3: (held.share, blinding)}), small.uploads[3]]
    assert names(small)[2] not in members(small)


def test_where_enough_answer_more_than_f_bad_shares_are_certainly_the_clients() -> None:
    small = six()
    small.uploads = [inconsistent(small, 0, [1, 4]), *small.uploads[1:]]
    found = verify_release(small.release, Anchors.model_validate(anchors_of(small))).certificate.degree_check
    assert found.left_out == {names(small)[0]: "inconsistent-shares"}
    assert exact(small)


def test_with_no_corrupt_key_holders_assumed_it_is_certainly_the_clients() -> None:
    spec = Small().session_spec.model_copy(update={"corrupt_keyholders": 0})
    small = Small(holders=3, spec=spec)
    small.uploads = [inconsistent(small, 0, [1]), *small.uploads[1:]]
    assert small.parts.settlement.final.statement.members
    found = verify_release(small.release, Anchors.model_validate(anchors_of(small))).certificate.degree_check
    assert found.left_out == {names(small)[0]: "inconsistent-shares"}


def test_when_culprits_leave_too_few_the_last_answers_are_left_out_and_the_release_says_unchecked() -> None:
    """Four members, n_min 3, two of them accused by one key-holder: nothing is stopped by it."""
    small = Small()
    small.degree_answers = [*small.degree_answers[:3], lying(small, 3, [0, 1])]
    assert len(small.settled.degree_answers) == 3
    assert members(small) == names(small)


def test_when_nothing_helps_the_set_is_too_small() -> None:
    small = Small(clients=3)
    complaining = [a for i, a in enumerate(small.answers) if i < 3]
    small.uploads = [inconsistent(small, 0, [0]), *small.uploads[1:]]
    bad = small.candidate.statement.model_copy(update={"members": small.candidate.statement.members[:2]})
    signed = small.parties.coordinator.sign(bad)
    with pytest.raises((TooFewContributions, EndorsementInvalid)):
        settle(small.parties.coordinator, small.descriptor, signed, complaining, ())


# A key-holder that lies.


def test_in_a_committee_of_four_one_key_holder_can_frame_a_member_and_the_finding_says_so() -> None:
    small = Small(clients=5)
    small.degree_answers = [*small.degree_answers[:3], lying(small, 3, [1])]
    assert names(small)[1] not in members(small)
    found = verify_release(small.release, Anchors.model_validate(anchors_of(small))).certificate.degree_check
    assert found.left_out == {names(small)[1]: "inconsistent-shares-or-a-lying-key-holder"}


def test_in_a_committee_of_six_one_key_holder_frames_nobody() -> None:
    small = six()
    small.degree_answers = [*small.degree_answers[:5], lying(small, 5, [0, 1, 2, 3])]
    assert members(small) == names(small)
    found = verify_release(small.release, Anchors.model_validate(anchors_of(small))).certificate.degree_check
    assert not found.culprits
    liar = small.committee[5].signer.identity.fingerprint
    assert [(one.client, one.holders) for one in found.contradictions] == [(name, (liar,)) for name in names(small)]


def test_a_client_and_a_key_holder_that_contradict_different_parties_do_not_both_stay() -> None:
    """One key-holder lies about two members; one client gave another a bad share. f = 1 explains the liar."""
    small = six(clients=5)
    small.uploads = [inconsistent(small, 0, [2]), *small.uploads[1:]]
    small.degree_answers = [*small.degree_answers[:5], lying(small, 5, [1, 3])]
    assert members(small) == names(small)[1:]
    assert exact(small)


def test_a_wrong_share_sum_is_named_and_the_sum_is_exact_without_it() -> None:
    """m = 4: the fourth could have been given a wrong share by a client in league with another."""
    small = Small()
    wrong = shamir.sum_shares([small.shares[3].share] * 2)
    small.shares = [*small.shares[:3], resigned(small, 3, wrong)]
    assert exact(small)
    certificate = verify_release(small.release, Anchors.model_validate(anchors_of(small))).certificate
    assert [(fault.holder, fault.finding) for fault in certificate.holder_faults] == [
        (small.committee[3].signer.identity.fingerprint, "disagrees")
    ]


def test_where_m_is_at_least_3f_plus_3_a_wrong_share_sum_is_certainly_a_lie() -> None:
    small = six()
    small.shares = [resigned(small, 0, shamir.sum_shares([small.shares[0].share] * 2)), *small.shares[1:]]
    certificate = verify_release(small.release, Anchors.model_validate(anchors_of(small))).certificate
    assert [fault.finding for fault in certificate.holder_faults] == ["lied"]
    assert exact(small)


def test_an_honest_key_holder_with_a_bad_share_is_not_called_a_liar() -> None:
    """m = 6: the client stays, in contradiction to the key-holder, whose share sum is then off."""
    small = six()
    small.uploads = [inconsistent(small, 0, [2]), *small.uploads[1:]]
    certificate = verify_release(small.release, Anchors.model_validate(anchors_of(small))).certificate
    honest = small.committee[2].signer.identity.fingerprint
    assert [pair.holders for pair in certificate.degree_check.contradictions] == [(honest,)]
    assert [(f.holder, f.finding) for f in certificate.holder_faults] == [(honest, "disagrees")]
    assert exact(small)


def test_a_client_and_a_key_holder_together_do_not_make_liars_of_honest_ones() -> None:
    """m = 6, t = 4. The client used s and shares s + 1, consistently; the sixth bends its sum to open with three.

    The two others then disagree with a group that opens: more than f, and not called liars.
    """
    small = six()
    moved = dict[int, tuple[bytes, bytes]]()
    for place in range(6):
        held = content(small, 0, place)
        elements = shamir.unpack_share(held.share)
        elements[0] = (int(elements[0]) + 1) % shamir.FIELD
        moved[place] = (shamir.pack_share(elements), held.blinding)
    small.uploads = [reboxed(small, 0, moved), *small.uploads[1:]]
    assert members(small) == names(small), "nobody fails the degree check"
    bent = shamir.unpack_share(small.shares[5].share)
    weight = (6 - 1) * (6 - 2) * (6 - 3) * pow(-1 * -2 * -3, -1, shamir.FIELD)  # 0 at 1, 2, 3 and 1 at 0
    bent[0] = (int(bent[0]) - weight) % shamir.FIELD
    small.shares = [*small.shares[:5], resigned(small, 5, shamir.pack_share(bent))]
    certificate = verify_release(small.release, Anchors.model_validate(anchors_of(small))).certificate
    assert exact(small)
    assert [(fault.holder, fault.finding) for fault in certificate.holder_faults] == [
        (small.committee[place].signer.identity.fingerprint, "disagrees") for place in (3, 4)
    ]


@pytest.mark.parametrize(("limit", "opens"), [(29, True), (28, False)])
def test_groups_of_share_sums_are_tried_up_to_the_limit_and_no_further(
    limit: int, opens: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """m = 7, f = 2: 1 + 7 + 21 groups, and with the first two wrong only the last one is right (protocol.md §9.1)."""
    spec = Small().session_spec.model_copy(update={"corrupt_keyholders": 2})
    small = Small(holders=7, spec=spec)
    wrong = [resigned(small, place, shamir.sum_shares([small.shares[place].share] * 2)) for place in (0, 1)]
    small.shares = [*wrong, *small.shares[2:]]
    monkeypatch.setattr("secagg.coordinator.MAX_SUBSETS", limit)
    if not opens:
        with pytest.raises(OpeningError, match="none of 28 groups of share sums leaves a small"):
            assert small.opened
        return
    assert exact(small)
    assert [share.signed.statement.index for share in small.opened.disagreeing] == [1, 2]


@pytest.mark.parametrize(
    ("holders", "faulty", "wrong"),
    [
        (4, 1, 1),
        (7, 2, 2),
        (10, 3, 3),
        (13, 4, 4),
        (16, 5, 5),
        (17, 5, 5),
        (18, 5, 4),
        (19, 6, 4),
        (140, 46, 2),
        (141, 46, 1),
    ],
)
def test_the_limit_is_reached_where_the_protocol_says(holders: int, faulty: int, wrong: int) -> None:
    """Groups that leave out up to `wrong` are all among those that are tried; the next size is not, or none follows."""
    groups = _groups([cast("ShareAnswer", None)] * holders, quorum(holders, faulty), faulty)
    tried = Counter(holders - len(group) for group in islice(groups, MAX_SUBSETS))
    whole = [away for away in sorted(tried) if tried[away] == comb(holders, away)]
    assert whole == list(range(wrong + 1))
    assert (next(groups, None) is None) is (wrong == faulty)


def resigned(small: Small, place: int, share: bytes) -> ShareAnswer:
    """The share sum of the key-holder at `place`, with these bytes, rightly signed."""
    honest = small.shares[place]
    statement = honest.signed.statement.model_copy(update={"share_sha256": hashlib.sha256(share).hexdigest()})
    return replace(honest, signed=small.committee[place].signer.sign(statement), share=share)


# Answers are given once, for one set.


def test_no_answer_before_t_key_holders_have_endorsed_the_set() -> None:
    small = Small()
    holder = small.committee[0]
    with pytest.raises(EndorsementInvalid, match="2 key-holders endorsed"):
        holder.answer_degree_check(small.descriptor, small.candidate, small.answers[:2], small.shown(holder), small.now)


def test_no_second_answer_for_another_set_of_the_release() -> None:
    """Two answers under one blinding would give a linear equation of the short key; it is refused from the record."""
    small = Small()
    holder = small.committee[0]
    small.answer_degree_check(holder)
    fewer = small.candidate.statement.model_copy(update={"members": small.candidate.statement.members[1:]})
    other = small.parties.coordinator.sign(fewer)
    endorsed = [
        h.signer.sign(a.statement.model_copy(update={"set_digest": fewer.digest}))
        for h, a in zip(small.committee, small.answers, strict=True)
    ]  # as if t key-holders had endorsed twice
    with pytest.raises(ConflictError, match="answered for another set"):
        holder.answer_degree_check(small.descriptor, other, endorsed, small.shown(holder, small.uploads[1:]), small.now)
    fresh = small.committee[1]
    with pytest.raises(ConflictError, match="already endorsed another candidate set"):
        fresh.answer_degree_check(small.descriptor, other, endorsed, small.shown(fresh, small.uploads[1:]), small.now)


def test_the_answer_is_recorded_before_it_is_sent_and_given_again() -> None:
    small = Small()
    holder = small.committee[0]
    first = small.answer_degree_check(holder)
    assert holder.journal.get(f"degree/{small.descriptor.ctx}/1") == first.to_bytes()
    assert small.answer_degree_check(holder) == first


def test_a_restored_key_holder_gives_the_same_answer() -> None:
    small = Small()
    holder = small.committee[0]
    first = small.answer_degree_check(holder)
    restored = replace(holder, journal=MemoryJournal())
    restored.approve(small.proposal, small.now)
    assert small.answer_degree_check(restored) == first


# What is attached, and what follows from it.


def bent(small: Small, **update: object) -> SignedDegreeAnswer:
    statement = small.degree_answers[0].statement.model_copy(update=update)
    return small.committee[0].signer.sign(statement)


def test_answers_of_another_session_set_length_or_range_are_refused() -> None:
    small = Small()
    values = small.degree_answers[0].statement.values

    def refused(answers: Sequence[SignedDegreeAnswer], error: type[Exception], words: str) -> None:
        with pytest.raises(error, match=words):
            verify_answers(small.descriptor, small.candidate.statement, answers)

    refused([bent(small, ctx=OTHER)], EndorsementInvalid, "another session")
    refused([bent(small, candidate_digest=OTHER)], EndorsementInvalid, "another session")
    refused([bent(small, index=2)], EndorsementInvalid, "another session")
    refused([bent(small, release=2)], EndorsementInvalid, "another session")
    refused([bent(small, values=values[:-32])], ProtocolViolation, "4 members")
    refused([bent(small, values="ffffff7f" + values[8:])], ProtocolViolation, "field elements")
    refused([small.degree_answers[0]] * 2, EndorsementInvalid, "two degree answers")


def endorse(small: Small, holder: KeyHolder, members_kept: Sequence[SetMember]) -> None:
    final = small.settled.final.statement.model_copy(update={"members": tuple(members_kept)})
    signed = small.parties.coordinator.sign(final)
    settled = small.settled
    holder.endorse_final(
        small.descriptor, small.candidate, signed, settled.answers, settled.degree_answers, (), small.now
    )


def test_key_holders_refuse_a_final_set_that_keeps_a_culprit_or_drops_somebody_else() -> None:
    small = Small(clients=5)
    small.uploads = [inconsistent(small, 0, [0]), *small.uploads[1:]]
    chosen, whole = small.settled.final.statement.members, small.candidate.statement.members
    for wrong in (whole, chosen[1:]):
        with pytest.raises(ProtocolViolation, match="culprits"):
            endorse(small, small.committee[0], wrong)


def test_a_coordinator_that_hides_an_answer_is_refused() -> None:
    small = Small()
    settled = small.settled
    with pytest.raises(EndorsementInvalid, match="attached degree answers"):
        small.committee[0].endorse_final(
            small.descriptor, small.candidate, settled.final, settled.answers, settled.degree_answers[1:], (), small.now
        )


def test_an_answer_comes_with_its_key_holders_endorsement() -> None:
    small = Small()
    settled = settle(small.parties.coordinator, small.descriptor, small.candidate, small.answers, ())
    with pytest.raises(EndorsementInvalid, match="without its endorsement"):
        small.committee[0].endorse_final(
            small.descriptor,
            small.candidate,
            settled.final,
            settled.answers[:3],
            [a for a in small.degree_answers if a.signer == settled.answers[3].signer],
            (),
            small.now,
        )


def test_a_certificate_that_says_checked_of_an_unchecked_release_is_refused() -> None:
    small = Small()
    small.degree_answers = small.degree_answers[:3]
    checked = small.parts
    assert len(checked.settlement.degree_answers) == 3
    signed = parse_certificate(small.release[CERTIFICATE])
    said = signed.statement.degree_check.model_copy(update={"outcome": "checked"})
    lie = small.parties.coordinator.sign(signed.statement.model_copy(update={"degree_check": said}))
    with pytest.raises(VerificationError, match="degree_check does not follow"):
        verify_release({**small.release, CERTIFICATE: certificate_file(lie)}, Anchors.model_validate(anchors_of(small)))


@settings(max_examples=30, deadline=None)
@given(
    threshold=st.integers(2, 5),
    faulty=st.integers(0, 2),
    extra=st.integers(1, 4),
    wrong=st.lists(st.sets(st.integers(1, 9)), min_size=1, max_size=5),
    seed=st.integers(0, 2**32),
)
def test_the_verdict_is_that_of_the_naive_twin(
    threshold: int, faulty: int, extra: int, wrong: list[set[int]], seed: int
) -> None:
    """Random polynomials, random answers bent for random members: the same sets by brute force over all subsets."""
    rng = np.random.default_rng(seed)
    count = threshold + extra
    values: dict[int, list[list[int]]] = {x: [] for x in range(1, count + 1)}
    for off in wrong:
        rows = rng.integers(0, twin.FIELD, (BLINDINGS, threshold)).tolist()
        for x, given_for in values.items():
            points = [sum(c * x**d for d, c in enumerate(row)) % twin.FIELD for row in rows]
            given_for.append([(p + (x in off) * (x + k)) % twin.FIELD for k, p in enumerate(points)])
    arrays = {x: np.array(rows, dtype=np.uint64) for x, rows in values.items()}
    found = {
        row: (set(failing.contested), failing.left_out, failing.certain)
        for row, failing in verdict_over(arrays, range(len(wrong)), threshold, faulty).items()
    }
    assert found == twin.degree_verdict(values, threshold, faulty)


def test_the_statement_holds_whole_members() -> None:
    with pytest.raises(ValueError, match="pattern"):
        DegreeAnswer(ctx=OTHER, release=1, candidate_digest=OTHER, holder=OTHER, index=1, values="00" * 17)
