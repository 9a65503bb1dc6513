"""kill -9 before any touch of the disk, and two processes at once: real processes, real kills (protocol.md §4.5)."""

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
from contextlib import suppress
from pathlib import Path

import pytest

from secagg.errors import LedgerError
from tests.client import ledger_victim as victim
from tests.client.ledgers import ONCE, ROOT, A, B, Content, content, files_in, lay_out, ledger_in, new_ledger, quick

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([victim.__name__])
MOST_TOUCHES = 60


def killed(root: Path, operation: str, at: int) -> bool:
    """Whether the process died before it was done."""
    process = CONTEXT.Process(target=victim.operate, args=(root, operation, at))
    process.start()
    process.join(120)
    assert process.exitcode in {0, -signal.SIGKILL}
    return process.exitcode != 0


def deaths(folder: Path, before: Content, operation: str) -> list[Path]:
    """A copy of the ledger for every moment at which the operation can be killed."""
    found = list[Path]()
    for at in range(1, MOST_TOUCHES):
        root = folder / f"{operation}-{at}"
        root.mkdir()
        lay_out(root, before)
        if not killed(root, operation, at):
            return found
        found.append(root)
    raise AssertionError("never done")


def begun(folder: Path) -> Content:
    """A ledger with session B sealed and session A begun."""
    ledger = new_ledger(folder / "begun")
    ledger.begin(quick(B, 2), ONCE)
    ledger.mark_sealed(B, ROOT)
    ledger.begin(quick(A, 1), ONCE)
    return content(folder / "begun")


def test_killed_while_it_is_made_it_is_made_by_the_next_call(tmp_path: Path) -> None:
    roots = deaths(tmp_path, {}, "init")
    assert len(roots) > 8
    for root in roots:
        with suppress(LedgerError):  # it was killed after the last step
            files_in(root).make()
        assert ledger_in(root).entries() == ()
        ledger_in(root).begin(quick(A, 1), ONCE)


@pytest.mark.parametrize(("operation", "kind"), [("begin", "begun"), ("seal", "sealed"), ("abandon", "abandoned")])
def test_killed_while_a_line_is_entered_it_is_there_or_not(tmp_path: Path, operation: str, kind: str) -> None:
    """Never half, never taken for an alteration, and what stood there before stays."""
    before = begun(tmp_path)
    known = ledger_in(tmp_path / "begun").entries()
    roots = deaths(tmp_path, before, operation)
    assert len(roots) > 6
    counts = set[int]()
    for root in roots:
        entries = ledger_in(root).entries()
        counts.add(len(entries) - len(known))
        assert entries[: len(known)] == known
        assert [entry.kind for entry in entries[len(known) :]] in ([], [kind])
        with suppress(LedgerError):  # a session is abandoned once
            victim.OPERATIONS[operation](root)
        assert ledger_in(root).entries()[-1].kind == kind
    assert counts == {0, 1}


def test_killed_while_a_session_with_client_level_noise_is_entered_it_counts_or_was_not_begun(tmp_path: Path) -> None:
    """Whatever was entered is in the total at once: what was trained on is never missing from it (§4.5f)."""
    before = begun(tmp_path)
    counts = set[int]()
    for root in deaths(tmp_path, before, "begin noisy"):
        ledger = ledger_in(root)
        entered = sum(entry.client_level is not None for entry in ledger.entries())
        assert ledger.client_spent(ONCE).releases == entered
        counts.add(entered)
        victim.OPERATIONS["begin noisy"](root)
        assert ledger_in(root).client_spent(ONCE).releases == 1
    assert counts == {0, 1}


def test_killed_while_a_crash_is_repaired_it_is_repaired_later(tmp_path: Path) -> None:
    """The line of a killed `begin` is there, its witness is not; the reader that takes note of it is killed too."""
    before = begun(tmp_path)
    ledger_in(tmp_path / "begun").mark_sealed(A, ROOT)
    ahead = {**before, "ledger/ledger.jsonl": content(tmp_path / "begun")["ledger/ledger.jsonl"]}
    roots = deaths(tmp_path, ahead, "read")
    assert len(roots) > 4
    for root in roots:
        assert ledger_in(root).entries()[-1].kind == "sealed"
        assert content(root)["identity/ledger-witness/witness.json"] != before["identity/ledger-witness/witness.json"]


def test_kill_dash_nine_at_any_time_loses_no_entry_that_was_acknowledged(tmp_path: Path) -> None:
    """A process enters sessions as fast as it can, says which returned, and is killed. Twice over."""
    program = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from tests.client.ledgers import ONCE, ledger_in, quick
        ledger = ledger_in(Path(sys.argv[1]))
        start = len(ledger.entries())
        for number in range(start, start + 1000):
            ledger.begin(quick(f"{number:064x}", number), ONCE)
            print(f"{number:064x}", flush=True)
        """
    )
    new_ledger(tmp_path)
    acknowledged = list[str]()
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)],
            stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        assert process.stdout is not None
        for _ in range(7):
            acknowledged.append(process.stdout.readline().strip())
        os.kill(process.pid, signal.SIGKILL)
        acknowledged += process.stdout.read().split()
        process.wait()
        sessions = [entry.session for entry in ledger_in(tmp_path).entries()]
        assert sessions[: len(acknowledged)] == acknowledged
        assert len(sessions) <= len(acknowledged) + 1
        acknowledged = sessions


def test_processes_at_once_lose_no_line(tmp_path: Path) -> None:
    ledger, start = new_ledger(tmp_path), CONTEXT.Barrier(3)
    shares = [range(first, first + 5) for first in (0, 5, 10)]
    processes = [CONTEXT.Process(target=victim.enter, args=(tmp_path, start, seeds)) for seeds in shares]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    assert sorted(entry.session for entry in ledger.entries()) == [f"{seed:064x}" for seed in range(15)]
    assert [entry.number for entry in ledger.entries()] == list(range(15))


def test_of_two_processes_that_want_the_same_data_one_is_refused(tmp_path: Path) -> None:
    ledger, start = new_ledger(tmp_path), CONTEXT.Barrier(2)
    processes = [CONTEXT.Process(target=victim.contend, args=(tmp_path, start, session)) for session in (A, B)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert sorted(process.exitcode or 0 for process in processes) == [0, 1]
    assert len(ledger.entries()) == 1
