"""Clips from a rehearsal on public data."""

import math
from pathlib import Path

import numpy as np
import pytest

from secagg.adapter import unflatten
from secagg.errors import ConfigError
from secagg_client.calibration import MARGIN, calibrated
from secagg_client.noise import SeededSource
from secagg_client.training import train
from tests.client.support import MEAN, examples, loaded, plan_for


def test_every_clip_is_a_power_of_two_above_what_was_seen(tiny_bert_dir: Path) -> None:
    base = loaded(tiny_bert_dir, MEAN)
    plan = plan_for(base)
    made = calibrated(plan, base, examples(60, MEAN), 48)
    assert [spec.name for spec in made.trained] == [spec.name for spec in plan.trained]
    assert len({spec.clip for spec in made.trained}) > 1, "head and adapter move differently"
    seen = unflatten(plan, train(plan, base, examples(60, MEAN).select(range(48)), 48, SeededSource(0)).change)
    for spec in made.trained:
        assert math.log2(spec.clip).is_integer()
        assert MARGIN * np.abs(seen[spec.name]).max() <= spec.clip < 2 * MARGIN * np.abs(seen[spec.name]).max()
    fresh = train(plan, base, examples(48, MEAN, seed=5), 48, SeededSource(9)).change
    cut = [
        float((np.abs(v) > s.clip).mean()) for s, v in zip(made.trained, unflatten(plan, fresh).values(), strict=True)
    ]
    assert max(cut) < 0.02, "other data and other noise are hardly cut"


def test_the_rest_of_the_plan_stays(tiny_bert_dir: Path) -> None:
    base = loaded(tiny_bert_dir, MEAN)
    plan = plan_for(base)
    made = calibrated(plan, base, examples(60, MEAN), 48)
    same = made.model_copy(update={"tensors": plan.tensors})
    assert same == plan


def test_too_few_public_examples(tiny_bert_dir: Path) -> None:
    base = loaded(tiny_bert_dir, MEAN)
    with pytest.raises(ConfigError, match="40 examples cannot stand for a client that declares 48"):
        calibrated(plan_for(base), base, examples(40, MEAN), 48)
