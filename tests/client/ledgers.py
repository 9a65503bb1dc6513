"""Ledgers for tests: where they are, what is spent, every version of their files."""

from collections.abc import Callable
from pathlib import Path

from secagg_client.accounting import Mechanism
from secagg_client.data import Examples
from secagg_client.ledger import Ledger, Spend
from secagg_client.ledger_entry import ClientLevelRecord, LedgerLimits
from secagg_client.ledger_files import LedgerFiles
from tests.client.support import LM, examples, settings

ONCE = LedgerLimits(total_epsilon=8.0, delta=1e-5)
AGAIN = LedgerLimits(total_epsilon=8.0, delta=1e-5, allow_repeated=True)
STRICT = LedgerLimits(total_epsilon=8.0, delta=1e-5, allow_repeated=True, count_attempts=True)
MECHANISM = Mechanism(0.2, 1.6, 20)
QUICK = Mechanism(1.0, 40.0, 1)
"""For tests of files: takes the accountant no time."""
LEVEL = ClientLevelRecord(rho=0.05, failure=1e-16)
"""One release in a session with client-level noise."""
A, B, C, D, E = ("a" * 64, "b" * 64, "c" * 64, "d" * 64, "e" * 64)
ROOT, OTHER_ROOT = "1" * 64, "2" * 64

STEPS = 8
"""Lines of `history`."""

Content = dict[str, bytes]


def files_in(root: Path) -> LedgerFiles:
    return LedgerFiles(root / "ledger", root / "identity" / "ledger-witness")


def ledger_in(root: Path) -> Ledger:
    return Ledger(files_in(root), clock=lambda: 1_700_000_000)


def new_ledger(root: Path) -> Ledger:
    files_in(root).make()
    return ledger_in(root)


def spend(
    session: str,
    data: Examples,
    name: str = "",
    mechanism: Mechanism = MECHANISM,
    round_number: int = 0,
    client_level: ClientLevelRecord | None = None,
    **training_settings: object,
) -> Spend:
    training = settings(noise="secure", **training_settings)
    return Spend.of(session, name or data.source, data, mechanism, training, round_number, client_level)


def quick(session: str, seed: int, round_number: int = 0, client_level: ClientLevelRecord | None = None) -> Spend:
    data = examples(4, LM, seed=seed)
    return spend(session, data, mechanism=QUICK, round_number=round_number, client_level=client_level)


def history(root: Path) -> list[Content]:
    """A ledger that has seen all kinds of lines; its files after each step."""
    ledger = new_ledger(root)
    versions = [content(root)]
    steps: tuple[Callable[[], object], ...] = (
        lambda: ledger.begin(quick(A, 1), ONCE),
        lambda: ledger.begin(quick(A, 1), ONCE),
        lambda: ledger.mark_sealed(A, ROOT),
        lambda: ledger.begin(quick(B, 2), ONCE),
        lambda: ledger.abandon(B),
        lambda: ledger.begin(quick(C, 3), ONCE),
        lambda: ledger.mark_sealed(C, ROOT),
        lambda: ledger.begin(quick(C, 3, round_number=1), ONCE),
    )
    for step in steps:
        step()
        versions.append(content(root))
    return versions


def content(root: Path) -> Content:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def lay_out(root: Path, files: Content) -> None:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
