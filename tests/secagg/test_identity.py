"""Certificates bind role, institution, name and signing key (protocol.md §1.4)."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from secagg.errors import CertificateInvalid, ConfigError, MalformedError, SignatureInvalid
from secagg.identity import (
    POSSESSION_TAG,
    SIGNING_KEY_OID,
    Role,
    check_issued_by,
    identify,
    issue,
    new_authority,
    new_request,
)
from secagg.messages import Approval, Enrolment, SignedApproval
from secagg.signing import Signer
from tests.small import NOW

AUTHORITY, AUTHORITY_KEY = new_authority("test", NOW)
EXPECT = (Role.CLIENT, "Hospital A", "c1")


def issued(**changes: int) -> tuple[bytes, bytes]:
    request, _, signing = new_request(*EXPECT)
    days = changes.get("days", 30)
    return issue(request, AUTHORITY, AUTHORITY_KEY, changes.get("now", NOW), expect=EXPECT, days=days), signing


def test_the_certificate_says_who_and_binds_the_signing_key() -> None:
    certificate, signing = issued()
    identity = identify(certificate)
    assert (identity.role, identity.institution, identity.name) == EXPECT
    check_issued_by(identity, AUTHORITY, NOW)
    signed = Signer(certificate, signing).sign(Approval(ctx="00" * 32, holder=identity.fingerprint))
    assert signed.verify(identity).ctx == "00" * 32


def test_expired_and_not_yet_valid_certificates_are_refused() -> None:
    identity = identify(issued(days=1)[0])
    with pytest.raises(CertificateInvalid, match="expired"):
        check_issued_by(identity, AUTHORITY, NOW + 2 * 86_400)
    with pytest.raises(CertificateInvalid, match="not valid before"):
        identity.check_clock(NOW - 86_400)


def test_another_authority_is_refused() -> None:
    other, _ = new_authority("test", NOW)
    with pytest.raises(CertificateInvalid, match="not issued by"):
        check_issued_by(identify(issued()[0]), other, NOW)


@pytest.mark.parametrize("expect", [(Role.KEYHOLDER, "Hospital A", "c1"), (Role.CLIENT, "Hospital B", "c1")])
def test_the_authority_issues_only_what_it_was_told(expect: tuple[Role, str, str]) -> None:
    request, _, _ = new_request(*EXPECT)
    with pytest.raises(CertificateInvalid, match="not for"):
        issue(request, AUTHORITY, AUTHORITY_KEY, NOW, expect=expect, days=1)


def test_a_request_must_prove_possession_of_its_signing_key() -> None:
    """Somebody asks for a certificate over another party's public signing key."""
    victim = Ed25519PrivateKey.generate()
    tls = ec.generate_private_key(ec.SECP256R1())
    forged = victim.public_key().public_bytes_raw() + Ed25519PrivateKey.generate().sign(POSSESSION_TAG)
    uri = x509.UniformResourceIdentifier("secagg://client/Hospital%20A/c1")
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(x509.SubjectAlternativeName([uri]), critical=False)
        .add_extension(x509.UnrecognizedExtension(SIGNING_KEY_OID, forged), critical=False)
        .sign(tls, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    with pytest.raises(CertificateInvalid, match="possession"):
        issue(request, AUTHORITY, AUTHORITY_KEY, NOW, expect=EXPECT, days=1)


@pytest.mark.parametrize("name", ["", "a/b", "../x", "x" * 64, "a\nb", "a\n"])
def test_names_outside_the_profile_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="use 1 to 63"):
        new_request(Role.CLIENT, name, "c1")


def test_only_a_coordinator_is_certified_under_a_host_name() -> None:
    """With the coordinator's name in it, a client's certificate could answer for the coordinator."""
    request, _, _ = new_request(*EXPECT, ("10.0.0.1",))
    with pytest.raises(CertificateInvalid, match="names hosts"):
        issue(request, AUTHORITY, AUTHORITY_KEY, NOW, expect=EXPECT, days=1)


def test_an_unreadable_key_is_refused() -> None:
    with pytest.raises(MalformedError, match="signing key is not an unencrypted PEM"):
        Signer(issued()[0], b"junk")
    with pytest.raises(MalformedError, match="authority's key"):
        issue(new_request(*EXPECT)[0], AUTHORITY, b"junk", NOW, expect=EXPECT, days=1)


def test_certificates_of_another_kind_are_refused() -> None:
    with pytest.raises(CertificateInvalid, match="binds no secagg name"):
        identify(AUTHORITY)
    with pytest.raises(MalformedError):
        identify(b"junk")


def test_a_signature_for_one_purpose_is_none_for_another() -> None:
    """Approval and enrolment could hold the same fields; the purpose keeps them apart (protocol.md §1.3)."""
    certificate, signing = issued()
    signer = Signer(certificate, signing)
    enrolment = signer.sign(Enrolment(ctx="00" * 32, client=signer.identity.fingerprint))
    moved = SignedApproval(
        statement=Approval(ctx="00" * 32, holder=signer.identity.fingerprint),
        signer=enrolment.signer,
        signature=enrolment.signature,
    )
    with pytest.raises(SignatureInvalid):
        moved.verify(signer.identity)


def test_a_signing_key_of_another_certificate_is_refused() -> None:
    with pytest.raises(CertificateInvalid, match="does not belong"):
        Signer(issued()[0], issued()[1])
