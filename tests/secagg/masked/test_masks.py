"""Masks, fast and naive (protocol.md §12.5.2)."""

import hashlib
import os

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from secagg.masked.masks import CHUNK, Mask, add_masks
from secagg.masked.sharing import Secret


def naive_mask(kind: str, seed: bytes, count: int) -> list[int]:
    """Word by word: AES of the block counter, four words a block."""
    key = hashlib.sha256(b"secagg/v1/masked/mask-" + kind.encode() + seed).digest()
    aes = Cipher(algorithms.AES256(key), modes.ECB()).encryptor()
    stream = b"".join(aes.update(block.to_bytes(16, "big")) for block in range(-(-count // 4)))
    return [int.from_bytes(stream[4 * i : 4 * i + 4], "little") for i in range(count)]


@pytest.mark.parametrize("count", [1, 5, CHUNK - 1, CHUNK + 3, 2 * CHUNK + 4])
@pytest.mark.parametrize("threads", [1, 3])
def test_the_fast_sum_of_masks_is_the_naive_one(count: int, threads: int) -> None:
    plus, minus, own = os.urandom(32), os.urandom(32), os.urandom(32)
    values = np.arange(count, dtype=np.uint32)
    masks = [
        Mask.expand("pair", Secret(plus), negative=False),
        Mask.expand("pair", Secret(minus), negative=True),
        Mask.expand("self", Secret(own), negative=False),
    ]
    add_masks(values, masks, threads)
    a, b, c = naive_mask("pair", plus, count), naive_mask("pair", minus, count), naive_mask("self", own, count)
    expected = [(i + x - y + z) % 2**32 for i, (x, y, z) in enumerate(zip(a, b, c, strict=True))]
    assert values.tolist() == expected


def test_a_mask_and_its_negative_leave_nothing() -> None:
    seed, values = Secret(os.urandom(32)), np.zeros(1000, dtype=np.uint32)
    add_masks(values, [Mask.expand("pair", seed, negative=False)])
    assert values.any()
    add_masks(values, [Mask.expand("pair", seed, negative=True)])
    assert not values.any()


def test_a_mask_does_not_print_its_key() -> None:
    assert "redacted" in repr(Mask.expand("self", Secret(bytes(32)), negative=False))
