"""Runs one decoder on many inputs: `python tests/fuzz/drive.py --inputs 1000000 --target statements`.

Prints JSON: inputs run, how many were accepted, refusals by code, distinct errors that are not typed, seconds. Status 1
when there is such an error, or an input took longer than a second (of the process's own time, not of the clock).
`--engine atheris` is guided by coverage (needs the package atheris); `--engine own` bends valid inputs blindly, many
times faster. Without atheris, `auto` is `own`.
"""

import argparse
import importlib.util
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import FunctionType
from typing import Any

if __name__ == "__main__":  # a script in a folder of its own: the repository's root holds `tests`
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.fuzz import bulk, ckks, files, identities, others, releases, services, statements
from tests.fuzz.mutate import Mutator
from tests.fuzz.target import Target, attempt

ALL = {
    target.name: target
    for module in (statements, files, bulk, identities, releases, services, others, ckks)
    for target in module.TARGETS
}
SLOW_SECONDS = 1.0
KEPT_BYTES = 4096
PROGRESS_INPUTS = 50_000


@dataclass
class Tally:
    """What came of the inputs so far."""

    target: Target
    engine: str
    began: float = field(default_factory=time.monotonic)
    inputs: int = 0
    accepted: int = 0
    slowest: float = 0.0
    slowest_input: bytes = b""
    refused: Counter[str] = field(default_factory=Counter)
    errors: dict[str, dict[str, Any]] = field(default_factory=dict)

    def take(self, data: bytes) -> None:
        """Run one input and count it."""
        start = time.perf_counter()
        outcome = attempt(self.target, data)
        took = time.perf_counter() - start
        if took > SLOW_SECONDS:  # once more, by the process's own time: one of low priority waits for others
            start = time.process_time()
            attempt(self.target, data)
            took = time.process_time() - start
        self.inputs += 1
        if took > self.slowest:
            self.slowest, self.slowest_input = took, data
        if outcome.problem is not None:
            self._keep(outcome.problem, data)
        elif outcome.code:
            self.refused[outcome.code] += 1
        else:
            self.accepted += 1

    def _keep(self, problem: BaseException, data: bytes) -> None:
        where = traceback.extract_tb(problem.__traceback__)[-1]
        ours = [step for step in traceback.extract_tb(problem.__traceback__) if "secagg" in step.filename]
        line = ours[-1] if ours else where
        name = f"{type(problem).__name__} at {Path(line.filename).name}:{line.lineno}"
        known = self.errors.setdefault(name, {"count": 0, "message": str(problem)[:300], "example": ""})
        known["count"] += 1
        if not known["example"] or len(data.hex()) < len(known["example"]):
            known["example"] = data.hex()[: 2 * KEPT_BYTES]

    def report(self) -> dict[str, Any]:
        """For people and machines."""
        slow = self.slowest > SLOW_SECONDS
        return {
            "target": self.target.name,
            "engine": self.engine,
            "inputs": self.inputs,
            "accepted": self.accepted,
            "refused": dict(self.refused.most_common()),
            "distinct_errors": len(self.errors),
            "errors": self.errors,
            "slowest_seconds": round(self.slowest, 4),
            **({"slowest_input": self.slowest_input.hex()[: 2 * KEPT_BYTES]} if slow else {}),
            "seconds": round(time.monotonic() - self.began, 1),
        }

    @property
    def failed(self) -> bool:
        """Whether anything was found."""
        return bool(self.errors) or self.slowest > SLOW_SECONDS


def own(target: Target, inputs: int, seed: int, stop: Sequence[int] = ()) -> Tally:
    """Bend seeds at random, until something is in `stop`."""
    for valid in target.seeds():  # compiles what is compiled on first use: not the input's fault
        attempt(target, valid)
    mutator, tally = Mutator(target.seeds(), Random(seed)), Tally(target, "own")
    while tally.inputs < inputs and not stop:
        tally.take(mutator.next())
        if tally.inputs % PROGRESS_INPUTS == 0:
            took = time.monotonic() - tally.began
            print(f"{target.name}: {tally.inputs:,} of {inputs:,} inputs, {took:.0f} s", file=sys.stderr, flush=True)
    return tally


def functions_of(*packages: str) -> Iterator[FunctionType]:
    """Every function and method of the packages. Not when they are imported: numba would compile the probes too."""
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] not in packages:
            continue
        for item in list(vars(module).values()):
            if getattr(item, "__module__", None) != name:
                continue
            inner = list(vars(item).values()) if isinstance(item, type) else [item]
            for one in inner:
                function = getattr(one, "__func__", getattr(one, "fget", one))
                if isinstance(function, FunctionType):
                    yield function


def atheris_(target: Target, inputs: int, seed: int) -> None:
    """Guided by coverage. Ends the process: libFuzzer never returns."""
    import atheris

    for function in functions_of("secagg", "secagg_client", "secagg_host", "secagg_server"):
        atheris.instrument_func(function)
    tally = Tally(target, "atheris")

    def one(data: bytes) -> None:
        tally.take(data)
        if tally.inputs >= inputs:
            print(json.dumps(tally.report(), indent=1), flush=True)
            os._exit(int(tally.failed))

    def bend(data: bytes, max_size: int, seed_: int) -> bytes:
        return Mutator([data or b"\0"], Random(seed_)).next()[:max_size]

    with tempfile.TemporaryDirectory() as folder:
        for number, valid in enumerate(target.seeds()):
            attempt(target, valid)
            (Path(folder) / f"{number:04d}").write_bytes(valid)
        flags = [sys.argv[0], f"-seed={seed or 1}", "-max_len=200000", "-verbosity=0", "-timeout=60", folder]
        atheris.Setup(flags, one, custom_mutator=bend)
        atheris.Fuzz()


def main(arguments: list[str] | None = None, stop: Sequence[int] = ()) -> int:
    """Run one target; 1 when something was found."""
    parser = argparse.ArgumentParser(description="fuzz one decoder")
    parser.add_argument("--target", choices=[*ALL, "all"], required=True)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--engine", choices=["auto", "own", "atheris"], default="auto")
    options = parser.parse_args(arguments)
    has_atheris = importlib.util.find_spec("atheris") is not None
    if options.engine == "atheris" or (options.engine == "auto" and has_atheris and options.target != "all"):
        atheris_(ALL[options.target], options.inputs, options.seed)
    chosen = ALL.values() if options.target == "all" else [ALL[options.target]]
    tallies = [own(target, options.inputs, options.seed, stop) for target in chosen]
    reports = [tally.report() for tally in tallies]
    print(json.dumps(reports if options.target == "all" else reports[0], indent=1))
    return int(any(tally.failed for tally in tallies))


if __name__ == "__main__":
    signals = list[int]()
    signal.signal(signal.SIGTERM, lambda number, _: signals.append(number))  # what was found so far is told
    raise SystemExit(main(stop=signals))
