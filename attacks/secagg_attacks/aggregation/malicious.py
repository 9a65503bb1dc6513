"""View V5: a server that lies about where training starts. Reported apart from V1 to V4, and never averaged in.

Model inconsistency (Pasquini, Francati & Ateniese, CCS 2022, arXiv 2111.07380): all clients but the target get a model
whose updates vanish, so that the sum is the target's update. With LoRA's A near 0 the gradient of B is near 0.

Trap weights (Boenisch et al., EuroS&P 2023, arXiv 2112.02918; Fowl et al., ICLR 2022, arXiv 2110.13057), carried to
LoRA: rows of A in the lowest layer that answer to one token each, so that a column of B moves if and only if somebody
has that token. The papers trap with a ReLU; A is linear, so it tells tokens apart only within a vocabulary of fewer
words than the layer has inputs: those that the adversary expects.

Both need clients that train from what they are given. What a client checks here: docs/protocol.md §4.3, §4.4, §4.7.2.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from secagg.adapter import unflatten
from secagg.errors import AuditError
from secagg.plan import Plan, TensorInit, TensorSpec
from secagg_attacks.intervals import Floats
from secagg_attacks.record import client_source
from secagg_attacks.views import Public, Vector
from secagg_client.data import Examples
from secagg_client.noise import NoiseSource
from secagg_client.prefix import training_task
from secagg_client.training import TrainOptions, execute, prepare_run

TINY = 1e-9
"""Bound of the suppressed A: small enough to vanish, and not 0, at which training would say that nothing moved."""
RIDGE = 1e-6
"""Of a trap's least squares, as a part of the mean square of the tokens."""

PlanOf = Callable[[int], Plan]
"""A client's number: the plan that the server shows it."""


def suppressed(plan: Plan) -> Plan:
    """The plan with an A at which nothing of a client's data reaches its update. For encodings that train B alone.

    Raises AuditError when A is trained too, or other tensors than LoRA's are.
    """
    if any(".lora_B." not in spec.name for spec in plan.trained):
        raise AuditError("model inconsistency is made for plans that train LoRA's B and nothing else")
    quiet = TensorInit(kind="seeded", bound=TINY)
    return _with_inits(plan, {spec.name: quiet for spec in plan.tensors if ".lora_A." in spec.name})


@dataclass(frozen=True, slots=True)
class Isolation:
    """A simulated session: `total` [plan.length], which the server has; `changes` [clients, plan.length], the truth."""

    target: int
    total: Floats = field(repr=False)
    changes: Vector = field(repr=False)

    @property
    def cosine(self) -> float:
        """Between the sum and the target's update: 1 when the sum shows the target alone."""
        truth = self.changes[self.target].astype(np.float64)
        return float(self.total @ truth / (np.linalg.norm(self.total) * np.linalg.norm(truth)))

    @property
    def error(self) -> float:
        """How far the sum is from the target's update, as a part of that update's norm."""
        truth = self.changes[self.target].astype(np.float64)
        return float(np.linalg.norm(self.total - truth) / np.linalg.norm(truth))


def inconsistent(public: Public, target: int) -> PlanOf:
    """What the server shows: the agreed plan to the target, and a suppressed one to everybody else."""
    quiet = suppressed(public.plan)
    return lambda client: public.plan if client == target else quiet


def simulate(public: Public, data: Sequence[Examples], plan_of: PlanOf, target: int, seed: int) -> Isolation:
    """A session of clients that check nothing: each trains from the plan that it is shown. Raises as training does."""
    changes = np.stack(
        [
            unchecked(replace(public, plan=plan_of(client)), examples, client_source(seed, client))
            for client, examples in enumerate(data)
        ]
    )
    return Isolation(target, changes.astype(np.float64).sum(0), changes)


def unchecked(public: Public, data: Examples, source: NoiseSource) -> Vector:
    """A client's change, [plan.length], when it trains on whatever plan it gets. Raises what training does."""
    options = TrainOptions(allow_no_dp=True)
    task = training_task(public.plan, public.base, options.torch_device())
    run = prepare_run(public.plan, task, public.size, source, options)
    return execute(run, public.plan, public.base, data, lambda _report: None).change


@dataclass(frozen=True, slots=True)
class Trap:
    """A plan whose lowest layer answers to `tokens`: one row of A each. `layers` are the names of the A that do."""

    plan: Plan = field(repr=False)
    tokens: tuple[int, ...]
    layers: tuple[str, ...]


def trapped(plan: Plan, layers: Sequence[str], inputs: Floats, tokens: Sequence[int], expected: Sequence[int]) -> Trap:
    """Set traps for `tokens` in the A called `layers`, all of which must see `inputs`.

    Args:
        plan: the agreed plan.
        layers: PEFT keys of A in the lowest layer.
        inputs: what these layers see of each token of the vocabulary, [tokens, inputs].
        tokens: as many as A has rows.
        expected: the tokens that data may hold: of these, only the trapped one moves its row.

    Raises:
        AuditError: not one token for each row of A, or no A of that name.
    """
    specs = {spec.name: spec for spec in plan.tensors}
    for name in layers:
        if name not in specs or specs[name].shape != (len(tokens), inputs.shape[1]):
            raise AuditError(f"a trap needs a token for each row of A, and a row for each of {name}'s inputs")
    rows = np.stack([_answering(inputs, token, [other for other in expected if other != token]) for token in tokens])
    start = TensorInit.embed(rows.astype(np.float32))
    return Trap(_with_inits(plan, dict.fromkeys(layers, start)), tuple(tokens), tuple(layers))


def _answering(inputs: Floats, token: int, others: Sequence[int]) -> Floats:
    """A row a with a x(token) = 1 and a x(other) near 0, by ridge regression."""
    rest = inputs[list(others)]
    scale = RIDGE * float(np.mean(inputs**2))
    row = np.linalg.solve(rest.T @ rest + scale * np.eye(inputs.shape[1]), inputs[token])
    found: Floats = row / (row @ inputs[token])
    return found


def caught(trap: Trap, change: Vector) -> Floats:
    """How strongly each trapped token is in what was trained on, from a change or sum of changes: [tokens]."""
    tensors = unflatten(trap.plan, change)
    moved = [tensors[name.replace(".lora_A.", ".lora_B.")].astype(np.float64) for name in trap.layers]
    strength: Floats = np.linalg.norm(np.concatenate(moved), axis=0)
    return strength


def _with_inits(plan: Plan, inits: Mapping[str, TensorInit]) -> Plan:
    """The plan with other start values."""

    def changed(spec: TensorSpec) -> TensorSpec:
        return spec.model_copy(update={"init": inits[spec.name]}) if spec.name in inits else spec

    return plan.model_copy(update={"tensors": tuple(map(changed, plan.tensors))})
