"""The key-holder: checks everything itself, records before it answers, opens nothing alone (protocol.md §4, §8)."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from secagg import shamir
from secagg.boxes import BoxContext, SessionKey, check_public_key, open_box
from secagg.degree import answer, challenge
from secagg.descriptor import Descriptor, SignedDescriptor
from secagg.errors import ConflictError, MalformedError, PolicyViolation, ProtocolViolation, SessionClosed, ShareError
from secagg.evidence import BLINDINGS, MemberEvidence, ShareAnswer
from secagg.merkle import verify_path
from secagg.messages import (
    Approval,
    Candidate,
    Complaint,
    DegreeAnswer,
    Endorsement,
    KeyOffer,
    SetMember,
    ShareSum,
    SignedApproval,
    SignedCandidate,
    SignedDegreeAnswer,
    SignedEndorsement,
    SignedFinalSet,
    SignedOffer,
    SignedShareSum,
)
from secagg.policy import Policy, check_authority
from secagg.randomness import Randomness
from secagg.releases import ReleasedSets, check_disjoint, check_earlier
from secagg.sets import check_candidate, check_final, check_members, check_peers, check_upload, verify_endorsements
from secagg.signing import Signer

MAX_CLOCK_SKEW = 300


class Journal(Protocol):
    """Write-once records. `record` returns only when the value is durable."""

    def get(self, key: str) -> bytes | None:
        """What was recorded, or None."""

    def record(self, key: str, value: bytes) -> bytes:
        """Record `value` unless something is there; return what is there now."""


class KeyStore(Protocol):
    """Private session keys by the hash of their offer."""

    def put(self, offer_digest: str, key: SessionKey) -> None:
        """Store durably, readable by this party alone."""

    def get(self, offer_digest: str) -> SessionKey:
        """Load, or raise SessionClosed when the key was erased."""

    def erase(self, offer_digest: str) -> None:
        """Destroy. Does nothing when it is gone."""


@dataclass(frozen=True, slots=True)
class KeyHolder:
    """One member of the committee. `authority` is the PEM of the CA it trusts for names; the policy pins parties."""

    signer: Signer
    policy: Policy
    authority: str
    journal: Journal
    keys: KeyStore

    def offer(self, now: int, lifetime: int, random: Randomness) -> SignedOffer:
        """A fresh session key: private part stored, public part signed (protocol.md §4.1)."""
        key = SessionKey.generate()
        statement = KeyOffer(
            holder=self.signer.identity.fingerprint,
            public_key=key.public_bytes.hex(),
            nonce=random(32).hex(),
            created_at=now,
            expires_at=now + lifetime,
        )
        self.keys.put(statement.digest, key)
        return self.signer.sign(statement)

    def approve(self, signed: SignedDescriptor, now: int) -> SignedApproval:
        """Check the descriptor against the policy and sign its ctx; one descriptor per offer, ever (protocol.md §4.3).

        Raises PolicyViolation, CertificateInvalid, SessionClosed or ConflictError.
        """
        descriptor = signed.check(approved=False)
        offer_digest = self._own_offer(descriptor)
        if now > descriptor.expires_at:
            raise SessionClosed(f"session {descriptor.ctx[:16]} has expired")
        check_authority(descriptor, self.authority, now)
        self.policy.check(descriptor)
        check_offers(descriptor)
        self.keys.get(offer_digest)
        stored = self.journal.record(f"approval/{offer_digest}", descriptor.ctx.encode())
        if stored.decode() != descriptor.ctx:
            raise ConflictError("this session key was already approved for another descriptor; make a new offer")
        return self.signer.sign(Approval(ctx=descriptor.ctx, holder=self.signer.identity.fingerprint))

    def endorse_candidate(
        self,
        descriptor: Descriptor,
        signed: SignedCandidate,
        evidence: Iterable[MemberEvidence],
        peers: Sequence[SignedEndorsement],
        now: int,
        earlier: Sequence[ReleasedSets] = (),
    ) -> SignedEndorsement:
        """Check the candidate set and every member's own signature and box, then endorse it once (protocol.md §8.2).

        `peers` are the endorsements of the committee so far, this key-holder's own among them after a restore
        from a backup: one for another set stops everything. `earlier` are the sets of all releases before (§8.7.2).
        Raises ProtocolViolation, VerificationError, PolicyViolation, SessionClosed or ConflictError.
        """
        self._check_open(descriptor, now)
        candidate = signed.verify(descriptor.coordinator_identity)
        check_candidate(descriptor, candidate)
        self._check_clock(descriptor, candidate, now)
        check_earlier(descriptor, candidate, earlier)
        self._check_recorded(descriptor, [*(sets.candidate.statement for sets in earlier), candidate])
        check_peers(descriptor, peers, stage="candidate", release=candidate.release, digest=candidate.digest)
        self.policy.check_institutions((member.client for member in candidate.members), "candidate set")
        complaints = list[Complaint]()
        for _, share in self._shares(descriptor, candidate.members, evidence):
            if isinstance(share, Complaint):
                complaints.append(share)
        endorsement = Endorsement(
            ctx=descriptor.ctx,
            release=candidate.release,
            stage="candidate",
            set_digest=candidate.digest,
            holder=self.signer.identity.fingerprint,
            complaints=tuple(complaints),
        )
        if descriptor.releases > 1:
            self.journal.record(_candidate_slot(descriptor, candidate.release), signed.to_bytes())
            self._check_recorded(descriptor, [candidate])
        return self._endorse_once(endorsement)

    def answer_degree_check(
        self,
        descriptor: Descriptor,
        signed: SignedCandidate,
        endorsements: Sequence[SignedEndorsement],
        evidence: Iterable[MemberEvidence],
        now: int,
    ) -> SignedDegreeAnswer:
        """Given t endorsements of C, answer the degree check for its members, once and for no other C (§8.4.2).

        Raises EndorsementInvalid, ProtocolViolation, PolicyViolation, SessionClosed or ConflictError.
        """
        candidate = signed.verify(descriptor.coordinator_identity)
        check_candidate(descriptor, candidate)
        verify_endorsements(
            descriptor, endorsements, stage="candidate", release=candidate.release, digest=candidate.digest
        )
        slot = f"degree/{descriptor.ctx}/{candidate.release}"
        stored = self.journal.get(slot)
        if stored is not None:
            return _load_degree_answer(stored, candidate.digest)
        self._check_open(descriptor, now)
        self._check_endorsed(candidate)
        self._check_recorded(descriptor, [candidate])
        self.policy.check_institutions((member.client for member in candidate.members), "candidate set")
        coefficients = challenge(candidate)
        values = np.zeros((len(candidate.members), BLINDINGS), dtype="<u4")
        for row, (_, held) in zip(values, self._shares(descriptor, candidate.members, evidence), strict=True):
            if isinstance(held, HeldShare):
                row[:] = answer(coefficients, held.elements, held.blinding)
        index, _ = descriptor.holder(self.signer.identity.fingerprint)
        statement = DegreeAnswer(
            ctx=descriptor.ctx,
            release=candidate.release,
            candidate_digest=candidate.digest,
            holder=self.signer.identity.fingerprint,
            index=index,
            values=values.tobytes().hex(),
        )
        return _load_degree_answer(self.journal.record(slot, self.signer.sign(statement).to_bytes()), candidate.digest)

    def endorse_final(
        self,
        descriptor: Descriptor,
        candidate: SignedCandidate,
        final: SignedFinalSet,
        answers: Sequence[SignedEndorsement],
        degree_answers: Sequence[SignedDegreeAnswer],
        peers: Sequence[SignedEndorsement],
        now: int,
    ) -> SignedEndorsement:
        """Check that U follows from C and what is attached, then endorse it once per release, ever (§8.3)."""
        self._check_open(descriptor, now)
        fixed = candidate.verify(descriptor.coordinator_identity)
        chosen = final.verify(descriptor.coordinator_identity)
        check_candidate(descriptor, fixed)
        check_final(descriptor, fixed, chosen, answers, degree_answers)
        self._check_recorded(descriptor, [fixed])
        check_peers(descriptor, peers, stage="final", release=chosen.release, digest=chosen.digest)
        self.policy.check_institutions((member.client for member in chosen.members), "final set")
        endorsement = Endorsement(
            ctx=descriptor.ctx,
            release=chosen.release,
            stage="final",
            set_digest=chosen.digest,
            holder=self.signer.identity.fingerprint,
        )
        return self._endorse_once(endorsement)

    def sum_shares(
        self,
        descriptor: Descriptor,
        final: SignedFinalSet,
        endorsements: Sequence[SignedEndorsement],
        evidence: Iterable[MemberEvidence],
        now: int,
    ) -> ShareAnswer:
        """Given t endorsements of U, sum this key-holder's shares over U, once and for no other set (protocol.md §8.5).

        Raises EndorsementInvalid, ProtocolViolation, ShareError (a box of a member does not open) or ConflictError.
        """
        chosen = final.verify(descriptor.coordinator_identity)
        verify_endorsements(descriptor, endorsements, stage="final", release=chosen.release, digest=chosen.digest)
        slot = f"share/{descriptor.ctx}/{chosen.release}"
        stored = self.journal.get(slot)
        if stored is not None:
            return _load_answer(stored, chosen.digest)
        self._check_open(descriptor, now)
        check_members(descriptor, chosen.members)
        self.policy.check_institutions((member.client for member in chosen.members), "final set")
        packed = shamir.sum_shares(self._valid_shares(descriptor, chosen.members, evidence))
        index, _ = descriptor.holder(self.signer.identity.fingerprint)
        statement = ShareSum(
            ctx=descriptor.ctx,
            release=chosen.release,
            final_digest=chosen.digest,
            holder=self.signer.identity.fingerprint,
            index=index,
            share_sha256=hashlib.sha256(packed).hexdigest(),
        )
        signed = self.signer.sign(statement)
        return _load_answer(self.journal.record(slot, _pack_answer(packed, signed)), chosen.digest)

    def erase(self, descriptor: Descriptor) -> None:
        """Destroy the session key, at release or expiry (protocol.md §4.1)."""
        self.keys.erase(self._own_offer(descriptor))

    def _own_offer(self, descriptor: Descriptor) -> str:
        index, _ = descriptor.holder(self.signer.identity.fingerprint)
        return descriptor.committee[index - 1].offer.statement.digest

    def _check_open(self, descriptor: Descriptor, now: int) -> None:
        if now > descriptor.expires_at:
            raise SessionClosed(f"session {descriptor.ctx[:16]} has expired; its key is erased")
        approved = self.journal.get(f"approval/{self._own_offer(descriptor)}")
        if approved is None or approved.decode() != descriptor.ctx:
            raise PolicyViolation("this key-holder has not approved the session")

    def _check_recorded(self, descriptor: Descriptor, shown: Sequence[Candidate]) -> None:
        """Raise ConflictError when what is shown contradicts the candidate sets endorsed here (protocol.md §8.7.2)."""
        if descriptor.releases == 1:
            return  # the endorsement itself is the record
        by_number, others = {candidate.release: candidate for candidate in shown}, list[Candidate]()
        for number in range(1, descriptor.releases + 1):
            raw = self.journal.get(_candidate_slot(descriptor, number))
            recorded = None if raw is None else SignedCandidate.parse(raw).statement
            if recorded is None:
                continue
            if number not in by_number:
                others.append(recorded)
            elif recorded.digest != by_number[number].digest:
                raise ConflictError(f"already endorsed another set for release {number}; the coordinator showed two")
        for candidate in shown:
            check_disjoint(candidate, others)

    @staticmethod
    def _check_clock(descriptor: Descriptor, candidate: Candidate, now: int) -> None:
        if not descriptor.created_at <= candidate.fixed_at <= descriptor.expires_at:
            raise ProtocolViolation("the candidate set was fixed outside the session's time")
        if candidate.fixed_at > now + MAX_CLOCK_SKEW:
            raise ProtocolViolation("the candidate set is dated in the future; check the clocks")

    def _endorse_once(self, endorsement: Endorsement) -> SignedEndorsement:
        signed = self.signer.sign(endorsement)
        slot = f"endorsement/{endorsement.ctx}/{endorsement.release}/{endorsement.stage}"
        stored = SignedEndorsement.parse(self.journal.record(slot, signed.to_bytes()))
        if stored.statement.set_digest != endorsement.set_digest:
            raise ConflictError(
                f"already endorsed another {endorsement.stage} set for release {endorsement.release}; "
                "the coordinator showed two"
            )
        return stored

    def _check_endorsed(self, candidate: Candidate) -> None:
        """Raise ConflictError when this key-holder has itself endorsed another candidate set for this release."""
        stored = self.journal.get(f"endorsement/{candidate.ctx}/{candidate.release}/candidate")
        if stored is not None and SignedEndorsement.parse(stored).statement.set_digest != candidate.digest:
            raise ConflictError(f"already endorsed another candidate set for release {candidate.release}")

    def _shares(
        self, descriptor: Descriptor, members: Sequence[SetMember], evidence: Iterable[MemberEvidence]
    ) -> Iterator[tuple[SetMember, "HeldShare | Complaint"]]:
        """Verify each member's evidence in order; yield its share, or a complaint that is the client's fault."""
        index, _ = descriptor.holder(self.signer.identity.fingerprint)
        key = self.keys.get(self._own_offer(descriptor))
        shown = iter(evidence)
        for member in members:
            item = next(shown, None)
            if item is None:
                raise ProtocolViolation(f"the coordinator showed no upload for member {member.client[:16]}")
            upload = check_upload(descriptor, item.upload, member.client)
            if upload.upload_root != member.upload_root:
                raise ProtocolViolation(f"the upload shown for {member.client[:16]} is not the one in the set")
            verify_path(item.box, index - 1, len(descriptor.committee), item.path, bytes.fromhex(upload.boxes_root))
            context = BoxContext(
                ctx=descriptor.ctx,
                client=member.client,
                holder=self.signer.identity.fingerprint,
                index=index,
                ciphertext_root=upload.ciphertext_root,
            )
            yield member, _open(item.box, key, context, descriptor.parameters.share_bytes)

    def _valid_shares(
        self, descriptor: Descriptor, members: Sequence[SetMember], evidence: Iterable[MemberEvidence]
    ) -> Iterator[bytes]:
        for member, share in self._shares(descriptor, members, evidence):
            if isinstance(share, Complaint):
                raise ShareError(f"the box of member {member.client[:16]} is no good: {share.reason}")
            yield share.packed


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class HeldShare:
    """One member's share, packed and as uint32 [4096], and its blinding, uint32 [4]. Redacted when printed."""

    packed: bytes
    elements: NDArray[np.uint32]
    blinding: NDArray[np.uint32]

    def __repr__(self) -> str:
        return "HeldShare(redacted)"


