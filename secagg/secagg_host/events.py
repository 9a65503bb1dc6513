"""The event log: what a process did, one JSON object a line, for people and the demo. No secret enters it."""

import json
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from secagg_host.durable import guard, make_folder, open_private
from secagg_host.terminal import printable

Field = str | int | float | bool | None | list[str]


class EventLog:
    """Appends `{time, event, ...fields}` to a file, and shows it on a stream as JSON or as a line for people.

    `time` is in seconds since 1970, UTC. A log that cannot be written to (full disk, closed pipe) drops the
    line and never stops the work: what must be durable is in the party's state, not here.
    """

    def __init__(
        self,
        path: Path | None = None,
        stream: TextIO | None = None,
        *,
        as_json: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._stream, self._as_json, self._clock = stream, as_json, clock
        self._lock = threading.Lock()
        self._file: TextIO | None = None
        if path is not None:
            make_folder(path.parent)
            with guard(path):
                self._file = open(path, "a", encoding="utf-8", opener=open_private)  # noqa: SIM115 - closed by `close`

    def emit(self, event: str, **fields: Field) -> None:
        """Log one event."""
        now = self._clock()
        line = json_line({"time": round(now, 3), "event": event, **fields})
        with self._lock:
            for target, text in (
                (self._file, line),
                (self._stream, line if self._as_json else human_line(now, event, fields)),
            ):
                if target is not None:
                    with suppress(OSError, ValueError):
                        target.write(text + "\n")
                        target.flush()

    def close(self) -> None:
        """Close the file; the stream belongs to the caller."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None


def json_line(fields: Mapping[str, object]) -> str:
    """An object in printable ASCII: also where others' words are in it, it steers no terminal that shows it."""
    return json.dumps(fields).replace("\x7f", "\\u007f")


def human_line(now: float, event: str, fields: dict[str, Field]) -> str:
    """`12:34:56  uploaded  client=north/a bytes=123`."""
    clock = datetime.fromtimestamp(now, UTC).strftime("%H:%M:%S")
    shown = (f"{name}={_show(value)}" for name, value in fields.items() if value is not None)
    return printable(f"{clock}  {event:<12} {' '.join(shown)}".rstrip())


def _show(value: Field) -> str:
    if isinstance(value, list):
        return ", ".join(value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
