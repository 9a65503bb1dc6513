"""The demo's parts without its processes: run folder, configuration files, screen, watched commands."""

import io
import json
import os
import signal
import socket
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from secagg.errors import ConfigError, ProcessFailed
from secagg_app.demo.command import demo as demo_command
from secagg_app.demo.layout import MARKER, claim, free_port
from secagg_app.demo.processes import Event, Supervisor, as_typed, last_error, run_command
from secagg_app.demo.settings import DemoSettings, own_classify_recipe, scaled, targeted, tweets_recipe
from secagg_app.demo.toml import dump
from secagg_app.demo.view import Board, JsonView, LineView, ScreenView
from secagg_app.workers import environment

keys = st.text(st.characters(min_codepoint=32, max_codepoint=1000), min_size=1, max_size=12)
scalars = st.one_of(
    st.booleans(), st.integers(-(2**60), 2**60), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=20)
)
plain = st.one_of(scalars, st.lists(scalars, max_size=4))
tables = st.dictionaries(keys, plain, max_size=4)
documents = st.dictionaries(keys, st.one_of(plain, tables, st.lists(tables, min_size=1, max_size=3)), max_size=6)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine draws slowly
@given(documents)
def test_written_toml_reads_back_as_it_was(content: dict[str, Any]) -> None:
    assert tomllib.loads(dump(content, "A comment\nof two lines")) == content


def test_an_empty_folder_is_claimed(tmp_path: Path) -> None:
    claim(tmp_path / "runs" / "demo", replace=False)
    assert (tmp_path / "runs" / "demo").is_dir()


def test_a_folder_of_something_else_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    for replace in (False, True):
        with pytest.raises(ConfigError, match="not from an earlier demo"):
            claim(tmp_path, replace=replace)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_an_earlier_run_is_kept_unless_it_is_to_be_replaced(tmp_path: Path) -> None:
    (tmp_path / MARKER).write_text("{}")
    (tmp_path / "release").mkdir()
    with pytest.raises(ConfigError, match="holds an earlier run; add --replace"):
        claim(tmp_path, replace=False)
    claim(tmp_path, replace=True)
    assert list(tmp_path.iterdir()) == []


def test_too_few_clients_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least 3 must stay"):
        DemoSettings(tmp_path, "classify", 2, 1, 8.0, None, None, "text", "label", 1)


@pytest.mark.parametrize("model", ["./nothere", "/no/such/model", "models/mine/"])
def test_a_model_folder_that_is_not_there_is_refused_at_once(tmp_path: Path, model: str) -> None:
    with pytest.raises(ConfigError, match=f"--model {model}: no such folder"):
        DemoSettings(tmp_path, "classify", 4, 1, 8.0, model, None, "text", "label", 1)
    assert DemoSettings(tmp_path, "classify", 4, 1, 8.0, "owner/model", None, "text", "label", 1).model


def test_the_coordinator_s_port_is_none_that_an_outgoing_connection_could_take(monkeypatch: pytest.MonkeyPatch) -> None:
    said = Path("/proc/sys/net/ipv4/ip_local_port_range")
    outgoing = int(said.read_text().split()[0]) if said.exists() else 32_768
    ports = [free_port() for _ in range(20)]
    assert all(1024 < port < outgoing for port in ports)
    monkeypatch.setattr("secagg_app.demo.layout._PORTS", range(ports[0], ports[0] + 1))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", ports[0]))
        with pytest.raises(ConfigError, match="is free for the coordinator"):
            free_port()


def test_target_modules_are_the_users_on_every_layer() -> None:
    recipe = targeted(tweets_recipe(), ("q_lin", "v_lin"))
    assert recipe.plan["target_modules"] == ["q_lin", "v_lin"]
    assert "layers" not in recipe.plan
    assert targeted(tweets_recipe(), ()) == tweets_recipe()


def test_target_modules_come_repeated_or_with_commas() -> None:
    with demo_command.make_context("demo", ["--target-modules", "a,b", "--target-modules", "c"]) as context:
        assert context.params["target_modules"] == ("a", "b", "c")


def test_every_option_of_the_demo_says_what_it_is_and_what_it_takes() -> None:
    options = [option for option in demo_command.params if isinstance(option, click.Option)]
    assert not [option.name for option in options if not option.help]
    (clients,) = [option.type for option in options if option.name == "clients"]
    assert isinstance(clients, click.IntRange)
    assert clients.min == 3


