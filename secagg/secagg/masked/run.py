"""A masked session in memory, on one page: every role, every message, in order. Also how a script calls it.

>>> released = run_masked(plan, changes={"Hospital A": a, "Hospital B": b, "Hospital C": c}, now=..., random=os.urandom)
>>> released.mean            # float32 [L]

Nothing here is simplified: the same statements, boxes and checks as between machines. `vanish` says who is gone from
which round on: "advertise", "share", "upload", "endorse" or "unmask".
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from secagg.descriptor import RosterMember
from secagg.masked.client import MaskedClient
from secagg.masked.closing import MaskedSum
from secagg.masked.descriptor import MaskedDescriptor, MaskedSpec, SignedMaskedDescriptor, create_masked_session
from secagg.masked.policy import MaskedPolicy
from secagg.masked.server import AdvertiseRound
from secagg.plan import Plan
from secagg.policy import adapter_schema_hash
from secagg.privacy import stated
from secagg.randomness import Randomness
from secagg.run import DAY, MemoryJournal, Parties, certify

Step = Literal["advertise", "share", "upload", "endorse", "unmask"]
STEPS: tuple[Step, ...] = ("advertise", "share", "upload", "endorse", "unmask")


@dataclass(frozen=True, slots=True)
class MaskedRun:
    """What a run gives: the descriptor, the opened sum, and the decoded mean [L]."""

    session: SignedMaskedDescriptor
    opened: MaskedSum
    mean: NDArray[np.float32] = field(repr=False)


def policy_for_masked(parties: Parties, descriptor: MaskedDescriptor) -> MaskedPolicy:
    """A policy that pins exactly these parties. For one-machine runs: nobody else's policy is theirs."""
    training = descriptor.plan.training
    return MaskedPolicy(
        protocols=("masked",),
        coordinator=parties.coordinator.identity.fingerprint,
        institutions={name: signer.identity.fingerprint for name, signer in parties.clients.items()},
        required_institutions=descriptor.n_min,
        assumed_corrupt_clients=descriptor.graph.corrupt,
        n_min=descriptor.n_min,
        base_model_hashes=(descriptor.plan.base_model_hash,),
        adapter_schema_hashes=(adapter_schema_hash(descriptor.plan),),
        max_epsilon=training.epsilon or 1.0,
        max_delta=training.delta,
        noise=(training.noise,),
        units=(training.unit,),
        min_weight=min(member.weight for member in descriptor.roster),
    )


def masked_mean(descriptor: MaskedDescriptor, opened: MaskedSum) -> NDArray[np.float32]:
    """The decoded weighted mean of the members' vectors, float32 [L] (protocol.md §2.4)."""
    weights = [descriptor.roster[number].weight for number in opened.members]
    weight_sum = None if all(weight == 1.0 for weight in weights) else math.fsum(weights)
    return descriptor.quantiser.decode_mean(opened.sums, len(weights), weight_sum)


def run_masked(
    plan: Plan,
    changes: Mapping[str, NDArray[np.float32]],
    *,
    now: int,
    random: Randomness,
    spec: MaskedSpec | None = None,
    vanish: Mapping[str, Step] | None = None,
    threads: int = 1,
) -> MaskedRun:
    """One session of `masked`: `changes` maps institutions to their vectors, float32 [L].

    Raises the SecaggError of the first check that fails; with more dropouts than the session allows,
    TooFewContributions or NotReady.
    """
    spec = spec or MaskedSpec(n_min=3, dropout_rate=0.2, upload_seconds=DAY // 2, expiry_seconds=DAY)
    parties = certify(sorted(changes), 0, now)
    roster = [RosterMember(certificate=signer.identity.pem) for signer in parties.clients.values()]

    def there(name: str, step: Step) -> bool:
        return not vanish or name not in vanish or STEPS.index(step) < STEPS.index(vanish[name])

    # Coordinator: the descriptor (§12.2). Clients: check it against their policies, advertise (§12.3).
    session = create_masked_session(spec, plan, roster, parties.coordinator, now, random)
    descriptor = session.statement
    policy, statement = policy_for_masked(parties, descriptor), stated(plan.training, "stated by the caller")
    advertising, advertised = AdvertiseRound(descriptor), {}
    for name in filter(lambda name: there(name, "advertise"), parties.clients):
        client = MaskedClient.join(session, parties.clients[name], policy, parties.authority, MemoryJournal(), now)
        advertised[name], advertisement = client.advertise(random, now)
        advertising.add(advertisement)

    # Clients: draw holders, share the mask key (§12.4).
    sharing, shared = advertising.close(), {}
    for name in filter(lambda name: there(name, "share"), advertised):
        shared[name], sharing_message = advertised[name].share(sharing.directory, random, now)
        sharing.add(sharing_message)

    # Clients: mask, upload, share the seed of the own mask (§12.5). Coordinator: adds.
    uploading, uploaded = sharing.close(), {}
    for name in filter(lambda name: there(name, "upload"), shared):
        number = descriptor.number_of(parties.clients[name].identity.fingerprint)
        told = uploading.shared_with(number)
        uploaded[name], upload = shared[name].upload(told, changes[name], statement, random, now, threads)
        uploading.add(upload)

    # Coordinator: one set U. Clients: endorse it (§12.6).
    consistency, endorsed = uploading.close(parties.coordinator), {}
    for name in filter(lambda name: there(name, "endorse"), uploaded):
        endorsed[name], endorsement = uploaded[name].endorse(consistency.chosen, now)
        consistency.add(endorsement)

    # Clients: accept U on t endorsements, give one share of each (§12.7.1). Coordinator: opens (§12.7.2, §12.7.3).
    unmasking = consistency.close()
    for name in filter(lambda name: there(name, "unmask"), endorsed):
        number = descriptor.number_of(parties.clients[name].identity.fingerprint)
        unmasking.add(endorsed[name].unmask(unmasking.request(number), now))
    opened = unmasking.open(threads)
    return MaskedRun(session, opened, masked_mean(descriptor, opened))
