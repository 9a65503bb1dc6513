"""What a sweep says: intervals, pairing by seed, and the rule for "nothing learnt"."""

from typing import Any

import pytest
from scipy import stats

from secagg_app.simulate.summary import interval, lines, markdown


def row(seed: int, value: float, rounds: int = 1, measure: str = "accuracy", arm: str = "federated") -> dict[str, Any]:
    return {
        "arm": arm, "rounds": rounds, "clients": 4, "alpha": 3.0, "epsilon": 8.0, "method": "ffa-lora",
        "learning_rate": 1.0, "seed": seed, "measure": measure, "value": value, "start": 0.5, "bytes_up": 1000 * rounds,
    }  # fmt: skip


def test_the_interval_is_that_of_a_t_test() -> None:
    values = [0.1, 0.4, 0.2, 0.35, 0.3]
    found = interval(values)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high))


def test_rounds_are_compared_by_seed() -> None:
    one = [row(seed, value) for seed, value in enumerate((0.6, 0.7, 0.8))]
    three = [row(seed, value, rounds=3) for seed, value in enumerate((0.61, 0.72, 0.83))]
    found = lines([*one, *three])
    assert found[0].against_one_shot is None
    assert found[1].against_one_shot is not None
    assert found[1].against_one_shot.mean == pytest.approx(0.02)
    assert found[1].bytes_up == 3000


def test_cells_that_differ_in_anything_are_lines_of_their_own() -> None:
    more = [{**row(seed, 0.7), "method": "fed-sb"} for seed in range(3)]
    found = lines([*(row(seed, 0.6) for seed in range(3)), *more])
    assert [(line.method, line.value.mean) for line in found] == [("ffa-lora", 0.6), ("fed-sb", pytest.approx(0.7))]
    assert "| method |" in markdown(found)
    assert "| clients |" not in markdown(found)


def test_lower_loss_is_a_gain() -> None:
    found = lines([row(seed, value, measure="loss") for seed, value in enumerate((0.4, 0.41, 0.39))])
    assert found[0].gain.mean == pytest.approx(0.1)
    assert found[0].learnt


def test_a_gain_that_may_be_nought_reads_nothing_learnt() -> None:
    found = lines([row(seed, value) for seed, value in enumerate((0.45, 0.52, 0.56))])
    assert not found[0].learnt
    assert "nothing learnt" in markdown(found)
