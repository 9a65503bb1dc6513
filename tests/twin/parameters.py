"""Parameter sets by brute force, from protocol.md §3: every number of limbs, the failure probability another way.

Up to 16 contributors the distribution of sum(e) is computed exactly, in integers. Beyond, the sum is as good as a
normal one: a discrete Gaussian of deviation 6.4 differs from it by less than 2^-1000, and that a sample is cut off at
58, where it stands with probability 2^-64, moves probabilities above 2^-120 by less than a hundredth of a bit.
"""

import math
from decimal import Decimal
from functools import cache
from itertools import pairwise

from tests.twin.sealed import N, join_bits, primes, split_bits, thresholds

VARIANCE = Decimal("40.5")
EXACT_UP_TO = 16
PACKED_BITS = 90 * N
LIMBS = range(1, 61)


@cache
def tails(count: int) -> tuple[float, ...]:
    """log2 P(|sum of `count` errors| > b) for b = 0, 1, ...: exact."""
    edges = [0, *thresholds(VARIANCE), 2**64]
    sizes = [after - before for before, after in pairwise(edges)]  # of |x| = 0, 1, ..., over 2^64
    one = [*reversed(sizes[1:]), 2 * sizes[0], *sizes[1:]]  # of x, over 2^65
    width = 65 * count + 1
    whole = split_bits(join_bits(one, width) ** count, width, count * (len(one) - 1) + 1)
    middle = len(whole) // 2
    beyond, out = 2 ** (65 * count) - whole[middle], list[float]()
    for b in range(middle + 1):
        out.append(math.log2(beyond) - 65 * count if beyond else -math.inf)
        if b < middle:
            beyond -= whole[middle + b + 1] + whole[middle - b - 1]
    return tuple(out)


def tail_log2(count: int, bound: int) -> float:
    """log2 of P(|sum of `count` errors| > bound)."""
    if count <= EXACT_UP_TO:
        known = tails(count)
        return known[bound] if bound < len(known) else -math.inf
    x = (bound + 0.5) / math.sqrt(2 * count * float(VARIANCE))
    if x < 20:
        return math.log2(math.erfc(x))
    return (-x * x - math.log(x * math.sqrt(math.pi)) + math.log1p(-0.5 / x**2)) / math.log(2)


def failure_log2(limbs: int, bits: int, n_max: int, length: int) -> float:
    """log2 of the probability that |T sum(e) + sum(m)| < q/2 fails in any coefficient."""
    q = math.prod(primes())
    plain = (n_max * (2**bits - 1) + 1) ** limbs
    if any(plain % prime == 0 for prime in primes()):
        return math.inf  # not that it fails to open: it has no noise modulo that prime
    bound = (q // 2 - (plain - 1)) // plain  # T*bound + (T - 1) is still within
    if bound < 1:
        return math.inf
    return tail_log2(n_max, bound) + math.log2(math.ceil(length / (limbs * N)) * N)


def tightest(bits: int, n_max: int, length: int) -> int | None:
    """The number of limbs with the shortest ciphertext, and of those the smallest; None when none is safe."""
    safe = [limbs for limbs in LIMBS if failure_log2(limbs, bits, n_max, length) <= -60]
    return min(safe, key=lambda limbs: (math.ceil(length / (limbs * N)) * PACKED_BITS, limbs), default=None)
