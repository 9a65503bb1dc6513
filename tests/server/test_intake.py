"""Uploads: resumed, repeated, refused (protocol.md §7.2)."""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from secagg.contributor import SealedUpload
from secagg.errors import (
    ConflictError,
    HashMismatch,
    MalformedError,
    NotReady,
    PolicyViolation,
    SessionClosed,
    SignatureInvalid,
    SizeLimitError,
    StorageError,
)
from secagg.merkle import root
from secagg_host.tls import MAX_CHUNK_BYTES
from secagg_protos.v1 import secagg_pb2 as pb
from secagg_server import blobs
from secagg_server.blobs import PART, WHOLE, UploadFiles
from tests.deployment import CHUNK, Deployment, Running, cut_stream, upload_messages


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    deployment = Deployment(tmp_path)
    with deployment.running() as server:
        server.approve()
        yield server


def resealed(running: Running, index: int, **changes: object) -> SealedUpload:
    """The client's upload with other signed fields."""
    deployment = running.deployment
    upload = deployment.uploads[index]
    statement = upload.signed.statement.model_copy(update=changes)
    return replace(upload, signed=deployment.client_files[index].signer.sign(statement))


def with_ciphertext(running: Running, index: int, ciphertext: np.ndarray) -> SealedUpload:
    blocks = root(memoryview(block) for block in ciphertext).hex()
    return replace(resealed(running, index, ciphertext_root=blocks), ciphertext=ciphertext)


def stored(running: Running, index: int) -> int:
    return running.session.files.stored(running.deployment.client_files[index].identity.fingerprint)


def test_a_cut_stream_resumes_where_it_stopped(running: Running) -> None:
    upload = running.deployment.uploads[0]
    cut_stream(running, 0, 3 * CHUNK)
    with running.client(0) as caller:
        assert caller.begin(upload).offset == 3 * CHUNK
        receipt = caller.send(upload, 3 * CHUNK)
        receipt.verify(running.deployment.coordinator_files.identity)
        assert receipt.statement.upload_root == upload.signed.statement.upload_root


def test_what_a_killed_server_left_unsynced_is_synced_before_a_receipt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the last chunk and its fsync: the client resumes at the end, and sends nothing that is written."""
    done, real, deployment = list[str](), os.fsync, Deployment(tmp_path)

    def recorded(descriptor: int) -> None:
        done.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        real(descriptor)

    with deployment.running(done.append) as server:
        server.approve()
        upload, client = deployment.uploads[0], deployment.client_files[0].identity.fingerprint
        with server.client(0) as caller:
            caller.enrol()
            caller.begin(upload)
            (server.session.files.folder / f"{client}{PART}").write_bytes(upload.ciphertext.tobytes())
            monkeypatch.setattr(os, "fsync", recorded)
            done.clear()
            assert caller.begin(upload).offset == upload.ciphertext.nbytes
            caller.send(upload, upload.ciphertext.nbytes)
    assert done.index(f"{client}{PART}") < done.index(deployment.descriptor.ctx) < done.index("upload-sealed")
    assert done.index("upload-sealed") < done.index("receipt-stored")


def test_every_protocol_seals_a_part_that_it_did_not_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`seal` is what sealed, masked and ckks sessions call before they sign for an upload."""
    done, real = list[str](), os.fsync

    def recorded(descriptor: int) -> None:
        done.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        real(descriptor)

    files = UploadFiles(tmp_path / "uploads")
    (files.folder / f"client{PART}").write_bytes(b"left by a killed server")
    monkeypatch.setattr(os, "fsync", recorded)
    files.seal("client")
    assert done == [f"client{PART}", "uploads"]
    assert files.path("client").name == f"client{WHOLE}"


def test_a_truncated_stream_keeps_what_came_and_says_how_much(running: Running) -> None:
    upload = running.deployment.uploads[0]
    with running.client(0) as caller:
        with pytest.raises(SizeLimitError, match=f"after {CHUNK} of {upload.ciphertext.nbytes} bytes"):
            caller.send(upload, 0, CHUNK)
        assert caller.begin(upload).offset == CHUNK
        caller.upload(upload)


def test_a_stream_from_another_offset_is_refused(running: Running) -> None:
    with running.client(0) as caller, pytest.raises(NotReady, match="0 are stored: ask again where to resume"):
        caller.send(running.deployment.uploads[0], CHUNK)


def test_the_same_upload_gets_the_same_receipt(running: Running) -> None:
    upload = running.deployment.uploads[0]
    with running.client(0) as caller:
        first = caller.upload(upload)
        running.deployment.clock.now += 60
        assert caller.begin(upload).signed_receipt_json == first.to_bytes()
        assert caller.send(upload, 0) == first
        assert caller.status().signed_receipt_json == first.to_bytes()


