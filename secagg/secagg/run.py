"""The whole protocol in memory, on one page: every role, every message, in order. Also how a script calls it.

>>> released = run_sealed(plan, changes={"Hospital A": a, "Hospital B": b, "Hospital C": c}, now=..., random=os.urandom)
>>> released.mean            # float32 [L]

Nothing here is simplified: the same descriptors, certificates, boxes, endorsements and checks as between machines.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from secagg.accumulate import Accumulator
from secagg.boxes import SessionKey
from secagg.contributor import SealedUpload, seal_contribution
from secagg.coordinator import (
    OpenedSum,
    SessionSpec,
    create_session,
    fix_candidate,
    mean_change,
    open_with_shares,
    settle,
)
from secagg.descriptor import CommitteeMember, Descriptor, RosterMember, SignedDescriptor
from secagg.errors import SessionClosed
from secagg.evidence import MemberEvidence
from secagg.identity import Identity, Role, issue, new_authority, new_request
from secagg.keyholder import KeyHolder
from secagg.merkle import leaf_hash, path
from secagg.messages import SetMember
from secagg.plan import Plan
from secagg.policy import Policy, adapter_schema_hash
from secagg.privacy import stated
from secagg.randomness import Randomness
from secagg.signing import Signer

DAY = 86_400


class MemoryJournal:
    """A key-holder's records, for as long as the process lives."""

    def __init__(self) -> None:
        self._records = dict[str, bytes]()

    def get(self, key: str) -> bytes | None:
        """What was recorded, or None."""
        return self._records.get(key)

    def record(self, key: str, value: bytes) -> bytes:
        """Record once; return what is there."""
        return self._records.setdefault(key, value)


class MemoryKeys:
    """A key-holder's session keys, for as long as the process lives."""

    def __init__(self) -> None:
        self._keys = dict[str, SessionKey]()

    def put(self, offer_digest: str, key: SessionKey) -> None:
        """Store."""
        self._keys[offer_digest] = key

    def get(self, offer_digest: str) -> SessionKey:
        """Load, or raise SessionClosed when it was erased."""
        try:
            return self._keys[offer_digest]
        except KeyError:
            raise SessionClosed("the session key was erased") from None

    def erase(self, offer_digest: str) -> None:
        """Destroy."""
        self._keys.pop(offer_digest, None)


@dataclass(frozen=True, slots=True)
class Parties:
    """An authority and everyone it certified."""

    authority: str
    coordinator: Signer
    clients: Mapping[str, Signer]
    holders: tuple[Signer, ...]


@dataclass(frozen=True, slots=True)
class MemoryRun:
    """What a run gives: the descriptor, the uploads, the opened sum and the decoded mean [L]."""

    session: SignedDescriptor
    uploads: Mapping[str, SealedUpload]
    opened: OpenedSum
    mean: NDArray[np.float32] = field(repr=False)


def certify(institutions: list[str], holders: int, now: int) -> Parties:
    """An authority, a coordinator, one client an institution, and `holders` key-holders."""
    authority, authority_key = new_authority("in-memory authority", now)

    def party(role: Role, institution: str, name: str) -> Signer:
        request, _, signing_key = new_request(role, institution, name)
        certificate = issue(request, authority, authority_key, now, expect=(role, institution, name), days=30)
        return Signer(certificate, signing_key)

    return Parties(
        authority=authority.decode(),
        coordinator=party(Role.COORDINATOR, "Coordinator", "server"),
        clients={name: party(Role.CLIENT, name, "client") for name in institutions},
        holders=tuple(party(Role.KEYHOLDER, f"Key-holder {i}", "holder") for i in range(1, holders + 1)),
    )


def policy_for(parties: Parties, plan: Plan, n_min: int, corrupt_keyholders: int) -> Policy:
    """A policy that pins exactly these parties and this plan. For one-machine runs: nobody else's policy is theirs."""

    def pins(signers: Mapping[str, Signer]) -> dict[str, str]:
        return {name: signer.identity.fingerprint for name, signer in signers.items()}

    return Policy(
        coordinator=parties.coordinator.identity.fingerprint,
        committee=pins({signer.identity.institution: signer for signer in parties.holders}),
        corrupt_keyholders=corrupt_keyholders,
        institutions=pins(parties.clients),
        required_institutions=n_min,
        assumed_corrupt_clients=max(0, n_min - 2),
        n_min=n_min,
        base_model_hashes=(plan.base_model_hash,),
        adapter_schema_hashes=(adapter_schema_hash(plan),),
        max_epsilon=plan.training.epsilon or 1.0,
        max_delta=plan.training.delta,
        noise=(plan.training.noise,),
    )


