"""Several releases in one session: disjoint cohorts, in order, and one exact mean (protocol.md §8.7, §9.4, §10.3a)."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import permutations

import numpy as np
import pytest
from safetensors.numpy import load, save

from secagg.certificate import ADAPTER, CERTIFICATE, MODEL_CARD, OPENING, ReleaseCertificate, parse_certificate
from secagg.client_noise.setting import ClientNoise
from secagg.coordinator import fix_candidate
from secagg.descriptor import AuditReserve
from secagg.errors import (
    ConflictError,
    EndorsementInvalid,
    HashMismatch,
    MalformedError,
    PolicyViolation,
    ProtocolViolation,
    SecaggError,
    SessionClosed,
    SignatureInvalid,
    TooFewContributions,
    VerificationError,
)
from secagg.merkle import root
from secagg.policy import Anchors
from secagg.receipts import Fate, judge_receipt
from secagg.release import save_adapter, sign_files
from secagg.releases import EarlierRelease
from secagg.rounds import Round
from secagg.run import MemoryJournal
from secagg.sets import check_upload
from secagg.verify import NOT_JOINED, verify_release
from tests.several import Several, several
from tests.small import Small

FIRST, SECOND = (0, 1, 2, 3), (4, 5, 6, 7)


def anchors(run: Several, **changes: object) -> Anchors:
    plain = {name: value for name, value in run.small.policy if name in Anchors.model_fields}
    return Anchors(**{**plain, **changes})


@pytest.fixture(scope="module")
def three() -> Several:
    """Three releases of three clients each, in one session."""
    run = several(releases=3, clients=9)
    for cohort in ((4, 0, 8), (1, 5, 2), (7, 3, 6)):
        run.release(cohort)
    return run


# -- the descriptor --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("releases", "clients", "spec", "round_", "why"),
    [
        (3, 8, {}, None, "need a roster of 9; it has 8"),
        (2, 8, {"audit": AuditReserve(canaries=1)}, None, "an audit reserve goes with one release"),
        (2, 8, {}, Round(number=0, rounds=2), "a series of rounds has one release a session"),
    ],
)
def test_what_does_not_go_with_several_releases_makes_no_session(
    releases: int, clients: int, spec: dict[str, object], round_: Round | None, why: str
) -> None:
    run = several(releases=releases, clients=clients, **spec)
    run.small.round = round_
    with pytest.raises(MalformedError, match=why):
        _ = run.small.proposal


def test_a_policy_says_how_many_releases_it_takes() -> None:
    run = several()
    one = run.small.policy.model_copy(update={"max_releases": 1})
    with pytest.raises(PolicyViolation, match="allows 2 releases, 1 is the most here"):
        one.check(run.small.proposal.descriptor.statement)
    run.small.policy.check(run.small.proposal.descriptor.statement)


# -- key-holders -----------------------------------------------------------------------------------------------


def test_disjoint_cohorts_are_released_one_after_another(three: Several) -> None:
    assert [sets.final.statement.release for sets in three.sets] == [1, 2, 3]


@pytest.mark.parametrize("overlap", [(3, 4, 5), (3, 4, 5, 6, 7)])
def test_an_overlapping_cohort_is_refused_by_every_key_holder(overlap: tuple[int, ...]) -> None:
    run = several()
    run.release(FIRST)
    for holder in run.small.committee:
        with pytest.raises(ConflictError, match="in the candidate sets of releases 1 and 2"):
            run.endorse(holder, 2, overlap)


def spoil(run: Several, number: int) -> None:
    """Upload `number` as its client signed it, with a first box that does not open."""
    sealed = run.small.uploads[number]
    boxes = (bytes(len(sealed.boxes[0])), *sealed.boxes[1:])
    statement = sealed.signed.statement.model_copy(update={"boxes_root": root(boxes).hex()})
    signer = next(s for s in run.small.parties.clients.values() if s.identity.fingerprint == statement.client)
    run.small.uploads[number] = replace(sealed, signed=signer.sign(statement), boxes=boxes)


def test_a_member_that_was_left_out_does_not_come_back() -> None:
    """It was in a candidate set: key-holders may have answered for it, and answer once a client."""
    run = several()
    spoil(run, 0)
    _, settled, sets = run.close(1, FIRST)
    assert len(settled.final.statement.members) == 3
    run.sets.append(sets)
    for holder in run.small.committee:
        with pytest.raises(ConflictError, match="in the candidate sets of releases 1 and 2; a client is in one, ever"):
            run.endorse(holder, 2, (0, *SECOND))


def test_the_same_release_twice_is_refused() -> None:
    run = several()
    run.release(FIRST)
    for holder in run.small.committee:
        with pytest.raises(ConflictError, match="already endorsed another set for release 1"):
            run.endorse(holder, 1, SECOND, earlier=())


def test_a_release_out_of_order_is_refused() -> None:
    run = several(releases=3, clients=9)
    holder = run.small.committee[0]
    with pytest.raises(ProtocolViolation, match="release 2 follows 1 releases, 0 are shown"):
        run.endorse(holder, 2, FIRST)
    run.release((0, 1, 2))
    with pytest.raises(ProtocolViolation, match="release 3 follows 2 releases, 1 are shown"):
        run.endorse(holder, 3, (3, 4, 5))
    with pytest.raises(ProtocolViolation, match="release 1 is shown in the place of release 2"):
        run.endorse(holder, 3, (3, 4, 5), earlier=[run.sets[0], run.sets[0]])


def test_a_release_more_than_agreed_is_refused() -> None:
    run = several(clients=9)
    run.release((0, 1, 2))
    run.release((3, 4, 5))
    with pytest.raises(ProtocolViolation, match="release 3 of 2 allowed ones"):
        run.endorse(run.small.committee[0], 3, (6, 7, 8))


def test_earlier_sets_that_too_few_endorsed_are_refused() -> None:
    """A coordinator with one corrupt key-holder invents a first release, to have the second one's number."""
    run = several()
    _, _, sets = run.close(1, FIRST)
    few = sets.model_copy(update={"endorsements": sets.endorsements[:2]})
    with pytest.raises(EndorsementInvalid, match="2 key-holders endorsed the final set; 3 must"):
        run.endorse(run.small.committee[0], 2, SECOND, earlier=[few])


