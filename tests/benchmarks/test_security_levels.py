"""The security levels: those of the lattice-estimator, and no ring claims more."""

import importlib.util
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from secagg.ckks.parameters import RINGS as CKKS_RINGS
from secagg.parameters import MIN_SECURITY_BITS, RINGS

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "security_levels.py"


@pytest.fixture(scope="module")
def levels() -> Any:
    """The script, loaded by its path: another package installs a `benchmarks` of its own."""
    spec = importlib.util.spec_from_file_location("security_levels", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["security_levels"] = module
    spec.loader.exec_module(module)
    return module


def test_every_level_is_the_estimators_for_the_same_attack(
    levels: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "levels.json"
    assert levels.main(["--json", str(path)]) == 0
    assert json.loads(path.read_text()) == json.loads(capsys.readouterr().out)
    rows = json.loads(path.read_text())["levels"]
    assert [row["estimator"] for row in rows][:4] == [133.15, 130.82, 128.77, 104.54]
    assert max(abs(row["off"]) for row in rows) < levels.TOLERANCE


def test_a_level_that_is_off_fails_the_run(levels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    known = levels.estimates()
    known[levels.CASES[1].name, 4096, 90]["primal_usvp"]["bits"] += 1
    monkeypatch.setattr(levels, "estimates", lambda: known)
    assert levels.main([]) == 1


def test_the_cases_are_written_for_the_estimator(levels: Any, tmp_path: Path) -> None:
    path = tmp_path / "cases.json"
    assert levels.main(["--cases", str(path)]) == 0
    cases = json.loads(path.read_text())
    assert {(case["name"], case["degree"], case["log2_q"]) for case in cases} == set(levels.estimates())


def test_a_ring_of_sealed_claims_no_more_than_the_cheapest_attack_leaves(levels: Any) -> None:
    rows = {row["name"]: row for row in levels.levels()}
    for name, ring in RINGS.items():
        assert math.floor(rows[f"ring {name}"]["lowest"]) == ring.core_svp_bits >= MIN_SECURITY_BITS


def test_a_ring_of_ckks_claims_no_more_either_and_counts_its_special_prime(levels: Any) -> None:
    rows = {row["name"]: row for row in levels.levels()}
    for name, ring in CKKS_RINGS.items():
        row = rows[f"ckks {name}"]
        assert row["log2_q"] == pytest.approx(math.log2(math.prod(ring.primes) * ring.special))
        assert (row["secret"], row["error"]) == (levels.TERNARY, 3.2)
        assert math.floor(row["lowest"]) == ring.security_bits >= MIN_SECURITY_BITS
