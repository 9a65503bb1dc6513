"""A party's own files, as `secagg ca issue` lays them out (protocol.md §1.4)."""

import stat
import time
from dataclasses import dataclass
from pathlib import Path

from secagg.errors import ConfigError, SecaggError
from secagg.identity import Identity, check_issued_by, check_tls_key, load_certificate, pem_of
from secagg.signing import Signer

CERTIFICATE = "certificate.pem"
TLS_KEY = "tls-key.pem"
SIGNING_KEY = "signing-key.pem"
AUTHORITY = "authority.pem"


@dataclass(frozen=True, slots=True)
class PartyFiles:
    """Certificate and keys of this process's party, and the authority it trusts for names; keys are not shown."""

    signer: Signer
    certificate: bytes
    tls_key: bytes
    authority: str

    def __repr__(self) -> str:
        """Keys stay out of logs."""
        return f"PartyFiles({self.identity.title}, <redacted>)"

    @property
    def identity(self) -> Identity:
        """Who this party is."""
        return self.signer.identity


def load_identity(folder: Path, now: int | None = None) -> PartyFiles:
    """Load and check the four files of an identity folder; `now` is the time in seconds, the clock's unless given.

    Raises ConfigError for a missing file or a private key that others can read, and MalformedError or
    CertificateInvalid for files that do not belong together or a certificate that is not valid now.
    """
    certificate, authority = _read(folder / CERTIFICATE), _read(folder / AUTHORITY)
    tls_key, signing_key = _read_private(folder / TLS_KEY), _read_private(folder / SIGNING_KEY)
    try:
        signer = Signer(certificate, signing_key)
        check_tls_key(signer.identity, tls_key)
        check_issued_by(signer.identity, authority, int(time.time()) if now is None else now)
    except SecaggError as error:
        raise type(error)(f"{folder}: {error}") from error
    return PartyFiles(signer, certificate, tls_key, pem_of(load_certificate(authority)))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; `secagg ca issue` makes it") from error


def _read_private(path: Path) -> bytes:
    raw = _read(path)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise ConfigError(f"{path}: a private key that others can read (mode {mode:o}); run chmod 600 on it")
    return raw
