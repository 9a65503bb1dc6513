"""Every decoder at the border, on inputs near valid ones: typed errors only. A few here; more with `make test-slow`,
millions with tests/fuzz/drive.py.
"""

import json
import time
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import drive
from tests.fuzz.json_places import place_values
from tests.fuzz.mutate import Mutator, frame, parts_of
from tests.fuzz.target import Target, attempt

QUICK, MORE = 40, 5000


def look_at(target: Target, data: bytes) -> None:
    outcome = attempt(target, data)
    if outcome.problem is not None:
        raise outcome.problem


@pytest.mark.parametrize("name", drive.ALL)
def test_a_few_inputs_near_valid_ones(name: str) -> None:
    target = drive.ALL[name]
    seeds = target.seeds()

    @given(st.randoms(use_true_random=False))
    @settings(max_examples=QUICK, deadline=None, suppress_health_check=list(HealthCheck))
    def near(random: Random) -> None:
        look_at(target, Mutator(seeds, random).next())

    near()


@pytest.mark.parametrize("name", drive.ALL)
def test_a_few_inputs_of_any_kind(name: str) -> None:
    target = drive.ALL[name]

    @given(st.lists(st.binary(max_size=200), max_size=7))
    @settings(max_examples=QUICK, deadline=None)
    def anything(parts: list[bytes]) -> None:
        look_at(target, frame(parts))

    anything()


@pytest.mark.slow
@pytest.mark.parametrize("name", drive.ALL)
def test_thousands_of_inputs(name: str) -> None:
    tally = drive.own(drive.ALL[name], MORE, seed=time.time_ns())
    assert tally.errors == {}


@pytest.mark.parametrize("name", drive.ALL)
def test_seeds_reach_the_end_of_the_decoder(name: str) -> None:
    """Otherwise nothing behind the first check would ever be tried."""
    target = drive.ALL[name]
    assert any(attempt(target, seed).code == "" and attempt(target, seed).problem is None for seed in target.seeds())
    assert all(frame(parts_of(seed)) == seed for seed in target.seeds()), "else nothing near it is ever made"


# -- the driver ------------------------------------------------------------------------------------------------


def test_the_driver_counts_and_says_what_it_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert drive.main(["--target", "merkle", "--inputs", "300", "--engine", "own"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["inputs"] == 300 == report["accepted"] + sum(report["refused"].values())
    assert report["errors"] == {}


def test_the_driver_fails_when_a_decoder_raises_another_error() -> None:
    def broken(data: bytes) -> object:
        return [][len(data)]

    tally = drive.own(Target("broken", lambda: [frame([b"{}"])], broken), 5, seed=1)
    assert tally.failed
    (found,) = tally.errors.values()
    assert found["count"] == 5


def test_the_same_seed_gives_the_same_inputs() -> None:
    seeds = drive.ALL["statements"].seeds()
    first, second = (Mutator(seeds, Random(5)) for _ in range(2))
    made = [first.next() for _ in range(50)]
    assert made == [second.next() for _ in range(50)]
    assert len(set(made)) > 40


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
)


@given(JSON, st.data())
def test_a_value_is_changed_where_it_stands_and_the_text_stays_json(value: object, data: st.DataObject) -> None:
    text = place_values(value, 40)
    assert json.loads(text.raw) == value
    place = data.draw(st.sampled_from(text.places))
    assert json.loads(text.value(place)) in [value, *_inside(value)]
    for edit in (text.with_value(place, b"[17]"), text.with_twin(place), *([text.without(place)] * (place.start > 0))):
        assert json.loads(text.edited([edit])) != value or value == [17]


def _inside(value: object) -> list[object]:
    """All values in a value."""
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return [*inner, *(one for item in inner for one in _inside(item))]


def test_of_edits_that_overlap_the_first_is_made() -> None:
    text = place_values({"a": [1, 2]}, 40)
    outer, first, second = text.places[1:]
    assert text.edited([text.with_value(second, b"3"), text.with_value(first, b"0")]) == b'{"a":[0,3]}'
    assert text.edited([text.with_value(first, b"0"), text.with_value(outer, b"[]")]) == b'{"a":[]}'


@given(st.lists(st.binary(max_size=50), max_size=5))
def test_frames_come_apart_again(parts: list[bytes]) -> None:
    assert parts_of(frame(parts)) == parts


@given(st.binary(max_size=100))
def test_anything_is_a_frame(data: bytes) -> None:
    assert len(parts_of(data, 3)) == 3
