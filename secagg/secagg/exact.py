"""Linear algebra that gives the same bits on every machine, for what a verifier recomputes (protocol.md §2.7).

BLAS and LAPACK give other bits with another processor or number of threads. Here every float64 operation (+, -, *, /,
square root, each correctly rounded by IEEE 754) happens in an order that the text of this file fixes. No fused
multiply-add, no reassociation: numba compiles without either unless it is asked to.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from secagg._numba import kernel

F64 = NDArray[np.float64]

MAX_SWEEPS = 60
ORTHOGONAL = 2.0**-44
"""Two columns are orthogonal when their cosine is at most this; float32 results need no more."""


class Svd(NamedTuple):
    """`left` [rows, k], `values` [k], largest first, `right` [k, columns]; left * values @ right is the matrix."""

    left: F64
    values: F64
    right: F64


def product(left: NDArray[np.float32] | F64, right: NDArray[np.float32] | F64) -> F64:
    """`left` [rows, inner] times `right` [inner, columns]; each value is summed over `inner` in order."""
    out = np.zeros((left.shape[0], right.shape[1]))
    _multiply(np.ascontiguousarray(left, dtype=np.float64), np.ascontiguousarray(right, dtype=np.float64), out)
    return out


def svd(matrix: F64) -> Svd:
    """Singular value decomposition by one-sided Jacobi rotations, pairs of columns in cyclic order (Hestenes 1958).

    k is the shorter side. A singular value of exactly 0 has a left vector (right, for a wide matrix) of zeros.
    """
    if matrix.shape[0] < matrix.shape[1]:
        turned = svd(matrix.T)
        return Svd(turned.right.T.copy(), turned.values, turned.left.T.copy())
    columns = np.array(matrix.T, dtype=np.float64, order="C")
    rotation = np.eye(len(columns))
    _orthogonalise(columns, rotation)
    norms = np.empty(len(columns))
    _normalise(columns, norms)
    order = np.argsort(-norms, kind="stable")
    return Svd(columns[order].T.copy(), norms[order], rotation[order])


def low_rank_svd(left: F64, right: F64) -> Svd:
    """The decomposition of `left` [rows, k] @ `right` [k, columns] without the product; k at most either side."""
    outer = svd(left)
    inner = svd(product(outer.values[:, np.newaxis] * outer.right, right))
    return Svd(product(outer.left, inner.left), inner.values, inner.right)


def lora_factors(decomposed: Svd, rank: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The best rank-`rank` approximation as LoRA's B [rows, rank] and A [rank, columns], float32.

    Both carry the square root of each singular value. Ranks beyond the shorter side are zeros.
    """
    kept = min(rank, len(decomposed.values))
    roots = np.sqrt(decomposed.values[:kept])
    b = np.zeros((len(decomposed.left), rank), dtype=np.float32)
    a = np.zeros((rank, decomposed.right.shape[1]), dtype=np.float32)
    b[:, :kept] = decomposed.left[:, :kept] * roots
    a[:kept] = roots[:, np.newaxis] * decomposed.right[:kept]
    return b, a


@kernel
def _multiply(left: F64, right: F64, out: F64) -> None:
    for i in range(left.shape[0]):
        for k in range(left.shape[1]):
            factor = left[i, k]
            for j in range(right.shape[1]):
                out[i, j] += factor * right[k, j]


@kernel
def _rotate(rows: F64, p: int, q: int, cosine: float, sine: float) -> None:
    for i in range(rows.shape[1]):
        first, second = rows[p, i], rows[q, i]
        rows[p, i] = cosine * first - sine * second
        rows[q, i] = sine * first + cosine * second


@kernel
def _orthogonalise(columns: F64, rotation: F64) -> None:
    """Turn the rows of `columns` against each other until all are orthogonal, and those of `rotation` with them."""
    for _ in range(MAX_SWEEPS):
        turned = False
        for p in range(len(columns) - 1):
            for q in range(p + 1, len(columns)):
                alpha = beta = gamma = 0.0
                for i in range(columns.shape[1]):
                    first, second = columns[p, i], columns[q, i]
                    alpha += first * first
                    beta += second * second
                    gamma += first * second
                if abs(gamma) <= ORTHOGONAL * (np.sqrt(alpha) * np.sqrt(beta)):
                    continue
                turned = True
                zeta = (beta - alpha) / (2.0 * gamma)
                tangent = 1.0 / (abs(zeta) + np.sqrt(1.0 + zeta * zeta))
                if zeta < 0:
                    tangent = -tangent
                cosine = 1.0 / np.sqrt(1.0 + tangent * tangent)
                _rotate(columns, p, q, cosine, cosine * tangent)
                _rotate(rotation, p, q, cosine, cosine * tangent)
        if not turned:
            return


@kernel
def _normalise(columns: F64, norms: F64) -> None:
    for p in range(len(columns)):
        total = 0.0
        for i in range(columns.shape[1]):
            total += columns[p, i] * columns[p, i]
        norms[p] = np.sqrt(total)
        if norms[p] > 0:
            for i in range(columns.shape[1]):
                columns[p, i] /= norms[p]