def test_earlier_sets_that_belong_to_each_other_not_are_refused() -> None:
    run = several()
    _, _, sets = run.close(1, FIRST)
    hidden = run.small.parties.coordinator.sign(
        sets.candidate.statement.model_copy(update={"members": sets.candidate.statement.members[1:]})
    )
    lying = sets.model_copy(update={"candidate": hidden})
    with pytest.raises(ProtocolViolation, match="belongs to another candidate set"):
        run.endorse(run.small.committee[0], 2, SECOND, earlier=[lying])
    forged = sets.model_copy(update={"final": run.small.parties.holders[0].sign(sets.final.statement)})
    with pytest.raises(SignatureInvalid):
        run.endorse(run.small.committee[0], 2, SECOND, earlier=[forged])


def test_two_histories_are_refused_by_who_saw_the_other() -> None:
    """Three key-holders endorsed one first release; the fourth was shown another and does not go along."""
    run = several()
    odd = run.small.committee[3]
    run.endorse(odd, 1, (0, 1, 4), earlier=())
    run.small.committee.pop()
    run.release(FIRST)
    with pytest.raises(ConflictError, match="already endorsed another set for release 1"):
        run.endorse(odd, 2, (5, 6, 7))


def test_a_key_holder_from_an_old_backup_refuses_an_overlapping_cohort() -> None:
    """Its journal ends before the first release. The committee's endorsements say what that was."""
    run = several()
    run.release(FIRST)
    restored = replace(run.small.committee[0], journal=MemoryJournal())
    restored.approve(run.small.proposal, run.small.now)
    with pytest.raises(ConflictError, match="releases 1 and 2"):
        run.endorse(restored, 2, (3, 4, 5))
    with pytest.raises(ProtocolViolation, match="0 are shown"):
        run.endorse(restored, 2, SECOND, earlier=())
    assert run.endorse(restored, 2, SECOND).statement.release == 2


