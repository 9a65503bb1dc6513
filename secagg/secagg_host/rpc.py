"""The error tree on the wire: a status for each error, its stable code in the trailers (protocol.md §11.2)."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from secagg import errors
from secagg.errors import SecaggError
from secagg_host.tls import grpc

ERROR_KEY = "secagg-error"
MAX_DETAILS = 2000
# How gRPC puts it when a handshake fails on this side.
_UNTRUSTED = re.compile(r"CERTIFICATE_VERIFY_FAILED(?:: (?P<reason>[^:]+))?|(?P<forged>certificate signature failure)")
_OTHER_HOST = "Hostname Verification Check failed"

STATUS: dict[type[SecaggError], grpc.StatusCode] = {
    errors.SecaggError: grpc.StatusCode.UNKNOWN,
    errors.ParameterError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.ConfigError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.EncodingError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.MalformedError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.SizeLimitError: grpc.StatusCode.OUT_OF_RANGE,
    errors.VerificationError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.SignatureInvalid: grpc.StatusCode.UNAUTHENTICATED,
    errors.HashMismatch: grpc.StatusCode.INVALID_ARGUMENT,
    errors.CertificateInvalid: grpc.StatusCode.UNAUTHENTICATED,
    errors.EndorsementInvalid: grpc.StatusCode.INVALID_ARGUMENT,
    errors.UploadDropped: grpc.StatusCode.DATA_LOSS,
    errors.ReceiptContradicted: grpc.StatusCode.DATA_LOSS,
    errors.PolicyViolation: grpc.StatusCode.FAILED_PRECONDITION,
    errors.LimitReached: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ProtocolViolation: grpc.StatusCode.INVALID_ARGUMENT,
    errors.RoleViolation: grpc.StatusCode.PERMISSION_DENIED,
    errors.LedgerError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.SessionError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.UnknownSession: grpc.StatusCode.NOT_FOUND,
    errors.SessionClosed: grpc.StatusCode.FAILED_PRECONDITION,
    errors.NotReady: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ConflictError: grpc.StatusCode.ALREADY_EXISTS,
    errors.TooFewContributions: grpc.StatusCode.FAILED_PRECONDITION,
    errors.OpeningError: grpc.StatusCode.DATA_LOSS,
    errors.Unopenable: grpc.StatusCode.DATA_LOSS,
    errors.ShareError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.StorageError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.DataError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.ModelError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.TrainingError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.AccountingError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.AuditError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.TransportError: grpc.StatusCode.UNAVAILABLE,
    errors.ProcessFailed: grpc.StatusCode.ABORTED,
}
"""Every class of the tree has its own line; a test walks the tree."""

SAYABLE: dict[str, type[SecaggError]] = {
    kind.code: kind
    for kind in (
        errors.MalformedError,
        errors.SizeLimitError,
        errors.SignatureInvalid,
        errors.HashMismatch,
        errors.CertificateInvalid,
        errors.EndorsementInvalid,
        errors.PolicyViolation,
        errors.ProtocolViolation,
        errors.RoleViolation,
        errors.UnknownSession,
        errors.SessionClosed,
        errors.NotReady,
        errors.ConflictError,
        errors.OpeningError,
        errors.ShareError,
        errors.StorageError,
        errors.TransportError,
    )
}
"""What a peer may answer: what is wrong with what it was sent, or how things stand with itself.

The rest is a party's own finding (`unopenable`, `dropped`, `misdated`), or about its own machine, data and ledger.
"""


@dataclass(frozen=True, slots=True)
class Status:
    """What `ServicerContext.abort_with_status` takes (grpc.Status)."""

    code: grpc.StatusCode
    details: str
    trailing_metadata: tuple[tuple[str, str], ...]


def error_classes(root: type[SecaggError] = SecaggError) -> Iterator[type[SecaggError]]:
    """The error tree, root first."""
    yield root
    for child in root.__subclasses__():
        yield from error_classes(child)


def to_status(error: SecaggError) -> Status:
    """The wire form of an error."""
    code = next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)
    return Status(code, str(error)[:MAX_DETAILS], ((ERROR_KEY, error.code),))


def from_rpc_error(error: grpc.RpcError) -> SecaggError:
    """What the peer meant: the same class and message; a TransportError when it did not answer in our terms (§11.2).

    That includes errors that are not for a peer to say: nobody puts findings into this party's mouth.
    A CertificateInvalid when the peer showed a certificate that is not the coordinator's: asking again is no use.
    """
    if not isinstance(error, grpc.Call):
        return errors.TransportError(f"the call failed: {error}")
    details = error.details() or ""
    sent = dict(error.trailing_metadata() or ()).get(ERROR_KEY)
    if isinstance(sent, str) and sent in SAYABLE:
        return SAYABLE[sent](details)
    if sent in {kind.code for kind in error_classes()}:
        return errors.TransportError(
            f"the coordinator answers with the error {sent}, which is not its to say: {details}"
        )
    return _foreign(error.code(), details)


def _foreign(code: grpc.StatusCode, details: str) -> SecaggError:
    if code == grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in details:
        return errors.SizeLimitError(f"the message is larger than the coordinator takes: {details}")
    if code == grpc.StatusCode.UNAVAILABLE and (untrusted := _UNTRUSTED.search(details)):
        return errors.CertificateInvalid(
            "the certificate found at the coordinator's address does not hold under this party's authority.pem "
            f"({untrusted['reason'] or untrusted['forged'] or 'refused'}). Compare the authority's fingerprint with "
            "the coordinator's operator (`secagg ca show authority.pem`); nothing was sent"
        )
    if code == grpc.StatusCode.UNAVAILABLE and _OTHER_HOST in details:
        return errors.CertificateInvalid(
            "the certificate found at the coordinator's address is for another host name. Put the name or address "
            "that the coordinator's certificate was requested for (--host) into `coordinator`; nothing was sent"
        )
    if code == grpc.StatusCode.UNAVAILABLE:
        return errors.TransportError(
            f"the coordinator cannot be reached or refused the connection ({details}); check the address, "
            "that it runs, and that both certificates come from the same authority and are not expired"
        )
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return errors.TransportError("the coordinator did not answer in time")
    return errors.TransportError(f"the call failed: {code.name}: {details}")
