"""The sums that a ckks key-holder hands in: looked at before they come, kept, lost by a disk (protocol.md §13.5.5)."""

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from secagg.ckks.messages import OpeningRefusal, SignedSumOpening, SumOpening
from secagg.ckks.opened import sums_hash
from secagg.errors import ConflictError, ProtocolViolation, RoleViolation, SecaggError, SessionClosed, SignatureInvalid
from secagg.signing import Signer
from secagg_host.events import EventLog
from secagg_protos.v1 import secagg_pb2 as pb
from secagg_server import ckks_driver
from secagg_server.ckks_services import Ckks
from secagg_server.ckks_session import SUMS, CkksSession
from secagg_server.clock import ERASE_GRACE_SECONDS
from secagg_server.database import SessionState
from secagg_server.directory import Directory
from secagg_server.publish import write_folder
from secagg_server.server import Coordinator
from secagg_server.session import Host
from secagg_server.steps import RETRY_AFTER
from tests.ckks_deployment import CkksDeployment
from tests.server.test_ckks_refusal import approve, honest, send


def flip(path: Path) -> None:
    """The lowest bit of the first sum."""
    raw = path.read_bytes()
    path.write_bytes(bytes([raw[0] ^ 1]) + raw[1:])


DAMAGES: dict[str, Callable[[Path], None]] = {
    "gone": Path.unlink,
    "empty": lambda path: os.truncate(path, 0),
    "three-bytes": lambda path: os.truncate(path, 3),
    "one-bit": flip,
}
damaged = pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)


@dataclass
class Closing:
    """A coordinator that waits for the sum."""

    deployment: CkksDeployment
    coordinator: Coordinator

    @property
    def session(self) -> CkksSession:
        return self.coordinator.ckks[self.deployment.descriptor.ctx]

    @property
    def holder(self) -> Signer:
        return self.deployment.holder_files[0].signer

    @property
    def sums(self) -> NDArray[np.uint32]:
        return np.ones(self.deployment.descriptor.parameters.length, np.uint32)

    def opening(self, by: Signer | None = None, **bent: Any) -> SignedSumOpening:
        """A key-holder's word for `sums`."""
        fields = {
            "ctx": self.session.ctx,
            "holder": self.holder.identity.fingerprint,
            "set_digest": self.session.chosen().statement.digest,
            "sums": sums_hash(self.sums),
        }
        return (by or self.holder).sign(SumOpening(**{**fields, **bent}))

    def submit(self, opening: SignedSumOpening) -> None:
        self.session.submit(self.holder.identity, opening, self.sums.astype("<u4").tobytes())

    def again(self) -> None:
        """Stopped and started."""
        self.coordinator.store.close()
        self.coordinator = load(self.deployment, self.coordinator.host.events)

    def advance(self, seconds: int) -> tuple[SessionState, str]:
        self.deployment.clock.now += seconds
        self.coordinator.advance()
        return self.session.status()

    def expire(self) -> tuple[SessionState, str]:
        """At the expiry, and again when it is certain."""
        self.deployment.clock.now = max(self.deployment.clock.now, self.deployment.descriptor.expires_at)
        for _ in range(3):
            end = self.advance(ERASE_GRACE_SECONDS)
        return end


def load(deployment: CkksDeployment, events: EventLog) -> Coordinator:
    """Its state is a copy, `now`."""
    config = deployment.config.model_copy(update={"state": deployment.folder / "now"})
    host = Host(deployment.coordinator_files.signer, deployment.clock, events)
    return Coordinator.load(config, deployment.coordinator_files, host)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> CkksDeployment:
    """A session whose set is fixed."""
    deployment = CkksDeployment(tmp_path_factory.mktemp("closing"), clients=3)
    with deployment.serving() as (coordinator, address):
        approve(deployment, address)
        for index in range(3):
            send(deployment, address, index, honest(deployment, index))
        end = time.monotonic() + 60
        while coordinator.ckks[deployment.descriptor.ctx].status()[0] != SessionState.CLOSING:
            assert time.monotonic() < end
            time.sleep(0.02)
    return deployment


@pytest.fixture
def closing(made: CkksDeployment) -> Iterator[Closing]:
    now, begun = made.folder / "now", made.clock.now
    shutil.copytree(made.folder / "state", now)
    it = Closing(made, load(made, EventLog(now / "events.jsonl")))
    yield it
    it.coordinator.store.close()
    made.clock.now = begun
    shutil.rmtree(now)
    shutil.rmtree(made.folder / "release", ignore_errors=True)


@damaged
def test_sums_that_the_disk_lost_are_handed_in_once_more(closing: Closing, damage: Callable[[Path], None]) -> None:
    opening = closing.opening()
    closing.submit(opening)
    damage(closing.session.files.folder / SUMS)
    closing.again()
    state, reason = closing.advance(1)
    assert state == SessionState.CLOSING
    assert SUMS in reason
    assert "Start the key-holder again" in reason
    with pytest.raises(ConflictError):
        closing.submit(closing.opening(sums="0" * 64))
    closing.submit(opening)
    assert closing.advance(RETRY_AFTER) == (SessionState.RELEASED, "")


