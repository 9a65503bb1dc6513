"""A disk that fails in a masked session: memory never holds what the store does not (protocol.md §12.2.3)."""

import shutil
import sqlite3
import threading
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from secagg.errors import NotReady, SessionClosed, StorageError
from secagg.masked.closing import MaskedSum, UnmaskRound
from secagg.masked.messages import SignedUnmasking
from secagg_client.calls import PublicationCalls
from secagg_client.masked_calls import MaskedCalls
from secagg_host.durable import write_atomic
from secagg_host.events import EventLog
from secagg_host.tls import channel
from secagg_server import masked_driver, server, steps
from secagg_server.blobs import UploadFiles
from secagg_server.clock import ERASE_GRACE_SECONDS
from secagg_server.database import SessionState, StateStore
from secagg_server.masked_session import MaskedSession
from secagg_server.masked_storage import MaskedInputs, MessageStore
from secagg_server.only_release import UploadStream
from secagg_server.publish import write_folder
from secagg_server.server import Coordinator
from secagg_server.session import Host
from tests.deployment import HOUR
from tests.masked_deployment import MaskedDeployment, MaskedParticipant, everybody, together
from tests.server.test_masked_server import check, play_with

ACCESSES = (
    "advertise", "close advertise", "share", "close share", "announced", "read", "seal", "upload", "close upload",
    "endorse", "close endorse", "unmask", "fix release", "write release", "move released",
)  # fmt: skip
FULL = "no space left on device"


