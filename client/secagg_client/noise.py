"""Randomness of DP-SGD: Poisson sampling and Gaussian noise on a grid, safe against floating-point attacks.

Mironov (CCS 2012) and Haney et al. (2022) recover data from noise added in floating point, since which low bits are
reachable depends on the secret. Here the secret part is an integer before any noise meets it:

1. Each example's gradient is clipped to norm C, written in units of gamma = C 2^-16 and rounded to whole numbers;
   it is clipped to 2^16 - sqrt(d)/2 units first, so that rounding (at most 1/2 a coordinate) cannot lift the norm
   above 2^16 units = C. `rounded_to_grid` checks this on the integers, where float64 arithmetic is exact.
2. The sum over the batch is exact (below 2^53), so its L2 sensitivity to adding or removing an example is exactly C.
   No noise is inflated for it.
3. Noise is rint(y), y ~ N(0, (sigma 2^16)^2). For a whole number k, k + rint(y) = rint(k + y): the output is a
   post-processing of the Gaussian mechanism with noise multiplier sigma, and every output is on the grid whatever
   the data. What follows (scaling by gamma, float32, the optimiser) is post-processing too.

What is left is that y is computed in float64. Uniforms have 64 bits, four independent Gaussians are added and halved
(Holohan & Braghin 2021), so every reachable y has a huge number of preimages; the tail beyond 9.4 deviations of each
summand is lost, with probability 2^-64. Errors of a few units in the last place move the borders between integers by
at most about sigma 2^16 2^-51 = sigma 2^-35, and the probability of an integer by a factor within exp(+-2^-33).
Over N noise values a likelihood ratio moves by at most exp(2 N 2^-33): 0.005 for a run of 100 steps on 200,000
parameters, in the worst case where all errors align, and about 2^-33 sqrt(N) < 10^-6 when they do not.

Not covered: matrix kernels may round an example's gradient differently, in its last bits, beside other examples of a
batch. Such differences are below 2^-20 of the gradient, and seldom survive the rounding of step 1; no proof is claimed.
"""

import hashlib
import math
import os
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secagg.errors import TrainingError
from secagg.randomness import Keystream, Randomness, fresh_keystream

GRID_BITS = 16
GRID = 1 << GRID_BITS
"""Units of the grid in the clipping norm C."""

_CHUNK = 1 << 17

Purpose = Literal["sampling", "noise"]


class NoiseSource(Protocol):
    """Where sampling and noise come from. `kind` is what the certificate says."""

    @property
    def kind(self) -> Literal["secure", "seeded"]:
        """`secure` or `seeded`."""
        ...

    def stream(self, step: int, purpose: Purpose) -> Keystream:
        """A keystream for one use in one step; each use has its own key."""
        ...


class SecureSource:
    """Operating-system randomness: every step and purpose is keyed afresh, and no key is kept."""

    __slots__ = ("_random",)

    def __init__(self, random: Randomness = os.urandom) -> None:
        self._random = random

    @property
    def kind(self) -> Literal["secure", "seeded"]:
        """`secure`."""
        return "secure"

    def stream(self, step: int, purpose: Purpose) -> Keystream:  # noqa: ARG002 - a fresh key for any step
        """A keystream under a fresh key."""
        return fresh_keystream(f"secagg/v1/dp/{purpose}", self._random)


class SeededSource:
    """Reproducible randomness for experiments: whoever knows the seed can subtract the noise."""

    __slots__ = ("_seed",)

    def __init__(self, seed: int) -> None:
        self._seed = seed

    @property
    def kind(self) -> Literal["secure", "seeded"]:
        """`seeded`."""
        return "seeded"

    def stream(self, step: int, purpose: Purpose) -> Keystream:
        """The keystream of this seed, step and purpose."""
        tag = f"secagg/v1/dp-experiment/{purpose}/{self._seed}/{step}"
        return Keystream(hashlib.sha256(tag.encode("ascii")).digest())


