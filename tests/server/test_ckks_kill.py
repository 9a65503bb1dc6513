"""`kill -9` of each party of a ckks session at every durable step, in one session each; a restart goes on every time.

Real processes, real TLS (protocol.md §13.3 to §13.6).
"""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
from safetensors.numpy import load

from secagg.certificate import ADAPTER, OPENING
from secagg.ckks.client import seal_ckks
from secagg.ckks.verify import verify_ckks
from secagg.privacy import stated
from secagg_client.ckks_calls import CkksCalls
from secagg_host.tls import channel
from secagg_server.blobs import UploadFiles
from secagg_server.database import SessionState
from tests.ckks_deployment import CkksDeployment, Participant
from tests.driving import PATIENCE_SECONDS, await_end
from tests.server.test_kill import Server
from tests.study import free_port

SCRIPT = Path(__file__).parents[1] / "ckks_deployment.py"
SERVER_STEPS = (
    "approve-stored", "state-open", "upload-announced", "chunk-stored", "upload-sealed", "receipt-stored",
    "upload-closed", "open-stored", "release-fixed", "release-built", "release-written", "state-released",
)  # fmt: skip
HOLDER_STEPS = ("approved", "approval-sent", "set-fetched", "spooled", "decrypted", "submitted", "erased")
CLIENT_STEPS = (
    "accepted", "enrolled", "charged", "trained", "spooled", "marked", "cleared", "receipt", "release", "ended",
)  # fmt: skip


