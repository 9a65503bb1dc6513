"""An institution's own record of the privacy it has spent, on its own disk (protocol.md §4.5).

A run is entered before it begins: a crash can make the ledger say too much, never too little. Entries are JSON lines,
each with a MAC over its content and the MAC before it, under a key beside the ledger; `head.json` remembers the last
one. That finds edits, deletions and shortening; whoever owns the key and all files can still rewrite the whole.

Records are remembered as keyed hashes, so that a second session is recognised when it shares a single record with an
earlier one, and nothing can be looked up in the files without the key.
"""

import fcntl
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

from cryptography.hazmat.primitives import hashes, hmac
from pydantic import Field, ValidationError

from secagg.errors import LedgerError, PolicyViolation
from secagg.plan import Frozen, Hash, TrainingSettings
from secagg.randomness import Randomness
from secagg_client.accounting import Mechanism, epsilon_of, loss_interval
from secagg_client.data import Examples
from secagg_host.durable import fsync_folder, guard, make_folder, open_private, write_atomic

_RECORD_BYTES = 16
_START = "0" * 64


class LedgerLimits(Frozen):
    """What the institution allows on one and the same data, over all sessions. Part of the client's policy."""

    total_epsilon: float = Field(gt=0)
    delta: float = Field(gt=0, lt=1)
    allow_repeated: bool = False


class MechanismRecord(Frozen):
    """The mechanism of a run, as the accountant needs it again later."""

    rate: float = Field(gt=0, le=1)
    sigma: float = Field(gt=0)
    steps: int = Field(ge=1)

    def mechanism(self) -> Mechanism:
        """For the accountant."""
        return Mechanism(self.rate, self.sigma, self.steps)


class LedgerEntry(Frozen):
    """One line. `begun`: a run is about to start. `sealed`: its result left training. `abandoned`: it never did.

    `attempt` counts runs of one session; only the last can ever be sealed, so they count once. `records` names the
    file of keyed record hashes, `data` is the keyed fingerprint.
    """

    number: int = Field(ge=0)
    kind: Literal["begun", "sealed", "abandoned"]
    time: int
    session: Hash
    attempt: int = Field(ge=1)
    name: str
    data: Hash
    mechanism: MechanismRecord
    epsilon: float = Field(gt=0)
    delta: float = Field(gt=0, lt=1)
    noise: Literal["secure", "seeded"]
    previous: Hash
    mac: Hash


class _Head(Frozen):
    count: int = Field(ge=0)
    mac: Hash


@dataclass(frozen=True, slots=True)
class Spend:
    """What a run is about to spend, on what. `name` is the institution's name for its data set."""

    session: str
    name: str
    fingerprint: str = field(repr=False)
    records: tuple[bytes, ...] = field(repr=False)
    mechanism: Mechanism = field(repr=False)
    epsilon: float
    delta: float
    noise: Literal["secure", "seeded"]

    @classmethod
    def of(cls, session: str, name: str, data: Examples, mechanism: Mechanism, settings: TrainingSettings) -> Self:
        """The spend of a session with identifier `session` (ctx, 64 hex digits) on `data`.

        Raises:
            PolicyViolation: the settings have no differential privacy: there is no bound to enter.
        """
        if settings.epsilon is None:
            raise PolicyViolation("a run without differential privacy has no place in the ledger: refused")
        return cls(
            session, name, data.fingerprint(), data.record_hashes(), mechanism,
            settings.epsilon, settings.delta, settings.noise,
        )  # fmt: skip


