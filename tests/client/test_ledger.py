"""The institution's own ledger: entered before training, composed over sessions and rounds, refused beyond limits."""

from dataclasses import replace
from pathlib import Path

import pytest

from secagg.errors import LedgerError, PolicyViolation
from secagg_client.accounting import Mechanism, epsilon_of
from secagg_client.ledger import Ledger, Spend
from secagg_client.ledger_entry import LedgerLimits
from tests.client.ledgers import (
    AGAIN,
    MECHANISM,
    ONCE,
    OTHER_ROOT,
    ROOT,
    STRICT,
    A,
    B,
    C,
    D,
    ledger_in,
    new_ledger,
    quick,
    spend,
)  # fmt: skip
from tests.client.support import LM, examples, settings


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return new_ledger(tmp_path)


def test_an_entry_is_there_before_training_and_says_what_runs(ledger: Ledger, tmp_path: Path) -> None:
    entry = ledger.begin(spend(A, examples(5, LM)), ONCE)
    assert ledger.entries() == (entry,)
    assert (entry.kind, entry.session, entry.attempt, entry.time) == ("begun", A, 1, 1_700_000_000)
    assert Mechanism(**entry.mechanism.model_dump()) == MECHANISM
    assert (entry.epsilon, entry.delta, entry.noise) == (4.0, 1e-5, "secure")
    assert {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if path.is_file()} == {0o600}


def test_no_text_and_no_plain_hash_is_on_the_disk(ledger: Ledger, tmp_path: Path) -> None:
    data = examples(5, LM)
    ledger.begin(spend(A, data), ONCE)
    content = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert data.fingerprint().encode() not in content
    for text, digest in zip(data.texts, data.record_hashes(), strict=True):
        assert text.encode() not in content
        assert digest[:8] not in content


def test_a_second_session_on_the_same_data_is_refused(ledger: Ledger) -> None:
    data = examples(5, LM)
    ledger.begin(spend(A, data), ONCE)
    reordered = data.select([4, 3, 2, 1, 0])
    with pytest.raises(PolicyViolation, match="already used in session aaaaaaaaaaaaaaaa"):
        ledger.begin(spend(B, reordered, "another name"), ONCE)
    assert len(ledger.entries()) == 1


def test_one_shared_record_is_enough(ledger: Ledger) -> None:
    data = examples(9, LM)
    ledger.begin(spend(A, data.select(range(5)), "first"), ONCE)
    ledger.begin(spend(B, data.select(range(5, 9)), "second"), ONCE)
    with pytest.raises(PolicyViolation, match="already used in session bbbb"):
        ledger.check(spend(C, data.select([8]), "third"), ONCE)


def test_the_same_name_counts_as_the_same_data(ledger: Ledger) -> None:
    """Cleaned or re-exported texts share no hash with the old ones."""
    ledger.begin(spend(A, examples(5, LM, seed=1), "ward 7"), ONCE)
    with pytest.raises(PolicyViolation, match="already used"):
        ledger.check(spend(B, examples(5, LM, seed=2), "ward 7"), ONCE)


def test_repeated_sessions_compose_until_the_total(ledger: Ledger) -> None:
    data = examples(5, LM)
    one = epsilon_of([MECHANISM.event()], 1e-5)
    assert ledger.check(spend(A, data), AGAIN) == pytest.approx(one, rel=0.01)
    spent = list[float]()
    for number in range(30):
        session = f"{number:064x}"
        try:
            spent.append(ledger.check(spend(session, data), AGAIN))
        except PolicyViolation:
            break
        ledger.begin(spend(session, data), AGAIN)
    assert 2 < len(spent) < 29
    with pytest.raises(PolicyViolation, match="above the policy's total 8"):
        ledger.begin(spend(A, data), AGAIN)
    assert spent == sorted(spent)
    together = epsilon_of([MECHANISM.event()] * len(spent), 1e-5)
    assert spent[-1] == pytest.approx(together, rel=0.01)
    assert together < len(spent) * one


def test_a_single_session_above_the_total_is_refused(ledger: Ledger) -> None:
    with pytest.raises(PolicyViolation, match="above the policy's total"):
        ledger.begin(spend(A, examples(5, LM), mechanism=Mechanism(0.5, 0.5, 50)), ONCE)
    assert ledger.entries() == ()


