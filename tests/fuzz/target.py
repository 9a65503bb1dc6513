"""What a fuzz target is: a decoder at the border, which may raise typed errors only (protocol.md §11.2)."""

import json
from collections.abc import Callable
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from secagg.errors import SecaggError
from tests.fuzz.mutate import frame


@dataclass(frozen=True, slots=True)
class Target:
    """A decoder: `seeds` gives valid inputs, `run` takes any."""

    name: str
    seeds: Callable[[], list[bytes]]
    run: Callable[[bytes], object]


def text(value: object) -> bytes:
    """JSON."""
    return json.dumps(value).encode()


def one_seed(make: Callable[[], bytes]) -> Callable[[], list[bytes]]:
    """The seeds of a target that has one, of one part."""
    return lambda: [frame([make()])]


class Forged(Exception):
    """A decoder accepted something that nobody signed. Never caught: a fuzzer's finding."""


def genuine(found: object, known: object) -> None:
    """What was accepted is what a party made, and nothing else. Raises Forged."""
    if found != known and not (isinstance(known, frozenset) and found in known):
        raise Forged(f"accepted {str(found)[:200]}, which nobody made")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an input led to: accepted (empty `code`), refused with a `code`, or a `problem`: any other error."""

    code: str = ""
    problem: BaseException | None = None


def attempt(target: Target, data: bytes) -> Outcome:
    """Run a target on one input."""
    try:
        target.run(data)
    except SecaggError as error:
        return Outcome(code=error.code)
    except DecodeError:  # no message at all: gRPC refuses it before any of our code runs
        return Outcome(code="no-message")
    except Exception as error:  # noqa: BLE001  (that is what is looked for)
        return Outcome(problem=error)
    return Outcome()
