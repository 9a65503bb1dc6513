"""A client whose training is fast and counted, on the real runner, state, calls and coordinator.

Also the script that the kill tests run: `python runner.py FOLDER ADDRESS POLICY KILL_AT`.
"""

import os
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import secagg_client.calls as calls
from secagg.agreed import Agreed
from secagg.plan import Plan
from secagg.policy import Policy
from secagg.privacy import PrivacyStatement
from secagg.signing import parse_model
from secagg_client.client_run import ClientRun, Contribution
from secagg_client.client_state import SessionShelf, Trained
from secagg_client.patience import Patience
from secagg_client.published import Publication
from secagg_host.events import EventLog
from secagg_host.identity import PartyFiles, load_identity
from secagg_host.tls import channel

SMALL_CHUNK = 16_384


@dataclass(frozen=True)
class CountedTraining:
    """Takes no time, and writes down in `book` what was asked of it. Each run gives another vector."""

    book: Path
    plans: list[Plan] = field(default_factory=list, kw_only=True)

    def note(self, word: str) -> None:
        with self.book.open("a") as file:
            file.write(word + "\n")

    @property
    def notes(self) -> list[str]:
        return self.book.read_text().split() if self.book.exists() else []

    def prepare(self, descriptor: Agreed, plan: Plan) -> "CountedRun":
        self.note("prepared")
        self.plans.append(plan)
        return CountedRun(self, descriptor)

    def mark_sealed(self, descriptor: Agreed, upload_root: str) -> None:
        if "sealed" not in self.notes:
            self.note("sealed")

    def abandon(self, descriptor: Agreed) -> None:
        self.note("abandoned")

    def after_release(self, release: Path, descriptor: Agreed) -> None:
        self.note("measured")


@dataclass(frozen=True)
class CountedRun:
    owner: CountedTraining
    descriptor: Agreed

    def charge(self) -> None:
        self.owner.note("charged")

    def train(self) -> Trained:
        self.owner.note("trained")
        length = self.descriptor.plan.length
        change = np.random.default_rng(int.from_bytes(os.urandom(8))).normal(0, 0.1, length).astype(np.float32)
        return Trained(change, PrivacyStatement(epsilon=8.0, delta=1e-5, accountant="test", noise="secure"))


def nap(seconds: float) -> None:
    time.sleep(min(seconds, 0.05))


def make_run(
    folder: Path,
    files: PartyFiles,
    policy: Policy,
    contribution: Contribution,
    publication: Publication,
    **more: object,
) -> ClientRun:
    """A runner whose state, release, book and log are in `folder`."""
    log = EventLog(folder / "state" / "events.jsonl")
    settings: dict[str, object] = {
        "signer": files.signer,
        "authority": files.authority,
        "policy": policy,
        "shelf": SessionShelf(folder / "state" / "sessions", files.signer, os.urandom),
        "contribution": contribution,
        "publication": publication,
        "training": CountedTraining(folder / "book.txt"),
        "release": folder / "release",
        "patience": Patience(log, 5.0, sleep=nap),
        "random": os.urandom,
    }
    return ClientRun(**{**settings, **more})  # type: ignore[arg-type]


class Killer:
    """kill -9 to this process when it reaches a step, or so many file syncs or sent chunks."""

    def __init__(self, at: str) -> None:
        self._at, self._syncs = at, 0
        self._sync = os.fsync
        if at.startswith("sync-"):
            os.fsync = self.sync  # type: ignore[assignment]

    def __call__(self, step: str) -> None:
        if step == self._at:
            os.kill(os.getpid(), signal.SIGKILL)

    def sync(self, descriptor: int) -> None:
        self._syncs += 1
        self(f"sync-{self._syncs}")
        self._sync(descriptor)


class KillingLog(EventLog):
    """An event log that kills at the third progress report of an upload."""

    def __init__(self, path: Path, killer: Killer) -> None:
        super().__init__(path)
        self._killer, self._chunks = killer, 0

    def emit(self, event: str, **fields: object) -> None:
        super().emit(event, **fields)  # type: ignore[arg-type]
        if event == "uploading":
            self._chunks += 1
            self._killer(f"chunk-{self._chunks}")


def main(folder: Path, address: str, policy_file: Path, kill_at: str) -> None:
    calls.MAX_CHUNK_BYTES = SMALL_CHUNK  # type: ignore[attr-defined]
    files = load_identity(folder / "identity")
    policy = parse_model(Policy, policy_file.read_bytes())
    killer = Killer(kill_at)
    log = KillingLog(folder / "state" / "events.jsonl", killer)
    with channel(address, files) as line:
        contribution, publication = calls.ContributionCalls(line), calls.PublicationCalls(line)
        patience = Patience(log, 5.0, sleep=nap)
        run = make_run(folder, files, policy, contribution, publication, patience=patience, checkpoint=killer)
        run.run(wait_for_release=kill_at != "no-wait")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), sys.argv[4])
