"""The keystream, and fresh seeds."""

import os

import numpy as np
import pytest

from secagg.randomness import Keystream, fresh_keystream
from tests.twin import sealed as twin
from tests.twin.predictable import PredictableRandomness


@pytest.mark.parametrize("nonce", [bytes(16), b"\xff" * 16, (7).to_bytes(4, "big") + bytes(12)])
def test_keystreams_agree_with_the_twin(nonce: bytes) -> None:
    key = bytes(range(32))
    stream, expected = Keystream(key, nonce), twin.keystream(key, nonce)
    for size in (1, 15, 16, 17, 70_000):
        assert stream.read(size).tobytes() == twin.take(expected, size)


def test_a_restart_is_a_new_stream_under_the_same_key() -> None:
    stream = Keystream(bytes(32))
    first = stream.read(40)
    stream.restart(bytes(16))
    assert np.array_equal(stream.read(40), first)


def test_fresh_keystreams_differ_by_purpose_and_by_seed() -> None:
    same = [fresh_keystream("a", PredictableRandomness(b"s")).read(32).tobytes() for _ in range(2)]
    assert same[0] == same[1] == twin.take(twin.fresh("a", PredictableRandomness(b"s")), 32)
    assert fresh_keystream("b", PredictableRandomness(b"s")).read(32).tobytes() != same[0]
    assert fresh_keystream("a", os.urandom).read(32).tobytes() != fresh_keystream("a", os.urandom).read(32).tobytes()


def test_short_randomness_is_refused() -> None:
    with pytest.raises(ValueError, match="returned 8 bytes"):
        fresh_keystream("a", lambda size: bytes(size // 4))


def test_keystreams_do_not_print_their_key() -> None:
    assert repr(Keystream(bytes(32))) == "Keystream(redacted)"
