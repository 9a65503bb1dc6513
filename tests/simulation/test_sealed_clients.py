"""Clients that lie in a sealed session, each by name (docs/threat-model.md); protocol.md §6 to §9."""

import numpy as np
import pytest

from secagg.certificate import CERTIFICATE
from secagg.errors import (
    ConflictError,
    HashMismatch,
    PolicyViolation,
    ProtocolViolation,
    SecaggError,
    SignatureInvalid,
    SizeLimitError,
)
from secagg.receipts import Fate, judge_receipt
from secagg.verify import verify_release
from tests.simulation.invariants import check_all, no_secret_is_logged
from tests.simulation.lying_clients import (
    LIARS,
    BlindsInconsistently,
    ClaimsABetterPrivacy,
    ClaimsAnothersUpload,
    GoesBeyondTheClip,
    LyingClient,
    OverflowsItsLimb,
    OverflowsTheSum,
    ReplaysAnotherSession,
    SealsForTheWrongHolder,
    SealsRubbish,
    SendsAnotherLength,
    SendsTwoUploads,
    SharesAnotherKeyThanItUses,
    SharesPointsOnNoPolynomial,
    StoleCertificateAndKeys,
    UploadsFromOffTheRoster,
    VanishesWithoutAWord,
)
from tests.simulation.lying_keyholders import KeepsSilent
from tests.simulation.lying_servers import TakesUploadsWithoutChecks
from tests.simulation.sealed_parties import PARTIES, Client, Server
from tests.simulation.sealed_session import (
    Burnt,
    Released,
    SealedSession,
    anchors,
    honest_clients,
    honest_holders,
    session,
)

CLIP, LEVELS = 0.5, 2**16 - 1
LIAR = 1


def released(run: SealedSession) -> Released:
    assert isinstance(run.outcome, Released), run.outcome
    return run.outcome


def members(run: SealedSession) -> tuple[str, ...]:
    return verify_release(released(run).files, anchors()).certificate.members


@pytest.mark.parametrize("liar", LIARS)
def test_the_invariants_hold_with_each_liar(liar: type[LyingClient], caplog: pytest.LogCaptureFixture) -> None:
    run = session(clients={LIAR: liar})
    check_all(run)
    no_secret_is_logged(caplog.records, run)
    if liar.refused:
        assert run.clients[LIAR].fingerprint not in members(run)
        assert len(members(run)) == 3


@pytest.mark.parametrize("liar", [SharesPointsOnNoPolynomial, BlindsInconsistently])
def test_inconsistent_shares_are_named_by_the_degree_check_and_left_out(liar: type[LyingClient]) -> None:
    run = session(clients={LIAR: liar})
    certificate = verify_release(released(run).files, anchors()).certificate
    assert list(certificate.degree_check.left_out) == [run.clients[LIAR].fingerprint]
    (excluded,) = certificate.excluded
    assert excluded.reason.startswith("degree check: the shares that it gave to key-holders are inconsistent")
    assert len(certificate.members) == 3
    assert judge_receipt(certificate, run.receipts[excluded.client][0]).fate is Fate.EXCLUDED


def test_without_a_fourth_answer_nothing_is_checked_and_they_burn_the_session() -> None:
    run = session(clients={LIAR: SharesPointsOnNoPolynomial}, holders={3: KeepsSilent})
    assert isinstance(run.outcome, Burnt)
    check_all(run)


def test_wrong_but_consistent_shares_burn_the_session_and_name_nobody() -> None:
    """The share sums agree with each other, and open nothing."""
    run = session(clients={LIAR: SharesAnotherKeyThanItUses})
    assert isinstance(run.outcome, Burnt)
    assert run.clients[LIAR].signer.identity.title not in str(run.outcome.error)


@pytest.mark.parametrize(
    ("liar", "errors"),
    [
        (ReplaysAnotherSession, [ProtocolViolation]),
        (SendsAnotherLength, [SizeLimitError, HashMismatch]),
        (ClaimsAnothersUpload, [SignatureInvalid]),
        (UploadsFromOffTheRoster, [SignatureInvalid]),
        (ClaimsABetterPrivacy, [PolicyViolation]),
    ],
)
def test_what_is_not_the_sessions_is_refused_and_the_others_go_on(
    liar: type[LyingClient], errors: list[type[SecaggError]]
) -> None:
    run = session(clients={LIAR: liar})
    assert [type(error) for error in run.refused("upload")] == errors
    assert run.clients[LIAR].fingerprint not in members(run)


