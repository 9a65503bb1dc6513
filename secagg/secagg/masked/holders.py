"""A client draws its holders by itself, from the operating system's randomness, once (protocol.md §12.4.1)."""

from collections.abc import Sequence

import numpy as np

from secagg.randomness import Keystream, Randomness, fresh_keystream

PURPOSE = "secagg/v1/masked/holders"


def draw_holders(others: Sequence[int], count: int, random: Randomness) -> tuple[int, ...]:
    """`count` of the member numbers `others`, every subset equally likely, in order; all of them, when count is that.

    Partial Fisher-Yates with rejection: no modulo bias.
    """
    pool = list(others)
    stream = fresh_keystream(PURPOSE, random)
    for position in range(min(count, len(pool))):
        chosen = position + _below(stream, len(pool) - position)
        pool[position], pool[chosen] = pool[chosen], pool[position]
    return tuple(sorted(pool[:count]))


def _below(stream: Keystream, bound: int) -> int:
    """A uniform number in [0, bound), bound up to 2^32."""
    limit = (1 << 32) // bound * bound
    while True:
        word = int(stream.read(4).view(np.uint32)[0])
        if word < limit:
            return word % bound
