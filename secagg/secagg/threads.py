"""One job over a range of numbers, on one or many threads of this process."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


def in_ranges(count: int, threads: int, work: Callable[[int, int], None], step: int = 1) -> None:
    """Call `work(start, stop)` over ranges that cover 0..count, whole steps each, a thread for each range.

    They run at once as far as kernels, hashes and ciphers release the interpreter. Raises what `work` raises.
    """
    if not count:
        return
    steps = -(-count // step)
    each = -(-steps // max(1, min(threads, steps))) * step
    ranges = [(start, min(start + each, count)) for start in range(0, count, each)]
    if len(ranges) == 1:
        work(*ranges[0])
        return
    with ThreadPoolExecutor(len(ranges)) as pool:
        for done in [pool.submit(work, *bounds) for bounds in ranges]:
            done.result()
