"""Streams of masked and ckks uploads: the newest of a client is taken, and the log stays small (protocol.md §7.2)."""

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from secagg.errors import NotReady, SecaggError, TransportError
from secagg.masked.messages import UploadMessage
from secagg.messages import SignedReceipt
from secagg_client.ckks_calls import CkksCalls
from secagg_client.masked_calls import MaskedCalls
from secagg_host.tls import channel
from secagg_server.blobs import PART as PART_NAME
from secagg_server.database import SessionState
from tests.ckks_deployment import CkksDeployment
from tests.driving import await_end
from tests.masked_deployment import MaskedDeployment, everybody
from tests.server.test_ckks_refusal import approve, honest
from tests.server.test_masked_server import check, play_with

PART = 1000
Chunks = Iterable[bytes | memoryview]
Send = Callable[[int, Chunks], SignedReceipt]


def events(folder: Path, name: str) -> list[dict[str, object]]:
    """What the coordinator's log has of this kind."""
    lines = (folder / "state" / "events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == name]


def overtake(
    send: Send, begin: Callable[[], int | SignedReceipt], stored: Callable[[], int], raw: bytes
) -> tuple[SignedReceipt, SecaggError]:
    """Bytes of a stream that was given up come while the next one runs; the receipt, and what the old one was told."""
    late, told = threading.Event(), list[SecaggError]()

    def old_chunks() -> Iterator[bytes]:
        yield raw[:PART]
        late.wait(60)
        yield raw[PART : 2 * PART]

    def old_stream() -> None:
        try:
            send(0, old_chunks())
        except SecaggError as error:
            told.append(error)

    def new_chunks() -> Iterator[bytes]:
        yield raw[PART : 3 * PART]
        late.set()
        await_end(thread)
        yield raw[3 * PART :]

    thread = threading.Thread(target=old_stream)
    thread.start()
    end = time.monotonic() + 60
    while stored() < PART:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert begin() == PART
    return send(PART, new_chunks()), told[0]


def test_late_bytes_of_a_ckks_stream_do_not_come_into_the_newer_one(tmp_path: Path) -> None:
    deployment = CkksDeployment(tmp_path, clients=3)
    files, sealed = deployment.client_files[0], honest(deployment, 0)
    with deployment.serving() as (coordinator, address), channel(address, files) as line:
        approve(deployment, address)
        calls, session = CkksCalls(line), coordinator.ckks[deployment.descriptor.ctx]
        assert calls.begin_upload(sealed.signed) == 0
        receipt, told = overtake(
            lambda offset, chunks: calls.upload(sealed.signed, offset, chunks),
            lambda: calls.begin_upload(sealed.signed),
            lambda: session.files.stored(files.identity.fingerprint),
            b"".join(sealed.blocks),
        )
    assert receipt.statement.upload_root == sealed.signed.statement.digest
    assert isinstance(told, NotReady | TransportError)
    assert events(tmp_path, "refused") == []


def test_late_bytes_of_a_masked_stream_do_not_come_into_the_newer_one(tmp_path: Path) -> None:
    deployment, told = MaskedDeployment(tmp_path, round_seconds=600), list[SecaggError]()
    mine = tmp_path / "state" / "uploads" / deployment.descriptor.ctx
    mine /= f"{deployment.client_files[0].identity.fingerprint}{PART_NAME}"

    class Overtaken(MaskedCalls):
        def upload(self, message: UploadMessage, offset: int, chunks: Chunks) -> SignedReceipt:
            if told:  # once more, because it was refused
                return super().upload(message, offset, chunks)
            receipt, error = overtake(
                lambda offset, chunks: super(Overtaken, self).upload(message, offset, chunks),
                lambda: self.begin_upload(message.signed),
                lambda: mine.stat().st_size if mine.exists() else 0,
                b"".join(chunks),
            )
            told.append(error)
            return receipt

    participants = everybody(deployment)
    participants[0].calls = Overtaken
    _, state, _ = play_with(deployment, participants)
    assert state == SessionState.RELEASED
    assert [one.error for one in participants] == [None] * 5
    assert isinstance(told[0], NotReady | TransportError)
    assert events(tmp_path, "refused") == []
    check(deployment, participants, {0, 1, 2, 3, 4})


def test_a_stream_that_was_overtaken_stores_and_finishes_nothing(tmp_path: Path) -> None:
    """Also when it could not be cut."""
    deployment = CkksDeployment(tmp_path, clients=3)
    peer, sealed = deployment.client_files[0].identity, honest(deployment, 0)
    raw, total, cut = b"".join(sealed.blocks), sealed.signed.statement.bytes, list[str]()
    with deployment.serving() as (coordinator, address):
        approve(deployment, address)
        session = coordinator.ckks[deployment.descriptor.ctx]
        assert session.begin_upload(peer, sealed.signed) == 0
        with (
            session.stream(peer, total, 0, lambda: cut.append("old")) as old,
            session.stream(peer, total, 0, lambda: cut.append("new")) as new,
            session.files.writer(peer.fingerprint) as writer,
        ):
            with pytest.raises(NotReady, match="a newer stream of this client took over"):
                session.receive(old, b"late", writer)
            for at in range(0, total, 1 << 20):
                session.receive(new, raw[at : at + (1 << 20)], writer)
            with pytest.raises(NotReady, match="a newer stream of this client took over"):
                session.finish_upload(old, sealed.signed)
            session.finish_upload(new, sealed.signed)
        assert session.begin_upload(peer, sealed.signed) == session.receipt(peer.fingerprint)
    assert cut == ["old"], "and one that has ended is not cut"


def test_masked_chunks_of_one_byte_do_not_fill_the_log(tmp_path: Path) -> None:
    deployment, tiny = MaskedDeployment(tmp_path, round_seconds=600), 500

    class Tiny(MaskedCalls):
        def upload(self, message: UploadMessage, offset: int, chunks: Chunks) -> SignedReceipt:
            raw = b"".join(chunks)
            return super().upload(message, offset, [*(raw[at : at + 1] for at in range(tiny)), raw[tiny:]])

    participants = everybody(deployment)
    participants[0].calls = Tiny
    begun = time.monotonic()
    _, state, _ = play_with(deployment, participants)
    assert state == SessionState.RELEASED
    assert len(events(tmp_path, "bytes")) <= len(participants) * (2 + time.monotonic() - begun) < tiny
