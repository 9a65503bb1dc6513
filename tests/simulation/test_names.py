"""docs/threat-model.md and tests/simulation name the same liars, and every test that the text names is there."""

import re
from functools import cache
from pathlib import Path

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


@cache
def names_below(folder: Path) -> frozenset[str]:
    """Every test function below a folder."""
    found = (re.findall(r"^ *def (test_\w+)", path.read_text(), re.MULTILINE) for path in folder.rglob("test_*.py"))
    return frozenset(name for names in found for name in names)


def test_every_liar_of_the_simulation_is_in_the_threat_model_and_the_other_way_round() -> None:
    named = {name for name in NAMED if re.fullmatch(r"(?:[A-Z][a-z]*){2,}", name)}
    assert sorted(named) == sorted(LIARS)


def test_every_test_that_the_threat_model_names_exists() -> None:
    assert sorted({name for name in NAMED if name.startswith("test_")} - names_below(ROOT / "tests")) == []


def test_every_liar_of_a_masked_session_is_in_the_threat_model() -> None:
    """There liars are tests."""
    source = (HERE / "test_masked_liars.py").read_text()
    assert sorted(set(re.findall(r"^def (test_\w+)", source, re.MULTILINE)) - NAMED) == []


def test_every_liar_has_a_test_of_its_own() -> None:
    """Beside the one that all of them go through."""
    sources = [path.read_text() for path in HERE.glob("test_*.py") if path.name != Path(__file__).name]
    bodies = [re.sub(r"^from \S+ import (?:\(.*?\)|[^\n]*)", "", source, flags=re.M | re.S) for source in sources]
    lonely = {name for name in LIARS if not any(re.search(rf"\b{name}\b", body) for body in bodies)}
    assert sorted(lonely) == []