def test_a_key_holder_that_was_away_takes_part_in_the_next_release() -> None:
    run = several()
    assert run.small.session
    away = run.small.committee.pop()
    run.release(FIRST)
    assert run.endorse(away, 2, SECOND).statement.release == 2


def test_what_was_endorsed_is_recorded_before_the_endorsement_is_given() -> None:
    """Killed between the two, a key-holder knows the set that it was about to endorse."""
    run = several()
    holder = run.small.committee[0]

    class Dying(MemoryJournal):
        def record(self, key: str, value: bytes) -> bytes:
            if key.startswith("endorsement/"):
                raise SessionClosed("killed")
            return super().record(key, value)

    journal = Dying()
    dying = replace(holder, journal=journal)
    dying.approve(run.small.proposal, run.small.now)
    with pytest.raises(SessionClosed, match="killed"):
        run.endorse(dying, 1, FIRST)
    with pytest.raises(ConflictError, match="another set for release 1"):
        run.endorse(dying, 1, SECOND)


def test_a_peers_endorsement_of_another_set_of_this_release_stops_it() -> None:
    run = several()
    run.release(FIRST)
    other = run.endorse(run.small.committee[1], 2, (4, 5, 6))
    with pytest.raises(ConflictError, match="endorsed another candidate set"):
        run.endorse(run.small.committee[0], 2, SECOND, peers=(other,))


def test_each_release_has_the_least_number_of_members() -> None:
    run = several()
    run.release(FIRST)
    with pytest.raises(TooFewContributions):
        run.candidate(2, (4, 5))
    small = run.small
    statement = run.candidate(2, (4, 5, 6)).statement
    few = small.parties.coordinator.sign(statement.model_copy(update={"members": statement.members[:2]}))
    holder = small.committee[0]
    with pytest.raises(TooFewContributions):
        holder.endorse_candidate(run.descriptor, few, small.shown(holder, []), (), small.now, run.sets)


def test_a_session_of_one_release_shows_no_earlier_ones() -> None:
    small = Small()
    holder = small.committee[0]
    run = several()
    _, _, sets = run.close(1, FIRST)
    with pytest.raises(ProtocolViolation, match="1 are shown"):
        holder.endorse_candidate(small.descriptor, small.candidate, small.shown(holder), (), small.now, [sets])


# -- the running mean ------------------------------------------------------------------------------------------


def test_the_last_adapter_is_that_of_one_release_over_all(three: Several) -> None:
    """The same uploads opened as one cohort give the same bytes; and they are the mean, up to the quantiser."""
    run = several_again(three)
    assert run.release(range(9))[ADAPTER] == three.contents[-1][ADAPTER]
    error = load(three.contents[-1][ADAPTER])["a.lora_B.weight"] - np.mean(list(three.small.changes.values()), axis=0)
    assert np.abs(error).max() < 2 * 0.5 / (2**16 - 1)


@pytest.mark.parametrize("order", list(permutations(range(3)))[1:])
def test_no_order_and_no_split_into_cohorts_changes_the_last_adapter(three: Several, order: tuple[int, ...]) -> None:
    """The same uploads of the same session, in another order: the same bytes."""
    cohorts = ((4, 0, 8), (1, 5, 2), (7, 3, 6))
    run = several_again(three)
    for place in order:
        run.release(cohorts[place])
    assert run.contents[-1][ADAPTER] == three.contents[-1][ADAPTER]
    assert run.contents[0][ADAPTER] != run.contents[-1][ADAPTER]


def several_again(run: Several) -> Several:
    """The session with its uploads as before any release: key-holders with empty journals, the same keys."""
    small = replace(run.small)
    for name in ("changes", "parties", "policy", "session_spec", "members", "roster", "proposal", "session",
                 "descriptor", "uploads"):  # fmt: skip
        small.__dict__[name] = getattr(run.small, name)
    small.__dict__["committee"] = [replace(holder, journal=MemoryJournal()) for holder in run.small.committee]
    for holder in small.committee:
        holder.approve(small.proposal, small.now)
    return Several(small)


