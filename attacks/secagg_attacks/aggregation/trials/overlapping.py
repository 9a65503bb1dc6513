"""Overlapping cohorts: another session with one client less, and many rounds whose sets the coordinator chooses."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from secagg.errors import AuditError, LedgerError, LimitReached, PolicyViolation
from secagg.randomness import Randomness
from secagg.rounds import Round
from secagg_attacks.aggregation.disaggregate import mean_updates
from secagg_attacks.aggregation.set_difference import CohortSum, amplification, set_difference
from secagg_attacks.aggregation.trials.model import sentences, tiny_base, tiny_public
from secagg_attacks.aggregation.trials.session import N_MIN, Bench, made_up, plain_plan
from secagg_attacks.aggregation.trials.trial import (
    ERROR,
    NOISE,
    RECOVERED,
    Attempt,
    Figure,
    Opening,
    Trial,
    attempt,
    recovery,
    without_attack,
)
from secagg_attacks.intervals import Floats
from secagg_attacks.record import recorded
from secagg_client.accounting import Mechanism
from secagg_client.ledger import Ledger, Spend
from secagg_client.ledger_entry import LedgerLimits
from secagg_client.ledger_files import LedgerFiles

ROUNDS, ROUND_CLIENTS = 8, 5
TRAINED_CLIENTS, TRAINED_SIZE = 4, 24


def set_differences(now: int, random: Randomness) -> Trial:
    """Two sessions over the same data, the second without one client."""
    plan = plain_plan()
    bench = Bench.of(plan, 4, now, random)
    changes = made_up(bench)
    *others, victim = changes
    first = bench.session(plan, changes)
    second = bench.session(plan, {name: changes[name] for name in others})
    sums = [first.opened(), second.opened()]
    found = set_difference(sums, N_MIN).alone()
    fingerprint = bench.fingerprint(victim)
    return Trial(
        "set difference",
        "A second session without one client; the difference of the two sums is that client's update.",
        "protocol.md §4.5",
        "the other clients keep no ledger, and send the same update again",
        recovery(_only(found, fingerprint), changes[victim]),
        without_attack(sums[0].total, len(changes), changes[victim]),
        tuple(_ledger_attempts(first.descriptor.ctx, second.descriptor.ctx)),
        (_trained_anew(),),
    )


def _only(found: dict[str, Floats], fingerprint: str) -> Floats:
    if list(found) != [fingerprint]:
        raise AuditError("the sums do not isolate the client that is in one of them only")
    return found[fingerprint]


def _ledger_attempts(first: str, second: str) -> list[Attempt]:
    """An institution's own ledger, in a folder that is deleted afterwards."""
    data, training = sentences(4, seed=1), plain_plan().training
    limits = LedgerLimits(total_epsilon=8.0, delta=1e-5)

    def spend(session: str) -> Spend:
        return Spend.of(session, "records", data, Mechanism(1.0, 40.0, 1), training)

    with TemporaryDirectory(prefix="secagg-ledger-") as folder:
        files = LedgerFiles(Path(folder) / "ledger", Path(folder) / "witness")
        files.make()
        ledger = Ledger(files, clock=lambda: 0)
        ledger.begin(spend(first), limits)
        ledger.mark_sealed(first, "1" * 64)
        return [
            attempt(
                "a client is asked to train for the second session on the same records", "each client's own ledger",
                lambda: ledger.begin(spend(second), limits), LimitReached,
            ),
            attempt(
                "a client is asked for another result of the first session", "each client's own ledger",
                lambda: ledger.mark_sealed(first, "2" * 64), LedgerError,
            ),
        ]  # fmt: skip


def _trained_anew() -> Opening:
    """A policy that allows repetition: everybody trains again. Real training, by the accountant's noise."""
    public = tiny_public(tiny_base(), TRAINED_CLIENTS, TRAINED_SIZE, steps=3, batch_size=8, epsilon=8.0)
    data = [sentences(TRAINED_SIZE, seed=client) for client in range(TRAINED_CLIENTS)]
    one, two = (recorded(public, data, seed).rounds[0].changes.astype(np.float64) for seed in (1, 2))
    names = [str(client) for client in range(TRAINED_CLIENTS)]
    sums = [CohortSum(frozenset(names), one.sum(0)), CohortSum(frozenset(names[1:]), two[1:].sum(0))]
    (isolated,) = set_difference(sums, N_MIN).found
    error = recovery(isolated.vector, one[0])
    return Opening(
        "institutions allow a second session on the same data (allow_repeated). Key-holders know nothing of other "
        "sessions and cannot see it",
        f"each trained anew: the noise of all trainings, {amplification(isolated, sums):.2f} times that of one update, "
        "and differential privacy with both sessions' epsilons added up",
        error,
    )


def disaggregation(now: int, random: Randomness) -> Trial:
    """Many rounds, of which the coordinator leaves out whom it likes; sets are public, so participation is known."""
    plan = plain_plan()
    bench = Bench.of(plan, ROUND_CLIENTS, now, random)
    changes = made_up(bench)
    names = list(changes)
    fingerprints = [bench.fingerprint(name) for name in names]
    took_part = _participation()
    sums = list[Floats]()
    for row in took_part:
        session = bench.session(plan, changes)  # updates that stay alike from round to round
        sums.append(session.opened([f for f, is_in in zip(fingerprints, row, strict=True) if is_in]).total)
    found = mean_updates(took_part, np.stack(sums))
    errors = [recovery(found.updates[number], changes[name]).value for number, name in enumerate(names)]
    return Trial(
        "disaggregation over rounds",
        f"{ROUNDS} rounds, from each of which the coordinator leaves out some of {ROUND_CLIENTS} clients: linear "
        "equations in their updates.",
        "Lam et al. 2021, arXiv 2106.06089; protocol.md §4.7",
        "policies allow many rounds, and updates stay alike from round to round, without noise",
        Figure(f"largest {ERROR}", max(errors), max(errors) <= RECOVERED),
        without_attack(sums[0], int(took_part[0].sum()), changes[names[int(took_part[0].argmax())]]),
        tuple(_round_attempts(bench)),
        (
            Opening(
                "policies allow rounds (max_rounds). The coordinator may leave uploads out down to n_min, and "
                "certificates publish who was in: this trial's own rounds were opened so by honest key-holders",
                "updates move on between rounds, and the noise of differential privacy over all rounds",
                Figure(f"{NOISE}, after {ROUNDS} rounds (fresh in each)", float(found.noise.max())),
            ),
        ),
    )  # fmt: skip


def _participation() -> "np.ndarray[tuple[int, ...], np.dtype[np.bool_]]":
    """Sets of n_min and more that tell all clients apart, the same every time."""
    rng = np.random.default_rng(0)
    while True:
        rows = rng.random((ROUNDS, ROUND_CLIENTS)) < 0.7
        if rows.sum(1).min() >= N_MIN and np.linalg.matrix_rank(rows.astype(float)) == ROUND_CLIENTS:
            return rows


def _round_attempts(bench: Bench) -> list[Attempt]:
    plan, committee = plain_plan(), bench.committee()
    proposal = bench.proposed(plan, committee, round_=Round(number=0, rounds=2))
    return [
        attempt(
            "key-holders are asked to approve the first of two rounds", "each key-holder's policy",
            lambda: committee[0].approve(proposal, bench.now), PolicyViolation,
        ),
        attempt(
            "clients are asked to take part in the first of two rounds", "each client's policy",
            lambda: bench.policy.check(proposal.descriptor.statement), PolicyViolation,
        ),
    ]  # fmt: skip
