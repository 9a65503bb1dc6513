"""A bad network between real parties: a TCP relay that cuts and delays, and calls that come twice, late, out of turn.

TLS runs through the relay from end to end; it sees bytes and times, as whoever owns the wire does.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from types import GeneratorType
from typing import Any

from secagg.errors import SecaggError

SOCKET_SECONDS = 60.0


@dataclass
class BadLine:
    """Relays connections on loopback to `target`. Connection number k is cut after `cuts[k]` bytes towards it.

    Every piece of at most `piece` bytes is held for `pause` seconds, in both directions.
    """

    target: str
    cuts: tuple[int, ...] = ()
    pause: float = 0.0
    piece: int = 65_536
    connections: int = 0
    carried: list[int] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)

    @contextlib.contextmanager
    def open(self) -> Iterator[str]:
        """The address to connect to."""
        listener = socket.create_server(("127.0.0.1", 0))
        thread = threading.Thread(target=self._accept, args=(listener,))
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            thread.join(SOCKET_SECONDS)

    @property
    def cut(self) -> int:
        """How many connections were cut so far."""
        return sum(carried >= limit for carried, limit in zip(self.carried, self.cuts, strict=False))

    def _accept(self, listener: socket.socket) -> None:
        host, port = self.target.rsplit(":", 1)
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            number, self.connections = self.connections, self.connections + 1
            self.carried.append(0)
            far = socket.create_connection((host, int(port)), SOCKET_SECONDS)
            near.settimeout(SOCKET_SECONDS)
            threading.Thread(target=self._relay, args=(near, far, number), daemon=True).start()
            threading.Thread(target=self._relay, args=(far, near, None), daemon=True).start()

    def _relay(self, source: socket.socket, sink: socket.socket, number: int | None) -> None:
        """One direction. `number` counts connections, for the direction that may be cut."""
        limit = self.cuts[number] if number is not None and number < len(self.cuts) else None
        try:
            while data := source.recv(self.piece):
                if self.pause:
                    time.sleep(self.pause)
                if number is not None:
                    self.carried[number] += len(data)
                    if limit is not None and self.carried[number] >= limit:
                        break  # the rest of this piece is lost, and so is the connection
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


class LateAndTwice:
    """The real calls, each made twice; and before each one an earlier one comes once more, late and out of turn.

    What the late ones are told, and whether it was a refusal, is in `late`; it never reaches the party.
    """

    def __init__(self, inner: Any, seed: int = 0) -> None:
        self.inner, self.random = inner, Random(seed)
        self.past = list[tuple[str, tuple[Any, ...]]]()
        self.late = list[SecaggError | None]()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.inner, name)

        def call(*given: Any) -> Any:
            kept = tuple(list(one) if isinstance(one, GeneratorType) else one for one in given)
            if self.past:
                self._repeat(*self.random.choice(self.past))
            self.past.append((name, kept))
            answer = _whole(method(*_fresh(kept)))
            self._repeat(name, kept)
            return iter(answer) if isinstance(answer, list) else answer

        return call

    def _repeat(self, name: str, given: tuple[Any, ...]) -> None:
        try:
            _whole(getattr(self.inner, name)(*_fresh(given)))
        except SecaggError as error:
            self.late.append(error)
        else:
            self.late.append(None)


def _fresh(given: tuple[Any, ...]) -> tuple[Any, ...]:
    """Streams from their start."""
    return tuple(iter(one) if isinstance(one, list) else one for one in given)


def _whole(answer: Any) -> Any:
    """A streamed answer, to its end."""
    return list(answer) if isinstance(answer, GeneratorType) else answer
