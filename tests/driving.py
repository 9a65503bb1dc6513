"""A coordinator of `tests.deployment` that moves on by itself, as the deployed one does; and waiting for parties."""

import contextlib
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence

from tests.deployment import Running

PATIENCE_SECONDS = 300
"""Ten times what the longest takes beside three more of its kind: it tells a hang from a busy machine."""


def await_end(thread: threading.Thread, errors: Sequence[BaseException | None] = ()) -> None:
    """Wait for a party. When it does not end: who failed, and where everybody is."""
    thread.join(PATIENCE_SECONDS)
    if thread.is_alive():
        stacks = ["".join(traceback.format_stack(frame)[-6:]) for frame in sys._current_frames().values()]
        failed = [error for error in errors if error is not None]
        raise AssertionError("\n\n".join((f"a party did not end; errors of others: {failed}", *stacks)))


@contextlib.contextmanager
def advancing(running: Running) -> Iterator[None]:
    """Advance the sessions in the background."""
    stop = threading.Event()

    def drive() -> None:
        while not stop.wait(0.02):
            running.advance()

    thread = threading.Thread(target=drive)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextlib.contextmanager
def serving(running: Running, *holders: int) -> Iterator[None]:
    """These key-holders do what is asked of them, in the background."""
    stop = threading.Event()

    def work(index: int) -> None:
        holder = running.deployment.committee[index]
        with running.holder(index) as caller:
            while not stop.wait(0.05):
                caller.work_once(holder, running.deployment.clock)

    threads = [threading.Thread(target=work, args=(index,)) for index in holders]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