def test_a_run_that_crashed_before_sealing_may_run_again_and_counts_once(ledger: Ledger) -> None:
    data = examples(5, LM)
    ledger.begin(spend(A, data), ONCE)
    assert ledger.begin(spend(A, data), ONCE).attempt == 2
    with pytest.raises(LedgerError, match="other data or settings"):
        ledger.begin(spend(A, data, mechanism=Mechanism(0.1, 1.1, 20)), ONCE)
    with pytest.raises(LedgerError, match="other data or settings"):
        ledger.begin(spend(A, examples(6, LM)), ONCE)
    assert ledger.mark_sealed(A, ROOT).kind == "sealed"
    with pytest.raises(LedgerError, match="already sealed: it is not trained again"):
        ledger.begin(spend(A, data), ONCE)
    with pytest.raises(LedgerError, match="already sealed"):
        ledger.abandon(A)


def test_an_abandoned_session_spent_nothing_and_cannot_come_back(ledger: Ledger) -> None:
    data = examples(5, LM)
    ledger.begin(spend(A, data), ONCE)
    ledger.abandon(A)
    with pytest.raises(LedgerError, match="already abandoned"):
        ledger.begin(spend(A, data), ONCE)
    ledger.begin(spend(B, data), ONCE)
    with pytest.raises(LedgerError, match="never begun"):
        ledger.mark_sealed(C, ROOT)


def test_runs_without_privacy_have_no_place_here() -> None:
    with pytest.raises(PolicyViolation, match="without differential privacy"):
        Spend.of(A, "x", examples(3, LM), MECHANISM, settings(epsilon=None))


def test_one_result_of_a_run_may_leave_and_no_other(ledger: Ledger) -> None:
    """An upload of an earlier attempt, put back with the client's state, is the second thing that would leave."""
    ledger.begin(quick(A, 1), ONCE)
    sealed = ledger.mark_sealed(A, ROOT)
    assert sealed.upload_root == ROOT
    assert ledger.mark_sealed(A, ROOT) == sealed
    with pytest.raises(LedgerError, match="another result: this one must not leave"):
        ledger.mark_sealed(A, OTHER_ROOT)
    assert len(ledger.entries()) == 2


def test_rounds_compose_in_one_session_and_their_attempts_do_not(ledger: Ledger) -> None:
    data = examples(5, LM)
    for number in range(3):
        here = spend(A, data, round_number=number)
        once = ledger.check(here, ONCE)
        assert once == pytest.approx(epsilon_of([MECHANISM.event()] * (number + 1), 1e-5), rel=0.01)
        assert ledger.begin(here, ONCE).attempt == 1
        assert ledger.begin(here, ONCE).attempt == 2
        assert ledger.check(here, ONCE) == once
        ledger.mark_sealed(A, ROOT, number)
    with pytest.raises(LedgerError, match="round 2 is already sealed: it is not trained again"):
        ledger.check(spend(A, data, round_number=1), ONCE)
    with pytest.raises(PolicyViolation, match="already used in session aaaa"):
        ledger.check(spend(B, data), ONCE)


def test_rounds_are_refused_beyond_the_total(ledger: Ledger) -> None:
    data, limits = examples(5, LM), LedgerLimits(total_epsilon=5.0, delta=1e-5)
    ledger.begin(spend(A, data), limits)
    ledger.begin(spend(A, data, round_number=1), limits)
    with pytest.raises(PolicyViolation, match="above the policy's total 5"):
        ledger.begin(spend(A, data, round_number=2), limits)
    assert len(ledger.entries()) == 2


def test_rounds_of_one_session_count_together_whatever_their_data(ledger: Ledger) -> None:
    ledger.begin(spend(A, examples(5, LM, seed=1), "first"), ONCE)
    second = spend(A, examples(5, LM, seed=2), "second", round_number=1)
    assert ledger.check(second, ONCE) == pytest.approx(epsilon_of([MECHANISM.event()] * 2, 1e-5), rel=0.01)


def test_an_abandoned_round_leaves_the_others(ledger: Ledger) -> None:
    data = examples(5, LM)
    ledger.begin(spend(A, data), ONCE)
    ledger.begin(spend(A, data, round_number=1), ONCE)
    ledger.abandon(A, 1)
    one = epsilon_of([MECHANISM.event()], 1e-5)
    assert ledger.spent(ONCE)[0].epsilon == pytest.approx(one, rel=0.01)
    with pytest.raises(LedgerError, match="round 2 is already abandoned"):
        ledger.mark_sealed(A, ROOT, 1)
    ledger.mark_sealed(A, ROOT, 0)


