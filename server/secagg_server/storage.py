"""A sealed session in the coordinator's database: one row for everything a party ever signed.

What a step decided is recorded before it is acted on, with its time, so that a restarted server decides the same again.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import func, select, update

from secagg.certificate import TimelineEvent
from secagg.coordinator import Settlement
from secagg.descriptor import Descriptor
from secagg.evidence import ShareAnswer
from secagg.messages import (
    SignedApproval,
    SignedCandidate,
    SignedDegreeAnswer,
    SignedEndorsement,
    SignedEnrolment,
    SignedFinalSet,
    SignedReceipt,
    SignedShareSum,
    SignedUpload,
)
from secagg.plan import Frozen, Hash
from secagg.releases import Arrival, ReleasedSets
from secagg.signing import Signed, parse_model
from secagg_server.database import SessionState, StateStore, Store
from secagg_server.tables import (
    ApprovalRow,
    ArrivalRow,
    CandidateRow,
    DegreeRow,
    EndorsementRow,
    EnrolmentRow,
    FinalRow,
    PublishedRow,
    ReleaseRow,
    ShareRow,
    UploadRow,
)


class ReleaseInputs(Frozen):
    """Which of the answers at hand a release uses, and everything about it that depends on the moment.

    `openings` are the SHA-256 of the `opening.safetensors` of each release of the session before.
    """

    approvals: tuple[Hash, ...]
    final_endorsements: tuple[Hash, ...]
    shares: tuple[Hash, ...]
    timeline: tuple[TimelineEvent, ...]
    software: dict[str, str]
    released_at: int
    openings: tuple[Hash, ...] = ()


@dataclass(frozen=True, slots=True)
class StoredUpload:
    """A client's announced upload, and the receipt when it is complete."""

    signed: SignedUpload
    receipt: SignedReceipt | None


