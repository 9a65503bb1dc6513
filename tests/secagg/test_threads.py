"""The same bytes on any number of threads: sealing, adding, opening (protocol.md §5, §9)."""

import hashlib
import os
from queue import Queue

import numpy as np
import pytest

from secagg.accumulate import Accumulator
from secagg.codec import Quantiser
from secagg.errors import MalformedError, OpeningError
from secagg.opening import open_sum
from secagg.parameters import choose
from secagg.sealing import seal, seal_update
from secagg.threads import in_ranges

LENGTH, CTX = 60_000, bytes(range(32))  # four blocks, the last one partly filled
PARAMETERS, QUANTISER = choose(16, 10, LENGTH), Quantiser.uniform(LENGTH, 0.5, 16)
UPDATE = np.random.default_rng(3).normal(0, 0.3, LENGTH).astype(np.float32)


class Repeated:
    """The same seeds for every seal. For comparing bytes only."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, size: int, /) -> bytes:
        self._count += 1
        return hashlib.shake_256(bytes([self._count])).digest(size)


@pytest.mark.parametrize("threads", [2, 3, 5, 64])
def test_a_seal_has_the_same_bytes_on_any_number_of_threads(threads: int) -> None:
    one = seal_update(PARAMETERS, QUANTISER, CTX, UPDATE, Repeated())
    many = seal_update(PARAMETERS, QUANTISER, CTX, UPDATE, Repeated(), threads=threads)
    assert one.clipped == many.clipped > 0
    np.testing.assert_array_equal(one.ciphertext, many.ciphertext)
    np.testing.assert_array_equal(one.key.coefficients, many.key.coefficients)
    values = QUANTISER.encode(UPDATE, os.urandom).values
    np.testing.assert_array_equal(
        seal(PARAMETERS, CTX, values, Repeated()).ciphertext,
        seal(PARAMETERS, CTX, values, Repeated(), threads=threads).ciphertext,
    )


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_sums_and_openings_are_the_same_too(threads: int) -> None:
    values = [np.full(LENGTH, number, dtype=np.uint32) for number in (1, 20, 300)]
    sealed = [seal(PARAMETERS, CTX, value, os.urandom) for value in values]
    plain, wide = Accumulator(PARAMETERS), Accumulator(PARAMETERS)
    for upload in sealed:
        plain.add(upload.ciphertext)
        wide.add_rows(upload.ciphertext, threads)
    assert list(plain.blocks()) == list(wide.blocks())
    key = sum(upload.key.coefficients.astype(np.int64) for upload in sealed)
    assert isinstance(key, np.ndarray)
    opening = open_sum(PARAMETERS, CTX, wide, key, 3, threads=threads)
    assert (opening.sums == 321).all()
    assert opening.error_max == open_sum(PARAMETERS, CTX, plain.blocks(), key, 3).error_max
    with pytest.raises(OpeningError, match="does not open"):
        open_sum(PARAMETERS, CTX, wide, key + np.int64(1), 3, threads=threads)


@pytest.mark.parametrize("threads", [1, 3])
def test_rows_that_are_refused_poison_the_sum_when_part_of_them_was_added(threads: int) -> None:
    bent = seal(PARAMETERS, CTX, np.zeros(LENGTH, dtype=np.uint32), os.urandom).ciphertext.copy()
    bent[-1, :4] = 255
    total = Accumulator(PARAMETERS)
    with pytest.raises(MalformedError, match="not below their prime"):
        total.add_rows(bent, threads)
    with pytest.raises(MalformedError, match="part of a ciphertext"):
        _ = total.count
    with pytest.raises(MalformedError, match="a ciphertext"):
        Accumulator(PARAMETERS).add_rows(bent[:3], threads)


def test_ranges_that_were_not_all_added_make_no_sum() -> None:
    rows = seal(PARAMETERS, CTX, np.zeros(LENGTH, dtype=np.uint32), os.urandom).ciphertext
    total = Accumulator(PARAMETERS)
    total.add_range(0, rows[:2])
    with pytest.raises(MalformedError, match="part of a ciphertext"):
        _ = total.count
    with pytest.raises(MalformedError, match="blocks 2 to"):
        total.add_range(2, rows)
    total.add_range(2, rows[2:])
    assert total.count == 1


def test_ranges_cover_everything_once_in_whole_steps() -> None:
    for count in (0, 1, 7, 64, 65):
        for threads in (1, 2, 3, 100):
            for step in (1, 8):
                seen: Queue[tuple[int, int]] = Queue()
                in_ranges(count, threads, lambda start, stop, to=seen: to.put((start, stop)), step)  # type: ignore[misc]
                covered = sorted(seen.get() for _ in range(seen.qsize()))
                assert [number for start, stop in covered for number in range(start, stop)] == list(range(count))
                assert all(start % step == 0 for start, _ in covered)
                assert len(covered) <= max(1, threads)