def test_the_same_upload_gets_its_receipt_after_the_close(running: Running) -> None:
    with running.client(0) as caller:
        first = caller.upload(running.deployment.uploads[0])
        running.deployment.clock.now = running.deployment.descriptor.upload_deadline + 1
        running.advance()
        assert caller.upload(running.deployment.uploads[0]) == first


def test_a_second_different_upload_is_refused(running: Running) -> None:
    other = with_ciphertext(running, 0, np.zeros_like(running.deployment.uploads[0].ciphertext))
    with running.client(0) as caller:
        receipt = caller.upload(running.deployment.uploads[0])
        for attempt in (caller.begin, lambda sealed: caller.send(sealed, 0)):
            with pytest.raises(ConflictError, match="another upload"):
                attempt(other)
        assert caller.upload(running.deployment.uploads[0]) == receipt


def test_a_newer_stream_takes_over(running: Running) -> None:
    """A client whose connection died need not wait until the server notices."""
    import threading

    upload, hold = running.deployment.uploads[0], threading.Event()

    def stuck() -> Iterator[object]:
        yield from upload_messages(upload, upload.ciphertext.tobytes()[:CHUNK], 0)
        hold.wait(90)

    with running.client(0) as old, running.client(0) as new:
        call = old.contribution.Upload.future(stuck(), timeout=120)
        while stored(running, 0) < CHUNK:
            assert not call.done()
        new.upload(upload)
        assert call.exception(timeout=60) is not None
        hold.set()


@pytest.mark.parametrize("size", [0, MAX_CHUNK_BYTES + 1])
def test_chunks_have_a_limit(running: Running, size: int) -> None:
    upload = running.deployment.uploads[0]
    messages = [*upload_messages(upload, b"", 0), pb.UploadRequest(chunk=bytes(size))]
    with running.client(0) as caller, pytest.raises(SizeLimitError, match="a chunk has"):
        caller.ask(caller.contribution.Upload, iter(messages))
    assert stored(running, 0) == 0


def test_an_oversize_stream_is_cut_off(running: Running) -> None:
    upload = running.deployment.uploads[0]
    with running.client(0) as caller, pytest.raises(SizeLimitError, match="longer than"):
        caller.ask(caller.contribution.Upload, upload_messages(upload, upload.ciphertext.tobytes() + b"x", 0, 50_000))
    assert stored(running, 0) <= upload.ciphertext.nbytes


def test_another_length_is_refused_before_a_byte_is_stored(running: Running) -> None:
    with running.client(0) as caller, pytest.raises(SizeLimitError, match="announces 10 bytes"):
        caller.begin(resealed(running, 0, ciphertext_bytes=10))


def test_bytes_that_were_not_signed_are_refused_and_discarded(running: Running) -> None:
    upload = running.deployment.uploads[0]
    flipped = upload.ciphertext.copy()
    flipped[0, 0] ^= 1
    with running.client(0) as caller:
        with pytest.raises(HashMismatch, match="root that the client signed"):
            caller.send(replace(upload, ciphertext=flipped), 0)
        assert stored(running, 0) == 0
        caller.upload(upload)


def test_residues_out_of_range_are_refused(running: Running) -> None:
    bad = running.deployment.uploads[0].ciphertext.copy()
    bad[1, :4] = 255
    with running.client(0) as caller:
        with pytest.raises(MalformedError, match="not below their prime"):
            caller.upload(with_ciphertext(running, 0, bad))
        caller.upload(running.deployment.uploads[0])


def test_boxes_must_be_the_signed_ones(running: Running) -> None:
    upload = running.deployment.uploads[0]
    flipped = (bytes([upload.boxes[0][0] ^ 1]) + upload.boxes[0][1:], *upload.boxes[1:])
    with running.client(0) as caller:
        with pytest.raises(HashMismatch, match="boxes"):
            caller.send(replace(upload, boxes=flipped), 0)
        with pytest.raises(SizeLimitError, match="4 boxes"):
            caller.send(replace(upload, boxes=upload.boxes[:3]), 0)
        with pytest.raises(SizeLimitError, match="4 boxes"):
            caller.send(replace(upload, boxes=(upload.boxes[0] + b"x", *upload.boxes[1:])), 0)


def test_anothers_signed_upload_is_refused(running: Running) -> None:
    with running.client(1) as caller, pytest.raises(SignatureInvalid):
        caller.begin(running.deployment.uploads[0])


def test_a_weaker_privacy_than_agreed_is_refused(running: Running) -> None:
    privacy = running.deployment.uploads[0].signed.statement.privacy
    for change in ({"epsilon": 9.0}, {"epsilon": None}, {"delta": 1e-3}, {"noise": "seeded"}):
        weak = resealed(running, 0, privacy=privacy.model_copy(update=change))
        with running.client(0) as caller, pytest.raises(PolicyViolation):
            caller.begin(weak)


