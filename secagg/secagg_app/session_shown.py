"""What people and policies want to know of a session, for `secagg session show`."""

import time

from secagg.ckks.certificate import TRUST_BEFORE
from secagg.ckks.descriptor import CkksDescriptor
from secagg.client_noise.session import NoisySession
from secagg.descriptor import Descriptor
from secagg.encodings.registry import encoding_of
from secagg.masked.certificate import SECURITY_BITS
from secagg.masked.descriptor import MaskedDescriptor
from secagg.plan import Plan
from secagg.policy import adapter_schema_hash
from secagg.privacy import unit_in_words

Shown = dict[str, str | int | float | list[str] | None]


def describe(descriptor: Descriptor) -> Shown:
    """What people and policies want to know of a descriptor."""
    return {
        "session": descriptor.ctx,
        "coordinator": f"{descriptor.coordinator_identity.title} {descriptor.coordinator_identity.fingerprint}",
        **({"round": descriptor.round.title} if descriptor.round is not None else {}),
        **_described_plan(descriptor.plan, descriptor.parameters.length),
        **_client_noise(descriptor),
        "audit reserve": descriptor.audit.summary if descriptor.audit else "nothing",
        "protocol": descriptor.protocol,
        "security bits": descriptor.ring.security_bits,
        "upload bytes": descriptor.parameters.ciphertext_bytes,
        "n_min": descriptor.n_min,
        "n_max": descriptor.n_max,
        **_releases(descriptor),
        "committee": [f"{holder.title} {holder.fingerprint}" for holder in descriptor.holders],
        "quorum": f"{descriptor.threshold} of {len(descriptor.committee)}",
        "corrupt key-holders": f"at most {descriptor.corrupt_keyholders} assumed",
        "roster": [f"{client.title} {client.fingerprint}" for client in descriptor.clients.values()],
        "uploads until": _utc(descriptor.upload_deadline),
        "expires": _utc(descriptor.expires_at),
    }


def _releases(descriptor: Descriptor) -> Shown:
    if descriptor.releases == 1:
        return {}
    return {
        "releases": f"up to {descriptor.releases}, one cohort of at least {descriptor.n_min} clients after another",
    }


def _client_noise(descriptor: NoisySession) -> Shown:
    grid = descriptor.noise_grid
    if grid is None:
        return {"client noise": "none"}
    return {
        "client noise": grid.guarantee_in_words(descriptor.client_releases),
        "noise over signal": grid.ratio_in_words,
    }


def describe_masked(descriptor: MaskedDescriptor) -> Shown:
    """The same of a masked session."""
    graph = descriptor.graph
    return {
        **_head(descriptor, descriptor.shape.length),
        "security bits": SECURITY_BITS,
        "upload bytes": descriptor.shape.packed_bytes,
        "n_min": descriptor.n_min,
        "graph": "complete" if graph.complete else f"{graph.holders} holders of each client",
        "threshold": f"{graph.threshold} of {graph.holders} holders give a secret back",
        "corrupt clients": f"at most {graph.corrupt} assumed",
        "may vanish": f"up to {graph.dropouts}, in any round",
        "smallest sum": f"{graph.smallest_sum} honest clients",
        "sums": f"a lying coordinator could open {'one' if graph.most_sums == 1 else f'up to {graph.most_sums}'}",
        "roster": [f"{client.title} {client.fingerprint}" for client in descriptor.clients],
        "joining until": _utc(descriptor.upload_deadline),
        "seconds a round": descriptor.round_seconds,
        "expires": _utc(descriptor.expires_at),
    }


def describe_ckks(descriptor: CkksDescriptor) -> Shown:
    """The same of a ckks session."""
    parameters = descriptor.parameters
    return {
        **_head(descriptor, parameters.length),
        "security bits": parameters.ring.security_bits,
        "ring": parameters.ring.name,
        "scale": f"2^{parameters.scale_log2}",
        "values in a coefficient": parameters.limbs,
        "n_min": descriptor.n_min,
        "n_max": descriptor.n_max,
        "key-holder": f"{descriptor.holder.title} {descriptor.holder.fingerprint}",
        "trust": TRUST_BEFORE,
        "roster": [f"{client.title} {client.fingerprint}" for client in descriptor.clients.values()],
        "uploads until": _utc(descriptor.upload_deadline),
        "expires": _utc(descriptor.expires_at),
    }


def _head(descriptor: MaskedDescriptor | CkksDescriptor, values: int) -> Shown:
    return {
        "session": descriptor.ctx,
        "coordinator": f"{descriptor.coordinator_identity.title} {descriptor.coordinator_identity.fingerprint}",
        **_described_plan(descriptor.plan, values),
        **_client_noise(descriptor),
        "protocol": descriptor.protocol,
    }


def _described_plan(plan: Plan, values: int) -> Shown:
    training = plan.training
    return {
        "base model": plan.base_model,
        "base model hash": plan.base_model_hash,
        "adapter schema hash": adapter_schema_hash(plan),
        "task": plan.task.kind,
        "method": plan.method,
        "reveals": encoding_of(plan).reveals,
        "values": values,
        "epsilon": training.epsilon,
        "delta": training.delta,
        "unit of privacy": unit_in_words(training.unit, training.records_per_user),
        "noise": training.noise,
    }


def shown_lines(fields: Shown) -> list[str]:
    """For people; a list has a line for each of its items."""
    return [
        f"{name:<20} {line}"
        for name, value in fields.items()
        for line in (value if isinstance(value, list) else [value])
    ]


def _utc(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
