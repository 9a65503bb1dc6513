"""What the demo says of its figures: intervals, order, and a conclusion that claims no more than they show."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secagg_app.demo.command import simulated
from secagg_app.demo.figures import (
    ACCURACY,
    HEAD,
    LOCAL_MEAN,
    MAJORITY,
    PERPLEXITY,
    PLAIN,
    RELEASED,
    START,
    Results,
    gather,
    wilson,
)

N = 2000


def accuracy(value: float) -> dict[str, float]:
    return {"accuracy": value, "examples": N, "loss": 0.5}


def results(**changed: float) -> Results:
    values = {"released": 0.80, "start": 0.66, "majority": 0.64, "head": 0.70, "plain": 0.83, "local": 0.75} | changed
    found = {
        RELEASED: accuracy(values["released"]),
        START: accuracy(values["start"]),
        MAJORITY: accuracy(values["majority"]),
        HEAD: accuracy(values["head"]),
        PLAIN: accuracy(values["plain"]),
    }
    local = {"North": accuracy(values["local"]), "South": accuracy(values["local"] - 0.02)}
    return gather(ACCURACY, found, local, 8.0, zero_shot=True)


def test_wilson_interval_by_hand() -> None:
    # 8 of 10: Wilson (1927), also in every textbook
    assert wilson(0.8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)


@given(share=st.floats(0, 1), examples=st.integers(1, 10**6))
def test_an_interval_holds_its_share_and_stays_between_0_and_1(share: float, examples: int) -> None:
    low, high = wilson(share, examples)
    assert -1e-12 <= low <= share + 1e-12
    assert share - 1e-12 <= high <= 1 + 1e-12


def test_a_clear_gain_is_claimed() -> None:
    said = results().verdict
    assert "Training worked: the released adapter is 14.0 points better than the starting model." in said
    assert "Federating helped: the released adapter is 6.0 points better than the clients alone on average." in said
    assert "The adapter was worth it: the released adapter is 10.0 points better than the linear head." in said
    assert "Privacy cost 3.0 points" in said


def test_a_gain_within_chance_is_not_claimed() -> None:
    said = results(head=0.795, local=0.805).verdict
    assert "Not clear: the released adapter is 0.5 points better than the clients alone" in said
    assert "Not clear: the released adapter is 0.5 points better than the linear head, which" in said
    assert said.count("2,000 examples cannot tell from chance") == 3


def test_a_loss_is_said_as_such() -> None:
    said = results(head=0.85, local=0.86, start=0.80).verdict
    assert "Training did not work: the released adapter is level with the starting model." in said
    assert "5.0 points worse than the linear head" in said
    assert "6.0 points worse than the best client alone, picked on these examples" in said


def test_the_released_adapter_comes_first_and_simulations_last() -> None:
    found = results()
    assert found.released.title.startswith(RELEASED)
    assert [figure.kind for figure in found.figures] == ["released", *["baseline"] * 3, *["local"] * 3, "simulation"]
    mean = found.find(LOCAL_MEAN)
    assert mean is not None
    assert mean.value == pytest.approx(0.74)
    assert mean.interval is None


def test_what_was_not_computed_is_not_mentioned() -> None:
    found = gather(ACCURACY, {RELEASED: accuracy(0.8), START: accuracy(0.6)}, {}, 8.0, zero_shot=False)
    assert found.verdict == ("Training worked: the released adapter is 20.0 points better than the starting model.")


@pytest.mark.parametrize("zero_shot", [True, False])
def test_only_a_start_from_descriptions_is_called_zero_shot(zero_shot: bool) -> None:
    made = gather(ACCURACY, {RELEASED: accuracy(0.8), START: accuracy(0.6)}, {}, 8.0, zero_shot=zero_shot)
    assert made.figures[1].title == ("starting model (zero-shot)" if zero_shot else "starting model")


def test_only_what_was_simulated_is_said_to_be() -> None:
    found = {RELEASED: accuracy(0.8), START: accuracy(0.6)}
    cases: tuple[tuple[dict[str, dict[str, float]], str], ...] = (
        ({}, ""),
        ({PLAIN: accuracy(0.9)}, "The run without privacy was simulated in memory; nothing of it was released."),
        ({PLAIN: accuracy(0.9), HEAD: accuracy(0.7)}, "The run without privacy and the head were simulated"),
    )
    for more, said in cases:
        shown = simulated(gather(ACCURACY, found | more, {}, 8.0, zero_shot=False))
        assert shown.startswith(said)
        assert bool(shown) == bool(said)


def perplexity(value: float, error: float) -> dict[str, float]:
    return {"perplexity": value, "examples": 100, "loss_error": error}


def test_lower_perplexity_is_better() -> None:
    found = {RELEASED: perplexity(50.0, 0.02), START: perplexity(80.0, 0.03)}
    made = gather(PERPLEXITY, found, {"North": perplexity(52.0, 0.02)}, 8.0, zero_shot=False)
    assert "Training worked: the released adapter is 30.0 of perplexity better than the starting model" in made.verdict
    assert "Not clear: the released adapter is 2.0 of perplexity better than the clients alone" in made.verdict
    assert made.released.interval == pytest.approx((50 / 1.04, 50 * 1.04), rel=1e-3)


def test_figures_without_an_error_are_not_told_apart() -> None:
    found = {RELEASED: {"perplexity": 50.0, "examples": 100}, START: {"perplexity": 80.0, "examples": 100}}
    made = gather(PERPLEXITY, found, {}, 8.0, zero_shot=False)
    assert made.released.interval is None
    assert made.verdict.startswith("Not clear")


def test_figures_become_an_evaluation_with_intervals() -> None:
    made = results().evaluation("ab" * 32, "made up")
    assert made.measure == "accuracy"
    assert made.examples == N
    assert made.metrics[0].kind == "released"
    assert made.metrics[0].low is not None
    assert made.verdict == results().verdict
