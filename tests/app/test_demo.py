"""`secagg demo` with real processes on a tiny model: the whole road, and what it says when a process fails."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from secagg.certificate import SignedRelease
from secagg.ckks.certificate import SignedCkksRelease
from secagg.masked.certificate import SignedMaskedRelease
from tests.tiny import LABELS, sentences

PATIENCE = 900.0
"""A demo takes a minute; on a machine that is busy otherwise, several. It tells a hang from that."""
OPTIONS = ("--clients", "3", "--drop", "1", "--steps", "3", "--json")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled made-up sentences, one a line."""
    path = tmp_path_factory.mktemp("texts") / "own.jsonl"
    rows = zip(*sentences(700), strict=True)
    path.write_text("".join(json.dumps({"body": text, "mood": LABELS[label]}) + "\n" for text, label in rows))
    return path


class Demo:
    """A demo that runs, and the events it has shown so far."""

    def __init__(self, process: "subprocess.Popen[str]", errors: Path) -> None:
        self.process, self.events = process, list[dict[str, Any]]()
        self._errors, self._news = errors, threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout or ():
            with self._news:
                self.events.append(json.loads(line))
                self._news.notify_all()

    def wait_for(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first event that is wanted."""
        deadline = time.monotonic() + PATIENCE
        with self._news:
            while not (found := [event for event in self.events if wanted(event)]):
                assert self._news.wait(deadline - time.monotonic()), "it did not come in time"
        return found[0]

    def pid(self, party: str) -> int:
        """Of a party's process."""
        return int(self.wait_for(lambda event: event["event"] == "started" and event["party"] == party)["pid"])

    def end(self) -> tuple[int, str]:
        """Exit status and stderr, when every event has been read."""
        status = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return status, self._errors.read_text()


@contextmanager
def demo(out: Path, *options: str | Path) -> Iterator[Demo]:
    """`secagg demo` as a process of its own."""
    command = [sys.executable, "-m", "secagg_app", "demo", "--out", str(out), *map(str, options)]
    errors = out.with_name(f"{out.name}.stderr")
    with errors.open("w") as sink:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=sink, stdin=subprocess.DEVNULL, text=True)
    try:
        yield Demo(process, errors)
    finally:
        process.terminate()
        process.wait(PATIENCE)


def own(model: Path, data: Path) -> tuple[str | Path, ...]:
    return ("--model", model, "--data", data, "--text-column", "body", "--label-column", "mood", *OPTIONS)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_the_whole_road_on_own_model_and_data(tmp_path: Path, tiny_bert_dir: Path, texts: Path) -> None:
    out = tmp_path / "run"
    with demo(out, *own(tiny_bert_dir, texts)) as running:
        status, error = running.end()
    assert status == 0, error
    result = running.events[-1]
    assert result["event"] == "result"
    assert [figure["kind"] for figure in result["figures"]].count("local") == 4  # three clients and their mean
    assert any("3 uploads were hashed and added again" in check for check in result["checks"])
    assert result["verdict"]
    certificate = SignedRelease.parse((out / "release" / "release.json").read_bytes()).statement
    assert len(certificate.final.statement.members) == 3
    assert [item.title for item in certificate.excluded] == ["West desk/trainer"]  # the fourth, which was killed
    assert certificate.evaluation is not None
    assert certificate.evaluation.examples == result["held_out"]
    page = (out / "release" / "report.html").read_text()
    assert result["verdict"].split(".")[0] in page
    held_out = {json.loads(line)["text"] for line in (out / "data" / "heldout.jsonl").read_text().splitlines()}
    for index in range(1, 5):
        lines = (out / f"client-{index}" / "data" / "train.jsonl").read_text().splitlines()
        assert not held_out & {json.loads(line)["text"] for line in lines}
    _refuses_a_second_run(out)


def _refuses_a_second_run(out: Path) -> None:
    with demo(out, *OPTIONS) as again:
        status, error = again.end()
    assert status == 1
    assert "error[config]" in error
    assert "holds an earlier run; add --replace" in error


