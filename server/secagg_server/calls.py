"""What a call may hold of the coordinator, and for how long: a place among its party's calls, a worker, an answer.

gRPC for Python takes a request on a worker thread before any code of ours runs, and waits for it for ever. Here every
method is served as one that takes a stream, so that a call waits for its request in a place of its own party, and not
for long. (protocol.md §11.3)
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

from google.protobuf.message import DecodeError

from secagg.errors import MalformedError, TransportError
from secagg.identity import Identity
from secagg_host.tls import grpc

CALLS_AT_ONCE = 4
"""Of one party. One is enough; more are left over from broken connections."""
REQUEST_SECONDS = 30.0
"""Until a call's first message must be there; for a method that takes but one, until the caller has said that it was
all. Clients and key-holders wait no longer than that for the whole of such a call."""

Read = Callable[[bytes], Any]
"""Reads a message from its bytes. Raises DecodeError."""


class Turnstile:
    """Lets each party make so many calls at once: one that opens streams and sends nothing keeps nobody else out."""

    def __init__(self, limit: int = CALLS_AT_ONCE) -> None:
        self._limit, self._lock, self._running = limit, threading.Lock(), Counter[str]()

    @contextmanager
    def inside(self, peer: Identity, context: grpc.ServicerContext) -> Iterator[None]:
        """Count the call while the body runs, and until it is over: its answer has gone out then, or never will.

        An answer that nobody reads is memory of this process, and a body that runs on after its caller has gone is
        a worker; each of them keeps the place. Raises TransportError, worth a retry, when there are too many.
        """
        with self._lock:
            if self._running[peer.fingerprint] >= self._limit:
                raise TransportError(f"{peer.title} makes {self._limit} calls already; ask again")
            self._running[peer.fingerprint] += 1
        held_by = ["the body", "the call"]

        def let_go() -> None:
            with self._lock:
                held_by.pop()
                if not held_by:
                    self._leave(peer.fingerprint)

        if not context.add_callback(let_go):
            let_go()  # the call was over before its turn came
        try:
            yield
        finally:
            let_go()

    def _leave(self, fingerprint: str) -> None:
        self._running[fingerprint] -= 1
        if not self._running[fingerprint]:
            del self._running[fingerprint]


class Hourglass:
    """Ends what takes longer than `seconds`. One thread watches over all of it, while there is anything to watch."""

    def __init__(self, seconds: float = REQUEST_SECONDS) -> None:
        self._seconds, self._lock, self._watched = seconds, threading.Lock(), False
        self._waiting: dict[object, tuple[float, Callable[[], object]]] = {}  # in the order in which they are due

    @contextmanager
    def over(self, end: Callable[[], object]) -> Iterator[None]:
        """Call `end`, from another thread, when the body is not done in time."""
        key = object()
        with self._lock:
            self._waiting[key] = (time.monotonic() + self._seconds, end)
            if not self._watched:
                threading.Thread(target=self._watch, name="hourglass", daemon=True).start()
                self._watched = True
        try:
            yield
        finally:
            with self._lock:
                self._waiting.pop(key, None)

    def _watch(self) -> None:
        while (pause := self._end_late()) is not None:
            time.sleep(pause)

    def _end_late(self) -> float | None:
        """Seconds until the next one is due; None when nothing is waited for, and this thread is not needed."""
        with self._lock:
            now = time.monotonic()
            late = [key for key, (due, _) in self._waiting.items() if due <= now]
            ends = [self._waiting.pop(key)[1] for key in late]
            self._watched = bool(self._waiting)
            pause = next(iter(self._waiting.values()))[0] - now if self._waiting else None
        for end in ends:
            end()
        return pause


def only_request(raw: Iterator[bytes], read: Read) -> Any:
    """The one message of a method that takes one. Raises MalformedError for none, a second, or one that is none."""
    first = next(raw, None)
    if first is None:
        raise MalformedError("the call ended without its request")
    if next(raw, None) is not None:
        raise MalformedError("this method takes one request, and a second one came")
    return reader(read)(first)


def stream_of_requests(raw: Iterator[bytes], read: Read) -> Iterator[Any]:
    """The messages of a stream, as they come; returns when the first is there."""
    first = next(raw, None)
    return map(reader(read), raw if first is None else chain((first,), raw))


def reader(read: Read) -> Read:
    """The same, but raises MalformedError: gRPC itself would write a traceback of each to stderr."""

    def checked(raw: bytes) -> Any:
        try:
            return read(raw)
        except DecodeError as error:
            raise MalformedError(f"a message is not what the method takes: {error}") from error

    return checked
