"""Streams of uploads, of whichever protocol: a client's newest is taken, and tells how far it is (protocol.md §7.2)."""

from collections.abc import Callable

from secagg.errors import NotReady


class Turns:
    """One client's streams: the newest holds the turn, older ones are cut and find that theirs is over.

    Whoever calls holds a lock, always the same one.
    """

    def __init__(self) -> None:
        self.turn = 0
        self._cut: Callable[[], object] | None = None

    def take(self, cut: Callable[[], object] | None = None) -> int:
        """Give the turn to a new stream; `cut` ends it when a newer one comes."""
        if self._cut is not None:
            self._cut()
        self.turn, self._cut = self.turn + 1, cut
        return self.turn

    def leave(self, turn: int) -> None:
        """The stream has ended: there is nothing to cut."""
        if self.turn == turn:
            self._cut = None

    def check(self, turn: int) -> None:
        """Raise NotReady for a stream that was overtaken."""
        if self.turn != turn:
            raise NotReady("a newer stream of this client took over: ask again where to resume")


class Progress:
    """Tells how much of an upload is stored, at most once a second: many tell at once, and a chunk may be a byte."""

    def __init__(self, clock: Callable[[], int], tell: Callable[[int], object]) -> None:
        self._clock, self._tell, self._told = clock, tell, clock()

    def at(self, stored: int) -> None:
        """So many bytes are stored now."""
        if (now := self._clock()) != self._told:
            self._told = now
            self._tell(stored)