def party(deployment: CkksDeployment, address: str, who: str, step: str = "") -> subprocess.Popen[bytes]:
    """A client or the key-holder as a process, perhaps with a step at which it dies."""
    command = [sys.executable, str(SCRIPT), str(deployment.folder), address, who, *([step] if step else [])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def ended(process: subprocess.Popen[bytes]) -> int:
    """Its exit code; what it said is shown when it failed by itself."""
    _, said = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode in {0, -signal.SIGKILL}, said.decode()
    return process.returncode


def check_release(deployment: CkksDeployment, members: int) -> dict[str, bytes]:
    """The release verifies with the stored uploads, and is the mean of the first `members` clients."""
    content = {path.name: path.read_bytes() for path in (deployment.folder / "release").iterdir()}
    files = UploadFiles(deployment.folder / "state" / "uploads" / deployment.descriptor.ctx)
    report = verify_ckks(content, deployment.policy, files.blocks)
    assert report.linked
    assert len(report.certificate.members) == members
    mean = np.mean(deployment.changes[:members], axis=0)
    assert np.abs(load(content[ADAPTER])["a.lora_B.weight"] - mean).max() < 0.5 / 2**14
    return content


def test_the_coordinator_killed_at_every_step_in_one_session(tmp_path: Path) -> None:
    deployment = CkksDeployment(tmp_path, clients=3)
    address = f"127.0.0.1:{free_port()}"
    config = deployment.write_config(address)
    clients = [Participant(deployment, index) for index in range(3)]
    threads = [threading.Thread(target=one.take_part, args=(address,)) for one in clients]
    threads.append(threading.Thread(target=deployment.serve_key, args=(address,)))
    for thread in threads:
        thread.start()
    written: dict[str, bytes] = {}
    for step in SERVER_STEPS:
        server = Server(config, step)
        code = server.process.wait(PATIENCE_SECONDS)
        assert server.process.stdout is not None
        server.process.stdout.close()
        server.errors.close()
        assert code == -signal.SIGKILL, f"the server ended with {code} before {step}"
        if step == "release-written":
            written = {path.name: path.read_bytes() for path in (tmp_path / "release").iterdir()}
    server = Server(config, None)
    for thread in threads:
        await_end(thread)
    assert server.stop() == 0
    assert [one.error for one in clients] == [None] * 3
    assert check_release(deployment, 3) == written, "the release that was built again is the same, byte for byte"
    for one in clients:
        assert one.notes.count("trained") == one.notes.count("sealed") == 1
        assert {path.name: path.read_bytes() for path in (one.folder / "release").iterdir()} == written


def upload_all(deployment: CkksDeployment, address: str) -> None:
    """Three clients' uploads, in this process."""
    for index in range(3):
        files = deployment.client_files[index]
        privacy = stated(deployment.plan.training, "test")
        sealed = seal_ckks(deployment.descriptor, files.signer, deployment.changes[index], privacy, os.urandom)
        with channel(address, files) as line:
            CkksCalls(line).begin_upload(sealed.signed)
            CkksCalls(line).upload(sealed.signed, 0, [b"".join(sealed.blocks)])


def stored_opening(deployment: CkksDeployment) -> bytes | None:
    """The key-holder's word as the coordinator keeps it."""
    with sqlite3.connect(deployment.folder / "state" / "coordinator.sqlite") as db:
        row = db.execute("SELECT body FROM masked_messages WHERE step = 'open'").fetchone()
    return None if row is None else bytes(row[0])


def test_the_key_holder_killed_at_every_step_in_one_session(tmp_path: Path) -> None:
    """Between fetching, decrypting, submitting: it answers one set, and each answer is the same bytes."""
    deployment = CkksDeployment(tmp_path, clients=3)
    keys, spool = tmp_path / "holder" / "keys", tmp_path / "holder" / "spool"
    words = list[bytes | None]()
    with deployment.serving() as (coordinator, address):
        served = next(iter(coordinator.ckks.values()))
        for step in HOLDER_STEPS:
            holder = party(deployment, address, "holder", step)
            if step == "approval-sent":
                assert ended(holder) == -signal.SIGKILL
                upload_all(deployment, address)
                continue
            assert ended(holder) == -signal.SIGKILL, step
            words.append(stored_opening(deployment))
            if step in {"spooled", "decrypted"}:
                assert served.status()[0] == SessionState.CLOSING, "nothing comes out before it is handed in"
        assert ended(party(deployment, address, "holder")) == 0, "started after the end it says how it ended"
        assert served.status() == (SessionState.RELEASED, "")
    assert words[:4] == [None] * 4
    assert words[4] == words[5] == stored_opening(deployment) is not None
    assert not list(keys.glob("*.key")), "the key is erased"
    assert not list(spool.glob("upload*")), "and no upload is left on its disk"
    check_release(deployment, 3)


def test_a_key_holder_killed_after_it_answered_gives_the_same_answer_again(tmp_path: Path) -> None:
    """Killed when its answer is out and before it heard of it: the same bytes are taken as the answer they are."""
    deployment = CkksDeployment(tmp_path, clients=3)
    ctx = deployment.descriptor.ctx
    with deployment.serving() as (coordinator, address):
        with channel(address, deployment.holder_files[0]) as line:
            CkksCalls(line).approve(deployment.holder().approve(deployment.signed, deployment.clock()))
        upload_all(deployment, address)
        assert ended(party(deployment, address, "holder", "submitted")) == -signal.SIGKILL
        first = stored_opening(deployment)
        assert ended(party(deployment, address, "holder", "submitted")) == -signal.SIGKILL
        assert stored_opening(deployment) == first is not None
        assert list((tmp_path / "holder" / "keys").glob("*.key")), "it was never told that the session is over"
        assert next(iter(coordinator.ckks.values())).ctx == ctx
        assert ended(party(deployment, address, "holder")) == 0
    content = check_release(deployment, 3)
    assert load(content[OPENING])["sums"].dtype == np.uint32


def test_a_client_killed_at_every_step_in_one_session(tmp_path: Path) -> None:
    """It trains once, seals once, and sends one upload; what the coordinator stored is what it spooled."""
    deployment = CkksDeployment(tmp_path, clients=3)
    with deployment.serving() as (_, address):
        others = [threading.Thread(target=Participant(deployment, i).take_part, args=(address,)) for i in (1, 2)]
        others.append(threading.Thread(target=deployment.serve_key, args=(address,)))
        for thread in others:
            thread.start()
        spools = list[dict[str, bytes]]()
        for step in CLIENT_STEPS:
            assert ended(party(deployment, address, "0", step)) == -signal.SIGKILL, step
            spools.append({path.name: path.read_bytes() for path in tmp_path.glob("homes/0/state/ckks/*/*/upload/*")})
        assert ended(party(deployment, address, "0")) == 0
        for thread in others:
            await_end(thread)
        stored = UploadFiles(tmp_path / "state" / "uploads" / deployment.descriptor.ctx)
        mine = b"".join(stored.blocks(deployment.client_files[0].identity.fingerprint, 1 << 20))
    kept = [spool for spool in spools if spool]
    assert len(kept) == len(CLIENT_STEPS) - CLIENT_STEPS.index("spooled")
    assert all(spool == kept[0] for spool in kept)
    assert kept[0]["ciphertext.bin"] == mine
    notes = Participant(deployment, 0).notes
    assert notes.count("trained") == notes.count("sealed") == 1
    check_release(deployment, 3)
