"""The protocol as a whole: the opened sum is the plain sum of what those in U encoded (protocol.md §12)."""

import os
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from secagg.codec import Quantiser
from secagg.errors import NotReady, SecaggError, TooFewContributions
from secagg.masked import parameters
from secagg.masked.descriptor import MaskedSpec
from secagg.masked.run import STEPS, Step, run_masked
from tests.secagg.masked.sessions import Masked
from tests.small import DAY, NOW, changes, small_plan


class Spy:
    """Keeps what each client encoded, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen = list[NDArray[np.uint32]]()
        real = Quantiser.encode_range

        def spy(
            quantiser: Quantiser,
            update: NDArray[np.float32],
            weight: float,
            start: int,
            stop: int,
            words: NDArray[np.uint32],
            out: NDArray[np.uint32],
        ) -> int:
            clipped = real(quantiser, update, weight, start, stop, words, out)
            self.seen.append(out.copy())
            return clipped

        monkeypatch.setattr(Quantiser, "encode_range", spy)

    def total(self) -> list[int]:
        return [sum(values) for values in zip(*(seen.tolist() for seen in self.seen), strict=True)]


def test_the_sum_is_exactly_the_plain_sum_of_the_encoded_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    spy = Spy(monkeypatch)
    run = run_masked(small_plan(), changes(7), now=NOW, random=os.urandom, threads=2)
    assert run.opened.sums.tolist() == spy.total()
    assert len(run.opened.members) == 7


def test_the_mean_is_the_plain_mean_within_the_quantisation_step() -> None:
    updates = changes(5)
    run = run_masked(small_plan(), updates, now=NOW, random=os.urandom)
    assert np.abs(run.mean - np.mean(list(updates.values()), axis=0)).max() <= 2 * 0.5 / (2**16 - 1)


@pytest.mark.parametrize(("position", "step"), list(product(range(6), STEPS)))
def test_any_one_client_may_vanish_in_any_round(position: int, step: Step, monkeypatch: pytest.MonkeyPatch) -> None:
    spy = Spy(monkeypatch)
    session = Masked(absent={step: {position}})
    opened = session.finish().open()
    assert opened.members == tuple(session.there("upload"))
    assert opened.sums.tolist() == spy.total()


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.integers(0, 9), st.sampled_from(STEPS), max_size=2))
def test_two_of_ten_may_vanish_in_any_rounds(gone: dict[int, Step]) -> None:
    absent = {step: {number for number, when in gone.items() if when == step} for step in STEPS}
    with pytest.MonkeyPatch.context() as patch:
        spy = Spy(patch)
        session = Masked(clients=10, absent=absent)
        opened = session.finish().open()
        assert opened.sums.tolist() == spy.total()
        assert set(opened.members) == {n for n in range(10) if gone.get(n) not in STEPS[:3]}


@settings(max_examples=20, deadline=None)
@given(st.sets(st.integers(0, 7), min_size=3), st.sampled_from(STEPS))
def test_with_more_dropouts_than_agreed_nothing_or_the_exact_sum_is_opened(gone: set[int], step: Step) -> None:
    with pytest.MonkeyPatch.context() as patch:
        spy = Spy(patch)
        session = Masked(clients=8, absent={step: gone})
        try:
            opened = session.finish().open()
        except SecaggError:
            return
        assert opened.sums.tolist() == spy.total()
        assert len(opened.members) >= session.n_min


def test_too_few_answers_open_nothing() -> None:
    session = Masked(absent={"unmask": {0, 1, 2}})
    with pytest.raises(NotReady, match="fewer than 4 shares"):
        session.finish().open()


def test_fewer_vectors_than_n_min_are_not_summed() -> None:
    with pytest.raises(TooFewContributions):
        Masked(absent={"upload": {0, 1, 2}}).finish()


@pytest.mark.parametrize("gone", [{}, {"upload": {3}, "unmask": {8}}, {"advertise": {1}, "share": {2}}])
def test_a_sparse_graph_gives_the_exact_sum(gone: dict[Step, set[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    """The bounds need more than a hundred clients; here they are set aside, to try the machinery with twelve."""
    monkeypatch.setattr(parameters, "_refused_sparse", lambda graph: "")
    monkeypatch.setattr(parameters, "_smallest_sum", lambda *numbers: 12)
    monkeypatch.setattr("secagg.masked.descriptor.choose_graph", lambda n, d, c, least: parameters.Graph(n, 8, 5, 2, 2))
    spy = Spy(monkeypatch)
    session = Masked(clients=12, absent=gone)
    opened = session.finish().open()
    assert opened.sums.tolist() == spy.total()
    assert {len(shared.holders) for shared, _ in session.shared.values()} == {8}


def test_other_numbers_of_bits() -> None:
    updates = changes(4)
    for bits in (8, 16, 24):
        spec = MaskedSpec(n_min=3, dropout_rate=0, bits=bits, upload_seconds=DAY // 2, expiry_seconds=DAY)
        run = run_masked(small_plan(), updates, now=NOW, random=os.urandom, spec=spec)
        assert np.abs(run.mean - np.mean(list(updates.values()), axis=0)).max() <= 2 * 0.5 / (2**bits - 1) + 1e-7


def test_a_real_sparse_session_of_105_clients_with_four_that_vanish() -> None:
    updates = changes(105, 40)
    vanish: dict[str, Step] = {
        "Hospital 3": "advertise", "Hospital 5": "upload", "Hospital 9": "unmask", "Hospital 11": "share",
    }  # fmt: skip
    spec = MaskedSpec(n_min=40, dropout_rate=0.05, corruption_rate=0.05, upload_seconds=DAY // 2, expiry_seconds=DAY)
    run = run_masked(small_plan(40), updates, now=NOW, random=os.urandom, spec=spec, vanish=vanish)
    inside = [update for name, update in updates.items() if vanish.get(name) not in STEPS[:3]]
    assert len(run.opened.members) == 102
    assert not run.session.statement.graph.complete
    assert np.abs(run.mean - np.mean(inside, axis=0)).max() <= 2 * 0.5 / (2**16 - 1)