def test_another_unit_of_privacy_than_agreed_is_refused(running: Running) -> None:
    """Users would be the better guarantee, but not what release and certificate say of all."""
    privacy = running.deployment.uploads[0].signed.statement.privacy
    other = resealed(running, 0, privacy=privacy.model_copy(update={"unit": "user", "records_per_user": 3}))
    said = "states the unit of privacy user, at most 3 records of each; the session agreed on record"
    with running.client(0) as caller, pytest.raises(PolicyViolation, match=said):
        caller.begin(other)


def test_garbage_is_malformed(running: Running) -> None:
    with running.client(0) as caller:
        for raw in (b"", b"\xff\x00", b"{}", b"[" * 5000):
            with pytest.raises(MalformedError):
                caller.ask(caller.contribution.BeginUpload, pb.BeginUploadRequest(signed_upload_json=raw))
        with pytest.raises(MalformedError, match="begins with its header"):
            caller.ask(caller.contribution.Upload, iter([pb.UploadRequest(chunk=b"x")]))
        header = list(upload_messages(running.deployment.uploads[0], b"", 0))
        with pytest.raises(MalformedError, match="chunks only"):
            caller.ask(caller.contribution.Upload, iter(header * 2))


def test_what_a_killed_process_had_half_written_goes_at_the_next_start_and_at_expiry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL before a client's boxes, or a ckks session's sums, have their name (protocol.md §7.4)."""
    deployment = Deployment(tmp_path)

    def killed(path: Path, *_: object) -> None:
        path.with_name(f".{path.name}.0123456789ab.tmp").write_bytes(b"boxes")
        raise StorageError("killed")

    def left(running: Running) -> list[Path]:
        return list(running.session.files.folder.glob(".*.tmp"))

    for end in (None, Running.expire):
        with deployment.running() as running, running.client(0) as caller:
            assert left(running) == []
            running.approve()
            caller.enrol()
            with monkeypatch.context() as patch:
                patch.setattr(blobs, "write_synced", killed)
                with pytest.raises(StorageError):
                    caller.upload(deployment.uploads[0])
            assert len(left(running)) == 1
            if end:
                end(running)
                assert list(running.session.files.folder.iterdir()) == []


def test_nothing_is_taken_after_the_deadline(running: Running) -> None:
    upload = running.deployment.uploads[0]
    with running.client(0) as caller:
        cut_stream(running, 0, CHUNK)
        running.deployment.clock.now = running.deployment.descriptor.upload_deadline + 1
        with pytest.raises(SessionClosed, match="deadline"):
            caller.begin(upload)
        with pytest.raises(SessionClosed, match="deadline"):
            caller.send(upload, CHUNK)
        with pytest.raises(SessionClosed, match="deadline"):
            caller.enrol()


def test_nothing_is_taken_after_the_set_is_fixed(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, close_at=3)
    with deployment.running() as running:
        running.approve()
        running.upload_all(3)
        running.advance()
        with running.client(3) as caller, pytest.raises(SessionClosed, match="set of uploads is fixed"):
            caller.upload(deployment.uploads[3])


def test_a_full_disk_is_said_and_loses_nothing(running: Running) -> None:
    upload, client = running.deployment.uploads[0], running.deployment.client_files[0].identity.fingerprint
    with running.client(0) as caller:
        caller.begin(upload)
        part = running.session.files.folder / f"{client}{PART}"
        part.symlink_to("/dev/full")  # every write there fails with ENOSPC
        for _ in range(2):
            with pytest.raises(StorageError, match="disk is full"):
                caller.send(upload, 0)
        part.unlink()
        caller.upload(upload)
    lines = (running.deployment.folder / "state" / "events.jsonl").read_text().splitlines()
    told = [event for event in map(json.loads, lines) if event["event"] == "storage"]
    assert ["disk is full" in event["reason"] for event in told] == [True], "the operator hears of it, once"


def test_a_whole_upload_without_a_receipt_is_taken_from_its_end(running: Running) -> None:
    """The server was killed between the last byte and the receipt; nothing is sent again, nothing is lost."""
    upload, client = running.deployment.uploads[0], running.deployment.client_files[0].identity.fingerprint
    with running.client(0) as caller:
        caller.begin(upload)
        with running.session.files.writer(client) as writer:
            writer.append(upload.ciphertext.tobytes())
        running.session.files.seal(client)
        assert caller.begin(upload).offset == upload.ciphertext.nbytes
        caller.send(upload, upload.ciphertext.nbytes)
    kept = b"".join(running.session.files.blocks(client, 1 << 20))
    assert kept == upload.ciphertext.tobytes()


def test_an_open_session_says_what_it_waits_for(tmp_path: Path) -> None:
    """Clients see it in their logs while others still train."""
    deployment = Deployment(tmp_path, close_at=4)
    with deployment.running() as running:
        running.approve()
        running.upload_all(2)
        until = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(deployment.descriptor.upload_deadline))
        with running.client(0) as client:
            assert client.status().reason == f"2 uploads have come, and are taken until {until}; it closes with 4"
        running.session.close_at = None
        assert running.session.status()[1].endswith("at least 3 are needed")
