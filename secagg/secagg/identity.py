"""Certificates: who a party is, and the keys that are bound to the name (protocol.md §1.4).

Pure functions: they take and return bytes; files and clocks belong to the caller.
"""

import datetime as dt
import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from urllib.parse import quote, unquote, urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from secagg.errors import CertificateInvalid, ConfigError, MalformedError, SignatureInvalid

SIGNING_KEY_OID = x509.ObjectIdentifier("2.25.305419896177428910244215783541260921345")
POSSESSION_TAG = b"secagg/v1/possession\x00"
CLOCK_SLACK = dt.timedelta(minutes=5)
NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,62}")


class Role(StrEnum):
    """What a party may do. A certificate names exactly one."""

    COORDINATOR = "coordinator"
    CLIENT = "client"
    KEYHOLDER = "keyholder"
    AUDITOR = "auditor"


def plain_name(name: str) -> str:
    """What a reader takes a name for: names that differ only in case or in spaces are one (protocol.md §4.4, §8.2)."""
    return " ".join(name.casefold().split())


@dataclass(frozen=True, slots=True)
class Identity:
    """A party as its certificate describes it. `fingerprint` is SHA-256 of the DER, in hex."""

    role: Role
    institution: str
    name: str
    fingerprint: str
    signing_key: bytes
    not_before: int
    not_after: int
    pem: str

    @property
    def title(self) -> str:
        """For people: institution/name."""
        return f"{self.institution}/{self.name}"

    def check_clock(self, now: int) -> None:
        """Raise CertificateInvalid when the certificate is not valid at `now` (seconds since 1970, UTC)."""
        if now < self.not_before:
            raise CertificateInvalid(f"certificate of {self.title} is not valid before {_utc(self.not_before)}")
        if now > self.not_after:
            raise CertificateInvalid(f"certificate of {self.title} expired on {_utc(self.not_after)}; issue a new one")

    def verify(self, signature: bytes, message: bytes) -> None:
        """Raise SignatureInvalid unless `signature` over `message` was made with the bound Ed25519 key."""
        try:
            Ed25519PublicKey.from_public_bytes(self.signing_key).verify(signature, message)
        except InvalidSignature as error:
            raise SignatureInvalid(f"signature of {self.title} does not verify") from error


def _utc(seconds: int) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat(timespec="seconds")


def _uri(role: Role, institution: str, name: str) -> str:
    for what, value in (("institution", institution), ("name", name)):
        if not NAME_PATTERN.fullmatch(value):
            raise ConfigError(f"{what} {value!r}: use 1 to 63 letters, digits, spaces, dots, dashes, underscores")
    return f"secagg://{role}/{quote(institution)}/{quote(name)}"


def _parse_uri(uri: str) -> tuple[Role, str, str]:
    try:
        parts = urlsplit(uri)
    except ValueError as error:  # brackets or letters that no host has
        raise CertificateInvalid(f"subject alternative name {uri!r} is not an address") from error
    path = parts.path.split("/")
    if parts.scheme != "secagg" or len(path) != 3 or path[0]:
        raise CertificateInvalid(f"subject alternative name {uri!r} is not secagg://ROLE/INSTITUTION/NAME")
    try:
        role = Role(parts.netloc)
    except ValueError as error:
        raise CertificateInvalid(f"unknown role {parts.netloc!r} in certificate") from error
    institution, name = unquote(path[1]), unquote(path[2])
    if not (NAME_PATTERN.fullmatch(institution) and NAME_PATTERN.fullmatch(name)):
        raise CertificateInvalid(f"institution or name in {uri!r} is not of the profile")
    return role, institution, name


OFF_PROFILE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What pyca/cryptography raises, at any access, for certificates and requests that parse but are not sound."""


def load_certificate(pem: bytes | str) -> x509.Certificate:
    """Parse one PEM certificate. Raises MalformedError."""
    raw = pem.encode() if isinstance(pem, str) else pem
    try:
        return x509.load_pem_x509_certificate(raw)
    except OFF_PROFILE as error:
        raise MalformedError(f"not a PEM certificate: {error}") from error


@lru_cache(maxsize=4096)  # every statement of a session names its party by the same few certificates
def identify(pem: bytes | str) -> Identity:
    """Read a party's identity out of its certificate. Says nothing about trust.

    Raises MalformedError or CertificateInvalid when the certificate is not of the profile of protocol.md §1.4.
    """
    certificate = load_certificate(pem)
    try:
        _check_curve(certificate.public_key())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        bound = certificate.extensions.get_extension_for_oid(SIGNING_KEY_OID).value
    except x509.ExtensionNotFound as error:
        raise CertificateInvalid(
            "certificate binds no secagg name or signing key; issue it with `secagg ca`"
        ) from error
    except OFF_PROFILE as error:
        raise MalformedError(f"not a certificate of the profile: {error}") from error
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1 or not isinstance(bound, x509.UnrecognizedExtension) or len(bound.value) != 32:
        raise CertificateInvalid("certificate must hold exactly one secagg name and one 32-byte signing key")
    role, institution, name = _parse_uri(uris[0])
    return Identity(
        role=role,
        institution=institution,
        name=name,
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
        signing_key=bound.value,
        not_before=int(certificate.not_valid_before_utc.timestamp()),
        not_after=int(certificate.not_valid_after_utc.timestamp()),
        pem=pem_of(certificate),
    )


def pem_of(certificate: x509.Certificate) -> str:
    """The certificate as PEM, and nothing else that its file may have held."""
    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")


def _check_curve(key: object) -> None:
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise CertificateInvalid("certificate key is not P-256")


def load_private_key(pem: bytes, what: str) -> object:
    """Read an unencrypted PEM private key of any kind. Raises MalformedError that says `what` is unreadable."""
    try:
        return serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise MalformedError(f"{what} is not an unencrypted PEM private key") from None


def check_tls_key(identity: Identity, tls_key: bytes) -> None:
    """Raise MalformedError or CertificateInvalid unless `tls_key` (PEM) is the one that the certificate is for."""
    key = load_private_key(tls_key, "the TLS key")
    if (
        not isinstance(key, ec.EllipticCurvePrivateKey)
        or key.public_key() != load_certificate(identity.pem).public_key()
    ):
        raise CertificateInvalid(f"the TLS key does not belong to the certificate of {identity.title}")


def check_issued_by(identity: Identity, authority_pem: bytes | str, now: int) -> None:
    """Raise CertificateInvalid unless `authority_pem` issued the certificate and both are valid at `now`."""
    authority, leaf = load_certificate(authority_pem), load_certificate(identity.pem)
    try:
        leaf.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError) as error:
        raise CertificateInvalid(f"certificate of {identity.title} was not issued by the trusted authority") from error
    if not authority.not_valid_before_utc.timestamp() <= now <= authority.not_valid_after_utc.timestamp():
        raise CertificateInvalid("the authority's own certificate is not valid now")
    identity.check_clock(now)


@dataclass(frozen=True, slots=True)
class Credentials:
    """A party's certificate and its two private keys, PEM. Private parts are not shown."""

    certificate: bytes
    tls_key: bytes
    signing_key: bytes

    def __repr__(self) -> str:
        """Keys stay out of logs."""
        return "Credentials(<redacted>)"


