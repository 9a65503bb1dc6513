"""A party's identity folder: complete, private, valid now."""

from pathlib import Path

import pytest

from secagg.errors import CertificateInvalid, ConfigError, MalformedError
from secagg.identity import Role
from secagg_host.identity import AUTHORITY, CERTIFICATE, SIGNING_KEY, TLS_KEY, load_identity
from tests.deployment import Deployment


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Deployment(tmp_path).party(Role.CLIENT, "client-1", "Hospital 1")
    return tmp_path / "parties" / "client-1"


def test_it_loads_and_does_not_show_keys(folder: Path) -> None:
    files = load_identity(folder)
    assert files.identity.title == "Hospital 1/client-1"
    assert "KEY" not in repr(files)
    assert "redacted" in repr(files)


@pytest.mark.parametrize("name", [CERTIFICATE, TLS_KEY, SIGNING_KEY, AUTHORITY])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ConfigError, match=name):
        load_identity(folder)


@pytest.mark.parametrize("name", [TLS_KEY, SIGNING_KEY])
@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_a_key_that_others_can_read_is_refused(folder: Path, name: str, mode: int) -> None:
    (folder / name).chmod(mode)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_identity(folder)


def test_files_of_two_parties_do_not_mix(folder: Path, tmp_path: Path) -> None:
    Deployment(tmp_path / "other").party(Role.CLIENT, "client-1", "Hospital 1")
    other = tmp_path / "other" / "parties" / "client-1"
    key = (folder / SIGNING_KEY).read_bytes()
    (folder / SIGNING_KEY).write_bytes((other / SIGNING_KEY).read_bytes())
    with pytest.raises(CertificateInvalid, match="does not belong"):
        load_identity(folder)
    (folder / SIGNING_KEY).write_bytes(key)
    (folder / AUTHORITY).write_bytes((other / AUTHORITY).read_bytes())
    with pytest.raises(CertificateInvalid, match="not issued by the trusted authority"):
        load_identity(folder)
    (folder / CERTIFICATE).write_bytes(b"nonsense")
    with pytest.raises(MalformedError, match=str(folder)):
        load_identity(folder)


@pytest.mark.parametrize("content", [b"junk", b"", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
@pytest.mark.parametrize("name", [TLS_KEY, SIGNING_KEY])
def test_an_unreadable_key_is_said_before_any_connection(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(MalformedError, match="is not an unencrypted PEM private key"):
        load_identity(folder)


def test_the_tls_key_must_be_that_of_the_certificate(folder: Path, tmp_path: Path) -> None:
    Deployment(tmp_path / "other").party(Role.CLIENT, "client-1", "Hospital 1")
    for key in (tmp_path / "other" / "parties" / "client-1" / TLS_KEY, folder / SIGNING_KEY):
        (folder / TLS_KEY).write_bytes(key.read_bytes())
        with pytest.raises(CertificateInvalid, match="TLS key does not belong"):
            load_identity(folder)


def test_words_before_the_authoritys_certificate_do_not_matter(folder: Path) -> None:
    path, before = folder / AUTHORITY, load_identity(folder).authority
    path.write_bytes("Société\n".encode() + path.read_bytes())
    assert load_identity(folder).authority == before


def test_an_expired_certificate_is_said(folder: Path) -> None:
    later = load_identity(folder).identity.not_after + 1
    with pytest.raises(CertificateInvalid, match="expired"):
        load_identity(folder, now=later)
