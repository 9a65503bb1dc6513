"""The demo's processes: started, read, ended. Each is a `secagg` command with a log file of its own."""

import json
import os
import queue
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from secagg.errors import ProcessFailed
from secagg_app.workers import PARENT
from secagg_host.durable import guard, make_folder

COMMAND = (sys.executable, "-m", "secagg_app")
GRACE_SECONDS = 8.0


def as_typed() -> str:
    """How the user types this installation's `secagg`: by name where the shell finds it, else by its path."""
    script = Path(sys.executable).with_name("secagg")
    found = shutil.which("secagg")
    if found is not None and Path(found).absolute() == script:
        return "secagg"
    if not script.is_file():
        return shlex.join(COMMAND)
    return shlex.quote(str(script.relative_to(Path.cwd()) if script.is_relative_to(Path.cwd()) else script))


def last_error(log: Path) -> str:
    """The line that says why a process ended: its `error[...]` line, else its last line that is no event."""
    with guard(log):
        lines = [line.strip() for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error[")]
    other = [line for line in lines if not line.startswith("{")]
    return (errors or other or ["it said nothing"])[-1]


def run_command(log: Path, *arguments: str | Path, env: Mapping[str, str] | None = None) -> str:
    """Run `secagg ARGUMENTS` to its end; its output goes to the log. Returns what it printed.

    Raises ProcessFailed with the command, its reason and its log.
    """
    make_folder(log.parent)
    words = [str(argument) for argument in arguments]
    done = subprocess.run(
        [*COMMAND, *words], capture_output=True, text=True, stdin=subprocess.DEVNULL, env=env, check=False
    )
    with guard(log), log.open("a", encoding="utf-8") as file:
        file.write(f"$ secagg {' '.join(words)}\n{done.stdout}{done.stderr}")
    if done.returncode:
        raise ProcessFailed(f"`secagg {' '.join(words[:2])}` failed: {last_error(log)} (log: {log})")
    return done.stdout


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a process's event stream; `ended` events are made here, with its exit status."""

    party: str
    name: str
    fields: Mapping[str, Any]


@dataclass(slots=True)
class Running:
    """A process that runs. `expected_end`: its end, however it comes, is no failure."""

    party: str
    process: "subprocess.Popen[str]"
    log: Path
    expected_end: bool = False
    reader: threading.Thread | None = field(default=None, repr=False)

    @property
    def status(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        return self.process.poll()

    def kill(self) -> None:
        """SIGKILL, as when the machine is lost."""
        self.expected_end = True
        self.process.kill()


class Supervisor:
    """Starts processes, gathers their events, and leaves none behind. A context manager."""

    def __init__(self, logs: Path) -> None:
        self._logs = make_folder(logs)
        self.running = dict[str, Running]()
        self._events: queue.Queue[Event] = queue.Queue()

    def start(self, party: str, *arguments: str | Path, env: Mapping[str, str]) -> Running:
        """Start `secagg ARGUMENTS --json`; its events and errors go to `logs/PARTY.log` too."""
        log = self._logs / f"{party}.log"
        with guard(log):
            sink = log.open("a", encoding="utf-8")
        process = subprocess.Popen(
            [*COMMAND, *map(str, arguments), "--json"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=sink,
            text=True,
            env={**env, PARENT: str(os.getpid())},
            start_new_session=True,  # Ctrl-C reaches the demo alone, which then ends the others in order
        )
        running = Running(party, process, log)
        running.reader = threading.Thread(target=self._read, args=(running, sink), daemon=True)
        self.running[party] = running
        self._events.put(Event(party, "started", {"pid": process.pid, "log": str(log)}))
        running.reader.start()
        return running

    def _read(self, running: Running, sink: Any) -> None:
        stream = running.process.stdout
        with sink:
            for line in stream or ():
                sink.write(line)
                sink.flush()
                if (event := _parse(running.party, line)) is not None:
                    self._events.put(event)
        self._events.put(Event(running.party, "ended", {"status": running.process.wait()}))

    def next_event(self, timeout: float) -> Event | None:
        """The next event of any process, or None after `timeout` seconds."""
        try:
            return self._events.get(timeout=timeout)
        except queue.Empty:
            return None

    def end(self, parties: Iterable[str]) -> None:
        """SIGTERM, some patience, SIGKILL; waits until all are gone and read."""
        chosen = [self.running[party] for party in parties if party in self.running]
        for running in chosen:
            running.expected_end = running.expected_end or running.status is None
            with suppress(ProcessLookupError):
                running.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        for running in chosen:
            try:
                running.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                running.process.kill()
            if running.reader is not None:
                running.reader.join(GRACE_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end(list(self.running))


def _parse(party: str, line: str) -> Event | None:
    try:
        fields = json.loads(line)
    except ValueError:
        return None
    if not isinstance(fields, dict) or not isinstance(fields.get("event"), str):
        return None
    return Event(party, fields.pop("event"), fields)
