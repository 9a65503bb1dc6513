"""Runs the processes of a session to the release, and notices what goes wrong."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from secagg.errors import ProcessFailed
from secagg_app.demo.layout import RunFolder
from secagg_app.demo.processes import Event, Running, Supervisor, last_error
from secagg_app.demo.settings import DemoSettings
from secagg_app.demo.view import View
from secagg_app.workers import environment
from secagg_host.durable import guard

COORDINATOR = "coordinator"
POLL_SECONDS = 0.5
VANISHES_AT = {"enrolled": "enrolled", "key-shared": "shared its mask key"}
"""Where a client that is to vanish is killed: when the others already count on it."""


def threads_per_client(clients: int) -> int:
    """Threads for arithmetic: the cores are shared out, one each at least."""
    return max(1, (os.cpu_count() or 1) // clients)


@dataclass(slots=True)
class Federation:
    """One session of real processes. `own` collects the figures that clients log about their own adapters."""

    settings: DemoSettings
    folder: RunFolder
    view: View
    supervisor: Supervisor
    offline: bool
    own: dict[str, dict[str, float]] = field(default_factory=dict)
    _lost: list[str] = field(default_factory=list)

    @property
    def stayers(self) -> list[str]:
        """Clients that are to finish."""
        return self.folder.client_names[: self.settings.clients]

    @property
    def vanishing(self) -> list[str]:
        """Clients that are killed when they have enrolled, or in a masked session shared their mask keys."""
        return self.folder.client_names[self.settings.clients :]

    def run(self) -> None:
        """Start everyone, wait for the release in every client's hands, end the coordinator.

        Raises ProcessFailed that names the process, its reason and its log.
        """
        root, one = self.folder.root, environment(1, offline=self.offline)
        self._start(COORDINATOR, one, "server", "run", "--config", root / COORDINATOR / "server.toml")
        self._until(lambda event: event.party == COORDINATOR and event.name == "listening")
        for name in self.folder.holder_names:
            self._start(name, one, "keyholder", "run", "--config", root / name / "keyholder.toml")
        shared = environment(threads_per_client(self.settings.clients), offline=self.offline)
        for name in [*self.vanishing, *self.stayers]:
            self._start(name, shared, "client", "run", "--config", root / name / "client.toml")
        awaited = [*self.stayers, *self.folder.holder_names]
        self._until(lambda _: all(self._is_over(name) for name in awaited))
        self.supervisor.end([COORDINATOR])

    def _start(self, party: str, env: dict[str, str], *arguments: str | Path) -> None:
        self.supervisor.start(party, *arguments, env=env)

    def _is_over(self, party: str) -> bool:
        return self.supervisor.running[party].status is not None and not self._pending(party)

    def _pending(self, party: str) -> bool:
        reader = self.supervisor.running[party].reader
        return reader is not None and reader.is_alive()

    def _until(self, done: Callable[[Event], bool]) -> None:
        """Take events until `done` says so of one. All events are taken before the end is believed."""
        while True:
            event = self.supervisor.next_event(POLL_SECONDS)
            if event is None:
                continue
            self._take(event)
            if done(event):
                return

    def _take(self, event: Event) -> None:
        self.view.event(event)
        running = self.supervisor.running[event.party]
        if event.name in VANISHES_AT and event.party in self.vanishing:
            running.kill()
            what = VANISHES_AT[event.name]
            self.view.mark(event.party, "vanished", f"{what}, and was killed: it is never heard of again")
        elif event.name == "evaluated" and event.fields.get("model") == "own" and event.party in self.stayers:
            numbers = {k: v for k, v in event.fields.items() if isinstance(v, int | float) and k != "time"}
            self.own[event.party] = numbers
        elif event.name == "ended":
            self._ended(running, int(event.fields["status"]))

    def _ended(self, running: Running, status: int) -> None:
        party = running.party
        if running.expected_end or (status == 0 and party != COORDINATOR):
            return
        if party in self.folder.holder_names:
            self._lost.append(party)
            if len(self._lost) <= self.settings.spare_holders:
                self.view.say(f"{party} failed ({self._why(running, status)}); the others are enough")
                return
            names, holders = ", ".join(self._lost), self.settings.holders
            raise ProcessFailed(
                f"{names} failed, {holders - len(self._lost)} of {holders} key-holders are left and "
                f"{holders - self.settings.spare_holders} must agree. "
                f"Last: {self._why(running, status)} (log: {running.log})"
            )
        raise ProcessFailed(f"{party} ended early: {self._why(running, status)} (log: {running.log})")

    def _why(self, running: Running, status: int) -> str:
        if status < 0:
            return f"killed by signal {-status}"
        with guard(running.log):
            return last_error(running.log)
