"""How many holders, and how many of them give a secret back (protocol.md §12.1)."""

import pytest

from secagg.errors import ParameterError
from secagg.masked.parameters import Graph, choose_graph, complete_threshold, width
from secagg.masked.tails import log2_at_least, log2_below


@pytest.mark.parametrize("clients", range(3, 101))
def test_in_a_complete_graph_two_quorums_share_an_honest_holder_for_any_number_of_corrupt_ones(clients: int) -> None:
    for corrupt in range(clients - 1):
        t = complete_threshold(clients, corrupt)
        assert 2 * t - (clients - 1) > corrupt
        assert 2 * (t - 1) - (clients - 1) <= corrupt  # and t is the least such number


@pytest.mark.parametrize(
    ("clients", "dropout", "corruption", "holders", "threshold", "smallest", "sums"),
    [
        (10, 0.2, 0.1, 9, 6, 6, 1),
        (100, 0.3, 0.1, 99, 55, 46, 1),
        (500, 0.1, 0.1, 108, 73, 240, 1),
        (1000, 0.05, 0.05, 68, 46, 558, 1),
        (1000, 0.2, 0.1, 276, 174, 387, 2),
        (10_000, 0.1, 0.05, 136, 87, 4991, 1),
    ],
)
def test_what_is_chosen(
    clients: int, dropout: float, corruption: float, holders: int, threshold: int, smallest: int, sums: int
) -> None:
    graph = choose_graph(clients, dropout, corruption, round(corruption * clients) + 2)
    assert (graph.holders, graph.threshold, graph.smallest_sum, graph.most_sums) == (
        holders, threshold, smallest, sums
    )  # fmt: skip


def test_one_holder_fewer_does_not_do() -> None:
    graph = choose_graph(1000, 0.05, 0.05, 60)
    for t in range(2, graph.holders):
        with pytest.raises(ParameterError):
            Graph(1000, graph.holders - 1, t, graph.corrupt, graph.dropouts)


def test_the_chosen_graph_keeps_both_bounds_computed_here_once_more() -> None:
    g = choose_graph(1000, 0.1, 0.05, 60)
    assert 2 ** log2_below(999, 899, g.holders, g.threshold) * 1000 <= 2**-40
    assert 2 ** log2_at_least(899, 50, g.holders, 2 * g.threshold - g.holders) * 950 <= 2**-41


@pytest.mark.parametrize(
    ("clients", "dropout", "corruption", "n_min", "why"),
    [
        (2, 0.0, 0.0, 2, "masked sessions have 3"),
        (10, 0.6, 0.1, 3, "6 dropouts of 10 clients leave"),
        (10, 0.1, 0.1, 2, "must be from 3 to 10"),
        (10, 0.1, 0.1, 11, "must be from 3 to 10"),
        (5000, 0.5, 0.3, 1502, "holders"),
        (10, 1.0, 0.0, 3, "rate"),
    ],
)
def test_the_impossible_is_refused(clients: int, dropout: float, corruption: float, n_min: int, why: str) -> None:
    with pytest.raises(ParameterError, match=why):
        choose_graph(clients, dropout, corruption, n_min)


def test_a_sparse_graph_of_up_to_a_hundred_clients_is_refused() -> None:
    with pytest.raises(ParameterError, match="complete"):
        Graph(100, 60, 40, 1, 1)


def test_a_set_smaller_than_n_min_that_could_be_opened_by_itself_is_refused() -> None:
    graph = choose_graph(1000, 0.2, 0.1, 200)
    graph.check_least(graph.smallest_sum + graph.corrupt)
    with pytest.raises(ParameterError, match="could be opened"):
        graph.check_least(graph.smallest_sum + graph.corrupt + 1)


def test_the_width_holds_the_largest_sum_and_no_more() -> None:
    for clients in (3, 16, 17, 1000):
        for bits in (2, 8, 16):
            w = width(clients, bits)
            assert 2 ** (w - 1) <= clients * (2**bits - 1) < 2**w
    with pytest.raises(ParameterError, match="33 bits"):
        width(1 << 9, 24)
