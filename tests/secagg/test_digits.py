"""Reading sum(e) and the limbs out of residues, at the ends of their ranges."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg.digits import DigitReader
from secagg.parameters import SealedParameters, choose

CASES = [(16, 1000), (16, 1030), (16, 10), (8, 10), (8, 300), (24, 4096), (24, 100_000), (2, 2), (20, 100_000)]


def read(parameters: SealedParameters, values: list[int]) -> tuple[int, int, list[list[int]]]:
    """Read one block whose first coefficients are `values`, the rest zero."""
    padded = values + [0] * (parameters.degree - len(values))
    residues = np.array([[v % p for v in padded] for p in parameters.primes], dtype=np.uint32)
    out = np.empty(parameters.block_values, dtype=np.uint64)
    numbers = np.empty((2, parameters.degree), dtype=np.int64)
    error, largest = DigitReader.make(parameters).read(residues, numbers, out)
    return error, largest, out.reshape(parameters.limbs, -1)[:, : len(values)].T.tolist()


@pytest.mark.parametrize(("bits", "n_max"), CASES)
@given(st.data())
@settings(deadline=None)
def test_limbs_and_errors_come_back(bits: int, n_max: int, data: st.DataObject) -> None:
    parameters = choose(bits, n_max, 10**6)
    base, bound = parameters.base, parameters.error_bound(n_max)
    limb = st.one_of(st.integers(0, base - 1), st.sampled_from([0, 1, base - 1]))
    error = st.one_of(st.integers(-bound, bound), st.sampled_from([-bound, -1, 0, 1, bound]))
    wanted = data.draw(st.lists(st.tuples(error, *[limb] * parameters.limbs), min_size=1, max_size=20))
    values = [e * parameters.plaintext_modulus + sum(v * base**i for i, v in enumerate(limbs)) for e, *limbs in wanted]
    found_error, largest, limbs = read(parameters, values)
    assert found_error == max(abs(e) for e, *_ in wanted)
    assert largest == max(max(limbs) for _, *limbs in wanted)
    assert limbs == [list(limbs) for _, *limbs in wanted]


@pytest.mark.parametrize(("bits", "n_max"), CASES)
def test_what_is_not_small_is_never_read_as_small(bits: int, n_max: int) -> None:
    parameters = choose(bits, n_max, 10**6)
    t, q, bound = parameters.plaintext_modulus, parameters.modulus, parameters.error_bound(n_max)
    for value in (q // 2 - 1, -(q // 2) + 1, q // 3, -q // 5, t * (bound + 1), -t * (bound + 1)):
        assert read(parameters, [5, value])[0] > bound or abs(value // t) <= bound
