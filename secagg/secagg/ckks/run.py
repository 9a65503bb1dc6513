"""A ckks session in memory, on one page: every role, every message, in order. Also how a script calls it.

>>> run = run_ckks(plan, changes={"Hospital A": a, "Hospital B": b, "Hospital C": c}, now=..., random=os.urandom)
>>> run.mean            # float32 [L]

`vanish` names institutions that never upload: that costs nothing.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from secagg.ckks.client import CkksSealed, accept_session, seal_ckks
from secagg.ckks.coordinator import check_arrived, check_opening, fix_set
from secagg.ckks.descriptor import CkksSpec, SignedCkksDescriptor, create_ckks_session
from secagg.ckks.keyholder import CkksKeyHolder, ShownUpload
from secagg.ckks.keys import HolderKey
from secagg.ckks.opened import Opened
from secagg.ckks.policy import CkksPolicy
from secagg.descriptor import RosterMember
from secagg.encodings.registry import encoding_of
from secagg.errors import SessionClosed
from secagg.plan import Plan
from secagg.policy import adapter_schema_hash
from secagg.privacy import stated
from secagg.randomness import Randomness
from secagg.run import DAY, MemoryJournal, Parties, certify


class MemoryContexts:
    """Keys of sessions in memory."""

    def __init__(self) -> None:
        self._keys = dict[str, bytes]()

    def put(self, offer_digest: str, key: HolderKey) -> None:
        """Store."""
        self._keys[offer_digest] = key.to_bytes()

    def get(self, offer_digest: str) -> HolderKey:
        """Load, or raise SessionClosed when it was erased."""
        try:
            return HolderKey.from_bytes(self._keys[offer_digest])
        except KeyError:
            raise SessionClosed("the session key is erased") from None

    def erase(self, offer_digest: str) -> None:
        """Destroy."""
        self._keys.pop(offer_digest, None)


@dataclass(frozen=True, slots=True)
class CkksRun:
    """What a run gives: the descriptor, the uploads, the opened sums and the decoded mean [L]."""

    session: SignedCkksDescriptor
    uploads: Mapping[str, CkksSealed] = field(repr=False)
    opened: Opened
    mean: NDArray[np.float32] = field(repr=False)


def policy_for_ckks(parties: Parties, plan: Plan, n_min: int) -> CkksPolicy:
    """A policy that pins exactly these parties and this plan. For one-machine runs: nobody else's policy is theirs."""
    training = plan.training
    return CkksPolicy(
        protocols=("ckks",),
        coordinator=parties.coordinator.identity.fingerprint,
        keyholder=parties.holders[0].identity.fingerprint,
        institutions={name: signer.identity.fingerprint for name, signer in parties.clients.items()},
        required_institutions=n_min,
        assumed_corrupt_clients=max(0, n_min - 2),
        n_min=n_min,
        base_model_hashes=(plan.base_model_hash,),
        adapter_schema_hashes=(adapter_schema_hash(plan),),
        max_epsilon=training.epsilon or 1.0,
        max_delta=training.delta,
        noise=(training.noise,),
        units=(training.unit,),
    )


def run_ckks(
    plan: Plan,
    changes: Mapping[str, NDArray[np.float32]],
    *,
    now: int,
    random: Randomness,
    spec: CkksSpec | None = None,
    vanish: Collection[str] = (),
) -> CkksRun:
    """One session of `ckks`: `changes` maps institutions to their vectors, float32 [L].

    Raises the SecaggError of the first check that fails.
    """
    spec = spec or CkksSpec(n_min=3, n_max=max(3, len(changes)), upload_seconds=DAY // 2, expiry_seconds=DAY)
    parties = certify(sorted(changes), 1, now)
    policy, statement = policy_for_ckks(parties, plan, spec.n_min), stated(plan.training, "stated by the caller")
    if spec.client_noise is not None:  # nobody assumes more corrupt clients than the session's noise allows for
        assumed = min(policy.assumed_corrupt_clients, spec.client_noise.colluders)
        policy = policy.model_copy(update={"assumed_corrupt_clients": assumed})
    keyholder = CkksKeyHolder(parties.holders[0], policy, parties.authority, MemoryJournal(), MemoryContexts())

    # Key-holder: fresh keys (§13.3.1). Coordinator: the descriptor (§13.3.2). Key-holder: approves it (§13.3.3).
    offer = keyholder.offer(spec.bits, spec.n_max, encoding_of(plan).layout(plan).length, now, spec.expiry_seconds)
    roster = [RosterMember(certificate=signer.identity.pem) for signer in parties.clients.values()]
    holder_pem = keyholder.signer.identity.pem
    session = create_ckks_session(spec, plan, roster, holder_pem, offer, parties.coordinator, now, random)
    approval = keyholder.approve(session, now)

    # Clients: check the session, encrypt, seal, sign, once (§13.4). Coordinator: checks what arrives.
    sealed = dict[str, CkksSealed]()
    for name in sorted(set(changes) - set(vanish)):
        descriptor = accept_session(session, approval, policy, parties.authority, now)
        sealed[name] = seal_ckks(descriptor, parties.clients[name], changes[name], statement, random)
        check_arrived(descriptor, sealed[name].signed, sealed[name].blocks)

    # Coordinator: one set. Key-holder: adds all of it itself, opens once (§13.5). Coordinator: decodes (§13.6).
    descriptor = session.statement
    chosen = fix_set(descriptor, {one.signed.signer: one.signed for one in sealed.values()}, parties.coordinator)
    shown = (ShownUpload(one.signed, one.blocks) for one in sealed.values())
    opened = keyholder.open(descriptor, chosen, shown, random, now)
    mean = check_opening(descriptor, chosen.statement, opened)
    keyholder.forget(descriptor)
    return CkksRun(session, sealed, opened, mean)
