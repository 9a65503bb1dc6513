"""Nothing that a command starts outlives it, also when it is killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from secagg_app.workers import workers

POOL = """
import os, sys, time
from secagg_app.workers import workers
import tests.app.test_workers as jobs
if __name__ == "__main__":
    with workers(1) as pool:
        pool.submit(jobs.say_and_sleep, sys.argv[1]).result()
"""
SUPERVISED = """
import os, subprocess, sys, time
child = "from secagg_app.workers import end_with_supervisor; end_with_supervisor();"
child += "from tests.app.test_workers import say_and_sleep; say_and_sleep(%r)" % sys.argv[1]
subprocess.Popen([sys.executable, "-c", child], env={**os.environ, "SECAGG_PARENT": str(os.getpid())}).wait()
"""


def say_and_sleep(path: str) -> None:
    Path(path).write_text(str(os.getpid()))
    time.sleep(600)


def until(done: Callable[[], bool], seconds: float = 240) -> bool:
    deadline = time.monotonic() + seconds
    while not (found := done()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def is_alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return status != "Z"


@pytest.mark.parametrize("script", [POOL, SUPERVISED])
def test_a_child_ends_when_its_parent_is_killed(script: str, tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(script)
    told = tmp_path / "pid"
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(entry for entry in (root, os.environ.get("PYTHONPATH", "")) if entry)
    parent = subprocess.Popen([sys.executable, tmp_path / "parent.py", told], env={**os.environ, "PYTHONPATH": path})
    assert until(lambda: told.exists() and bool(told.read_text()))
    child = int(told.read_text())
    assert is_alive(child)
    parent.send_signal(signal.SIGKILL)
    parent.wait(60)
    assert until(lambda: not is_alive(child))


def fail_beside(told: Path) -> None:
    """An error while a worker is at work."""
    with workers(2) as pool:
        pool.submit(say_and_sleep, str(told))
        assert until(lambda: told.exists() and bool(told.read_text()))
        assert os.environ["OMP_NUM_THREADS"] == str(max(1, (os.cpu_count() or 1) // 2))
        raise KeyError


def test_an_error_ends_the_workers_at_once_and_the_environment_is_as_before(tmp_path: Path) -> None:
    before, told = dict(os.environ), tmp_path / "pid"
    with pytest.raises(KeyError):
        fail_beside(told)
    assert dict(os.environ) == before
    assert until(lambda: not is_alive(int(told.read_text())))
