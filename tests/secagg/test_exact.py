"""Linear algebra with the same bits everywhere, against LAPACK's (protocol.md §2.7)."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg import exact
from secagg.adapter import expand_uniform
from secagg.exact import lora_factors, low_rank_svd, product, svd


def planted(rows: int, columns: int, rank: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.asarray(rng.normal(size=(rows, rank)) @ rng.normal(size=(rank, columns)))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 24), st.integers(1, 24), st.integers(1, 24), st.integers(0, 2**32))
def test_decomposition_is_that_of_lapack(rows: int, columns: int, rank: int, seed: int) -> None:
    matrix = planted(rows, columns, min(rank, rows, columns), seed)
    found = svd(matrix)
    expected = np.linalg.svd(matrix, compute_uv=False)
    k = min(rows, columns)
    assert (found.left.shape, found.values.shape, found.right.shape) == ((rows, k), (k,), (k, columns))
    assert np.allclose(found.values, expected, atol=1e-11 * expected[0])
    assert np.allclose(found.left * found.values @ found.right, matrix, atol=1e-11 * expected[0])
    kept = found.values > 1e-9 * expected[0]
    for vectors in (found.left.T[kept], found.right[kept]):
        assert np.allclose(vectors @ vectors.T, np.eye(kept.sum()), atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 20), st.integers(2, 20), st.integers(0, 2**32))
def test_decomposition_of_a_product_needs_no_product(rows: int, columns: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    k = int(rng.integers(1, min(rows, columns) + 1))
    left, right = rng.normal(size=(rows, k)), rng.normal(size=(k, columns))
    found = low_rank_svd(left, right)
    assert np.allclose(found.left * found.values @ found.right, left @ right, atol=1e-10 * k)
    assert np.allclose(product(left, right), left @ right)


def test_factors_are_the_best_of_their_rank() -> None:
    matrix = planted(30, 20, 20, 3)
    b, a = lora_factors(svd(matrix), 5)
    u, s, vt = np.linalg.svd(matrix)
    best = u[:, :5] * s[:5] @ vt[:5]
    assert b.dtype == a.dtype == np.float32
    assert (b.shape, a.shape) == ((30, 5), (5, 20))
    assert np.allclose(b.astype(float) @ a, best, atol=1e-5 * s[0])
    assert np.allclose(np.linalg.norm(b, axis=0), np.linalg.norm(a, axis=1), rtol=1e-5)


def test_ranks_beyond_the_matrix_are_zeros() -> None:
    b, a = lora_factors(svd(planted(6, 4, 2, 1)), 7)
    assert b.shape == (6, 7)
    assert a.shape == (7, 4)
    assert not b[:, 4:].any()
    assert not a[4:].any()


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (1, 1)])
def test_zeros_stay_zeros(shape: tuple[int, int]) -> None:
    found = svd(np.zeros(shape))
    assert not found.values.any()
    b, a = lora_factors(found, 2)
    assert np.isfinite(b).all()
    assert not (b.astype(float) @ a).any()


def test_bits_are_pinned() -> None:
    """The same bits on every platform and in every version: a verifier compares the released file byte for byte."""
    values = expand_uniform(bytes(32), "exact", 40 * 24, 1.0).astype(np.float64).reshape(40, 24)
    found = svd(product(values[:, :12], values[:12]))
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in found)).hexdigest()
    assert digest == "e4b784b6395dcb0199a0d2fb72678a4468af8498e62bf0f599d19f17b1d37c84"


def test_compiled_bits_are_those_of_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """One correctly rounded operation after the other: no fused multiply-add, no other order of a sum."""
    matrix = planted(12, 7, 5, 9)
    compiled = svd(product(matrix, matrix.T))
    for name in ("_multiply", "_rotate", "_orthogonalise", "_normalise"):
        monkeypatch.setattr(exact, name, getattr(exact, name).py_func)
    interpreted = svd(product(matrix, matrix.T))
    assert all(np.array_equal(one, other) for one, other in zip(compiled, interpreted, strict=True))
