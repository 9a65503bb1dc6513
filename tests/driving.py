"""A coordinator of `tests.deployment` that moves on by itself, as the deployed one does."""

import contextlib
import threading
from collections.abc import Iterator

from tests.deployment import Running


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
                caller.work_once(holder, running.deployment.clock())

    threads = [threading.Thread(target=work, args=(index,)) for index in holders]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
