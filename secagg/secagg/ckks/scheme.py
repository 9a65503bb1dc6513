"""TenSEAL's CKKS, narrowed to what the protocol does: encrypt integers, add, decrypt (protocol.md §13.2).

What comes from outside is bounded in size and checked before it is used; TenSEAL's own errors become ours. Its
randomness is SEAL's generator, seeded by the operating system: it takes no generator from us.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secagg.ckks.parameters import DEGREE, PRIME_BITS, SLOTS, CkksParameters
from secagg.errors import MalformedError, ParameterError, SizeLimitError

MAX_CONTEXT_BYTES = 160_000
MAX_BLOCK_BYTES = 96_000
"""Of one serialised ciphertext: 2 polynomials of 2 primes, 65,536 bytes a prime as they are, less when compressed."""

F64 = NDArray[np.float64]


def _tenseal() -> Any:
    try:
        import tenseal
    except ImportError as error:
        raise ParameterError("the ckks protocol needs TenSEAL: pip install tenseal") from error
    return tenseal


def _fresh(scale_log2: int) -> Any:
    tenseal = _tenseal()
    context = tenseal.context(
        tenseal.SCHEME_TYPE.CKKS, poly_modulus_degree=DEGREE, coeff_mod_bit_sizes=list(PRIME_BITS), n_threads=1
    )
    context.global_scale = 2.0**scale_log2
    return context


def _bare(context: Any) -> bytes:
    """The context without any key: what must be the same for everybody."""
    return bytes(
        context.serialize(save_public_key=False, save_secret_key=False, save_galois_keys=False, save_relin_keys=False)
    )


@lru_cache(maxsize=8)
def _expected(scale_log2: int) -> bytes:
    context = _fresh(scale_log2)
    context.make_context_public()
    return _bare(context)


class PublicContext:
    """A key-holder's public key with the parameters, checked to be those of the session."""

    __slots__ = ("_context", "raw", "scale_log2")

    def __init__(self, raw: bytes, scale_log2: int) -> None:
        """Raises SizeLimitError or MalformedError for anything but a public key of exactly these parameters."""
        if not 1 <= len(raw) <= MAX_CONTEXT_BYTES:
            raise SizeLimitError(f"a public context has {len(raw)} bytes; it has at most {MAX_CONTEXT_BYTES}")
        self.raw, self.scale_log2 = raw, scale_log2
        try:
            self._context = _tenseal().context_from(raw, n_threads=1)
            found = (self._context.has_secret_key(), self._context.has_galois_keys(), self._context.has_relin_keys())
            usable = self._context.has_public_key() and found == (False, False, False)
            same = _bare(self._context) == _expected(scale_log2)
        except Exception as error:
            raise MalformedError(f"the public context cannot be read: {type(error).__name__}") from error
        if not usable or not same:
            raise MalformedError("the public context is of other parameters, or holds other keys than a public one")

    def __repr__(self) -> str:
        return f"PublicContext({len(self.raw)} bytes)"

    def encrypt(self, slots: F64) -> bytes:
        """One serialised ciphertext of integers, float64 [2048]."""
        return bytes(_tenseal().ckks_vector(self._context, slots.tolist()).serialize())

    def read(self, raw: bytes) -> Any:
        """A ciphertext from outside. Raises SizeLimitError or MalformedError."""
        return _read(self._context, raw, self.scale_log2)


def _read(context: Any, raw: bytes, scale_log2: int) -> Any:
    if not 1 <= len(raw) <= MAX_BLOCK_BYTES:
        raise SizeLimitError(f"a ciphertext has {len(raw)} bytes; it has 1 to {MAX_BLOCK_BYTES}")
    try:
        vector = _tenseal().ckks_vector_from(context, raw)
        part, *more = vector.ciphertext()
        sizes = (vector.size(), len(more), part.size(), part.coeff_modulus_size(), float(part.scale))
        plain = part.is_transparent() or not part.is_ntt_form()
    except Exception as error:
        raise MalformedError(f"a ciphertext cannot be read: {type(error).__name__}") from error
    if plain or sizes != (SLOTS, 0, 2, len(PRIME_BITS) - 1, 2.0**scale_log2):
        raise MalformedError("a ciphertext is of another size, level or scale than the session's, or hides nothing")
    return vector


class SecretContext:
    """The key-holder's secret key for one session. Never printed; erased when the session ends."""

    __slots__ = ("_context", "scale_log2")

    def __init__(self, context: Any, scale_log2: int) -> None:
        self._context, self.scale_log2 = context, scale_log2

    def __repr__(self) -> str:
        return "SecretContext(<redacted>)"

    @classmethod
    def generate(cls, scale_log2: int) -> "SecretContext":
        """A fresh key, from SEAL's generator."""
        return cls(_fresh(scale_log2), scale_log2)

    @classmethod
    def from_bytes(cls, raw: bytes) -> "SecretContext":
        """What `to_bytes` gave, from the key-holder's own disk. Raises MalformedError."""
        try:
            return cls(_tenseal().context_from(raw[1:], n_threads=1), raw[0])
        except Exception as error:
            raise MalformedError("the stored session key is damaged") from error

    def to_bytes(self) -> bytes:
        """For the key-holder's own disk, and nothing else."""
        kept = self._context.serialize(
            save_public_key=True, save_secret_key=True, save_galois_keys=False, save_relin_keys=False
        )
        return bytes([self.scale_log2]) + bytes(kept)

    @property
    def public(self) -> PublicContext:
        """What everybody gets."""
        context = self._context.copy()
        context.make_context_public()
        raw = context.serialize(
            save_public_key=True, save_secret_key=False, save_galois_keys=False, save_relin_keys=False
        )
        return PublicContext(bytes(raw), self.scale_log2)

    def read(self, raw: bytes) -> Any:
        """A ciphertext from outside. Raises SizeLimitError or MalformedError."""
        return _read(self._context, raw, self.scale_log2)

    @staticmethod
    def add(total: Any, other: Any) -> None:
        """total += other. Raises MalformedError."""
        try:
            total.add_(other)
        except Exception as error:
            raise MalformedError(f"ciphertexts do not add up: {type(error).__name__}") from error

    def decrypt(self, total: Any) -> F64:
        """The slots of a sum, float64 [2048], not rounded yet."""
        return np.array(total.decrypt(), dtype=np.float64)


def pack(parameters: CkksParameters, values: Sequence[NDArray[np.uint32]]) -> F64:
    """One block's slots from its limbs, each uint32 [2048]: sum of limb_j beta^j, exact below 2^43."""
    slots = np.zeros(SLOTS, dtype=np.uint64)
    for limb in reversed(values):
        slots = slots * np.uint64(parameters.base) + limb
    return slots.astype(np.float64)


def unpack(parameters: CkksParameters, slots: NDArray[np.int64]) -> NDArray[np.uint32]:
    """The sums in one block, uint32 [block_values], limb by limb. What is above the last limb must be nothing.

    Raises MalformedError for a negative slot or one that is too large.
    """
    if slots.min() < 0:
        raise MalformedError("a slot of the sum is negative")
    left, limbs = slots.astype(np.uint64), list[NDArray[np.uint32]]()
    for _ in range(parameters.limbs):
        left, limb = np.divmod(left, np.uint64(parameters.base))
        limbs.append(limb.astype(np.uint32))
    if left.any():
        raise MalformedError("a slot of the sum holds more than its limbs")
    return np.concatenate(limbs)
