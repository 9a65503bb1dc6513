"""What fuzzing and vectors found, each by name: input that once raised something else than a typed error."""

import json
from pathlib import Path

import pytest

from secagg import merkle
from secagg.descriptor import SignedDescriptor
from secagg.errors import CertificateInvalid, ConfigError, MalformedError, SecaggError
from secagg.identity import identify, issue, new_request
from secagg.plan import Plan
from secagg.policy import Policy
from secagg.signing import parse_model
from secagg_host.config import load_toml
from tests.fuzz.identities import ASKED, AUTHORITY, armour, der_of
from tests.small import NOW
from tests.vectors import session
from tests.vectors.common import fixed
from tests.vectors.replay import published


def test_a_certificate_whose_name_has_a_bracket_that_closes_nowhere() -> None:
    with pytest.raises(CertificateInvalid, match="not an address"):
        identify(fixed()["bad_certificates"]["a host that is no host"])


@pytest.mark.parametrize("version", [3, 7])
def test_a_certificate_of_an_unknown_version(version: int) -> None:
    """Inside a descriptor or a release it passed every `except` on its way, and stopped the party that read it."""
    der = der_of(fixed()["certificates"]["client 0"])
    at = der.index(b"\xa0\x03\x02\x01\x02") + 4
    raw = armour(der[:at] + bytes([version]) + der[at + 1 :], "CERTIFICATE")
    with pytest.raises(MalformedError):
        identify(raw)
    whole = json.dumps(published()["session"]).replace(
        json.dumps(session.certificate("client 0")), json.dumps(raw.decode())
    )
    with pytest.raises(MalformedError):
        parse_model(SignedDescriptor, whole)


@pytest.mark.parametrize(
    ("what", "old", "new"),
    [
        ("version", b"\x02\x01\x00\x30", b"\x02\x01\x10\x30"),
        ("curve", b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07", b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x66"),
        ("point", b"\x03\x42\x00\x04", b"\x03\x42\x00\x05"),
        ("attribute", b"\xa0", b"\xa1"),
    ],
    ids=["version", "curve", "point", "attribute"],
)
def test_a_request_with_a_broken(what: str, old: bytes, new: bytes) -> None:
    der = der_of(new_request(*ASKED)[0].decode())
    assert old in der
    with pytest.raises(SecaggError):
        issue(armour(der.replace(old, new, 1), "CERTIFICATE REQUEST"), *AUTHORITY, NOW, expect=ASKED, days=1)


@pytest.mark.parametrize("value", ["NaN", "-Infinity", "9007199254740993", '[[{"a": NaN}]]'])
@pytest.mark.parametrize("place", ["adapter_config", "options"])
def test_a_plan_with_json_that_has_no_canonical_form(place: str, value: str) -> None:
    """It was a plan, and then its schema had no hash: an error that nothing caught."""
    whole = {**published()["session"]["descriptor"]["statement"]["plan"], place: {"r": "HERE"}}
    with pytest.raises(MalformedError, match=place):
        parse_model(Plan, json.dumps(whole).replace('"HERE"', value))


def test_a_path_says_nothing_of_the_number_of_leaves() -> None:
    """Leaf 2 of 3 passes as leaf 8 of 9: so the number comes from the descriptor (protocol.md §1.5)."""
    items = [b"leaf 0", b"leaf 1", b"leaf 2"]
    leaves = [merkle.leaf_hash(item) for item in items]
    merkle.verify_path(items[2], 2, 3, merkle.path(leaves, 2), merkle.root(items))
    merkle.verify_path(items[2], 8, 9, merkle.path(leaves, 2), merkle.root(items))


def test_a_policy_with_a_number_of_thousands_of_digits(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(f"n_min = {'9' * 5000}\n")
    with pytest.raises(ConfigError, match=r"policy\.toml"):
        load_toml(path, Policy)