def test_a_replay_that_the_coordinator_lets_in_is_refused_by_every_key_holder() -> None:
    """It lies with the client: the signature is over another ctx, and so are the boxes."""
    run = session(clients={LIAR: ReplaysAnotherSession}, server=TakesUploadsWithoutChecks)
    assert [type(error) for error in run.refused("candidate")] == [ProtocolViolation] * 4
    check_all(run)


def test_a_client_that_vanishes_without_a_word_costs_nothing() -> None:
    run = session(clients={LIAR: VanishesWithoutAWord})
    assert len(members(run)) == 3
    assert not run.refusals


def test_of_two_uploads_the_first_one_counts() -> None:
    run = session(clients={LIAR: SendsTwoUploads})
    assert [type(error) for error in run.refused("upload")] == [ConflictError]
    assert len(run.receipts[run.clients[LIAR].fingerprint]) == 1
    check_all(run)


@pytest.mark.parametrize("liar", [SealsForTheWrongHolder, SealsRubbish])
def test_a_box_that_is_no_share_is_complained_about_and_its_client_named(liar: type[LyingClient]) -> None:
    run = session(clients={LIAR: liar})
    certificate = verify_release(released(run).files, anchors()).certificate
    (excluded,) = certificate.excluded
    assert excluded.client == run.clients[LIAR].fingerprint
    assert "complaints of key-holders" in excluded.reason
    verdict = judge_receipt(certificate, run.receipts[excluded.client][0])
    assert verdict.fate is Fate.EXCLUDED


def test_a_stolen_certificate_with_its_keys_is_the_client_until_the_client_comes() -> None:
    """Not stopped: the thief's upload is in the sum. The client is told that there is one."""
    clients = honest_clients()
    thief = StoleCertificateAndKeys(clients[0].signer, clients[0].change)
    run = SealedSession([thief, *clients[1:], clients[0]], honest_holders(), Server(PARTIES.coordinator)).run()
    assert [type(error) for error in run.refused("upload")] == [ConflictError]
    assert len(members(run)) == 4


def mean_of(run: SealedSession) -> np.ndarray:
    closing = released(run).closing
    assert closing.settlement is not None
    assert closing.opened is not None
    count = len(closing.settlement.final.statement.members)
    return run.descriptor.quantiser.decode_mean(closing.opened.opening.sums, count)


def test_values_beyond_the_clip_move_the_mean_by_no_more_than_the_clip_allows() -> None:
    """Not detected, and bounded: a value of one of four clients is limited to the clip before it is sealed."""
    run = session(clients={LIAR: GoesBeyondTheClip})
    honest = np.sum([client.change for place, client in enumerate(run.clients) if place != LIAR], axis=0)
    step = 2 * CLIP / LEVELS
    assert np.abs(mean_of(run) - honest / 4).max() <= CLIP / 4 + step
    check_all(run)


def test_a_value_beyond_the_quantisers_range_is_not_seen() -> None:
    """Not detected: below |U| (2^b - 1) a sum says nothing of its parts. It moves the mean by more than clip/n."""
    run = session(clients={LIAR: OverflowsItsLimb})
    liar, honest = run.clients[LIAR], run.clients[0]
    assert liar.sent is not None
    assert honest.sent is not None
    assert liar.sent[0] > LEVELS >= honest.sent.max()
    assert liar.fingerprint in members(run)


def test_a_sum_beyond_what_honest_values_reach_burns_the_session_and_names_nobody() -> None:
    run = session(clients={LIAR: OverflowsTheSum})
    assert isinstance(run.outcome, Burnt)


def test_two_that_overflow_together_are_carried_into_the_next_value_and_not_seen() -> None:
    """Not detected: 800,000 is more than beta, so one limb loses beta and the next one gains 1."""
    run = session(clients={0: OverflowsTheSum, LIAR: OverflowsTheSum}, count=5)
    check_all(run)
    base, sent = run.descriptor.parameters.base, [client.sent for client in run.clients]
    total = sum(int(vector[0]) for vector in sent if vector is not None)
    closing = released(run).closing
    assert closing.opened is not None
    assert total >= base
    assert int(closing.opened.opening.sums[0]) == total - base


def test_the_honest_have_their_exact_sum_and_a_certificate_that_says_so() -> None:
    """The control: nobody lies."""
    run = session(count=5)
    assert CERTIFICATE in released(run).files
    assert len(members(run)) == 5
    assert not run.refusals
    mean = np.mean([client.change for client in run.clients], axis=0)
    assert np.abs(mean_of(run) - mean).max() <= 2 * CLIP / LEVELS
    check_all(run)


def test_every_liar_is_told_apart_from_an_honest_client() -> None:
    assert len({liar.name for liar in LIARS}) == len(LIARS)
    assert not any(liar.honest for liar in LIARS)
    assert Client.honest
