"""Key-holders that lie in a sealed session, each by name (docs/threat-model.md); protocol.md §8.2 to §9.1."""

import pytest

from secagg.errors import ConflictError
from secagg.verify import verify_release
from tests.simulation.invariants import check_all, no_secret_is_logged
from tests.simulation.lying_keyholders import (
    LIARS,
    ComplainsAboutEverybody,
    EndorsesTwice,
    FramesAClient,
    KeepsSilent,
    LiesInTheDegreeCheck,
    LyingHolder,
    NeverApproves,
    RestoredFromABackup,
    SendsAWrongShareSum,
    SilentAtTheEnd,
)
from tests.simulation.lying_servers import AsksForOverlappingSets
from tests.simulation.sealed_session import Burnt, Released, SealedSession, Unopened, anchors, session

PLACES = range(4)


def released(run: SealedSession) -> Released:
    assert isinstance(run.outcome, Released), run.outcome
    return run.outcome


@pytest.mark.parametrize("liar", LIARS)
@pytest.mark.parametrize("place", PLACES)
def test_the_invariants_hold_and_one_liar_stops_nothing(
    liar: type[LyingHolder], place: int, caplog: pytest.LogCaptureFixture
) -> None:
    run = session(holders={place: liar})
    check_all(run)
    no_secret_is_logged(caplog.records, run)
    assert isinstance(run.outcome, Released)


@pytest.mark.parametrize("place", PLACES)
def test_a_wrong_share_sum_is_outvoted_and_named(place: int) -> None:
    run = session(holders={place: SendsAWrongShareSum})
    closing = released(run).closing
    assert closing.opened is not None
    assert place + 1 not in [answer.signed.statement.index for answer in closing.opened.used]
    certificate = verify_release(released(run).files, anchors()).certificate
    assert [fault.holder for fault in certificate.holder_faults] == [run.holders[place].fingerprint]


def test_one_that_lies_in_the_degree_check_has_a_member_left_out_and_the_finding_says_so() -> None:
    """Not stopped with four key-holders: with six and f = 1 it frames nobody (tests/secagg/test_degree.py)."""
    run = session(holders={1: LiesInTheDegreeCheck})
    certificate = verify_release(released(run).files, anchors()).certificate
    framed = certificate.candidate.statement.members[0].client
    assert certificate.degree_check.left_out == {framed: "inconsistent-shares-or-a-lying-key-holder"}
    check_all(run)


def test_without_t_true_share_sums_the_session_is_burnt() -> None:
    run = session(holders={0: SendsAWrongShareSum, 1: SilentAtTheEnd})
    assert isinstance(run.outcome, Burnt)
    check_all(run)


@pytest.mark.parametrize("silence", [KeepsSilent, NeverApproves, SilentAtTheEnd])
def test_one_silent_key_holder_is_not_needed_and_two_stop_the_session(silence: type[LyingHolder]) -> None:
    assert len(released(session(holders={3: silence})).closing.shares) == 3
    run = session(holders={2: silence, 3: KeepsSilent})
    assert isinstance(run.outcome, Unopened)
    check_all(run)


def test_one_that_endorses_twice_opens_no_second_set() -> None:
    run = session(server=AsksForOverlappingSets, holders={1: EndorsesTwice})
    first, second = run.server.closings
    assert len(second.answers) == 1
    assert not second.shares
    assert len(first.shares) == 4


def test_one_that_was_restored_endorses_a_second_set_and_counts_towards_f() -> None:
    """Its peers' words were not shown to it. One such key-holder is within f: no second set is opened."""
    run = session(server=AsksForOverlappingSets, holders={1: RestoredFromABackup})
    _, second = run.server.closings
    assert [answer.statement.holder for answer in second.answers.values()] == [run.holders[1].fingerprint]
    assert not second.shares
    check_all(run)


def test_one_that_was_restored_stops_when_it_is_shown_what_it_said() -> None:
    run = session(server=AsksForOverlappingSets, holders={1: RestoredFromABackup})
    first, second = run.server.closings
    own = first.answers[run.holders[1].fingerprint]
    request = second.candidate_request(run.holders[1])
    with pytest.raises(ConflictError, match="endorsed another candidate set"):
        run.holders[1].machine.endorse_candidate(run.descriptor, request.candidate, request.shown, (own,), run.now)


def test_one_that_complains_about_everybody_is_left_out() -> None:
    run = session(holders={2: ComplainsAboutEverybody})
    certificate = verify_release(released(run).files, anchors()).certificate
    assert len(certificate.members) == 4
    assert run.holders[2].fingerprint not in {answer.signer for answer in certificate.candidate_endorsements}


def test_one_that_frames_a_client_leaves_it_out_under_its_own_signature() -> None:
    """Not stopped: nobody else can open the box. The certificate says whose word it was."""
    run = session(holders={2: FramesAClient})
    certificate = verify_release(released(run).files, anchors()).certificate
    (excluded,) = certificate.excluded
    assert excluded.reason == f"complaints of key-holders ({run.holders[2].signer.identity.title}: box-malformed)"


def test_the_same_request_gets_the_same_bytes() -> None:
    """Every request came three times; what was recorded first is what is answered."""
    run = session(repeats=3)
    check_all(run)
    assert not run.refusals
