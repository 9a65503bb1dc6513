"""Sums over overlapping cohorts: what their differences show, and what here lets no such differences come about."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from secagg.coordinator import mean_change
from secagg.errors import AuditError, LedgerError, PolicyViolation
from secagg_attacks.aggregation.set_difference import CohortSum, amplification, set_difference
from secagg_attacks.intervals import Floats
from tests.attacks.federation import data_of, public_of, record_of
from tests.client.ledgers import AGAIN, ONCE, A, B, new_ledger, spend
from tests.client.support import LM, examples, loaded
from tests.small import Small

CLIENTS = tuple("abcdef")


def updates(seed: int = 0, length: int = 50) -> dict[str, Floats]:
    rng = np.random.default_rng(seed)
    return {client: rng.normal(0, 1, length) for client in CLIENTS}


def over(members: str, by_client: dict[str, Floats]) -> CohortSum:
    total: Floats = np.sum([by_client[client] for client in members], axis=0)
    return CohortSum(frozenset(members), total)


def test_one_client_less_gives_that_client() -> None:
    truth = updates()
    found = set_difference([over("abcdef", truth), over("abcde", truth)], n_min=3)
    assert list(found.alone()) == ["f"]
    np.testing.assert_allclose(found.alone()["f"], truth["f"], atol=1e-12)


def test_a_combination_of_many_sums_is_found_where_no_two_sums_differ_by_one() -> None:
    """ab + ac - bc is twice a: exact elimination, no search over pairs."""
    truth = updates()
    found = set_difference([over("abde", truth), over("acde", truth), over("bcde", truth), over("de", truth)], n_min=2)
    assert sorted(found.alone()) == ["a", "b", "c"]
    for client, vector in found.alone().items():
        factor = next(each for each in found.found if each.clients == (client,)).weights[client]
        np.testing.assert_allclose(vector, factor * truth[client], atol=1e-12)


def test_groups_below_n_min_are_reported_once_with_their_weights() -> None:
    truth = updates()
    sums = [over("abcdef", truth), over("abcd", truth), over("bcdef", truth)]
    found = set_difference(sums, n_min=3)
    assert {each.clients: each.weights for each in found.found} == {("a",): {"a": 1}, ("e", "f"): {"e": 1, "f": 1}}
    swapped = set_difference([over("abc", truth), over("abd", truth)], n_min=3)
    assert [each.weights for each in swapped.found] == [{"c": 1, "d": -1}]
    np.testing.assert_allclose(swapped.found[0].vector, truth["c"] - truth["d"], atol=1e-12)


@pytest.mark.parametrize("cohorts", [["abc", "def"], ["abcdef", "abc"], ["abcdef", "abcdef"]])
def test_cohorts_that_differ_by_n_min_or_not_at_all_isolate_nobody(cohorts: list[str]) -> None:
    truth = updates()
    assert set_difference([over(members, truth) for members in cohorts], n_min=3).found == ()


def test_a_cohort_below_n_min_is_itself_a_finding() -> None:
    truth = updates()
    assert [each.clients for each in set_difference([over("ab", truth)], n_min=3).found] == [("a", "b")]


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(AuditError, match="of one length"):
        set_difference([CohortSum(frozenset("a"), np.zeros(2)), CohortSum(frozenset("b"), np.zeros(3))], 3)
    many = [CohortSum(frozenset({str(i)}), np.zeros(1)) for i in range(120)]
    with pytest.raises(AuditError, match="too many to try"):
        set_difference(many, 5)


def test_fresh_noise_in_the_second_run_stays_in_the_difference() -> None:
    """Each client trained anew: the difference has the noise of 6 + 5 runs, sqrt(11) deviations, in its way."""
    rng, truth, deviation = np.random.default_rng(1), updates(length=4000), 0.7

    def run(members: str) -> CohortSum:
        return over(members, {client: truth[client] + rng.normal(0, deviation, 4000) for client in members})

    sums = [run("abcdef"), run("abcde")]
    (found,) = set_difference(sums, n_min=3).found
    assert amplification(found, sums) == pytest.approx(np.sqrt(11))
    error = float(np.std(found.vector - truth["f"]))
    standard_error = deviation * np.sqrt(11) / np.sqrt(2 * 4000)
    assert error == pytest.approx(deviation * np.sqrt(11), abs=4 * standard_error)


# -- what stops it here ----------------------------------------------------------------------------------------


def test_the_ledger_of_each_member_refuses_a_second_session_on_its_data(tmp_path: Path) -> None:
    """Without the five others in both sums there is no difference: each of them refuses before training."""
    ledger, data = new_ledger(tmp_path), examples(4, LM, seed=1)
    ledger.begin(spend(A, data), ONCE)
    with pytest.raises(PolicyViolation, match="does not allow a second session on the same data"):
        ledger.begin(spend(B, data), ONCE)


def test_with_a_policy_that_allows_repetition_the_second_session_is_accounted_and_not_stopped(tmp_path: Path) -> None:
    """NOT stopped: an institution that sets allow_repeated is left with noise and composition."""
    ledger, data = new_ledger(tmp_path), examples(4, LM, seed=1)
    ledger.begin(spend(A, data), AGAIN)
    once = ledger.spent(AGAIN)[0].epsilon
    ledger.begin(spend(B, data), AGAIN)
    assert ledger.spent(AGAIN)[0].epsilon > once


def test_a_result_that_was_sealed_is_not_sealed_for_another_set(tmp_path: Path) -> None:
    ledger, data = new_ledger(tmp_path), examples(4, LM, seed=1)
    ledger.begin(spend(A, data), ONCE)
    ledger.mark_sealed(A, "1" * 64)
    with pytest.raises(LedgerError, match="already sealed with another result"):
        ledger.mark_sealed(A, "2" * 64)


def test_key_holders_know_nothing_of_other_sessions() -> None:
    """NOT stopped by them: the same committee opens a second session over one client less. The ledgers must.

    DEFENCE OFF: the three clients send the same update again, as no client with a ledger does.
    """
    small, fewer = Small(clients=4), Small(clients=4)
    *others, victim = small.changes
    fewer.changes = {name: small.changes[name] for name in others}
    fewer.parties = replace(small.parties, clients={name: small.parties.clients[name] for name in others})
    fewer.policy, fewer.committee = small.policy, small.committee
    found = set_difference([opened(small), opened(fewer)], n_min=3).alone()
    (vector,) = found.values()
    assert list(found) == [small.parties.clients[victim].identity.fingerprint]
    assert np.abs(vector - small.changes[victim]).max() < 7 / (2**16 - 1) + 1e-6, "a step for each of seven values"


def opened(small: Small) -> CohortSum:
    final = small.settled.final.statement
    mean = mean_change(small.descriptor, final, small.opened.opening).astype(np.float64)
    return CohortSum(frozenset(member.client for member in final.members), len(final.members) * mean)


@pytest.mark.parametrize("epsilon", [None, 8.0])
def test_clients_that_train_anew_leave_their_differences_in_the_way(
    tiny_llama_dir: Path, epsilon: float | None
) -> None:
    """Real training, in a second session without client 0: other samples alone blur it, and noise buries it."""
    public = public_of(loaded(tiny_llama_dir, LM), clients=4, epsilon=epsilon)
    data = data_of(public)
    first, second = (record_of(public, data, seed).rounds[0].changes.astype(np.float64) for seed in (1, 2))
    cohorts = [CohortSum(frozenset("0123"), first.sum(0)), CohortSum(frozenset("123"), second[1:].sum(0))]
    recovered = set_difference(cohorts, n_min=3).alone()["0"]
    error = np.linalg.norm(recovered - first[0]) / np.linalg.norm(first[0])
    assert error > 0.5
    if epsilon is not None:
        assert error == pytest.approx(np.sqrt(6), rel=0.15), "six runs' noise, where one run's is nearly all of it"
