"""A session is looked at when something of it was recorded, and once a second."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from secagg_server.database import Store
from secagg_server.pace import REST_SECONDS, Pace
from tests.deployment import Deployment


class Hand:
    """A clock that a test turns."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_it_rests_until_something_is_recorded() -> None:
    clock = Hand()
    pace = Pace(clock)
    assert pace.due("a", 0), "the first look"
    assert not pace.due("a", 0)
    assert pace.due("b", 0), "each session has a pace of its own"
    assert pace.due("a", 1)
    assert not pace.due("a", 1)


def test_it_looks_once_a_second_all_the_same() -> None:
    clock = Hand()
    pace = Pace(clock)
    pace.due("a", 7)
    clock.now += REST_SECONDS * 0.9
    assert not pace.due("a", 7)
    clock.now += REST_SECONDS * 0.2
    assert pace.due("a", 7)
    clock.now -= 50
    assert pace.due("a", 7), "a clock that was set back does not stop it"


def test_a_server_whose_sessions_rest_reads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads, read = list[str](), Store.read

    @contextmanager
    def counted(store: Store) -> Iterator[Session]:
        reads.append("read")
        with read(store) as db:
            yield db

    monkeypatch.setattr(Store, "read", counted)
    deployment = Deployment(tmp_path)
    with deployment.running() as running:
        clock = Hand()
        pace = Pace(clock)
        running.coordinator.advance(pace)
        reads.clear()
        running.coordinator.advance(pace)
        assert reads == []
        running.approve(1)
        reads.clear()
        running.coordinator.advance(pace)
        assert reads
