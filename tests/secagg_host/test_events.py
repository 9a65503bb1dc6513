"""The event log: JSON lines for programs, short lines for people."""

import io
import json
from pathlib import Path

import pytest

from secagg.errors import StorageError
from secagg_host.events import EventLog, human_line
from secagg_host.terminal import printable


def test_the_event_log_has_one_object_a_line(tmp_path: Path) -> None:
    screen = io.StringIO()
    log = EventLog(tmp_path / "log" / "events.jsonl", screen, clock=lambda: 3661.25)
    log.emit("uploaded", client="north/a", bytes=12, missing=["x", "y"], reason=None)
    log.close()
    line = json.loads((tmp_path / "log" / "events.jsonl").read_text())
    assert line == {
        "time": 3661.25, "event": "uploaded", "client": "north/a", "bytes": 12, "missing": ["x", "y"], "reason": None,
    }  # fmt: skip
    assert screen.getvalue() == "01:01:01  uploaded     client=north/a bytes=12 missing=x, y\n"


def test_the_stream_can_show_json() -> None:
    screen = io.StringIO()
    EventLog(None, screen, as_json=True, clock=lambda: 1.0).emit("closing", members=3)
    assert json.loads(screen.getvalue()) == {"time": 1.0, "event": "closing", "members": 3}


def test_a_full_disk_drops_lines_and_stops_nothing() -> None:
    log = EventLog(Path("/dev/full"))
    log.emit("first")
    log.emit("second")


def test_a_closed_screen_stops_nothing(tmp_path: Path) -> None:
    screen = io.StringIO()
    screen.close()
    log = EventLog(tmp_path / "events.jsonl", screen)
    log.emit("kept")
    log.close()
    assert "kept" in (tmp_path / "events.jsonl").read_text()


def test_a_log_that_cannot_be_opened_is_said(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").mkdir()
    with pytest.raises(StorageError):
        EventLog(tmp_path / "events.jsonl")


def test_what_another_party_says_steers_no_terminal() -> None:
    """A forged line, a cleared screen, text turned around."""
    said = "over\x1b[2J\n12:00:00  released folder=/here\r\u202e"
    line = human_line(0, "status", {"reason": said, "names": ["a\x9bb"]})
    assert line.isprintable()
    assert r"reason=over\x1b[2J\n12:00:00  released folder=/here\r\u202e" in line
    assert r"names=a\x9bb" in line
    assert printable("Klinik Süd/client-1: ε = 4") == "Klinik Süd/client-1: ε = 4"


def test_as_json_it_steers_none_either(tmp_path: Path) -> None:
    """Neither when it is shown, nor when the file is."""
    said, screen = "over\x9b31m\x1b[2J\x7f\u202e\u2028 ε ü", io.StringIO()
    log = EventLog(tmp_path / "events.jsonl", screen, as_json=True, clock=lambda: 1.0)
    log.emit("status", reason=said)
    log.close()
    for text in (screen.getvalue(), (tmp_path / "events.jsonl").read_text()):
        assert text.isascii()
        assert text.removesuffix("\n").isprintable()
        assert json.loads(text)["reason"] == said
