"""Every statement that parties sign, one type per stage (protocol.md §4, §7, §8)."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from secagg.canonical import tagged_hash
from secagg.parameters import MAX_COHORT
from secagg.plan import Frozen, Hash
from secagg.privacy import PrivacyStatement
from secagg.signing import Signed, Statement

Seconds = Annotated[int, Field(ge=0, le=1 << 40)]
ReleaseNumber = Annotated[int, Field(ge=1, le=1_000_000)]
MAX_RELEASES = 100
"""Of one session (protocol.md §8.7)."""
HexBytes = Annotated[str, Field(pattern=r"^([0-9a-f]{2})*$", max_length=8192)]


class KeyOffer(Statement):
    """A key-holder's fresh HPKE public key for one session (protocol.md §4.1)."""

    holder: Hash
    public_key: HexBytes
    nonce: Hash
    created_at: Seconds
    expires_at: Seconds

    @classmethod
    def purpose(cls) -> str:
        """Domain of the signature."""
        return "key-offer"


class Approval(Statement):
    """A key-holder has checked the descriptor against its own policy (protocol.md §4.3)."""

    ctx: Hash
    holder: Hash

    @classmethod
    def purpose(cls) -> str:
        """Domain of the signature."""
        return "approval"


class Enrolment(Statement):
    """A client has accepted the descriptor and begins (protocol.md §7.3)."""

    ctx: Hash
    client: Hash

    @classmethod
    def purpose(cls) -> str:
        """Domain of the signature."""
        return "enrolment"


class Upload(Statement):
    """A client's commitment to its one upload (protocol.md §7.1)."""

    ctx: Hash
    client: Hash
    ciphertext_root: Hash
    boxes_root: Hash
    ciphertext_bytes: int = Field(ge=1, le=1 << 50)
    privacy: PrivacyStatement

    @classmethod
    def purpose(cls) -> str:
        """Domain of the signature."""
        return "upload"

    @property
    def upload_root(self) -> str:
        """Commitment to ciphertext and boxes under this session."""
        parts = bytes.fromhex(self.ctx + self.ciphertext_root + self.boxes_root)
        return tagged_hash("secagg/v1/upload", parts).hex()


class Receipt(Statement):
    """The coordinator holds the upload durably (protocol.md §7.2)."""

    ctx: Hash
    client: Hash
    upload_root: Hash
    received_at: Seconds

    @classmethod
    def purpose(cls) -> str:
        """Domain of the signature."""
        return "receipt"


class SetMember(Frozen):
    """One member of a candidate or final set."""

    client: Hash
    upload_root: Hash


Members = Annotated[tuple[SetMember, ...], Field(max_length=MAX_COHORT)]


def _check_sorted(members: tuple[SetMember, ...]) -> None:
    clients = [member.client for member in members]
    if clients != sorted(set(clients)):
        raise ValueError("members must be distinct and in order of fingerprint")


class Candidate(Statement):
    """The candidate set C of a release, fixed once (protocol.md §8.1)."""

    ctx: Hash
    release: ReleaseNumber
    members: Members
    fixed_at: Seconds

    @classmethod
    def purpose(cls) -> str:
        """Domain of the signature."""
        return "candidate"

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_sorted(self.members)
        return self


class Complaint(Frozen):
    """A member whose signed box does not open, or is malformed (protocol.md §8.2)."""

    client: Hash
    reason: Literal["box-does-not-open", "box-malformed"]


class Endorsement(Statement):
    """A key-holder's word for one set, given once per stage and release (protocol.md §8.2, §8.3)."""

    ctx: Hash
    release: ReleaseNumber
    stage: Literal["candidate", "final"]
    set_digest: Hash
    holder: Hash
    complaints: tuple[Complaint, ...] = ()

    @classmethod
    def purpose(cls) -> str:
        """Domain of the signature."""
        return "endorsement"

    @model_validator(mode="after")
    def _check(self) -> Self:
        clients = [complaint.client for complaint in self.complaints]
        if clients != sorted(set(clients)):
            raise ValueError("complaints must be distinct and in order of fingerprint")
        if self.stage == "final" and clients:
            raise ValueError("complaints belong to the candidate stage")
        return self


class DegreeAnswer(Statement):
    """A key-holder's blinded combinations of its shares of every member of C (protocol.md §8.4.2).

    `values`: 4 field elements a member, in order of C, as hex of u32.
    """

    ctx: Hash
    release: ReleaseNumber
    candidate_digest: Hash
    holder: Hash
    index: int = Field(ge=1, le=255)
    values: Annotated[str, Field(pattern=r"^([0-9a-f]{32})+$", max_length=32_000_000)]

    @classmethod
    def purpose(cls) -> str:
        """Domain of the signature."""
        return "degree-answer"


class FinalSet(Statement):
    """The final set U: C less every member that an attached endorsement or degree answer speaks against (§8.3).

    `answers` and `degree_answers` are the hashes of what is attached.
    """

    ctx: Hash
    release: ReleaseNumber
    candidate_digest: Hash
    members: Members
    answers: tuple[Hash, ...] = Field(max_length=255)
    degree_answers: tuple[Hash, ...] = Field(max_length=255)

    @classmethod
    def purpose(cls) -> str:
        """Domain of the signature."""
        return "final"

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_sorted(self.members)
        for answers in (self.answers, self.degree_answers):
            if list(answers) != sorted(set(answers)):
                raise ValueError("answers must be distinct and sorted")
        return self


class ShareSum(Statement):
    """A key-holder's share of sum(s) over U, by its hash (protocol.md §8.5)."""

    ctx: Hash
    release: ReleaseNumber
    final_digest: Hash
    holder: Hash
    index: int = Field(ge=1, le=255)
    share_sha256: Hash

    @classmethod
    def purpose(cls) -> str:
        """Domain of the signature."""
        return "share-sum"


SignedOffer = Signed[KeyOffer]
SignedApproval = Signed[Approval]
SignedEnrolment = Signed[Enrolment]
SignedUpload = Signed[Upload]
SignedReceipt = Signed[Receipt]
SignedCandidate = Signed[Candidate]
SignedEndorsement = Signed[Endorsement]
SignedDegreeAnswer = Signed[DegreeAnswer]
SignedFinalSet = Signed[FinalSet]
SignedShareSum = Signed[ShareSum]
