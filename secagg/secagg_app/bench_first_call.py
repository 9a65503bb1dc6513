"""What a first call costs: kernels compiled on a new machine, read from the cache in a new process, and later."""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass

from secagg.errors import ProcessFailed

_SCRIPT = """
import json, os, sys, time
start = time.perf_counter()
from secagg.warm import warm_up
imported = time.perf_counter()
for protocol in sys.argv[1:]: warm_up(os.urandom, protocol)
first = time.perf_counter()
for protocol in sys.argv[1:]: warm_up(os.urandom, protocol)
print(json.dumps([imported - start, first - imported, time.perf_counter() - first]))
"""


@dataclass(frozen=True, slots=True)
class FirstCall:
    """Seconds to call every kernel of `protocols` once on a few values, after the package is imported.

    `compiled`: with an empty cache, once a machine. `cached`: with a full one, once a process, at its start.
    `again`: when they are there, which is what is left inside a round.
    """

    compiled: float
    cached: float
    again: float
    imports: float
    protocols: tuple[str, ...]


def measure_first_call(protocols: tuple[str, ...]) -> FirstCall:
    """Two fresh processes with a cache of their own; `ckks` loads TenSEAL too. Raises ProcessFailed."""
    with tempfile.TemporaryDirectory(prefix="secagg-numba-") as folder:
        _, compiled, _ = _run(folder, protocols)
        imports, cached, again = _run(folder, protocols)
    return FirstCall(compiled, cached, again, imports, protocols)


def _run(folder: str, protocols: tuple[str, ...]) -> list[float]:
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, *protocols],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NUMBA_CACHE_DIR": folder},
    )
    if done.returncode:
        raise ProcessFailed(f"the warm-up failed: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    return [float(seconds) for seconds in json.loads(done.stdout)]
