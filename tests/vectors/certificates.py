"""Certificates, good and bad, made once: ECDSA draws randomness of its own (§1.4)."""

import datetime as dt
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from tests.twin import statements as twin
from tests.vectors.common import Json, fixed
from tests.vectors.session import CLIENTS, HOLDERS, NOW, seed

OID = x509.ObjectIdentifier("2.25.305419896177428910244215783541260921345")
TITLES = ("coordinator", *(f"client {i}" for i in range(CLIENTS)), *(f"holder {i}" for i in range(HOLDERS)))
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


def uri(title: str) -> str:
    """secagg://ROLE/INSTITUTION/NAME."""
    kind, _, number = title.partition(" ")
    role = {"coordinator": "coordinator", "client": "client", "holder": "keyholder"}[kind]
    institution = f"{kind.capitalize()} {number}".strip().replace(" ", "%20")
    return f"secagg://{role}/{institution}/{kind}"


def build(
    key: PrivateKey,
    issuer: tuple[x509.Name, ec.EllipticCurvePrivateKey],
    uris: Sequence[str],
    bound: bytes | None,
    serial: int | None = None,
) -> str:
    """A certificate with these names and this signing key, PEM. With a serial number it is the same each time."""
    start = dt.datetime.fromtimestamp(NOW - 300, dt.UTC)
    own = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "vectors")]) if uris else issuer[0]
    builder = (
        x509.CertificateBuilder()
        .subject_name(own)
        .issuer_name(issuer[0])
        .public_key(key.public_key())
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(days=3650))
    )
    if uris:
        names = [x509.UniformResourceIdentifier(one) for one in uris]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if bound is not None:
        builder = builder.add_extension(x509.UnrecognizedExtension(OID, bound), critical=False)
    made = builder.sign(issuer[1], hashes.SHA256(), ecdsa_deterministic=None if serial is None else True)
    return made.public_bytes(serialization.Encoding.PEM).decode()


def make() -> Json:
    """A fresh authority, a certificate for each party of the session, and certificates that break the profile."""
    authority_key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "vectors authority")])
    issuer = (name, authority_key)

    def of(title: str) -> str:
        bound = twin.signing_key(seed(title)).public_key().public_bytes_raw()
        return build(ec.generate_private_key(ec.SECP256R1()), issuer, [uri(title)], bound)

    key, good, bound = ec.generate_private_key(ec.SECP256R1()), uri("client 0"), bytes(range(32))
    bad = {
        "P-384 key": build(ec.generate_private_key(ec.SECP384R1()), issuer, [good], bound),
        "RSA key": build(rsa.generate_private_key(65537, 2048), issuer, [good], bound),
        "Ed25519 key": build(ed25519.Ed25519PrivateKey.generate(), issuer, [good], bound),
        "no name": build(key, issuer, [], bound),
        "no signing key": build(key, issuer, [good], None),
        "two names": build(key, issuer, [good, uri("client 1")], bound),
        "a signing key of 31 bytes": build(key, issuer, [good], bound[:31]),
        "a signing key of 33 bytes": build(key, issuer, [good], bound + b"\0"),
        "another scheme": build(key, issuer, ["https://client/A/b"], bound),
        "an unknown role": build(key, issuer, ["secagg://owner/A/b"], bound),
        "no institution": build(key, issuer, ["secagg://client//b"], bound),
        "one part too many": build(key, issuer, ["secagg://client/A/b/c"], bound),
        "a slash in a name": build(key, issuer, ["secagg://client/A%2FB/c"], bound),
        "a host that is no host": build(key, issuer, ["secagg://[client/A/b"], bound),
    }
    return {
        "authority": build(authority_key, issuer, [], None),
        "certificates": {title: of(title) for title in TITLES},
        "bad_certificates": bad,
    }


def document() -> Json:
    """Good certificates with what they say, bad ones with the error that must follow."""
    kept = fixed()
    good = []
    for title in TITLES:
        role, institution, name = uri(title).removeprefix("secagg://").replace("%20", " ").split("/")
        pem = kept["certificates"][title]
        good.append(
            {
                "pem": pem,
                "role": role,
                "institution": institution,
                "name": name,
                "fingerprint": twin.fingerprint(pem),
                "signing_key": twin.signing_key(seed(title)).public_key().public_bytes_raw().hex(),
                "not_before": NOW - 300,
                "not_after": NOW - 300 + 3650 * 86_400,
            }
        )
    broken = kept["certificates"]["coordinator"]
    text = {
        "no certificate at all": "hello",
        "empty": "",
        "cut short": broken[:300],
        "damaged base64": broken.replace("MII", "???", 1),
        "a zero byte": "\0" + broken[:40],
    }
    return {
        "good": good,
        "malformed": [
            *(
                {"change": change, "pem": pem, "code": "certificate"}
                for change, pem in kept["bad_certificates"].items()
            ),
            *({"change": change, "pem": pem, "code": "malformed"} for change, pem in text.items()),
        ],
    }
