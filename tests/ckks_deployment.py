"""A ckks session between parties with folders of their own, in threads or as processes (protocol.md §13).

Also the script that the kill tests run: `python ckks_deployment.py FOLDER ADDRESS PARTY [STEP]`, where PARTY is a
client's index or `holder`; it kills itself with SIGKILL at the step.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secagg.canonical import pretty_bytes
from secagg.ckks.descriptor import CkksDescriptor, CkksSpec, SignedCkksDescriptor, create_ckks_session
from secagg.ckks.keyholder import CkksKeyHolder
from secagg.ckks.policy import CkksPolicy
from secagg.ckks.run import policy_for_ckks
from secagg.descriptor import RosterMember
from secagg.errors import SecaggError
from secagg.plan import Plan
from secagg.run import Parties
from secagg.signing import parse_model
from secagg_client.calls import PublicationCalls
from secagg_client.ckks_calls import CkksCalls
from secagg_client.ckks_keyholder import CkksHolderRun, FileContexts
from secagg_client.ckks_run import CkksClientRun
from secagg_client.ckks_spool import Spool
from secagg_client.client_state import CkksShelf
from secagg_client.patience import Patience
from secagg_host.durable import DurableJournal, write_atomic
from secagg_host.events import EventLog
from secagg_host.identity import PartyFiles, load_identity
from secagg_host.tls import channel
from secagg_server.server import Coordinator, listen
from secagg_server.session import Checkpoint, Host, no_checkpoint
from tests.client.runner import CountedTraining, nap
from tests.deployment import HOUR, Deployment
from tests.driving import await_end
from tests.masked_deployment import FixedTraining, Gone
from tests.small import changes, small_plan

DAY = 86_400


@dataclass
class CkksDeployment(Deployment):
    """Certificates, keys and configuration of one ckks session in a folder."""

    clients: int = 4
    holders: int = 1
    close_at: int | None = 3
    plan: Plan = field(default_factory=lambda: small_plan(10_000))

    @cached_property
    def policy(self) -> CkksPolicy:  # type: ignore[override]
        pinned = {files.identity.institution: files.signer for files in self.client_files}
        holders = (self.holder_files[0].signer,)
        parties = Parties(self.authority[0].decode(), self.coordinator_files.signer, pinned, holders)
        return policy_for_ckks(parties, self.plan, self.n_min)

    def holder(self) -> CkksKeyHolder:
        """The key-holder as it is after a start: its journal and keys are on the disk."""
        return holder_of(self.holder_files[0], self.policy, self.folder / "holder")

    @cached_property
    def signed(self) -> SignedCkksDescriptor:
        offer = self.holder().offer(16, 5, self.plan.length, self.clock(), DAY)
        roster = [RosterMember(certificate=files.identity.pem) for files in self.client_files]
        spec = CkksSpec(
            n_min=self.n_min, n_max=5, upload_seconds=HOUR, expiry_seconds=2 * HOUR, client_noise=self.client_noise
        )
        pem, signer = self.holder_files[0].identity.pem, self.coordinator_files.signer
        return create_ckks_session(spec, self.plan, roster, pem, offer, signer, self.clock(), os.urandom)

    @property
    def descriptor(self) -> CkksDescriptor:  # type: ignore[override]
        return self.signed.statement

    @cached_property
    def changes(self) -> list[NDArray[np.float32]]:
        return list(changes(self.clients, self.plan.length).values())

    def write_config(self, listen_at: str = "127.0.0.1:0") -> Path:
        write_atomic(self.folder / "session.json", self.signed.to_bytes())
        (self.folder / "policy.json").write_bytes(pretty_bytes(self.policy))
        for index, change in enumerate(self.changes):
            np.save(self.folder / f"change-{index}.npy", change)
        assert self.coordinator_files
        lines = [
            f'listen = "{listen_at}"', 'identity = "parties/server"', 'state = "state"', 'release = "release"',
            'sessions = ["session.json"]', *([f"close_at_uploads = {self.close_at}"] if self.close_at else []),
        ]  # fmt: skip
        path = self.folder / "server.toml"
        path.write_text("\n".join(lines) + "\n")
        return path

    @contextmanager
    def serving(self, checkpoint: Checkpoint = no_checkpoint) -> Iterator[tuple[Coordinator, str]]:
        """The coordinator in this process, on real gRPC, moving on by itself."""
        events = EventLog(self.folder / "state" / "events.jsonl")
        host = Host(self.coordinator_files.signer, self.clock, events, checkpoint, monotonic=self.clock.monotonic)
        coordinator = Coordinator.load(self.config, self.coordinator_files, host)
        listener = listen(coordinator, "127.0.0.1:0", self.coordinator_files)
        stop = threading.Event()

        def drive() -> None:
            while not stop.wait(0.02):
                coordinator.advance()

        thread = threading.Thread(target=drive)
        thread.start()
        try:
            yield coordinator, f"127.0.0.1:{listener.port}"
        finally:
            stop.set()
            thread.join()
            listener.server.stop(0).wait()
            coordinator.store.close()
            events.close()

    def serve_key(self, address: str) -> None:
        """The key-holder's process."""
        serve_key(self.holder_files[0], self.policy, self.folder / "holder", address)


