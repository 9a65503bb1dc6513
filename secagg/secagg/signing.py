"""Signed statements (protocol.md §1.3): one purpose per type, so that no signature can be moved to another."""

from typing import Annotated, Generic, Self, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import Field, ValidationError

from secagg.canonical import canonical_bytes, pretty_bytes, statement_hash
from secagg.errors import CertificateInvalid, MalformedError, SignatureInvalid
from secagg.identity import Identity, identify, load_private_key
from secagg.plan import Frozen, Hash
from secagg.validation import first_problem

Signature = Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
S = TypeVar("S", bound="Statement")


class Statement(Frozen):
    """Base of everything that is signed. A subclass names its purpose."""

    @classmethod
    def purpose(cls) -> str:
        """The domain of the signature; distinct for each type."""
        raise TypeError(f"{cls.__name__} cannot be signed: it has no purpose")

    @property
    def digest(self) -> str:
        """Hash of the statement under its purpose, hex."""
        return statement_hash(self.purpose(), self)

    def to_sign(self) -> bytes:
        """The bytes that are signed."""
        return b"secagg/v1/sign/" + self.purpose().encode("ascii") + b"\x00" + canonical_bytes(self)


class Signed(Frozen, Generic[S]):
    """A statement with its signer's fingerprint and signature. Unverified until `verify` was called."""

    statement: S
    signer: Hash
    signature: Signature

    def verify(self, signer: Identity) -> S:
        """Return the statement, or raise SignatureInvalid when it was not signed by `signer`."""
        if self.signer != signer.fingerprint:
            raise SignatureInvalid(f"{self.statement.purpose()}: signed by {self.signer[:16]}, not by {signer.title}")
        signer.verify(bytes.fromhex(self.signature), self.statement.to_sign())
        return self.statement

    def to_bytes(self) -> bytes:
        """The form for files and the wire."""
        return pretty_bytes(self)

    @classmethod
    def parse(cls, raw: bytes | str) -> Self:
        """Read the form for files and the wire. Raises MalformedError."""
        return parse_model(cls, raw)


M = TypeVar("M", bound=Frozen)
_OTHER_KIND = "it has no such field; is this a file or message of another kind or protocol?"


def parse_model(model: type[M], raw: bytes | str) -> M:
    """Validate JSON from outside into `model`, with an error that says where it is wrong. Raises MalformedError."""
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        name = model.__name__.replace("[", " ").rstrip("]")
        raise MalformedError(f"{name}: {first_problem(error, unknown=_OTHER_KIND)}") from None


class Signer:
    """A party's signing capability. Never prints its key."""

    __slots__ = ("_key", "identity")

    def __init__(self, certificate_pem: bytes, signing_key_pem: bytes) -> None:
        self.identity = identify(certificate_pem)
        key = load_private_key(signing_key_pem, "the signing key")
        if not isinstance(key, Ed25519PrivateKey):
            raise MalformedError("the signing key is not Ed25519")
        if key.public_key().public_bytes_raw() != self.identity.signing_key:
            raise CertificateInvalid(f"the signing key does not belong to the certificate of {self.identity.title}")
        self._key = key

    def __repr__(self) -> str:
        return f"Signer({self.identity.title}, <redacted>)"

    def sign(self, statement: S) -> Signed[S]:
        """Sign a statement. Ed25519 is deterministic: the same statement gives the same bytes."""
        signature = self._key.sign(statement.to_sign()).hex()
        envelope: type[Signed[S]] = Signed.__class_getitem__(type(statement))  # type: ignore[assignment]
        return envelope(statement=statement, signer=self.identity.fingerprint, signature=signature)

    def storage_key(self, label: str) -> bytes:
        """A 32-byte key for the party's own files at rest, derived from its private key; distinct for each label."""
        info = b"secagg/v1/at-rest\x00" + label.encode()
        return HKDF(SHA256(), 32, None, info).derive(self._key.private_bytes_raw())
