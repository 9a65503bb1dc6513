"""Task arithmetic, DARE and TIES: what the papers compute, from sums (protocol.md §2.7)."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from secagg.adapter import flatten, start_tensors, unflatten
from secagg.encodings.registry import encoding_of
from secagg.encodings.ties import trimmed
from secagg.plan import Plan
from tests.secagg.encodings.support import Change, mean_vector, plan_of, planted, released
from tests.twin.predictable import PredictableRandomness


def change_of(plan: Plan, tensors: dict[str, Change]) -> NDArray[np.float64]:
    return flatten(plan, tensors).astype(np.float64) - flatten(plan, start_tensors(plan))


def plain_ties(changes: Sequence[Change], keep: float) -> NDArray[np.float64]:
    """Yadav et al. 2023, algorithm 1, one value after the other."""
    kept = list[list[float]]()
    for change in changes:
        count = -int(-keep * len(change) // 1)
        order = sorted(range(len(change)), key=lambda i: (-abs(float(change[i])), i))
        chosen = set(order[:count])
        kept.append([float(value) if i in chosen else 0.0 for i, value in enumerate(change)])
    merged = list[float]()
    for values in zip(*kept, strict=True):
        sign = 1.0 if sum(v for v in values if v > 0) >= -sum(v for v in values if v < 0) else -1.0
        agreeing = [v for v in values if v * sign > 0]
        merged.append(sum(agreeing) / len(agreeing) if agreeing else 0.0)
    return np.array(merged)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 7), st.sampled_from([0.05, 0.2, 0.5, 1.0]))
def test_ties_is_what_the_paper_computes(seed: int, clients: int, keep: float) -> None:
    plan = plan_of("ties", keep=keep)
    changes = planted(plan, clients, seed)
    found, expected = change_of(plan, released(plan, changes, 24)), plain_ties(changes, keep)
    clips = np.concatenate([np.full(spec.size, spec.clip) for spec in plan.trained])
    wrong = np.abs(found - expected) > 1e-5 * clips
    near = np.abs(_mass(changes, keep)) < 1e-5 * clips
    assert not (wrong & ~near).any()


def _mass(changes: Sequence[Change], keep: float) -> NDArray[np.float64]:
    """The sum that elects the sign; near 0, rounding decides."""
    return np.asarray(np.sum([trimmed(change, keep) for change in changes], axis=0, dtype=np.float64))


@pytest.mark.parametrize("bits", [16, 20, 24])
def test_counts_and_zeros_are_exact_at_any_width(bits: int) -> None:
    """A value that no client kept is released as its start value, to the bit."""
    plan = plan_of("ties", keep=0.1)
    changes = planted(plan, 5)
    kept = np.array([trimmed(change, 0.1) for change in changes])
    arrays = encoding_of(plan).layout(plan).split(mean_vector(plan, changes, bits))
    for end, sign in (("/positive-count", 1), ("/negative-count", -1)):
        counts = unflatten(plan, (kept * sign > 0).sum(0).astype(np.float32))
        for spec in plan.trained:
            assert np.array_equal(np.rint(5 * (arrays[spec.name + end] + 1.0) / 2), counts[spec.name])
    tensors, start = released(plan, changes, bits), start_tensors(plan)
    untouched = unflatten(plan, (kept != 0).any(0).astype(np.float32))
    assert not np.concatenate([values.ravel() for values in untouched.values()]).all()
    for spec in plan.trained:
        nobody = untouched[spec.name] == 0
        assert np.array_equal(tensors[spec.name][nobody], start[spec.name][nobody])


def test_trimming_keeps_the_largest_and_the_first_of_equals() -> None:
    change = np.array([0.1, -0.3, 0.3, 0.0, 0.3], dtype=np.float32)
    assert trimmed(change, 0.4).tolist() == np.array([0, -0.3, 0.3, 0, 0], dtype=np.float32).tolist()
    assert trimmed(change, 0.01).tolist() == np.array([0, -0.3, 0, 0, 0], dtype=np.float32).tolist()


@pytest.mark.parametrize("method", ["task-arithmetic", "dare", "ties"])
def test_lambda_scales_the_mean_after_the_sum(method: str) -> None:
    plain, scaled = plan_of(method), plan_of(method, scale=0.25)
    mean = mean_vector(plain, planted(plain, 3), 16)
    one, other = (change_of(plan, encoding_of(plan).decode(plan, mean, 3)) for plan in (plain, scaled))
    assert np.allclose(other, 0.25 * one, atol=1e-7)


def test_task_arithmetic_is_the_scaled_mean() -> None:
    plan = plan_of("task-arithmetic", scale=2.0)
    changes = planted(plan, 3)
    assert np.allclose(change_of(plan, released(plan, changes, 24)), 2 * np.mean(changes, axis=0), atol=1e-6)


def test_dare_drops_at_its_rate_and_keeps_the_expectation() -> None:
    plan = plan_of("dare", drop=0.75)
    change = planted(plan, 1, scale=0.5)[0]
    encoding = encoding_of(plan)
    random = PredictableRandomness(b"drops")
    vectors = np.array([encoding.encode(plan, change, random) for _ in range(400)])
    live = change != 0
    dropped = (vectors == 0)[:, live]
    assert abs(dropped.mean() - 0.75) < 0.01
    survivors = np.broadcast_to(change[live], dropped.shape)[~dropped]
    assert np.array_equal(vectors[:, live][~dropped], (survivors / np.float32(0.25)).astype(np.float32))
    assert abs(dropped.mean(axis=0) - 0.75).max() < 0.15, "every value by itself"
    assert np.linalg.norm(vectors.mean(0) - change) < 0.15 * np.linalg.norm(change)


def test_dare_fits_its_clip_and_draws_from_the_randomness_it_is_given() -> None:
    plan = plan_of("dare", drop=0.9)
    change = np.concatenate([np.full(spec.size, spec.clip, np.float32) for spec in plan.trained])
    encoding = encoding_of(plan)
    vectors = [encoding.encode(plan, change, PredictableRandomness(seed)) for seed in (b"a", b"a", b"b")]
    assert np.array_equal(vectors[0], vectors[1])
    assert not np.array_equal(vectors[0], vectors[2])
    quantiser = encoding.layout(plan).quantiser(16)
    assert quantiser.encode(vectors[0], PredictableRandomness(b"rounding")).clipped == 0
    mean = mean_vector(plan, [change] * 40, 16)
    standard_error = math.sqrt(0.9 / 0.1 / 40 * np.square(change).sum())
    assert abs(mean.sum() - change.sum()) < 5 * standard_error


def test_dare_through_the_quantiser() -> None:
    plan = plan_of("dare", drop=0.5)
    changes = planted(plan, 3)
    thinned = [encoding_of(plan).encode(plan, change, PredictableRandomness(b"1")) for change in changes]
    quantiser = encoding_of(plan).layout(plan).quantiser(12)
    random = PredictableRandomness(b"quantiser")
    total = sum((quantiser.encode(vector, random).values.astype(np.uint64) for vector in thinned), np.uint64(0))
    found = change_of(plan, encoding_of(plan).decode(plan, quantiser.decode_mean(np.asarray(total), 3), 3))
    clips = np.concatenate([np.full(part.size, part.clip) for part in encoding_of(plan).layout(plan).parts])
    assert (np.abs(found - np.mean(thinned, axis=0)) <= 2 * clips / 4095 + 1e-7).all()
