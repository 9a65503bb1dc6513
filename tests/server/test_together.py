"""Work of many threads in one go (secagg_server.together)."""

import threading
import time
from collections.abc import Sequence

import pytest

from secagg.errors import ConflictError, SecaggError, StorageError
from secagg_server.together import Together


def in_threads(count: int, task: object) -> list[object]:
    results: list[object] = [None] * count

    def run(number: int) -> None:
        try:
            results[number] = task(number)  # type: ignore[operator]
        except SecaggError as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    return results


def test_what_comes_while_work_runs_is_done_in_the_next_go() -> None:
    goes, first = list[list[int]](), threading.Event()

    def work(items: Sequence[int]) -> list[int]:
        goes.append(list(items))
        if len(goes) == 1:
            first.set()
            end = time.monotonic() + 60
            while len(together._waiting) < 4 and time.monotonic() < end:
                time.sleep(0.01)
        return [item * 10 for item in items]

    together = Together(work)

    def task(number: int) -> int:
        if number:
            first.wait(60)
        return together.do(number)

    assert in_threads(5, task) == [0, 10, 20, 30, 40]
    assert goes[0] == [0]
    assert sorted(item for go in goes[1:] for item in go) == [1, 2, 3, 4]
    assert len(goes) == 2, "four waited, and went together"


def test_everybody_gets_an_own_result_or_error() -> None:
    def work(items: Sequence[int]) -> list[int | SecaggError]:
        return [ConflictError(str(item)) if item % 2 else item for item in items]

    results = in_threads(6, Together(work).do)
    assert results[::2] == [0, 2, 4]
    assert [str(error) for error in results[1::2]] == ["1", "3", "5"]


def test_what_the_work_raises_all_of_its_callers_raise() -> None:
    def work(items: Sequence[int]) -> list[int]:
        raise StorageError("disk is full")

    together = Together(work)
    assert all(isinstance(result, StorageError) for result in in_threads(4, together.do))
    with pytest.raises(StorageError):
        together.do(9)
