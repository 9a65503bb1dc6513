"""A key-holder with its state on disk, for tests, and the script that the kill tests run.

`python holder.py FOLDER ADDRESS KILL_AT`: FOLDER holds `identity`, `policy.json` and `state`.
"""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from secagg.keyholder import KeyHolder
from secagg.policy import Policy
from secagg.signing import parse_model
from secagg_client.calls import CommitteeCalls
from secagg_client.keyholder_run import KeyHolderRun, Shelf
from secagg_client.patience import Patience
from secagg_host.events import EventLog
from secagg_host.identity import load_identity
from secagg_host.tls import channel


def load(folder: Path) -> tuple[KeyHolder, Shelf]:
    """The key-holder of a folder, as after a restart."""
    shelf = Shelf(folder / "state")
    files = load_identity(folder / "identity")
    policy = parse_model(Policy, (folder / "policy.json").read_bytes())
    return KeyHolder(files.signer, policy, files.authority, shelf.journal, shelf.keys), shelf


def nap(seconds: float) -> None:
    time.sleep(min(seconds, 0.05))


class KillingLog(EventLog):
    """kill -9 to this process after it logged `word`, or right before it hands in an answer."""

    def __init__(self, path: Path, word: str) -> None:
        super().__init__(path)
        self._word = word

    def emit(self, event: str, **fields: Any) -> None:
        super().emit(event, **fields)
        if self._word in {event, f"{event}-{fields.get('stage')}"}:
            os.kill(os.getpid(), signal.SIGKILL)


class KillingCalls(CommitteeCalls):
    """kill -9 to this process when an answer is recorded, and not yet handed in."""

    def __init__(self, line: Any, word: str) -> None:
        super().__init__(line)
        self._word = word

    def endorse(self, endorsement: Any) -> None:
        self._kill(f"before-{endorsement.statement.stage}")
        super().endorse(endorsement)

    def submit_degree_answer(self, answer: Any) -> None:
        self._kill("before-degree")
        super().submit_degree_answer(answer)

    def submit_share(self, answer: Any) -> None:
        self._kill("before-share")
        super().submit_share(answer)

    def _kill(self, word: str) -> None:
        if word == self._word:
            os.kill(os.getpid(), signal.SIGKILL)


def main(folder: Path, address: str, kill_at: str) -> None:
    holder, shelf = load(folder)
    log = KillingLog(folder / "state" / "events.jsonl", kill_at)
    with channel(address, load_identity(folder / "identity")) as line:
        KeyHolderRun(holder, shelf, KillingCalls(line, kill_at), Patience(log, 5.0, sleep=nap)).run()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
