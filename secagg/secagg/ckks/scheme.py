"""TenSEAL's CKKS, narrowed to what the protocol does: encrypt integers in coefficients, decrypt (protocol.md §13.2).

Through `tenseal.sealapi`, the SEAL that TenSEAL carries: it makes keys and encryptions of zero, and decrypts. Nothing
from outside is parsed by it: the wire has a form of its own (`residues`), of fixed size, and what SEAL loads is put
together here from residues that were checked. SEAL reads and writes files only; these are in memory and have no name.
Its randomness is its own generator, seeded by the operating system: it takes none from us.
"""

import hashlib
import hmac
import os
import zlib
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secagg.ckks.parameters import RINGS, CkksParameters, Ring
from secagg.ckks.residues import U64, embed_limbs, pack, primes_of, read_block, unpack
from secagg.errors import MalformedError, ParameterError

HEADER_BYTES = 16
SIZE_AT = 8
MODE_AT = 5
PLAIN, DEFLATED = 0, 1
NTT_AT = 32
"""Byte of a serialised ciphertext that says whether it is in the transformed form; it follows the parameters' id."""


def _sealapi() -> Any:
    try:
        from tenseal import sealapi
    except ImportError as error:
        raise ParameterError("the ckks protocol needs TenSEAL: install the extra secagg[ckks]") from error
    return sealapi


class _Seal:
    """SEAL under the parameters of one ring. Holds no key."""

    def __init__(self, ring: Ring) -> None:
        api = _sealapi()
        parameters = api.EncryptionParameters(api.SCHEME_TYPE.CKKS)
        parameters.set_poly_modulus_degree(ring.degree)
        parameters.set_coeff_modulus([api.Modulus(prime) for prime in (*ring.primes, ring.special)])
        self.ring, self.api = ring, api
        self.context = api.SEALContext(parameters, True, api.SEC_LEVEL_TYPE.TC128)
        if not self.context.parameters_set():
            raise ParameterError(f"SEAL does not take the ring {ring.name}: {self.context.parameters_error_message()}")
        self.evaluator = api.Evaluator(self.context)
        self.header, self.key_prefix, self.prefix = self._learn()

    def _learn(self) -> tuple[bytes, bytes, bytes]:
        """What SEAL writes before the residues of a public key and of a ciphertext, in this version of it."""
        maker = self.api.KeyGenerator(self.context)
        key, zero = self.api.PublicKey(), self.api.Ciphertext()
        maker.create_public_key(key)
        self.api.Encryptor(self.context, key).encrypt_zero(zero)
        self.evaluator.transform_from_ntt_inplace(zero)
        size, count = 16 * self.ring.degree, len(self.ring.primes)
        raw = saved(zero)
        header = raw[:MODE_AT] + bytes([PLAIN]) + raw[MODE_AT + 1 : SIZE_AT]
        return header, body_of(saved(key))[: -size * (count + 1)], body_of(raw)[: -size * count]

    def load(self, kind: Any, prefix: bytes, residues: U64) -> Any:
        """A SEAL object from residues that were checked. `kind`: its class."""
        body, made = prefix + residues.astype("<u8").tobytes(), kind()
        content = self.header + (HEADER_BYTES + len(body)).to_bytes(8, "little") + body
        with _MemoryFile(content) as path:
            made.load(self.context, path)
        return made

    def ciphertext(self, residues: U64, *, ntt: bool) -> Any:
        """A ciphertext [2, k, N], in either form."""
        prefix = self.prefix[:NTT_AT] + bytes([ntt]) + self.prefix[NTT_AT + 1 :]
        return self.load(self.api.Ciphertext, prefix, residues)

    def residues(self, ciphertext: Any) -> U64:
        """[2, k, N], in coefficient form."""
        self.evaluator.transform_from_ntt_inplace(ciphertext)
        body = body_of(saved(ciphertext))[len(self.prefix) :]
        return np.frombuffer(body, "<u8").astype(np.uint64).reshape(2, len(self.ring.primes), self.ring.degree)


class _MemoryFile:
    """A file in memory, without a name, as SEAL's loading and saving want one. Gone when it is closed."""

    def __init__(self, content: bytes = b"") -> None:
        self._descriptor = os.memfd_create("secagg-ckks", os.MFD_CLOEXEC)
        if content:
            os.write(self._descriptor, content)

    def __enter__(self) -> str:
        return f"/proc/self/fd/{self._descriptor}"

    def read(self) -> bytes:
        """All of it."""
        return os.pread(self._descriptor, os.fstat(self._descriptor).st_size, 0)

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def saved(thing: Any) -> bytes:
    """What SEAL writes of one of its objects."""
    file = _MemoryFile()
    with file as path:
        thing.save(path)
        return file.read()


def body_of(raw: bytes) -> bytes:
    """Without SEAL's header and compression. Only for what SEAL itself has just written."""
    mode, body = raw[MODE_AT], raw[HEADER_BYTES:]
    if mode == PLAIN:
        return body
    if mode == DEFLATED:
        return zlib.decompress(body)
    import pyarrow

    with pyarrow.input_stream(pyarrow.py_buffer(body), compression="zstd") as stream:
        return bytes(stream.read())


def with_digest(raw: bytes) -> bytes:
    """Stored bytes of a key, behind their SHA-256."""
    return hashlib.sha256(raw).digest() + raw


def without_digest(raw: bytes) -> bytes:
    """What `with_digest` was given. Raises MalformedError when a bit of it has changed since."""
    digest, kept = raw[:32], raw[32:]
    if not hmac.compare_digest(digest, hashlib.sha256(kept).digest()):
        raise MalformedError("the stored session key is damaged")
    return kept


