"""V5, a server that lies: with checks off it isolates a client and reads tokens; each lie meets a client's check."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secagg.adapter import unflatten
from secagg.certificate import ADAPTER
from secagg.coordinator import create_session
from secagg.descriptor import SignedDescriptor
from secagg.errors import (
    AuditError,
    EndorsementInvalid,
    HashMismatch,
    ModelError,
    PolicyViolation,
    SignatureInvalid,
    VerificationError,
)
from secagg.keyholder import KeyHolder
from secagg.plan import Plan
from secagg_attacks.aggregation.malicious import caught, inconsistent, simulate, suppressed, trapped, unchecked
from secagg_attacks.intervals import Floats
from secagg_attacks.inversion.span import Layer, distances
from secagg_attacks.roc import Scores, auc
from secagg_attacks.views import Public
from secagg_client.data import Examples
from secagg_client.models import LoadedBase
from secagg_client.noise import SeededSource
from secagg_client.patience import Patience
from secagg_client.planning import verify_plan
from secagg_client.published import Releases
from secagg_client.tasks import make_task
from secagg_host.events import EventLog
from tests.attacks.federation import data_of, public_of
from tests.client.support import LM, MEAN, examples, loaded, plan_for, settings
from tests.client.test_runner_session import client, refused
from tests.secagg.test_rounds import first_round, next_round
from tests.small import Small

TARGET = 1
TOKENS = (10, 15, 20, 25)


@pytest.fixture(scope="module")
def base(tiny_llama_dir: Path) -> LoadedBase:
    return loaded(tiny_llama_dir, LM)


# -- with checks off -------------------------------------------------------------------------------------------


def test_inconsistent_models_make_the_sum_the_targets_update(base: LoadedBase) -> None:
    public = public_of(base, clients=5, steps=4)
    data = data_of(public)
    honest = simulate(public, data, lambda _client: public.plan, TARGET, seed=0)
    attacked = simulate(public, data, inconsistent(public, TARGET), TARGET, seed=0)
    assert attacked.cosine > 1 - 1e-6
    assert attacked.error < 1e-5
    assert honest.error > 1
    assert np.array_equal(attacked.changes[TARGET], honest.changes[TARGET])


def test_under_differential_privacy_the_targets_noise_and_everybodys_stay_in_the_sum(base: LoadedBase) -> None:
    public = public_of(base, clients=5, steps=4, epsilon=8.0)
    plain = public_of(base, clients=5, steps=4)
    data = data_of(public)
    attacked = simulate(public, data, inconsistent(public, TARGET), TARGET, seed=0)
    truth = simulate(plain, data, inconsistent(plain, TARGET), TARGET, seed=0)
    assert np.linalg.norm(attacked.total - truth.total) > np.linalg.norm(truth.total)


def test_suppression_is_for_plans_that_train_b_alone(tiny_bert_dir: Path) -> None:
    with pytest.raises(AuditError, match="train LoRA's B and nothing else"):
        suppressed(plan_for(loaded(tiny_bert_dir, MEAN)))


def lowest(plan: Plan) -> list[str]:
    return [spec.name for spec in plan.tensors if ".layers.0." in spec.name and ".lora_A." in spec.name]


def seen_by_lowest(base: LoadedBase) -> Floats:
    """What the lowest layer's projections see of every token."""
    model: Any = base.model
    normed = model.model.layers[0].input_layernorm(model.get_input_embeddings().weight)
    found: Floats = normed.detach().double().numpy()
    return found


def tokens_of(base: LoadedBase, data: Examples) -> set[int]:
    return {int(token) for row in make_task(base.task, base.tokenizer).encode(data) for token in row.ids}


def test_trap_weights_tell_which_tokens_a_client_has(base: LoadedBase) -> None:
    """One step on three sentences, no noise: told apart by the trap, and not by the agreed A of rank 4."""
    public = public_of(base, clients=1, steps=1, batch_size=3, size=3)
    inputs, expected = seen_by_lowest(base), sorted(tokens_of(base, examples(300, LM, seed=99)))
    trap = trapped(public.plan, lowest(public.plan), inputs, TOKENS, expected)
    found, honest, truth = list[float](), list[float](), list[bool]()
    for seed in range(25):
        data = examples(3, LM, seed=seed)
        held = tokens_of(base, data)
        truth += [token in held for token in TOKENS]
        found += list(caught(trap, unchecked(replace(public, plan=trap.plan), data, SeededSource(seed))))
        honest += honest_scores(public, unchecked(public, data, SeededSource(seed)), inputs)
    assert auc(split(found, truth)) > 0.9
    assert auc(split(honest, truth)) < 0.65


def honest_scores(public: Public, change: np.ndarray, inputs: Floats) -> list[float]:
    """The best that is known of the agreed A: how near each token is to the span of the update's rows."""
    name = lowest(public.plan)[0]
    update = unflatten(public.plan, change)[name.replace(".lora_A.", ".lora_B.")].astype(np.float64)
    near = -distances(Layer(update, inputs @ public.start()[name].T.astype(np.float64)))
    return [float(near[token]) for token in TOKENS]


def split(scores: list[float], truth: list[bool]) -> Scores:
    values, is_in = np.array(scores), np.array(truth)
    return Scores(values[is_in], values[~is_in])


def test_a_trap_needs_a_token_for_each_row(base: LoadedBase) -> None:
    plan = plan_for(base)
    for layers, tokens in ((lowest(plan), TOKENS[:2]), (["no such layer"], TOKENS)):
        with pytest.raises(AuditError, match="a token for each row"):
            trapped(plan, layers, seen_by_lowest(base), tokens, range(10))


# -- what a client checks --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def agreed(base: LoadedBase) -> Small:
    small = Small(plan=plan_for(base, settings(noise="secure")))
    assert small.session
    return small