def holder_of(files: PartyFiles, policy: CkksPolicy, state: Path) -> CkksKeyHolder:
    """A key-holder with its state in a folder."""
    journal, keys = DurableJournal(state / "ckks.db"), FileContexts(state / "keys")
    return CkksKeyHolder(files.signer, policy, files.authority, journal, keys)


def serve_key(
    files: PartyFiles, policy: CkksPolicy, state: Path, address: str, checkpoint: Callable[[str], None] = no_checkpoint
) -> None:
    """One run of it. Raises what ended it."""
    log = EventLog(state / "events.jsonl")
    try:
        with channel(address, files) as line:
            CkksHolderRun(
                holder_of(files, policy, state), CkksCalls(line), FileContexts(state / "keys"), Spool(state / "spool"),
                Patience(log, 5.0, sleep=nap), os.urandom, checkpoint,
            ).run()  # fmt: skip
    finally:
        log.close()


def take_part(
    files: PartyFiles, policy: CkksPolicy, folder: Path, change: NDArray[np.float32], address: str,
    checkpoint: Callable[[str], None] = no_checkpoint,
) -> None:  # fmt: skip
    """One run of a client. Raises what ended it."""
    log = EventLog(folder / "state" / "events.jsonl")
    try:
        with channel(address, files) as line:
            CkksClientRun(
                signer=files.signer,
                authority=files.authority,
                policy=policy,
                shelf=CkksShelf(folder / "state" / "ckks" / "sessions", files.signer, os.urandom),
                calls=CkksCalls(line),
                publication=PublicationCalls(line),
                training=FixedTraining(folder / "book.txt", change=change),
                release=folder / "release",
                patience=Patience(log, 5.0, sleep=nap),
                random=os.urandom,
                checkpoint=checkpoint,
            ).run()
    finally:
        log.close()


@dataclass
class Participant:
    """One client, with its own folder; `leaves_at` names the checkpoint at which it is gone."""

    deployment: CkksDeployment
    index: int
    leaves_at: str = ""
    error: BaseException | None = None

    @property
    def folder(self) -> Path:
        return self.deployment.folder / "homes" / str(self.index)

    @property
    def notes(self) -> list[str]:
        return CountedTraining(self.folder / "book.txt").notes

    def checkpoint(self, name: str) -> None:
        if name == self.leaves_at:
            raise Gone(name)

    def take_part(self, address: str) -> None:
        """One process of the client; its end is in `error`."""
        files, change = self.deployment.client_files[self.index], self.deployment.changes[self.index]
        self.error = None
        try:
            take_part(files, self.deployment.policy, self.folder, change, address, self.checkpoint)
        except (SecaggError, Gone) as error:
            self.error = error


def run_together(deployment: CkksDeployment, participants: list[Participant], address: str) -> None:
    """The key-holder and everybody at once, to the end."""
    threads = [threading.Thread(target=one.take_part, args=(address,)) for one in participants]
    threads.append(threading.Thread(target=deployment.serve_key, args=(address,)))
    for thread in threads:
        thread.start()
    for thread in threads:
        await_end(thread)


def main() -> None:
    """One party as a process."""
    folder, address, party = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    step = sys.argv[4] if len(sys.argv) > 4 else None

    def checkpoint(name: str) -> None:
        if name == step:
            os.kill(os.getpid(), signal.SIGKILL)

    policy = parse_model(CkksPolicy, (folder / "policy.json").read_bytes())
    if party == "holder":
        files = load_identity(folder / "parties" / "holder-1")
        serve_key(files, policy, folder / "holder", address, checkpoint)
    else:
        files, home = load_identity(folder / "parties" / f"client-{int(party) + 1}"), folder / "homes" / party
        take_part(files, policy, home, np.load(folder / f"change-{party}.npy"), address, checkpoint)


if __name__ == "__main__":
    main()
