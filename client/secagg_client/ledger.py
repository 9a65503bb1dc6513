"""An institution's own record of the privacy it has spent, on its own disk (protocol.md §4.5).

A run is entered before it begins: a crash can make the ledger say too much, never too little. Records are remembered as
keyed hashes, so that a second session is recognised when it shares a single record with an earlier one. How the files
are kept, and which alterations of them are found and which not, is said in `ledger_files`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Self

from secagg.errors import LedgerError, PolicyViolation
from secagg.plan import TrainingSettings
from secagg_client.accounting import Mechanism, epsilon_of, loss_interval, merged
from secagg_client.data import Examples
from secagg_client.ledger_entry import LedgerEntry, LedgerLimits
from secagg_client.ledger_files import LedgerFiles, OpenLedger


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
    round_number: int = 0

    @classmethod
    def of(
        cls,
        session: str,
        name: str,
        data: Examples,
        mechanism: Mechanism,
        settings: TrainingSettings,
        round_number: int = 0,
    ) -> Self:
        """The spend of one round, counted from 0, of the session with identifier `session` (ctx, 64 hex digits).

        Raises:
            PolicyViolation: the settings have no differential privacy: there is no bound to enter.
        """
        if settings.epsilon is None:
            raise PolicyViolation("a run without differential privacy has no place in the ledger: refused")
        return cls(
            session, name, data.fingerprint(), data.record_hashes(), mechanism,
            settings.epsilon, settings.delta, settings.noise, round_number,
        )  # fmt: skip

    @property
    def run(self) -> tuple[str, int]:
        """Session and round."""
        return self.session, self.round_number


@dataclass(frozen=True, slots=True)
class DataSpent:
    """What was spent on the data set `name` and on whatever shares a record with it, at the delta of the limits."""

    name: str
    sessions: int
    steps: int
    epsilon: float


class Ledger:
    """The rules over a ledger that was made with `LedgerFiles.make`.

    Args:
        files: where it is.
        clock: seconds since 1970.

    Every method raises LedgerError when there is no ledger or its files were altered, StorageError when the disk
    refuses.
    """

    def __init__(self, files: LedgerFiles, clock: Callable[[], int]) -> None:
        self._files, self._clock = files, clock

    def __repr__(self) -> str:
        return f"Ledger({self._files!r})"

    def check(self, spend: Spend, limits: LedgerLimits) -> float:
        """The epsilon of `spend` and all earlier runs on the same data together, at `limits.delta`.

        Raises:
            LedgerError: this run was sealed or abandoned before, or is repeated with other data or settings.
            PolicyViolation: the same data were used in another session, or the composed epsilon is above the total.
        """
        with self._files.opened() as book:
            return _check(book, spend, limits)

    def begin(self, spend: Spend, limits: LedgerLimits) -> LedgerEntry:
        """Check, and enter the run durably. Call it before training; raises as `check` does."""
        with self._files.opened() as book:
            _check(book, spend, limits)
            data = _data_tag(book, spend)
            book.write_records(data, book.record_tags(spend.records))
            attempt = 1 + sum(entry.kind == "begun" and entry.run == spend.run for entry in book.entries)
            mechanism = spend.mechanism
            content = {
                "kind": "begun", "session": spend.session, "round_number": spend.round_number, "attempt": attempt,
                "name": spend.name, "data": data,
                "mechanism": {"rate": mechanism.rate, "sigma": mechanism.sigma, "steps": mechanism.steps},
                "epsilon": spend.epsilon, "delta": spend.delta, "noise": spend.noise,
            }  # fmt: skip
            return book.append(content, self._clock())

    def mark_sealed(self, session: str, upload_root: str, round_number: int = 0) -> LedgerEntry:
        """Enter that this result of the run is about to leave: it is never trained again, and no other may leave.

        Entered before, it is not entered again.

        Raises:
            LedgerError: the run was not begun or was abandoned, or another result of it was sealed before.
        """
        with self._files.opened() as book:
            last = _last(book.entries, (session, round_number))
            if last is not None and last.kind == "sealed":
                if last.upload_root != upload_root:
                    raise LedgerError(f"{_title(last)} is already sealed with another result: this one must not leave")
                return last
            return self._close(book, session, round_number, {"kind": "sealed", "upload_root": upload_root})

    def abandon(self, session: str, round_number: int = 0) -> LedgerEntry:
        """Enter that a begun run ended before anything was sealed: it has spent nothing, and can never resume.

        Raises:
            LedgerError: the run was not begun, or was sealed or abandoned before.
        """
        with self._files.opened() as book:
            return self._close(book, session, round_number, {"kind": "abandoned"})

    def entries(self) -> tuple[LedgerEntry, ...]:
        """All entries, verified, oldest first."""
        with self._files.opened() as book:
            return tuple(book.entries)

    def spent(self, limits: LedgerLimits) -> tuple[DataSpent, ...]:
        """What was spent on each data set, in the order in which their names first appear."""
        with self._files.opened() as book:
            charged = _charged(book.entries, limits)
            names = dict.fromkeys(entry.name for entry in book.entries)
            return tuple(_spent_on(book, name, charged, limits) for name in names)

    def _close(self, book: OpenLedger, session: str, round_number: int, outcome: dict[str, str]) -> LedgerEntry:
        last = _last(book.entries, (session, round_number))
        if last is None:
            raise LedgerError(f"session {session[:16]}, round {round_number} was never begun in this ledger")
        if last.kind != "begun":
            raise LedgerError(f"{_title(last)} is already {last.kind} in the ledger")
        content = last.model_dump(exclude={"number", "time", "previous", "mac"})
        return book.append({**content, **outcome}, self._clock())


# -- the rules -------------------------------------------------------------------------------------------------


def _check(book: OpenLedger, spend: Spend, limits: LedgerLimits) -> float:
    _check_rerun(book, spend)
    own = book.record_tags(spend.records)
    earlier = [
        entry
        for entry in _charged(book.entries, limits)
        if entry.session == spend.session or _touches(book, entry, spend.name, own)
    ]
    if not limits.count_attempts:  # the new attempt takes the place of the last one: only it can be sealed
        earlier = [entry for entry in earlier if entry.run != spend.run]
    foreign = [entry for entry in earlier if entry.session != spend.session]
    if foreign and not limits.allow_repeated:
        raise PolicyViolation(
            f"the data {spend.name!r} were already used in session {foreign[-1].session[:16]}; "
            "the policy does not allow a second session on the same data (allow_repeated)"
        )
    total = _epsilon([*map(_mechanism, earlier), spend.mechanism], limits)
    if not math.isfinite(total) or total > limits.total_epsilon:
        raise PolicyViolation(
            f"with this run the data {spend.name!r} would have spent epsilon {total:.3f} at delta "
            f"{limits.delta}, above the policy's total {limits.total_epsilon}"
        )
    return total


def _check_rerun(book: OpenLedger, spend: Spend) -> None:
    last = _last(book.entries, spend.run)
    if last is None:
        return
    if last.kind != "begun":
        raise LedgerError(f"{_title(last)} is already {last.kind}: it is not trained again")
    if last.data != _data_tag(book, spend) or _mechanism(last) != spend.mechanism:
        raise LedgerError(f"{_title(last)} was begun with other data or settings; a re-run must use the same")


def _charged(entries: Sequence[LedgerEntry], limits: LedgerLimits) -> list[LedgerEntry]:
    """One entry for each time that noise counts as spent.

    That is once for a run, unless it was abandoned: of its attempts one result can leave at most. With
    `count_attempts` it is every attempt, whatever became of it.
    """
    if limits.count_attempts:
        return [entry for entry in entries if entry.kind == "begun"]
    last = {entry.run: entry for entry in entries}
    return [entry for entry in last.values() if entry.kind != "abandoned"]


def _touches(book: OpenLedger, entry: LedgerEntry, name: str, records: frozenset[str]) -> bool:
    """The entry is on data of that name, or with one of these records. The file is read, and so verified, always."""
    shared = not records.isdisjoint(book.read_records(entry.data))
    return shared or entry.name == name


def _spent_on(book: OpenLedger, name: str, charged: Sequence[LedgerEntry], limits: LedgerLimits) -> DataSpent:
    records = frozenset[str]().union(*(book.read_records(entry.data) for entry in charged if entry.name == name))
    touching = [entry for entry in charged if _touches(book, entry, name, records)]
    mechanisms = [_mechanism(entry) for entry in touching]
    sessions, steps = len({entry.session for entry in touching}), sum(each.steps for each in mechanisms)
    return DataSpent(name, sessions, steps, _epsilon(mechanisms, limits) if mechanisms else 0.0)


def _epsilon(mechanisms: Sequence[Mechanism], limits: LedgerLimits) -> float:
    """All one after the other, by PLD."""
    together = merged(mechanisms)
    interval = loss_interval(limits.total_epsilon, sum(each.steps for each in together))
    return epsilon_of([each.event() for each in together], limits.delta, interval=interval)


def _mechanism(entry: LedgerEntry) -> Mechanism:
    return Mechanism(**entry.mechanism.model_dump())


def _last(entries: Sequence[LedgerEntry], run: tuple[str, int]) -> LedgerEntry | None:
    return next((entry for entry in reversed(entries) if entry.run == run), None)


def _data_tag(book: OpenLedger, spend: Spend) -> str:
    return book.tag(b"data", spend.fingerprint.encode())


def _title(entry: LedgerEntry) -> str:
    return f"session {entry.session[:16]}, round {entry.round_number}"