class Ledger:
    """The ledger in one folder, made when it does not exist. Safe to share between processes of one machine.

    Args:
        folder: kept by the institution, mode 0700.
        clock: seconds since 1970.
        random: makes the key of a new ledger.

    Every method raises LedgerError when the files have been altered, StorageError when the disk refuses.
    """

    def __init__(self, folder: Path, clock: Callable[[], int], random: Randomness = os.urandom) -> None:
        self._folder, self._clock, self._random = folder, clock, random

    def __repr__(self) -> str:
        return f"Ledger({str(self._folder)!r})"

    def check(self, spend: Spend, limits: LedgerLimits) -> float:
        """The epsilon of `spend` and all earlier sessions on the same data together, at `limits.delta`.

        Raises:
            LedgerError: this session was sealed or abandoned before, or is repeated with other data or settings.
            PolicyViolation: the same data were used before, or the composed epsilon is above the total.
        """
        with self._locked() as key:
            return self._check(self._read(key), spend, limits, key)

    def begin(self, spend: Spend, limits: LedgerLimits) -> LedgerEntry:
        """Check, and enter the run durably. Call it before training; raises as `check` does."""
        with self._locked() as key:
            entries = self._read(key)
            self._check(entries, spend, limits, key)
            data = _mac(key, b"data", spend.fingerprint.encode())
            self._write_records(data, spend.records, key)
            attempt = 1 + sum(e.kind == "begun" and e.session == spend.session for e in entries)
            mechanism = spend.mechanism
            return self._append(
                key,
                entries,
                {
                    "kind": "begun", "session": spend.session, "attempt": attempt, "name": spend.name, "data": data,
                    "mechanism": {"rate": mechanism.rate, "sigma": mechanism.sigma, "steps": mechanism.steps},
                    "epsilon": spend.epsilon, "delta": spend.delta, "noise": spend.noise,
                },
            )  # fmt: skip

    def mark_sealed(self, session: str) -> LedgerEntry:
        """Enter that the session's result is about to leave: from here on it is never trained again.

        Raises:
            LedgerError: the session was not begun, or was sealed or abandoned before.
        """
        return self._close(session, "sealed")

    def abandon(self, session: str) -> LedgerEntry:
        """Enter that a begun session ended before anything was sealed: it has spent nothing, and can never resume.

        Raises:
            LedgerError: the session was not begun, or was sealed or abandoned before.
        """
        return self._close(session, "abandoned")

    def entries(self) -> tuple[LedgerEntry, ...]:
        """All entries, verified, oldest first."""
        with self._locked() as key:
            return tuple(self._read(key))

    def _close(self, session: str, kind: Literal["sealed", "abandoned"]) -> LedgerEntry:
        with self._locked() as key:
            entries = self._read(key)
            mine = [entry for entry in entries if entry.session == session]
            if not mine:
                raise LedgerError(f"session {session[:16]} was never begun in this ledger")
            if mine[-1].kind != "begun":
                raise LedgerError(f"session {session[:16]} is already {mine[-1].kind} in the ledger")
            content = mine[-1].model_dump(exclude={"number", "time", "previous", "mac"})
            return self._append(key, entries, {**content, "kind": kind})

    # -- the rules ---------------------------------------------------------------------------------------------

    def _check(self, entries: Sequence[LedgerEntry], spend: Spend, limits: LedgerLimits, key: bytes) -> float:
        self._check_rerun([entry for entry in entries if entry.session == spend.session], spend, key)
        earlier = self._overlapping(entries, spend, key)
        if earlier and not limits.allow_repeated:
            raise PolicyViolation(
                f"the data {spend.name!r} were already used in session {earlier[-1].session[:16]}; "
                "the policy does not allow a second session on the same data (allow_repeated)"
            )
        events = [entry.mechanism.mechanism().event() for entry in earlier] + [spend.mechanism.event()]
        steps = sum(entry.mechanism.steps for entry in earlier) + spend.mechanism.steps
        total = epsilon_of(events, limits.delta, interval=loss_interval(limits.total_epsilon, steps))
        if not math.isfinite(total) or total > limits.total_epsilon:
            raise PolicyViolation(
                f"with this session the data {spend.name!r} would have spent epsilon {total:.3f} at delta "
                f"{limits.delta}, above the policy's total {limits.total_epsilon}"
            )
        return total

    def _check_rerun(self, mine: Sequence[LedgerEntry], spend: Spend, key: bytes) -> None:
        if not mine:
            return
        last = mine[-1]
        if last.kind != "begun":
            raise LedgerError(f"session {spend.session[:16]} is already {last.kind}: it is not trained again")
        same = last.data == _mac(key, b"data", spend.fingerprint.encode())
        if not same or last.mechanism.mechanism() != spend.mechanism:
            raise LedgerError(
                f"session {spend.session[:16]} was begun with other data or settings; a re-run must use the same"
            )

    def _overlapping(self, entries: Sequence[LedgerEntry], spend: Spend, key: bytes) -> list[LedgerEntry]:
        """The last entry of every other session, not abandoned, of the same name or with a record in common."""
        last = {entry.session: entry for entry in entries if entry.session != spend.session}
        mine = {_mac(key, b"record", record)[: 2 * _RECORD_BYTES] for record in spend.records}
        return [
            entry
            for entry in last.values()
            if entry.kind != "abandoned"
            and (entry.name == spend.name or not mine.isdisjoint(self._read_records(entry.data, key)))
        ]

    # -- the files ---------------------------------------------------------------------------------------------

    @contextmanager
    def _locked(self) -> Iterator[bytes]:
        make_folder(self._folder)
        with guard(self._folder), open(self._folder / "lock", "a", opener=open_private) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield self._key()

    def _key(self) -> bytes:
        path = self._folder / "key"
        if not path.exists():
            if (self._folder / "ledger.jsonl").exists():
                raise LedgerError(f"the ledger {self._folder} has lost its key: it cannot be verified")
            write_atomic(path, self._random(32))
        return path.read_bytes()

    def _read(self, key: bytes) -> list[LedgerEntry]:
        path = self._folder / "ledger.jsonl"
        text = path.read_bytes() if path.exists() else b""
        whole = text[: text.rfind(b"\n") + 1]  # a torn last line was never acknowledged: nothing ran on it
        entries, previous = list[LedgerEntry](), _START
        for number, line in enumerate(whole.splitlines()):
            entry = _parse(line, number, path)
            if entry.number != number or entry.previous != previous or entry.mac != _entry_mac(key, entry):
                raise LedgerError(f"{path}, line {number + 1}: altered, moved or removed. Nothing is trained on it")
            entries.append(entry)
            previous = entry.mac
        self._check_head(entries)
        return entries

    def _check_head(self, entries: Sequence[LedgerEntry]) -> None:
        path = self._folder / "head.json"
        head = _parse_head(path) if path.exists() else _Head(count=0, mac=_START)
        reached = entries[head.count - 1].mac if 0 < head.count <= len(entries) else _START
        # the head is written after the line, so it may be one line behind after a crash, never ahead
        if not len(entries) - 1 <= head.count <= len(entries) or reached != head.mac:
            raise LedgerError(f"{self._folder}: the ledger was shortened or replaced; {head.count} lines are known")

    def _append(self, key: bytes, entries: Sequence[LedgerEntry], content: dict[str, object]) -> LedgerEntry:
        previous = entries[-1].mac if entries else _START
        fixed = {"number": len(entries), "time": self._clock(), "previous": previous, "mac": _START}
        draft = LedgerEntry.model_validate({**content, **fixed})
        entry = draft.model_copy(update={"mac": _entry_mac(key, draft)})
        path = self._folder / "ledger.jsonl"
        old = sum(len(_line(e)) for e in entries)
        with open(path, "r+b" if path.exists() else "w+b", opener=open_private) as file:
            file.truncate(old)
            file.seek(old)
            file.write(_line(entry))
            file.flush()
            os.fsync(file.fileno())
        fsync_folder(self._folder)
        head = _Head(count=entry.number + 1, mac=entry.mac)
        write_atomic(self._folder / "head.json", head.model_dump_json().encode())
        return entry

    def _records_path(self, data: str) -> Path:
        return self._folder / "records" / f"{data}.bin"

    def _write_records(self, data: str, records: Sequence[bytes], key: bytes) -> None:
        path = self._records_path(data)
        make_folder(path.parent)
        hexes = sorted({_mac(key, b"record", record)[: 2 * _RECORD_BYTES] for record in records})
        body = bytes.fromhex("".join(hexes))
        write_atomic(path, body + bytes.fromhex(_mac(key, b"records", body)))

    def _read_records(self, data: str, key: bytes) -> set[str]:
        path = self._records_path(data)
        if not path.exists():
            raise LedgerError(f"{path}: the record hashes of an earlier session are missing")
        content = path.read_bytes()
        body, mac = content[:-32], content[-32:]
        if mac.hex() != _mac(key, b"records", body):
            raise LedgerError(f"{path}: the record hashes of an earlier session were altered")
        text = body.hex()
        return {text[at : at + 2 * _RECORD_BYTES] for at in range(0, len(text), 2 * _RECORD_BYTES)}


def _mac(key: bytes, purpose: bytes, content: bytes) -> str:
    mac = hmac.HMAC(key, hashes.SHA256())
    mac.update(b"secagg/v1/ledger/" + purpose + b"\x00" + content)
    return mac.finalize().hex()


def _line(entry: LedgerEntry) -> bytes:
    return json.dumps(entry.model_dump(mode="json"), sort_keys=True, separators=(",", ":")).encode() + b"\n"


def _entry_mac(key: bytes, entry: LedgerEntry) -> str:
    return _mac(key, b"entry", _line(entry.model_copy(update={"mac": _START})))


def _parse(line: bytes, number: int, path: Path) -> LedgerEntry:
    try:
        return LedgerEntry.model_validate_json(line)
    except ValidationError as error:
        raise LedgerError(f"{path}, line {number + 1}: not a ledger entry") from error


def _parse_head(path: Path) -> _Head:
    try:
        return _Head.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise LedgerError(f"{path}: not a ledger head") from error