# -- the verifier ----------------------------------------------------------------------------------------------


def test_a_release_alone_says_what_was_not_checked(three: Several) -> None:
    trust = anchors(three)
    assert NOT_JOINED not in verify_release(three.contents[0], trust).checks
    report = verify_release(three.contents[2], trust)
    assert NOT_JOINED in report.checks
    assert any("release 3 of at most 3" in check and "9 members so far" in check for check in report.checks)
    assert "the order of arrival is the coordinator's word" in report.checks


def test_with_the_earlier_releases_the_running_mean_is_followed_from_its_start(three: Several) -> None:
    report = verify_release(three.contents[2], anchors(three), earlier=three.contents[:2])
    assert NOT_JOINED not in report.checks
    assert any("2 earlier releases hold as well" in check for check in report.checks)
    note = report.certificate.privacy_note
    assert "release 3 of at most 3" in note
    assert "do not add up" in note
    assert note.encode() in three.contents[2][MODEL_CARD]
    assert b"9 institutions in all" in three.contents[2][MODEL_CARD]


def test_earlier_releases_that_are_missing_doubled_or_in_another_order_are_refused(three: Several) -> None:
    one, two, last = three.contents
    trust = anchors(three)
    with pytest.raises(ProtocolViolation, match="1 earlier releases are given, 2 were before"):
        verify_release(last, trust, earlier=[two])
    with pytest.raises(ProtocolViolation, match="earlier release 1 of 2 is not the one that was before"):
        verify_release(last, trust, earlier=[two, one])
    with pytest.raises(ProtocolViolation, match="earlier release 2 of 2 is not the one that was before"):
        verify_release(last, trust, earlier=[one, one])
    with pytest.raises(ProtocolViolation, match="1 earlier releases are given, 0 were before"):
        verify_release(one, trust, earlier=[one])
    with pytest.raises(HashMismatch, match=r"^earlier release 1 of 2: README\.md does not have the hash"):
        verify_release(last, trust, earlier=[{**one, MODEL_CARD: b"altered"}, two])


def test_a_verifier_takes_no_more_releases_than_its_anchors_say(three: Several) -> None:
    with pytest.raises(PolicyViolation, match="allows 3 releases, 2 is the most here"):
        verify_release(three.contents[0], anchors(three, max_releases=2))


def resigned(
    run: Several,
    content: dict[str, bytes],
    change: Callable[[ReleaseCertificate], ReleaseCertificate] = lambda certificate: certificate,
    files: dict[str, bytes] | None = None,
) -> dict[str, bytes]:
    """A lying coordinator signs again."""
    certificate = change(parse_certificate(content[CERTIFICATE]).statement)
    kept = {name: raw for name, raw in content.items() if name != CERTIFICATE}
    return sign_files(certificate, run.small.parties.coordinator, {**kept, **(files or {})})


def with_sums(run: Several, content: dict[str, bytes], add: int) -> dict[str, bytes]:
    """The running sums, and the adapter with them, moved by `add` levels."""
    tensors = dict(load(content[OPENING]))
    tensors["running_sums"] = tensors["running_sums"] + np.uint32(add)
    certificate = parse_certificate(content[CERTIFICATE]).statement
    count = 3 * certificate.final.statement.release
    mean = run.descriptor.quantiser.decode_mean(tensors["running_sums"], count)
    adapter = save_adapter(run.small.plan, mean, count)
    return resigned(run, content, files={OPENING: save(tensors), ADAPTER: adapter})


def test_running_sums_with_something_added_are_found_with_the_earlier_releases(three: Several) -> None:
    lying, trust = with_sums(three, three.contents[1], 5), anchors(three)
    assert NOT_JOINED in verify_release(lying, trust).checks, "alone, it says that it did not look"
    with pytest.raises(VerificationError, match="running sums of release 2 are not those of the release before"):
        verify_release(lying, trust, earlier=three.contents[:1])
    with pytest.raises(ProtocolViolation, match="running sums of the first release are not what was opened"):
        verify_release(with_sums(three, three.contents[0], 5), trust)


