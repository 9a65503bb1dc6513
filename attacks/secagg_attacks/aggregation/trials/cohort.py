"""Inside one session: accomplices, a cohort of two, and a coordinator that asks key-holders for two sets."""

from collections.abc import Sequence

import numpy as np

from secagg.coordinator import SessionSpec
from secagg.errors import ConflictError, PolicyViolation, ProtocolViolation, SessionClosed, TooFewContributions
from secagg.messages import Candidate, SetMember
from secagg.randomness import Randomness
from secagg.run import DAY, evidence, run_sealed
from secagg_attacks.aggregation.colluding import colluding
from secagg_attacks.aggregation.replay import Asked
from secagg_attacks.aggregation.set_difference import set_difference
from secagg_attacks.aggregation.trials.session import N_MIN, Bench, Session, made_up, plain_plan, sum_of
from secagg_attacks.aggregation.trials.trial import (
    Attempt,
    Figure,
    Opening,
    Trial,
    attempt,
    attempt_to_open,
    recovery,
    without_attack,
)


def all_but_one(now: int, random: Randomness) -> Trial:
    """A session of n_min clients of which all but one show the coordinator what they sent."""
    plan = plain_plan()
    changes = made_up(Bench.of(plan, N_MIN, now, random))
    *known, victim = changes.values()
    run = run_sealed(plan, changes, now=now, random=random)
    figure = recovery(colluding(run.mean, len(changes), known).total, victim)
    return Trial(
        "colluding clients",
        f"{len(known)} of {len(changes)} clients show what they sent; the sum less theirs is the last one's update.",
        "protocol.md §4.4",
        "nothing: this is the protocol as it is deployed",
        figure,
        without_attack(run.mean.astype(np.float64), 1, victim),
        (),
        (
            Opening(
                "all other members of a cohort act together: its members know their parts of the sum. Policies ask for "
                "at least the assumed corrupt clients + 2 members, so with fewer accomplices a sum of two or more is "
                "left",
                "differential privacy alone",
                figure,
            ),
        ),
    )


def two_clients(now: int, random: Randomness) -> Trial:
    """A session in which each client's sum with the other is the other's update."""
    plan = plain_plan()
    bench = Bench.of(plan, 3, now, random)
    changes = made_up(bench)
    pair = dict(list(changes.items())[:2])
    mine, victim = pair.values()
    spec = SessionSpec(n_min=2, n_max=2, upload_seconds=DAY, expiry_seconds=2 * DAY)
    run = run_sealed(plan, pair, now=now, random=random, spec=spec)
    figure = recovery(colluding(run.mean, 2, [mine]).total, victim)
    committee = bench.committee()
    proposal = bench.proposed(plan, committee, list(pair), n_min=2)
    return Trial(
        "a cohort of two",
        "A session of two clients: each has the other's update as soon as the sum is out.",
        "protocol.md §4.4",
        "every party's policy assumes that no client is corrupt (assumed_corrupt_clients = 0)",
        figure,
        without_attack(run.mean.astype(np.float64), 1, victim),
        (
            attempt(
                "key-holders are asked to approve a session of two", "each key-holder's policy",
                lambda: committee[0].approve(proposal, now), PolicyViolation,
            ),
            attempt(
                "clients are asked to take part in it", "each client's policy",
                lambda: bench.policy.check(proposal.descriptor.statement), PolicyViolation,
            ),
        ),
        (Opening("every party sets assumed_corrupt_clients = 0", "differential privacy alone", figure),),
    )  # fmt: skip


def second_sets(now: int, random: Randomness) -> Trial:
    """The coordinator asks for the sum over everybody, and for the sum over everybody but one."""
    plan = plain_plan()
    bench = Bench.of(plan, 4, now, random)
    changes = made_up(bench)
    naive = bench.session(plan, changes, forgetful=4)
    *others, _ = naive.everybody
    asked = [naive.ask(naive.everybody), naive.ask(others)]
    return Trial(
        "a second set of one session",
        "Key-holders are asked for two sets of the same uploads; the difference of the sums is one client's update.",
        "protocol.md §3.4, §8.5, §8.6",
        "key-holders forget what they have endorsed",
        _difference(naive, asked),
        without_attack(sum_of(asked[0]).total, len(naive.everybody), naive.changes[naive.everybody[-1]]),
        tuple(_refused_sets(bench)),
        (
            Opening(
                "two of four key-holders forget or work with the coordinator, where one is assumed corrupt (f = 1)",
                "differential privacy alone",
                _beyond_f(bench),
            ),
        ),
    )


def _difference(session: Session, asked: Sequence[Asked]) -> Figure:
    """Of the client that is in one set only, the last by fingerprint."""
    victim = session.everybody[-1]
    return recovery(set_difference([sum_of(each) for each in asked], 2).alone()[victim], session.changes[victim])


def _refused_sets(bench: Bench) -> list[Attempt]:
    plan = plain_plan()
    honest = bench.session(plan, made_up(bench))
    sum_of(honest.ask(honest.everybody))
    fewer = honest.everybody[:-1]
    again = attempt_to_open("all key-holders are asked for a second set", honest.ask(fewer), ConflictError)
    one = bench.session(plan, made_up(bench), forgetful=1)
    a, b, c, naive = one.committee
    sum_of(one.ask(one.everybody, [a, b, naive]))
    split = one.ask(one.everybody[:-1], [c, b, naive])
    elsewhere = bench.session(plan, made_up(bench))
    replayed = honest.ask(honest.everybody, elsewhere.committee, descriptor=elsewhere.descriptor)
    fresh = bench.session(plan, made_up(bench))
    return [
        again,
        attempt_to_open("two sets go to two groups of key-holders, one of whom forgets (f = 1)", split, ConflictError),
        attempt_to_open("uploads are replayed to another session", replayed, ProtocolViolation),
        attempt(
            "a set below n_min is signed and shown to a key-holder",
            "a key-holder",
            lambda: _endorse_few(fresh),
            TooFewContributions,
        ),
        attempt_to_open("a set is asked for after expiry", fresh.ask(fresh.everybody, late=3 * DAY), SessionClosed),
    ]


def _endorse_few(session: Session) -> None:
    """A coordinator that does not use its own code's check, which would refuse to make such a set."""
    holder, chosen = session.committee[0], list(session.uploads[: N_MIN - 1])
    members = tuple(
        SetMember(client=each.signed.statement.client, upload_root=each.signed.statement.upload_root) for each in chosen
    )
    now, ctx = session.bench.now, session.descriptor.ctx
    few = session.bench.parties.coordinator.sign(Candidate(ctx=ctx, release=1, members=members, fixed_at=now))
    shown = evidence(session.descriptor, holder.signer.identity, chosen)
    holder.endorse_candidate(session.descriptor, few, shown, (), now)


def _beyond_f(bench: Bench) -> Figure:
    session = bench.session(plain_plan(), made_up(bench), forgetful=2)
    a, b, *naive = session.committee
    asked = [session.ask(session.everybody, [a, *naive]), session.ask(session.everybody[:-1], [b, *naive])]
    return _difference(session, asked)
