"""Figures count what coins were tossed for: users, or records, and a copy is no second record."""

from pathlib import Path

import numpy as np
import pytest

from secagg.errors import AuditError
from secagg_app.audit.target import ENOUGH, asked, target_of
from secagg_app.audit.units import Units
from secagg_client.data import Examples
from tests.app.test_audit_release import releases  # noqa: F401 - a fixture
from tests.client.test_local_training import write_data


def test_copies_are_one_and_records_of_a_user_are_one() -> None:
    records = Examples("a", ("x", "y", " x"))
    units = Units.of(records)
    assert units.index.tolist() == [0, 1, 0]
    assert units.means(np.array([1.0, 5.0, 3.0])).tolist() == [2.0, 5.0]
    assert units.truth(np.array([True, False, True])).tolist() == [True, False]
    assert units.texts(records.texts) == ["x\n x", "y"]
    assert Units.of(Examples("a", ("x", "y", "z"), users=("u", "u", "v"))).index.tolist() == [0, 0, 1]
    assert Units.of(Examples("a", ())).count == 0


def test_tables_that_say_less_than_their_rows_are_refused(
    releases: dict[str, Path],  # noqa: F811
    tiny_bert_dir: Path,
    tmp_path: Path,
) -> None:
    target = target_of(releases["ffa-lora"], (), str(tiny_bert_dir), None)
    for name, count, seed in (("in", 60, 0), ("out", 60, 77), ("few", ENOUGH - 1, 78)):
        write_data(tmp_path / f"{name}.jsonl", count, seed=seed)
    inside, outside, few, copies, loud = (tmp_path / f"{n}.jsonl" for n in ("in", "out", "few", "copies", "loud"))
    with pytest.raises(AuditError, match=f"few.jsonl: holds {ENOUGH - 1} different ones.*{ENOUGH} are needed"):
        asked(target, inside, few)
    copies.write_text((inside.read_text().splitlines()[0] + "\n") * 60)
    with pytest.raises(AuditError, match=r"copies\.jsonl: holds 1 different ones"):
        asked(target, copies, outside)
    first = inside.read_text().splitlines()[0]
    text = first.split('"text": "')[1].split('"')[0]
    loud.write_text(outside.read_text() + first.replace(text, text.upper().replace(" ", "  ")) + "\n")
    with pytest.raises(AuditError, match="1 records are among members and non-members, but for case or white space"):
        asked(target, inside, loud)
    assert asked(target, inside, outside).units.count == 60 + 48
