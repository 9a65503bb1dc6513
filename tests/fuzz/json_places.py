"""Where each value of a JSON text stands, so that one can be changed without writing the whole text again."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Place:
    """A value: its text from `start` to `end`, with its key from `item` on."""

    item: int
    start: int
    end: int

    @property
    def has_key(self) -> bool:
        """Whether an object holds it."""
        return self.item < self.start


@dataclass(frozen=True, slots=True)
class Edit:
    """Other text from `start` to `end`."""

    start: int
    end: int
    text: bytes


@dataclass(frozen=True, slots=True)
class JsonText:
    """A text and the places of its values; the first place is the whole."""

    raw: bytes
    places: tuple[Place, ...]

    def value(self, place: Place) -> bytes:
        """Its text."""
        return self.raw[place.start : place.end]

    def with_value(self, place: Place, value: bytes) -> Edit:
        """Another value there."""
        return Edit(place.start, place.end, value)

    def without(self, place: Place) -> Edit:
        """The value gone, with its key and one comma beside it."""
        start, end = place.item, place.end
        if self.raw[end : end + 1] == b",":
            end += 1
        elif self.raw[max(start - 1, 0) : start] == b",":
            start -= 1
        return Edit(start, end, b"")

    def with_twin(self, place: Place) -> Edit:
        """The value twice: in a list; under its key with an x; or, of the whole text, in a list of two."""
        value = self.value(place)
        if place.has_key:
            return Edit(place.end, place.end, b"," + self.raw[place.item : place.start - 2] + b'x":' + value)
        if place.end == len(self.raw):
            return Edit(place.start, place.end, b"[" + value + b"," + value + b"]")
        return Edit(place.end, place.end, b"," + value)

    def edited(self, edits: Sequence[Edit]) -> bytes:
        """The text after the edits, the first of those that overlap."""
        pieces, at = list[bytes](), 0
        for edit in sorted(edits, key=lambda edit: (edit.start, edit.end)):
            if edit.start >= at:
                pieces += [self.raw[at : edit.start], edit.text]
                at = edit.end
        return b"".join((*pieces, self.raw[at:]))


def place_values(value: Any, most_items: int) -> JsonText:
    """Write a JSON value, and note its places: those of at most `most_items` items of a list."""
    text, places = list[str](), list[Place]()
    length = 0

    def put(piece: str) -> None:
        nonlocal length
        text.append(piece)
        length += len(piece)

    def write(one: Any, item: int, noted: bool) -> None:
        at, start = len(places), length
        if noted:
            places.append(Place(item, start, start))
        if isinstance(one, dict):
            put("{")
            for number, (key, inner) in enumerate(one.items()):
                put("," if number else "")
                before = length
                put(json.dumps(key) + ":")
                write(inner, before, noted)
            put("}")
        elif isinstance(one, list):
            put("[")
            for number, inner in enumerate(one):
                put("," if number else "")
                write(inner, length, noted and number < most_items)
            put("]")
        else:
            put(json.dumps(one))
        if noted:
            places[at] = Place(item, start, length)

    write(value, 0, True)
    return JsonText("".join(text).encode("ascii"), tuple(places))