def bent(small: Small, base: LoadedBase, lie: str) -> Plan:
    if lie == "suppressed":
        return suppressed(small.plan)
    return trapped(small.plan, lowest(small.plan), seen_by_lowest(base), TOKENS, range(5, 20)).plan


LIES = pytest.mark.parametrize("lie", ["suppressed", "trapped"])


def proposed(small: Small, plan: Plan) -> SignedDescriptor:
    """The coordinator's own signature on a descriptor with another plan."""
    return create_session(
        small.session_spec, plan, small.roster, small.members, small.parties.coordinator, small.now, os.urandom
    )


@LIES
def test_a_plan_that_was_changed_after_signing_is_refused(
    agreed: Small, base: LoadedBase, tmp_path: Path, lie: str
) -> None:
    signed = agreed.session.descriptor
    other = signed.statement.model_copy(update={"plan": bent(agreed, base, lie)})
    session = agreed.session.model_copy(update={"descriptor": signed.model_copy(update={"statement": other})})
    refused(client(agreed, tmp_path, session), tmp_path, SignatureInvalid, "does not verify")


@LIES
def test_a_second_descriptor_lacks_the_committees_approval(
    agreed: Small, base: LoadedBase, tmp_path: Path, lie: str
) -> None:
    """Approvals are of ctx: those of the agreed session count for no other."""
    second = proposed(agreed, bent(agreed, base, lie))
    borrowed = second.model_copy(update={"approvals": agreed.session.approvals})
    refused(client(agreed, tmp_path, second), tmp_path, EndorsementInvalid, "0 key-holders approved")
    refused(client(agreed, tmp_path, borrowed), tmp_path, EndorsementInvalid, "is for another session")


@LIES
def test_key_holders_do_not_approve_it(agreed: Small, base: LoadedBase, lie: str) -> None:
    with pytest.raises(PolicyViolation, match=r"adapter schema .* is not one that is pinned"):
        agreed.committee[0].approve(proposed(agreed, bent(agreed, base, lie)), agreed.now)


@LIES
def test_a_committee_that_approves_everything_does_not_move_the_client(
    agreed: Small, base: LoadedBase, tmp_path: Path, lie: str
) -> None:
    """The whole committee colludes: the client's own policy has the hash of every start value."""
    second = proposed(agreed, bent(agreed, base, lie))
    approvals = tuple(colluder(holder).approve(second, agreed.now) for holder in agreed.committee)
    session = second.model_copy(update={"approvals": approvals})
    refused(client(agreed, tmp_path, session), tmp_path, PolicyViolation, "adapter schema .* is not one that is pinned")


def colluder(holder: KeyHolder) -> KeyHolder:
    """DEFENCE OFF: a key-holder that signs what the coordinator shows it."""
    policy = holder.policy.model_copy(update={"adapter_schema_hashes": ()})
    return replace(holder, policy=policy, journal=type(holder.journal)())


def test_a_base_model_of_other_weights_is_refused_by_who_has_it(agreed: Small, base: LoadedBase) -> None:
    other = agreed.plan.model_copy(update={"base_model_hash": "ab" * 32})
    with pytest.raises(PolicyViolation, match=r"base model .* is not one that is pinned"):
        agreed.policy.check(proposed(agreed, other).descriptor.statement)
    with pytest.raises(ModelError):
        verify_plan(other, base)


@dataclass(frozen=True)
class Publishes:
    """A coordinator that publishes these files."""

    files: Mapping[str, bytes]

    def release_files(self, _ctx: str, _release: int = 0) -> dict[str, int]:
        return {name: len(content) for name, content in self.files.items()}

    def release_file(self, _ctx: str, name: str, _size: int, _release: int = 0) -> bytes:
        return self.files[name]


def test_a_later_round_starts_where_the_verified_release_ended_and_nowhere_else(tmp_path: Path) -> None:
    """The lie of the start comes with the second round: an adapter of the server's own in the first one's place."""
    one = first_round()
    two = next_round(one)

    def plan_of(files: Mapping[str, bytes], small: Small, name: str) -> Plan:
        patience = Patience(EventLog(), 1.0)
        return Releases(Publishes(files), one.policy, patience, tmp_path / name).plan_of(small.descriptor)

    assert plan_of(one.release, two, "honest").tensors != one.plan.tensors
    flipped = bytearray(one.release[ADAPTER])
    flipped[-1] ^= 1
    with pytest.raises(VerificationError):
        plan_of({**one.release, ADAPTER: bytes(flipped)}, two, "exchanged")
    previous = two.descriptor.previous
    assert previous is not None
    elsewhere = next_round(one, previous=previous.model_copy(update={"adapter": "cc" * 32}))
    with pytest.raises(HashMismatch, match="does not have the hash"):
        plan_of(one.release, elsewhere, "elsewhere")


def test_within_epsilon_and_delta_the_coordinator_chooses_how_clients_train(agreed: Small) -> None:
    """NOT stopped: no policy pins steps, batch size, learning rate, clip or bits. What protects there is the noise."""
    other = settings(noise="secure", steps=1, batch_size=1, learning_rate=9.0, max_grad_norm=100.0, optimizer="adamw")
    agreed.policy.check(proposed(agreed, agreed.plan.model_copy(update={"training": other})).descriptor.statement)


def test_what_the_policy_pins_is_what_is_trained_on(agreed: Small, base: LoadedBase) -> None:
    """NOT stopped: an institution that pins the hash of a trapped plan has agreed to it. Who pins must look."""
    plan = bent(agreed, base, "trapped")
    fooled = Small(plan=plan)
    fooled.policy.check(fooled.descriptor)
    verify_plan(plan, base)
