"""`secagg bench training`: its figures from its measurements."""

import numpy as np
import pytest

from secagg_app.bench_training import ArmCost, ShapeCost, median_interval, to_json

ARMS = ("dp", "plain", "dp_fp32", "plain_fp32", "peft_fp32", "opacus_hooks", "opacus_ghost")


def cost(seconds: float, rate: float, peak: float) -> ArmCost:
    return ArmCost((seconds, 2 * seconds, seconds), 1e3 * seconds, rate, peak, peak / 2)


def test_headline_ratios_are_of_blocks_that_ran_side_by_side() -> None:
    arms = {name: cost(1.0, 10.0, 100.0) for name in ARMS} | {"dp": cost(1.1, 30.0, 120.0)}
    ratios = ShapeCost("minilm", 32, 64, arms).ratios()
    assert ratios["dp_over_plain_time"] == pytest.approx(1.1)
    assert ratios["dp_over_plain_time_interval"] == pytest.approx([1.1, 1.1])
    assert ratios["dp_over_plain_memory"] == pytest.approx(1.2)
    assert ratios["dp_over_plain_fp32_throughput"] == pytest.approx(3.0)
    assert {"minilm_32x64", "machine", "detail"} == set(to_json([ShapeCost("minilm", 32, 64, arms)]))


def test_the_interval_of_a_median_covers_it() -> None:
    assert median_interval([3.0, 1.0, 2.0]) == (1.0, 3.0), "too few values: all of them"
    rng = np.random.default_rng(0)
    found = [median_interval(list(rng.normal(size=25))) for _ in range(2000)]
    assert 0.95 <= np.mean([low <= 0 <= high for low, high in found]) < 0.975