@dataclass
class Disk:
    """Fails once at each of ACCESSES, before anything is written or when it is all there; keeps what it held then.

    `acknowledged` are (step, client) that a client has the coordinator's word for.
    """

    folder: Path
    written: bool
    left: list[str] = field(default_factory=lambda: list(ACCESSES))
    acknowledged: set[tuple[str, str]] = field(default_factory=set)
    images: dict[str, set[tuple[str, str]]] = field(default_factory=dict)

    def image(self, name: str) -> Path:
        return self.folder / "images" / name.replace(" ", "-")

    def failing(self, write: Callable[..., Any], name_of: Callable[..., str]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            name = name_of(*args)
            if name not in self.left:
                return write(*args, **kwargs)
            self.left.remove(name)
            if self.written:
                write(*args, **kwargs)
            shutil.copytree(self.folder / "state", self.image(name) / "state")
            self.images[name] = set(self.acknowledged)
            raise StorageError(FULL)

        return call

    def install(self, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(steps, "RETRY_AFTER", 0)
        for owner, method, name_of in (
            (MessageStore, "add_message", lambda _, step, *rest: step),
            (MessageStore, "close_round", lambda _, step, *rest: f"close {step}"),
            (MessageStore, "fix_release", lambda *_: "fix release"),
            (StateStore, "move", lambda _, state, *rest: f"move {state}"),
            (UploadFiles, "vector", lambda *_: "read"),
            (UploadFiles, "seal", lambda *_: "seal"),
            (masked_driver, "write_folder", lambda *_: "write release"),
        ):
            patch.setattr(owner, method, self.failing(getattr(owner, method), name_of))
        take, finish = MaskedSession._take, MaskedSession.finish_upload

        def taking(session: MaskedSession, step: str, peer: Any, *rest: Any) -> None:
            take(session, step, peer, *rest)
            self.acknowledged.add((step, peer.fingerprint))

        def finishing(session: MaskedSession, stream: UploadStream, header: bytes) -> Any:
            receipt = finish(session, stream, header)
            self.acknowledged.add(("upload", stream.peer.fingerprint))
            return receipt

        patch.setattr(MaskedSession, "_take", taking)
        patch.setattr(MaskedSession, "finish_upload", finishing)


def loaded(deployment: MaskedDeployment, state: Path, *more: Path) -> Coordinator:
    """A coordinator that is started on these files."""
    config = deployment.config
    config = config.model_copy(update={"state": state, "sessions": (*config.sessions, *more)})
    events = EventLog(state / "events.jsonl")
    return Coordinator.load(config, deployment.coordinator_files, Host(deployment.coordinator_files.signer,
                            deployment.clock, events))  # fmt: skip


def stored(session: MaskedSession, step: str) -> set[int]:
    return {session.descriptor.number_of(client) for client, _ in session.store.messages(step)}


@pytest.mark.parametrize("written", [False, True], ids=["nothing-is-written", "it-is-written-all-the-same"])
def test_the_disk_fails_once_at_every_access(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, written: bool) -> None:
    deployment, disk = MaskedDeployment(tmp_path, round_seconds=600), Disk(tmp_path, written)
    with monkeypatch.context() as patch:
        disk.install(patch)
        participants, state, reason = play_with(deployment, everybody(deployment))
    assert disk.left == []
    assert (state, reason) == (SessionState.RELEASED, "")
    assert [one.error for one in participants] == [None] * 5
    check(deployment, participants, {0, 1, 2, 3, 4})
    assert '"refused"' not in (tmp_path / "state" / "events.jsonl").read_text(), "of a vector that nothing is said of"
    for name in ACCESSES:  # had the server been stopped there, and started again
        coordinator = loaded(deployment, disk.image(name) / "state")
        session = coordinator.masked[deployment.descriptor.ctx]
        assert session.problem == "", name
        if session.running:
            assert set(session.stage.taken) == stored(session, session.step), name
        for step, client in disk.images[name]:
            assert session.store.message(step, client) is not None, name
            assert step != "upload" or session.receipt(client) is not None, name
        coordinator.store.close()


@dataclass
class Played:
    """A session in which one client's upload was never sealed, and the state when U had been fixed."""

    deployment: MaskedDeployment
    participants: list[MaskedParticipant]
    end: tuple[SessionState, str]
    image: Path


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    folder = tmp_path_factory.mktemp("never-sealed")
    deployment, image = MaskedDeployment(folder), folder / "image"
    victim = deployment.client_files[0].identity.fingerprint
    seal, add = UploadFiles.seal, MessageStore.add_message

    def failing(files: UploadFiles, client: str, *rest: Any) -> None:
        if client == victim:
            raise StorageError(FULL)
        seal(files, client, *rest)

    def adding(store: MessageStore, step: str, *rest: Any) -> None:
        add(store, step, *rest)
        if step == "endorse" and not image.exists():
            shutil.copytree(folder / "state", image)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UploadFiles, "seal", failing)
        patch.setattr(MessageStore, "add_message", adding)
        participants, state, reason = play_with(deployment, everybody(deployment), silent={0})
    return Played(deployment, participants, (state, reason), image)


def test_an_upload_that_is_never_sealed_is_in_no_set(played: Played) -> None:
    deployment = played.deployment
    assert played.end == (SessionState.RELEASED, "")
    assert isinstance(played.participants[0].error, SessionClosed)
    report = check(deployment, played.participants, {1, 2, 3, 4})
    coordinator = loaded(deployment, deployment.folder / "state")
    session = coordinator.masked[deployment.descriptor.ctx]
    assert all(session.receipt(member) for member in report.certificate.members)
    assert session.receipt(deployment.client_files[0].identity.fingerprint) is None
    coordinator.store.close()


def test_a_restart_follows_the_set_that_was_signed(played: Played) -> None:
    coordinator = loaded(played.deployment, played.image)
    session = coordinator.masked[played.deployment.descriptor.ctx]
    assert (session.problem, session.step) == ("", "endorse")
    signed = session.store.signed_at("upload")
    assert signed is not None
    assert session.survivors().to_bytes() == signed
    assert set(session.survivors().statement.members) == stored(session, "upload") == session.expected()
    assert len(session.stage.taken) == 1
    coordinator.store.close()


@pytest.mark.parametrize("fixed", [False, True], ids=["", "and-its-release-is-fixed"])
def test_a_session_whose_store_contradicts_itself_holds_up_no_other(
    played: Played, tmp_path: Path, *, fixed: bool
) -> None:
    deployment, state = played.deployment, tmp_path / "state"
    shutil.copytree(played.image, state)
    with sqlite3.connect(state / "coordinator.sqlite") as db:
        lost = "number = (SELECT min(number) FROM masked_messages WHERE step = 'upload')"
        assert db.execute(f"DELETE FROM masked_messages WHERE step = 'upload' AND {lost}").rowcount == 1
    twin = copy(deployment)  # the same parties, another session
    del twin.__dict__["signed"]
    other = twin.signed
    write_atomic(tmp_path / "other.json", other.to_bytes())
    coordinator = loaded(deployment, state, tmp_path / "other.json")
    session = coordinator.masked[deployment.descriptor.ctx]
    if fixed:
        session.store.fix_release(MaskedInputs(timeline=(), software={}, released_at=deployment.clock()))
    for _ in range(2):
        coordinator.advance()
        _, reason = session.status()
        assert reason.startswith(f"session {session.ctx[:16]} does not go on")
        assert "restore `coordinator.sqlite`" in reason
        with pytest.raises(StorageError, match="does not go on"):
            session.survivors()
    assert '"problem"' in (state / "events.jsonl").read_text()
    well = coordinator.masked[other.statement.ctx]
    assert well.status()[1].startswith("round 'advertise': waiting for")
    before = deployment.clock.now
    for deployment.clock.now in (session.descriptor.expires_at + 1, session.descriptor.expires_at + HOUR):
        coordinator.advance()
    deployment.clock.now = before
    assert session.status()[0] == SessionState.EXPIRED, "its uploads are deleted all the same"
    assert not session.files.any_stored()
    coordinator.store.close()


class AnswersLate(MaskedCalls):
    """Has its shares ready, and hands them in when the others have opened the sum."""

    fixed, answered = threading.Event(), threading.Event()

    def unmask(self, signed: SignedUnmasking) -> None:
        assert self.fixed.wait(120)
        try:
            super().unmask(signed)
        finally:
            self.answered.set()


@pytest.mark.parametrize("step", ["build_masked_release", "write_folder"])
def test_a_masked_release_that_cannot_be_made_or_written_keeps_no_upload_after_expiry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """A fault of whatever kind: it is tried again until the expiry is certain, and no longer (§7.4)."""
    deployment, failed = MaskedDeployment(tmp_path, round_seconds=600), threading.Event()

    def fail(*_: object) -> None:
        failed.set()
        raise KeyError("a template that is gone")

    monkeypatch.setattr(masked_driver, step, fail)
    participants = everybody(deployment)
    with deployment.serving() as (coordinator, address), together(participants, address):
        session, clock = coordinator.masked[deployment.descriptor.ctx], deployment.clock
        assert failed.wait(120)
        clock.now = deployment.descriptor.expires_at + 1
        failed.clear()
        assert failed.wait(120), "it is tried again"
        assert session.files.any_stored()
        clock.now += ERASE_GRACE_SECONDS
    state, reason = session.status()
    assert state == SessionState.EXPIRED
    assert "its uploads are deleted (KeyError" in reason
    assert not session.files.any_stored()
    assert all(isinstance(one.error, SessionClosed) for one in participants)


def test_everybody_is_answered_while_the_sum_is_opened_and_no_share_is_taken_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many workers as clients, all of whom ask; the sum stays closed until they, and another party, are answered."""
    deployment, opening, answered = MaskedDeployment(tmp_path, round_seconds=600), threading.Event(), threading.Event()
    open_sum, waited = UnmaskRound.open, list[bool]()

    def slowly(stage: UnmaskRound, threads: int = 1) -> MaskedSum:
        opening.set()
        waited.append(answered.wait(30))
        return open_sum(stage, threads)

    class Late(MaskedCalls):
        def unmask(self, signed: SignedUnmasking) -> None:
            assert opening.wait(120)
            with pytest.raises(SessionClosed, match="the sum of session"):
                super().unmask(signed)
            raise SessionClosed("as it was told")

    monkeypatch.setattr(server, "MAX_WORKERS", 5)
    monkeypatch.setattr(UnmaskRound, "open", slowly)
    participants = everybody(deployment)
    participants[4].calls = Late
    with deployment.serving() as (coordinator, address), together(participants, address):
        session = coordinator.masked[deployment.descriptor.ctx]
        assert opening.wait(120)
        assert session.status()[1].startswith("round 'unmask': waiting for Hospital")
        with channel(address, deployment.client_files[0]) as line:
            assert MaskedCalls(line).status(session.ctx).state.value == SessionState.CLOSING.value
        with channel(address, deployment.auditor_files) as line, pytest.raises(NotReady):
            PublicationCalls(line).release_files(session.ctx)
        answered.set()
    assert waited == [True]
    assert [one.error for one in participants] == [None] * 5
    check(deployment, participants, {0, 1, 2, 3, 4})


def test_shares_that_come_while_the_release_is_written_change_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fixed is fixed: the disk refuses the release until the last client has answered."""
    deployment = MaskedDeployment(tmp_path, round_seconds=600)

    def full(folder: Path, files: dict[str, bytes]) -> None:
        AnswersLate.fixed.set()
        if not AnswersLate.answered.is_set():
            raise StorageError(FULL)
        write_folder(folder, files)

    monkeypatch.setattr(steps, "RETRY_AFTER", 0)
    monkeypatch.setattr(masked_driver, "write_folder", full)
    participants = everybody(deployment)
    participants[4].calls = AnswersLate
    _, state, _ = play_with(deployment, participants)
    assert state == SessionState.RELEASED
    assert "the sum of session" in participants[4].events
    assert [one.error for one in participants] == [None] * 5
    check(deployment, participants, {0, 1, 2, 3, 4})
