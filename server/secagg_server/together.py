"""Work that many threads ask for at once, done for all of them at once: one write to the disk instead of many."""

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from secagg.errors import SecaggError

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Call(Generic[Item, Result]):
    """One thread's item, and what came of it."""

    __slots__ = ("done", "error", "item", "results")

    def __init__(self, item: Item) -> None:
        self.item = item
        self.done = False
        self.results = list[Result]()
        self.error: BaseException | None = None


class Together(Generic[Item, Result]):
    """Calls `work` with every item that was brought while its last call ran, from one of the waiting threads.

    `work` returns a result or a SecaggError for each item, in order; what it raises, all of its callers raise.
    """

    def __init__(self, work: Callable[[Sequence[Item]], Sequence[Result | SecaggError]]) -> None:
        self._work = work
        self._turn, self._lock = threading.Lock(), threading.Lock()
        self._waiting = list[_Call[Item, Result]]()

    def do(self, item: Item) -> Result:
        """The result for this item, or its error."""
        call = _Call[Item, Result](item)
        with self._lock:
            self._waiting.append(call)
        with self._turn:
            if not call.done:
                with self._lock:
                    calls, self._waiting = self._waiting, []
                self._run(calls)
        if call.error is not None:
            raise call.error
        return call.results[0]

    def _run(self, calls: list[_Call[Item, Result]]) -> None:
        try:
            for call, result in zip(calls, self._work([call.item for call in calls]), strict=True):
                if isinstance(result, SecaggError):
                    call.error = result
                else:
                    call.results.append(result)
        except BaseException as error:
            for call in calls:
                call.error = error
            raise
        finally:
            for call in calls:
                call.done = True
