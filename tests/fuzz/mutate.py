"""Inputs near valid ones. Fuzzing only: its randomness is seeded and anyone's.

An input is a frame: parts, each after its length in four bytes. A part that is JSON is bent as JSON half of the time.
"""

import json
from collections.abc import Sequence
from random import Random
from typing import Any

MAX_CHANGES = 4
UNCHANGED = 0.01
SMALL, SPARED = 3, 0.9
JSON_SHARE = 0.6
MOST_ITEMS = 40

ATOMS: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 7, 255, 256, 2**31, 2**32, 2**53, 2**53 + 1, 2**63, 2**64, 10**30, -(2**63),
    0.0, -0.0, 0.5, 1.0, 1.5, -1.0, 1e-7, 5e-324, 1e308, float("nan"), float("inf"), float("-inf"),
    "", "0", "x", "null", "\x00", "\u2028", "\U0001f600", "é", "00" * 31, "00" * 32, "00" * 33, "FF" * 32, "ff" * 32,
    "a" * 5000, "../../etc", "é" * 64, "candidate", "final", "sealed", "record", "user", "zeros", "seeded", "embedded",
    "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n", "AAAA", "====", "%",
    [], {}, [[]], [None], {"": None}, [0] * 300, {"a": {"a": {"a": {}}}},
)  # fmt: skip
TOKENS = (
    b"", b"\x00", b"\xff", b"\x00" * 4, b"\xff" * 4, b"\x7f", b"\x80", b"{}", b"[]", b'""', b"null", b"NaN", b"-",
    b"1e999", b"\\u0000", b"\\ud800", b"\xed\xa0\x80", b"\xf0\x9f\x98\x80", b'{"a":' * 50, b"[" * 2000, b"9" * 5000,
    b"\xef\xbb\xbf", b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----", b"\n", b"=", b'"', b"'''",
    b"\x0a\xff\xff\xff\xff\x0f",
)  # fmt: skip


def frame(parts: Sequence[bytes]) -> bytes:
    """Parts as one input."""
    return b"".join(len(part).to_bytes(4, "little") + part for part in parts)


def parts_of(data: bytes, count: int | None = None) -> list[bytes]:
    """The parts of any input: cut short where it ends, filled up with empty ones to `count`."""
    parts, at = list[bytes](), 0
    while at < len(data) and (count is None or len(parts) < count):
        size = int.from_bytes(data[at : at + 4], "little")
        parts.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    return parts + [b""] * ((count or 0) - len(parts))


def _places(whole: list[Any]) -> list[tuple[Any, Any]]:
    """Every place in a JSON value that is the one item of `whole`: the list or mapping that holds it, and its key."""
    found: list[tuple[Any, Any]] = [(whole, 0)]
    for holder, key in found:  # it grows on the way
        value = holder[key]
        if isinstance(value, dict):
            found += [(value, inner) for inner in value]
        elif isinstance(value, list):
            found += [(value, index) for index in range(min(len(value), MOST_ITEMS))]
    return found


class Mutator:
    """Bends seeds. The same `random` gives the same inputs."""

    def __init__(self, seeds: Sequence[bytes], random: Random) -> None:
        self.random = random
        self.seeds = [parts_of(seed) for seed in seeds]

    def next(self) -> bytes:
        """One input; now and then a seed as it is."""
        parts = list(self.random.choice(self.seeds))
        changes = 0 if self.random.random() < UNCHANGED else self.random.randint(1, MAX_CHANGES)
        for _ in range(changes):
            at = self.random.randrange(len(parts))
            if len(parts[at]) <= SMALL and self.random.random() < SPARED:
                at = len(parts) - 1  # the first part often only says which decoder it is for
            parts[at] = self.bend(parts[at])
        if self.random.random() < 0.02:
            parts = self._bend_frame(parts)
        return frame(parts)

    def bend(self, part: bytes) -> bytes:
        """One part, changed once."""
        if self.random.random() < JSON_SHARE and part.startswith((b"{", b"[")):
            try:
                return self._bend_json([json.loads(part)])
            except (ValueError, RecursionError):
                pass  # it is JSON no more
        return self._bend_bytes(part)

    def _bend_frame(self, parts: list[bytes]) -> list[bytes]:
        at = self.random.randrange(len(parts))
        match self.random.randrange(3):
            case 0:
                return parts[:at] + parts[at + 1 :] or [b""]
            case 1:
                return [*parts[:at], parts[at], *parts[at:]]
            case _:
                return [*parts[:at], self.random.choice(self.random.choice(self.seeds)), *parts[at + 1 :]]

    def _bend_json(self, whole: list[Any]) -> bytes:
        holder, key = self.random.choice(_places(whole))
        which = self.random.randrange(6)
        if which == 2 and isinstance(holder, list):
            which = 6
        match which:
            case 0:
                del holder[key]
            case 1:
                holder[key] = [holder[key]]
            case 6:
                holder.append(holder[key])
            case 2:
                holder[str(key) + "x"] = holder[key]
            case 3:
                holder[key] = self._bend_atom(holder[key])
            case _:
                holder[key] = self.random.choice(ATOMS)
        return json.dumps(whole[0]).encode("utf-8", "surrogatepass") if whole else b""

    def _bend_atom(self, value: Any) -> Any:
        if isinstance(value, bool) or value is None:
            return not value
        if isinstance(value, int | float):
            return self.random.choice((value + 1, value - 1, -value, value * 2, float(value), str(value)))
        if isinstance(value, str):
            at = self.random.randrange(len(value) + 1)
            return value[:at] + self.random.choice(("", "0", "f", "\n", "é", "/")) + value[at + 1 :]
        return list(value)

    def _bend_bytes(self, part: bytes) -> bytes:
        random = self.random
        at = random.randrange(len(part) + 1)
        span = random.choice((1, 1, 2, 4, 16, 100))
        match random.randrange(8):
            case 0 if at < len(part):
                return part[:at] + bytes([part[at] ^ (1 << random.randrange(8))]) + part[at + 1 :]
            case 1:
                return part[:at] + random.randbytes(span) + part[at + span :]
            case 2:
                return part[:at] + part[at + span :]
            case 3:
                return part[:at] + random.randbytes(span) + part[at:]
            case 4:
                return part[:at]
            case 5:
                other = random.randrange(len(part) + 1)
                return part[:at] + part[other : other + 4 * span] + part[at:]
            case 6:
                return part[:at] + random.choice(TOKENS) + part[at + span :]
            case _:
                return part[:at] + random.choice(TOKENS) + part[at:]
