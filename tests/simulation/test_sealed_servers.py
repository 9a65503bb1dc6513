"""Coordinators that lie in a sealed session, each by name (docs/threat-model.md); protocol.md §4, §8 to §10."""

from typing import Any

import pytest

from secagg.certificate import ADAPTER
from secagg.errors import (
    ConflictError,
    EndorsementInvalid,
    PolicyViolation,
    ProtocolViolation,
    RoleViolation,
    SecaggError,
    SessionClosed,
    SignatureInvalid,
    TooFewContributions,
    VerificationError,
)
from secagg.receipts import Fate, judge_receipt
from secagg.verify import NOT_LINKED, verify_release
from tests.simulation.invariants import check_all, no_secret_is_logged, one_set_at_most_is_opened
from tests.simulation.lying_keyholders import EndorsesTwice
from tests.simulation.lying_servers import (
    LIARS,
    AddsMembersOffTheRoster,
    AddsToTheSum,
    AltersACiphertext,
    AsksForOverlappingSets,
    BackdatesTheMembersToo,
    BackdatesTheSet,
    CountsReleasesUp,
    DatesTheSessionInTheFuture,
    DatesTheSetBeforeTheSession,
    DatesTheSetInTheFuture,
    DropsAClientSilently,
    FillsTheRosterWithSybils,
    ForgesBoxesForTheAbsent,
    LyingServer,
    OpensTooFew,
    PublishesAWrongOpening,
    ShowsDifferentSets,
    SwapsTheModel,
    TellsEachClientAnotherSession,
    TellsEachHolderAnotherSession,
)
from tests.simulation.sealed_session import Burnt, Caught, Released, SealedSession, Unopened, anchors, session
from tests.small import DAY


def errors(run: SealedSession, step: str) -> list[type[SecaggError]]:
    return [type(error) for error in run.refused(step)]


@pytest.mark.parametrize("liar", LIARS)
def test_the_invariants_hold_with_each_liar(liar: type[LyingServer], caplog: pytest.LogCaptureFixture) -> None:
    run = session(server=liar)
    check_all(run)
    no_secret_is_logged(caplog.records, run)


@pytest.mark.parametrize(
    ("liar", "step", "error"),
    [
        (OpensTooFew, "candidate", TooFewContributions),
        (AddsMembersOffTheRoster, "candidate", RoleViolation),
        (ForgesBoxesForTheAbsent, "candidate", SignatureInvalid),
        (DatesTheSetInTheFuture, "candidate", ProtocolViolation),
        (DatesTheSetBeforeTheSession, "candidate", ProtocolViolation),
        (SwapsTheModel, "approve", PolicyViolation),
        (FillsTheRosterWithSybils, "approve", PolicyViolation),
        (DatesTheSessionInTheFuture, "join", ProtocolViolation),
        (TellsEachHolderAnotherSession, "join", EndorsementInvalid),
    ],
)
def test_everybody_who_is_asked_refuses_and_nothing_is_opened(
    liar: type[LyingServer], step: str, error: type[SecaggError]
) -> None:
    run = session(server=liar)
    assert errors(run, step) == [error] * 4
    assert isinstance(run.outcome, Unopened)


@pytest.mark.parametrize("liar", [SwapsTheModel, FillsTheRosterWithSybils])
def test_a_committee_that_approves_all_the_same_moves_no_client(liar: type[LyingServer]) -> None:
    """Every key-holder colludes; each client's own policy has the same pins."""
    run = session(server=liar, holders=dict.fromkeys(range(4), ApprovesAnything))
    assert errors(run, "approve") == []
    assert errors(run, "join") == [PolicyViolation] * 4
    assert not run.receipts


class ApprovesAnything(EndorsesTwice):
    """Signs what it is shown."""

    def approve(self, proposal: Any, now: int) -> list[Any]:
        statement = proposal.descriptor.statement
        from secagg.messages import Approval

        return [self.signer.sign(Approval(ctx=statement.ctx, holder=self.fingerprint))]


def test_different_sets_to_different_key_holders_open_nothing() -> None:
    run = session(server=ShowsDifferentSets)
    assert [len(closing.answers) for closing in run.server.closings] == [2, 2]
    assert errors(run, "settle") == [EndorsementInvalid] * 2
    assert isinstance(run.outcome, Unopened)


@pytest.mark.parametrize("corrupt", range(4))
def test_with_one_corrupt_key_holder_one_of_two_sets_is_opened_and_never_both(corrupt: int) -> None:
    run = session(server=ShowsDifferentSets, holders={corrupt: EndorsesTwice})
    shares = [len(closing.shares) for closing in run.server.closings]
    assert sorted(shares) == [0, 3]
    check_all(run)


def test_with_two_corrupt_key_holders_both_are_opened_and_the_invariant_notices() -> None:
    """The control: f = 1 is the limit of what four key-holders bear."""
    run = session(server=ShowsDifferentSets, holders={1: EndorsesTwice, 2: EndorsesTwice})
    with pytest.raises(AssertionError, match="2 sets have t share sums"):
        one_set_at_most_is_opened(run)


