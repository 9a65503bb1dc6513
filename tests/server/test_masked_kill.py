"""`kill -9` to the coordinator at every durable step of one masked session; a restart goes on every time.

The clients know nothing of it: they try again when it does not answer. What was acknowledged is never lost.
"""

import signal
import sqlite3
import threading
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import load

from secagg.certificate import ADAPTER
from secagg.masked.verify import verify_masked
from secagg_server.blobs import UploadFiles
from tests.driving import PATIENCE_SECONDS, await_end
from tests.masked_deployment import MaskedDeployment, everybody
from tests.server.test_kill import Server
from tests.study import free_port

STEPS = (
    "advertise-stored", "advertise-closed", "share-stored", "share-closed", "chunk-stored", "upload-sealed",
    "receipt-stored", "upload-closed", "endorse-stored", "endorse-closed", "unmask-stored", "sum-opened",
    "release-fixed", "release-built", "release-written", "state-released",
)  # fmt: skip


def test_killed_at_every_step_in_one_session(tmp_path: Path) -> None:
    deployment = MaskedDeployment(tmp_path, round_seconds=600)
    address = f"127.0.0.1:{free_port()}"
    config = deployment.write_config(address)
    participants = everybody(deployment, {1: "shared"})
    deployment.changes[1][:] = np.nan  # of one that is gone, nothing may come in
    gone = participants.pop(1)
    deaths = list[str]()
    threads = [threading.Thread(target=one.take_part, args=(address,)) for one in participants]
    for thread in threads:
        thread.start()
    # The fifth client vanishes after it has shared; the round of uploads then waits for it until its time is up.
    leaver = threading.Thread(target=gone.take_part, args=(address,))
    leaver.start()
    for step in STEPS:
        if step == "upload-closed":
            calm = Server(config, None)
            wait_for_uploads(deployment, 4)
            assert calm.stop() == 0
        # Who is there answers at once; the round of uploads waits for the one that is gone, for 600 seconds.
        server = Server(config, step, speed=1000.0 if step == "upload-closed" else 1.0)
        code = server.process.wait(PATIENCE_SECONDS)
        assert server.process.stdout is not None
        server.process.stdout.close()
        server.errors.close()
        assert code == -signal.SIGKILL, f"the server ended with {code} before {step}"
        deaths.append(step)
    server = Server(config, None)
    for thread in (*threads, leaver):
        await_end(thread)
    assert server.stop() == 0
    assert tuple(deaths) == STEPS
    assert [one.error for one in participants] == [None] * 4
    files = UploadFiles(tmp_path / "state" / "uploads" / deployment.descriptor.ctx)
    content = {path.name: path.read_bytes() for path in (tmp_path / "release").iterdir()}
    assert verify_masked(content, deployment.policy, files.blocks).linked
    stayed = [deployment.changes[one.index] for one in participants]
    assert np.abs(load(content[ADAPTER])["a.lora_B.weight"] - np.mean(stayed, axis=0)).max() < 0.5 / 2**15


def wait_for_uploads(deployment: MaskedDeployment, count: int) -> None:
    end, have = time.monotonic() + PATIENCE_SECONDS, 0
    while have < count:
        assert time.monotonic() < end, f"{have} uploads came"
        time.sleep(0.05)
        with sqlite3.connect(deployment.folder / "state" / "coordinator.sqlite") as db:
            (have,) = db.execute("SELECT count(*) FROM masked_messages WHERE step = 'upload'").fetchone()
