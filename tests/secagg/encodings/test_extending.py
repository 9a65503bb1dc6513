"""docs/extending.md is true: its encoding works from its one file; and protocol.md says what each encoding reveals."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from secagg import encodings as package
from secagg.encodings.registry import encoding_named, encoding_of, encodings
from tests.secagg.encodings.support import HEAD, plan_of, planted, released

DOCS = Path(__file__).parents[3] / "docs"


@pytest.fixture
def from_the_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (source,) = re.findall(r"```python\n(.*?)```", (DOCS / "extending.md").read_text("utf-8"), re.DOTALL)
    (tmp_path / "soft_threshold_of_the_docs.py").write_text(source)
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    encodings.cache_clear()
    yield
    encodings.cache_clear()


@pytest.mark.usefixtures("from_the_docs")
def test_one_file_adds_an_encoding() -> None:
    plan = plan_of("soft-threshold", threshold=0.05)
    encoding_of(plan).check_session(plan, bits=16, weights=(1.0,) * 3)
    changes = planted(plan, 3)
    expected = np.mean([np.sign(c) * np.maximum(np.abs(c) - 0.05, 0) for c in changes], axis=0)
    found = released(plan, changes, 16)[HEAD].ravel()
    offset = sum(spec.size for spec in plan.trained if spec.name < HEAD)
    assert np.allclose(found, expected[offset : offset + found.size], atol=1e-4)
    assert (expected == 0).any()


def test_the_protocol_states_what_each_encoding_reveals_and_needs() -> None:
    text = " ".join((DOCS / "protocol.md").read_text("utf-8").split())
    for number, match in enumerate(re.finditer(r"2\.8\.(\d+) \*([a-z-]+)\.\* ", text), start=1):
        assert int(match[1]) == number
        assert text[match.end() :].startswith(encoding_named(match[2]).reveals)
    assert set(encodings()) == set(re.findall(r"2\.8\.\d+ \*([a-z-]+)\.\* ", text))
    bits = dict(re.findall(r"\| `([a-z-]+)` \|(?:[^|]*\|){3} (\d+)", text))
    assert bits == {name: str(e.min_bits) for name, e in encodings().items() if name != "flora"}
