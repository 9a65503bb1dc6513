"""What the processes of test_ledger_kill.py do: one operation on a ledger, and die on the way.

They come out of a fork server that has imported this module, so each costs a fork.
"""

import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path

from secagg_client.ledger import Ledger
from tests.client.ledgers import LEVEL, ONCE, ROOT, A, files_in, ledger_in, quick

OPERATIONS: dict[str, Callable[[Path], object]] = {
    "init": lambda root: files_in(root).make(),
    "begin": lambda root: ledger_in(root).begin(quick(A, 1), ONCE),
    "begin noisy": lambda root: ledger_in(root).begin(quick(A, 1, client_level=LEVEL), ONCE),
    "seal": lambda root: ledger_in(root).mark_sealed(A, ROOT),
    "abandon": lambda root: ledger_in(root).abandon(A),
    "read": lambda root: ledger_in(root).entries(),
}


class Death:
    """kill -9 to this process before its n-th touch of the disk below `root`: folder, opening, sync, renaming."""

    def __init__(self, root: Path, at: int) -> None:
        self._root, self._left, self._sync = str(root), at, os.fsync

    def arm(self) -> None:
        os.fsync = self._fsync  # type: ignore[assignment]
        sys.addaudithook(self._audit)

    def _touch(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def _fsync(self, descriptor: int) -> None:
        self._touch()
        self._sync(descriptor)

    def _audit(self, event: str, details: tuple[object, ...]) -> None:
        if event in {"open", "os.mkdir", "os.rename"} and str(details[0]).startswith(self._root):
            self._touch()


def operate(root: Path, operation: str, kill_at: int) -> None:
    """One operation, killed before its `kill_at`-th touch of the disk."""
    Death(root, kill_at).arm()
    OPERATIONS[operation](root)


def enter(root: Path, start: Barrier, seeds: range) -> None:
    """Sessions on data of their own, as fast as it goes."""
    ledger: Ledger = ledger_in(root)
    start.wait(60)
    for seed in seeds:
        ledger.begin(quick(f"{seed:064x}", seed), ONCE)


def contend(root: Path, start: Barrier, session: str) -> None:
    """A session on the same data as the other process's."""
    start.wait(60)
    ledger_in(root).begin(quick(session, 1), ONCE)
