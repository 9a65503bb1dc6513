"""The clipped, rounded sum of per-example gradients: `noise.rounded_to_grid` and a sum, in one pass over the data.

The naive way makes eight passes and three float64 copies of all per-example gradients, which is more than the
gradients themselves cost in a small model. Here the norms take one pass and the sum another, and no copy is made.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secagg._numba import summing_kernel
from secagg.errors import TrainingError
from secagg_client.noise import GRID, clip_radius, rounded_to_grid


def clipped_sum(gradients: list[Tensor], clip: float) -> list[Tensor]:
    """Clip each example's gradient jointly over all parameters, round it to the grid, and add the examples up.

    Args:
        gradients: one float32 tensor [n, values] per parameter: row i is example i's gradient.
        clip: C > 0.

    Returns:
        Float64 tensors [values] that hold whole numbers, in units of C 2^-16. An example whose gradient is not finite
        counts as zero.

    Raises:
        TrainingError: the bound on an example's norm does not hold on the integers.
    """
    if any(rows.device.type != "cpu" or rows.dtype != torch.float32 for rows in gradients):
        return [whole.sum(0) for whole in rounded_to_grid(gradients, clip)]
    views = [rows.detach().contiguous().numpy() for rows in gradients]
    factors = _factors(views, clip)
    squares = np.zeros(len(factors))
    totals = [np.zeros(rows.shape[1]) for rows in views]
    for rows, total in zip(views, totals, strict=True):
        _add_rounded(rows, factors, total, squares)
    if squares.size and not squares.max() <= float(GRID) ** 2:
        raise TrainingError("a clipped gradient is longer than the clipping norm: the privacy bound does not hold")
    return [torch.from_numpy(total) for total in totals]


def warm_clipping() -> None:
    """Call every kernel of this file once, so that no training compiles or loads one (`secagg.warm`)."""
    clipped_sum([torch.ones(1, 1)], 1.0)


def _factors(views: list[NDArray[np.float32]], clip: float) -> NDArray[np.float64]:
    """What each example's gradient is multiplied by, float64 [n]; 0 where it is not finite."""
    squares = np.zeros(len(views[0]))
    for rows in views:
        _add_squares(rows, squares)
    with np.errstate(divide="ignore", invalid="ignore"):
        factors = np.minimum(clip_radius(sum(rows.shape[1] for rows in views)) / np.sqrt(squares), GRID / clip)
    return np.where(np.isfinite(squares), factors, 0.0)


@summing_kernel
def _add_squares(rows: NDArray[np.float32], squares: NDArray[np.float64]) -> None:
    for example in range(rows.shape[0]):
        square = 0.0
        for index in range(rows.shape[1]):
            value = np.float64(rows[example, index])
            square += value * value
        squares[example] += square


@summing_kernel
def _add_rounded(
    rows: NDArray[np.float32], factors: NDArray[np.float64], total: NDArray[np.float64], squares: NDArray[np.float64]
) -> None:
    for example in range(rows.shape[0]):
        factor = factors[example]
        if factor == 0.0:
            continue
        square = 0.0
        for index in range(rows.shape[1]):
            whole = np.rint(np.float64(rows[example, index]) * factor)
            total[index] += whole
            square += whole * whole  # whole numbers: exact in any order
        squares[example] += square
