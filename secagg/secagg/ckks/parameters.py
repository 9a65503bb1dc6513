"""The parameter set of `ckks`, what fits into one slot, and why the rounded sum is exact (protocol.md §13.1).

Nothing is multiplied, so the modulus need only hold the sum: two small primes, and a third that SEAL keeps for
switching keys, which is not used and therefore as short as it may be.
"""

import math
from dataclasses import dataclass, field

from secagg.errors import ParameterError

DEGREE = 4096
SLOTS = DEGREE // 2
PRIME_BITS = (34, 34, 18)
"""Sizes of the primes, the special one last. All count for security: the public key is over the whole modulus."""
LOG2_Q = 86
SECURITY_BITS = 134
"""Core-SVP of N = 4096, log2 q = 86 with SEAL's ternary secret and errors of deviation 3.2 (security-levels.md)."""
MESSAGE_LOG2 = 67.99
"""log2 of the product of the first two primes, rounded down."""
FAILURE_LOG2 = -60
ERROR_ROOM = 0.25
"""The largest error of a slot that is accepted before flooding, in units of the integer grid."""
MAX_SLOT_LOG2 = 43
"""Larger integers would come close to what doubles carry through an FFT of this size."""
FFT_ERROR = 2.0**-5
"""Bound on what doubles lose on integers below 2^43: 16 roundings of 2^-53 each, four times over."""
MIN_SCALE_LOG2, MAX_SCALE_LOG2 = 20, 34
ERROR_VARIANCE = 3.2**2 + 0.25
"""Of a coefficient of SEAL's errors; the quarter is for rounding them."""
MAX_CLIENTS = 100_000


@dataclass(frozen=True, slots=True)
class CkksParameters:
    """The set for b bits, n_max clients and L values: the scale, and how many values share a slot.

    Raises ParameterError for numbers that it does not carry.
    """

    bits: int
    n_max: int
    length: int
    scale_log2: int = field(init=False)
    limbs: int = field(init=False)

    def __post_init__(self) -> None:
        """Choose the smallest scale whose errors stay below the room, then as many limbs as fit."""
        if not (2 <= self.bits <= 24 and 2 <= self.n_max <= MAX_CLIENTS and 1 <= self.length <= 1 << 36):
            raise ParameterError(f"ckks carries 2 to 24 bits, 2 to {MAX_CLIENTS} clients and 1 to 2^36 values")
        error = noise_bound(self.n_max, self.length)
        room = ERROR_ROOM - FFT_ERROR
        object.__setattr__(self, "scale_log2", max(MIN_SCALE_LOG2, math.ceil(math.log2(error / room))))
        most = min(float(MAX_SLOT_LOG2), MESSAGE_LOG2 - 1 - self.scale_log2 - 0.1)
        object.__setattr__(self, "limbs", int(most // math.log2(self.base)))
        if self.scale_log2 > MAX_SCALE_LOG2 or self.limbs < 1:
            raise ParameterError(
                f"{self.n_max} clients of {self.bits} bits do not fit a slot of {most:.1f} bits: take fewer bits or "
                "the sealed protocol"
            )

    @property
    def base(self) -> int:
        """beta: the base of the limbs of a slot, one more than a sum of values can be."""
        return self.n_max * ((1 << self.bits) - 1) + 1

    @property
    def block_values(self) -> int:
        """Values in one ciphertext."""
        return SLOTS * self.limbs

    @property
    def blocks(self) -> int:
        """Ciphertexts in an upload."""
        return -(-self.length // self.block_values)

    @property
    def scale(self) -> float:
        """What a slot is multiplied by when it is encoded."""
        return 2.0**self.scale_log2


def noise_bound(clients: int, length: int) -> float:
    """A bound on every slot's error in the sum of `clients` fresh ciphertexts, before the scale is divided out.

    It fails with probability at most 2^-60 for all slots of `length` values together (protocol.md §13.1.3). A client's
    error polynomial is v e + e1 + s e2 with v and s ternary. At a root of unity |v| and |s| are at most sqrt(2 N t),
    but with probability 4 exp(-t) each (Hoeffding); given them, real parts are sums of independent errors, and so
    subgaussian.
    """
    t = -FAILURE_LOG2 * math.log(2.0) + math.log(16.0 * max(length, SLOTS) * (clients + 1))
    ternary = 2.0 * DEGREE * t
    variance = clients * ERROR_VARIANCE * DEGREE * (ternary + 0.5)
    rounding = clients * math.sqrt(DEGREE * t)  # of the encoded coefficients, each at most one half
    return math.sqrt(2.0 * variance * t) + rounding
