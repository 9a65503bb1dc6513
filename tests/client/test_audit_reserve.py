"""The draw of an audit reserve: its coins, what is trained on, and the one draw on the disk (protocol.md §4.6)."""

import hashlib
import hmac
import json
import math
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from secagg.canonical import pretty_bytes
from secagg.descriptor import AuditReserve
from secagg.errors import DataError, StorageError
from secagg.signing import parse_model
from secagg_client.audit_files import DRAW, StoredDraw, draw_once
from secagg_client.audit_reserve import AuditDraw
from secagg_client.data import DataConfig, Examples, load_examples
from secagg_client.tables import read_table
from tests.client.support import LM, MEAN, loaded
from tests.small import Small

KEY, CLIENT = "0a" * 32, "c1" * 32
SEED = bytes(range(32))


def rows(count: int) -> Examples:
    return Examples("rows", tuple(f"record {i}" for i in range(count)), tuple(i % 2 for i in range(count)))


def made(count: int) -> Examples:
    return Examples("canaries", tuple(f"canary {i}" for i in range(count)), tuple(i % 2 for i in range(count)))


def wanted(count: int = 400, hold_out: float = 0.4, canaries: int = 30) -> AuditDraw:
    reserve = AuditReserve(hold_out=hold_out, canaries=canaries)
    return AuditDraw(KEY, CLIENT, reserve, MEAN, rows(count), made(canaries))


def within(found: int, trials: int, rate: float) -> bool:
    """Within five deviations: by chance once in two million."""
    return abs(found - trials * rate) < 5 * math.sqrt(trials * rate * (1 - rate))


def test_the_coins_are_those_of_the_specification() -> None:
    """protocol.md §4.6a, word for word."""
    order = wanted()
    drawn = order.with_seed(SEED)
    sides = dict[bool, set[str]]({True: set(), False: set()})
    for text in order.data.texts:
        digest = hashlib.sha256(text.encode()).digest()
        tag = hmac.new(SEED, b"secagg/v1/audit-record" + b"\0" + digest, hashlib.sha256).digest()
        if int.from_bytes(tag[:8], "little") < math.floor(Fraction(0.4) * 2**64):
            sides[tag[8] % 2 == 1].add(text)
    assert (set(drawn.members.texts), set(drawn.nonmembers.texts)) == (sides[True], sides[False])
    for index, inside in enumerate(drawn.canary_is_in):
        tag = hmac.new(SEED, b"secagg/v1/audit-canary" + b"\0" + index.to_bytes(8, "little"), hashlib.sha256).digest()
        assert inside == (tag[8] % 2 == 1)


@pytest.mark.parametrize("hold_out", [0.1, 0.5])
def test_candidates_come_at_the_rate_and_the_coins_are_fair(hold_out: float) -> None:
    count, canaries = 20_000, 2000
    drawn = wanted(count, hold_out, canaries).with_seed(SEED)
    candidates = len(drawn.members) + len(drawn.nonmembers)
    assert within(candidates, count, hold_out)
    assert within(len(drawn.members), candidates, 0.5)
    assert within(sum(drawn.canary_is_in), canaries, 0.5)


def test_coins_of_records_and_canaries_are_independent() -> None:
    first, second = (wanted(4000, 0.5).with_seed(seed) for seed in (SEED, bytes(32)))
    sides = [frozenset(drawn.nonmembers.texts) for drawn in (first, second)]
    assert within(len(sides[0] & sides[1]), 4000, 1 / 16)
    assert within(sum(int(text.split()[1]) % 2 for text in sides[0]), len(sides[0]), 0.5)


def test_what_is_out_is_in_no_example_given_to_training() -> None:
    order = wanted()
    drawn = order.with_seed(SEED)
    inside = {text for text, taken in zip(drawn.canaries.texts, drawn.canary_is_in, strict=True) if taken}
    assert drawn.nonmembers.texts
    assert 0 < len(inside) < 30
    assert set(drawn.training.texts) == set(order.data.texts) - set(drawn.nonmembers.texts) | inside
    assert len(drawn.training) == len(set(drawn.training.texts))
    assert set(drawn.members.texts) <= set(drawn.training.texts)
    everything = order.data.joined(order.canaries)
    labels = dict(zip(everything.texts, everything.labels, strict=True))
    for part in (drawn.training, drawn.members, drawn.nonmembers):
        assert all(labels[text] == label for text, label in zip(part.texts, part.labels, strict=True))


