"""docs/checks.md: every check of the protocol, where it is made, and what shows it. All names in it exist."""

import ast
import re
from functools import cache
from pathlib import Path

from tests.simulation.test_names import LIARS, names_below

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "checks.md").read_text()
PROTOCOL = (ROOT / "docs" / "protocol.md").read_text()
PACKAGES = {"secagg": "secagg", "secagg_host": "secagg", "secagg_client": "client", "secagg_server": "server"}
NUMBER = r"[1-9]\d*\.\d+(?:\.\d+)?[a-z]?"
WORDS = re.compile(r"\b(?:check(?:s|ed)?|refus\w*|verif\w*|must|cannot be constructed|stops|burn\w*)\b", re.IGNORECASE)
ROWS = [
    tuple(cell.strip() for cell in line.strip("|").split("|"))
    for line in TEXT.splitlines()
    if re.match(rf"\| {NUMBER} \|", line)
]


def paragraphs() -> dict[str, str]:
    """Numbered paragraphs of the protocol by their number."""
    parts = re.split(rf"\n(?=(?:{NUMBER} |#+ ))", PROTOCOL)
    found = ((re.match(rf"({NUMBER}) ", part), part) for part in parts)
    return {match[1]: part for match, part in found if match is not None}


@cache
def functions(path: Path) -> frozenset[str]:
    """Functions and methods of a file, by qualified name."""
    tree = ast.parse(path.read_text())
    names = set[str]()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return frozenset(names)


def exists(dotted: str) -> bool:
    """Whether `package.module.function` (or `.Class.method`) is in the source."""
    parts = dotted.split(".")
    for cut in range(len(parts) - 1, 1, -1):
        path = ROOT / PACKAGES[parts[0]] / Path(*parts[:cut]).with_suffix(".py")
        if path.is_file():
            return ".".join(parts[cut:]) in functions(path)
    return False


def test_every_row_names_a_paragraph_functions_and_tests_that_exist() -> None:
    numbers, known = paragraphs(), names_below(ROOT / "tests") | LIARS
    assert len(ROWS) > 90
    for number, check, code, shown in ROWS:
        assert number in numbers, f"§{number} is not in the protocol"
        assert check
        names, tests = re.findall(r"`([\w.]+)`", code), re.findall(r"`(\w+)`", shown)
        assert names, f"§{number} names no function"
        assert tests, f"§{number} names no test"
        assert [name for name in names if not exists(name)] == []
        assert [name for name in tests if name not in known] == []


def test_no_paragraph_with_a_check_is_missing() -> None:
    listed = {row[0] for row in ROWS} | set(re.findall(NUMBER, TEXT[TEXT.rindex("no check of their own") :]))
    wanted = {number for number, text in paragraphs().items() if WORDS.search(text)}
    assert sorted(wanted - listed) == []