def _pem(key: ec.EllipticCurvePrivateKey | Ed25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def new_authority(name: str, now: int, days: int = 3650) -> tuple[bytes, bytes]:
    """Make a certificate authority: (certificate PEM, private key PEM)."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        _builder(subject, subject, key.public_key(), now, days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(sign_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM), _pem(key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: int, days: int
) -> x509.CertificateBuilder:
    start = dt.datetime.fromtimestamp(now, dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - CLOCK_SLACK)
        .not_valid_after(start + dt.timedelta(days=days))
    )


def _key_usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, key_cert_sign=sign_certificates, crl_sign=sign_certificates,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip


def new_request(role: Role, institution: str, name: str, hosts: tuple[str, ...] = ()) -> tuple[bytes, bytes, bytes]:
    """Make a party's two keys and a signing request: (request PEM, TLS key PEM, signing key PEM).

    The private keys stay with the party; only the request goes to the authority. `hosts` are the DNS names or
    addresses under which a coordinator is reached.
    """
    tls, signing = ec.generate_private_key(ec.SECP256R1()), Ed25519PrivateKey.generate()
    tls_public = tls.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    bound = signing.public_key().public_bytes_raw() + signing.sign(POSSESSION_TAG + tls_public)
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(_uri(role, institution, name))]
    names += [_host(host) for host in hosts]
    subject = x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, institution), x509.NameAttribute(NameOID.COMMON_NAME, name)]
    )
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(subject)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.UnrecognizedExtension(SIGNING_KEY_OID, bound), critical=False)
        .sign(tls, hashes.SHA256())
    )
    return request.public_bytes(serialization.Encoding.PEM), _pem(tls), _pem(signing)


def _host(host: str) -> x509.GeneralName:
    import ipaddress

    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def issue(
    request_pem: bytes,
    authority_pem: bytes,
    authority_key: bytes,
    now: int,
    *,
    expect: tuple[Role, str, str],
    days: int,
) -> bytes:
    """Certify a request for exactly the role, institution and name in `expect`; returns the certificate PEM.

    Raises CertificateInvalid when the request asks for another name, or its holder does not possess the keys.
    """
    try:
        request = x509.load_pem_x509_csr(request_pem)
        signing_key = _check_request(request, expect)
        subject, public = request.subject, request.public_key()
    except OFF_PROFILE as error:
        raise MalformedError(f"not a PEM certificate request of the profile: {error}") from error
    issuer = load_certificate(authority_pem)
    key = load_private_key(authority_key, "the authority's key")
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(public, ec.EllipticCurvePublicKey):
        raise CertificateInvalid("authority and request must both use P-256")
    names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH])
    certificate = (
        _builder(subject, issuer.subject, public, now, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(sign_certificates=False), critical=True)
        .add_extension(usage, critical=False)
        .add_extension(names, critical=False)
        .add_extension(x509.UnrecognizedExtension(SIGNING_KEY_OID, signing_key), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def _check_request(request: x509.CertificateSigningRequest, expect: tuple[Role, str, str]) -> bytes:
    """Check names and possession of both keys; return the raw Ed25519 public key."""
    try:
        names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        bound = request.extensions.get_extension_for_oid(SIGNING_KEY_OID).value
    except x509.ExtensionNotFound as error:
        raise CertificateInvalid("the request binds no secagg name or signing key") from error
    if not request.is_signature_valid:
        raise CertificateInvalid("the request is not signed by its own TLS key")
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1 or _parse_uri(uris[0]) != expect:
        raise CertificateInvalid(f"the request is for {uris}, not for {'/'.join(expect)}")
    if expect[0] is not Role.COORDINATOR and len(names) != 1:
        raise CertificateInvalid(f"the request names hosts; a {expect[0]} is not reached under any")
    if not isinstance(bound, x509.UnrecognizedExtension) or len(bound.value) != 96:
        raise CertificateInvalid("the request's signing-key extension must hold key and proof, 96 bytes")
    tls_public = request.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    raw, proof = bound.value[:32], bound.value[32:]
    try:
        Ed25519PublicKey.from_public_bytes(raw).verify(proof, POSSESSION_TAG + tls_public)
    except InvalidSignature as error:
        raise CertificateInvalid("the request does not prove possession of its signing key") from error
    return raw
