"""A client that is killed anywhere neither trains twice nor seals twice (protocol.md §5.4)."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from secagg.canonical import pretty_bytes
from secagg.messages import SignedUpload
from tests.client.runner import CountedTraining
from tests.deployment import Deployment, Running
from tests.driving import advancing, serving

SCRIPT = Path(__file__).with_name("runner.py")


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """An open session where everybody but the first client has uploaded."""
    deployment = Deployment(tmp_path / "hub", close_at=4)
    with deployment.running() as running, advancing(running):
        running.approve()
        for files, sealed in list(zip(deployment.client_files, deployment.uploads, strict=True))[1:]:
            with running.call(files) as caller:
                caller.upload(sealed)
        with serving(running, 0, 1, 2, 3):
            yield running


class Client:
    """The first client of a deployment, as processes."""

    def __init__(self, folder: Path, running: Running) -> None:
        self.folder, self.running = folder, running
        folder.mkdir()
        shutil.copytree(running.deployment.folder / "parties" / "client-1", folder / "identity")
        (folder / "policy.json").write_bytes(pretty_bytes(running.deployment.policy))

    def run(self, kill_at: str = "") -> int:
        command = [sys.executable, str(SCRIPT), str(self.folder), self.running.address]
        result = subprocess.run(
            [*command, str(self.folder / "policy.json"), kill_at],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, timeout=300, capture_output=True, check=False,
        )  # fmt: skip
        assert result.returncode in {0, -9}, result.stderr.decode()
        return result.returncode

    @property
    def notes(self) -> list[str]:
        return CountedTraining(self.folder / "book.txt").notes

    @property
    def spool(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.folder.glob("state/sessions/*/upload/*")}

    def check_whole(self) -> None:
        """The server holds what is in the spool, and nothing of the trained result is left."""
        fingerprint = self.running.deployment.client_files[0].identity.fingerprint
        stored = self.running.session.files
        assert b"".join(stored.blocks(fingerprint, 1 << 20)) == self.spool["ciphertext.bin"]
        receipt, signed = self.running.session.receipt(fingerprint), SignedUpload.parse(self.spool["upload.json"])
        assert receipt is not None
        assert receipt.statement.upload_root == signed.statement.upload_root
        assert not list(self.folder.glob("state/sessions/*/trained.enc"))
        assert (self.folder / "release" / "release.json").exists()


STEPS = (
    "accepted", "enrolled", "charged", "trained", "spooled", "marked", "cleared", "chunk-3", "receipt", "release",
    "ended",
)  # fmt: skip


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_a_step_and_started_again(running: Running, tmp_path: Path, step: str) -> None:
    client = Client(tmp_path / "client", running)
    assert client.run(step) == -9
    spool = client.spool
    assert client.run() == 0
    assert client.notes.count("trained") == 1
    assert client.notes.count("sealed") == 1
    assert not spool or client.spool == spool
    client.check_whole()


def test_killed_while_training_trains_anew_and_is_charged_again(running: Running, tmp_path: Path) -> None:
    """The first result never left the process; the ledger counts the attempt."""
    client = Client(tmp_path / "client", running)
    assert client.run("charged") == -9
    assert client.run() == 0
    assert client.notes.count("charged") == 2
    assert client.notes.count("trained") == 1


def test_killed_again_and_again_in_the_middle_of_writing(running: Running, tmp_path: Path) -> None:
    """Runs that die before their first, second, ... sync to disk; once there is a spool, it stays the same."""
    client = Client(tmp_path / "client", running)
    seen = list[dict[str, bytes]]()
    for sync in (1, 3, 4, 8, 11, 12):
        client.run(f"sync-{sync}")
        if client.spool:
            seen.append(client.spool)
    assert client.run() == 0
    assert all(spool == client.spool for spool in seen)
    client.check_whole()


def test_a_finished_session_is_not_joined_again(running: Running, tmp_path: Path) -> None:
    client = Client(tmp_path / "client", running)
    assert client.run() == 0
    before = client.notes
    assert client.run() == 0
    assert client.notes == before
