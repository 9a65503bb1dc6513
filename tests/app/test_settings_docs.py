"""docs/settings.md: every setting of every file, once, with the default and the range that its model has."""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic.fields import FieldInfo

from secagg.ckks.policy import CkksAnchors, CkksPolicy
from secagg.masked.policy import MaskedAnchors, MaskedPolicy
from secagg.plan import Frozen
from secagg.policy import Anchors, Policy
from secagg_app.session_config import CkksSessionConfig, MaskedSessionConfig, SessionConfig
from secagg_client.client_config import ClientConfig
from secagg_client.keyholder_config import KeyHolderConfig
from secagg_host.config import check_config
from secagg_server.config import ServerConfig

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "settings.md").read_text("utf-8")
HEADER = ("setting", "default", "what it does")
POLICY_ONLY = "Not in anchors."
TRUST, LIMITS, SESSION = "policy.toml, Whom to trust", "policy.toml, Limits", "session.toml, Every protocol"
FILES: list[tuple[type[Frozen], tuple[str, ...]]] = [
    (ServerConfig, ("server.toml",)),
    (ClientConfig, ("client.toml",)),
    (KeyHolderConfig, ("keyholder.toml",)),
    (Policy, (TRUST, LIMITS, "policy.toml, Sealed")),
    (MaskedPolicy, (TRUST, LIMITS, "policy.toml, Masked")),
    (CkksPolicy, (TRUST, LIMITS, "policy.toml, Ckks")),
    (Anchors, (TRUST, "policy.toml, Sealed")),
    (MaskedAnchors, (TRUST, "policy.toml, Masked")),
    (CkksAnchors, (TRUST, "policy.toml, Ckks")),
    (SessionConfig, (SESSION, "session.toml, Sealed")),
    (MaskedSessionConfig, (SESSION, "session.toml, Masked")),
    (CkksSessionConfig, (SESSION, "session.toml, Ckks")),
]
ANCHORS = (Anchors, MaskedAnchors, CkksAnchors)


@dataclass(frozen=True, slots=True)
class Row:
    """One setting as the page has it."""

    setting: str
    default: str
    text: str


def tables() -> dict[str, list[Row]]:
    """The page's tables of settings by file and, within it, heading. A row that names several settings is several."""
    found = dict[str, list[Row]]()
    file, place, inside = "", "", False
    for line in PAGE.splitlines():
        if line.startswith("## "):
            file = place = line[3:]
        elif line.startswith("### "):
            place = f"{file}, {line[4:]}"
        cells = tuple(cell.strip() for cell in line.strip("|").split(" | ")) if line.startswith("|") else ()
        if cells == HEADER:
            inside = True
        elif not cells:
            inside = False
        elif inside and not line.startswith("|---"):
            names, default, text = cells
            found.setdefault(place, []).extend(Row(name, default, text) for name in re.findall(r"`([^`]+)`", names))
    return found


TABLES = tables()


