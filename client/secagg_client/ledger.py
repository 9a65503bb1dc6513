"""An institution's own record of the privacy it has spent, on its own disk (protocol.md §4.5).

A run is entered before it begins: a crash can make the ledger say too much, never too little. Records and users are
remembered as keyed hashes, so that a second session is recognised when it shares a single record, or user, with an
earlier one. How the files are kept, and which alterations of them are found and which not, is said in `ledger_files`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Self

from secagg.errors import LedgerError, LimitReached, PolicyViolation
from secagg.plan import TrainingSettings, Unit
from secagg_client.accounting import Mechanism, epsilon_of, loss_interval, merged
from secagg_client.client_noise_accounting import composed
from secagg_client.data import Examples
from secagg_client.ledger_entry import ClientLevelRecord, LedgerEntry, LedgerLimits
from secagg_client.ledger_files import LedgerFiles, OpenLedger


@dataclass(frozen=True, slots=True)
class Spend:
    """What a run is about to spend, on what. `name` is the institution's name for its data set.

    `records` and `users` are hashes; there are no users where the institution named none. `epsilon` is for one `unit`.
    `client_level` is what the run's release spends of the institution as a whole, where the session adds such noise.
    `releases` is how many the session may have, of which one at most holds the run's vector.
    """

    session: str
    name: str
    fingerprint: str = field(repr=False)
    records: tuple[bytes, ...] = field(repr=False)
    mechanism: Mechanism = field(repr=False)
    epsilon: float
    delta: float
    noise: Literal["secure", "seeded"]
    round_number: int = 0
    unit: Unit = "record"
    users: tuple[bytes, ...] = field(default=(), repr=False)
    client_level: ClientLevelRecord | None = None
    releases: int = 1

    @classmethod
    def of(
        cls,
        session: str,
        name: str,
        data: Examples,
        mechanism: Mechanism,
        settings: TrainingSettings,
        round_number: int = 0,
        client_level: ClientLevelRecord | None = None,
    ) -> Self:
        """The spend of one round, counted from 0, of the session with identifier `session` (ctx, 64 hex digits).

        `data` are all that were read, before `users.bounded`: the rest of a user's records are that user's too.

        Raises:
            PolicyViolation: the settings have no differential privacy: there is no bound to enter.
        """
        if settings.epsilon is None:
            raise PolicyViolation("a run without differential privacy has no place in the ledger: refused")
        return cls(
            session, name, data.fingerprint(), data.record_hashes(), mechanism,
            settings.epsilon, settings.delta, settings.noise, round_number, settings.unit, data.user_hashes(),
            client_level,
        )  # fmt: skip

    @property
    def run(self) -> tuple[str, int]:
        """Session and round."""
        return self.session, self.round_number


@dataclass(frozen=True, slots=True)
class DataSpent:
    """What was spent on the data set `name`, and on what shares a record or user with it, at the delta of the limits.

    `epsilon` is for one `unit`: runs of different units are not added up.
    """

    name: str
    unit: Unit
    sessions: int
    steps: int
    epsilon: float


@dataclass(frozen=True, slots=True)
class ClientSpent:
    """What was spent of the institution as a whole, over all its data, at the delta of the limits (protocol.md §4.5f).

    `epsilon` is that of `releases` with client-level noise, in `sessions`; `without` sessions had none, and nothing
    bounds what they show.
    """

    sessions: int
    releases: int
    without: int
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
            PolicyViolation: the same data were used in another session, or under another unit of privacy, or the
                composed epsilon is above the total; that of the institution as a whole is, or has no bound.
        """
        with self._files.opened() as book:
            return _check(book, spend, limits)

    def begin(self, spend: Spend, limits: LedgerLimits) -> LedgerEntry:
        """Check, and enter the run durably. Call it before training; raises as `check` does."""
        with self._files.opened() as book:
            _check(book, spend, limits)
            data = _data_tag(book, spend)
            book.write_tags("records", data, book.record_tags(spend.records))
            if spend.users:
                book.write_tags("users", data, book.user_tags(spend.users))
            attempt = 1 + sum(entry.kind == "begun" and entry.run == spend.run for entry in book.entries)
            mechanism = spend.mechanism
            content = {
                "kind": "begun", "session": spend.session, "round_number": spend.round_number, "attempt": attempt,
                "name": spend.name, "data": data,
                "mechanism": {"rate": mechanism.rate, "sigma": mechanism.sigma, "steps": mechanism.steps},
                "epsilon": spend.epsilon, "delta": spend.delta, "noise": spend.noise,
                "unit": spend.unit, "users": bool(spend.users), "client_level": spend.client_level,
                "releases": spend.releases,
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
            kinds = dict.fromkeys((entry.name, entry.unit) for entry in book.entries)
            return tuple(_spent_on(book, name, unit, charged, limits) for name, unit in kinds)

    def client_spent(self, limits: LedgerLimits) -> ClientSpent:
        """What was spent of the institution as a whole."""
        with self._files.opened() as book:
            charged = _charged(book.entries, limits)
            records = [entry.client_level for entry in charged if entry.client_level is not None]
            sessions = {entry.session for entry in charged if entry.client_level is not None}
            without = {entry.session for entry in charged if entry.client_level is None}
            return ClientSpent(len(sessions), len(records), len(without), composed(records, limits.delta))

    def _close(self, book: OpenLedger, session: str, round_number: int, outcome: dict[str, str]) -> LedgerEntry:
        last = _last(book.entries, (session, round_number))
        if last is None:
            raise LedgerError(f"session {session[:16]}, round {round_number} was never begun in this ledger")
        if last.kind != "begun":
            raise LedgerError(f"{_title(last)} is already {last.kind} in the ledger")
        content = last.model_dump(exclude={"number", "time", "previous", "mac"})
        return book.append({**content, **outcome}, self._clock())


# -- the rules -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Data:
    """Data as the ledger recognises them: by name, and by tags of records and users."""

    name: str
    unit: Unit
    records: frozenset[str]
    users: frozenset[str]

    def touches(self, book: OpenLedger, entry: LedgerEntry) -> bool:
        """The entry is on data of that name, or with one of these records; or users, where either unit is the user.

        The files are read, and so verified, always.
        """
        records = book.read_tags("records", entry.data)
        users = book.read_tags("users", entry.data) if entry.users else frozenset[str]()
        by_user = "user" in (self.unit, entry.unit) and not self.users.isdisjoint(users)
        return entry.name == self.name or by_user or not self.records.isdisjoint(records)


def _check(book: OpenLedger, spend: Spend, limits: LedgerLimits) -> float:
    _check_rerun(book, spend)
    own = _Data(spend.name, spend.unit, book.record_tags(spend.records), book.user_tags(spend.users))
    earlier = [
        entry for entry in _charged(book.entries, limits) if entry.session == spend.session or own.touches(book, entry)
    ]
    _check_unit(earlier, spend)
    if not limits.count_attempts:  # the new attempt takes the place of the last one: only it can be sealed
        earlier = [entry for entry in earlier if entry.run != spend.run]
    foreign = [entry for entry in earlier if entry.session != spend.session]
    if foreign and not limits.allow_repeated:
        raise LimitReached(
            f"the data {spend.name!r} were already used in session {foreign[-1].session[:16]}, and this client does "
            "not allow a second session on the same data. To allow several that together stay below a total, set "
            "total_epsilon, delta and allow_repeated = true under [limits] of the client's configuration"
        )
    total = _epsilon([*map(_mechanism, earlier), spend.mechanism], limits)
    if not math.isfinite(total) or total > limits.total_epsilon:
        raise PolicyViolation(
            f"with this run the data {spend.name!r} would have spent epsilon {total:.3f} at delta "
            f"{limits.delta}, above the policy's total {limits.total_epsilon}"
        )
    _check_client_level(book, spend, limits)
    return total


def _check_client_level(book: OpenLedger, spend: Spend, limits: LedgerLimits) -> None:
    """The institution as a whole, whatever the data: never composed with epsilons of records or users (§4.5f)."""
    most = limits.total_client_epsilon
    if most is None:
        return
    if spend.client_level is None:
        raise PolicyViolation(
            "the session adds no noise for whole clients, so nothing bounds what it spends of this institution as a "
            f"whole, and total_client_epsilon allows {most:g}. Take part in sessions with client_noise, or remove the "
            "limit"
        )
    charged = _charged(book.entries, limits)
    if not limits.count_attempts:
        charged = [entry for entry in charged if entry.run != spend.run]
    earlier = [entry.client_level for entry in charged if entry.client_level is not None]
    total = composed([*earlier, spend.client_level], limits.delta)
    if total > most:
        raise PolicyViolation(
            f"with this run the institution as a whole would have spent a client-level epsilon of {total:.3f} at delta "
            f"{limits.delta}, above the total {most:g} (total_client_epsilon)"
        )


def _check_unit(earlier: Sequence[LedgerEntry], spend: Spend) -> None:
    """No epsilon of one unit bounds the other: a user has many records, and one of these is no user (§2.6c)."""
    other = next((entry for entry in earlier if entry.unit != spend.unit), None)
    if other is not None:
        raise PolicyViolation(
            f"the data {spend.name!r} were already used in session {other.session[:16]}, with the {other.unit} as unit "
            f"of privacy; this session's is the {spend.unit}, and neither epsilon says anything for the other. Take "
            f"part with other data, or in a session whose unit is the {other.unit}"
        )


def _check_rerun(book: OpenLedger, spend: Spend) -> None:
    last = _last(book.entries, spend.run)
    if last is None:
        return
    if last.kind != "begun":
        raise LedgerError(f"{_title(last)} is already {last.kind}: it is not trained again")
    same = last.client_level in {None, spend.client_level}  # None: the line is from before the ledger knew of it
    if last.data != _data_tag(book, spend) or _mechanism(last) != spend.mechanism or not same:
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


def _spent_on(
    book: OpenLedger, name: str, unit: Unit, charged: Sequence[LedgerEntry], limits: LedgerLimits
) -> DataSpent:
    charged = [entry for entry in charged if entry.unit == unit]
    named = [entry for entry in charged if entry.name == name]
    records = frozenset[str]().union(*(book.read_tags("records", entry.data) for entry in named))
    users = frozenset[str]().union(*(book.read_tags("users", entry.data) for entry in named if entry.users))
    data = _Data(name, unit, records, users)
    touching = [entry for entry in charged if data.touches(book, entry)]
    mechanisms = [_mechanism(entry) for entry in touching]
    sessions, steps = len({entry.session for entry in touching}), sum(each.steps for each in mechanisms)
    return DataSpent(name, unit, sessions, steps, _epsilon(mechanisms, limits) if mechanisms else 0.0)


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
    return f"session {entry.session[:16]}, round {entry.round_number + 1}"
