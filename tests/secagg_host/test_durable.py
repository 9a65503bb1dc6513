"""Files that survive: atomic, write-once, private, locked."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from secagg.boxes import SessionKey
from secagg.errors import MalformedError, SessionClosed, StorageError
from secagg_host.durable import DurableJournal, FileKeyStore, FolderLock, make_folder, read_file, write_atomic
from secagg_host.events import EventLog

DIGEST = "ab" * 32


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_write_atomic_replaces_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert mode(path) == 0o600
    write_atomic(path, b"public", 0o644)
    assert mode(path) == 0o644
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_write_that_fails_keeps_the_old_file_and_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.mkdir()
    (target / "inside").write_text("kept")
    with pytest.raises(StorageError, match="file"):
        write_atomic(target, b"new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert (target / "inside").read_text() == "kept"


def test_errors_of_the_disk_have_reasons(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="does not exist"):
        read_file(tmp_path / "none")
    with pytest.raises(StorageError, match="does not exist"):
        write_atomic(tmp_path / "none" / "file", b"x")
    with pytest.raises(StorageError, match=r"file|directory"):
        make_folder(Path("/dev/null/folder"))


def test_the_journal_records_once(tmp_path: Path) -> None:
    journal = DurableJournal(tmp_path / "state" / "journal.sqlite")
    assert journal.get("a") is None
    assert journal.record("a", b"first") == b"first"
    assert journal.record("a", b"second") == b"first"
    assert journal.get("a") == b"first"
    journal.close()
    assert mode(tmp_path / "state" / "journal.sqlite") == 0o600
    again = DurableJournal(tmp_path / "state" / "journal.sqlite")
    assert again.get("a") == b"first"
    again.close()


def test_the_journal_is_on_the_disk_when_record_returns(tmp_path: Path) -> None:
    """A process that is killed right after `record` has recorded."""
    program = (
        "import os, signal, sys; from pathlib import Path\n"
        "from secagg_host.durable import DurableJournal\n"
        "DurableJournal(Path(sys.argv[1])).record('key', b'value'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = tmp_path / "journal.sqlite"
    killed = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    journal = DurableJournal(path)
    assert journal.get("key") == b"value"
    journal.close()


def test_a_damaged_journal_is_said(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    path.write_bytes(b"not a database, but long enough to be read as one" * 40)
    with pytest.raises(StorageError, match="not a database"):
        DurableJournal(path)


def test_keys_are_kept_privately_and_erased(tmp_path: Path) -> None:
    store, key = FileKeyStore(tmp_path / "keys"), SessionKey.generate()
    store.put(DIGEST, key)
    path = tmp_path / "keys" / f"{DIGEST}.key"
    assert mode(path) == 0o600
    assert mode(path.parent) == 0o700
    assert store.get(DIGEST).to_bytes() == key.to_bytes()
    link = tmp_path / "link"
    os.link(path, link)
    store.erase(DIGEST)
    assert link.read_bytes() != key.to_bytes(), "overwritten, not only unlinked"
    store.erase(DIGEST)
    with pytest.raises(SessionClosed, match="erased"):
        store.get(DIGEST)


def test_a_key_name_cannot_leave_the_folder(tmp_path: Path) -> None:
    with pytest.raises(MalformedError):
        FileKeyStore(tmp_path).get("../../etc/passwd")


def test_the_lock_names_its_holder_and_goes_with_it(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path\n"
        "from secagg_host.durable import FolderLock\n"
        "with FolderLock(Path(sys.argv[1])): print('locked', flush=True); time.sleep(60)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    holder.stdout.readline()
    with pytest.raises(StorageError, match=f"pid {holder.pid}"), FolderLock(tmp_path):
        pass
    holder.kill()
    holder.communicate()
    with FolderLock(tmp_path):
        assert (tmp_path / ".lock").read_text().strip() == str(os.getpid())


def test_a_partys_folders_and_its_log_are_its_own(tmp_path: Path) -> None:
    """The missing parents too: a key-holder's state is first made by way of a folder in it."""
    inner = make_folder(tmp_path / "state" / "keys" / "more")
    log = EventLog(tmp_path / "state" / "events.jsonl")
    log.emit("step", loss=0.5)
    log.close()
    for folder in (inner, inner.parent, inner.parent.parent):
        assert folder.stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "state" / "events.jsonl").stat().st_mode & 0o777 == 0o600
