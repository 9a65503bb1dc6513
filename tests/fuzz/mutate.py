"""Inputs near valid ones. Fuzzing only: its randomness is seeded and anyone's.

An input is a frame: parts, each after its length in four bytes. A part that is JSON is bent as JSON half of the time;
a seed's JSON is read once, and each of its values is then bent where it stands in the text.
"""

import json
from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Any

from tests.fuzz.json_places import Edit, JsonText, place_values

MAX_CHANGES = 4
UNCHANGED = 0.01
SMALL, SPARED = 3, 0.9
JSON_SHARE = 0.6
MOST_ITEMS, MOST_TEXTS = 40, 256

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


def _dumped(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


ATOM_TEXTS = tuple(map(_dumped, ATOMS))


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


class Mutator:
    """Bends seeds. The same `random` gives the same inputs."""

    def __init__(self, seeds: Sequence[bytes], random: Random) -> None:
        self.random = random
        self.seeds = [parts_of(seed) for seed in seeds]
        self.texts = dict[bytes, JsonText | None]()

    def next(self) -> bytes:
        """One input; now and then a seed as it is."""
        parts = list(self.random.choice(self.seeds))
        changes = 0 if self.random.random() < UNCHANGED else self.random.randint(1, MAX_CHANGES)
        chosen = Counter[int]()
        for _ in range(changes):
            at = self.random.randrange(len(parts))
            if len(parts[at]) <= SMALL and self.random.random() < SPARED:
                at = len(parts) - 1  # the first part often only says which decoder it is for
            chosen[at] += 1
        for at, count in chosen.items():
            parts[at] = self.bend(parts[at], count)
        if self.random.random() < 0.02:
            parts = self._bend_frame(parts)
        return frame(parts)

    def bend(self, part: bytes, count: int) -> bytes:
        """One part, changed so many times: first as JSON, if it is that, then as bytes."""
        as_json = 0
        if part.startswith((b"{", b"[")):
            as_json = sum(self.random.random() < JSON_SHARE for _ in range(count))
        if as_json and (text := self._placed(part)) is not None:
            part = text.edited([self._bend_json(text) for _ in range(as_json)])
            count -= as_json
        for _ in range(count):
            part = self._bend_bytes(part)
        return part

    def _placed(self, part: bytes) -> JsonText | None:
        """Where its values stand; None for what is no JSON."""
        if part not in self.texts:
            if len(self.texts) >= MOST_TEXTS:  # a guided engine gives new parts without end
                self.texts.clear()
            try:
                self.texts[part] = place_values(json.loads(part), MOST_ITEMS)
            except (ValueError, RecursionError):
                self.texts[part] = None
        return self.texts[part]

    def _bend_frame(self, parts: list[bytes]) -> list[bytes]:
        at = self.random.randrange(len(parts))
        match self.random.randrange(3):
            case 0:
                return parts[:at] + parts[at + 1 :] or [b""]
            case 1:
                return [*parts[:at], parts[at], *parts[at:]]
            case _:
                return [*parts[:at], self.random.choice(self.random.choice(self.seeds)), *parts[at + 1 :]]

    def _bend_json(self, text: JsonText) -> Edit:
        place = self.random.choice(text.places)
        match self.random.randrange(6):
            case 0:
                return text.without(place)
            case 1:
                return text.with_value(place, b"[" + text.value(place) + b"]")
            case 2:
                return text.with_twin(place)
            case 3:
                return text.with_value(place, _dumped(self._bend_atom(json.loads(text.value(place)))))
            case _:
                return text.with_value(place, self.random.choice(ATOM_TEXTS))

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
