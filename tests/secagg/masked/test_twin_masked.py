"""The fast path of `masked` beside its naive twin, on numbers that hypothesis picks (protocol.md §12)."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg.codec import Quantiser
from secagg.errors import ParameterError
from secagg.masked.holders import draw_holders
from secagg.masked.keys import PairContext, pair_seed, public_key
from secagg.masked.masks import Mask
from secagg.masked.parameters import Graph, choose_graph
from secagg.masked.sharing import Secret, Share, combine, split
from secagg.masked.vectors import MaskedTotal, Shape, mask_update, vector_root
from tests.twin import encoding
from tests.twin import masked as twin
from tests.twin.predictable import PredictableRandomness

SEEDS = st.binary(min_size=1, max_size=8)
KEYS = st.binary(min_size=32, max_size=32)


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 180), st.integers(0, 45), st.integers(0, 45), st.integers(0, 60))
def test_the_graph_of_a_cohort(clients: int, dropout: int, corruption: int, more: int) -> None:
    """Rates in percent: exact fractions in the twin, doubles in the package."""
    n_min = -(-corruption * clients // 100) + 2 + more
    wanted = twin.graph(clients, f"{dropout / 100}", f"{corruption / 100}", n_min)
    try:
        found = choose_graph(clients, dropout / 100, corruption / 100, n_min)
    except ParameterError:
        assert wanted is None
        return
    assert wanted is not None
    assert (found.holders, found.threshold, found.corrupt, found.dropouts) == (
        wanted.holders, wanted.threshold, wanted.corrupt, wanted.dropouts
    )  # fmt: skip
    assert wanted.least is None or wanted.least == found.smallest_sum


@settings(max_examples=60, deadline=None)
@given(st.integers(101, 160), st.data())
def test_graphs_that_a_descriptor_may_state(clients: int, data: st.DataObject) -> None:
    corrupt, dropouts = data.draw(st.integers(0, 20)), data.draw(st.integers(0, 20))
    holders = data.draw(st.integers(2, clients - 2))
    threshold = data.draw(st.integers(2, holders))
    stated = twin.Graph(holders, threshold, corrupt, dropouts)
    try:
        Graph(clients, holders, threshold, corrupt, dropouts)
    except ParameterError:
        assert not twin.serves(clients, stated)
        return
    assert twin.serves(clients, stated)


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(2, 60), st.integers(1, 60))
def test_draws(seed: bytes, others: int, count: int) -> None:
    wanted = twin.draw(range(others), count, PredictableRandomness(seed))
    assert list(draw_holders(range(others), count, PredictableRandomness(seed))) == wanted


@settings(max_examples=30, deadline=None)
@given(KEYS, SEEDS, st.integers(2, 12), st.data())
def test_shares(secret: bytes, seed: bytes, holders: int, data: st.DataObject) -> None:
    threshold = data.draw(st.integers(1, holders))
    wanted = twin.share(secret, threshold, holders, PredictableRandomness(seed))
    assert [x.value for x in split(Secret(secret), threshold, holders, PredictableRandomness(seed))] == wanted
    chosen = data.draw(st.lists(st.integers(1, holders), min_size=threshold, max_size=threshold, unique=True))
    assert twin.combine({x: wanted[x - 1] for x in chosen}) == int.from_bytes(secret, "little")
    assert combine({x: Share(wanted[x - 1]) for x in chosen}, threshold).value == secret


@settings(max_examples=25, deadline=None)
@given(KEYS, KEYS)
def test_keys_of_any_bytes(one: bytes, other: bytes) -> None:
    context = PairContext(ctx="11" * 32, low="22" * 32, high="33" * 32)
    assert public_key(Secret(one)) == twin.public_key(one)
    found = pair_seed(Secret(one), twin.public_key(other), context).value
    assert found == twin.pair_seed(one, twin.public_key(other), context.ctx, context.high, context.low)


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.integers(1, 90), st.integers(2, 16), st.integers(0, 8), st.integers(0, 4))
def test_vectors(seed: bytes, length: int, bits: int, more: int, masks: int) -> None:
    """Any width and any number of masks: the same bytes, and the same values when they are added."""
    width = min(32, bits + more)
    change = [encoding.single((word / 2**31 - 1) * 0.6) for word in twin.mask("self", seed, length)]
    kept = [((-1) ** i, "pair", bytes([i]) * 32) for i in range(masks)]
    levels = encoding.encode(change, 0.5, bits, 1.0, PredictableRandomness(seed))
    wanted = twin.masked(levels, kept, width)
    shape, made = Shape(length, width), [Mask.expand("pair", Secret(key), negative=sign < 0) for sign, _, key in kept]
    quantiser = Quantiser.uniform(length, 0.5, bits)
    packed = mask_update(shape, quantiser, np.array(change, np.float32), made, PredictableRandomness(seed))
    assert packed.tobytes() == twin.pack(wanted, width)
    assert vector_root(shape, packed) == twin.vector_root(packed.tobytes(), width)
    total = MaskedTotal(shape)
    for _ in range(3):
        total.add(packed)
    assert total.values.tolist() == [3 * value % 2**width for value in wanted]
