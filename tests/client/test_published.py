"""The releases that a client stored, when a later round goes on from them (protocol.md §4.7.2)."""

from pathlib import Path

import pytest

from secagg.certificate import ADAPTER, MODEL_CARD
from secagg.errors import HashMismatch, ProtocolViolation
from secagg.plan import Plan
from secagg_client.folders import write_folder
from secagg_client.patience import Patience
from secagg_client.published import Releases
from secagg_host.events import EventLog
from tests.secagg.test_rounds import first_round, next_round
from tests.small import Small


class Nobody:
    """A coordinator that must not be asked."""

    def release_files(self, ctx: str, release: int = 0) -> dict[str, int]:
        raise AssertionError((ctx, release))

    def release_file(self, ctx: str, name: str, size: int, release: int = 0) -> bytes:
        raise AssertionError((ctx, name, size, release))


@pytest.fixture(scope="module")
def rounds() -> tuple[Small, Small]:
    one = first_round()
    return one, next_round(one)


def started(two: Small, folder: Path) -> Plan:
    """The plan of the second round, from what is in `folder`."""
    log = EventLog(folder / "events.jsonl")
    releases = Releases(Nobody(), two.policy, Patience(log), folder / "release")
    return releases.plan_of(two.descriptor)


def test_a_round_goes_on_from_what_is_stored(rounds: tuple[Small, Small], tmp_path: Path) -> None:
    one, two = rounds
    write_folder(tmp_path / "release" / "round-1", one.release)
    plan = started(two, tmp_path)
    assert all(spec.init.kind == "embedded" for spec in plan.trained)


@pytest.mark.parametrize("name", [ADAPTER, MODEL_CARD])
def test_a_stored_release_that_was_altered_is_refused_by_its_path(
    rounds: tuple[Small, Small], tmp_path: Path, name: str
) -> None:
    one, two = rounds
    folder = tmp_path / "release" / "round-1"
    write_folder(folder, {**one.release, name: one.release[name] + b" "})
    with pytest.raises(HashMismatch, match=rf"{folder}: {name} does not have.*it was altered. Move the folder away"):
        started(two, tmp_path)


def test_the_release_of_another_series_is_refused_by_its_path(rounds: tuple[Small, Small], tmp_path: Path) -> None:
    one, two = rounds
    other = first_round()
    other.parties, other.policy = one.parties, one.policy
    folder = tmp_path / "release" / "round-1"
    write_folder(folder, other.release)
    with pytest.raises(ProtocolViolation, match=rf"{folder}: the release is of session .*Move the folder away"):
        started(two, tmp_path)
