"""Whoever lies, whoever is silent, in whatever order: the invariants hold (protocol.md §8, §9)."""

from random import Random

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.simulation import lying_clients, lying_keyholders, lying_servers
from tests.simulation.invariants import check_all
from tests.simulation.sealed_parties import PARTIES, Client, Holder, Server
from tests.simulation.sealed_session import LATER, Released, SealedSession, honest_clients, honest_holders
from tests.small import DAY

CLIENTS = st.lists(st.one_of(st.just(Client), st.sampled_from((Client, *lying_clients.LIARS))), min_size=3, max_size=5)
HOLDERS = st.tuples(st.integers(0, 3), st.sampled_from((Holder, *lying_keyholders.LIARS)))
"""At most f = 1 of four."""
SERVERS = st.sampled_from((Server, *lying_servers.LIARS))


def play(
    clients: list[type[Client]],
    holder: tuple[int, type[Holder]],
    server: type[Server],
    order: Random,
    repeats: int = 1,
    later: int = LATER,
) -> SealedSession:
    def shuffled(places: list[int]) -> list[int]:
        order.shuffle(places)
        return places

    made = [kind(one.signer, one.change) for kind, one in zip(clients, honest_clients(len(clients)), strict=True)]
    committee = honest_holders()
    committee[holder[0]] = holder[1](committee[holder[0]].signer)
    coordinator = server(PARTIES.coordinator)
    return SealedSession(made, committee, coordinator, shuffle=shuffled, repeats=repeats, later=later).run()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    clients=CLIENTS,
    holder=HOLDERS,
    server=SERVERS,
    order=st.randoms(use_true_random=False),
    repeats=st.integers(1, 2),
    later=st.sampled_from((LATER, LATER, 3 * DAY)),
)
@example(
    clients=[lying_clients.SealsRubbish, Client, Client],
    holder=(1, lying_keyholders.KeepsSilent),
    server=Server,
    order=Random(1),
    repeats=1,
    later=LATER,
)
@example(
    clients=[Client, Client, Client, lying_clients.OverflowsTheSum, lying_clients.OverflowsTheSum],
    holder=(0, Holder),
    server=Server,
    order=Random(0),
    repeats=1,
    later=LATER,
)
@example(
    clients=[Client] * 4,
    holder=(2, lying_keyholders.EndorsesTwice),
    server=lying_servers.ShowsDifferentSets,
    order=Random(2),
    repeats=2,
    later=LATER,
)
def test_the_invariants_hold_in_every_schedule(
    clients: list[type[Client]],
    holder: tuple[int, type[Holder]],
    server: type[Server],
    order: Random,
    repeats: int,
    later: int,
) -> None:
    check_all(play(clients, holder, server, order, repeats, later))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    liars=st.lists(st.sampled_from([liar for liar in lying_clients.LIARS if liar.refused]), max_size=2),
    holder=HOLDERS,
    order=st.randoms(use_true_random=False),
)
def test_who_is_refused_and_one_bad_key_holder_keep_nobody_from_the_sum(
    liars: list[type[lying_clients.LyingClient]], holder: tuple[int, type[Holder]], order: Random
) -> None:
    """Three honest clients and four key-holders of whom one lies end in a release under an honest coordinator."""
    run = play([Client, Client, Client, *liars], holder, Server, order)
    check_all(run)
    assert isinstance(run.outcome, Released)
