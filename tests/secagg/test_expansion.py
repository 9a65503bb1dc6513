"""Public polynomials from the context (protocol.md §5)."""

import numpy as np
import pytest

from secagg import expansion, ring
from secagg.errors import ParameterError
from secagg.parameters import choose
from tests.twin import sealed as twin

PARAMETERS = choose(16, 100, 50_000)
CTX = bytes(range(32))


@pytest.mark.parametrize("block", [0, 1, 3])
def test_expansion_agrees_with_the_twin(block: int) -> None:
    found = expansion.expand_block(PARAMETERS, CTX, block)
    assert found.tolist() == [twin.expand(CTX, block, number) for number in range(3)]


def test_contexts_and_blocks_give_unrelated_polynomials() -> None:
    one = expansion.expand_block(PARAMETERS, CTX, 0)
    for other in (expansion.expand_block(PARAMETERS, CTX, 1), expansion.expand_block(PARAMETERS, bytes(32), 0)):
        assert int((one == other).sum()) < 10


def test_refused_words_are_skipped_wherever_they_stand() -> None:
    prime = np.uint32(ring.PRIMES[2])
    words = np.random.default_rng(1).integers(0, 1 << 32, 200).astype(np.uint32)
    words[[0, 63, 64, 130]] = 0xFFFFFFFF
    words[[70, 71]] = [prime, prime - 1]
    kept = [int(word) % 2**30 for word in words if int(word) % 2**30 < prime]
    out = np.zeros(150, dtype=np.uint32)
    assert expansion.accept(words, prime, out, np.int64(0)) == 150
    assert out.tolist() == kept[:150]
    short = np.zeros(300, dtype=np.uint32)
    assert expansion.accept(words, prime, short, np.int64(0)) == len(kept)
    assert expansion.accept(words, prime, short, np.int64(len(kept))) == 300
    assert short.tolist() == (kept + kept)[:300]


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_context_has_32_bytes(size: int) -> None:
    with pytest.raises(ParameterError, match="ctx"):
        expansion.expand_block(PARAMETERS, bytes(size), 0)


@pytest.mark.parametrize("block", [-1, 5])
def test_blocks_end(block: int) -> None:
    with pytest.raises(ParameterError, match="block"):
        expansion.expand_block(PARAMETERS, CTX, block)
