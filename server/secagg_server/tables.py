"""The tables of the coordinator's database (`storage` reads and writes them)."""

from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """All tables; binary columns hold signed statements in their JSON form."""


class SessionRow(Base):
    """A session this coordinator runs."""

    __tablename__ = "sessions"
    ctx: Mapped[str] = mapped_column(primary_key=True)
    descriptor: Mapped[bytes]
    state: Mapped[str]
    reason: Mapped[str]


class ApprovalRow(Base):
    """A key-holder's approval of the descriptor."""

    __tablename__ = "approvals"
    ctx: Mapped[str] = mapped_column(primary_key=True)
    holder: Mapped[str] = mapped_column(primary_key=True)
    signed: Mapped[bytes]


class EnrolmentRow(Base):
    """A client that has begun."""

    __tablename__ = "enrolments"
    ctx: Mapped[str] = mapped_column(primary_key=True)
    client: Mapped[str] = mapped_column(primary_key=True)
    signed: Mapped[bytes]


class UploadRow(Base):
    """A client's one upload; complete when it has a receipt."""

    __tablename__ = "uploads"
    ctx: Mapped[str] = mapped_column(primary_key=True)
    client: Mapped[str] = mapped_column(primary_key=True)
    signed: Mapped[bytes]
    receipt: Mapped[bytes | None]


class CandidateRow(Base):
    """The candidate set of a release."""

    __tablename__ = "candidates"
    ctx: Mapped[str] = mapped_column(primary_key=True)
    release: Mapped[int] = mapped_column(primary_key=True)
    signed: Mapped[bytes]


class EndorsementRow(Base):
    """A key-holder's endorsement of a set."""

    __tablename__ = "endorsements"
    ctx: Mapped[str] = mapped_column(primary_key=True)
    release: Mapped[int] = mapped_column(primary_key=True)
    stage: Mapped[str] = mapped_column(primary_key=True)
    holder: Mapped[str] = mapped_column(primary_key=True)
    signed: Mapped[bytes]


class DegreeRow(Base):
    """A key-holder's answer to the degree check."""

    __tablename__ = "degree_answers"
    ctx: Mapped[str] = mapped_column(primary_key=True)
    release: Mapped[int] = mapped_column(primary_key=True)
    holder: Mapped[str] = mapped_column(primary_key=True)
    signed: Mapped[bytes]


class FinalRow(Base):
    """The final set; `answers` and `degree_answers` list the key-holders whose word is attached."""

    __tablename__ = "finals"
    ctx: Mapped[str] = mapped_column(primary_key=True)
    release: Mapped[int] = mapped_column(primary_key=True)
    signed: Mapped[bytes]
    answers: Mapped[str]
    degree_answers: Mapped[str]


class ShareRow(Base):
    """A key-holder's share sum."""

    __tablename__ = "shares"
    ctx: Mapped[str] = mapped_column(primary_key=True)
    release: Mapped[int] = mapped_column(primary_key=True)
    holder: Mapped[str] = mapped_column(primary_key=True)
    signed: Mapped[bytes]
    share: Mapped[bytes]


class ReleaseRow(Base):
    """What a release is made from, fixed before its files are."""

    __tablename__ = "releases"
    ctx: Mapped[str] = mapped_column(primary_key=True)
    release: Mapped[int] = mapped_column(primary_key=True)
    inputs: Mapped[bytes]


class PublishedRow(Base):
    """A release of a session of several whose folder is written."""

    __tablename__ = "published"
    ctx: Mapped[str] = mapped_column(primary_key=True)
    release: Mapped[int] = mapped_column(primary_key=True)


class ArrivalRow(Base):
    """In which order uploads became complete."""

    __tablename__ = "arrivals"
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    ctx: Mapped[str] = mapped_column(index=True)
    client: Mapped[str]


class EventRow(Base):
    """The timeline that the certificate shows."""

    __tablename__ = "events"
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    ctx: Mapped[str] = mapped_column(index=True)
    at: Mapped[int]
    party: Mapped[str]
    event: Mapped[str]
