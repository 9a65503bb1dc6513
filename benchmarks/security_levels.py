"""The core-SVP levels of docs/security-levels.md, from first principles: primal uSVP, 2016 estimate, ADPS16 cost.

    python benchmarks/security_levels.py [--json levels.json] [--cases cases.json]

Prints JSON. Ends with status 1 when a level is more than one block size from what the lattice-estimator gave for the
same attack (lattice_estimator.py, benchmarks/results/lattice-estimator.json). Takes a second.
"""

import argparse
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from secagg.ckks.parameters import RINGS as CKKS_RINGS
from secagg.gaussian import ERROR_VARIANCE, SECRET_VARIANCE
from secagg.parameters import MIN_SECURITY_BITS, RINGS

CORE_SVP = 0.292
"""log2 of the cost of one call to an SVP oracle in dimension beta, divided by beta (ADPS16, classical sieving)."""
TOLERANCE = CORE_SVP + 0.01
ESTIMATES = Path(__file__).parent / "results" / "lattice-estimator.json"
SECRET = math.sqrt(SECRET_VARIANCE / 2)
"""Deviation of a key given its sum with another honest one: 4.5/sqrt(2) = 3.18."""
ERROR = math.sqrt(ERROR_VARIANCE / 2)
"""Deviation of an error given its sum with another honest one: 4.5*sqrt(2)/sqrt(2) = 4.5."""
TERNARY = math.sqrt(2 / 3)


@dataclass(frozen=True)
class Case:
    """LWE: dimension, log2 of the modulus, deviations."""

    name: str
    degree: int
    log2_q: float
    secret: float = SECRET
    error: float = ERROR


CASES = (
    Case("protocol.md table", 2048, 46),
    Case("protocol.md table", 4096, 90),
    Case("protocol.md table", 4096, 91),
    Case("protocol.md table", 4096, 105),
    Case("protocol.md table", 8192, 178),
    Case("protocol.md table", 8192, 200),
    Case("protocol.md table", 8192, 210),
    Case("protocol.md table", 16384, 345),
    Case("TenSEAL [60, 40, 60]", 8192, 160, TERNARY, 3.2),
    Case("TenSEAL [54, 54]", 4096, 108, TERNARY, 3.2),
    *(Case(f"ckks {name}", ring.degree, ring.log2_q, TERNARY, 3.2) for name, ring in CKKS_RINGS.items()),
    *(Case(f"ring {name}", row.degree, math.log2(math.prod(row.primes))) for name, row in RINGS.items()),
)


@dataclass(frozen=True)
class Attack:
    """The cheapest attack: block size, lattice dimension, samples used, and 0.292*beta."""

    beta: int
    dimension: int
    samples: int
    bits: float


def log_delta(beta: int) -> float:
    """ln of the root Hermite factor of BKZ with block size `beta` > 50 (Chen 2013)."""
    return math.log((math.pi * beta) ** (1 / beta) * beta / (2 * math.pi * math.e)) / (2 * (beta - 1))


def margin(case: Case, beta: int, dimension: int) -> float:
    """ln of (what BKZ-beta finds) over (the projected secret): not below 0 when the attack succeeds.

    Lattice of dimension d = N + samples + 1 (Kannan's embedding; factor: the deviation of the error), its part for the
    secret scaled by error/secret (Bai and Galbraith), so that the short vector is balanced. The 2016 estimate: BKZ-beta
    finds it when error*sqrt(beta) <= delta^(2 beta - d - 1) * volume^(1/d) (geometric series assumption).
    """
    volume = (
        case.degree * math.log(case.error / case.secret)
        + (dimension - case.degree - 1) * case.log2_q * math.log(2)
        + math.log(case.error)
    )
    reach = (2 * beta - dimension - 1) * log_delta(beta) + volume / dimension
    return reach - math.log(case.error) - math.log(beta) / 2


def best_dimension(case: Case, beta: int) -> int:
    """The dimension with the largest margin, as many samples as wanted: an upload gives N for each of its blocks."""
    scaled = (case.degree + 1) * case.log2_q * math.log(2) - case.degree * math.log(case.error / case.secret)
    ideal = math.sqrt((scaled - math.log(case.error)) / log_delta(beta))
    near = {max(case.degree + 2, beta, int(ideal) + step) for step in (-1, 0, 1, 2)}
    return max(near, key=lambda dimension: margin(case, beta, dimension))


def cheapest(case: Case) -> Attack:
    """The smallest block size that succeeds in some dimension."""
    beta = 60
    while margin(case, beta, dimension := best_dimension(case, beta)) < 0:
        beta += 1
    return Attack(beta, dimension, dimension - case.degree - 1, round(CORE_SVP * beta, 2))


def estimates() -> dict[tuple[str, int, float], dict[str, dict[str, float]]]:
    """What the lattice-estimator gave: attacks of each case, by its name, degree and log2 q."""
    rows = json.loads(ESTIMATES.read_text(encoding="utf-8"))["levels"]
    return {(row["name"], row["degree"], row["log2_q"]): row["attacks"] for row in rows}


def levels() -> list[dict[str, object]]:
    """Every case with its attack, how far it is from the estimator, and whether it may be used.

    `lowest` is the cheapest of the attacks that the estimator tried.
    """
    rows, known = list[dict[str, object]](), estimates()
    for case in CASES:
        attack, tried = cheapest(case), known[case.name, case.degree, case.log2_q]
        usvp, lowest = tried["primal_usvp"]["bits"], min(one["bits"] for one in tried.values())
        usable = math.floor(lowest) >= MIN_SECURITY_BITS
        more = {"estimator": usvp, "lowest": lowest, "off": round(attack.bits - usvp, 2), "usable": usable}
        rows.append(asdict(case) | asdict(attack) | more)
    return rows


def main(arguments: list[str] | None = None) -> int:
    """Print (and write) the table; 1 when a level is off."""
    parser = argparse.ArgumentParser(description="core-SVP levels from first principles")
    parser.add_argument("--json", type=Path, help="write the table there as well")
    parser.add_argument("--cases", type=Path, help="write the cases there, for lattice_estimator.py, and end")
    options = parser.parse_args(arguments)
    if options.cases is not None:
        options.cases.write_text(json.dumps([asdict(case) for case in CASES], indent=1) + "\n", encoding="utf-8")
        return 0
    rows = levels()
    text = json.dumps({"cost": f"2^({CORE_SVP} beta)", "tolerance_bits": TOLERANCE, "levels": rows}, indent=1)
    print(text)
    if options.json is not None:
        options.json.write_text(text + "\n", encoding="utf-8")
    return int(any(abs(float(str(row["off"]))) > TOLERANCE for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
