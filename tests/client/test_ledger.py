"""The institution's own ledger: entered before training, found out when altered, alive after kill -9."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from secagg.errors import LedgerError, PolicyViolation, StorageError
from secagg_client.accounting import Mechanism, epsilon_of
from secagg_client.data import Examples
from secagg_client.ledger import Ledger, LedgerLimits, Spend
from tests.client.support import LM, examples, settings

ONCE = LedgerLimits(total_epsilon=8.0, delta=1e-5)
AGAIN = LedgerLimits(total_epsilon=8.0, delta=1e-5, allow_repeated=True)
MECHANISM = Mechanism(0.2, 1.6, 20)
A, B, C = ("a" * 64, "b" * 64, "c" * 64)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger", clock=lambda: 1_700_000_000)


def spend(session: str, data: Examples, name: str = "", mechanism: Mechanism = MECHANISM) -> Spend:
    return Spend.of(session, name or data.source, data, mechanism, settings(noise="secure"))


def test_an_entry_is_there_before_training_and_says_what_runs(ledger: Ledger, tmp_path: Path) -> None:
    entry = ledger.begin(spend(A, examples(5, LM)), ONCE)
    assert ledger.entries() == (entry,)
    assert (entry.kind, entry.session, entry.attempt, entry.time) == ("begun", A, 1, 1_700_000_000)
    assert entry.mechanism.mechanism() == MECHANISM
    assert (entry.epsilon, entry.delta, entry.noise) == (4.0, 1e-5, "secure")
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "ledger").rglob("*") if path.suffix == ".bin"} == {
        0o600
    }


def test_no_text_and_no_plain_hash_is_on_the_disk(ledger: Ledger, tmp_path: Path) -> None:
    data = examples(5, LM)
    ledger.begin(spend(A, data), ONCE)
    content = b"".join(path.read_bytes() for path in (tmp_path / "ledger").rglob("*") if path.is_file())
    assert data.fingerprint().encode() not in content
    for text, digest in zip(data.texts, data.record_hashes(), strict=True):
        assert text.encode() not in content
        assert digest[:8] not in content


def test_a_second_session_on_the_same_data_is_refused(ledger: Ledger) -> None:
    data = examples(5, LM)
    ledger.begin(spend(A, data), ONCE)
    reordered = data.select([4, 3, 2, 1, 0])
    with pytest.raises(PolicyViolation, match="already used in session aaaaaaaaaaaaaaaa"):
        ledger.begin(spend(B, reordered, "another name"), ONCE)
    assert len(ledger.entries()) == 1


def test_one_shared_record_is_enough(ledger: Ledger) -> None:
    data = examples(9, LM)
    ledger.begin(spend(A, data.select(range(5)), "first"), ONCE)
    ledger.begin(spend(B, data.select(range(5, 9)), "second"), ONCE)
    with pytest.raises(PolicyViolation, match="already used in session bbbb"):
        ledger.check(spend(C, data.select([8]), "third"), ONCE)


def test_the_same_name_counts_as_the_same_data(ledger: Ledger) -> None:
    """Cleaned or re-exported texts share no hash with the old ones."""
    ledger.begin(spend(A, examples(5, LM, seed=1), "ward 7"), ONCE)
    with pytest.raises(PolicyViolation, match="already used"):
        ledger.check(spend(B, examples(5, LM, seed=2), "ward 7"), ONCE)


def test_repeated_sessions_compose_until_the_total(ledger: Ledger) -> None:
    data = examples(5, LM)
    one = epsilon_of([MECHANISM.event()], 1e-5)
    assert ledger.check(spend(A, data), AGAIN) == pytest.approx(one, rel=0.01)
    spent = list[float]()
    for number in range(30):
        session = f"{number:064x}"
        try:
            spent.append(ledger.check(spend(session, data), AGAIN))
        except PolicyViolation:
            break
        ledger.begin(spend(session, data), AGAIN)
    assert 2 < len(spent) < 29
    with pytest.raises(PolicyViolation, match="above the policy's total 8"):
        ledger.begin(spend(A, data), AGAIN)
    assert spent == sorted(spent)
    together = epsilon_of([MECHANISM.event()] * len(spent), 1e-5)
    assert spent[-1] == pytest.approx(together, rel=0.01)
    assert together < len(spent) * one


def test_a_single_session_above_the_total_is_refused(ledger: Ledger) -> None:
    with pytest.raises(PolicyViolation, match="above the policy's total"):
        ledger.begin(spend(A, examples(5, LM), mechanism=Mechanism(0.5, 0.5, 50)), ONCE)
    assert ledger.entries() == ()


def test_a_run_that_crashed_before_sealing_may_run_again_and_counts_once(ledger: Ledger) -> None:
    data = examples(5, LM)
    ledger.begin(spend(A, data), ONCE)
    assert ledger.begin(spend(A, data), ONCE).attempt == 2
    with pytest.raises(LedgerError, match="other data or settings"):
        ledger.begin(spend(A, data, mechanism=Mechanism(0.1, 1.1, 20)), ONCE)
    with pytest.raises(LedgerError, match="other data or settings"):
        ledger.begin(spend(A, examples(6, LM)), ONCE)
    assert ledger.mark_sealed(A).kind == "sealed"
    with pytest.raises(LedgerError, match="already sealed: it is not trained again"):
        ledger.begin(spend(A, data), ONCE)
    with pytest.raises(LedgerError, match="already sealed"):
        ledger.mark_sealed(A)
    with pytest.raises(LedgerError, match="already sealed"):
        ledger.abandon(A)


def test_an_abandoned_session_spent_nothing_and_cannot_come_back(ledger: Ledger) -> None:
    data = examples(5, LM)
    ledger.begin(spend(A, data), ONCE)
    ledger.abandon(A)
    with pytest.raises(LedgerError, match="already abandoned"):
        ledger.begin(spend(A, data), ONCE)
    ledger.begin(spend(B, data), ONCE)
    with pytest.raises(LedgerError, match="never begun"):
        ledger.mark_sealed(C)


def test_runs_without_privacy_have_no_place_here() -> None:
    with pytest.raises(PolicyViolation, match="without differential privacy"):
        Spend.of(A, "x", examples(3, LM), MECHANISM, settings(epsilon=None))


def _filled(ledger: Ledger) -> None:
    for number, session in enumerate((A, B, C)):
        ledger.begin(spend(session, examples(4, LM, seed=number)), ONCE)


@pytest.mark.parametrize("what", ["edit", "drop-first", "drop-middle", "drop-last", "drop-all", "swap", "forge"])
def test_altered_lines_are_found(ledger: Ledger, tmp_path: Path, what: str) -> None:
    _filled(ledger)
    path = tmp_path / "ledger" / "ledger.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    first = json.loads(lines[0])
    changed = {
        "edit": [lines[0].replace(b'"epsilon":4.0', b'"epsilon":0.4'), *lines[1:]],
        "drop-first": lines[1:],
        "drop-middle": [lines[0], lines[2]],
        "drop-last": lines[:1],
        "drop-all": [],
        "swap": [lines[1], lines[0], lines[2]],
        "forge": [json.dumps({**first, "mac": "0" * 64}).encode() + b"\n", *lines[1:]],
    }[what]
    path.write_bytes(b"".join(changed))
    for use in (ledger.entries, lambda: ledger.begin(spend("d" * 64, examples(4, LM, seed=9)), ONCE)):
        with pytest.raises(LedgerError, match=r"altered|shortened"):
            use()


def test_every_flipped_byte_of_the_last_line_is_found(ledger: Ledger, tmp_path: Path) -> None:
    _filled(ledger)
    path = tmp_path / "ledger" / "ledger.jsonl"
    good = path.read_bytes()
    for at in range(good.rindex(b"\n", 0, len(good) - 1) + 1, len(good), 7):
        path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        with pytest.raises(LedgerError):
            ledger.entries()
    path.write_bytes(good)
    assert len(ledger.entries()) == 3


def test_lost_and_altered_companions_are_found(ledger: Ledger, tmp_path: Path) -> None:
    _filled(ledger)
    folder = tmp_path / "ledger"
    (records,) = [folder / "records" / f"{ledger.entries()[0].data}.bin"]
    good = records.read_bytes()
    records.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    fresh = spend("d" * 64, examples(4, LM, seed=9))
    with pytest.raises(LedgerError, match="were altered"):
        ledger.check(fresh, ONCE)
    records.unlink()
    with pytest.raises(LedgerError, match="are missing"):
        ledger.check(fresh, ONCE)
    records.write_bytes(good)
    ledger.check(fresh, ONCE)
    (folder / "key").unlink()
    with pytest.raises(LedgerError, match="lost its key"):
        ledger.check(fresh, ONCE)


def test_a_torn_last_line_is_forgotten(ledger: Ledger, tmp_path: Path) -> None:
    """A crash while writing: `begin` had not returned, so nothing was trained."""
    _filled(ledger)
    path = tmp_path / "ledger" / "ledger.jsonl"
    with path.open("ab") as file:
        file.write(b'{"number":3,"kind":"begun"')
    assert len(ledger.entries()) == 3
    ledger.begin(spend("d" * 64, examples(4, LM, seed=9)), ONCE)
    assert len(ledger.entries()) == 4
    assert len(path.read_bytes().splitlines()) == 4


def test_a_crash_between_line_and_head_is_no_alteration(ledger: Ledger, tmp_path: Path) -> None:
    ledger.begin(spend(A, examples(4, LM, seed=1)), ONCE)
    head = (tmp_path / "ledger" / "head.json").read_bytes()
    ledger.begin(spend(B, examples(4, LM, seed=2)), ONCE)
    (tmp_path / "ledger" / "head.json").write_bytes(head)
    assert len(ledger.entries()) == 2


def test_kill_dash_nine_at_any_time_loses_no_entry_that_was_acknowledged(tmp_path: Path) -> None:
    """A process enters sessions as fast as it can, says which returned, and is killed. Five times over."""
    program = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from secagg_client.accounting import Mechanism
        from secagg_client.ledger import Ledger, LedgerLimits, Spend
        ledger = Ledger(Path(sys.argv[1]), clock=lambda: 0)
        limits = LedgerLimits(total_epsilon=8.0, delta=1e-5)
        start = len(ledger.entries())
        for number in range(start, start + 1000):
            session = f"{number:064x}"
            record, mechanism = number.to_bytes(32), Mechanism(0.1, 1.0, 20)
            ledger.begin(Spend(session, session, session, (record,), mechanism, 4.0, 1e-5, "secure"), limits)
            print(session, flush=True)
        """
    )
    folder, acknowledged = tmp_path / "ledger", list[str]()
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for _ in range(7):
            acknowledged.append(process.stdout.readline().strip())
        os.kill(process.pid, signal.SIGKILL)
        acknowledged += process.stdout.read().split()
        process.wait()
        sessions = [entry.session for entry in Ledger(folder, clock=lambda: 0).entries()]
        assert sessions[: len(acknowledged)] == acknowledged
        assert len(sessions) <= len(acknowledged) + 1
        acknowledged = sessions


def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError):
        Ledger(tmp_path / "file" / "ledger", clock=lambda: 0).entries()
