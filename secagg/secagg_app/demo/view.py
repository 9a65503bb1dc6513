"""What the demo shows while it runs: one screen on a terminal, lines elsewhere, JSON lines for programs."""

import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from secagg_app.demo.processes import Event
from secagg_host.events import json_line

_STEP_LINES = 4
"""Steps of a client that become lines of their own when no screen is there."""


@dataclass(slots=True)
class Row:
    """What is known of one party."""

    title: str
    state: str = "waiting"
    step: int = 0
    steps: int = 0
    loss: float | None = None
    epsilon: float | None = None
    bytes: int = 0
    note: str = ""
    shown: int = field(default=0, repr=False)


class Board:
    """The state of every party, by the events that came in."""

    def __init__(self, titles: Mapping[str, str]) -> None:
        self.rows = {party: Row(title) for party, title in titles.items()}

    def take(self, event: Event) -> str | None:
        """Bring a row up to date; returns a line worth showing when there is no screen."""
        row, fields = self.rows[event.party], event.fields
        special = {"step": self._step, "training": _training, "uploaded": _uploaded, "ended": _ended}
        if event.name in special:
            return special[event.name](row, fields)
        if event.name == "trained":
            row.step = row.steps
        return _other(row, event)

    def _step(self, row: Row, fields: Mapping[str, Any]) -> str | None:
        row.step, row.steps = int(fields["step"]), int(fields["steps"])
        row.loss, row.epsilon = fields.get("loss"), fields.get("epsilon")
        part = row.step * _STEP_LINES // max(1, row.steps)
        if part <= row.shown:
            return None
        row.shown = part
        return f"step {row.step}/{row.steps}, {_loss(row.loss)}, {_spent(row.epsilon)}"


def _training(row: Row, fields: Mapping[str, Any]) -> str:
    row.steps, row.state = int(fields["steps"]), "training"
    return f"trains: {row.steps} steps, epsilon {fields['epsilon']:g}"


def _uploaded(row: Row, fields: Mapping[str, Any]) -> str:
    row.state, row.bytes = "uploaded", int(fields["bytes"])
    return f"uploaded {row.bytes:,} bytes, none of them readable"


def _ended(row: Row, fields: Mapping[str, Any]) -> str | None:
    if row.state == "vanished":
        return None
    row.state = "failed" if fields["status"] else "done"
    return f"ended with status {fields['status']}" if fields["status"] else None


def _other(row: Row, event: Event) -> str | None:
    if event.name in _SERVED and ("client" in event.fields or "holder" in event.fields):
        said, row.state = _SERVED[event.name]
        return said.format_map(_Blank(event.fields))
    if event.name == "session" and "state" in event.fields:
        line = f"session {event.fields['state']}: {event.fields.get('reason') or ''}".rstrip(": ")
    elif event.name == "waiting" and "missing" in event.fields:
        line = f"waits for {event.fields['what']}: {', '.join(event.fields['missing'])}"
    elif event.name == "erased" and "files" in event.fields:
        line = f"deleted {event.fields['files']} stored files"
    elif (words := _WORDS.get(event.name)) is not None:
        line = words.format_map(_Blank(event.fields))
    else:
        return None
    row.state = line.split(":", 1)[0]
    return line


class _Blank(dict[str, Any]):
    """Fields of an event for a text; one that is not there is left out."""

    def __missing__(self, key: str) -> str:
        return ""


_SERVED = {
    "enrolled": ("enrolled {client}", "waits for uploads"),
    "approved": ("took the approval of {holder}: {count}, {needed} needed", "collects approvals"),
    "endorsed": ("took the endorsement of the {stage} set by {holder}", "collects endorsements"),
    "share": ("took the share sum of {holder}: {count}, {needed} needed", "collects share sums"),
    "sums": ("took the sums that {holder} opened", "waits for the sums"),
    "masked-advertise": ("took the keys of {client}: {have} of {of}", "collects keys"),
    "masked-share": ("took the shares of {client}: {have} of {of}", "collects shares of keys"),
    "masked-endorse": ("took the endorsement of {client}: {have} of {of}", "collects endorsements"),
    "masked-unmask": ("took what {client} gave to unmask the sum: {have} of {of}", "unmasks the sum"),
    "refused": ("refused an upload of {client}: {message}", "waits for uploads"),
}
"""What the coordinator did at the request of a `client` or `holder`: the line, and the state that it is in."""
_WORDS = {
    "listening": "listening at {address}",
    "session": "accepted the session",
    "enrolled": "enrolled",
    "trained": "trained",
    "approved": "approved the session",
    "closing": "closed: {members} uploads",
    "final": "final set: {members} members",
    "endorsed": "endorsed the {stage} set",
    "shared": "gave its share sum",
    "advertised": "advertised its keys",
    "key-shared": "shared its mask key with {holders} others",
    "opened": "opened the sum of {members} uploads",
    "unmasked": "gave {shares} shares",
    "late": "was late: {reason}",
    "round": "round '{closed}' closed: {have} of {of}",
    "erased": "erased its session key",
    "released": "released",
    "problem": "problem: {message}",
    "waiting": "waiting: {reason}",
    "failed": "failed: {reason}",
    "resumed": "goes on: {step}",
}


