"""What a first call costs: kernels compiled on a new machine, read from the cache in a new process, and later."""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass

from secagg.errors import ProcessFailed

_SCRIPT = """
import json, os, time
start = time.perf_counter()
from secagg.warm import warm_up
imported = time.perf_counter()
warm_up(os.urandom, "sealed"); warm_up(os.urandom, "masked")
first = time.perf_counter()
warm_up(os.urandom, "sealed"); warm_up(os.urandom, "masked")
print(json.dumps([imported - start, first - imported, time.perf_counter() - first]))
"""


@dataclass(frozen=True, slots=True)
class FirstCall:
    """Seconds to call every kernel of `sealed` and `masked` once on a few values, after the packages are imported.

    `compiled`: with an empty cache, once a machine. `cached`: with a full one, once a process, at its start.
    `again`: when they are there, which is what is left inside a round.
    """

    compiled: float
    cached: float
    again: float
    imports: float


def measure_first_call() -> FirstCall:
    """Two fresh processes with a cache of their own. Raises ProcessFailed."""
    with tempfile.TemporaryDirectory(prefix="secagg-numba-") as folder:
        _, compiled, _ = _run(folder)
        imports, cached, again = _run(folder)
    return FirstCall(compiled, cached, again, imports)


def _run(folder: str) -> list[float]:
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NUMBA_CACHE_DIR": folder},
    )
    if done.returncode:
        raise ProcessFailed(f"the warm-up failed: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    return [float(seconds) for seconds in json.loads(done.stdout)]