def test_copies_of_a_record_have_one_coin() -> None:
    plain = wanted(200, 0.5).data
    copies = Examples("rows", plain.texts + tuple(f" {text}\n" for text in plain.texts), plain.labels * 2)
    drawn = replace(wanted(200, 0.5), data=copies).with_seed(SEED)
    assert drawn.nonmembers.texts
    assert not {text.strip() for text in drawn.nonmembers.texts} & {text.strip() for text in drawn.training.texts}


def test_the_order_of_rows_is_nothing() -> None:
    order = wanted()
    turned = replace(order, data=order.data.select(range(len(order.data) - 1, -1, -1)))
    first, second = (each.with_seed(SEED) for each in (order, turned))
    assert replace(first, training=second.training) == second
    assert set(first.training.texts) == set(second.training.texts)


@pytest.mark.parametrize(("hold_out", "canaries"), [(0.0, 30), (0.4, 0)])
def test_only_what_is_asked_for_is_drawn(hold_out: float, canaries: int, tmp_path: Path) -> None:
    drawn = draw_once(tmp_path / "audit", wanted(100, hold_out, canaries), os.urandom)
    assert bool(drawn.nonmembers.texts) == bool(hold_out)
    assert len(drawn.canaries) == canaries
    tables = ["canaries.parquet"] if canaries else ["members.parquet", "nonmembers.parquet"]
    assert sorted(path.name for path in (tmp_path / "audit").iterdir()) == sorted([DRAW, *tables])


def test_too_few_records_to_hold_any_out(tmp_path: Path) -> None:
    order = wanted(1, 0.5, 0)
    seeds = (bytes([byte]) * 32 for byte in range(256))
    with pytest.raises(DataError, match="rows: the audit's coins left out every record"):
        draw_once(tmp_path / "audit", order, lambda _size: next(seed for seed in seeds if _all_out(order, seed)))
    assert not (tmp_path / "audit").exists()


def _all_out(order: AuditDraw, seed: bytes) -> bool:
    try:
        order.with_seed(seed)
    except DataError:
        return True
    return False


# -- on the disk -----------------------------------------------------------------------------------------------


def test_the_files_read_back_and_are_the_party_s_own(tmp_path: Path) -> None:
    folder = tmp_path / "state" / "audit"
    drawn = draw_once(folder, wanted(), os.urandom)
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    found = {
        name: load_examples(DataConfig(source=str(folder / f"{name}.parquet")), MEAN)
        for name in ("members", "nonmembers", "canaries")
    }
    for name, expected in (("members", drawn.members), ("nonmembers", drawn.nonmembers), ("canaries", drawn.canaries)):
        assert (found[name].texts, found[name].labels) == (expected.texts, expected.labels)
    assert tuple(read_table(str(folder / "canaries.parquet"))["member"]) == drawn.canary_is_in


def test_the_draw_is_made_once_from_fresh_randomness(tmp_path: Path) -> None:
    order = wanted()
    first = draw_once(tmp_path / "audit", order, os.urandom)
    before = {path.name: path.read_bytes() for path in (tmp_path / "audit").iterdir()}

    def none_left(_size: int) -> bytes:
        raise AssertionError("drawn twice")

    assert draw_once(tmp_path / "audit", order, none_left) == first
    assert {path.name: path.read_bytes() for path in (tmp_path / "audit").iterdir()} == before
    assert draw_once(tmp_path / "other", order, os.urandom).nonmembers != first.nonmembers
    assert "record" not in repr(first)


def test_sessions_that_name_one_key_share_the_draw(tiny_bert_dir: Path, tmp_path: Path) -> None:
    first, second = (Small().proposal.descriptor.statement for _ in range(2))
    reserve, processor = AuditReserve(hold_out=0.4, canaries=5), loaded(tiny_bert_dir, MEAN).tokenizer
    orders = [AuditDraw.of(each, reserve, CLIENT, rows(90), processor, first.ctx) for each in (first, second)]
    assert orders[0] == orders[1] == AuditDraw.of(first, reserve, CLIENT, rows(90), processor)
    assert AuditDraw.of(second, reserve, CLIENT, rows(90), processor).canaries != orders[1].canaries
    draws = [draw_once(tmp_path / "audit", order, os.urandom) for order in orders]
    assert draws[0] == draws[1]


