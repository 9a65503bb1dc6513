"""What a coordinator stores of a masked session: every message it took, every round it closed (protocol.md §12.2.3).

From these rows and the uploaded files the whole state is built again, in the same order, after a restart.
"""

from sqlalchemy import func, select
from sqlalchemy.orm import Mapped, mapped_column

from secagg.certificate import TimelineEvent
from secagg.ckks.descriptor import SignedCkksDescriptor
from secagg.masked.descriptor import SignedMaskedDescriptor
from secagg.messages import SignedReceipt
from secagg.plan import Frozen
from secagg.signing import parse_model
from secagg_server.database import SessionState, StateStore, Store
from secagg_server.tables import Base, ReleaseRow

RELEASE = 1


class MaskedMessageRow(Base):
    """One client's message of one step, in the form in which it came; an upload's without its vector.

    `number` keeps the order in which they were taken.
    """

    __tablename__ = "masked_messages"
    ctx: Mapped[str] = mapped_column(primary_key=True)
    step: Mapped[str] = mapped_column(primary_key=True)
    client: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int]
    body: Mapped[bytes]
    receipt: Mapped[bytes | None]


class MaskedRoundRow(Base):
    """A round that was closed, when, and what the coordinator signed then."""

    __tablename__ = "masked_rounds"
    ctx: Mapped[str] = mapped_column(primary_key=True)
    step: Mapped[str] = mapped_column(primary_key=True)
    at: Mapped[int]
    signed: Mapped[bytes | None]


class MaskedInputs(Frozen):
    """Everything about a release that depends on the moment, fixed before its files are made."""

    timeline: tuple[TimelineEvent, ...]
    software: dict[str, str]
    released_at: int


class MessageStore(StateStore):
    """Messages and closed rounds of a session whose protocol is made of rounds."""

    def messages(self, step: str) -> tuple[tuple[str, bytes], ...]:
        """(client, message) in the order in which they were taken."""
        match = (MaskedMessageRow.ctx == self.ctx) & (MaskedMessageRow.step == step)
        with self._store.read() as db:
            rows = db.scalars(select(MaskedMessageRow).where(match).order_by(MaskedMessageRow.number))
            return tuple((row.client, row.body) for row in rows)

    def message(self, step: str, client: str) -> bytes | None:
        """What was taken of this client in a step."""
        with self._store.read() as db:
            row = db.get(MaskedMessageRow, (self.ctx, step, client))
            return None if row is None else row.body

    def receipt(self, client: str) -> SignedReceipt | None:
        """The receipt of a client's upload."""
        with self._store.read() as db:
            row = db.get(MaskedMessageRow, (self.ctx, "upload", client))
            return None if row is None or row.receipt is None else SignedReceipt.parse(row.receipt)

    def add_message(
        self, step: str, client: str, body: bytes, note: TimelineEvent | None, receipt: SignedReceipt | None = None
    ) -> None:
        """Record a message that was checked."""
        match = (MaskedMessageRow.ctx == self.ctx) & (MaskedMessageRow.step == step)
        with self.write() as db:
            number = db.scalar(select(func.count()).select_from(MaskedMessageRow).where(match)) or 0
            raw = None if receipt is None else receipt.to_bytes()
            row = MaskedMessageRow(ctx=self.ctx, step=step, client=client, number=number, body=body, receipt=raw)
            db.add(row)
            self._note(db, note)

    def forget(self, step: str, client: str) -> None:
        """Drop a message that was refused after all."""
        with self.write() as db:
            row = db.get(MaskedMessageRow, (self.ctx, step, client))
            if row is not None:
                db.delete(row)

    def closed_at(self, step: str) -> int | None:
        """When a round was closed, if it was."""
        with self._store.read() as db:
            row = db.get(MaskedRoundRow, (self.ctx, step))
            return None if row is None else row.at

    def signed_at(self, step: str) -> bytes | None:
        """What the coordinator signed when it closed a round, if it did."""
        with self._store.read() as db:
            row = db.get(MaskedRoundRow, (self.ctx, step))
            return None if row is None else row.signed

    def count(self, step: str) -> int:
        """How many messages of a step were taken."""
        match = (MaskedMessageRow.ctx == self.ctx) & (MaskedMessageRow.step == step)
        with self._store.read() as db:
            return db.scalar(select(func.count()).select_from(MaskedMessageRow).where(match)) or 0

    def close_round(
        self, step: str, note: TimelineEvent, signed: bytes | None = None, *, closing: bool = False
    ) -> None:
        """Record that a round is over, at the time of `note`; `closing`: with it the session closes for newcomers."""
        with self.write() as db:
            db.add(MaskedRoundRow(ctx=self.ctx, step=step, at=note.at, signed=signed))
            if closing:
                self._set_state(db, SessionState.CLOSING, "")
            self._note(db, note)

    def release_inputs(self) -> MaskedInputs | None:
        """What the release is made from, once it is fixed."""
        with self._store.read() as db:
            row = db.get(ReleaseRow, (self.ctx, RELEASE))
            return None if row is None else parse_model(MaskedInputs, row.inputs)

    def fix_release(self, inputs: MaskedInputs) -> None:
        """Record what the release is made from."""
        self._add(ReleaseRow(ctx=self.ctx, release=RELEASE, inputs=inputs.model_dump_json().encode()))


class MaskedStore(MessageStore):
    """Everything stored about one masked session."""

    @classmethod
    def of(cls, store: Store, signed: SignedMaskedDescriptor) -> "MaskedStore":
        """The store of a session, new (and open at once: there is nobody to approve it) or known."""
        store.add_row(signed.statement.ctx, signed.to_bytes(), SessionState.OPEN)
        return cls(store, signed.statement.ctx)


class CkksStore(MessageStore):
    """Everything stored about one ckks session."""

    @classmethod
    def of(cls, store: Store, signed: SignedCkksDescriptor) -> "CkksStore":
        """The store of a session, new (its key-holder has yet to approve it) or known."""
        store.add_row(signed.statement.ctx, signed.to_bytes(), SessionState.PROPOSED)
        return cls(store, signed.statement.ctx)