def test_running_sums_below_the_opened_ones_are_malformed(three: Several) -> None:
    tensors = dict(load(three.contents[1][OPENING]))
    tensors["running_sums"] = tensors["running_sums"] * np.uint32(0)
    for wrong in (tensors, {**tensors, "running_sums": tensors["running_sums"].astype(np.uint64)}):
        lying = resigned(three, three.contents[1], files={OPENING: save(wrong)})
        with pytest.raises(MalformedError, match="not those before and the opened ones together"):
            verify_release(lying, anchors(three))


def no_progress(certificate: ReleaseCertificate) -> ReleaseCertificate:
    return certificate.model_copy(update={"progress": None})


def progress_with(**changes: object) -> Callable[[ReleaseCertificate], ReleaseCertificate]:
    def change(certificate: ReleaseCertificate) -> ReleaseCertificate:
        assert certificate.progress is not None
        return certificate.model_copy(update={"progress": certificate.progress.model_copy(update=changes)})

    return change


@pytest.mark.parametrize(
    ("change", "error", "why"),
    [
        (no_progress, ProtocolViolation, "several releases, and no other, counts them"),
        (progress_with(number=2), ProtocolViolation, "the certificate is of release 2, its sets of 3"),
        (progress_with(earlier=()), ProtocolViolation, "release 3 follows 2 releases, 0 are shown"),
        (progress_with(arrivals=()), ProtocolViolation, "the arrivals are not those of the candidate set"),
    ],
)
def test_a_certificate_that_hides_releases_is_refused(
    three: Several,
    change: Callable[[ReleaseCertificate], ReleaseCertificate],
    error: type[SecaggError],
    why: str,
) -> None:
    with pytest.raises(error, match=why):
        verify_release(resigned(three, three.contents[2], change), anchors(three))


def test_a_release_whose_cohort_overlaps_is_refused_by_the_verifier_too(three: Several) -> None:
    """All key-holders and the coordinator conspire: the certificate itself shows the client twice."""
    conspiring = several_again(three)
    conspiring.release((4, 0, 8))
    first = conspiring.sets[0]
    conspiring.small.__dict__["committee"] = several_again(three).small.committee
    _, _, overlapping = several_again(three).close(1, (4, 5, 6))
    earlier = EarlierRelease(sets=overlapping, opening_sha256="00" * 32)
    assert overlapping.final.statement.digest != first.final.statement.digest
    parts = conspiring.parts((1, 5, 2))
    assert parts.progress is not None
    lying = replace(parts, progress=parts.progress.model_copy(update={"earlier": (earlier,)}))
    with pytest.raises(ConflictError, match="in the candidate sets of releases 1 and 2"):
        verify_release(conspiring.build(lying), anchors(three))


def test_opening_another_way_than_the_certificate_says_is_found(three: Several) -> None:
    """The earlier folder holds a valid release of the same sets, but another opening than the later one names."""
    one, two, _ = three.contents
    tensors = dict(load(one[OPENING]))
    other = resigned(three, one, files={OPENING: save(tensors, metadata={"again": "yes"})})
    with pytest.raises(HashMismatch, match="opened in another way"):
        verify_release(two, anchors(three), earlier=[other])


def test_excluded_members_are_named_with_the_release_they_are_in(three: Several) -> None:
    certificate = parse_certificate(three.contents[1][CERTIFICATE]).statement
    reasons = [item.reason for item in certificate.excluded]
    assert reasons.count("in release 1") == 3
    assert reasons.count("no upload before the set was fixed") == 3


# -- accounting ------------------------------------------------------------------------------------------------


