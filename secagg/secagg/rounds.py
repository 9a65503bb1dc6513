"""Rounds: a series of sessions, each of which trains on from the release of the one before (protocol.md §4.7).

Every round is a whole session: descriptor, fresh session keys, sets, release, certificate. What joins them is
`Round`, in the descriptor, so that it is signed by the coordinator and approved by the committee.
"""

import base64
import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from secagg.adapter import start_tensor
from secagg.errors import EncodingError, HashMismatch, MalformedError, ProtocolViolation
from secagg.plan import Frozen, Hash, Plan, TensorInit, TensorSpec

if TYPE_CHECKING:
    from secagg.descriptor import Descriptor

MAX_ROUNDS = 1000


class Previous(Frozen):
    """The round before: its ctx, the ctx of the first round, and the SHA-256 of the adapter that it released."""

    series: Hash
    ctx: Hash
    adapter: Hash


class Round(Frozen):
    """Which round of how many a session is, counted from 0. All but the first name the one before."""

    number: int = Field(ge=0, lt=MAX_ROUNDS)
    rounds: int = Field(ge=2, le=MAX_ROUNDS)
    previous: Previous | None = None

    @property
    def title(self) -> str:
        """For people, who count from 1."""
        return f"round {self.number + 1} of {self.rounds}"

    @property
    def folder(self) -> str:
        """What its release's folder is called among those of the series."""
        return round_folder(self.number)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.number >= self.rounds:
            raise ValueError(f"round number {self.number} (from 0) is not below rounds = {self.rounds}")
        if (self.number == 0) != (self.previous is None):
            raise ValueError("every round but the first, and only those, names the round before")
        return self


def round_folder(number: int) -> str:
    """The folder of the release of round `number`, from 0, among those of its series."""
    return f"round-{number + 1}"


def round_steps(steps: int, number: int, rounds: int) -> range:
    """The steps of the plan that round `number` (from 0) of `rounds` takes: an equal share each, in order.

    Raises MalformedError unless the rounds divide the steps.
    """
    if steps % rounds:
        raise MalformedError(f"{steps} steps cannot be shared by {rounds} rounds: choose a multiple")
    each = steps // rounds
    return range(number * each, (number + 1) * each)


def resumed(plan: Plan, adapter: Mapping[str, NDArray[Any]]) -> Plan:
    """The plan as a later round sees it: trained tensors start at their values in `adapter`, by PEFT key.

    Derived by every party for itself, and never sent: the plan in the descriptor stays that of the first round.
    Raises EncodingError when the adapter is not one of this plan.
    """
    if set(adapter) != {spec.name for spec in plan.tensors}:
        raise EncodingError("the release of the round before holds other tensors than the plan")
    return plan.model_copy(update={"tensors": tuple(_started(plan, spec, adapter[spec.name]) for spec in plan.tensors)})


def _started(plan: Plan, spec: TensorSpec, value: NDArray[Any]) -> TensorSpec:
    if value.dtype != np.float32 or value.shape != spec.shape or not np.isfinite(value).all():
        raise EncodingError(f"tensor {spec.name} of the round before is not finite float32 of shape {spec.shape}")
    if not spec.trained:
        if not np.array_equal(value, start_tensor(spec, plan.a_seed)):
            raise EncodingError(f"tensor {spec.name} is not trained, but the round before changed it")
        return spec
    # The limit on embedded values is for descriptors, which this plan never enters: hence no validation.
    data = base64.b64encode(np.ascontiguousarray(value, "<f4").tobytes()).decode()
    return spec.model_copy(update={"init": TensorInit(kind="embedded", data=data)})


def check_start(descriptor: "Descriptor", adapter: bytes | None) -> None:
    """`adapter`, a safetensors file, is where the session says that it starts; None for one that starts afresh.

    Raises HashMismatch.
    """
    previous = descriptor.previous
    if (previous is None) != (adapter is None):
        raise HashMismatch("the release of a later round, and no other, has the adapter from which it starts")
    if previous is not None and adapter is not None and hashlib.sha256(adapter).hexdigest() != previous.adapter:
        raise HashMismatch("the adapter of the round before does not have the hash that the session names")


def check_follows(earlier: "Descriptor", adapter: bytes, descriptor: "Descriptor") -> None:
    """`descriptor` is the round after `earlier`, which released `adapter`, under the same agreement (§4.7).

    Raises ProtocolViolation or HashMismatch.
    """
    previous = descriptor.previous
    if previous is None or (previous.ctx, previous.series) != (earlier.ctx, earlier.series):
        raise ProtocolViolation("the session does not name the earlier release as the round before it")
    check_start(descriptor, adapter)
    before, after = _agreement(earlier), _agreement(descriptor)
    for name in before:
        if before[name] != after[name]:
            raise ProtocolViolation(f"the rounds of a series must be alike, but their {name} differ")
    if descriptor.number != earlier.number + 1:
        raise ProtocolViolation(f"round {descriptor.number} (from 0) cannot follow round {earlier.number}")
    _check_fresh_keys(earlier, descriptor)


def _check_fresh_keys(earlier: "Descriptor", descriptor: "Descriptor") -> None:
    """A session key serves one session: its holder erased it at the release, and would never open a box again."""
    used = {member.offer.statement.public_key for member in earlier.committee}
    for holder, member in zip(descriptor.holders, descriptor.committee, strict=True):
        if member.offer.statement.public_key in used:
            raise ProtocolViolation(
                f"the key offer of {holder.title} was used in the round before, and its key is erased: ask for a new "
                "one (secagg keyholder offer --out NEW-FILE) and name that file in session.toml"
            )


def _agreement(descriptor: "Descriptor") -> dict[str, object]:
    """What must stay through a series, by a name for people."""
    return {
        "numbers of rounds": descriptor.rounds,
        "plans": descriptor.plan,
        "rosters": descriptor.weights,
        "committees": [holder.fingerprint for holder in descriptor.holders],
        "numbers of corrupt key-holders": descriptor.corrupt_keyholders,
        "coordinators": descriptor.coordinator_identity.fingerprint,
        "least numbers of clients": descriptor.n_min,
        "audit reserves": descriptor.audit,
    }