def _loss(loss: float | None) -> str:
    return "no example in the batch" if loss is None else f"loss {loss:.3f}"


def _spent(epsilon: float | None) -> str:
    return "no privacy noise" if epsilon is None else f"epsilon {epsilon:.2f} spent"


class View:
    """Base of the three ways to show a run. A context manager."""

    def __init__(self, board: Board) -> None:
        self.board = board

    def event(self, event: Event) -> None:
        """Show what a process did."""
        self.board.take(event)

    def say(self, text: str) -> None:
        """Show what the demo does itself."""

    def mark(self, party: str, state: str, text: str) -> None:
        """Set a party's state, with a line about it."""
        self.board.rows[party].state = state
        self.say(f"{self.board.rows[party].title}: {text}")

    def close(self) -> None:
        """Nothing more comes."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class JsonView(View):
    """Every event as a JSON line."""

    def __init__(self, board: Board, stream: TextIO = sys.stdout) -> None:
        super().__init__(board)
        self._stream = stream

    def event(self, event: Event) -> None:
        """`{"event", "party", ...}`."""
        super().event(event)
        self._write({"event": event.name, "party": event.party, **event.fields})

    def say(self, text: str) -> None:
        """`{"event": "demo", "text"}`."""
        self._write({"event": "demo", "time": round(time.time(), 3), "text": text})

    def _write(self, fields: Mapping[str, Any]) -> None:
        with suppress(BrokenPipeError):
            self._stream.write(json_line(fields) + "\n")
            self._stream.flush()


class LineView(View):
    """Lines with the time since the start; for logs and pipes."""

    def __init__(self, board: Board, stream: TextIO = sys.stdout) -> None:
        super().__init__(board)
        self._stream, self._start = stream, time.monotonic()

    def event(self, event: Event) -> None:
        """The line, when there is one."""
        line = self.board.take(event)
        if line is not None:
            self.say(f"{self.board.rows[event.party].title}: {line}")

    def say(self, text: str) -> None:
        """`  12.3s  text`."""
        with suppress(BrokenPipeError):
            self._stream.write(f"{time.monotonic() - self._start:6.1f}s  {text}\n")
            self._stream.flush()


class ScreenView(View):
    """One screen that is drawn anew as things happen."""

    def __init__(self, board: Board, console: Console) -> None:
        super().__init__(board)
        self._text, self._start = "", time.monotonic()
        self._live = Live(console=console, refresh_per_second=4, get_renderable=self._draw)
        self._live.start()

    def say(self, text: str) -> None:
        """What goes on now, below the table."""
        self._text = text

    def close(self) -> None:
        """Leave the last screen standing."""
        self._live.stop()

    def _draw(self) -> Group:
        table = Table(box=None, pad_edge=False, expand=True)
        for name in ("party", "state", "progress"):
            table.add_column(name, header_style="dim", no_wrap=True)
        for name in ("loss", "epsilon", "sent"):
            table.add_column(name, header_style="dim", justify="right", no_wrap=True)
        for row in self.board.rows.values():
            table.add_row(*_cells(row))
        clock = f"[dim]{time.monotonic() - self._start:5.0f} s[/dim]  "
        return Group(table, Text(""), Text.from_markup(clock).append(self._text))


_STYLES = {"failed": "bold red", "vanished": "yellow", "done": "green", "uploaded": "green", "released": "green"}


def _cells(row: Row) -> tuple[Text, Text, ProgressBar | Text, Text, Text, Text]:
    style = next((value for key, value in _STYLES.items() if row.state.startswith(key)), "")
    bar: ProgressBar | Text = Text("")
    if row.steps:
        bar = ProgressBar(total=row.steps, completed=row.step, width=24)
    return (
        Text(row.title),
        Text(row.state, style=style, overflow="ellipsis"),
        bar,
        Text("" if row.loss is None else f"{row.loss:.3f}"),
        Text("" if row.epsilon is None else f"{row.epsilon:.2f}"),
        Text(f"{row.bytes / 1e6:.2f} MB" if row.bytes else ""),
    )


def make_view(titles: Mapping[str, str], *, as_json: bool) -> View:
    """JSON lines when asked for, a screen on a terminal, lines otherwise."""
    board = Board(titles)
    if as_json:
        return JsonView(board)
    console = Console()
    return ScreenView(board, console) if console.is_terminal else LineView(board)