def test_client_level_noise_is_spent_once_a_client_whatever_the_number_of_releases() -> None:
    """Cohorts are disjoint: a vector is in one sum (protocol.md §14.6)."""
    noise = ClientNoise(clip=1.0, noise_multiplier=1.0, colluders=1, delta=1e-6, accept_noise_over_signal=True)
    one, two = several(releases=1, client_noise=noise), several(releases=2, client_noise=noise)
    for run in (one, two):
        run.small.__dict__["policy"] = run.small.policy.model_copy(update={"assumed_corrupt_clients": 1})
    first, second = one.small.proposal.descriptor.statement, two.small.proposal.descriptor.statement
    assert first.client_releases == second.client_releases == 1
    assert first.noise_grid is not None
    assert second.noise_grid is not None
    assert first.noise_grid.epsilon(1) == second.noise_grid.epsilon(second.client_releases)
    assert first.client_statement == second.client_statement
    assert second.noise_grid.epsilon(2) > second.noise_grid.epsilon(1), "as two rounds would"


def test_a_statement_that_counts_every_release_is_refused() -> None:
    noise = ClientNoise(clip=1.0, noise_multiplier=1.0, colluders=1, delta=1e-6, accept_noise_over_signal=True)
    run = several(client_noise=noise)
    run.small.__dict__["policy"] = run.small.policy.model_copy(update={"assumed_corrupt_clients": 1})
    signed = run.small.uploads[0].signed
    check_upload(run.descriptor, signed, signed.signer)
    privacy, client = signed.statement.privacy, run.descriptor.client_statement
    assert client is not None
    assert client.releases == 1
    counted = privacy.model_copy(update={"client_level": client.model_copy(update={"releases": 2})})
    signer = next(s for s in run.small.parties.clients.values() if s.identity.fingerprint == signed.signer)
    lying = signer.sign(signed.statement.model_copy(update={"privacy": counted}))
    with pytest.raises(PolicyViolation, match="states other client-level noise"):
        check_upload(run.descriptor, lying, signed.signer)


def test_sets_are_in_order_of_fingerprint_and_arrivals_in_order_of_time(three: Several) -> None:
    certificate = parse_certificate(three.contents[0][CERTIFICATE]).statement
    assert certificate.progress is not None
    arrived = [arrival.client for arrival in certificate.progress.arrivals]
    assert arrived == [three.small.uploads[number].signed.statement.client for number in (4, 0, 8)]
    members = certificate.candidate.statement.members
    again = fix_candidate(
        three.small.parties.coordinator, three.descriptor, certificate.uploads[::-1], three.small.now, 1
    )
    assert again.statement.members == members


# -- who came when ---------------------------------------------------------------------------------------------


@dataclass
class AsTheyCome(Several):
    """Uploads come a minute apart, in order of number; a set is fixed a second after `until` have come."""

    until: tuple[int, ...] = (3, 6, 9)
    dated: dict[int, int] = field(default_factory=dict)
    """What the coordinator signs instead, by release."""

    @property
    def start(self) -> int:
        return self.descriptor.created_at

    def came(self, number: int) -> int:
        return self.start + 60 * number

    def fixed_at(self, number: int) -> int:
        return self.dated.get(number, self.came(self.until[number - 1] - 1) + 1)


def as_they_come(releases: int = 2, clients: int = 8, **dated: int) -> AsTheyCome:
    """`dated` by release: seconds after the session's creation."""
    plain = several(releases=releases, clients=clients)
    run = AsTheyCome(plain.small)
    run.dated = {int(number[1:]): run.start + seconds for number, seconds in dated.items()}
    run.small.now = run.start + 3600
    return run


@pytest.fixture(scope="module")
def honest() -> AsTheyCome:
    """Two releases of at most three; the last three uploads are for the third."""
    run = as_they_come(releases=3, clients=9)
    run.release((0, 1, 2))
    run.release((3, 4, 5))
    return run


def fates(run: AsTheyCome, content: dict[str, bytes]) -> list[Fate]:
    """Of every client's receipt."""
    certificate = verify_release(content, anchors(run)).certificate
    return [judge_receipt(certificate, run.receipt(number)).fate for number in range(len(run.small.uploads))]


def test_receipts_are_judged_by_all_releases_so_far(honest: AsTheyCome) -> None:
    """In this release, in one before, or after it."""
    first, second = honest.contents
    assert fates(honest, first) == [Fate.INCLUDED] * 3 + [Fate.ELSEWHERE] * 6
    assert fates(honest, second) == [Fate.ELSEWHERE] * 3 + [Fate.INCLUDED] * 3 + [Fate.ELSEWHERE] * 3


