"""How long a coordinator waits for those who are silent: rounds of masked sessions (protocol.md §12.2.1), key-holders'
answers to the degree check (§8.4.6). Other sessions' steps are not its time, nor is what its clock jumps over."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from secagg.masked.client import MaskedClient
from secagg.run import MemoryJournal
from secagg_host.events import EventLog
from secagg_server import masked_session
from secagg_server.clock import ERASE_GRACE_SECONDS
from secagg_server.database import SessionState
from secagg_server.masked_replay import Stage, rebuilt
from secagg_server.masked_session import MaskedSession
from secagg_server.server import Coordinator
from secagg_server.session import DEGREE_CHECK_SECONDS, Host
from secagg_server.steps import RETRY_AFTER
from tests.deployment import Deployment, Running
from tests.masked_deployment import MaskedDeployment

ROUND_SECONDS = 60


@dataclass
class Served:
    """A masked session at a coordinator that a test moves on."""

    deployment: MaskedDeployment
    coordinator: Coordinator

    @property
    def session(self) -> MaskedSession:
        return self.coordinator.masked[self.deployment.descriptor.ctx]

    def advertise(self) -> None:
        """All clients advertise their keys."""
        deployment, authority = self.deployment, self.deployment.authority[0].decode()
        for files in deployment.client_files:
            client = MaskedClient.join(
                deployment.signed, files.signer, deployment.policy, authority, MemoryJournal(), deployment.clock()
            )
            _, signed = client.advertise(os.urandom, deployment.clock())
            self.session.advertise(files.identity, signed)

    def restart(self) -> None:
        """Stopped and started."""
        self.coordinator.store.close()
        self.coordinator = load(self.deployment)

    def at(self) -> str:
        """The round that it is in, after another look."""
        self.coordinator.advance()
        return self.session.step if self.session.running else self.session.status()[0].value


def load(deployment: MaskedDeployment) -> Coordinator:
    host = Host(deployment.coordinator_files.signer, deployment.clock, EventLog(), monotonic=deployment.clock.monotonic)
    return Coordinator.load(deployment.config, deployment.coordinator_files, host)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """One to which all clients have advertised their keys; nobody has looked since."""
    deployment = MaskedDeployment(tmp_path, round_seconds=ROUND_SECONDS)
    made = Served(deployment, load(deployment))
    made.advertise()
    yield made
    made.coordinator.store.close()


def another(step: Callable[[], object]) -> Any:
    """The driver of another session, whose next look takes that long."""
    return SimpleNamespace(advance=step, session=SimpleNamespace(store=None))


def beside(coordinator: Coordinator, step: Callable[[], object]) -> Coordinator:
    """The same process with another session in it, which is looked at first."""
    return replace(coordinator, drivers=(another(step), *coordinator.drivers))


def test_a_round_begins_when_the_one_before_is_closed_however_long_another_session_took(served: Served) -> None:
    clock = served.deployment.clock

    def long() -> None:
        clock.now += ROUND_SECONDS + 1

    beside(served.coordinator, long).advance()
    assert served.session.store.closed_at("advertise") == clock.now
    assert served.at() == "share"


def test_a_round_lasts_its_seconds_whatever_the_clock_says_meanwhile(served: Served) -> None:
    clock = served.deployment.clock
    assert served.at() == "share"
    clock.jump(ROUND_SECONDS + 1)  # the machine was asleep, or its clock is put right
    assert served.at() == "share"
    clock.jump(-ROUND_SECONDS - 1)
    clock.now += ROUND_SECONDS
    assert served.at() == "share", "until its last second"
    clock.now += 1
    assert served.at() == SessionState.TOO_FEW, "nobody has shared"


def test_a_coordinator_that_was_away_gives_the_round_its_time_again(served: Served) -> None:
    clock = served.deployment.clock
    assert served.at() == "share"
    clock.now += ROUND_SECONDS
    served.restart()
    clock.now += 1  # it loads for a while before it looks
    assert served.at() == "share"
    clock.now += ROUND_SECONDS
    assert served.at() == "share"
    clock.now += 1
    assert served.at() == SessionState.TOO_FEW


def test_a_coordinator_that_is_restarted_again_and_again_goes_on_until_the_expiry_and_no_further(
    served: Served,
) -> None:
    clock, expires_at = served.deployment.clock, served.deployment.descriptor.expires_at
    served.at()
    while clock.now + ROUND_SECONDS < expires_at:
        clock.now += ROUND_SECONDS
        served.restart()
        assert served.at() == "share"
    clock.now = expires_at + 1
    for _ in range(2):  # it takes no step any more, and when that is certain, it has ended
        assert served.at() == "share"
        clock.now += ROUND_SECONDS + 1
    clock.now += ERASE_GRACE_SECONDS
    assert served.at() == SessionState.EXPIRED


def test_time_in_which_nothing_can_be_answered_is_no_time_of_a_round(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the clock is before the session, and while what is stored is read again after a write that failed."""
    clock, session = served.deployment.clock, served.session
    assert served.at() == "share"
    clock.jump(session.descriptor.created_at - clock.now - 1)
    for _ in range(2):
        assert served.at() == "share"
        clock.now += ROUND_SECONDS + RETRY_AFTER
        clock.jump(-ROUND_SECONDS - RETRY_AFTER)
    clock.jump(RETRY_AFTER + 1)
    assert served.at() == "share"

    def slowly(*args: Any) -> Stage:
        clock.now += ROUND_SECONDS + 1
        return rebuilt(*args)

    monkeypatch.setattr(masked_session, "rebuilt", slowly)
    monkeypatch.setattr(session.store, "count", lambda _: -1)
    session._settled = False
    assert served.at() == "share"


def test_late_answers_to_the_degree_check_have_their_time_whatever_the_clock_says(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)
    with deployment.running() as running:
        endorsed(running)
        for seconds in (0, DEGREE_CHECK_SECONDS + 1, -DEGREE_CHECK_SECONDS - 1):
            deployment.clock.jump(seconds)
            running.advance()
            assert running.session.store.settlement() is None
        deployment.clock.now += DEGREE_CHECK_SECONDS
        running.advance()
        assert running.session.store.settlement() is not None


def test_late_answers_to_the_degree_check_have_their_time_however_long_another_session_took(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)
    with deployment.running() as running:
        endorsed(running)

        def long() -> None:
            deployment.clock.now += DEGREE_CHECK_SECONDS + 1

        beside(running.coordinator, long).advance()
        running.advance()
        assert running.session.store.settlement() is None
        deployment.clock.now += DEGREE_CHECK_SECONDS
        running.advance()
        assert running.session.store.settlement() is not None


def endorsed(running: Running) -> None:
    """t key-holders have endorsed the candidate set, and nobody has answered the degree check."""
    deployment = running.deployment
    running.approve()
    running.upload_all()
    deployment.clock.now = deployment.descriptor.upload_deadline + 1
    running.advance()
    for index in range(deployment.descriptor.threshold):
        with running.holder(index) as caller:
            caller.work_once(deployment.committee[index], deployment.clock())
