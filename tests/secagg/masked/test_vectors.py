"""Encoded, masked, packed and summed in one pass each (protocol.md §12.1.4, §12.5, §12.7.3)."""

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg.codec import Quantiser
from secagg.errors import EncodingError, MalformedError, OpeningError, SizeLimitError
from secagg.masked.masks import CHUNK, Mask
from secagg.masked.sharing import Secret
from secagg.masked.vectors import MaskedTotal, Shape, mask_update, vector_root
from tests.twin.predictable import PredictableRandomness


def naive_unpacked(shape: Shape, packed: bytes) -> list[int]:
    """The bits of the whole, as one number."""
    number = int.from_bytes(packed, "little")
    return [(number >> (shape.width * i)) & (2**shape.width - 1) for i in range(shape.values)]


@settings(max_examples=60, deadline=None)
@given(st.integers(8, 32), st.integers(1, 200))
def test_without_masks_what_travels_is_the_encoded_vector_and_the_guards(width: int, length: int) -> None:
    quantiser, shape = Quantiser.uniform(length, 0.5, 8), Shape(length, width)
    update = np.random.default_rng(length).uniform(-0.6, 0.6, length).astype(np.float32)
    packed = mask_update(shape, quantiser, update, [], PredictableRandomness(b"one"))
    plain = quantiser.encode(update, PredictableRandomness(b"one")).values.tolist()
    assert naive_unpacked(shape, packed.tobytes()) == plain + [1] * 8


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_threads_do_not_change_a_bit(threads: int) -> None:
    length = 3 * CHUNK + 17
    quantiser, shape = Quantiser.uniform(length, 0.5, 16), Shape(length, 21)
    update = np.random.default_rng(1).uniform(-0.5, 0.5, length).astype(np.float32)
    masks = [Mask.expand("pair", Secret(bytes([i]) * 32), negative=i > 1) for i in range(4)]
    one = mask_update(shape, quantiser, update, masks, PredictableRandomness(b"x"))
    many = mask_update(shape, quantiser, update, masks, PredictableRandomness(b"x"), threads=threads)
    assert one.tobytes() == many.tobytes()
    total = MaskedTotal(shape)
    total.add(many, threads)
    turned = [Mask(mask.key, not mask.negative) for mask in masks]
    opened = total.opened(turned, quantiser, threads)
    assert opened.tolist() == quantiser.encode(update, PredictableRandomness(b"x")).values.tolist()


def test_a_mask_that_is_left_is_found_by_the_guards() -> None:
    quantiser, shape = Quantiser.uniform(30, 0.5, 8), Shape(30, 32)
    mask = Mask.expand("self", Secret(os.urandom(32)), negative=False)
    total = MaskedTotal(shape)
    total.add(mask_update(shape, quantiser, np.zeros(30, np.float32), [mask], os.urandom))
    with pytest.raises(OpeningError, match="masks are left"):
        total.opened([], quantiser)


def test_vectors_of_wrong_length_or_with_bits_to_spare_are_not_added() -> None:
    shape = Shape(3, 9)
    total = MaskedTotal(shape)
    for length in (0, shape.packed_bytes - 1, shape.packed_bytes + 1):
        with pytest.raises(SizeLimitError):
            total.add(np.zeros(length, np.uint8))
    long = np.zeros(shape.packed_bytes, np.uint8)
    long[-1] = 0x80
    with pytest.raises(MalformedError, match="after its last value"):
        total.add(long)
    assert total.count == 0


def test_an_update_that_does_not_fit_is_refused() -> None:
    quantiser, shape = Quantiser.uniform(30, 0.5, 8), Shape(30, 12)
    for bad in (np.zeros(29, np.float32), np.full(30, np.nan, np.float32)):
        with pytest.raises(EncodingError):
            mask_update(shape, quantiser, bad, [], os.urandom)
    with pytest.raises(EncodingError):
        mask_update(Shape(31, 12), quantiser, np.zeros(30, np.float32), [], os.urandom)


def test_the_root_covers_every_byte() -> None:
    shape = Shape(70_000, 12)
    packed = np.zeros(shape.packed_bytes, np.uint8)
    plain = vector_root(shape, packed)
    for place in (0, 98_303, 98_304, shape.packed_bytes - 1):
        packed[place] ^= 1
        assert vector_root(shape, packed) != plain
        packed[place] ^= 1
