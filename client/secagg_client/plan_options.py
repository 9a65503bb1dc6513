"""From `plan.toml` and command-line options to the settings of a plan."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from secagg.errors import ConfigError
from secagg.validation import first_problem
from secagg_client.adapted import INSTEAD
from secagg_client.plan_defaults import DEFAULT_CLIP, DEFAULT_TRAINING
from secagg_client.planning import PlanConfig
from secagg_client.tasks import task_kinds

TRAINING = ("epsilon", "delta", "steps", "batch_size", "learning_rate", "unit", "records_per_user")


def plan_config(path: Path | None, options: Mapping[str, object]) -> PlanConfig:
    """Settings of a file, overridden by the options that are given, over defaults. Raises ConfigError."""
    plain = _read(path) if path is not None else {}
    task, training = dict(plain.get("task", {})), dict(plain.get("training", {}))
    if options.get("model"):
        plain["base_model"] = options["model"]
    if options.get("task"):
        task["kind"] = options["task"]
    if options.get("labels"):
        task["labels"] = list(_strings(options["labels"]))
    plain |= {name: options[name] for name in ("rank", "method", "base_model_name") if options.get(name)}
    if options.get("method_options"):
        plain["options"] = dict(plain.get("options", {})) | _named_values(_strings(options["method_options"]))
    training |= {name: options[name] for name in TRAINING if options.get(name) is not None}
    kind = task_kinds().get(str(task.get("kind")))
    defaults = kind.defaults if kind is not None else {}
    content = {
        "lora_clip": DEFAULT_CLIP,
        **plain,
        "task": {**defaults, **task},
        "training": DEFAULT_TRAINING | training,
    }
    where = str(path or "plan")
    if "base_model" not in content:
        raise ConfigError(f"{where}: no base model is named: give --model, or base_model in a file for --config")
    if "kind" not in task:
        raise ConfigError(f"{where}: no task is named: give --task, or kind under [task] in a file for --config")
    return validated(content, where)


def validated(content: Mapping[str, Any], where: str) -> PlanConfig:
    """The content of a plan.toml as settings. Raises ConfigError that names `where` and the setting."""
    for setting in sorted(INSTEAD.keys() & content.keys()):
        raise ConfigError(f"{where}: {setting} cannot be set: {INSTEAD[setting]}")
    try:
        return PlanConfig.model_validate_json(json.dumps(content, default=str))
    except ValidationError as error:
        raise ConfigError(f"{where}: {first_problem(error)}") from None


def _named_values(settings: Sequence[str]) -> dict[str, Any]:
    """`name=value` each, the value as TOML writes it. Raises ConfigError."""
    found = dict[str, Any]()
    for setting in settings:
        try:
            found |= tomllib.loads(setting)
        except (ValueError, RecursionError) as error:  # a number of thousands of digits is no TOMLDecodeError
            raise ConfigError(f"--option {setting}: write NAME=VALUE, as in size=32") from error
    return found


def _strings(value: object) -> tuple[str, ...]:
    return tuple(str(item) for item in value) if isinstance(value, tuple) else ()


def _read(path: Path) -> dict[str, Any]:
    try:
        plain = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # bad TOML, bad UTF-8, or a number of thousands of digits
        raise ConfigError(f"{path}: is not TOML: {error}") from error
    local = path.resolve().parent / str(plain.get("base_model", ""))
    if plain.get("base_model") and local.exists():
        # A model folder beside the file; the plan keeps the name that was written.
        plain.setdefault("base_model_name", plain["base_model"])
        plain["base_model"] = str(local)
    return plain
