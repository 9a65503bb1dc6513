"""The files of a release, and the signed certificate that lists and proves them (protocol.md §10)."""

from abc import abstractmethod
from typing import Annotated, Literal, TypeVar

from pydantic import Field

from secagg.canonical import pretty_bytes
from secagg.degree import DegreeCheck
from secagg.descriptor import Descriptor, SignedDescriptor
from secagg.errors import MalformedError
from secagg.identity import Identity
from secagg.messages import (
    Seconds,
    SignedCandidate,
    SignedDegreeAnswer,
    SignedEndorsement,
    SignedFinalSet,
    SignedShareSum,
    SignedUpload,
)
from secagg.plan import ONE_LINE, Frozen, Hash, Plan
from secagg.releases import Progress
from secagg.signing import Signed, Statement

ADAPTER = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
MODEL_CARD = "README.md"
REPORT = "report.html"
OPENING = "opening.safetensors"
CERTIFICATE = "release.json"
START = "start.safetensors"
"""The adapter that the round before released, in the release of a later round."""
FILES = (ADAPTER, ADAPTER_CONFIG, MODEL_CARD, REPORT, OPENING)

Short = Annotated[str, Field(min_length=1, max_length=300)]
ShortLine = Annotated[str, Field(min_length=1, max_length=300), ONE_LINE]
Description = Annotated[str, Field(min_length=1, max_length=1000), ONE_LINE]


class TimelineEvent(Frozen):
    """Who did what when, as the coordinator saw it. Holds no figure about data."""

    at: Seconds
    party: Short
    event: Short


class Excluded(Frozen):
    """A roster member that is not in the release, and why."""

    client: Hash
    title: Short
    reason: Short


class Metric(Frozen):
    """One figure on held-out data, with an interval (`low` to `high`) where one was computed.

    `kind` says whose it is: the released adapter's, a baseline's, one client's alone, or that of a run in memory.
    """

    name: ShortLine
    value: float
    low: float | None = None
    high: float | None = None
    kind: Literal["released", "baseline", "local", "simulation"] = "released"


class ExposureCheck(Frozen):
    """A membership attack on the released adapter, with members and others that are public: a demonstration.

    `area` is that under the ROC, of half of the records, with a 95% interval; `attack` was chosen on the other half.
    `blind_p` is how likely a guess from the texts alone would do as well as it does; `reading` is the conclusion.
    """

    attack: Short
    members: int = Field(ge=1)
    others: int = Field(ge=1)
    area: float = Field(ge=0, le=1)
    low: float
    high: float
    blind_p: float = Field(ge=0, le=1)
    reading: Annotated[str, Field(max_length=1000)]


class Evaluation(Frozen):
    """Quality of the released adapter on data whose holder declares it public (protocol.md §10.2).

    `measure` is what every metric is a value of (accuracy, perplexity); `examples` counts the data; `verdict` is the
    conclusion in words.
    """

    data_sha256: Hash
    data_is_public: Literal[True]
    description: Description
    measure: ShortLine = "score"
    higher_is_better: bool = True
    examples: int | None = Field(default=None, ge=1)
    verdict: Annotated[str, Field(max_length=1000), ONE_LINE] = ""
    metrics: tuple[Metric, ...] = Field(min_length=1, max_length=100)
    exposure: ExposureCheck | None = Field(default=None, exclude_if=lambda check: check is None)


class Certificate(Statement):
    """What the certificates of all protocols state. Nothing in one is believed: every part is checked again."""

    ctx: Hash
    excluded: tuple[Excluded, ...]
    security_bits: int
    security_note: Annotated[str, Field(max_length=1000)]
    privacy_note: Annotated[str, Field(max_length=2000)]
    timeline: tuple[TimelineEvent, ...]
    software: dict[str, str]
    files: dict[str, Hash]
    evaluation: Evaluation | None = None
    released_at: Seconds

    @property
    @abstractmethod
    def plan(self) -> Plan:
        """What was trained, as the session states it."""

    @property
    @abstractmethod
    def members(self) -> tuple[str, ...]:
        """Fingerprints of those whose updates are in the sum."""

    @property
    @abstractmethod
    def coordinator(self) -> Identity:
        """Who signed it, and every receipt of the session."""

    @property
    def acknowledged_before(self) -> dict[str, str]:
        """The same of the releases before it of its session, where that may have several."""
        return {}

    @property
    def open_until(self) -> int | None:
        """When its set was fixed, if uploads that came later may be in another release of the session."""
        return None

    @property
    def arrived(self) -> dict[str, int]:
        """When each client's upload came, where the certificate says so: as the receipt has it, or one of them lies."""
        return {}

    @property
    @abstractmethod
    def acknowledged(self) -> dict[str, str]:
        """By client, what its receipt names of each upload that the certificate lists (protocol.md §10.4)."""

    @property
    @abstractmethod
    def trust_note(self) -> str:
        """Whom one trusts that no single contribution was opened, in words."""


