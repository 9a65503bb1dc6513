"""When a driver looks at its session again: when something of it was recorded, and once a second for the clock's sake.

A look reads the database several times. A server of many sessions that looked at all of them at every tick would take
a third of the processor from the uploads.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

REST_SECONDS = 1.0


@dataclass
class Pace:
    """Of one server's sessions; used by one thread. `clock` only measures, so it need not know the time."""

    clock: Callable[[], float] = time.monotonic
    _seen: dict[str, tuple[int, float]] = field(default_factory=dict)

    def due(self, ctx: str, recorded: int) -> bool:
        """Whether to look at the session `ctx` now, of which so many writes were recorded; counts as a look if so."""
        now = self.clock()
        before, looked = self._seen.get(ctx, (-1, now))
        if recorded == before and looked <= now < looked + REST_SECONDS:
            return False
        self._seen[ctx] = (recorded, now)
        return True