def settings(model: type[Frozen], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every setting as it is written in the file, those of tables within it too."""
    for name, field in model.model_fields.items():
        spelled = field.validation_alias or name
        assert isinstance(spelled, str), f"{model.__name__}.{name} has several spellings"
        kinds = list(parts(field.annotation))
        inner = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Frozen)]
        written = f"{prefix}{spelled}"
        if inner or dict in kinds:
            yield f"[[{written}]]" if tuple in kinds else f"[{written}]", field
        else:
            yield written, field
        for kind in inner:
            yield from settings(kind, f"{written}.")


def parts(annotation: Any) -> Iterator[Any]:
    """A type with all that it is made of; a `Literal` is one part."""
    origin = get_origin(annotation)
    yield annotation if origin in {None, Literal} else origin
    if origin is not Literal:
        for argument in get_args(annotation):
            yield from parts(argument)


def default(field: FieldInfo) -> str:
    """A field's default as the page writes it: as in TOML."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is None:
        return "none"
    if isinstance(value, Frozen):
        assert value == type(value)()
        return "as below"
    return f"`{json.dumps(value)}`"


def said(field: FieldInfo) -> list[str]:
    """What a row must say of the values that a field takes: bounds, lengths and choices."""
    found = {
        name: number(value)
        for constraint in field.metadata
        for name in ("ge", "gt", "le", "lt", "min_length", "max_length")
        if (value := getattr(constraint, name, None)) is not None
    }
    low, high = found.get("ge", found.get("min_length")), found.get("le", found.get("max_length"))
    words = [] if low is None or high is None else [f"{low} to {high}"]
    if not words:
        bounds = {"at least": low, "at most": high, "above": found.get("gt"), "below": found.get("lt")}
        words = [f"{word} {bound}" for word, bound in bounds.items() if bound is not None]
    choices = [kind for kind in parts(field.annotation) if get_origin(kind) is Literal]
    return words + [f'"{choice}"' for kind in choices for choice in get_args(kind)]


def number(value: float) -> str:
    """1,000 and 0.5, and 1e-6 for what is far from 1."""
    return f"{value:,}" if isinstance(value, int) else re.sub(r"e([+-])0*", r"e\1", f"{value:g}").replace("e+", "e")


def rows_of(model: type[Frozen], places: tuple[str, ...]) -> list[Row]:
    rows = [row for place in places for row in TABLES[place]]
    return [row for row in rows if POLICY_ONLY not in row.text] if model in ANCHORS else rows


def default_of(row: Row, model: type[Frozen]) -> str:
    required, _, in_anchors = row.default.partition("; in anchors ")
    return in_anchors if in_anchors and model in ANCHORS else required


@pytest.mark.parametrize(("model", "places"), FILES, ids=[model.__name__ for model, _ in FILES])
class TestTables:
    def test_each_setting_has_one_row_and_each_row_a_setting(
        self, model: type[Frozen], places: tuple[str, ...]
    ) -> None:
        assert sorted(row.setting for row in rows_of(model, places)) == sorted(name for name, _ in settings(model))

    def test_defaults(self, model: type[Frozen], places: tuple[str, ...]) -> None:
        wanted = {name: default(field) for name, field in settings(model)}
        assert {row.setting: default_of(row, model) for row in rows_of(model, places)} == wanted

    def test_ranges_and_choices(self, model: type[Frozen], places: tuple[str, ...]) -> None:
        texts = {row.setting: row.text.lower() for row in rows_of(model, places)}
        wanted = [(name, words) for name, field in settings(model) for words in said(field)]
        missing = [(name, words) for name, words in wanted if not says(texts[name], words)]
        assert missing == []


def says(text: str, words: str) -> bool:
    """Whether the words are there, and not as the beginning or end of another number."""
    return re.search(rf"(?<![\w.,]){re.escape(words)}(?![\w]|[.,]\d)", text) is not None


def test_every_table_belongs_to_a_model() -> None:
    assert set(TABLES) == {place for _, places in FILES for place in places}
    assert PAGE.count(f"| {' | '.join(HEADER)} |") == len(TABLES)


def test_examples() -> None:
    deploy = (DOCS / "deploy.md").read_text("utf-8")
    more, ckks = toml_blocks(PAGE)
    (client,) = [block for block in toml_blocks(deploy) if "\n[model]\n" in block]
    checked = check_config(plain(client + more), ClientConfig, DOCS)
    assert checked.evaluation is not None
    assert checked.limits is not None
    check_config(plain(ckks), CkksSessionConfig, DOCS)


def toml_blocks(text: str) -> list[str]:
    return re.findall(r"^```toml\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def plain(block: str) -> dict[str, object]:
    return tomllib.loads(block)


def test_links_lead_to_headings() -> None:
    links = re.findall(r"\]\(([\w.-]*)#([\w-]+)\)", PAGE)
    assert len(links) > 8
    pages: Mapping[str, str] = {name: (DOCS / (name or "settings.md")).read_text("utf-8") for name, _ in links}
    for name, anchor in links:
        headings = re.findall(r"^#+ (.*)$", pages[name], re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