class SessionStore(StateStore):
    """Everything stored about one session. Writes that matter to people take a line for the timeline."""

    @classmethod
    def of(cls, store: Store, signed: Signed[Descriptor]) -> "SessionStore":
        """The store of a session, new or known."""
        store.add_row(signed.statement.ctx, signed.to_bytes(), SessionState.PROPOSED)
        return cls(store, signed.statement.ctx)

    def approvals(self) -> dict[str, SignedApproval]:
        """By key-holder."""
        with self._store.read() as db:
            rows = db.scalars(select(ApprovalRow).where(ApprovalRow.ctx == self.ctx).order_by(ApprovalRow.holder))
            return {row.holder: SignedApproval.parse(row.signed) for row in rows}

    def add_approval(self, signed: SignedApproval, note: TimelineEvent) -> None:
        """Record an approval."""
        self._add(ApprovalRow(ctx=self.ctx, holder=signed.signer, signed=signed.to_bytes()), note)

    def enrolled(self, client: str) -> bool:
        """Whether the client has enrolled."""
        with self._store.read() as db:
            return db.get(EnrolmentRow, (self.ctx, client)) is not None

    def add_enrolment(self, signed: SignedEnrolment, note: TimelineEvent) -> None:
        """Record an enrolment."""
        self._add(EnrolmentRow(ctx=self.ctx, client=signed.signer, signed=signed.to_bytes()), note)

    def upload(self, client: str) -> StoredUpload | None:
        """The client's upload, if it announced one."""
        with self._store.read() as db:
            row = db.get(UploadRow, (self.ctx, client))
            if row is None:
                return None
            receipt = None if row.receipt is None else SignedReceipt.parse(row.receipt)
            return StoredUpload(SignedUpload.parse(row.signed), receipt)

    def announce(self, uploads: Sequence[SignedUpload]) -> None:
        """Record what clients are about to send."""
        with self.write() as db:
            db.add_all(
                UploadRow(ctx=self.ctx, client=signed.signer, signed=signed.to_bytes(), receipt=None)
                for signed in uploads
            )

    def forget_upload(self, client: str) -> None:
        """Drop an announced upload that was refused."""
        with self.write() as db:
            row = db.get(UploadRow, (self.ctx, client))
            if row is not None and row.receipt is None:
                db.delete(row)

    def add_receipts(self, receipts: Sequence[tuple[SignedReceipt, TimelineEvent]]) -> None:
        """Mark clients' uploads complete, all or none of them."""
        with self.write() as db:
            for signed, note in receipts:
                match = (UploadRow.ctx == self.ctx) & (UploadRow.client == signed.statement.client)
                db.execute(update(UploadRow).where(match).values(receipt=signed.to_bytes()))
                db.add(ArrivalRow(ctx=self.ctx, client=signed.statement.client))
                db.flush()  # in this order
                self._note(db, note)

    def complete_uploads(self) -> tuple[SignedUpload, ...]:
        """Every upload with a receipt, in order of fingerprint."""
        complete = (UploadRow.ctx == self.ctx) & UploadRow.receipt.is_not(None)
        with self._store.read() as db:
            rows = db.scalars(select(UploadRow).where(complete).order_by(UploadRow.client))
            return tuple(SignedUpload.parse(row.signed) for row in rows)

    def count_complete(self) -> int:
        """How many uploads have a receipt."""
        complete = (UploadRow.ctx == self.ctx) & UploadRow.receipt.is_not(None)
        with self._store.read() as db:
            return db.scalar(select(func.count()).select_from(UploadRow).where(complete)) or 0

    def arrivals(self) -> tuple[Arrival, ...]:
        """When uploads became complete, in that order."""
        same = (UploadRow.ctx == ArrivalRow.ctx) & (UploadRow.client == ArrivalRow.client)
        query = select(UploadRow.receipt).join(ArrivalRow, same).where(ArrivalRow.ctx == self.ctx)
        with self._store.read() as db:
            found = [raw for raw in db.scalars(query.order_by(ArrivalRow.number)) if raw is not None]
        receipts = [SignedReceipt.parse(raw).statement for raw in found]
        return tuple(Arrival(client=receipt.client, received_at=receipt.received_at) for receipt in receipts)

    @property
    def release(self) -> int:
        """The release whose candidate set was fixed last; 0 before there is one."""
        with self._store.read() as db:
            query = select(func.max(CandidateRow.release)).where(CandidateRow.ctx == self.ctx)
            return db.scalar(query) or 0

    def candidate(self, release: int | None = None) -> SignedCandidate | None:
        """The candidate set of a release, once it is fixed; of the latest unless said otherwise, here and below."""
        release = self.release if release is None else release
        with self._store.read() as db:
            row = db.get(CandidateRow, (self.ctx, release))
            return None if row is None else SignedCandidate.parse(row.signed)

    def fix_candidate(self, signed: SignedCandidate, note: TimelineEvent) -> None:
        """Record the candidate set of a release and that it is being closed, in one."""
        with self.write() as db:
            db.add(CandidateRow(ctx=self.ctx, release=signed.statement.release, signed=signed.to_bytes()))
            self._set_state(db, SessionState.CLOSING, "")
            self._note(db, note)

    def endorsements(self, stage: str, release: int | None = None) -> dict[str, SignedEndorsement]:
        """By key-holder, in order of fingerprint."""
        release = self.release if release is None else release
        match = (EndorsementRow.ctx == self.ctx) & (EndorsementRow.stage == stage)
        match &= EndorsementRow.release == release
        with self._store.read() as db:
            rows = db.scalars(select(EndorsementRow).where(match).order_by(EndorsementRow.holder))
            return {row.holder: SignedEndorsement.parse(row.signed) for row in rows}

    def add_endorsement(self, signed: SignedEndorsement, note: TimelineEvent) -> None:
        """Record an endorsement."""
        row = EndorsementRow(
            ctx=self.ctx,
            release=signed.statement.release,
            stage=signed.statement.stage,
            holder=signed.signer,
            signed=signed.to_bytes(),
        )
        self._add(row, note)

    def degree_answers(self, release: int | None = None) -> dict[str, SignedDegreeAnswer]:
        """By key-holder, in order of fingerprint."""
        match = (DegreeRow.ctx == self.ctx) & (DegreeRow.release == (self.release if release is None else release))
        with self._store.read() as db:
            rows = db.scalars(select(DegreeRow).where(match).order_by(DegreeRow.holder))
            return {row.holder: SignedDegreeAnswer.parse(row.signed) for row in rows}

    def add_degree_answer(self, signed: SignedDegreeAnswer, note: TimelineEvent) -> None:
        """Record an answer to the degree check."""
        release = signed.statement.release
        self._add(DegreeRow(ctx=self.ctx, release=release, holder=signed.signer, signed=signed.to_bytes()), note)

    def settlement(self, release: int | None = None) -> Settlement | None:
        """The final set with what is attached to it, once it is fixed."""
        release = self.release if release is None else release
        with self._store.read() as db:
            row = db.get(FinalRow, (self.ctx, release))
            if row is None:
                return None
            final, holders, answered = SignedFinalSet.parse(row.signed), json.loads(row.answers), row.degree_answers
        given, degree = self.endorsements("candidate", release), self.degree_answers(release)
        return Settlement(
            final=final,
            answers=tuple(given[holder] for holder in holders),
            degree_answers=tuple(degree[holder] for holder in json.loads(answered)),
        )

    def fix_final(self, settlement: Settlement, note: TimelineEvent) -> None:
        """Record the final set."""
        row = FinalRow(
            ctx=self.ctx,
            release=settlement.final.statement.release,
            signed=settlement.final.to_bytes(),
            answers=json.dumps([answer.signer for answer in settlement.answers]),
            degree_answers=json.dumps([answer.signer for answer in settlement.degree_answers]),
        )
        self._add(row, note)

    def shares(self) -> dict[str, ShareAnswer]:
        """By key-holder, in order of fingerprint; of the latest release."""
        match = (ShareRow.ctx == self.ctx) & (ShareRow.release == self.release)
        with self._store.read() as db:
            rows = db.scalars(select(ShareRow).where(match).order_by(ShareRow.holder))
            return {row.holder: ShareAnswer(SignedShareSum.parse(row.signed), row.share) for row in rows}

    def add_share(self, answer: ShareAnswer, note: TimelineEvent) -> None:
        """Record a share sum."""
        signed = answer.signed
        row = ShareRow(
            ctx=self.ctx,
            release=signed.statement.release,
            holder=signed.signer,
            signed=signed.to_bytes(),
            share=answer.share,
        )
        self._add(row, note)

    def release_inputs(self, release: int | None = None) -> ReleaseInputs | None:
        """What the release is made from, once it is fixed."""
        release = self.release if release is None else release
        with self._store.read() as db:
            row = db.get(ReleaseRow, (self.ctx, release))
            return None if row is None else parse_model(ReleaseInputs, row.inputs)

    def fix_release(self, inputs: ReleaseInputs) -> None:
        """Record what the release is made from."""
        raw = inputs.model_dump_json().encode()
        self._add(ReleaseRow(ctx=self.ctx, release=self.release, inputs=raw))

    def publish(self, release: int, state: SessionState, note: TimelineEvent) -> None:
        """Record that the folder of a release is written, and what the session does next, in one."""
        with self.write() as db:
            db.add(PublishedRow(ctx=self.ctx, release=release))
            self._set_state(db, state, "")
            self._note(db, note)

    def published(self) -> int:
        """How many releases of a session of several are written."""
        with self._store.read() as db:
            query = select(func.count()).select_from(PublishedRow).where(PublishedRow.ctx == self.ctx)
            return db.scalar(query) or 0

    def released_sets(self, release: int) -> ReleasedSets | None:
        """Both sets of a release with the final endorsements that it uses, once it is fixed (protocol.md §8.7.2)."""
        candidate, settlement = self.candidate(release), self.settlement(release)
        inputs = self.release_inputs(release)
        if candidate is None or settlement is None or inputs is None:
            return None
        given = self.endorsements("final", release)
        endorsements = tuple(given[holder] for holder in inputs.final_endorsements)
        return ReleasedSets(candidate=candidate, final=settlement.final, endorsements=endorsements)

    def places(self) -> dict[str, int]:
        """In the candidate set of which release each client is, by fingerprint; those that are in one."""
        with self._store.read() as db:
            rows = db.scalars(select(CandidateRow).where(CandidateRow.ctx == self.ctx))
            found = [SignedCandidate.parse(row.signed).statement for row in rows]
        return {member.client: candidate.release for candidate in found for member in candidate.members}