@pytest.mark.parametrize("liar", [AsksForOverlappingSets, CountsReleasesUp])
@pytest.mark.parametrize("corrupt", [{}, {2: EndorsesTwice}])
def test_a_second_set_that_overlaps_is_refused(liar: type[LyingServer], corrupt: dict[int, Any]) -> None:
    run = session(server=liar, holders=corrupt)
    expected = ConflictError if liar is AsksForOverlappingSets else ProtocolViolation
    assert set(errors(run, "candidate")) == {expected}
    first, second = run.server.closings
    assert len(first.shares) == 4
    assert len(second.answers) <= len(corrupt)
    assert not second.shares
    check_all(run)


def test_a_client_that_was_dropped_silently_has_a_proof() -> None:
    """Receipt and certificate, both signed by the coordinator, contradict each other."""
    run = session(server=DropsAClientSilently)
    assert isinstance(run.outcome, Released)
    certificate = verify_release(run.outcome.files, anchors()).certificate
    fates = {client: judge_receipt(certificate, receipts[0]).fate for client, receipts in run.receipts.items()}
    dropped = list(run.receipts)[-1]
    assert fates == {client: Fate.DROPPED if client == dropped else Fate.INCLUDED for client in run.receipts}
    assert [item.reason for item in certificate.excluded] == ["no upload before the set was fixed"]


def test_a_set_that_is_dated_back_before_its_members_came_does_not_verify() -> None:
    """With two releases: "it came after the set was fixed" would be the word to the client that was left out."""
    run = session(server=BackdatesTheSet, count=6)
    assert run.descriptor.releases == 2
    assert isinstance(run.outcome, Caught)
    second = run.clients[1].signer.identity.title
    assert f"the upload of {second} came after the set that it is in was fixed" in str(run.outcome.error)
    check_all(run)


def test_members_that_are_dated_back_with_their_set_hold_the_proof() -> None:
    """The certificate verifies; its dates are other than those that the coordinator signed before (§10.4)."""
    run = session(server=BackdatesTheMembersToo, count=6)
    assert isinstance(run.outcome, Released)
    certificate = verify_release(run.outcome.files, anchors()).certificate
    fates = [judge_receipt(certificate, receipts[0]).fate for receipts in run.receipts.values()]
    assert fates == [Fate.INCLUDED, *[Fate.MISDATED] * 4, Fate.ELSEWHERE]
    check_all(run)


def test_a_receipt_of_another_session_or_coordinator_proves_nothing() -> None:
    run, other = session(server=DropsAClientSilently), session()
    assert isinstance(run.outcome, Released)
    certificate = verify_release(run.outcome.files, anchors()).certificate
    (receipt,) = list(other.receipts.values())[-1]
    with pytest.raises(ProtocolViolation, match="the receipt is for session"):
        judge_receipt(certificate, receipt)
    (own,) = list(run.receipts.values())[-1]
    forged = run.clients[-1].signer.sign(own.statement)
    with pytest.raises(SignatureInvalid):
        judge_receipt(certificate, forged)


def test_an_altered_ciphertext_burns_the_session() -> None:
    assert isinstance(session(server=AltersACiphertext).outcome, Burnt)


def test_what_is_added_to_the_sum_is_seen_by_who_adds_the_uploads_again_and_by_nobody_else() -> None:
    """Not stopped: from the release alone it cannot be seen, and `verify` says that the sum is not linked."""
    run = session(server=AddsToTheSum)
    assert isinstance(run.outcome, Caught)
    assert isinstance(run.outcome.error, VerificationError)
    files = run.server.publish(run.outcome.closing)
    report = verify_release(files, anchors())
    assert NOT_LINKED in report.checks


def test_a_wrong_opening_does_not_verify_without_the_uploads_either() -> None:
    run = session(server=PublishesAWrongOpening)
    assert isinstance(run.outcome, Caught)
    files = run.server.publish(run.outcome.closing)
    with pytest.raises(VerificationError, match=f"{ADAPTER} is not the decoded mean"):
        verify_release(files, anchors())


def test_a_client_that_is_shown_another_descriptor_does_not_join_it() -> None:
    run = session(server=TellsEachClientAnotherSession)
    assert errors(run, "join") == [EndorsementInvalid]
    assert len(run.receipts) == 3


def test_one_key_offer_is_approved_for_one_descriptor() -> None:
    """Shown the second descriptor as well, a key-holder refuses: its key serves one session."""
    run = session(server=TellsEachClientAnotherSession)
    assert isinstance(run.server, TellsEachClientAnotherSession)
    with pytest.raises(ConflictError, match="make a new offer"):
        run.holders[0].approve(run.server.other, run.now)


def test_nothing_is_opened_after_the_expiry_by_the_key_holders_clock() -> None:
    """The coordinator's own clock stands still."""
    run = session(later=2 * DAY + 1)
    assert errors(run, "candidate") == [SessionClosed] * 4
    assert isinstance(run.outcome, Unopened)
    check_all(run)
