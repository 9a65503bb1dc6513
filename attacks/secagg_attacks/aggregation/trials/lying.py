"""V5, a server that lies about where training starts: other models for other clients, and planted weights."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from secagg.descriptor import Descriptor
from secagg.errors import AuditError, EndorsementInvalid, HashMismatch, PolicyViolation, SignatureInvalid
from secagg.keyholder import KeyHolder
from secagg.plan import Plan
from secagg.randomness import Randomness
from secagg.release import plan_of, save_adapter
from secagg.rounds import Previous, Round
from secagg.run import MemoryJournal
from secagg_attacks.aggregation.malicious import Trap, caught, inconsistent, simulate, suppressed, trapped, unchecked
from secagg_attacks.aggregation.trials.model import sentences, tiny_base, tiny_plan, tiny_public
from secagg_attacks.aggregation.trials.session import Bench
from secagg_attacks.aggregation.trials.trial import (
    AREA,
    ERROR,
    RECOVERED,
    TOLD_APART,
    Attempt,
    Figure,
    Opening,
    Trial,
    attempt,
    without_attack,
)
from secagg_attacks.intervals import Floats
from secagg_attacks.roc import Scores, auc
from secagg_attacks.views import Public
from secagg_client.models import LoadedBase
from secagg_client.noise import SeededSource
from secagg_client.planning import verify_plan
from secagg_client.tasks import make_task

CLIENTS, TARGET = 5, 1
TOKENS = (10, 15, 20, 25)
SESSIONS, RECORDS = 25, 3


@dataclass(frozen=True, slots=True)
class Agreed:
    """A plan that all parties pinned, on a model that they have."""

    bench: Bench
    base: LoadedBase = field(repr=False)
    plan: Plan = field(repr=False)

    @classmethod
    def of(cls, now: int, random: Randomness) -> "Agreed":
        """Three clients, four key-holders, noise as policies ask for it."""
        base = tiny_base()
        plan = tiny_plan(base, steps=3, batch_size=8, epsilon=4.0, secure=True)
        return cls(Bench.of(plan, 3, now, random), base, plan)


def other_models(now: int, random: Randomness) -> Trial:
    """The target trains from the agreed start, everybody else from one at which updates vanish."""
    agreed = Agreed.of(now, random)
    public = tiny_public(agreed.base, CLIENTS, 24, steps=4, batch_size=8, epsilon=None)
    data = [sentences(public.size, seed=client) for client in range(CLIENTS)]
    found = simulate(public, data, inconsistent(public, TARGET), TARGET, seed=0)
    honest = simulate(public, data, lambda _client: public.plan, TARGET, seed=0)
    return Trial(
        "other models for other clients (V5)",
        "The server shows one client the model, and the others one at which nothing is learnt: the sum is its update.",
        "Pasquini et al. 2022, arXiv 2111.07380; protocol.md §4.3, §4.4, §4.7",
        "clients train from whatever they are shown, without noise",
        Figure(ERROR, found.error, found.error <= RECOVERED),
        without_attack(honest.total, CLIENTS, honest.changes[TARGET]),
        (*_refused_plans(agreed, suppressed(agreed.plan)), _other_start(agreed)),
        (_other_training(agreed),),
    )


def planted_weights(now: int, random: Randomness) -> Trial:
    """Rows of A that answer to one token each: the sum says who has which."""
    agreed = Agreed.of(now, random)
    public = tiny_public(agreed.base, 1, RECORDS, steps=1, batch_size=RECORDS, epsilon=None)
    trap = _trap(agreed.base, public.plan)
    figure, control = (_tokens_read(public, replace(trap, plan=plan)) for plan in (trap.plan, public.plan))
    pinned = _trap(agreed.base, agreed.plan).plan
    accepts = Bench.of(pinned, 3, now, random)
    committee = accepts.committee()
    accepts.accept(accepts.approved(accepts.proposed(pinned, committee), committee))
    verify_plan(pinned, agreed.base)
    return Trial(
        "planted weights (V5)",
        f"The frozen A is made to answer to single tokens: {SESSIONS} sessions of one step on {RECORDS} sentences.",
        "Boenisch et al. 2023, arXiv 2112.02918; protocol.md §4.4",
        "clients train from whatever they are shown, without noise",
        figure,
        control,
        _refused_plans(agreed, pinned),
        (
            Opening(
                "a policy pins the hash of a plan with planted weights: this trial's was accepted by every check. Who "
                "pins a plan must have made it, or look at how its tensors start",
                "differential privacy alone",
                figure,
            ),
        ),
    )


def _refused_plans(agreed: Agreed, lie: Plan) -> tuple[Attempt, ...]:
    """The lying plan put before parties in every way that the coordinator has."""
    bench, committee = agreed.bench, agreed.bench.committee()
    honest = bench.approved(bench.proposed(agreed.plan, committee), committee)
    other = honest.descriptor.statement.model_copy(update={"plan": lie})
    altered = honest.model_copy(update={"descriptor": honest.descriptor.model_copy(update={"statement": other})})
    second = bench.proposed(lie, bench.committee())
    borrowed = second.model_copy(update={"approvals": honest.approvals})
    fresh = bench.committee()
    to_approve = bench.proposed(lie, fresh)
    colluders = [_colluder(holder) for holder in bench.committee()]
    bought = bench.approved(bench.proposed(lie, colluders), colluders)
    client, holders = "each client", "each key-holder's policy"
    return (
        attempt("the plan is exchanged after it was signed", client, lambda: bench.accept(altered), SignatureInvalid),
        attempt("a second descriptor is signed for some", client, lambda: bench.accept(second), EndorsementInvalid),
        attempt("it carries the approvals of the first", client, lambda: bench.accept(borrowed), EndorsementInvalid),
        attempt("key-holders approve it", holders, lambda: fresh[0].approve(to_approve, bench.now), PolicyViolation),
        attempt(
            "the whole committee approves whatever it is shown", "each client's policy", lambda: bench.accept(bought),
            PolicyViolation,
        ),
    )  # fmt: skip


def _colluder(holder: KeyHolder) -> KeyHolder:
    """DEFENCE OFF: a key-holder that pins no adapter."""
    policy = holder.policy.model_copy(update={"adapter_schema_hashes": ()})
    return replace(holder, policy=policy, journal=MemoryJournal())


def _other_start(agreed: Agreed) -> Attempt:
    """A later round whose start is of the server's own making, in the place of the verified release."""
    bench, plan = agreed.bench, agreed.plan
    honest = save_adapter(plan, np.zeros(plan.length, np.float32), 3)
    lie = save_adapter(plan, np.full(plan.length, 0.1, np.float32), 3)
    digest = hashlib.sha256(honest).hexdigest()
    round_ = Round(number=1, rounds=3, previous=Previous(series="aa" * 32, ctx="aa" * 32, adapter=digest))
    later: Descriptor = bench.proposed(plan, bench.committee(), round_=round_).descriptor.statement
    return attempt(
        "a later round starts from an adapter of the server's own", "each client", lambda: plan_of(later, lie),
        HashMismatch,
    )  # fmt: skip


