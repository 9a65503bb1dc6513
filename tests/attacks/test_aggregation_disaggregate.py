"""Sums over many rounds taken apart again: exact where updates stay alike, stated error under fresh noise."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from secagg.errors import AuditError, PolicyViolation
from secagg.rounds import Round
from secagg.verify import verify_release
from secagg_attacks.aggregation.disaggregate import Disaggregated, Log, disaggregate, mean_updates
from secagg_attacks.aggregation.replay import Replayer
from secagg_attacks.intervals import Floats
from tests.attacks.federation import public_of, record_of
from tests.client.support import LM, loaded
from tests.small import Small

Bools = NDArray[np.bool_]


def took_part(rounds: int, clients: int, seed: int = 0) -> Bools:
    return np.random.default_rng(seed).random((rounds, clients)) < 0.6


def log_of(participation: Bools, length: int = 4) -> Log:
    window = np.arange(len(participation)) // length
    return Log(window, np.array([np.bincount(window, weights=column) for column in participation.T]).astype(np.int64))


def cosine(a: Floats, b: Floats) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_constant_updates_are_recovered_exactly_from_sums_and_counts() -> None:
    participation = took_part(24, 6)
    updates = np.random.default_rng(1).normal(0, 1, (6, 200))
    found = disaggregate(participation @ updates, log_of(participation))
    assert np.array_equal(found.participation, participation)
    assert not found.alike
    np.testing.assert_allclose(found.updates, updates, atol=1e-9)
    assert found.residual < 1e-12


def test_clients_with_the_same_counts_are_found_but_not_told_apart() -> None:
    participation = took_part(16, 3, seed=4)
    participation[:, 1] = np.concatenate([np.roll(part, 1) for part in participation[:, 0].reshape(4, 4)])
    assert not np.array_equal(participation[:, 0], participation[:, 1])
    updates = np.random.default_rng(1).normal(0, 1, (3, 50))
    found = disaggregate(participation @ updates, log_of(participation))
    assert found.alike
    assert {tuple(column) for column in found.participation.T} == {tuple(column) for column in participation.T}


def noisy(participation: Bools, updates: Floats, deviation: float) -> Floats:
    """Each client adds fresh noise to each update of each round."""
    draws = np.random.default_rng(2).normal(0, deviation, (*participation.shape, updates.shape[1]))
    sums: Floats = participation @ updates + np.einsum("rc,rcl->rl", participation, draws)
    return sums


def test_under_fresh_noise_the_error_is_the_stated_one() -> None:
    participation, deviation = took_part(30, 5), 2.0
    updates = np.random.default_rng(1).normal(0, 1, (5, 4000))
    found = mean_updates(participation, noisy(participation, updates, deviation))
    errors = np.std(found.updates - updates, axis=1)
    stated = deviation * found.noise
    assert np.abs(errors / stated - 1).max() < 4 / np.sqrt(2 * 4000)
    assert (stated < deviation).all(), "thirty rounds say more than one update alone: DP composes over rounds for this"


@pytest.mark.parametrize(("deviation", "right"), [(0.5, True), (40.0, False)])
def test_participation_is_found_until_noise_hides_the_sums_space(deviation: float, right: bool) -> None:
    participation = took_part(20, 4)
    updates = np.random.default_rng(1).normal(0, 1, (4, 500))
    found = disaggregate(noisy(participation, updates, deviation), log_of(participation))
    assert np.array_equal(found.participation, participation) == right


def test_real_clients_over_rounds_without_noise_are_taken_apart(tiny_llama_dir: Path) -> None:
    """Updates drift from round to round, so it is no longer exact: each client's mean update, by cosine."""
    record = record_of(public_of(loaded(tiny_llama_dir, LM), clients=4, rounds=16, steps=16))
    changes = np.stack([each.changes for each in record.rounds]).astype(np.float64)
    participation = took_part(16, 4, seed=2)
    found = mean_updates(participation, np.einsum("rc,rcl->rl", participation, changes))
    truth = np.array([changes[participation[:, client], client].mean(0) for client in range(4)])
    matching = [cosine(found.updates[client], truth[client]) for client in range(4)]
    crossed = [cosine(found.updates[a], truth[b]) for a in range(4) for b in range(4) if a != b]
    assert min(matching) > max(crossed)
    assert np.mean(matching) > np.mean(crossed) + 0.05


def test_what_cannot_be_is_refused() -> None:
    participation = took_part(12, 3)
    updates = np.random.default_rng(1).normal(0, 1, (3, 20))
    sums = participation @ updates
    with pytest.raises(AuditError, match="there must be more"):
        disaggregate(sums[:3], log_of(participation[:3]))
    with pytest.raises(AuditError, match="fewer dimensions"):
        disaggregate(participation @ np.ones((3, 20)), log_of(participation))
    with pytest.raises(AuditError, match="tell only 1 of 3"):
        mean_updates(np.ones((12, 3), bool), sums)
    with pytest.raises(AuditError, match="no participation"):
        disaggregate(sums, replace(log_of(participation), counts=log_of(participation).counts + 4))
    with pytest.raises(AuditError, match="numbers each round"):
        Log(np.zeros(3, np.int64), np.zeros((2, 5), np.int64))


# -- what stops it here ----------------------------------------------------------------------------------------


def test_a_policy_that_does_not_say_otherwise_allows_one_round() -> None:
    small = Small(round=Round(number=0, rounds=2))
    with pytest.raises(PolicyViolation, match="one of 2 rounds, the policy allows 1"):
        small.committee[0].approve(small.proposal, small.now)


def test_the_sets_are_public_so_nobody_needs_to_find_participation() -> None:
    """NOT hidden: each certificate names its members, so with rounds allowed only the noise is in the way."""
    small = Small()
    certificate = verify_release(small.release, small.policy).certificate
    assert {member.client for member in certificate.final.statement.members} == set(small.descriptor.clients)


def test_the_coordinator_chooses_whom_a_round_leaves_out() -> None:
    """NOT stopped: key-holders endorse any first set from n_min on, though the fourth has uploaded in time too."""
    small = Small(clients=4)
    replayer = Replayer(small.descriptor, small.parties.coordinator, small.uploads, small.now)
    asked = replayer.ask([upload.signed.statement.client for upload in small.uploads[:3]], small.committee)
    assert not asked.refusals
    assert asked.mean is not None


def test_a_result_says_no_update_in_its_repr() -> None:
    assert "updates" not in repr(Disaggregated(np.ones((1, 1), bool), np.ones((1, 1)), 0.0, np.ones(1)))
