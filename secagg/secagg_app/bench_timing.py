"""How the benchmarks of protocols measure: wall time of one operation, and what a scheme costs in all."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds over repeats of one operation."""

    median: float
    minimum: float
    maximum: float
    repeats: int

    def per_million(self, values: int) -> "Timing":
        """The same, scaled to a million values."""
        factor = MILLION / values
        return Timing(self.median * factor, self.minimum * factor, self.maximum * factor, self.repeats)


@dataclass(frozen=True, slots=True)
class SchemeCost:
    """Cost of one scheme: times per million values, bytes a value on the wire from one client, largest error."""

    seal: Timing
    add: Timing
    open: Timing
    bytes_per_param: float
    mean_error: float


def measure(operation: Callable[[], object], repeats: int) -> Timing:
    """Wall time of `operation`, one warm-up run left out."""
    operation()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        operation()
        times.append((time.perf_counter() - start) * 1e3)
    return Timing(statistics.median(times), min(times), max(times), repeats)
