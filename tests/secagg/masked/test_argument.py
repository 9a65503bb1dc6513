"""The argument of protocol.md §12.8.1, tried against a coordinator that shows any sets to anybody.

A model of who endorses, accepts and answers what, without cryptography. Corrupt clients endorse and answer everything.
"""

from dataclasses import dataclass

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from secagg.masked.parameters import complete_threshold


@dataclass
class World:
    """Clients 0..n-1, the last c corrupt; the set that each honest one was shown; everybody's holders."""

    n: int
    c: int
    t: int
    holders: list[set[int]]
    shown: list[frozenset[int]]

    @property
    def honest(self) -> range:
        return range(self.n - self.c)

    def corrupt(self, client: int) -> bool:
        return client >= self.n - self.c

    def accepts(self, v: int) -> bool:
        return self.t <= sum(self.corrupt(w) or self.shown[w] == self.shown[v] for w in self.holders[v])

    def opened(self, v: int, *, own: bool) -> bool:
        """Whether t holders give the share of v's own mask, or else of its mask key."""
        return self.t <= sum(
            self.corrupt(w) or (self.accepts(w) and (v in self.shown[w]) == own) for w in self.holders[v]
        )

    def opened_sets(self) -> list[set[int]]:
        """Sets of honest clients whose sum the coordinator gets: nothing that hides them is left."""
        hidden = {v for v in self.honest if not self.opened(v, own=False)}
        sets, left = [], set(hidden)
        while left:
            found, queue = set[int](), [left.pop()]
            while queue:
                v = queue.pop()
                found.add(v)
                near = {w for w in left if w in self.holders[v] or v in self.holders[w]}
                left -= near
                queue += near
            if all(self.opened(v, own=True) for v in found):
                sets.append(found)
        return sets

    def check(self) -> None:
        for v in self.honest:
            assert not (self.opened(v, own=True) and self.opened(v, own=False))
            assert not (self.accepts(v) and self.opened(v, own=False))
        for opened in self.opened_sets():
            for v in opened:
                assert sum(self.corrupt(w) or w in opened for w in self.holders[v]) >= self.t


@st.composite
def worlds(draw: st.DrawFn, complete: bool) -> World:
    n = draw(st.integers(4, 14))
    c = draw(st.integers(0, n // 3))
    everybody = frozenset(range(n))
    if complete:
        holders = [set(everybody - {v}) for v in range(n)]
        t = complete_threshold(n, c)
    else:
        k = draw(st.integers(3, n - 1))
        holders = [set(draw(st.permutations(sorted(everybody - {v})))[:k]) for v in range(n)]
        worst = max(sum(w >= n - c for w in holders[v]) for v in range(n - c))
        t = (k + worst) // 2 + 1
        assume(t <= k)
    offered = draw(st.lists(st.sets(st.integers(0, n - 1)), min_size=1, max_size=3))
    assigned = [draw(st.integers(0, len(offered) - 1)) for _ in range(n - c)]
    whole = [frozenset(offered[i] | {v for v in range(n - c) if assigned[v] == i}) for i in range(len(offered))]
    return World(n, c, t, holders, [whole[assigned[v]] for v in range(n - c)])


@settings(max_examples=400, deadline=None)
@given(worlds(complete=True))
def test_in_a_complete_graph_one_sum_at_most_is_opened_and_it_is_that_of_the_accepted_set(world: World) -> None:
    world.check()
    accepted = {world.shown[v] for v in world.honest if world.accepts(v)}
    assert len(accepted) <= 1
    for opened in world.opened_sets():
        (chosen,) = accepted
        assert opened == {v for v in chosen if not world.corrupt(v)}


@settings(max_examples=400, deadline=None)
@given(worlds(complete=False))
def test_in_a_sparse_graph_every_opened_set_holds_t_of_each_members_holders(world: World) -> None:
    world.check()


def test_the_model_opens_the_sum_when_nobody_lies() -> None:
    everybody = frozenset(range(6))
    holders = [set(everybody - {v}) for v in range(6)]
    world = World(6, 1, complete_threshold(6, 1), holders, [everybody] * 5)
    assert world.opened_sets() == [set(range(5))]


def test_with_a_threshold_too_low_the_model_finds_both_secrets_of_one_client() -> None:
    """So that it can fail: half of the holders see member 0 in, half out, the corrupt one serves both."""
    inside, outside = frozenset(range(6)), frozenset(range(1, 6))
    holders = [set(range(6)) - {v} for v in range(6)]
    world = World(6, 1, 2, holders, [inside, inside, inside, outside, outside])
    assert [v for v in world.honest if world.opened(v, own=True) and world.opened(v, own=False)] == [0]
