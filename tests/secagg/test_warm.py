"""After the warm-up no session compiles a kernel, or reads one from numba's cache."""

import json
import subprocess
import sys

import pytest

SESSION = """
import gc, json, os
import numpy as np
from numba.core.dispatcher import Dispatcher
from secagg.warm import warm_up
from secagg.arrival import Arrival
import tests.small

def kernels():
    found = [d for d in gc.get_objects() if isinstance(d, Dispatcher) and d.py_func.__module__.startswith("secagg.")]
    return {f"{d.py_func.__module__}.{d.py_func.__name__}": len(d.overloads) for d in found if d.overloads}

protocol = %r
warm_up(os.urandom, protocol)
before = kernels()
%s
print(json.dumps({"before": before, "after": kernels()}))
"""
RUNS = {
    "sealed": """
small = tests.small.Small()
for upload in small.uploads:
    arrival = Arrival(small.descriptor.parameters)
    arrival.feed(upload.ciphertext.tobytes()[:50_000])
    arrival.feed(upload.ciphertext.tobytes()[50_000:])
assert small.opened and small.total.count == len(small.uploads)
""",
    "masked": """
from secagg.masked.run import run_masked
from tests.small import changes, small_plan, NOW
run_masked(small_plan(), changes(4), now=NOW, random=os.urandom)
""",
}


@pytest.mark.parametrize("protocol", list(RUNS))
def test_a_session_after_the_warm_up_compiles_nothing(protocol: str) -> None:
    script = SESSION % (protocol, RUNS[protocol])
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert sum(seen["before"].values()) > 4
    assert seen["after"] == seen["before"]