def _other_training(agreed: Agreed) -> Opening:
    """Within epsilon and delta a policy pins nothing of how clients train. Raises AuditError if one now does."""
    training = agreed.plan.training.model_copy(update={"steps": 1, "learning_rate": 9.0, "max_grad_norm": 100.0})
    plan = agreed.plan.model_copy(update={"training": training})
    proposal = agreed.bench.proposed(plan, agreed.bench.committee())
    try:
        agreed.bench.policy.check(proposal.descriptor.statement)
    except PolicyViolation as error:
        raise AuditError(f"a policy now pins how clients train ({error}): this trial's words must follow") from error
    return Opening(
        "the server asks all for bad training, within the epsilon and delta that policies allow: steps, batch size, "
        "learning rate and clip are not pinned. Clients see them in the descriptor",
        "the noise, which the accountant sets for whatever is asked",
    )


def _tokens_read(public: Public, trap: Trap) -> Figure:
    """How well each trapped token's strength says who has it, over all sessions, when clients train from its plan."""
    shown, scores, held = replace(public, plan=trap.plan), list[float](), list[bool]()
    for seed in range(SESSIONS):
        data = sentences(RECORDS, seed=1000 + seed)
        rows = make_task(public.base.task, public.base.tokenizer).encode(data)
        tokens = {int(token) for row in rows for token in row.ids}
        scores += list(caught(trap, unchecked(shown, data, SeededSource(seed))))
        held += [token in tokens for token in TOKENS]
    values, is_in = np.array(scores), np.array(held)
    area = auc(Scores(values[is_in], values[~is_in]))
    return Figure(AREA, area, area >= TOLD_APART)


def _trap(base: LoadedBase, plan: Plan) -> Trap:
    """For TOKENS, among all words: what the lowest layer sees of a token follows from the public base."""
    return trapped(plan, _lowest(plan), _seen_by_lowest(base), TOKENS, range(4, len(base.tokenizer)))


def _lowest(plan: Plan) -> Sequence[str]:
    return [spec.name for spec in plan.tensors if ".layers.0." in spec.name and ".lora_A." in spec.name]


def _seen_by_lowest(base: LoadedBase) -> Floats:
    """[tokens, hidden]."""
    inner = base.model.get_submodule("model")
    normed = inner.layers[0].input_layernorm(base.model.get_input_embeddings().weight)  # type: ignore[operator, index, union-attr]
    found: Floats = normed.detach().double().numpy()
    return found
