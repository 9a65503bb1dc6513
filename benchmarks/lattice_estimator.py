"""The same levels from the lattice-estimator (Albrecht, Player, Scott; github.com/malb/lattice-estimator).

    python benchmarks/security_levels.py --cases cases.json
    python benchmarks/lattice_estimator.py cases.json --estimator lattice-estimator --json estimates.json

The second in an environment of its own that has Sage, or passagemath (`pip install passagemath-modules
passagemath-symbolics passagemath-plot passagemath-repl passagemath-schemes passagemath-standard-no-symbolics`), with a
checkout of the estimator; nothing of this project is imported there. Takes about a minute for each case.
benchmarks/results/lattice-estimator.json is what it gave, and docs/security-levels.md quotes it.
"""

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

ATTACKS = ("primal_usvp", "primal_bdd", "dual", "dual_hybrid")
"""Of the estimator; the last is MATZOV's dual attack."""
TERNARY = math.sqrt(2 / 3)


def estimate(case: dict[str, Any]) -> dict[str, Any]:
    """Bits of core-SVP (ADPS16) of each attack on one case, with its block size; as many samples as it likes."""
    from estimator import LWE, ND, RC
    from sage.all import log, oo

    ternary = math.isclose(case["secret"], TERNARY)
    inputs = LWE.Parameters(
        n=case["degree"],
        q=round(2 ** case["log2_q"]),
        Xs=ND.Ternary if ternary else ND.DiscreteGaussian(case["secret"]),
        Xe=ND.DiscreteGaussian(case["error"]),
        m=oo,
    )
    found: dict[str, Any] = {}
    for attack in ATTACKS:
        shape = {"red_shape_model": "gsa"} if attack.startswith("primal") else {}
        cost = getattr(LWE, attack)(inputs, red_cost_model=RC.ADPS16, **shape)
        found[attack] = {"bits": round(float(log(cost["rop"], 2)), 2), "beta": int(cost["beta"])}
    return {"name": case["name"], "degree": case["degree"], "log2_q": case["log2_q"], "attacks": found}


def main() -> None:
    """Print (and write) the estimates of every case."""
    parser = argparse.ArgumentParser(description="core-SVP levels by the lattice-estimator")
    parser.add_argument("cases", type=Path, help="what `security_levels.py --cases` wrote")
    parser.add_argument("--estimator", type=Path, required=True, help="a checkout of the lattice-estimator")
    parser.add_argument("--json", type=Path, help="write the estimates there as well")
    options = parser.parse_args()
    sys.path.insert(0, str(options.estimator))
    commit = subprocess.run(
        ["git", "-C", str(options.estimator), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    )
    rows = [estimate(case) for case in json.loads(options.cases.read_text(encoding="utf-8"))]
    text = json.dumps({"lattice_estimator": commit.stdout.strip(), "cost": "ADPS16", "levels": rows}, indent=1)
    print(text)
    if options.json is not None:
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