class HolderFault(Frozen):
    """A key-holder whose share sum is off those that opened the sum, and what that proves (protocol.md §9.1a)."""

    holder: Hash
    finding: Literal["lied", "disagrees"]


class ReleaseCertificate(Certificate):
    """All that the coordinator states about a `sealed` release; every part is checked again by `secagg verify`."""

    version: Literal[1] = 1
    session: SignedDescriptor
    uploads: tuple[SignedUpload, ...]
    candidate: SignedCandidate
    candidate_endorsements: tuple[SignedEndorsement, ...]
    degree_answers: tuple[SignedDegreeAnswer, ...]
    final: SignedFinalSet
    final_endorsements: tuple[SignedEndorsement, ...]
    share_sums: tuple[SignedShareSum, ...]
    degree_check: DegreeCheck
    holder_faults: tuple[HolderFault, ...] = ()
    committee_note: Short
    error_max: int
    error_bound: int
    progress: Progress | None = Field(default=None, exclude_if=lambda value: value is None)

    @classmethod
    def purpose(cls) -> str:
        """Domain of the signature."""
        return "release"

    @property
    def plan(self) -> Plan:
        """What was trained, as the session states it."""
        return self.session.descriptor.statement.plan

    @property
    def members(self) -> tuple[str, ...]:
        """Fingerprints of the final set."""
        return tuple(member.client for member in self.final.statement.members)

    @property
    def coordinator(self) -> Identity:
        """The coordinator of the session."""
        return self.session.descriptor.statement.coordinator_identity

    @property
    def acknowledged_before(self) -> dict[str, str]:
        """The candidate sets of the releases before."""
        earlier = () if self.progress is None else self.progress.earlier
        return {member.client: member.upload_root for one in earlier for member in one.sets.candidate.statement.members}

    @property
    def open_until(self) -> int | None:
        """With several releases, the time of C; but after the last one there is no other (protocol.md §10.4)."""
        if self.progress is None or self.progress.number >= self.session.descriptor.statement.releases:
            return None
        return self.candidate.statement.fixed_at

    @property
    def arrived(self) -> dict[str, int]:
        """With several releases, when the members of C came."""
        return {} if self.progress is None else {one.client: one.received_at for one in self.progress.arrivals}

    @property
    def acknowledged(self) -> dict[str, str]:
        """The upload roots of the candidate set."""
        return {upload.signer: upload.statement.upload_root for upload in self.uploads}

    @property
    def trust_note(self) -> str:
        """The committee and the lattice estimate."""
        return (
            f"Committee: {self.committee_note}. Security: {self.security_bits} bits (core-SVP). "
            "No single contribution was opened."
        )


SignedRelease = Signed[ReleaseCertificate]
C = TypeVar("C", bound=Certificate)


def names(descriptor: Descriptor) -> tuple[str, ...]:
    """The files of a release of this session, but for the certificate."""
    return FILES if descriptor.previous is None else (*FILES, START)


def parse_certificate(raw: bytes) -> SignedRelease:
    """`release.json`, not verified yet. Raises MalformedError that names the file."""
    try:
        return SignedRelease.parse(raw)
    except MalformedError as error:
        raise MalformedError(f"{CERTIFICATE} is no certificate: it was altered or cut off ({error})") from None


def certificate_file(signed: Signed[C]) -> bytes:
    """`release.json`, in its one form."""
    return pretty_bytes(signed)