def check_offers(descriptor: Descriptor) -> None:
    """Raise MalformedError unless a box can be sealed to every key-holder's session key (protocol.md §4.1)."""
    for member in descriptor.committee:
        check_public_key(bytes.fromhex(member.offer.statement.public_key))


def _open(box: bytes, key: SessionKey, context: BoxContext, share_bytes: int) -> HeldShare | Complaint:
    try:
        content = open_box(box, key, context, share_bytes)
    except ShareError:
        return Complaint(client=context.client, reason="box-does-not-open")
    except MalformedError:
        return Complaint(client=context.client, reason="box-malformed")
    try:
        elements, blinding = shamir.unpack_share(content.share), shamir.unpack_blinding(content.blinding)
    except ShareError:
        return Complaint(client=context.client, reason="box-malformed")
    return HeldShare(content.share, elements, blinding)


def _load_degree_answer(stored: bytes, candidate_digest: str) -> SignedDegreeAnswer:
    signed = SignedDegreeAnswer.parse(stored)
    if signed.statement.candidate_digest != candidate_digest:
        raise ConflictError("the degree check of this release was answered for another set; nothing more is answered")
    return signed


def _candidate_slot(descriptor: Descriptor, release: int) -> str:
    return f"candidate/{descriptor.ctx}/{release}"


def _pack_answer(share: bytes, signed: SignedShareSum) -> bytes:
    return len(share).to_bytes(4, "little") + share + signed.to_bytes()


def _load_answer(stored: bytes, final_digest: str) -> ShareAnswer:
    end = 4 + int.from_bytes(stored[:4], "little")
    signed = SignedShareSum.parse(stored[end:])
    if signed.statement.final_digest != final_digest:
        raise ConflictError("the share sum of this release was given for another set; nothing more is released")
    return ShareAnswer(signed=signed, share=stored[4:end])
