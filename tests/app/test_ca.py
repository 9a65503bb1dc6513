"""The certificate authority (protocol.md §1.4)."""

import json
import stat
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from secagg.identity import POSSESSION_TAG, SIGNING_KEY_OID, Role, issue, new_authority, new_request
from secagg_app.main import cli
from secagg_host.identity import load_identity

WHO = ("--role", "client", "--institution", "North clinic", "--name", "trainer")


def run(*args: Any) -> Result:
    return CliRunner().invoke(cli, ["ca", *map(str, args)])


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    assert run("init", tmp_path / "authority", "--name", "Study").exit_code == 0
    return tmp_path / "authority"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_request_at_the_party_issue_at_the_authority(authority: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    assert run("request", own, *WHO).exit_code == 0
    keys = {name: (own / name).read_bytes() for name in ("tls-key.pem", "signing-key.pem")}
    result = run(
        "issue", "--authority", authority, *WHO, "--request", own / "request.pem", "--out", own / "certificate.pem"
    )
    assert result.exit_code == 0, result.output
    (own / "authority.pem").write_bytes((authority / "authority.pem").read_bytes())
    party = load_identity(own)
    assert (party.identity.role, party.identity.title) == (Role.CLIENT, "North clinic/trainer")
    assert party.identity.fingerprint in result.output
    assert {name: (own / name).read_bytes() for name in keys} == keys, "the keys stay as they were made"


def test_one_go_for_trials(authority: Path, tmp_path: Path) -> None:
    out = tmp_path / "hub"
    result = run(
        "issue", "--authority", authority, "--role", "coordinator", "--institution", "Hub", "--name", "server",
        "--host", "localhost", "--host", "127.0.0.1", "--out", out,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert load_identity(out).identity.role is Role.COORDINATOR
    names = x509.load_pem_x509_certificate((out / "certificate.pem").read_bytes())
    found = names.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert found.get_values_for_type(x509.DNSName) == ["localhost"]


def test_private_files_are_private(authority: Path, tmp_path: Path) -> None:
    assert run("issue", "--authority", authority, *WHO, "--out", tmp_path / "own").exit_code == 0
    for path in (
        authority / "authority-key.pem",
        tmp_path / "own" / "tls-key.pem",
        tmp_path / "own" / "signing-key.pem",
    ):
        assert mode(path) == 0o600
    assert mode(tmp_path / "own" / "certificate.pem") == 0o644


def test_show(authority: Path, tmp_path: Path) -> None:
    run("issue", "--authority", authority, *WHO, "--days", "1", "--out", tmp_path / "own")
    shown = json.loads(run("show", tmp_path / "own" / "certificate.pem", "--json").output)
    assert (shown["role"], shown["institution"], shown["name"]) == ("client", "North clinic", "trainer")
    assert shown["fingerprint"] == load_identity(tmp_path / "own").identity.fingerprint
    assert shown["expired"] is False
    plain = run("show", tmp_path / "own" / "certificate.pem").output
    assert all(str(value) in plain for value in shown.values())


def test_show_says_when_a_certificate_is_expired(tmp_path: Path) -> None:
    then = int(time.time()) - 90 * 86_400
    certificate, key = new_authority("old", then)
    request, _, _ = new_request(Role.CLIENT, "North", "a")
    path = tmp_path / "old.pem"
    path.write_bytes(issue(request, certificate, key, then, expect=(Role.CLIENT, "North", "a"), days=30))
    assert json.loads(run("show", path, "--json").output)["expired"] is True


@pytest.mark.parametrize(
    ("option", "value"), [("--role", "keyholder"), ("--institution", "South clinic"), ("--name", "other")]
)
def test_a_request_for_another_name_is_refused(authority: Path, tmp_path: Path, option: str, value: str) -> None:
    run("request", tmp_path / "own", *WHO)
    who = list(WHO)
    who[who.index(option) + 1] = value
    request, out = tmp_path / "own" / "request.pem", tmp_path / "certificate.pem"
    result = run("issue", "--authority", authority, *who, "--request", request, "--out", out)
    assert result.exit_code == 1
    assert "error[certificate]: the request is for" in result.stderr
    assert not out.exists()


def forged_request() -> bytes:
    """Names somebody else's signing key: the proof of possession is by another key."""
    tls, own, foreign = (
        ec.generate_private_key(ec.SECP256R1()),
        Ed25519PrivateKey.generate(),
        Ed25519PrivateKey.generate(),
    )
    public = tls.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    bound = foreign.public_key().public_bytes_raw() + own.sign(POSSESSION_TAG + public)
    name = x509.UniformResourceIdentifier("secagg://client/North%20clinic/trainer")
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(x509.SubjectAlternativeName([name]), critical=False)
        .add_extension(x509.UnrecognizedExtension(SIGNING_KEY_OID, bound), critical=False)
        .sign(tls, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )


def test_a_signing_key_that_the_party_does_not_hold_is_refused(authority: Path, tmp_path: Path) -> None:
    (tmp_path / "request.pem").write_bytes(forged_request())
    out = tmp_path / "certificate.pem"
    result = run("issue", "--authority", authority, *WHO, "--request", tmp_path / "request.pem", "--out", out)
    assert result.exit_code == 1
    assert "does not prove possession of its signing key" in result.stderr
    assert not out.exists()


def test_an_expired_authority_issues_nothing(tmp_path: Path) -> None:
    certificate, key = new_authority("old", int(time.time()) - 30 * 86_400, days=10)
    folder = tmp_path / "authority"
    folder.mkdir()
    (folder / "authority.pem").write_bytes(certificate)
    (folder / "authority-key.pem").write_bytes(key)
    result = run("issue", "--authority", folder, *WHO, "--out", tmp_path / "own")
    assert result.exit_code == 1
    assert "authority's own certificate is not valid now" in result.stderr
    assert not (tmp_path / "own" / "certificate.pem").exists()


def test_nothing_is_overwritten(authority: Path, tmp_path: Path) -> None:
    assert run("issue", "--authority", authority, *WHO, "--out", tmp_path / "own").exit_code == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "own").iterdir()}
    for again in (
        run("init", authority, "--name", "Study"),
        run("request", tmp_path / "own", *WHO),
        run("issue", "--authority", authority, *WHO, "--out", tmp_path / "own"),
    ):
        assert again.exit_code == 1
        assert "never overwritten" in again.stderr
    assert {path.name: path.read_bytes() for path in (tmp_path / "own").iterdir()} == before


def test_a_coordinator_needs_a_host(tmp_path: Path) -> None:
    result = run("request", tmp_path / "hub", "--role", "coordinator", "--institution", "Hub", "--name", "server")
    assert result.exit_code == 2
    assert "--host" in result.stderr


@pytest.mark.parametrize("name", ["", "a/b", "x" * 64, "new\nline"])
def test_names_that_would_be_ambiguous(tmp_path: Path, name: str) -> None:
    result = run("request", tmp_path / "own", "--role", "client", "--institution", "North", "--name", name)
    assert result.exit_code == 1
    assert "error[config]: name" in result.stderr
