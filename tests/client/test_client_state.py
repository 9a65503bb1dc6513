"""What a client keeps on its disk: the trained result encrypted, the upload whole (protocol.md §5.4)."""

import os
from pathlib import Path

import numpy as np
import pytest

from secagg.errors import StorageError
from secagg_client.client_state import ClientState, SessionFolder, SessionShelf, Trained
from secagg_client.folders import write_folder
from tests.small import Small

CTX, OTHER = "ab" * 32, "cd" * 32


@pytest.fixture(scope="module")
def small() -> Small:
    return Small()


def folder(small: Small, path: Path, name: str = "Hospital 1") -> SessionFolder:
    made = SessionFolder(path / "session", small.parties.clients[name], os.urandom)
    made.accept(small.session)
    return made


def trained(small: Small) -> Trained:
    return Trained(small.changes["Hospital 1"], small.statement)


def test_the_checkpoint_gives_back_what_was_trained(small: Small, tmp_path: Path) -> None:
    kept = folder(small, tmp_path)
    kept.keep_trained(CTX, trained(small))
    found = kept.trained(CTX)
    np.testing.assert_array_equal(found.change, small.changes["Hospital 1"])
    assert found.privacy == small.statement


def test_the_checkpoint_is_not_readable_on_the_disk(small: Small, tmp_path: Path) -> None:
    kept = folder(small, tmp_path)
    kept.keep_trained(CTX, trained(small))
    (path,) = tmp_path.rglob("trained.enc")
    raw, plain = path.read_bytes(), small.changes["Hospital 1"].tobytes()
    assert not any(plain[at : at + 16] in raw for at in range(0, 400, 4))
    assert b"accountant" not in raw
    kept.keep_trained(CTX, trained(small))
    assert path.read_bytes() != raw, "a fresh nonce each time"


def test_another_party_or_session_cannot_open_it(small: Small, tmp_path: Path) -> None:
    folder(small, tmp_path).keep_trained(CTX, trained(small))
    with pytest.raises(StorageError, match="another identity or for another session"):
        folder(small, tmp_path, "Hospital 2").trained(CTX)
    with pytest.raises(StorageError, match="another identity or for another session"):
        folder(small, tmp_path).trained(OTHER)


def test_an_altered_checkpoint_is_refused(small: Small, tmp_path: Path) -> None:
    kept = folder(small, tmp_path)
    kept.keep_trained(CTX, trained(small))
    (path,) = tmp_path.rglob("trained.enc")
    raw = path.read_bytes()
    path.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    with pytest.raises(StorageError, match="altered"):
        kept.trained(CTX)


def test_erasing_twice_is_as_good_as_once(small: Small, tmp_path: Path) -> None:
    kept = folder(small, tmp_path)
    kept.keep_trained(CTX, trained(small))
    kept.erase_trained()
    kept.erase_trained()
    assert not kept.state.trained


def test_the_spool_holds_the_upload_and_nothing_else(small: Small, tmp_path: Path) -> None:
    signer = small.parties.clients["Hospital 1"]
    mine = next(upload for upload in small.uploads if upload.signed.signer == signer.identity.fingerprint)
    kept = folder(small, tmp_path)
    kept.spool(mine)
    found = kept.upload(small.descriptor)
    assert (found.signed, found.boxes) == (mine.signed, mine.boxes)
    np.testing.assert_array_equal(found.ciphertext, mine.ciphertext)
    with pytest.raises(StorageError, match="exists"):
        kept.spool(mine)


def test_somebody_else_s_upload_is_no_spool_of_ours(small: Small, tmp_path: Path) -> None:
    signer = small.parties.clients["Hospital 1"]
    foreign = next(upload for upload in small.uploads if upload.signed.signer != signer.identity.fingerprint)
    kept = folder(small, tmp_path)
    kept.spool(foreign)
    with pytest.raises(StorageError, match="not what was signed"):
        kept.upload(small.descriptor)


def test_a_half_written_folder_is_started_over(tmp_path: Path) -> None:
    draft = tmp_path / ".upload.draft"
    draft.mkdir()
    (draft / "stale").write_bytes(b"half")
    write_folder(tmp_path / "upload", {"a": b"1", "b": b"2"})
    assert {path.name: path.read_bytes() for path in (tmp_path / "upload").iterdir()} == {"a": b"1", "b": b"2"}
    assert not draft.exists()


def test_unfinished_sessions(small: Small, tmp_path: Path) -> None:
    shelf = SessionShelf(tmp_path, small.parties.clients["Hospital 1"], os.urandom)
    assert shelf.of(CTX).state == ClientState()
    assert shelf.unfinished() == []
    kept = shelf.of(small.descriptor.ctx)
    kept.accept(small.session)
    ((descriptor, _),) = shelf.unfinished()
    assert descriptor == small.descriptor
    kept.end("closed", "for a reason")
    assert shelf.unfinished() == []
    assert kept.ended().reason == "for a reason"
