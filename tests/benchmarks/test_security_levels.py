"""The security levels: within two bits of the lattice-estimator's, in the dimension that is best."""

import importlib.util
import json
import math
import sys
from dataclasses import replace
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


def test_every_level_is_within_two_bits_of_the_estimators(
    levels: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "levels.json"
    assert levels.main(["--json", str(path)]) == 0
    assert json.loads(path.read_text()) == json.loads(capsys.readouterr().out)
    rows = json.loads(path.read_text())["levels"]
    assert [row["estimator"] for row in rows][:8] == [133, 131, 129, 104, 130, 109, 102, 134]
    assert max(abs(row["off"]) for row in rows) < 1


def test_a_level_that_is_off_fails_the_run(levels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(levels, "CASES", (replace(levels.CASES[1], estimator=134),))
    assert levels.main([]) == 1


def test_every_ring_in_use_is_among_them_and_meets_the_bar(levels: Any) -> None:
    rows = {row["name"]: row for row in levels.levels()}
    for name, ring in RINGS.items():
        assert math.floor(rows[f"ring {name}"]["bits"]) >= MIN_SECURITY_BITS
        assert abs(rows[f"ring {name}"]["bits"] - ring.core_svp_bits) < 1


def test_every_ring_of_ckks_meets_the_bar_with_its_special_prime(levels: Any) -> None:
    rows = {row["name"]: row for row in levels.levels()}
    for name, ring in CKKS_RINGS.items():
        row = rows[f"ckks {name}"]
        assert row["log2_q"] == pytest.approx(math.log2(math.prod(ring.primes) * ring.special))
        assert (row["secret"], row["error"]) == (levels.TERNARY, 3.2)
        assert math.floor(row["bits"]) == ring.security_bits >= MIN_SECURITY_BITS


def test_no_other_dimension_does_better(levels: Any) -> None:
    case = levels.CASES[0]
    found = levels.cheapest(case)
    for beta in (found.beta, found.beta - 1):
        everywhere = max(levels.margin(case, beta, d) for d in range(case.degree + 2, 4 * case.degree))
        assert everywhere == pytest.approx(levels.margin(case, beta, levels.best_dimension(case, beta)), abs=1e-6)
        assert (everywhere >= 0) is (beta == found.beta)


def test_what_two_honest_contributors_have_left(levels: Any) -> None:
    assert math.isclose(levels.SECRET, 4.5 / math.sqrt(2))
    assert math.isclose(levels.ERROR, 4.5)


def test_a_wider_secret_or_a_smaller_modulus_is_harder(levels: Any) -> None:
    case = levels.CASES[1]
    base = levels.cheapest(case).beta
    assert levels.cheapest(replace(case, secret=case.secret * 1.2)).beta > base
    assert levels.cheapest(replace(case, log2_q=case.log2_q - 1)).beta > base
    assert levels.cheapest(replace(case, error=case.error / 2)).beta < base
