"""Certificates, requests for them, and session keys (protocol.md §1.4, §4.1)."""

import base64

from secagg.boxes import SessionKey, check_public_key
from secagg.identity import Role, check_issued_by, identify, issue, new_authority, new_request
from tests.fuzz.mutate import frame, parts_of
from tests.fuzz.target import Target
from tests.small import NOW
from tests.vectors import session
from tests.vectors.common import fixed

# -- certificates, requests, keys, §1.4 and §4.1 ---------------------------------------------------------------


def armour(der: bytes, kind: str) -> bytes:
    """DER as PEM."""
    return b"-----BEGIN %s-----\n%s-----END %s-----\n" % (kind.encode(), base64.encodebytes(der), kind.encode())


def der_of(pem: str) -> bytes:
    """PEM as DER."""
    return base64.b64decode("".join(line for line in pem.splitlines() if not line.startswith("-----")))


def certificate_seeds() -> list[bytes]:
    """Good ones and bad ones, as PEM and as DER."""
    pems = [*fixed()["certificates"].values(), *fixed()["bad_certificates"].values()]
    return [frame([b"\0", pem.encode()]) for pem in pems] + [frame([b"\1", der_of(pem)]) for pem in pems]


def run_certificate(data: bytes) -> None:
    """A certificate, and whether the authority issued it."""
    kind, raw = parts_of(data, 2)
    found = identify(armour(raw, "CERTIFICATE") if kind[:1] == b"\1" else raw)
    check_issued_by(found, fixed()["authority"], session.NOW)


AUTHORITY = new_authority("fuzzing", NOW)
ASKED = (Role.CLIENT, "Hospital A", "c1")


def request_seeds() -> list[bytes]:
    """Requests for certificates."""
    pem = new_request(*ASKED)[0]
    return [frame([b"\0", pem]), frame([b"\1", der_of(pem.decode())])]


def run_request(data: bytes) -> object:
    """A request at the authority."""
    kind, raw = parts_of(data, 2)
    pem = armour(raw, "CERTIFICATE REQUEST") if kind[:1] == b"\1" else raw
    return issue(pem, *AUTHORITY, NOW, expect=ASKED, days=30)


def run_session_key(data: bytes) -> None:
    """A key-holder's public key in an offer, and its stored private key."""
    public, private = parts_of(data, 2)
    if private:
        SessionKey.from_bytes(private)
    check_public_key(public)


def session_key_seeds() -> list[bytes]:
    """Keys of the session."""
    keys = [SessionKey.from_bytes(session.session_seed(holder)) for holder in range(session.HOLDERS)]
    return [frame([key.public_bytes, key.to_bytes()]) for key in keys]


TARGETS: tuple[Target, ...] = (
    Target("certificate", certificate_seeds, run_certificate),
    Target("request", request_seeds, run_request),
    Target("session-key", session_key_seeds, run_session_key),
)
