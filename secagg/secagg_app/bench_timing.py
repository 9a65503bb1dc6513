"""How the benchmarks of protocols measure: wall time of one operation, and what a scheme costs in all."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from secagg.codec import Quantiser

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
class Threaded:
    """The same times with so many threads."""

    threads: int
    seal: Timing
    add: Timing
    open: Timing


@dataclass(frozen=True, slots=True)
class SchemeCost:
    """Cost of one scheme on one thread: times per million values, bytes a value from one client, largest error.

    `threaded` is there for schemes that have a parallel path.
    """

    seal: Timing
    add: Timing
    open: Timing
    bytes_per_param: float
    mean_error: float
    threaded: Threaded | None = None

    def to_json(self, prefix: str = "") -> dict[str, float]:
        """Headline medians, each name after `prefix`."""
        figures = {
            "seal_ms_per_million": self.seal.median,
            "bytes_per_param": self.bytes_per_param,
            "add_ms_per_million": self.add.median,
            "open_ms_per_million": self.open.median,
        }
        if self.threaded is not None:
            figures |= {
                "seal_ms_per_million_all_threads": self.threaded.seal.median,
                "add_ms_per_million_all_threads": self.threaded.add.median,
                "open_ms_per_million_all_threads": self.threaded.open.median,
            }
        return {prefix + name: value for name, value in figures.items()}


def measure(operation: Callable[[], object], repeats: int) -> Timing:
    """Wall time of `operation`, one warm-up run left out."""
    operation()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        operation()
        times.append((time.perf_counter() - start) * 1e3)
    return Timing(statistics.median(times), min(times), max(times), repeats)


def room(quantiser: Quantiser) -> float:
    """How far an opened mean may be off: one step of a quantiser with one clip, and the rounding to float32."""
    (part,) = quantiser.parts
    return quantiser.step(part) + float(np.spacing(np.float32(part.clip))) / 2
