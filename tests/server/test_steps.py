"""One process, many sessions: what fails in a step of one is that session's trouble alone (secagg_server.steps)."""

import errno
import json
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest

from secagg_host.events import EventLog
from secagg_server.database import SessionState
from secagg_server.server import Coordinator, raise_file_limit
from secagg_server.session import Host
from secagg_server.steps import MAX_REASON, RETRY_AFTER
from tests.ckks_deployment import CkksDeployment
from tests.deployment import Clock, Deployment
from tests.masked_deployment import MaskedDeployment

PROTOCOLS = (Deployment, MaskedDeployment, CkksDeployment)
Broken = Callable[[], NoReturn]


def load(deployment: Deployment | MaskedDeployment | CkksDeployment, log: EventLog) -> Coordinator:
    host = Host(deployment.coordinator_files.signer, deployment.clock, log)
    return Coordinator.load(deployment.config, deployment.coordinator_files, host)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


@pytest.fixture
def coordinator(tmp_path: Path, log: Path) -> Iterator[Coordinator]:
    """One that drives a session of each protocol; all of them are past the deadline for uploads."""
    events = EventLog(log)
    clock = Clock()
    each = [load(protocol(tmp_path / protocol.__name__, clock=clock), events) for protocol in PROTOCOLS]
    clock.now += 3600 + 60
    yield replace(each[0], drivers=tuple(driver for one in each for driver in one.drivers))
    for one in each:
        one.store.close()
    events.close()


def clock_of(coordinator: Coordinator) -> Clock:
    clock = coordinator.host.clock
    assert isinstance(clock, Clock)
    return clock


def states(coordinator: Coordinator) -> list[SessionState]:
    return [driver.session.store.state()[0] for driver in coordinator.drivers]


def fails_with(error: Exception) -> Broken:
    def step() -> NoReturn:
        raise error

    return step


@pytest.mark.parametrize("place", range(len(PROTOCOLS)))
@pytest.mark.parametrize(
    "error",
    [OSError(errno.EMFILE, "Too many open files"), MemoryError()],
    ids=lambda error: type(error).__name__,
)
def test_what_fails_in_one_session_stops_no_other_and_is_tried_again(
    coordinator: Coordinator, log: Path, monkeypatch: pytest.MonkeyPatch, place: int, error: Exception
) -> None:
    driver = coordinator.drivers[place]
    with monkeypatch.context() as patch:
        patch.setattr(driver.session.store, "move", lambda *_: fails_with(error)())
        coordinator.advance()
    others = [driver for number, driver in enumerate(coordinator.drivers) if number != place]
    assert [other.session.store.state()[0] for other in others] == [SessionState.TOO_FEW] * 2
    assert [other.session.problem for other in others] == ["", ""]
    assert str(error).removeprefix("[Errno 24] ") in driver.session.problem
    (told,) = [json.loads(line) for line in log.read_text().splitlines() if '"problem"' in line]
    assert (told["session"], told["message"]) == (driver.session.ctx, driver.session.problem)
    before = states(coordinator)
    coordinator.advance()
    assert states(coordinator) == before, "not at once"
    clock_of(coordinator).now += RETRY_AFTER
    coordinator.advance()
    assert states(coordinator) == [SessionState.TOO_FEW] * 3
    assert driver.session.problem == ""


def test_what_a_step_of_one_session_takes_is_not_taken_from_the_others(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first session opens its sum for a minute, in two steps: each look at the others is at the time it is then."""
    first, *others = coordinator.drivers
    clock, seen = clock_of(coordinator), list[int]()

    def long(now: int) -> bool:
        seen.append(now)
        clock.now += 60
        return len(seen) < 2

    def short(now: int) -> bool:
        seen.append(now)
        return False

    for driver in others:
        monkeypatch.setattr(driver, "_step", short)
    monkeypatch.setattr(first, "_step", long)
    begun = clock.now
    coordinator.advance()
    assert seen == [begun, begun + 60, begun + 120, begun + 120]


def test_saying_who_is_missing_stops_no_session_either(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    for driver in coordinator.drivers:
        monkeypatch.setattr(driver, "_tell", lambda _: fails_with(OSError(errno.EMFILE, "Too many open files"))())
    coordinator.advance()
    assert all("Too many open files" in driver.session.problem for driver in coordinator.drivers)


def test_an_unexpected_error_is_told_with_its_type_and_place_and_a_part_of_what_it_says(
    coordinator: Coordinator, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = coordinator.drivers[0]
    error = ValueError("x" * 10 * MAX_REASON)
    monkeypatch.setattr(driver.session.store, "move", lambda *_: fails_with(error)())
    coordinator.advance()
    (told,) = [json.loads(line) for line in log.read_text().splitlines() if '"problem"' in line]
    assert told["code"] == "unexpected"
    assert told["message"].startswith("ValueError: xxx")
    assert "a fault of this program" in told["message"]
    assert told["message"].count("x") < MAX_REASON + 10
    assert told["at"].endswith("in step")
    assert "test_steps.py:" in told["at"]


def test_a_release_loads_nothing_that_the_start_did_not(tmp_path: Path) -> None:
    """A process that has run out of files by then has all it needs."""
    code = (
        "import sys; from secagg_server import plots, publish, server; "
        "server.Coordinator({}, {}, {}, {}, (), None, None).warm(); before = set(sys.modules); "
        "plots.bytes_plot([('one', 1, True)]); publish.software_versions(); "
        "print(sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "[]"


def test_a_server_may_open_as_many_files_as_the_machine_allows() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    low = min(1024, before[1])
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (low, before[1]))
        raise_file_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
