"""Operating-system randomness as an argument, and the one keystream that expands it (protocol.md §5).

Every use draws a fresh seed of 32 bytes from the `Randomness` it is given and expands it by AES-256 in
counter mode under the key SHA-256(purpose || seed), counter starting at zero. A process passes `os.urandom`;
nothing here keeps a seed beyond the call that drew it.
"""

import hashlib
from typing import Protocol

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

SEED_BYTES = 32
NONCE_BYTES = 16
_ZEROS = memoryview(bytes(1 << 16))


class Randomness(Protocol):
    """Returns `size` bytes that nobody can predict, like `os.urandom`."""

    def __call__(self, size: int, /) -> bytes:
        """`size` fresh bytes."""
        ...


class Keystream:
    """AES-256-CTR keystream under one key (NIST SP 800-38A). Redacted when printed.

    Args:
        key: 32 bytes.
        nonce: the 16-byte initial counter block, big-endian as in SP 800-38A; zero unless given.
    """

    __slots__ = ("_encryptor",)

    def __init__(self, key: bytes, nonce: bytes = bytes(NONCE_BYTES)) -> None:
        self._encryptor = Cipher(algorithms.AES256(key), modes.CTR(nonce)).encryptor()

    def __repr__(self) -> str:
        return "Keystream(redacted)"

    def restart(self, nonce: bytes) -> None:
        """Continue from the initial counter block `nonce` under the same key."""
        self._encryptor.reset_nonce(nonce)

    def seek(self, offset: int) -> None:
        """Continue from byte `offset`, a multiple of 16, of the stream that began at counter block 0."""
        self._encryptor.reset_nonce((offset // NONCE_BYTES).to_bytes(NONCE_BYTES, "big"))

    def fill(self, out: NDArray[np.uint8]) -> None:
        """Overwrite the contiguous bytes of `out` with the next keystream bytes."""
        view = out.data.cast("B")
        for start in range(0, len(view), len(_ZEROS)):
            piece = view[start : start + len(_ZEROS)]
            self._encryptor.update_into(_ZEROS[: len(piece)], piece)

    def read(self, size: int) -> NDArray[np.uint8]:
        """The next `size` keystream bytes as a fresh array."""
        out = np.empty(size, dtype=np.uint8)
        self.fill(out)
        return out


def fresh_key(purpose: str, random: Randomness) -> bytes:
    """The key SHA-256(purpose || seed) of a keystream, for a fresh 32-byte seed (protocol.md §5).

    Raises:
        ValueError: the randomness returned another number of bytes than asked for.
    """
    seed = random(SEED_BYTES)
    if len(seed) != SEED_BYTES:
        raise ValueError(f"the randomness returned {len(seed)} bytes, not {SEED_BYTES}")
    return hashlib.sha256(purpose.encode("ascii") + seed).digest()


def fresh_keystream(purpose: str, random: Randomness) -> Keystream:
    """A keystream under `fresh_key`. Raises what that raises."""
    return Keystream(fresh_key(purpose, random))
