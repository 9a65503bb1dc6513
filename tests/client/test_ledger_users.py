"""The ledger and the user as unit of privacy: whose data were used, and no sum of epsilons of different units."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from secagg.errors import LedgerError, PolicyViolation
from secagg_client.accounting import epsilon_of
from secagg_client.data import Examples
from secagg_client.ledger import Ledger, Spend
from tests.client.ledgers import AGAIN, MECHANISM, ONCE, QUICK, STRICT, A, B, C, D, content, new_ledger, spend
from tests.client.support import LM, examples

PEOPLE = ("ann", "bob", "ann", "cem", "bob")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return new_ledger(tmp_path)


def of(seed: int, *people: str) -> Examples:
    """Records of these people; those of one seed are alike, and those of two share none."""
    return replace(examples(len(people), LM, seed=seed), users=people)


def by_user(session: str, data: Examples, name: str = "", **more: Any) -> Spend:
    return spend(session, data, name, mechanism=QUICK, unit="user", records_per_user=2, **more)


def by_record(session: str, data: Examples, name: str = "") -> Spend:
    return spend(session, data, name, mechanism=QUICK)


def test_other_records_of_one_user_are_the_same_data(ledger: Ledger) -> None:
    ledger.begin(by_user(A, of(1, *PEOPLE)), ONCE)
    with pytest.raises(PolicyViolation, match="already used in session aaaa"):
        ledger.check(by_user(B, of(2, "dia", "cem")), ONCE)
    ledger.begin(by_user(B, of(2, "dia", "eve")), ONCE)
    assert ledger.entries()[-1].unit == "user"


def test_records_that_bounding_leaves_out_are_remembered(ledger: Ledger) -> None:
    data = of(1, "ann", "ann", "ann", "ann", "ann")
    ledger.begin(by_user(A, data), ONCE)
    for row in range(5):
        with pytest.raises(PolicyViolation, match="already used"):
            ledger.check(by_user(B, replace(data.select([row]), users=("somebody else",)), "other"), ONCE)


def test_users_compose_over_sessions(ledger: Ledger) -> None:
    def run(session: str, *people: str) -> Spend:
        return spend(session, of(int(session[0], 16), *people), unit="user", records_per_user=2)

    ledger.begin(run(A, "ann", "bob"), AGAIN)
    one, two = (epsilon_of([MECHANISM.event()] * count, 1e-5) for count in (1, 2))
    assert ledger.check(run(B, "bob", "cem"), AGAIN) == pytest.approx(two, rel=0.01)
    assert ledger.check(run(C, "cem", "dia"), AGAIN) == pytest.approx(one, rel=0.01)
    ledger.begin(run(B, "bob", "cem"), AGAIN)
    spent = ledger.spent(AGAIN)
    assert [(each.unit, each.sessions) for each in spent] == [("user", 2), ("user", 2)]
    assert spent[0].epsilon == pytest.approx(two, rel=0.01)


@pytest.mark.parametrize("limits", [ONCE, AGAIN, STRICT])
def test_a_record_s_epsilon_says_nothing_for_a_user(ledger: Ledger, limits: object) -> None:
    """Also where a second session is allowed; by a record, a name or a user that they share."""
    ledger.begin(by_record(A, of(1, *PEOPLE), "ward 7"), AGAIN)
    shares_a_record = replace(of(1, *PEOPLE).select([0]), users=("nobody known",))
    for data, name in ((shares_a_record, "x"), (of(2, "bob"), "y"), (of(3, "zoe"), "ward 7")):
        with pytest.raises(PolicyViolation, match=r"with the record as unit of privacy; this session's is the user"):
            ledger.check(by_user(B, data, name), limits)  # type: ignore[arg-type]
    ledger.begin(by_user(B, of(2, "zoe"), "z"), AGAIN)


@pytest.mark.parametrize("limits", [ONCE, AGAIN, STRICT])
def test_nor_does_a_user_s_epsilon_for_a_record(ledger: Ledger, limits: object) -> None:
    """A record more or less replaces what its user adds: that moves the sum by up to 2 C."""
    ledger.begin(by_user(A, of(1, *PEOPLE), "ward 7"), AGAIN)
    for data, name in ((examples(1, LM, seed=1), "x"), (of(2, "bob"), "y"), (examples(1, LM, seed=3), "ward 7")):
        with pytest.raises(PolicyViolation, match=r"with the user as unit of privacy; this session's is the record"):
            ledger.check(by_record(B, data, name), limits)  # type: ignore[arg-type]


def test_an_abandoned_run_of_the_other_unit_spent_nothing(ledger: Ledger) -> None:
    ledger.begin(by_record(A, of(1, *PEOPLE)), ONCE)
    ledger.abandon(A)
    ledger.check(by_user(B, of(1, *PEOPLE)), ONCE)
    with pytest.raises(PolicyViolation, match="neither epsilon"):
        ledger.check(by_user(B, of(1, *PEOPLE)), STRICT)


def test_with_records_as_the_unit_users_do_not_count(ledger: Ledger) -> None:
    """Two runs on different records of one person are two disjoint data sets, as they always were."""
    ledger.begin(by_record(A, of(1, "ann")), ONCE)
    ledger.begin(by_record(B, of(2, "ann")), ONCE)
    assert [each.sessions for each in ledger.spent(ONCE)] == [1, 1]
    with pytest.raises(PolicyViolation, match="already used"):
        ledger.check(by_record(C, examples(1, LM, seed=1)), ONCE)


def test_both_units_under_one_name_are_shown_apart(ledger: Ledger) -> None:
    ledger.begin(by_record(A, of(1, "ann"), "ward 7"), ONCE)
    ledger.abandon(A)
    ledger.begin(by_user(B, of(1, "ann"), "ward 7"), ONCE)
    assert [(each.name, each.unit, each.sessions) for each in ledger.spent(ONCE)] == [
        ("ward 7", "record", 0), ("ward 7", "user", 1),
    ]  # fmt: skip


def test_a_run_with_its_records_given_to_others_is_another_run(ledger: Ledger) -> None:
    ledger.begin(by_user(A, of(1, "ann", "bob")), ONCE)
    with pytest.raises(LedgerError, match="other data or settings"):
        ledger.begin(by_user(A, of(1, "bob", "ann")), ONCE)
    assert ledger.begin(by_user(A, of(1, "ann", "bob").select([1, 0])), ONCE).attempt == 2


def test_no_user_and_no_plain_hash_of_one_is_on_the_disk(ledger: Ledger, tmp_path: Path) -> None:
    people = ("gregor samsa", "grete samsa")  # longer than what chance puts into keyed hashes, and not hex digits
    data = of(1, *people)
    ledger.begin(by_user(A, data), ONCE)
    files = content(tmp_path)
    assert len([name for name in files if name.startswith("ledger/users/")]) == 1
    found = b"".join(files.values())
    assert not any(name.encode() in found for name in people)
    assert not any(digest[:8] in found for digest in data.user_hashes())


@pytest.mark.parametrize("damage", ["missing", "altered", "swapped"])
def test_user_hashes_are_verified(ledger: Ledger, tmp_path: Path, damage: str) -> None:
    ledger.begin(by_user(A, of(1, *PEOPLE)), ONCE)
    (path,) = (tmp_path / "ledger" / "users").iterdir()
    if damage == "missing":
        path.unlink()
    elif damage == "altered":
        raw = path.read_bytes()
        path.write_bytes(bytes([raw[0] ^ 1]) + raw[1:])
    else:
        path.write_bytes((tmp_path / "ledger" / "records" / path.name).read_bytes())
    with pytest.raises(LedgerError, match=r"the user hashes of an earlier run (are missing|were altered)"):
        ledger.check(by_user(B, of(2, "zoe")), ONCE)


def test_lines_without_users_are_what_they_always_were(ledger: Ledger, tmp_path: Path) -> None:
    """Lines of ledgers from before there were users still verify: neither field is written without need."""
    ledger.begin(spend(D, examples(3, LM), mechanism=QUICK), ONCE)
    line = (tmp_path / "ledger" / "ledger.jsonl").read_text()
    assert '"unit"' not in line
    assert '"users"' not in line
    assert '"releases"' not in line
    assert not (tmp_path / "ledger" / "users").exists()
