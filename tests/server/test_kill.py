"""`kill -9` at every durable step, one after the other in one session; a restart goes on every time.

The parties know nothing of it: they try again when the coordinator does not answer.
"""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from secagg.accumulate import Accumulator
from secagg.certificate import ADAPTER, CERTIFICATE
from secagg.coordinator import mean_change, open_with_shares
from secagg.errors import SessionError, TransportError
from secagg.messages import SignedReceipt
from secagg.release import save_adapter
from secagg.verify import verify_release
from secagg_protos.v1 import secagg_pb2 as pb
from secagg_server.blobs import UploadFiles
from secagg_server.database import Store
from secagg_server.storage import SessionStore
from tests.deployment import Caller, Deployment
from tests.driving import PATIENCE_SECONDS
from tests.server.test_release import anchors
from tests.study import free_port

STEPS = (
    "approval-stored", "state-open", "upload-announced", "chunk-stored", "upload-sealed", "receipt-stored",
    "candidate-fixed", "candidate-endorsed", "degree-answered", "final-fixed", "final-endorsed", "share-stored",
    "sum-opened", "release-fixed", "release-built", "release-written", "state-released",
)  # fmt: skip
RUNNER = Path(__file__).with_name("killed_server.py")


class Server:
    """A server process, perhaps with a step at which it dies; its waits for who is silent may go by `speed` times."""

    def __init__(self, config: Path, step: str | None, speed: float = 1.0) -> None:
        command = [sys.executable, str(RUNNER), str(config), *([step, str(speed)] if step else [])]
        self.errors = config.with_name("stderr.log").open("ab")
        path = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}  # the code under test, not what is installed
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.errors, text=True, env=path)
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if json.loads(line)["event"] == "listening":
                break

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def ending(self) -> None:
        """Wait a while for its end, after it did not answer. A busy machine may not have let it answer: it goes on."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(10)

    def stop(self) -> int:
        """End it if it runs; its exit code."""
        self.process.terminate()
        code = self.process.wait(PATIENCE_SECONDS)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.errors.close()
        return code


def play_round(deployment: Deployment, address: str, receipts: dict[str, SignedReceipt]) -> None:
    """Every party does what it can at this moment. Raises TransportError when the server is gone."""
    now = int(time.time())
    for files, holder in zip(deployment.holder_files, deployment.committee, strict=True):
        with Caller(address, files) as caller:
            with suppress(SessionError):  # the session may be further on than approvals
                caller.approve(holder, now)
            caller.work_once(holder, now)
    for files, sealed in zip(deployment.client_files, deployment.uploads, strict=True):
        with Caller(address, files) as caller:
            try:
                caller.enrol()
                receipt = caller.upload(sealed)
            except SessionError:
                continue  # not approved yet, or closed
            assert receipts.setdefault(files.identity.fingerprint, receipt) == receipt


def play(deployment: Deployment, server: Server, address: str, receipts: dict[str, SignedReceipt]) -> None:
    """Go on until the server dies or has released."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while server.alive and time.monotonic() < deadline:
        try:
            play_round(deployment, address, receipts)
            with Caller(address, deployment.client_files[0]) as caller:
                if caller.status().state == pb.SESSION_STATE_RELEASED:
                    return
        except TransportError:
            server.ending()


def test_killed_at_every_step_the_release_is_the_same(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, close_at=4)
    assert deployment.uploads
    port, receipts = free_port(), dict[str, SignedReceipt]()
    config, address = deployment.write_config(f"127.0.0.1:{port}"), f"127.0.0.1:{port}"
    written: dict[str, bytes] = {}
    for step in STEPS:
        server = Server(config, step)
        play(deployment, server, address, receipts)
        assert server.stop() == -signal.SIGKILL, f"the server did not come to step {step}"
        if step == "release-written":
            written = {path.name: path.read_bytes() for path in (tmp_path / "release").iterdir()}
            assert CERTIFICATE in written
    server = Server(config, None)
    play(deployment, server, address, receipts)
    with Caller(address, deployment.client_files[0]) as caller:
        release = caller.release()
    assert server.stop() == 0
    assert release == written, "the release that was built again is the same, byte for byte"
    uploads = UploadFiles(tmp_path / "state" / "uploads" / deployment.descriptor.ctx)
    report = verify_release(release, anchors(deployment), uploads.blocks)
    assert len(report.certificate.final.statement.members) == 4
    assert {receipt.statement.client for receipt in receipts.values()} == set(deployment.descriptor.clients)
    assert release[ADAPTER] == plain_adapter(deployment), "and the adapter is that of a server nobody killed"


def plain_adapter(deployment: Deployment) -> bytes:
    """The adapter computed in one go from the clients' own uploads."""
    database = Store(deployment.folder / "state" / "coordinator.sqlite")
    store = SessionStore.of(database, deployment.proposal.descriptor)
    settlement = store.settlement()
    assert settlement is not None
    final = settlement.final.statement
    assert {m.client for m in final.members} == {u.signed.statement.client for u in deployment.uploads}
    total = Accumulator(deployment.descriptor.parameters)
    for upload in deployment.uploads:
        total.add(upload.ciphertext)
    opened = open_with_shares(deployment.descriptor, final, tuple(store.shares().values()), total)
    mean = mean_change(deployment.descriptor, final, opened.opening)
    return save_adapter(deployment.plan, mean, len(final.members))