@pytest.mark.parametrize("rounds", [2, 3, 6])
def test_rounds_cost_what_one_round_of_as_many_steps_costs(tmp_path: Path, rounds: int) -> None:
    """At equal rate and sigma. The accountant agrees within its grid; the ledger, which adds up the steps, exactly."""
    steps, data = 30, examples(5, LM)
    whole, part = Mechanism(0.2, 1.6, steps), Mechanism(0.2, 1.6, steps // rounds)
    one = epsilon_of([whole.event()], 1e-5)
    assert epsilon_of([part.event()] * rounds, 1e-5) == pytest.approx(one, rel=1e-3)
    shot, ledger = new_ledger(tmp_path / "one"), new_ledger(tmp_path / "many")
    for number in range(rounds):
        total = ledger.check(spend(A, data, mechanism=part, round_number=number), ONCE)
        ledger.begin(spend(A, data, mechanism=part, round_number=number), ONCE)
    assert total == shot.check(spend(A, data, mechanism=whole), ONCE)


def test_an_institution_may_count_every_attempt(ledger: Ledger) -> None:
    """Also those of which nothing left, and those of sessions that were abandoned."""
    data = examples(5, LM)
    one, two = (epsilon_of([MECHANISM.event()] * count, 1e-5) for count in (1, 2))
    ledger.begin(spend(A, data), STRICT)
    assert ledger.check(spend(A, data), AGAIN) == pytest.approx(one, rel=0.01)
    assert ledger.check(spend(A, data), STRICT) == pytest.approx(two, rel=0.01)
    ledger.abandon(A)
    assert ledger.check(spend(B, data), AGAIN) == pytest.approx(one, rel=0.01)
    assert ledger.check(spend(B, data), STRICT) == pytest.approx(two, rel=0.01)


def test_what_was_spent_on_each_data_set(ledger: Ledger) -> None:
    data = examples(9, LM)
    ledger.begin(spend(A, data.select(range(5)), "ward 7"), AGAIN)
    ledger.begin(spend(B, data.select(range(4, 9)), "ward 8"), AGAIN)
    ledger.begin(spend(C, examples(5, LM, seed=5), "ward 9"), AGAIN)
    ledger.begin(spend(D, examples(5, LM, seed=6), "never left"), AGAIN)
    ledger.abandon(D)
    seven, eight, nine, left = ledger.spent(AGAIN)
    assert [each.name for each in (seven, eight, nine, left)] == ["ward 7", "ward 8", "ward 9", "never left"]
    assert (seven.sessions, seven.steps) == (eight.sessions, eight.steps) == (2, 40), "they share a record"
    assert (nine.sessions, nine.steps, left.sessions, left.steps, left.epsilon) == (1, 20, 0, 0, 0.0)
    assert nine.epsilon == pytest.approx(epsilon_of([MECHANISM.event()], 1e-5), rel=0.01)
    assert seven.epsilon == eight.epsilon == pytest.approx(epsilon_of([MECHANISM.event()] * 2, 1e-5), rel=0.01)


def test_a_ledger_is_never_made_on_the_way(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="no ledger was made yet; `secagg client ledger init` makes it"):
        ledger_in(tmp_path).check(quick(A, 1), ONCE)
    assert list(tmp_path.iterdir()) == []


def test_a_line_says_how_many_releases_its_session_may_have_and_charges_one(tmp_path: Path) -> None:
    """A vector is in one of them at most (protocol.md §8.7.5); lines that do not say are of one release."""
    ledger = new_ledger(tmp_path)
    many = replace(quick(A, 1), releases=3)
    begun = ledger.begin(many, AGAIN)
    assert ledger.mark_sealed(A, ROOT).releases == begun.releases == 3
    assert [line.releases for line in ledger_in(tmp_path).entries()] == [3, 3]
    one = new_ledger(tmp_path / "one")
    assert one.begin(replace(many, releases=1), AGAIN).releases == 1
    assert '"releases"' not in (tmp_path / "one" / "ledger" / "ledger.jsonl").read_text()
    assert one.spent(AGAIN) == ledger.spent(AGAIN)
