"""Certificates of masked and ckks sessions: keys from text and deterministic ECDSA, the same each time (§1.4)."""

from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.twin import statements as twin
from tests.twin.predictable import PredictableRandomness
from tests.vectors.certificates import build, uri
from tests.vectors.session import seed

CLIENTS = 6
TITLES = ("coordinator", *(f"client {i}" for i in range(CLIENTS)), "holder 0")


def tls_key(title: str) -> ec.EllipticCurvePrivateKey:
    """A P-256 key from 31 bytes, which are below the order."""
    number = int.from_bytes(PredictableRandomness(f"tls key of {title}".encode())(31), "big")
    return ec.derive_private_key(number, ec.SECP256R1())


@cache
def issuer() -> tuple[x509.Name, ec.EllipticCurvePrivateKey]:
    """The authority."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "vectors authority")]), tls_key("the authority")


@cache
def authority() -> str:
    """Its own certificate, PEM."""
    return build(issuer()[1], issuer(), [], None, serial=1)


@cache
def certificate(title: str) -> str:
    """Of a party, PEM."""
    bound = twin.signing_key(seed(title)).public_key().public_bytes_raw()
    return build(tls_key(title), issuer(), [uri(title)], bound, serial=2 + TITLES.index(title))


@cache
def name(title: str) -> str:
    """Fingerprint."""
    return twin.fingerprint(certificate(title))


@cache
def members() -> tuple[str, ...]:
    """Titles of the clients, by member number: in order of fingerprint."""
    return tuple(sorted((f"client {i}" for i in range(CLIENTS)), key=name))
