"""Processes that this one starts: they share the machine's processors, and none outlives who started it."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from typing import Any, TypeVar

from secagg.errors import ConfigError

Job = TypeVar("Job", bound=tuple[Any, ...])
Result = TypeVar("Result")

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
PARENT = "SECAGG_PARENT"
"""In the environment of a `secagg` command: the process with which it ends."""
_LOOK_SECONDS = 1.0


def environment(threads: int, *, offline: bool) -> dict[str, str]:
    """Of a child: so many threads for arithmetic; `offline` keeps model libraries off the network."""
    changed = dict.fromkeys(_THREAD_VARIABLES, str(threads))
    changed |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONUNBUFFERED": "1"}
    changed |= {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    changed |= {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    if offline:
        changed["HF_HUB_OFFLINE"] = "1"
    return {**os.environ, **changed}


@contextmanager
def workers(count: int) -> Iterator[ProcessPoolExecutor]:
    """So many fresh processes, which share the processors evenly; on an error nobody waits for what they do."""
    before = dict(os.environ)
    threads = max(1, (os.cpu_count() or 1) // count)
    os.environ.update(environment(threads, offline="HF_HUB_OFFLINE" in os.environ))
    # of workers that are stopped, whose locks the system takes back
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, [before.get("PYTHONWARNINGS"), "ignore:resource_tracker"]))
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=end_with, initargs=(os.getpid(), _vanish))
    try:
        yield pool
    except BaseException:
        for worker in multiprocessing.active_children():
            worker.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        os.environ.clear()
        os.environ.update(before)


def spread(
    function: Callable[..., Result], jobs: Sequence[Job], count: int, ray: str | None = None
) -> Iterator[tuple[Job, Result]]:
    """Each job's arguments and what `function` makes of them, as they are done.

    In `count` fresh processes on this machine; or on the Ray cluster at address `ray` (empty: find it, or start one),
    whose machines have secagg installed and see the same data. Raises ConfigError without Ray.
    """
    if not jobs:
        return
    if ray is not None:
        yield from _on_ray(function, jobs, ray)
        return
    with workers(count) as pool:
        futures = {pool.submit(function, *job): job for job in jobs}
        for future in as_completed(futures):
            yield futures[future], future.result()


def _on_ray(function: Callable[..., Result], jobs: Sequence[Job], address: str) -> Iterator[tuple[Job, Result]]:
    try:
        import ray
    except ImportError as error:
        raise ConfigError("--ray needs the package ray: pip install ray") from error
    ray.init(address=address or None, ignore_reinit_error=True, log_to_driver=False)
    task = ray.remote(function)
    futures = {task.remote(*job): job for job in jobs}
    waiting = list(futures)
    while waiting:
        done, waiting = ray.wait(waiting)
        for future in done:
            yield futures[future], ray.get(future)


def end_with(parent: int, end: Callable[[], None]) -> None:
    """From now on, call `end` when the process `parent`, which started this one, is gone: killed, perhaps."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_SECONDS)
        end()

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


def end_with_supervisor() -> None:
    """What a `secagg` command does that a supervisor started: end in order when that is killed."""
    parent = os.environ.pop(PARENT, "")
    if parent.isdecimal():
        end_with(int(parent), lambda: os.kill(os.getpid(), signal.SIGTERM))


def _vanish() -> None:
    """A worker has nothing to put in order."""
    os._exit(1)
