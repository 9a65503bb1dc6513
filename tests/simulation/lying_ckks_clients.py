"""Clients of a ckks session that lie with ciphertexts, with all that a client or the coordinator can get hold of (§13).

Each makes the upload it would send. What it is after, and why it does not get it: test_ckks_clients.py.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secagg.ckks.client import CkksSealed
from secagg.ckks.parameters import WRAP_BYTES, Ring
from secagg.ckks.residues import U64, add_residues, pack, primes_of, read_sums, unpack_words
from tests.secagg.ckks.sessions import Ckks

TAG_BYTES = 16


@dataclass(frozen=True)
class ShiftsItsCiphertextByTheKey:
    """Adds K Delta to one coefficient of a second polynomial of its own: the sums then hold K s, s the secret key."""

    session: Ckks
    index: int
    members: int

    @property
    def factor(self) -> int:
        """K: as much as the others' values leave room for."""
        return int(0.6 * self.members * self.middle)

    @property
    def middle(self) -> int:
        """What encodes zero."""
        return self.session.descriptor.quantiser.levels // 2

    def upload(self) -> CkksSealed:
        """Honest but for its first ciphertext."""
        parameters = self.session.descriptor.parameters
        ring, step = parameters.ring, self.factor << parameters.scale_log2
        zeros = np.full((parameters.limbs, ring.degree), self.middle, np.uint32)
        public = self.session.descriptor.public
        found = public.read(public.encrypt(parameters, zeros))
        shift = step * sum(parameters.base**limb for limb in range(parameters.limbs))
        for number, prime in enumerate(ring.primes):
            found[1, number, 0] = (int(found[1, number, 0]) + shift) % prime
        return self.session.encrypted(self.index, (pack(found, ring.widths), *self.session.inner(self.index)[1:]))

    def key_in(self, sums: NDArray[np.uint32]) -> NDArray[np.int64]:
        """The secret key out of published sums, ternary [N]."""
        parameters = self.session.descriptor.parameters
        first = sums[: parameters.block_values].astype(np.int64).reshape(parameters.limbs, -1)
        found: NDArray[np.int64] = np.rint((first.mean(0) - self.members * self.middle) / self.factor).astype(np.int64)
        return found

    def sent(self, key: NDArray[np.int64]) -> NDArray[np.int64]:
        """What is in its ciphertexts, [L]: zero and K s in each limb of the first, honest values in the others."""
        parameters, values = self.session.descriptor.parameters, self.session.values(self.index).astype(np.int64)
        first = np.tile(self.middle + self.factor * key, parameters.limbs)
        values[: parameters.block_values] = first[: parameters.length]
        return values

    def decrypted(self, key: NDArray[np.int64], ciphertext: U64) -> tuple[NDArray[np.uint32], float, int]:
        """What a ciphertext [2, k, N] holds under such a key: values, the largest error, coefficients out of range."""
        parameters, rows = self.session.descriptor.parameters, list[NDArray[np.uint64]]()
        for number, prime in enumerate(primes_of(parameters.ring)):
            total, turned = ciphertext[0, number].copy(), ciphertext[1, number]
            for at in np.flatnonzero(key):
                plus, minus = (turned, (prime - turned) % prime)[:: int(key[at])]
                total[at:] = (total[at:] + plus[: len(total) - at]) % prime
                total[:at] = (total[:at] + minus[len(total) - at :]) % prime
            rows.append(total)
        return read_sums(parameters, np.stack(rows), np.zeros(parameters.ring.degree, np.int64))


@dataclass(frozen=True)
class CombinesOthersCiphertexts:
    """Sends minus the sum of all the others' ciphertexts but one, so that the sum is that one's vector.

    It has what the coordinator has of them: blocks that are sealed, of which it takes what looks like residues.
    """

    session: Ckks
    index: int
    others: tuple[int, ...]

    def upload(self) -> CkksSealed:
        """For each block an encryption of zero, and the others' taken away."""
        parameters, public = self.session.descriptor.parameters, self.session.descriptor.public
        ring, made = parameters.ring, list[bytes]()
        for number in range(parameters.blocks):
            total = public.read(public.encrypt(parameters, np.zeros((parameters.limbs, ring.degree), np.uint32)))
            for other in self.others:
                seen = as_residues(ring, self.session.uploads[other].blocks[number])
                primes = primes_of(ring)[:, None]
                add_residues(total, (primes - seen) % primes, primes_of(ring))
            made.append(pack(total, ring.widths))
        return self.session.encrypted(self.index, made)


@dataclass(frozen=True)
class CopiesAnother:
    """Signs another client's blocks as its own: the sum would hold that one's vector twice."""

    session: Ckks
    index: int
    other: int

    def upload(self) -> CkksSealed:
        """Bit for bit."""
        return self.session.lied(self.index, self.session.uploads[self.other].blocks)


def as_residues(ring: Ring, block: bytes) -> U64:
    """A sealed block, read as if what is between its encapsulated key and its tag were a ciphertext: [2, k, N]."""
    body = block[WRAP_BYTES - TAG_BYTES : -TAG_BYTES]
    found, words, at = np.empty((2, len(ring.primes), ring.degree), np.uint64), np.frombuffer(body, np.uint64), 0
    for half in found:
        for residues, width in zip(half, ring.widths, strict=True):
            count = ring.degree * width // 64
            unpack_words(words[at : at + count], np.int64(width), residues)
            at += count
    return found % primes_of(ring)[:, None]


LIARS = (ShiftsItsCiphertextByTheKey, CombinesOthersCiphertexts, CopiesAnother)
