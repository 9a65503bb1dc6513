"""A masked session as it is deployed: identity folders, a signed session, real gRPC on loopback, real client runs."""

import os
import threading
import time
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secagg.agreed import Agreed
from secagg.descriptor import RosterMember
from secagg.errors import SecaggError
from secagg.masked.descriptor import MaskedDescriptor, MaskedSpec, SignedMaskedDescriptor, create_masked_session
from secagg.masked.policy import MaskedPolicy
from secagg.masked.run import policy_for_masked
from secagg.plan import Plan
from secagg.privacy import stated
from secagg.run import Parties
from secagg_client.calls import PublicationCalls
from secagg_client.client_state import MaskedShelf, Trained
from secagg_client.masked_calls import MaskedCalls
from secagg_client.masked_run import MaskedClientRun
from secagg_client.patience import Patience
from secagg_host.durable import DurableJournal, write_atomic
from secagg_host.events import EventLog
from secagg_host.identity import PartyFiles
from secagg_host.tls import channel, grpc
from secagg_server.masked_session import MaskedSession
from secagg_server.server import Coordinator, listen
from secagg_server.session import Checkpoint, Host, no_checkpoint
from tests.client.runner import CountedTraining, nap
from tests.deployment import HOUR, Deployment
from tests.driving import PATIENCE_SECONDS, await_end
from tests.small import changes, small_plan


class Gone(BaseException):
    """A client that stops as a killed one does: nothing is tidied up."""


@dataclass(frozen=True)
class FixedTraining(CountedTraining):
    """Gives a known vector."""

    change: NDArray[np.float32] = field(kw_only=True)

    def prepare(self, descriptor: Agreed, plan: Plan) -> "FixedRun":  # type: ignore[override]
        self.note("prepared")
        return FixedRun(self, plan)


@dataclass(frozen=True)
class FixedRun:
    owner: FixedTraining
    plan: Plan

    def charge(self) -> None:
        self.owner.note("charged")

    def train(self) -> Trained:
        self.owner.note("trained")
        return Trained(self.owner.change, stated(self.plan.training, "test"))


@dataclass
class MaskedDeployment(Deployment):
    """Certificates, keys and configuration of one masked session in a folder."""

    clients: int = 5
    plan: Plan = field(default_factory=lambda: small_plan(3000))
    upload_seconds: int = HOUR
    round_seconds: int = 2
    dropout_rate: float = 0.2

    @cached_property
    def signed(self) -> SignedMaskedDescriptor:
        roster = [RosterMember(certificate=files.identity.pem) for files in self.client_files]
        spec = MaskedSpec(
            n_min=self.n_min, dropout_rate=self.dropout_rate, upload_seconds=self.upload_seconds,
            round_seconds=self.round_seconds,
            expiry_seconds=2 * HOUR, client_noise=self.client_noise,
        )  # fmt: skip
        signer = self.coordinator_files.signer
        return create_masked_session(spec, self.plan, roster, signer, self.clock(), os.urandom)

    @property
    def descriptor(self) -> MaskedDescriptor:  # type: ignore[override]
        return self.signed.statement

    @cached_property
    def policy(self) -> MaskedPolicy:  # type: ignore[override]
        pinned = {files.identity.institution: files.signer for files in self.client_files}
        parties = Parties(self.authority[0].decode(), self.coordinator_files.signer, pinned, ())
        return policy_for_masked(parties, self.descriptor)

    @cached_property
    def changes(self) -> list[NDArray[np.float32]]:
        """By place in `client_files`."""
        return list(changes(self.clients, self.plan.length).values())

    def write_config(self, listen_at: str = "127.0.0.1:0") -> Path:
        write_atomic(self.folder / "session.json", self.signed.to_bytes())
        assert self.coordinator_files
        lines = [
            f'listen = "{listen_at}"', 'identity = "parties/server"', 'state = "state"', 'release = "release"',
            'sessions = ["session.json"]',
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


@dataclass
class MaskedParticipant:
    """One client, with its own folder; `leaves_at` names the checkpoint at which it is gone, `calls` how it speaks."""

    deployment: MaskedDeployment
    index: int
    leaves_at: str = ""
    error: BaseException | None = None
    calls: Callable[[grpc.Channel], MaskedCalls] = MaskedCalls
    over: bool = False
    """Whether its process has ended."""

    @property
    def files(self) -> PartyFiles:
        return self.deployment.client_files[self.index]

    @property
    def folder(self) -> Path:
        return self.deployment.folder / "homes" / str(self.index)

    @property
    def notes(self) -> list[str]:
        return CountedTraining(self.folder / "book.txt").notes

    @property
    def events(self) -> str:
        return (self.folder / "state" / "events.jsonl").read_text()

    def checkpoint(self, name: str) -> None:
        if name == self.leaves_at:
            raise Gone(name)

    def take_part(self, address: str) -> None:
        """One process of the client; its end is in `error`."""
        self.over, state = False, self.folder / "state"
        log, journal = EventLog(state / "events.jsonl"), DurableJournal(state / "masked" / "journal.db")
        change = self.deployment.changes[self.index]
        try:
            with channel(address, self.files) as line:
                MaskedClientRun(
                    signer=self.files.signer,
                    authority=self.files.authority,
                    policy=self.deployment.policy,
                    shelf=MaskedShelf(state / "masked" / "sessions", self.files.signer, os.urandom),
                    journal=journal,
                    contribution=self.calls(line),
                    publication=PublicationCalls(line),
                    training=FixedTraining(self.folder / "book.txt", change=change),
                    release=self.folder / "release",
                    patience=Patience(log, 5.0, clock=self.clock, sleep=nap),
                    random=os.urandom,
                    checkpoint=self.checkpoint,
                ).run()
        except (SecaggError, Gone) as error:
            self.error = error
        finally:
            journal.close()
            log.close()
            self.over = True

    def clock(self) -> float:
        """Its own, which goes on; or the test's, where that is ahead."""
        return max(time.time(), self.deployment.clock())


def everybody(deployment: MaskedDeployment, leaving: Mapping[int, str] | None = None) -> list[MaskedParticipant]:
    """All clients; `leaving` says who is gone from which checkpoint on."""
    return [MaskedParticipant(deployment, i, (leaving or {}).get(i, "")) for i in range(deployment.clients)]


@contextmanager
def together(participants: list[MaskedParticipant], address: str) -> Iterator[None]:
    """Everybody runs at once; at the end all have ended."""
    threads = [threading.Thread(target=one.take_part, args=(address,)) for one in participants]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        await_end(thread)


def run_out(session: MaskedSession, participants: list[MaskedParticipant], silent: Container[int] = ()) -> None:
    """Play the session to its end. Time stands still while anybody is waited for who will come, and flies otherwise.

    So a round leaves out whoever is gone, and nobody who is only slow. The `silent` are not waited for either.
    """
    deployment = participants[0].deployment
    numbers = {
        one.index: deployment.descriptor.number_of(one.files.identity.fingerprint)
        for one in participants
        if one.index not in silent
    }
    end = time.monotonic() + PATIENCE_SECONDS
    while session.running:
        assert time.monotonic() < end, session.status()
        coming = {numbers[one.index] for one in participants if one.index in numbers and not one.over}
        with session.lock:
            missing = session.missing()
        if missing and coming.isdisjoint(missing):
            deployment.clock.now += 60
        time.sleep(0.02)
