"""A small session in memory, stage by stage, so that a test can bend any one step."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from secagg import shamir
from secagg.accumulate import Accumulator
from secagg.boxes import BoxContent, BoxContext, open_box, seal_box
from secagg.certificate import TimelineEvent
from secagg.contributor import SealedUpload, seal_contribution
from secagg.coordinator import (
    OpenedSum,
    SessionSpec,
    Settlement,
    create_session,
    fix_candidate,
    open_with_shares,
    settle,
)
from secagg.descriptor import CommitteeMember, Descriptor, RosterMember, SignedDescriptor
from secagg.evidence import MemberEvidence, ShareAnswer
from secagg.keyholder import KeyHolder
from secagg.merkle import root
from secagg.messages import SignedCandidate, SignedDegreeAnswer, SignedEndorsement
from secagg.plan import Plan, TaskSpec, TensorInit, TensorSpec, TrainingSettings
from secagg.policy import Policy
from secagg.privacy import PrivacyStatement, stated
from secagg.release import ReleaseParts, build_release
from secagg.rounds import Round
from secagg.run import MemoryJournal, MemoryKeys, Parties, certify, evidence, policy_for

LENGTH = 300
NOW = int(time.time())
DAY = 86_400


def small_plan(length: int = LENGTH, **training: object) -> Plan:
    """A plan of `length` trained values, with one frozen tensor beside them."""
    settings = {
        "steps": 4, "batch_size": 8, "learning_rate": 0.01, "optimizer": "sgd", "max_grad_norm": 1.0,
        "epsilon": 8.0, "delta": 1e-5, **training,
    }  # fmt: skip
    return Plan(
        base_model="tiny",
        base_model_hash="ab" * 32,
        architecture="Tiny",
        task=TaskSpec(kind="classify", labels=("no", "yes"), max_length=16),
        a_seed="01" * 32,
        tensors=(
            TensorSpec(name="a.lora_A.weight", shape=(4, 8), init=TensorInit(kind="seeded", bound=0.3), clip=0.0),
            TensorSpec(name="a.lora_B.weight", shape=(length,), init=TensorInit(kind="zeros"), clip=0.5),
        ),
        adapter_config={"peft_type": "LORA", "r": 4},
        training=TrainingSettings(**settings),  # type: ignore[arg-type]
    )


def changes(count: int, length: int = LENGTH, seed: int = 7) -> dict[str, NDArray[np.float32]]:
    """One made-up update an institution."""
    rng = np.random.default_rng(seed)
    return {f"Hospital {i}": rng.normal(0, 0.1, length).astype(np.float32) for i in range(1, count + 1)}


@dataclass
class Small:
    """Everything of one session, made on first use; replace a part before a later one is made."""

    clients: int = 4
    holders: int = 4
    n_min: int = 3
    plan: Plan = field(default_factory=small_plan)
    spec: SessionSpec | None = None
    now: int = NOW
    round: Round | None = None
    start: bytes | None = None

    @cached_property
    def changes(self) -> dict[str, NDArray[np.float32]]:
        return changes(self.clients, self.plan.length)

    @cached_property
    def parties(self) -> Parties:
        return certify(sorted(self.changes), self.holders, self.now)

    @cached_property
    def policy(self) -> Policy:
        return policy_for(self.parties, self.plan, self.n_min, self.session_spec.corrupt_keyholders)

    @cached_property
    def session_spec(self) -> SessionSpec:
        return self.spec or SessionSpec(n_min=self.n_min, n_max=10, bits=16, upload_seconds=DAY, expiry_seconds=2 * DAY)

    @cached_property
    def committee(self) -> list[KeyHolder]:
        return [
            KeyHolder(signer, self.policy, self.parties.authority, MemoryJournal(), MemoryKeys())
            for signer in self.parties.holders
        ]

    @cached_property
    def members(self) -> list[CommitteeMember]:
        lifetime = self.session_spec.expiry_seconds + DAY
        return [
            CommitteeMember(certificate=holder.signer.identity.pem, offer=holder.offer(self.now, lifetime, os.urandom))
            for holder in self.committee
        ]

    @cached_property
    def roster(self) -> list[RosterMember]:
        return [RosterMember(certificate=signer.identity.pem) for signer in self.parties.clients.values()]

    @cached_property
    def proposal(self) -> SignedDescriptor:
        return create_session(
            self.session_spec,
            self.plan,
            self.roster,
            self.members,
            self.parties.coordinator,
            self.now,
            os.urandom,
            self.round,
        )

    @cached_property
    def session(self) -> SignedDescriptor:
        approvals = tuple(holder.approve(self.proposal, self.now) for holder in self.committee)
        return SignedDescriptor(descriptor=self.proposal.descriptor, approvals=approvals)

    @cached_property
    def descriptor(self) -> Descriptor:
        return self.session.check(approved=True)

    @cached_property
    def statement(self) -> PrivacyStatement:
        return stated(self.plan.training, "test")

    @cached_property
    def uploads(self) -> list[SealedUpload]:
        """In order of fingerprint, as sets are."""
        made = [
            seal_contribution(self.descriptor, signer, self.changes[name], self.statement, os.urandom)
            for name, signer in self.parties.clients.items()
        ]
        return sorted(made, key=lambda upload: upload.signed.statement.client)

    @cached_property
    def candidate(self) -> SignedCandidate:
        return fix_candidate(
            self.parties.coordinator, self.descriptor, [upload.signed for upload in self.uploads], self.now
        )

    def shown(self, holder: KeyHolder, uploads: list[SealedUpload] | None = None) -> list[MemberEvidence]:
        return evidence(self.descriptor, holder.signer.identity, self.uploads if uploads is None else uploads)

    def endorse_candidate(self, holder: KeyHolder) -> SignedEndorsement:
        return holder.endorse_candidate(self.descriptor, self.candidate, self.shown(holder), (), self.now)

    @cached_property
    def answers(self) -> list[SignedEndorsement]:
        return [self.endorse_candidate(holder) for holder in self.committee]

    def answer_degree_check(self, holder: KeyHolder) -> SignedDegreeAnswer:
        return holder.answer_degree_check(self.descriptor, self.candidate, self.answers, self.shown(holder), self.now)

    @cached_property
    def degree_answers(self) -> list[SignedDegreeAnswer]:
        return [self.answer_degree_check(holder) for holder in self.committee]

    @cached_property
    def settled(self) -> Settlement:
        return settle(self.parties.coordinator, self.descriptor, self.candidate, self.answers, self.degree_answers)

    def endorse_final(self, holder: KeyHolder) -> SignedEndorsement:
        settled = self.settled
        return holder.endorse_final(
            self.descriptor, self.candidate, settled.final, settled.answers, settled.degree_answers, (), self.now
        )

    @cached_property
    def endorsed(self) -> list[SignedEndorsement]:
        return [self.endorse_final(holder) for holder in self.committee]

    @cached_property
    def chosen(self) -> list[SealedUpload]:
        members = {member.client for member in self.settled.final.statement.members}
        return [upload for upload in self.uploads if upload.signed.statement.client in members]

    def share(self, holder: KeyHolder) -> ShareAnswer:
        return holder.sum_shares(
            self.descriptor, self.settled.final, self.endorsed, self.shown(holder, self.chosen), self.now
        )

    @cached_property
    def shares(self) -> list[ShareAnswer]:
        return [self.share(holder) for holder in self.committee]

    @cached_property
    def total(self) -> Accumulator:
        total = Accumulator(self.descriptor.parameters)
        for upload in self.chosen:
            total.add(upload.ciphertext)
        return total

    @cached_property
    def opened(self) -> OpenedSum:
        return open_with_shares(self.descriptor, self.settled.final.statement, self.shares, self.total)

    @cached_property
    def parts(self) -> ReleaseParts:
        return ReleaseParts(
            session=self.session,
            uploads=tuple(upload.signed for upload in self.uploads),
            candidate=self.candidate,
            settlement=self.settled,
            final_endorsements=tuple(self.endorsed),
            opened=self.opened,
            total=self.total,
            start=self.start,
            timeline=(TimelineEvent(at=self.now, party="Coordinator/server", event="session created"),),
            released_at=self.now,
        )

    @cached_property
    def release(self) -> dict[str, bytes]:
        return build_release(self.parts, self.parties.coordinator, {"secagg": "0.1.0"}, lambda _: b"<html></html>")


def tampered(answer: ShareAnswer) -> ShareAnswer:
    """The same share sum with one byte changed."""
    return replace(answer, share=bytes([answer.share[0] ^ 1]) + answer.share[1:])


def box_context(small: Small, victim: int, place: int) -> BoxContext:
    """What the box of member `victim` for the key-holder at `place` is bound to."""
    statement = small.uploads[victim].signed.statement
    return BoxContext(
        ctx=statement.ctx,
        client=statement.client,
        holder=small.descriptor.holders[place].fingerprint,
        index=place + 1,
        ciphertext_root=statement.ciphertext_root,
    )


def content(small: Small, victim: int, place: int) -> BoxContent:
    """What member `victim` gave the key-holder at `place`."""
    offer = small.descriptor.committee[place].offer.statement
    key = small.committee[place].keys.get(offer.digest)
    box = small.uploads[victim].boxes[place]
    return open_box(box, key, box_context(small, victim, place), small.descriptor.parameters.share_bytes)


def reboxed(small: Small, victim: int, contents: Mapping[int, tuple[bytes, bytes]]) -> SealedUpload:
    """A client that signs a root over boxes with other shares and blindings, by place of key-holder."""
    upload = small.uploads[victim]
    boxes = list(upload.boxes)
    for place, (share, blinding) in contents.items():
        key = bytes.fromhex(small.descriptor.committee[place].offer.statement.public_key)
        boxes[place] = seal_box(share, blinding, key, box_context(small, victim, place))
    statement = upload.signed.statement
    signer = next(s for s in small.parties.clients.values() if s.identity.fingerprint == statement.client)
    signed = signer.sign(statement.model_copy(update={"boxes_root": root(boxes).hex()}))
    return replace(upload, signed=signed, boxes=tuple(boxes))


def inconsistent(small: Small, victim: int, places: Sequence[int]) -> SealedUpload:
    """A client that gives the key-holders at `places` shares that are one off in one coefficient."""
    wrong = dict[int, tuple[bytes, bytes]]()
    for place in places:
        held = content(small, victim, place)
        elements = shamir.unpack_share(held.share)
        elements[0] = (int(elements[0]) + 1 + place) % shamir.FIELD
        wrong[place] = (shamir.pack_share(elements), held.blinding)
    return reboxed(small, victim, wrong)


def lying(small: Small, place: int, rows: Sequence[int]) -> SignedDegreeAnswer:
    """The answer of the key-holder at `place`, with other values for the members in `rows`."""
    honest = small.answer_degree_check(small.committee[place]).statement
    values = [honest.values[at : at + 32] for at in range(0, len(honest.values), 32)]
    for row in rows:
        values[row] = f"{row + 1:08x}" + values[row][8:]
    return small.committee[place].signer.sign(honest.model_copy(update={"values": "".join(values)}))
