"""Uploading with a bad connection: the same bytes, resumed, until there is a receipt (protocol.md §7.2)."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import secagg_client.calls as calls
from secagg.agreed import Agreed
from secagg.errors import (
    LedgerError,
    ProtocolViolation,
    SessionClosed,
    SizeLimitError,
    StorageError,
    TransportError,
    UploadDropped,
)
from secagg.messages import SignedReceipt, SignedUpload
from secagg.receipts import Fate, judge_receipt
from secagg.verify import verify_release
from secagg_client.calls import ContributionCalls, PublicationCalls
from secagg_client.client_run import ClientRun
from secagg_client.ledger import Ledger
from secagg_client.patience import Patience
from secagg_host.events import EventLog
from secagg_host.tls import channel
from secagg_server.tables import UploadRow
from tests.client.ledgers import ONCE, new_ledger, quick
from tests.client.runner import SMALL_CHUNK, CountedTraining, make_run
from tests.deployment import HOUR, Deployment, Running


class Flaky:
    """The real calls, on a line that breaks after `good` chunks in each of the first `breaks` attempts."""

    def __init__(self, inner: ContributionCalls, breaks: int, good: int) -> None:
        self.inner, self.breaks, self.good = inner, breaks, good
        self.sent = list[tuple[int, bytes]]()
        self.announced = list[bytes]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def begin_upload(self, upload: SignedUpload) -> int | SignedReceipt:
        self.announced.append(upload.to_bytes())
        return self.inner.begin_upload(upload)

    def upload(
        self, upload: SignedUpload, boxes: tuple[bytes, ...], offset: int, chunks: Iterator[bytes | memoryview]
    ) -> SignedReceipt:
        self.breaks -= 1
        sent = bytearray()

        def counted() -> Iterator[bytes | memoryview]:
            for number, chunk in enumerate(chunks):
                if self.breaks >= 0 and number == self.good:
                    return
                sent.extend(chunk)
                yield chunk

        try:
            return self.inner.upload(upload, boxes, offset, counted())
        except Exception as error:
            raise TransportError("the line broke") from error
        finally:
            self.sent.append((offset, bytes(sent)))


class Repeating(Flaky):
    """Loses the answer of the first whole upload: the receipt never arrives."""

    def upload(self, *args: Any) -> SignedReceipt:
        receipt = self.inner.upload(*args)
        self.sent.append((args[2], b""))
        if len(self.sent) == 1:
            raise TransportError(f"lost the receipt {receipt.signature[:8]}")
        return receipt


class Overtaken(Flaky):
    """After the first answer of where to begin, the network brings an earlier stream late, and cuts it again."""

    def begin_upload(self, upload: SignedUpload) -> int | SignedReceipt:
        answer = super().begin_upload(upload)
        self.asked = (upload, answer) if len(self.announced) == 1 else None
        return answer

    def upload(
        self, upload: SignedUpload, boxes: tuple[bytes, ...], offset: int, chunks: Iterator[bytes | memoryview]
    ) -> SignedReceipt:
        if self.asked is None:
            return super().upload(upload, boxes, offset, chunks)
        whole = list(chunks)
        with pytest.raises(SizeLimitError, match="the stream ended after"):
            self.inner.upload(upload, boxes, offset, iter(whole[:2]))
        return self.inner.upload(upload, boxes, offset, iter(whole))


class WrongReceipt(Flaky):
    """Answers with another client's receipt."""

    def __init__(self, inner: ContributionCalls, receipt: SignedReceipt) -> None:
        super().__init__(inner, 0, 0)
        self.receipt = receipt

    def begin_upload(self, upload: SignedUpload) -> int | SignedReceipt:
        return self.receipt


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    monkeypatch.setattr(calls, "MAX_CHUNK_BYTES", SMALL_CHUNK)
    with Deployment(tmp_path / "hub").running() as running:
        running.approve()
        yield running


@pytest.fixture
def line(running: Running) -> Iterator[Any]:
    with channel(running.address, running.deployment.client_files[0]) as line:
        yield line


def client(running: Running, line: Any, folder: Path, contribution: Any) -> ClientRun:
    deployment = running.deployment
    return make_run(folder, deployment.client_files[0], deployment.policy, contribution, PublicationCalls(line))


def spooled(folder: Path) -> bytes:
    (path,) = folder.glob("state/sessions/*/upload/ciphertext.bin")
    return path.read_bytes()


