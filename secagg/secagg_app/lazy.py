"""Command groups that load a command's module only when it is called, and print every expected failure in one line.

So `secagg server` works where torch is not installed, and a missing extra is named instead of a traceback.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click

from secagg.errors import SecaggError
from secagg_host.terminal import printable

OWN_PREFIX = "secagg"


@dataclass(frozen=True, slots=True)
class LazyCommand:
    """Where a command lives (`module:attribute`), its one-line help, and the extra that brings what it imports."""

    target: str
    help: str
    extra: str = ""


class Failure(click.ClickException):
    """An expected failure as one line on stderr: `error[code]: message`, exit status 1."""

    exit_code = 1

    def __init__(self, code: str, message: str) -> None:
        super().__init__(printable(" ".join(message.split())))
        self.code = code

    def show(self, file: Any = None) -> None:
        """Print the line."""
        click.echo(f"error[{self.code}]: {self.message}", file=file, err=file is None)


class LazyGroup(click.Group):
    """A group whose subcommands are imported when they are called."""

    def __init__(self, *args: Any, lazy: Mapping[str, LazyCommand], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lazy = dict(lazy)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the table."""
        return [*self._lazy, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command, or None when there is none of that name."""
        entry = self._lazy.get(cmd_name)
        if entry is None:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = entry.target.partition(":")
        try:
            command = getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            raise _missing(entry, error) from error
        if not isinstance(command, click.Command):
            raise TypeError(f"{entry.target} is not a command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the commands without importing any."""
        rows = [(name, entry.help) for name, entry in self._lazy.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        """Run, and turn expected failures into one line."""
        try:
            return super().invoke(ctx)
        except SecaggError as error:
            raise Failure(error.code, str(error)) from error
        except ModuleNotFoundError as error:
            entry = self._lazy.get(ctx.invoked_subcommand or "")
            if entry is None:
                raise
            raise _missing(entry, error) from error


def _missing(entry: LazyCommand, error: ModuleNotFoundError) -> Exception:
    """A Failure that names the extra; the error itself when it is one of our own modules that is not there."""
    absent = (error.name or "").split(".")[0]
    if absent.startswith(OWN_PREFIX) or not entry.extra:
        return error
    # no `pip install secagg[...]`: the name is not ours on any index
    return Failure(
        "missing-package",
        f"this command needs {absent}: install secagg's wheel again, with its extra [{entry.extra}] (docs/deploy.md)",
    )
