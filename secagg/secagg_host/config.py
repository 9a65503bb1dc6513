"""Configuration and policy files: TOML in, a checked frozen value out."""

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, ValidationError, ValidationInfo

from secagg.errors import ConfigError
from secagg.plan import Frozen
from secagg.validation import first_problem

_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:\[\]]+):(?P<port>[0-9]{1,5})")
MAX_PORT = 65_535

M = TypeVar("M", bound=Frozen)


def _resolve(path: Path, info: ValidationInfo) -> Path:
    folder = info.context if isinstance(info.context, Path) else Path()
    return (folder / path.expanduser()).resolve()


def _check_address(address: str) -> str:
    """gRPC would take a port modulo 2^16, and listen where nobody looks."""
    found = _ADDRESS.fullmatch(address)
    if found is None:
        raise ValueError("must be host:port, as in 10.0.0.1:7443 or [::1]:7443")
    if int(found["port"]) > MAX_PORT:
        raise ValueError(f"the port of {address} is above {MAX_PORT}")
    return address


Address = Annotated[str, AfterValidator(_check_address)]
"""host:port of a coordinator; an IPv6 address in brackets."""
LocalPath = Annotated[Path, AfterValidator(_resolve)]
"""A path in a configuration file: relative ones are relative to the folder of the file."""


def load_toml(path: Path, model: type[M]) -> M:
    """Read and check a TOML file. Raises ConfigError that names the file, the field and the reason."""
    return check_config(read_toml(path), model, path)


def read_toml(path: Path) -> dict[str, object]:
    """The plain content of a TOML file. Raises ConfigError."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # bad TOML, bad UTF-8, or a number of thousands of digits
        raise ConfigError(f"{path}: is not TOML: {error}") from error


def check_for_protocol(plain: dict[str, object], models: Mapping[str, type[M]], protocol: str, path: Path) -> M:
    """Check values read from `path` against the model of its protocol. Raises ConfigError.

    A setting of another protocol is no misspelt one, and the message says whose it is.
    """
    for name in plain:
        owners = [other for other, model in models.items() if name in model.model_fields]
        if owners and protocol not in owners:
            raise ConfigError(
                f"{path}: {name}: is a setting of {' and '.join(owners)} sessions, and this file is for {protocol} ones"
            )
    return check_config(plain, models[protocol], path)


def check_config(plain: dict[str, object], model: type[M], path: Path) -> M:
    """Check values read from `path`, against whose folder relative paths resolve. Raises ConfigError."""
    # JSON mode is strict about types, yet takes an array as a tuple and a string as a path.
    text = json.dumps(plain, default=str)
    try:
        return model.model_validate_json(text, context=path.resolve().parent)
    except ValidationError as error:
        raise ConfigError(f"{path}: {first_problem(error)}") from None