def test_a_broken_upload_resumes_and_every_attempt_sends_the_same_bytes(
    running: Running, line: Any, tmp_path: Path
) -> None:
    flaky = Flaky(ContributionCalls(line), breaks=2, good=2)
    client(running, line, tmp_path, flaky).run(wait_for_release=False)
    content = spooled(tmp_path)
    assert [offset for offset, _ in flaky.sent] == [0, 2 * SMALL_CHUNK, 4 * SMALL_CHUNK]
    assert b"".join(data for _, data in flaky.sent) == content
    assert all(content[offset : offset + len(data)] == data for offset, data in flaky.sent)
    assert len(set(flaky.announced)) == 1


def test_a_lost_receipt_is_asked_for_again_without_sending_twice(running: Running, line: Any, tmp_path: Path) -> None:
    repeating = Repeating(ContributionCalls(line), 0, 0)
    client(running, line, tmp_path, repeating).run(wait_for_release=False)
    assert len(repeating.sent) == 1
    (receipt,) = tmp_path.glob("state/sessions/*/receipt.json")
    stored = running.session.receipt(running.deployment.client_files[0].identity.fingerprint)
    assert stored is not None
    assert receipt.read_bytes() == stored.to_bytes()


def test_a_stream_that_comes_late_costs_another_question_and_no_more(
    running: Running, line: Any, tmp_path: Path
) -> None:
    overtaken = Overtaken(ContributionCalls(line), 0, 0)
    client(running, line, tmp_path, overtaken).run(wait_for_release=False)
    (receipt,) = tmp_path.glob("state/sessions/*/receipt.json")
    stored = running.session.receipt(running.deployment.client_files[0].identity.fingerprint)
    assert stored is not None
    assert receipt.read_bytes() == stored.to_bytes()
    ((resumed, _),) = overtaken.sent
    assert resumed == 2 * SMALL_CHUNK, "what the late one brought is not sent again"


def test_a_receipt_for_another_upload_is_not_taken(running: Running, line: Any, tmp_path: Path) -> None:
    with running.client(1) as caller:
        foreign = caller.upload(running.deployment.uploads[1])
    with pytest.raises(ProtocolViolation, match="another session, client or upload"):
        client(running, line, tmp_path, WrongReceipt(ContributionCalls(line), foreign)).run(wait_for_release=False)
    assert not list(tmp_path.glob("state/sessions/*/receipt.json"))


def test_a_receipt_dated_ahead_is_not_taken(running: Running, line: Any, tmp_path: Path) -> None:
    """It would pass for an upload that came after a set was fixed (protocol.md §10.4)."""

    class PostDated(Flaky):
        def upload(self, upload: Any, boxes: Any, offset: int, chunks: Any) -> SignedReceipt:
            receipt = super().upload(upload, boxes, offset, chunks).statement
            later = receipt.model_copy(update={"received_at": running.deployment.clock() + HOUR})
            return running.deployment.coordinator_files.signer.sign(later)

    with pytest.raises(ProtocolViolation, match="ahead of this clock"):
        client(running, line, tmp_path, PostDated(ContributionCalls(line), 0, 0)).run(wait_for_release=False)
    assert not list(tmp_path.glob("state/sessions/*/receipt.json"))


def test_a_damaged_spool_is_never_sent(running: Running, line: Any, tmp_path: Path) -> None:
    def spoil(step: str) -> None:
        if step == "spooled":
            (path,) = tmp_path.glob("state/sessions/*/upload/ciphertext.bin")
            path.write_bytes(b"\x00" * path.stat().st_size)

    flaky = Flaky(ContributionCalls(line), 0, 0)
    deployment = running.deployment
    run = make_run(
        tmp_path, deployment.client_files[0], deployment.policy, flaky, PublicationCalls(line), checkpoint=spoil
    )
    with pytest.raises(StorageError, match="not what was signed"):
        run.run(wait_for_release=False)
    assert not flaky.sent


@dataclass(frozen=True)
class Booked(CountedTraining):
    """With the institution's real ledger where a result is about to leave."""

    ledger: Ledger

    def mark_sealed(self, descriptor: Agreed, upload_root: str) -> None:
        self.ledger.mark_sealed(descriptor.ctx, upload_root)