@damaged
def test_sums_that_the_disk_lost_keep_no_session_from_expiring(
    closing: Closing, damage: Callable[[Path], None]
) -> None:
    opening = closing.opening()
    closing.submit(opening)
    damage(closing.session.files.folder / SUMS)
    closing.deployment.clock.now = closing.deployment.descriptor.expires_at
    assert closing.advance(1)[0] == SessionState.CLOSING
    state, reason = closing.expire()
    assert state == SessionState.EXPIRED
    assert SUMS in reason, "it says why nothing was released"
    assert not closing.session.files.any_stored()
    closing.submit(opening)
    assert not closing.session.files.any_stored(), "nor does anything come back"


def test_a_release_that_only_has_to_be_written_is_written_after_the_expiry(closing: Closing) -> None:
    closing.submit(closing.opening())
    closing.deployment.clock.now = closing.deployment.descriptor.expires_at
    assert closing.advance(1) == (SessionState.RELEASED, "")


def test_calls_are_answered_while_the_release_is_made(closing: Closing, monkeypatch: pytest.MonkeyPatch) -> None:
    opening, free = closing.opening(), list[bool]()

    def ask() -> None:
        free.append(closing.session.lock.acquire(blocking=False))
        if free[-1]:
            closing.session.lock.release()

    def write(folder: Path, files: dict[str, bytes]) -> None:
        asked = threading.Thread(target=ask)
        asked.start()
        asked.join()
        write_folder(folder, files)

    monkeypatch.setattr(ckks_driver, "write_folder", write)
    closing.submit(opening)
    assert closing.advance(1)[0] == SessionState.RELEASED
    assert free == [True]


@pytest.mark.parametrize("step", ["build_ckks_release", "write_folder"])
def test_a_ckks_release_that_cannot_be_made_or_written_keeps_no_upload_after_expiry(
    closing: Closing, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """A fault of whatever kind: it is tried again until the expiry is certain, and no longer (§7.4)."""
    tries = list[int]()

    def fail(*_: object) -> None:
        tries.append(closing.deployment.clock.now)
        raise KeyError("a template that is gone")

    monkeypatch.setattr(ckks_driver, step, fail)
    closing.submit(closing.opening())
    assert closing.advance(1)[0] == SessionState.CLOSING
    closing.deployment.clock.now = closing.deployment.descriptor.expires_at + 1
    for seconds in (0, RETRY_AFTER, ERASE_GRACE_SECONDS - RETRY_AFTER - 1):
        assert closing.advance(seconds)[0] == SessionState.CLOSING
        assert closing.session.files.any_stored()
    state, reason = closing.advance(RETRY_AFTER)
    assert state == SessionState.EXPIRED
    assert "its uploads are deleted (KeyError" in reason
    assert not closing.session.files.any_stored()
    assert len(tries) == 5


def test_a_refusal_that_was_recorded_burns_the_session_after_the_expiry_too(closing: Closing) -> None:
    """Killed before it took the step, the coordinator comes back late: why it ended is not forgotten (§13.5.7)."""
    session, holder = closing.session, closing.holder
    word = OpeningRefusal(
        ctx=session.ctx,
        holder=holder.identity.fingerprint,
        set_digest=session.chosen().statement.digest,
        finding="no-ciphertext",
        client=session.chosen().statement.members[0].client,
    )
    note = session.note(holder.identity.title, "refused to open the sum")
    session.store.add_message("refuse", holder.identity.fingerprint, holder.sign(word).to_bytes(), note)
    closing.again()
    closing.deployment.clock.now = closing.deployment.descriptor.expires_at
    state, why = closing.advance(1)
    assert state == SessionState.BURNT
    assert "sent ciphertexts that are none" in why
    assert closing.session.files.any_stored(), "the expiry is not certain yet"
    assert closing.expire() == (SessionState.BURNT, why)
    assert not closing.session.files.any_stored()


def hand_in(closing: Closing, opening: SignedSumOpening, asked: list[int]) -> None:
    """To the service, which asks for the chunks itself; `asked` gets a number for each."""

    def parts() -> Iterator[pb.SubmitOpeningRequest]:
        yield pb.SubmitOpeningRequest(signed_opening_json=opening.to_bytes())
        for number in range(10):
            asked.append(number)
            yield pb.SubmitOpeningRequest(chunk=bytes(4))

    pem = closing.holder.identity.pem.encode()
    context: Any = SimpleNamespace(auth_context=lambda: {"x509_pem_cert": [pem]})
    Ckks(Directory("ckks", {closing.session.ctx: closing.session})).SubmitOpening(parts(), context)


def test_an_opening_is_looked_at_before_its_sums_are_taken(closing: Closing) -> None:
    asked = list[int]()

    def refused(kind: type[SecaggError], opening: SignedSumOpening) -> None:
        with pytest.raises(kind):
            hand_in(closing, opening, asked)
        assert asked == []

    good = closing.opening()
    refused(ProtocolViolation, closing.opening(set_digest="0" * 64))
    refused(ProtocolViolation, closing.opening(holder="0" * 64))
    refused(RoleViolation, closing.opening(by=closing.deployment.coordinator_files.signer))
    refused(SignatureInvalid, good.model_copy(update={"signature": "0" * 128}))
    closing.submit(good)
    refused(ConflictError, closing.opening(sums="0" * 64))
    hand_in(closing, good, asked)  # the same again changes nothing
    assert closing.advance(1)[0] == SessionState.RELEASED
    hand_in(closing, good, asked)
    assert asked == []


def test_no_sums_are_taken_of_a_session_that_ended_without_them(closing: Closing) -> None:
    opening, asked = closing.opening(), list[int]()
    closing.expire()
    with pytest.raises(SessionClosed):
        hand_in(closing, opening, asked)
    assert asked == []