def poisson_sample(stream: Keystream, size: int, rate: float) -> NDArray[np.int64]:
    """Indices below `size`, each taken independently with probability floor(rate 2^64) / 2^64.

    Raises:
        TrainingError: the rate is not in (0, 1].
    """
    if not 0 < rate <= 1:
        raise TrainingError(f"sampling rate {rate} is not in (0, 1]: the declared size is below the batch size")
    if rate == 1:
        return np.arange(size, dtype=np.int64)
    words = stream.read(8 * size).view("<u8")
    return np.flatnonzero(words < np.uint64(int(rate * 2.0**64))).astype(np.int64)


def _box_muller(stream: Keystream, pairs: int) -> Tensor:
    """2 x `pairs` standard Gaussians, float64, from 64-bit uniforms strictly between 0 and 1, by vector kernels."""
    words = stream.read(16 * pairs).view("<u8").astype(np.float64)
    uniform = torch.from_numpy(words).mul_(2.0**-64).add_(2.0**-65)
    radius = uniform[:pairs].log().mul_(-2.0).sqrt_()
    angle = uniform[pairs:].mul_(2.0 * math.pi)
    return torch.cat((radius * angle.cos(), radius * angle.sin()))


def standard_normal(stream: Keystream, size: int) -> NDArray[np.float64]:
    """`size` standard Gaussians in float64, each the half of a sum of four. Shape [size]."""
    out = np.empty(size, dtype=np.float64)
    for start in range(0, size, _CHUNK):
        count = min(_CHUNK, size - start)
        out[start : start + count] = _box_muller(stream, 2 * count).view(4, count).sum(0).div_(2.0).numpy()
    return out


def grid_noise(stream: Keystream, size: int, sigma: float) -> NDArray[np.int64]:
    """Gaussian noise of deviation sigma C, in whole units of the grid C 2^-16. Shape [size].

    Raises:
        TrainingError: sigma is not positive, or so large that float64 has no bits left for the rounding.
    """
    if not 0 < sigma < 2.0**16:
        raise TrainingError(f"noise multiplier {sigma} is not in (0, 65536)")
    return np.rint(standard_normal(stream, size) * (sigma * GRID)).astype(np.int64)


def clip_radius(dimension: int) -> float:
    """The norm, in units of the grid, to which a gradient of `dimension` values is clipped before rounding.

    Raises:
        TrainingError: rounding could lift any vector of that length above the clipping norm.
    """
    radius = GRID - math.sqrt(dimension) / 2 - 1
    if radius < GRID / 2:
        raise TrainingError(f"{dimension} trained values are too many for the noise grid; train fewer layers")
    return radius


def rounded_to_grid(gradients: list[Tensor], clip: float) -> list[Tensor]:
    """Clip each example's gradient jointly over all parameters and round it to the grid.

    Args:
        gradients: one tensor [n, values] per parameter: row i is example i's gradient.
        clip: C > 0.

    Returns:
        Float64 tensors of the same shapes that hold whole numbers; each example's joint L2 norm is at most 2^16.
        An example whose gradient is not finite counts as zero.

    Raises:
        TrainingError: the bound does not hold on the integers.
    """
    wide = [gradient.double() for gradient in gradients]
    norms = torch.stack([rows.square().sum(1) for rows in wide]).sum(0).sqrt()
    radius = clip_radius(sum(rows.shape[1] for rows in wide))
    factor = (radius / norms).clamp_max(GRID / clip)
    factor = torch.where(norms.isfinite(), factor, 0.0).unsqueeze(1)
    whole = [torch.round(torch.nan_to_num(rows, posinf=0.0, neginf=0.0) * factor) for rows in wide]
    squares = torch.stack([rows.square().sum(1) for rows in whole]).sum(0)
    if squares.numel() and not float(squares.max()) <= float(GRID) ** 2:
        raise TrainingError("a clipped gradient is longer than the clipping norm: the privacy bound does not hold")
    return whole