@lru_cache(maxsize=len(RINGS))
def _seal(ring: Ring) -> _Seal:
    return _Seal(ring)


class PublicContext:
    """A key-holder's public key with the parameters of a ring: all that anyone but the key-holder has."""

    __slots__ = ("_encryptor", "_key", "raw", "ring")

    def __init__(self, raw: bytes, ring: Ring) -> None:
        """Raises SizeLimitError or MalformedError for anything but a public key's form. Needs no TenSEAL."""
        self._key = unpack(raw, ring.degree, (*ring.primes, ring.special), "a public key")
        if not self._key.any(axis=2).all():  # it would encrypt in the clear, modulo that prime
            raise MalformedError("a public key has a polynomial that is zero modulo a prime")
        self.raw, self.ring = raw, ring
        self._encryptor: Any = None

    def __repr__(self) -> str:
        return f"PublicContext({self.ring.name}, {len(self.raw)} bytes)"

    def encrypt(self, parameters: CkksParameters, limbs: NDArray[np.uint32]) -> bytes:
        """One ciphertext of values [limbs, N]: an encryption of zero, and the values added to it.

        Raises MalformedError when SEAL does not encrypt under this key: it may have the form of one and be none.
        """
        residues = self._zero()
        scale = np.uint64(1 << parameters.scale_log2)
        embed_limbs(limbs, np.uint64(parameters.base), scale, primes_of(self.ring), residues[0])
        return pack(residues, self.ring.widths)

    def _zero(self) -> U64:
        """An encryption of zero, [2, k, N]. Raises MalformedError."""
        seal = _seal(self.ring)
        zero = seal.api.Ciphertext()
        try:
            if self._encryptor is None:
                key = seal.load(seal.api.PublicKey, seal.key_prefix, self._key)
                self._encryptor = seal.api.Encryptor(seal.context, key)
            self._encryptor.encrypt_zero(zero)
            return seal.residues(zero)
        except (RuntimeError, ValueError) as error:  # SEAL's own, as TenSEAL passes them on
            raise MalformedError(f"the key-holder's public key encrypts nothing: SEAL says {error}") from error

    def try_out(self, parameters: CkksParameters) -> None:
        """Encrypt once, and look at what comes out. Raises MalformedError for a key that hides nothing."""
        self.read(self.encrypt(parameters, np.zeros((parameters.limbs, self.ring.degree), np.uint32)))

    def read(self, raw: bytes) -> U64:
        """A ciphertext from outside, [2, k, N]. Raises SizeLimitError or MalformedError."""
        return read_block(self.ring, raw)


class SecretContext:
    """The key-holder's secret key for one session. Never printed; erased when the session ends."""

    __slots__ = ("_secret", "ring")

    def __init__(self, secret: Any, ring: Ring) -> None:
        self._secret, self.ring = secret, ring

    def __repr__(self) -> str:
        return "SecretContext(<redacted>)"

    @classmethod
    def generate(cls, ring: Ring) -> "SecretContext":
        """A fresh key, from SEAL's generator."""
        seal = _seal(ring)
        return cls(seal.api.KeyGenerator(seal.context).secret_key(), ring)

    @classmethod
    def from_bytes(cls, raw: bytes) -> "SecretContext":
        """What `to_bytes` gave, from the key-holder's own disk. Raises MalformedError."""
        name, _, kept = without_digest(raw).partition(b"\n")
        ring = next((one for one in RINGS.values() if one.name.encode() == name), None)
        if ring is None:
            raise MalformedError("the stored session key is damaged")
        seal = _seal(ring)
        secret = seal.api.SecretKey()
        try:
            with _MemoryFile(kept) as path:
                secret.load(seal.context, path)
        except Exception as error:
            raise MalformedError("the stored session key is damaged") from error
        return cls(secret, ring)

    def to_bytes(self) -> bytes:
        """For the key-holder's own disk, and nothing else."""
        return with_digest(self.ring.name.encode() + b"\n" + saved(self._secret))

    @property
    def public(self) -> PublicContext:
        """What everybody gets: a public key to this secret one, another each time."""
        seal, ring = _seal(self.ring), self.ring
        key = seal.api.PublicKey()
        seal.api.KeyGenerator(seal.context, self._secret).create_public_key(key)
        body = body_of(saved(key))[len(seal.key_prefix) :]
        residues = np.frombuffer(body, "<u8").astype(np.uint64).reshape(2, len(ring.primes) + 1, ring.degree)
        return PublicContext(pack(residues, (*ring.widths, ring.special.bit_length())), ring)

    def decrypt(self, total: U64) -> U64:
        """Residues [k, N] of what a sum [2, k, N] holds: values times the scale, with their error."""
        seal = _seal(self.ring)
        sum_, plain = seal.ciphertext(total, ntt=False), seal.api.Plaintext()
        seal.evaluator.transform_to_ntt_inplace(sum_)
        seal.api.Decryptor(seal.context, self._secret).decrypt(sum_, plain)
        count = 8 * len(self.ring.primes) * self.ring.degree
        values = np.frombuffer(body_of(saved(plain))[-count:], "<u8").reshape(total.shape[1:])
        # SEAL turns ciphertexts back into coefficients, not plaintexts: so this one travels in place of a ciphertext.
        found: U64 = seal.residues(seal.ciphertext(np.stack([values, np.ones_like(values)]), ntt=True))[0]
        return found