def test_smaller_clients_have_smaller_batches_and_the_same_sampling_rate() -> None:
    recipe = tweets_recipe()
    small = scaled(recipe, recipe.split.size // 3)
    assert small.plan["training"] == {**recipe.plan["training"], "batch_size": 120}
    assert small.head["batch_size"] == 300
    assert scaled(recipe, recipe.split.size) == recipe
    assert scaled(own_classify_recipe(("a", "b")), 150).plan["training"]["batch_size"] == 30


EVENTS = [
    Event("coordinator", "listening", {"address": "localhost:1"}),
    Event("client-1", "enrolled", {"session": "ab"}),
    Event("client-1", "training", {"steps": 8, "epsilon": 8.0, "delta": 1e-5}),
    *(Event("client-1", "step", {"step": n, "steps": 8, "loss": 1.0 / n, "epsilon": 1.0 * n}) for n in range(1, 9)),
    Event("client-1", "trained", {"epsilon": 8.0}),
    Event("client-1", "uploaded", {"bytes": 1_234_567}),
    Event("coordinator", "session", {"state": "released", "reason": None}),
    Event("client-1", "unheard-of", {"x": 1}),
    Event("client-1", "ended", {"status": 0}),
    Event("coordinator", "ended", {"status": 3}),
]
TITLES = {"coordinator": "coordinator", "client-1": "client North"}


def test_lines_say_who_did_what_and_not_every_step() -> None:
    stream = io.StringIO()
    with LineView(Board(TITLES), stream) as view:
        for event in EVENTS:
            view.event(event)
        view.mark("client-1", "vanished", "was killed")
    text = stream.getvalue()
    assert "client North: trains: 8 steps, epsilon 8" in text
    assert text.count("step ") == 4
    assert "step 8/8, loss 0.125, epsilon 8.00 spent" in text
    assert "uploaded 1,234,567 bytes, none of them readable" in text
    assert "coordinator: ended with status 3" in text
    assert "client North: was killed" in text


def test_the_coordinator_does_not_claim_what_others_did() -> None:
    board = Board(TITLES)

    def line(name: str, **fields: Any) -> tuple[str | None, str]:
        return board.take(Event("coordinator", name, fields)), board.rows["coordinator"].state

    assert line("approved", holder="Trustee A/holder", count=1, needed=3) == (
        "took the approval of Trustee A/holder: 1, 3 needed", "collects approvals"
    )  # fmt: skip
    assert line("enrolled", client="North desk/trainer") == ("enrolled North desk/trainer", "waits for uploads")
    assert line("endorsed", holder="Trustee B/holder", stage="candidate") == (
        "took the endorsement of the candidate set by Trustee B/holder", "collects endorsements"
    )  # fmt: skip
    assert line("waiting", what="approvals", missing=["Trustee C/holder"])[0] == "waits for approvals: Trustee C/holder"
    assert line("erased", files=4)[0] == "deleted 4 stored files"
    assert board.take(Event("client-1", "enrolled", {"session": "ab"})) == "enrolled"


def test_json_lines_hold_every_event() -> None:
    stream = io.StringIO()
    with JsonView(Board(TITLES), stream) as view:
        for event in EVENTS:
            view.event(event)
        view.say("something")
    found = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert len(found) == len(EVENTS) + 1
    assert found[0] == {"event": "listening", "party": "coordinator", "address": "localhost:1"}
    assert found[-1]["text"] == "something"


def test_a_screen_shows_every_party_on_a_row() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100, record=True)
    with ScreenView(Board(TITLES), console) as view:
        for event in EVENTS[:-2]:
            view.event(event)
        view.say("verify")
    shown = console.export_text()
    assert "client North" in shown
    assert "1.23 MB" in shown
    assert "8.00" in shown
    assert "verify" in shown


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"event": "x"}\nerror[policy]: epsilon 9 is above 8\n', "error[policy]: epsilon 9 is above 8"),
        ('{"event": "x"}\nTraceback\nMemoryError\n{"event": "y"}\n', "MemoryError"),
        ("", "it said nothing"),
    ],
)
def test_the_reason_of_a_failure_is_its_last_error_line(tmp_path: Path, text: str, reason: str) -> None:
    log = tmp_path / "a.log"
    log.write_text(text)
    assert last_error(log) == reason


def test_a_command_that_fails_is_named_with_reason_and_log(tmp_path: Path) -> None:
    log = tmp_path / "setup.log"
    with pytest.raises(ProcessFailed, match=r"`secagg ca show` failed: error\[storage\].*setup\.log"):
        run_command(log, "ca", "show", tmp_path / "absent.pem")
    assert "$ secagg ca show" in log.read_text()


def test_no_process_is_left_when_the_supervisor_is_left(tmp_path: Path) -> None:
    """A key-holder without a configuration ends by itself; a supervisor that is left ends the rest."""
    with Supervisor(tmp_path) as supervisor:
        first = supervisor.start("keyholder-1", "keyholder", "run", "--config", tmp_path / "no.toml", env=_env())
        second = supervisor.start("keyholder-2", "keyholder", "run", "--config", tmp_path / "no.toml", env=_env())
        os.kill(second.process.pid, signal.SIGSTOP)  # does not end by itself, nor by SIGTERM alone
    assert first.status is not None
    assert second.status in (-signal.SIGKILL, -signal.SIGTERM)
    events = [supervisor.next_event(0.1) for _ in range(4)]
    assert sorted(event.name for event in events if event) == ["ended", "ended", "started", "started"]


def test_the_command_is_named_as_the_users_shell_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / ".venv" / "bin" / "secagg"
    script.parent.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.executable", str(script.with_name("python")))
    monkeypatch.setenv("PATH", "/nowhere")
    assert as_typed().endswith("-m secagg_app")
    script.touch(mode=0o755)
    assert as_typed() == ".venv/bin/secagg"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert as_typed() == str(script)
    monkeypatch.setenv("PATH", str(script.parent))
    assert as_typed() == "secagg"


def _env() -> dict[str, str]:
    return environment(1, offline=True)


def test_processes_get_their_share_of_threads() -> None:
    assert environment(3, offline=True)["OMP_NUM_THREADS"] == "3"
    assert environment(1, offline=True)["HF_HUB_OFFLINE"] == "1"