def evidence(descriptor: Descriptor, holder: Identity, uploads: list[SealedUpload]) -> list[MemberEvidence]:
    """What the coordinator shows one key-holder, in the order of `uploads` (protocol.md §8.1)."""
    index, _ = descriptor.holder(holder.fingerprint)
    shown = list[MemberEvidence]()
    for upload in uploads:
        leaves = [leaf_hash(box) for box in upload.boxes]
        shown.append(MemberEvidence(upload.signed, upload.boxes[index - 1], path(leaves, index - 1)))
    return shown


def run_sealed(
    plan: Plan,
    changes: Mapping[str, NDArray[np.float32]],
    *,
    now: int,
    random: Randomness,
    spec: SessionSpec | None = None,
    holders: int = 4,
) -> MemoryRun:
    """One session of `sealed`: `changes` maps institutions to their vectors, float32 [L].

    Raises the SecaggError of the first check that fails.
    """
    spec = spec or SessionSpec(n_min=3, n_max=max(3, len(changes)), upload_seconds=DAY, expiry_seconds=2 * DAY)
    parties = certify(sorted(changes), holders, now)
    policy = policy_for(parties, plan, spec.n_min, spec.corrupt_keyholders)
    if spec.client_noise is not None:  # nobody assumes more corrupt clients than the session's noise allows for
        assumed = min(policy.assumed_corrupt_clients, spec.client_noise.colluders)
        policy = policy.model_copy(update={"assumed_corrupt_clients": assumed})

    # Key-holders: a fresh key each (§4.1). Coordinator: the descriptor (§4.2). Key-holders: approval (§4.3).
    committee = [KeyHolder(s, policy, parties.authority, MemoryJournal(), MemoryKeys()) for s in parties.holders]
    offers = [holder.offer(now, spec.expiry_seconds + DAY, random) for holder in committee]
    members = [
        CommitteeMember(certificate=holder.signer.identity.pem, offer=offer)
        for holder, offer in zip(committee, offers, strict=True)
    ]
    roster = [RosterMember(certificate=signer.identity.pem) for signer in parties.clients.values()]
    proposal = create_session(spec, plan, roster, members, parties.coordinator, now, random)
    approvals = tuple(holder.approve(proposal, now) for holder in committee)
    session = SignedDescriptor(descriptor=proposal.descriptor, approvals=approvals)

    # Clients: check, train (elsewhere), seal once, upload (§5 to §7).
    uploads = dict[str, SealedUpload]()
    for name, signer in parties.clients.items():
        descriptor = session.check(approved=True)
        policy.check(descriptor)
        statement = stated(plan.training, "stated by the caller")
        uploads[name] = seal_contribution(descriptor, signer, changes[name], statement, random)

    # Coordinator: candidate set (§8.1). Key-holders: endorse it (§8.2), answer the degree check (§8.4). Then the final
    # set, which all compute from what was signed (§8.3).
    descriptor = session.check(approved=True)
    candidate = fix_candidate(parties.coordinator, descriptor, [u.signed for u in uploads.values()], now)
    in_candidate = _ordered(uploads, candidate.statement.members)
    shown = [(h, evidence(descriptor, h.signer.identity, in_candidate)) for h in committee]
    answers = [h.endorse_candidate(descriptor, candidate, its, (), now) for h, its in shown]
    degree = [h.answer_degree_check(descriptor, candidate, answers, its, now) for h, its in shown]
    settled = settle(parties.coordinator, descriptor, candidate, answers, degree)
    endorsed = [
        h.endorse_final(descriptor, candidate, settled.final, settled.answers, settled.degree_answers, (), now)
        for h in committee
    ]

    # Key-holders: sums of shares (§8.5). Coordinator: sum of ciphertexts, opening (§9).
    in_final = _ordered(uploads, settled.final.statement.members)
    shares = [
        h.sum_shares(descriptor, settled.final, endorsed, evidence(descriptor, h.signer.identity, in_final), now)
        for h in committee
    ]
    total = Accumulator(descriptor.parameters)
    for upload in in_final:
        total.add(upload.ciphertext)
    opened = open_with_shares(descriptor, settled.final.statement, shares, total)
    for holder in committee:
        holder.erase(descriptor)
    return MemoryRun(session, uploads, opened, mean_change(descriptor, settled.final.statement, opened.opening))


def _ordered(uploads: Mapping[str, SealedUpload], members: tuple[SetMember, ...]) -> list[SealedUpload]:
    by_client = {upload.signed.statement.client: upload for upload in uploads.values()}
    return [by_client[member.client] for member in members]
