"""The command line: what it lists, what it imports, how it says what went wrong."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from secagg_app.lazy import LazyCommand, LazyGroup
from secagg_app.main import COMMANDS, cli
from secagg_host.durable import FolderLock
from tests.study import Study

BLOCK = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
from secagg_app.main import main
main()
"""


def run_without(absent: tuple[str, ...], *args: str) -> subprocess.CompletedProcess[str]:
    """The command in a process that cannot import these packages."""
    script = BLOCK.format(absent=set(absent))
    return subprocess.run(
        [sys.executable, "-c", script, *args], capture_output=True, text=True, timeout=300, check=False
    )


TRAINING = ("torch", "transformers", "peft", "opacus", "datasets", "dp_accounting", "sklearn")


def commands(command: click.Command, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command and group below `command`, by its words."""
    if words:
        yield words
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from commands(below, (*words, name))


def test_every_command_and_group_has_help_with_an_example() -> None:
    every = list(commands(cli))
    assert len(every) > len(COMMANDS) + 15
    for words in every:
        result = CliRunner().invoke(cli, [*words, "--help"])
        assert result.exit_code == 0, result.output
        assert "Example: secagg " + " ".join(words) in " ".join(result.output.split()), words


def test_the_list_of_commands_imports_none_of_them() -> None:
    result = run_without((*TRAINING, "grpc", "numpy", "sqlalchemy", "matplotlib"), "--help")
    assert result.returncode == 0, result.stderr
    assert all(name in result.stdout for name in COMMANDS)


@pytest.mark.parametrize(
    "command",
    ["server run", "keyholder run", "keyholder offer", "client ledger init", "verify", "ca init", "session show"],
)
def test_these_commands_work_without_torch(command: str) -> None:
    result = run_without(TRAINING, *command.split(), "--help")
    assert result.returncode == 0, result.stderr
    assert "Usage" in result.stdout


def test_a_missing_extra_is_named(tmp_path: Path) -> None:
    result = run_without(
        TRAINING, "client", "plan", "--model", "m", "--task", "lm", "--out", str(tmp_path / "plan.json")
    )
    assert result.returncode == 1
    assert result.stderr.startswith("error[missing-package]: this command needs ")
    assert result.stderr.rstrip().endswith("with its extra [client] (docs/deploy.md)")


def test_a_module_of_our_own_that_is_missing_is_not_hidden() -> None:
    group = LazyGroup("broken", lazy={"gone": LazyCommand("secagg_app.not_there:gone", "Gone.", "client")})
    with pytest.raises(ModuleNotFoundError, match="not_there"):
        CliRunner().invoke(group, ["gone"], catch_exceptions=False)


def test_a_failure_is_one_line_with_its_code() -> None:
    result = CliRunner().invoke(cli, ["client", "run", "--config", "nowhere.toml"])
    assert result.exit_code == 1
    assert result.stderr.startswith("error[config]: nowhere.toml: cannot be read")
    assert result.stderr.count("\n") == 1


def test_bad_usage_is_status_two() -> None:
    assert CliRunner().invoke(cli, ["verify"]).exit_code == 2
    assert CliRunner().invoke(cli, ["no-such-command"]).exit_code == 2


def test_a_target_that_is_no_command_is_an_error_of_ours() -> None:
    group = LazyGroup("odd", lazy={"odd": LazyCommand("secagg_app.main:COMMANDS", "Odd.")})
    with pytest.raises(TypeError, match="is not a command"):
        group.get_command(click.Context(group), "odd")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Study(tmp_path_factory.mktemp("study")).make()


@pytest.mark.parametrize("name", ["client-1", "holder-1"])
def test_two_runs_in_one_folder_are_refused(study: Study, name: str) -> None:
    with FolderLock(study.folder / name / "state"):
        result = CliRunner().invoke(cli, study.command(name))
    assert result.exit_code == 1
    assert "error[storage]" in result.stderr
    assert "in use by another run" in result.stderr


@pytest.mark.parametrize(("name", "other"), [("client-1", "holder-1"), ("holder-1", "client-1")])
def test_an_identity_of_another_role_is_refused(study: Study, tmp_path: Path, name: str, other: str) -> None:
    kind = study.command(name)[0]
    text = (study.folder / name / f"{kind}.toml").read_text()
    path = study.folder / name / "other.toml"
    path.write_text(text.replace('"identity"', f'"../{other}/identity"').replace('"state"', f'"{tmp_path}"'))
    result = CliRunner().invoke(cli, [kind, "run", "--config", str(path)])
    assert result.exit_code == 1
    assert "holds the identity of a" in result.stderr