def test_an_upload_that_was_there_and_is_in_no_set_was_dropped(honest: AsTheyCome) -> None:
    certificate = parse_certificate(honest.contents[1][CERTIFICATE]).statement
    fixed = certificate.candidate.statement.fixed_at
    receipt = honest.receipt(7).statement
    for when, fate in ((fixed - 1, Fate.DROPPED), (fixed, Fate.ELSEWHERE)):
        signed = honest.small.parties.coordinator.sign(receipt.model_copy(update={"received_at": when}))
        assert judge_receipt(certificate, signed).fate is fate


def test_after_the_last_release_there_is_no_later_one_to_look_at() -> None:
    """A receipt without a place is a proof, whatever the coordinator says of when it fixed the last set (§10.4)."""
    run = as_they_come()
    run.release((0, 1, 2))
    content = run.release((3, 4, 5))
    verdicts = [judge_receipt(parse_certificate(content[CERTIFICATE]).statement, run.receipt(n)) for n in (6, 7)]
    assert [verdict.fate for verdict in verdicts] == [Fate.DROPPED] * 2
    assert "does not list the upload" in verdicts[0].reason


def test_a_set_that_is_dated_before_its_members_came_is_refused_by_the_verifier() -> None:
    """Client 2 is left out, and the set dated back to before it came; but client 3, who came later, is in it."""
    run = as_they_come(r1=61)
    content = run.release((0, 1, 3))
    with pytest.raises(ProtocolViolation, match=rf"upload of {title(run, 3)} came after the set that it is in was fix"):
        verify_release(content, anchors(run))


def test_a_member_that_came_before_an_earlier_set_was_fixed_is_refused_by_the_verifier() -> None:
    """It was there, and put off to a later release."""
    run = as_they_come(r1=181)
    run.release((0, 1, 3))
    content = run.release((2, 4, 5))
    with pytest.raises(ProtocolViolation, match=rf"upload of {title(run, 2)} came before an earlier set without it"):
        verify_release(content, anchors(run))
    early = as_they_come(r1=181)
    early.came = lambda number: early.start - 1  # type: ignore[method-assign]
    with pytest.raises(ProtocolViolation, match="came before the session was made"):
        verify_release(early.release((0, 1, 2)), anchors(early))


def test_whoever_dates_a_set_and_its_members_back_contradicts_their_receipts() -> None:
    """The certificate holds together; a member's receipt and the certificate prove the lie to anybody (§10.4)."""
    run = as_they_come(r1=61)
    parts = run.parts((0, 1, 3))
    assert parts.progress is not None
    back = [
        one.model_copy(update={"received_at": min(one.received_at, run.start + 61)}) for one in parts.progress.arrivals
    ]
    content = run.build(replace(parts, progress=parts.progress.model_copy(update={"arrivals": tuple(back)})))
    assert fates(run, content)[:4] == [Fate.INCLUDED, Fate.INCLUDED, Fate.ELSEWHERE, Fate.MISDATED]
    verdict = judge_receipt(parse_certificate(content[CERTIFICATE]).statement, run.receipt(3))
    assert verdict.fate.proves_a_lie
    assert f"came at {run.came(3)}, the certificate that it came at {run.start + 61}" in verdict.reason


def test_key_holders_refuse_a_set_that_is_dated_before_the_set_of_the_release_before() -> None:
    run = as_they_come()
    run.release((0, 1, 2))
    run.dated[2] = run.fixed_at(1) - 1
    for holder in run.small.committee:
        with pytest.raises(ProtocolViolation, match="release 2 is dated 1 seconds before"):
            run.endorse(holder, 2, (3, 4, 5))
    run.dated[2] = run.fixed_at(1)
    assert run.endorse(run.small.committee[0], 2, (3, 4, 5)).statement.release == 2


def title(run: Several, number: int) -> str:
    return run.descriptor.client(run.small.uploads[number].signed.statement.client).title
