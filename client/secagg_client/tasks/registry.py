"""The kinds of task by name. Every module of this package that has `KINDS` is asked for its own."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from secagg.errors import ConfigError
from secagg.plan import TaskSpec
from secagg.plugins import offered
from secagg_client import tasks as package
from secagg_client.tasks.base import AnyTask, NoPrefix, Prefix, TaskKind


@cache
def task_kinds() -> Mapping[str, TaskKind]:
    """Every kind by name, in order of name."""
    return offered(package, "KINDS")


def kind_of(spec: TaskSpec) -> TaskKind:
    """The kind that the task names, which has checked it. Raises ConfigError."""
    found = task_kinds().get(spec.kind)
    if found is None:
        raise ConfigError(f"no kind of task is called {spec.kind!r}; there are {', '.join(task_kinds())}")
    found.check(spec)
    return found


def make_task(spec: TaskSpec, processor: Any, prefix: Prefix | None = None) -> AnyTask:
    """The task of a plan. `processor` is the base's. Raises ConfigError."""
    return kind_of(spec).make(spec, processor, prefix or NoPrefix())