def test_killed_while_it_wrote_there_is_no_draw_yet(tmp_path: Path) -> None:
    leftover = tmp_path / ".audit.draft"
    leftover.mkdir()
    (leftover / "members.parquet").write_bytes(b"half")
    drawn = draw_once(tmp_path / "audit", wanted(), lambda _size: SEED)
    assert not leftover.exists()
    assert draw_once(tmp_path / "audit", wanted(), os.urandom) == drawn


def altered(folder: Path, **changes: object) -> None:
    stored = parse_model(StoredDraw, (folder / DRAW).read_bytes())
    (folder / DRAW).write_bytes(pretty_bytes(stored.model_copy(update=changes)))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / DRAW).write_bytes(b"{"), "draw.json: damaged"),
        (lambda folder: (folder / DRAW).unlink(), "draw.json: it does not exist"),
        (lambda folder: altered(folder, seed="ee" * 32), r"members.parquet: is not what draw.json and the data give"),
        (lambda folder: altered(folder, key="ee" * 32), "draw.json: made for another session, client or reserve"),
        (lambda folder: altered(folder, client="ee" * 32), "another session, client or reserve"),
        (lambda folder: altered(folder, reserve=AuditReserve(canaries=1)), "another session, client or reserve"),
        (lambda folder: (folder / "nonmembers.parquet").write_bytes(b"PAR1"), "nonmembers.parquet: damaged"),
        (lambda folder: (folder / "canaries.parquet").unlink(), "canaries.parquet: it does not exist"),
        (lambda folder: (folder / "members.parquet").rename(folder / "nonmembers.parquet"), "members.parquet"),
    ],
)  # fmt: skip
def test_a_draw_that_was_altered_is_refused(damage: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    folder = tmp_path / "audit"
    draw_once(folder, wanted(), os.urandom)
    damage(folder)
    with pytest.raises(StorageError, match=message):
        draw_once(folder, wanted(), os.urandom)


def test_other_data_than_at_the_draw_are_refused(tmp_path: Path) -> None:
    draw_once(tmp_path / "audit", wanted(), os.urandom)
    with pytest.raises(DataError, match="other records than when the audit's draw was made"):
        draw_once(tmp_path / "audit", wanted(401), os.urandom)
    order = wanted()
    flipped = replace(order, data=Examples("rows", order.data.texts, tuple(1 - label for label in order.data.labels)))
    with pytest.raises(StorageError, match="the data's labels"):
        draw_once(tmp_path / "audit", flipped, os.urandom)


def test_the_stored_draw_says_what_it_was_made_for(tmp_path: Path) -> None:
    draw_once(tmp_path / "audit", wanted(), lambda _size: SEED)
    content = json.loads((tmp_path / "audit" / DRAW).read_text())
    assert content == {
        "version": 1, "key": KEY, "client": CLIENT, "reserve": {"hold_out": 0.4, "canaries": 30},
        "data": rows(400).fingerprint(), "seed": SEED.hex(),
    }  # fmt: skip
    assert SEED.hex() not in repr(parse_model(StoredDraw, (tmp_path / "audit" / DRAW).read_bytes()))


def test_texts_without_classes(tmp_path: Path) -> None:
    data, canaries = Examples("rows", rows(50).texts), Examples("canaries", made(30).texts)
    order = replace(wanted(), task=LM, data=data, canaries=canaries)
    drawn = draw_once(tmp_path / "audit", order, os.urandom)
    assert read_table(str(tmp_path / "audit" / "canaries.parquet")).column_names == ["text", "member"]
    assert draw_once(tmp_path / "audit", order, os.urandom) == drawn


def test_with_users_as_the_unit_all_records_of_one_fall_alike_and_each_canary_is_a_user() -> None:
    data = replace(rows(1200), users=tuple(f"user {i % 300}" for i in range(1200)))
    canaries = replace(made(30), users=tuple(f"\0canary/{i}" for i in range(30)))
    order = replace(wanted(), data=data, canaries=canaries, unit="user")
    drawn = order.with_seed(SEED)
    inside, outside = set(drawn.members.users), set(drawn.nonmembers.users)
    assert not inside & outside
    assert (len(drawn.members), len(drawn.nonmembers)) == (4 * len(inside), 4 * len(outside))
    assert within(len(inside) + len(outside), 300, 0.4)
    assert not outside & set(drawn.training.users)
    assert sum(user.startswith("\0canary/") for user in drawn.training.users) == sum(drawn.canary_is_in)
    assert order.tables(drawn)["members"]["user"] == list(drawn.members.users)
