"""Writing the configuration files that the demo leaves behind. Reading is `secagg_host.config`."""

import json
from collections.abc import Mapping
from pathlib import Path

from secagg_host.durable import write_atomic

Value = str | int | float | bool | Path | list["Value"] | Mapping[str, "Value"]


def dump(content: Mapping[str, Value], comment: str = "") -> str:
    """TOML text: plain keys first, then tables, in the order given; `comment` goes on top."""
    lines = [f"# {line}" for line in comment.splitlines()]
    lines += _lines(content, ())
    return "\n".join(lines) + "\n"


def write_toml(path: Path, content: Mapping[str, Value], comment: str = "") -> Path:
    """Write a configuration file."""
    write_atomic(path, dump(content, comment).encode(), 0o644)
    return path


def _lines(content: Mapping[str, Value], path: tuple[str, ...]) -> list[str]:
    plain = {key: value for key, value in content.items() if not _is_table(value)}
    lines = [f"{_key(key)} = {_value(value)}" for key, value in plain.items()]
    for key, value in content.items():
        name = (*path, key)
        if isinstance(value, Mapping):
            lines += ["", f"[{'.'.join(map(_key, name))}]", *_lines(value, name)]
        elif _is_table(value) and isinstance(value, list):
            for item in value:
                if isinstance(item, Mapping):
                    lines += ["", f"[[{'.'.join(map(_key, name))}]]", *_lines(item, name)]
    return lines


def _is_table(value: Value) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, list) and bool(value) and isinstance(value[0], Mapping))


def _key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() and key.isascii() else _quoted(key)


def _quoted(text: str) -> str:
    """A basic string: JSON's escapes, and DEL, which TOML forbids."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(_value(item) for item in value)}]"
    if isinstance(value, str | Path):
        return _quoted(str(value))
    return repr(value)
