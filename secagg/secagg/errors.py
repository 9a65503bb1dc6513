"""The one error tree. Every expected failure of every role is a subclass of `SecaggError`.

A message says what is wrong, where, and what to do. Secrets never enter a message.
`code` is stable and machine-readable: it travels in gRPC trailers and in JSON output.
"""

from typing import ClassVar


class SecaggError(Exception):
    """Root of the tree."""

    code: ClassVar[str] = "error"


class ParameterError(SecaggError):
    """A parameter set that is insecure, incorrect or not in any table (protocol.md §3)."""

    code = "parameter"


class ConfigError(SecaggError):
    """A configuration or policy file that is missing, malformed or contradictory."""

    code = "config"


class EncodingError(SecaggError):
    """A vector that cannot be encoded: wrong length, not finite, out of range (protocol.md §2)."""

    code = "encoding"


class MalformedError(SecaggError):
    """Bytes from outside that do not parse into the type they claim to be."""

    code = "malformed"


class SizeLimitError(MalformedError):
    """A message or stream longer than the session allows, or shorter than announced."""

    code = "size-limit"


class VerificationError(SecaggError):
    """A check of authenticity or integrity failed. Raised, never returned as a boolean."""

    code = "verification"


class UploadDropped(VerificationError):
    """A receipt and a certificate of one coordinator contradict each other: it dropped an upload (§10.4)."""

    code = "dropped"


class ReceiptContradicted(VerificationError):
    """A receipt and a certificate of one coordinator say that an upload came at different times (§10.4)."""

    code = "misdated"


class SignatureInvalid(VerificationError):
    """A signature does not verify under the key it claims."""

    code = "signature"


class HashMismatch(VerificationError):
    """Content does not have the hash that was committed to."""

    code = "hash"


class CertificateInvalid(VerificationError):
    """A certificate is expired, not from the trusted authority, or not of this project's profile."""

    code = "certificate"


class EndorsementInvalid(VerificationError):
    """Too few, duplicate or contradictory endorsements (protocol.md §8)."""

    code = "endorsement"


class PolicyViolation(SecaggError):
    """A descriptor or a request lies outside the local policy. Nothing was trained or released."""

    code = "policy"


class LimitReached(PolicyViolation):
    """An institution's own limits for its data, in its ledger's settings, allow no more."""

    code = "limit"


class ProtocolViolation(SecaggError):
    """A party showed something that the protocol forbids: another set, a replay, a member off the rules."""

    code = "protocol"


class RoleViolation(SecaggError):
    """A party called a method that belongs to another role, or is not on the roster."""

    code = "role"


class LedgerError(SecaggError):
    """The local ledger refuses, or has been altered."""

    code = "ledger"


class SessionError(SecaggError):
    """The session is not in a state that allows the request."""

    code = "session"


class UnknownSession(SessionError):
    """No such session at this coordinator."""

    code = "unknown-session"


class SessionClosed(SessionError):
    """The session no longer takes uploads, or has expired."""

    code = "session-closed"


class NotReady(SessionError):
    """What was asked for does not exist yet. Ask again later."""

    code = "not-ready"


class ConflictError(SessionError):
    """A second, different message where only one is allowed (upload, endorsement, share sum)."""

    code = "conflict"


class TooFewContributions(SessionError):
    """Fewer uploads than n_min at the deadline. Nothing is opened."""

    code = "too-few"


class OpeningError(SecaggError):
    """The recovered sum(e) is not small: a share or ciphertext is wrong. The session is burnt (protocol.md §9)."""

    code = "opening"


class Unopenable(OpeningError):
    """The key-holder of a ckks session finds that its set does not open (protocol.md §13.5.7).

    `finding` is one of `secagg.ckks.messages.Finding`; `client` the fingerprint of whom it names, or empty.
    """

    code = "unopenable"

    def __init__(self, message: str, finding: str = "", client: str = "") -> None:
        super().__init__(message)
        self.finding, self.client = finding, client


class ShareError(SecaggError):
    """A share or a box is malformed, or too few shares are at hand (protocol.md §5, §6)."""

    code = "share"


class StorageError(SecaggError):
    """The disk refused: full, read-only, or the folder is in use by another run."""

    code = "storage"


class DataError(SecaggError):
    """A data file without a needed column, with an empty text, or with an unknown label."""

    code = "data"


class ModelError(SecaggError):
    """A model that cannot be loaded, lacks the target modules, or has another hash than agreed."""

    code = "model"


class TrainingError(SecaggError):
    """A setting under which the privacy guarantee does not hold, or training that changed nothing."""

    code = "training"


class AccountingError(SecaggError):
    """A mechanism the accountant does not know, or accountants that disagree beyond their error."""

    code = "accounting"


class AuditError(SecaggError):
    """A figure that an audit cannot give: too few samples, or what was asked for does not fit together."""

    code = "audit"


class TransportError(SecaggError):
    """The coordinator cannot be reached, or refused the connection."""

    code = "transport"


class ProcessFailed(SecaggError):
    """A process of a local run ended before its work was done."""

    code = "process"