def test_an_upload_of_an_earlier_attempt_never_leaves(running: Running, line: Any, tmp_path: Path) -> None:
    """The client's state is put back from a copy that was made before a later attempt was sent."""
    deployment, ledger = running.deployment, new_ledger(tmp_path / "book")
    training = Booked(tmp_path / "book.txt", ledger)
    sessions, copy = tmp_path / "state" / "sessions", tmp_path / "copy"

    def stop(step: str) -> None:
        if step == "spooled":
            raise KeyboardInterrupt

    def run(contribution: Any, **more: Any) -> None:
        made = make_run(
            tmp_path, deployment.client_files[0], deployment.policy, contribution, PublicationCalls(line),
            training=training, **more,
        )  # fmt: skip
        made.run(wait_for_release=False)

    ledger.begin(quick(deployment.descriptor.ctx, 1), ONCE)
    with pytest.raises(KeyboardInterrupt):
        run(ContributionCalls(line), checkpoint=stop)
    sessions.rename(copy)
    run(ContributionCalls(line))
    shutil.rmtree(sessions)
    copy.rename(sessions)
    flaky = Flaky(ContributionCalls(line), 0, 0)
    with pytest.raises(LedgerError, match="this one must not leave"):
        run(flaky)
    assert not flaky.announced


def test_a_closed_session_ends_the_run_and_leaves_nothing_trained(running: Running, line: Any, tmp_path: Path) -> None:
    """The deadline passes while the client trains: nothing was sent, and the ledger is told."""
    clock = running.deployment.clock

    def wait(step: str) -> None:
        if step == "trained":
            clock.now += 2 * HOUR

    deployment = running.deployment
    patience = Patience(EventLog(), clock=lambda: float(clock()))
    run = make_run(
        tmp_path, deployment.client_files[0], deployment.policy, ContributionCalls(line), PublicationCalls(line),
        checkpoint=wait, patience=patience,
    )  # fmt: skip
    with pytest.raises(SessionClosed, match="nothing is spent"):
        run.run()
    assert CountedTraining(tmp_path / "book.txt").notes == ["prepared", "charged", "trained", "abandoned"]
    assert not list(tmp_path.glob("state/sessions/*/trained.enc"))
    assert not list(tmp_path.glob("state/sessions/*/upload"))


def test_without_waiting_the_run_ends_with_the_receipt_and_later_fetches_the_release(
    running: Running, line: Any, tmp_path: Path
) -> None:
    deployment = running.deployment
    run = client(running, line, tmp_path, ContributionCalls(line))
    run.run(wait_for_release=False)
    run.run(wait_for_release=False)
    assert CountedTraining(tmp_path / "book.txt").notes.count("trained") == 1
    for files, sealed in list(zip(deployment.client_files, deployment.uploads, strict=True))[1:]:
        with running.call(files) as caller:
            caller.upload(sealed)
    deployment.clock.now += HOUR + 1
    running.work()
    run.run()
    assert (tmp_path / "release" / "release.json").read_bytes() == (
        deployment.folder / "release" / "release.json"
    ).read_bytes()
    with channel(running.address, deployment.client_files[0]) as again:
        client(running, again, tmp_path, ContributionCalls(again)).run()
    assert CountedTraining(tmp_path / "book.txt").notes.count("measured") == 1


def test_a_client_whose_upload_was_dropped_says_so_and_keeps_the_proof(
    running: Running, line: Any, tmp_path: Path
) -> None:
    """The coordinator gave a receipt, and closed the session as if there were no such upload (protocol.md §10.4)."""
    deployment, run = running.deployment, client(running, line, tmp_path, ContributionCalls(line))
    run.run(wait_for_release=False)
    own = deployment.client_files[0].identity.fingerprint
    with running.coordinator.store.write() as db:
        db.delete(db.get(UploadRow, (deployment.descriptor.ctx, own)))
    for files, sealed in list(zip(deployment.client_files, deployment.uploads, strict=True))[1:]:
        with running.call(files) as caller:
            caller.upload(sealed)
    deployment.clock.now += HOUR + 1
    running.work()
    for _ in range(2):  # and again, whenever it is started
        with pytest.raises(UploadDropped, match=r"prove it to anybody: the receipt is .*, the certificate is in "):
            run.run()
    (receipt,) = tmp_path.glob("state/sessions/*/receipt.json")
    content = {path.name: path.read_bytes() for path in (tmp_path / "release").iterdir()}
    certificate = verify_release(content, deployment.policy).certificate
    assert judge_receipt(certificate, SignedReceipt.parse(receipt.read_bytes())).fate is Fate.DROPPED
    assert '"receipt": "dropped"' in (tmp_path / "state" / "events.jsonl").read_text()
