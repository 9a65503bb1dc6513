"""After the warm-up no session compiles a kernel, or reads one from numba's cache."""

import json
import subprocess
import sys
from dataclasses import dataclass

import pytest

SESSION = """
import gc, json, os
import numpy as np
from numba.core.dispatcher import Dispatcher
from secagg import warm
import tests.small
%s

def kernels():
    found = [d for d in gc.get_objects() if isinstance(d, Dispatcher) and d.py_func.__module__.startswith("secagg")]
    return {f"{d.py_func.__module__}.{d.py_func.__name__}": len(d.overloads) for d in found if d.overloads}

%s
before = kernels()
%s
print(json.dumps({"before": before, "after": kernels()}))
"""
NOISE = "ClientNoise(clip=1.0, noise_multiplier=1.0, colluders=1, delta=1e-6, accept_noise_over_signal=True)"


@dataclass(frozen=True, slots=True)
class Run:
    """Python that imports what it needs, warms up, and runs a session."""

    imports: str
    warm: str
    session: str


SEALED = """
small = tests.small.Small(spec=SessionSpec(n_min=3, n_max=10, bits=%d, upload_seconds=3600, expiry_seconds=7200, %s))
for upload in small.uploads:
    arrival = Arrival(small.descriptor.parameters)
    arrival.feed(upload.ciphertext.tobytes()[:50_000])
    arrival.feed(upload.ciphertext.tobytes()[50_000:])
assert small.release and small.total.count == len(small.uploads)
"""
SEALED_IMPORTS = (
    "from secagg.arrival import Arrival\nfrom secagg.client_noise.setting import ClientNoise\n"
    "from secagg.coordinator import SessionSpec"
)
MASKED = """
spec = MaskedSpec(n_min=3, dropout_rate=0.2, upload_seconds=3600, expiry_seconds=7200, %s)
run_masked(tests.small.small_plan(), tests.small.changes(4), now=tests.small.NOW, random=os.urandom, spec=spec)
"""
MASKED_IMPORTS = (
    "from secagg.client_noise.setting import ClientNoise\nfrom secagg.masked.descriptor import MaskedSpec\n"
    "from secagg.masked.run import run_masked"
)
CKKS = """
spec = CkksSpec(n_min=3, n_max=10, bits=%d, upload_seconds=3600, expiry_seconds=7200, %s)
plan, changes = tests.small.small_plan(%d), tests.small.changes(4, %d)
run_ckks(plan, changes, now=tests.small.NOW, random=os.urandom, spec=spec)
"""
CKKS_IMPORTS = (
    "from secagg.client_noise.setting import ClientNoise\nfrom secagg.ckks.descriptor import CkksSpec\n"
    "from secagg.ckks.run import run_ckks"
)
DECODING = """
options = {"sketch": {"size": 8}, "fedex": {"release_rank": 8}}
for name in set(encodings()) - {Stacking.name}:
    plan = plan_of(name, **options.get(name, {}))
    vectors = [encoding_of(plan).encode(plan, change, os.urandom) for change in planted(plan, 2)]
    assert encoding_of(plan).decode(plan, np.mean(vectors, axis=0, dtype=np.float32), 2)
"""
DECODING_IMPORTS = (
    "from secagg.encodings.registry import encoding_of, encodings\nfrom secagg.encodings.stacking import Stacking\n"
    "from tests.secagg.encodings.support import plan_of, planted"
)
UP = "warm.warm_up(os.urandom, %r)"
N8192 = 100_000
"""So many values take the larger ring of `ckks`; a few hundred take the smaller."""
RUNS = {
    "sealed": Run(SEALED_IMPORTS, UP % "sealed", SEALED % (16, "")),
    "sealed, noise": Run(SEALED_IMPORTS, UP % "sealed", SEALED % (16, f"client_noise={NOISE}")),
    "masked": Run(MASKED_IMPORTS, UP % "masked", MASKED % ""),
    "masked, noise": Run(MASKED_IMPORTS, UP % "masked", MASKED % f"client_noise={NOISE}"),
    "ckks": Run(CKKS_IMPORTS, UP % "ckks", CKKS % (16, "", 300, 300)),
    "ckks, noise": Run(CKKS_IMPORTS, UP % "ckks", CKKS % (16, f"client_noise={NOISE}", 300, 300)),
    "ckks, 24 bits": Run(CKKS_IMPORTS, UP % "ckks", CKKS % (24, "", N8192, N8192)),
    "sealed, every encoding": Run(DECODING_IMPORTS, "warm.warm_opening(os.urandom)", DECODING),
    "masked, every encoding": Run(DECODING_IMPORTS, "warm.warm_masked(os.urandom)", DECODING),
    "ckks, every encoding": Run(DECODING_IMPORTS, "warm.warm_ckks_serving()", DECODING),
}


def loaded(run: Run) -> dict[str, dict[str, int]]:
    """How many variants of each kernel a fresh process has before and after the run."""
    script = SESSION % (run.imports, run.warm, run.session)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seen: dict[str, dict[str, int]] = json.loads(done.stdout)
    return seen


@pytest.mark.parametrize("name", list(RUNS))
def test_a_session_after_the_warm_up_compiles_nothing(name: str) -> None:
    seen = loaded(RUNS[name])
    assert sum(seen["before"].values()) > 2
    assert seen["after"] == seen["before"]