@pytest.mark.slow
def test_a_masked_run_in_which_a_client_vanishes(tmp_path: Path, tiny_bert_dir: Path, texts: Path) -> None:
    """The fifth client is killed when the others already mask with it: their shares take its masks out of the sum."""
    out = tmp_path / "run"
    options = (*own(tiny_bert_dir, texts), "--protocol", "masked", "--clients", "4", "--no-baselines")
    with demo(out, *options) as running:
        status, error = running.end()
    assert status == 0, error
    result = running.events[-1]
    assert not [event for event in running.events if event.get("party", "").startswith("keyholder")]
    assert any("4 uploads were hashed and added again" in check for check in result["checks"])
    certificate = SignedMaskedRelease.parse((out / "release" / "release.json").read_bytes()).statement
    assert len(certificate.members) == 4
    assert [(item.title, item.reason.split(";")[0]) for item in certificate.excluded] == [
        ("Harbour desk/trainer", "no masked vector before the set was fixed")
    ]
    assert certificate.evaluation is not None
    for index in range(1, 5):
        assert (out / f"client-{index}" / "release" / "release.json").is_file()


@pytest.mark.slow
def test_a_ckks_run_in_which_a_client_vanishes(tmp_path: Path, tiny_bert_dir: Path, texts: Path) -> None:
    out = tmp_path / "run"
    with demo(out, *own(tiny_bert_dir, texts), "--protocol", "ckks", "--no-baselines") as running:
        status, error = running.end()
    assert status == 0, error
    checks = running.events[-1]["checks"]
    assert any("3 uploads were hashed again" in check for check in checks)
    assert any("the key-holder's word" in check for check in checks)
    certificate = SignedCkksRelease.parse((out / "release" / "release.json").read_bytes()).statement
    assert len(certificate.members) == 3
    assert [item.title for item in certificate.excluded] == ["West desk/trainer"]
    assert not list((out / "keyholder-1" / "state").glob("ckks-keys/*.key"))


def test_a_masked_run_that_cannot_bear_what_is_asked_is_refused(tmp_path: Path) -> None:
    with demo(tmp_path / "run", "--protocol", "masked", *OPTIONS) as running:
        status, error = running.end()
    assert status == 1
    assert "error[config]" in error
    assert "take more --clients or fewer --drop" in error


def test_too_many_failed_key_holders_are_named(tmp_path: Path, tiny_bert_dir: Path, texts: Path) -> None:
    out = tmp_path / "run"
    with demo(out, *own(tiny_bert_dir, texts), "--no-baselines") as running:
        running.wait_for(lambda event: event["event"] == "approved" and event["party"] == "keyholder-3")
        for party in ("keyholder-2", "keyholder-3"):
            os.kill(running.pid(party), signal.SIGKILL)
        status, error = running.end()
        others = [event["pid"] for event in running.events if event["event"] == "started"]
    assert status == 1
    assert "error[process]" in error
    assert "keyholder-2" in error
    assert "keyholder-3" in error
    assert "2 of 4 key-holders are left and 3 must agree" in error
    assert "killed by signal 9" in error
    assert str(out / "logs") in error
    assert not any(is_alive(pid) for pid in others)


@pytest.mark.slow
def test_a_failed_client_is_named_with_its_reason(tmp_path: Path, tiny_bert_dir: Path, texts: Path) -> None:
    """A client whose data file is damaged after the folder was made."""
    out = tmp_path / "run"
    with demo(out, *own(tiny_bert_dir, texts), "--no-baselines") as running:
        running.wait_for(lambda event: event["event"] == "listening")
        (out / "client-2" / "data" / "train.jsonl").write_text('{"text": "only half a li')
        status, error = running.end()
    assert status == 1
    assert "client-2 ended early: error[data]" in error
    assert str(out / "logs" / "client-2.log") in error


def test_an_interrupted_demo_leaves_no_process(tmp_path: Path, tiny_bert_dir: Path, texts: Path) -> None:
    with demo(tmp_path / "run", *own(tiny_bert_dir, texts)) as running:
        running.pid("client-1")
        running.process.send_signal(signal.SIGINT)
        status, error = running.end()
        others = [event["pid"] for event in running.events if event["event"] == "started"]
    assert status == 130
    assert "interrupted: every process of the demo was ended" in error
    assert others
    assert not any(is_alive(pid) for pid in others)
