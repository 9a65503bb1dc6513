"""The one-pass clipped sum against the naive one, and against Opacus."""

import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.optimizers import DPOptimizer

from secagg.errors import TrainingError
from secagg_client import clipping
from secagg_client.clipping import clipped_sum
from secagg_client.noise import GRID, rounded_to_grid


def gradients(examples: int, sizes: tuple[int, ...], scale: float, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(examples, size, generator=generator) for size in sizes]


@settings(deadline=None)
@given(
    examples=st.integers(0, 9),
    sizes=st.lists(st.integers(1, 70), min_size=1, max_size=4),
    scale=st.sampled_from([0.0, 1e-30, 1e-4, 1.0, 1e5, 1e30]),
    clip=st.sampled_from([1e-3, 0.3, 1.0, 50.0]),
    seed=st.integers(0, 99),
)
def test_it_is_the_naive_sum(examples: int, sizes: list[int], scale: float, clip: float, seed: int) -> None:
    rows = gradients(examples, tuple(sizes), scale, seed)
    fast = clipped_sum(rows, clip)
    slow = [whole.sum(0) for whole in rounded_to_grid(rows, clip)]
    for ours, theirs in zip(fast, slow, strict=True):
        # norms are added up in another order: a value that lies at a half may fall to the other side
        torch.testing.assert_close(ours, theirs, atol=1.0, rtol=0)
        assert torch.equal(ours, ours.round())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_an_example_that_is_not_finite_counts_as_zero(bad: float) -> None:
    rows = gradients(3, (5, 2), 1.0, 1)
    without = clipped_sum([part[[0, 2]] for part in rows], 1.0)
    rows[1][1, 0] = bad
    for ours, theirs in zip(clipped_sum(rows, 1.0), without, strict=True):
        assert torch.equal(ours, theirs)


def test_a_view_that_is_not_contiguous_is_read_right() -> None:
    rows = gradients(6, (4,), 1.0, 2)[0]
    assert torch.equal(clipped_sum([rows.T], 1.0)[0], clipped_sum([rows.T.clone()], 1.0)[0])


def test_the_bound_is_checked_on_the_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clipping, "clip_radius", lambda _dimension: GRID + 2.0)
    with pytest.raises(TrainingError, match="longer than the clipping norm"):
        clipped_sum(gradients(2, (3,), 10.0, 3), 1.0)


def test_after_the_warm_up_nothing_is_compiled() -> None:
    script = (
        "import torch\n"
        "from secagg_client.clipping import _add_rounded, _add_squares, clipped_sum, warm_clipping\n"
        "warm_clipping()\n"
        "before = len(_add_squares.overloads), len(_add_rounded.overloads)\n"
        "clipped_sum([torch.ones(5, 70), torch.ones(5, 3)], 1.0)\n"
        "clipped_sum([torch.ones(6, 4).T, torch.ones(4, 2, requires_grad=True)], 0.1)\n"
        "assert (len(_add_squares.overloads), len(_add_rounded.overloads)) == before == (1, 1)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_it_clips_as_opacus_does() -> None:
    rows = gradients(20, (300, 40), 0.05, 4)
    parameters = [torch.nn.Parameter(torch.zeros(part.shape[1])) for part in rows]
    theirs = DPOptimizer(
        torch.optim.SGD(parameters, lr=1.0), noise_multiplier=0.0, max_grad_norm=0.8, expected_batch_size=20
    )
    for parameter, part in zip(parameters, rows, strict=True):
        parameter.grad_sample = part.clone()  # type: ignore[attr-defined]
    theirs.clip_and_accumulate()
    for parameter, ours in zip(parameters, clipped_sum(rows, 0.8), strict=True):
        unit = 0.8 / GRID
        summed = parameter.summed_grad  # type: ignore[attr-defined]
        torch.testing.assert_close((ours * unit).float(), summed, atol=20 * unit, rtol=1e-3)
