"""What a client sets aside so that the finished run can be audited (protocol.md §4.6). No disk: see `audit_files`.

Coins come from one secret seed and depend on a record's hash (or its user's) alone: equal records have one coin, and
the order of rows is nothing. Canaries come from public values: an auditor makes them again with `canaries_of`.
"""

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from secagg.agreed import Agreed
from secagg.descriptor import AuditReserve
from secagg.errors import DataError
from secagg.plan import TaskSpec, Unit
from secagg.randomness import Keystream
from secagg_client.data import Examples
from secagg_client.tasks import kind_of, make_task
from secagg_client.tasks.canaries import PublicDraws

RECORD, CANARY = b"secagg/v1/audit-record\x00", b"secagg/v1/audit-canary\x00"
CANARIES = b"secagg/v1/audit-canaries"
WORD = 8
CANARY_USER = "\0canary/"
"""Each canary is a user of its own, whose id no institution's user has."""
NO_CANARIES = Examples("canaries", ())


@dataclass(frozen=True, slots=True)
class Drawn:
    """How the coins fell. `training` is all that is trained on: every record but the non-members, and canaries.

    `members` and `nonmembers` are the candidates, in and out, in order of record hash; `canary_is_in` says it of each
    of the `canaries`.
    """

    training: Examples
    members: Examples
    nonmembers: Examples
    canaries: Examples
    canary_is_in: tuple[bool, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class AuditDraw:
    """All that one client's draw depends on, but for its secret seed.

    `key` is the session's ctx, or what the sessions of a series share; `client` the client's fingerprint.
    """

    key: str
    client: str
    reserve: AuditReserve
    task: TaskSpec
    data: Examples
    canaries: Examples
    unit: Unit = "record"

    @classmethod
    def of(
        cls,
        descriptor: Agreed,
        reserve: AuditReserve,
        client: str,
        data: Examples,
        processor: Any,
        key: str | None = None,
    ) -> Self:
        """The draw of a session's client. `processor` is the base's tokenizer, or what its task has in its place.

        Raises ConfigError, ModelError or DataError when this task has no such canaries.
        """
        key = key or descriptor.ctx
        plan = descriptor.plan
        canaries = canaries_of(key, client, reserve.canaries, plan.task, processor)
        if data.users:
            canaries = replace(canaries, users=tuple(f"{CANARY_USER}{i}" for i in range(len(canaries))))
        return cls(key, client, reserve, plan.task, data, canaries, plan.training.unit)

    def with_seed(self, seed: bytes) -> Drawn:
        """How the coins of `seed` (32 secret bytes) fall. Raises DataError when they leave nothing to train on."""
        hashes = self.data.record_hashes()
        coins = _coins(seed, self.data, self.unit)
        threshold = _threshold(self.reserve)
        candidates = [row for row, coin in enumerate(coins) if coin.number < threshold]
        ordered = sorted(candidates, key=lambda row: (hashes[row], *_content(self.data, row)))
        out = [row for row in ordered if not coins[row].heads]
        inside = canary_coins(seed, len(self.canaries))
        kept = sorted(set(range(len(self.data))) - set(out))
        training = self.data.select(kept).joined(self.canaries.select(_rows(inside)))
        if not len(training):
            raise DataError(f"{self.data.source}: the audit's coins left out every record: too few")
        return Drawn(
            training=training,
            members=self.data.select([row for row in ordered if coins[row].heads]),
            nonmembers=self.data.select(out),
            canaries=self.canaries,
            canary_is_in=inside,
        )

    def tables(self, drawn: Drawn) -> dict[str, dict[str, list[Any]]]:
        """Name of each table for the auditor, and its columns as the task reads them; canaries with `member`."""
        kind, found = kind_of(self.task), dict[str, dict[str, list[Any]]]()
        if self.reserve.hold_out:
            found["members"] = _with_users(kind.columns(drawn.members, self.task), drawn.members)
            found["nonmembers"] = _with_users(kind.columns(drawn.nonmembers, self.task), drawn.nonmembers)
        if self.reserve.canaries:
            found["canaries"] = {**kind.columns(drawn.canaries, self.task), "member": list(drawn.canary_is_in)}
        return found


def _with_users(columns: dict[str, list[Any]], data: Examples) -> dict[str, list[Any]]:
    return {**columns, "user": list(data.users)} if data.users else columns


def canaries_of(key: str, client: str, count: int, task: TaskSpec, processor: Any) -> Examples:
    """A client's canaries, from public values: the draw's key and the client's fingerprint, both 32 bytes in hex.

    Raises:
        ConfigError: the task's kind has no canaries, or not so many.
        ModelError, DataError: the base's tokenizer has no words for them, or they cannot be encoded.
    """
    if not count:
        return NO_CANARIES
    stream = Keystream(hashlib.sha256(CANARIES + bytes.fromhex(key) + bytes.fromhex(client)).digest())
    found = kind_of(task).canaries(task, processor, PublicDraws(stream), count)
    make_task(task, processor).encode(found)
    return found


@dataclass(frozen=True, slots=True)
class _Coin:
    """One coin: `number` is uniform below 2^64, `heads` fair and independent of it."""

    number: int
    heads: bool

    @classmethod
    def of(cls, seed: bytes, what: bytes) -> Self:
        tag = hmac.digest(seed, what, "sha256")
        return cls(int.from_bytes(tag[:WORD], "little"), bool(tag[WORD] & 1))


def _coins(seed: bytes, data: Examples, unit: Unit) -> "list[_Coin]":
    """Of each record: its own, or its user's."""
    owners = data.record_hashes() if unit == "record" else data.user_hashes()
    return [_Coin.of(seed, RECORD + digest) for digest in owners]


def _threshold(reserve: AuditReserve) -> int:
    return int(reserve.hold_out * 2.0 ** (8 * WORD))


def canary_coins(seed: bytes, count: int) -> tuple[bool, ...]:
    """Whether each canary is in."""
    return tuple(_Coin.of(seed, CANARY + i.to_bytes(WORD, "little")).heads for i in range(count))


def misplaced(seed: bytes, reserve: AuditReserve, data: Examples, unit: Unit, *, heads: bool) -> int:
    """How many records are no candidates, or fell on the other side: what an auditor checks of tables it is given."""
    threshold = _threshold(reserve)
    return sum(coin.number >= threshold or coin.heads != heads for coin in _coins(seed, data, unit))


def _content(data: Examples, row: int) -> tuple[str, int]:
    return data.texts[row], data.labels[row] if data.labels else 0


def _rows(chosen: Sequence[bool]) -> list[int]:
    return [row for row, taken in enumerate(chosen) if taken]
