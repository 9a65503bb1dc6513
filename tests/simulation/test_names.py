"""docs/threat-model.md and tests/simulation name the same liars, and every test that the text names is there."""

import re
from functools import cache
from pathlib import Path

import pytest

from tests.simulation import bad_network, lying_ckks_clients, lying_clients, lying_keyholders, lying_servers

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "threat-model.md").read_text()
HERE = Path(__file__).parent
LIARS = {
    kind.__name__
    for kind in (
        *lying_clients.LIARS,
        *lying_ckks_clients.LIARS,
        *lying_servers.LIARS,
        *lying_keyholders.LIARS,
        bad_network.BadLine,
        bad_network.LateAndTwice,
    )
}
NAMED = set(re.findall(r"`(\w+)`", TEXT))
PROTOCOLS = {"masked": "### Masked sessions", "ckks": "### Sessions under ckks"}
"""Protocols whose liars are tests, and where the threat model has them."""


def names_in(protocol: str) -> set[str]:
    """What the protocol's section of the threat model names."""
    _, _, after = TEXT.partition(f"\n{PROTOCOLS[protocol]}")
    assert after
    return set(re.findall(r"`(\w+)`", after.split("\n### ")[0]))


@cache
def written_in(path: Path) -> frozenset[str]:
    """The test functions of a file."""
    return frozenset(re.findall(r"^ *def (test_\w+)", path.read_text(), re.MULTILINE))


@cache
def names_below(folder: Path) -> frozenset[str]:
    """Every test function below a folder."""
    return frozenset(name for path in folder.rglob("test_*.py") for name in written_in(path))


def test_every_liar_of_the_simulation_is_in_the_threat_model_and_the_other_way_round() -> None:
    named = {name for name in NAMED if re.fullmatch(r"(?:[A-Z][a-z]*){2,}", name)}
    assert sorted(named) == sorted(LIARS)


def test_every_test_that_the_threat_model_names_exists() -> None:
    assert sorted({name for name in NAMED if name.startswith("test_")} - names_below(ROOT / "tests")) == []


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_test_of_a_liar_is_in_the_protocols_own_section_of_the_threat_model(protocol: str) -> None:
    """There most liars are tests. All of a file are named: also those of honest parties, which say what holds then."""
    written = {name for path in HERE.glob(f"test_{protocol}_*.py") for name in written_in(path)}
    assert len(written) > 30
    assert sorted(written - names_in(protocol)) == []


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_test_in_a_protocols_own_section_is_one_of_that_protocol(protocol: str) -> None:
    """And so would fail if what the row says of this protocol did not hold in it."""
    everywhere = ((path, name) for path in (ROOT / "tests").rglob("test_*.py") for name in written_in(path))
    own = {name for path, name in everywhere if protocol in f"{path.relative_to(ROOT)} {name}"}
    assert sorted({name for name in names_in(protocol) if name.startswith("test_")} - own) == []


def test_every_liar_has_a_test_of_its_own() -> None:
    """Beside the one that all of them go through."""
    sources = [path.read_text() for path in HERE.glob("test_*.py") if path.name != Path(__file__).name]
    bodies = [re.sub(r"^from \S+ import (?:\(.*?\)|[^\n]*)", "", source, flags=re.M | re.S) for source in sources]
    lonely = {name for name in LIARS if not any(re.search(rf"\b{name}\b", body) for body in bodies)}
    assert sorted(lonely) == []
