"""Who may call what. Deny by default: a method that is not in the table is nobody's (protocol.md §11.1)."""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from secagg.errors import CertificateInvalid, RoleViolation, SecaggError, StorageError, TransportError
from secagg.identity import Identity, Role, identify
from secagg_host.chunks import PartReader
from secagg_host.events import EventLog
from secagg_host.rpc import to_status
from secagg_host.tls import grpc
from secagg_protos.v1 import secagg_pb2 as pb

CALLS_AT_ONCE = 4
"""Of one party. One is enough; more are left over from broken connections."""

EVERYONE = frozenset(Role)
ALLOWED: dict[str, frozenset[Role]] = {
    **{
        f"/secagg.v1.ContributionService/{method}": frozenset({Role.CLIENT})
        for method in ("GetSession", "Enrol", "BeginUpload", "Upload", "GetStatus")
    },
    **{
        f"/secagg.v1.MaskedService/{method}": frozenset({Role.CLIENT})
        for method in (
            "GetMaskedSession", "Advertise", "GetDirectory", "ShareKey", "GetShared", "BeginMaskedUpload",
            "UploadMasked", "GetSurvivors", "EndorseSurvivors", "GetUnmasking", "Unmask", "GetMaskedStatus",
        )
    },
    **{
        f"/secagg.v1.CkksService/{method}": frozenset({Role.CLIENT})
        for method in ("GetCkksApproval", "BeginCkksUpload", "UploadCkks", "GetCkksRefusal")
    },
    **{
        f"/secagg.v1.CkksService/{method}": frozenset({Role.KEYHOLDER})
        for method in ("ApproveCkks", "GetCkksSet", "GetCkksUpload", "SubmitOpening", "RefuseOpening")
    },
    **{
        f"/secagg.v1.CkksService/{method}": frozenset({Role.CLIENT, Role.KEYHOLDER})
        for method in ("GetCkksSession", "GetCkksStatus")
    },
    **{
        f"/secagg.v1.CommitteeService/{method}": frozenset({Role.KEYHOLDER})
        for method in (
            "GetProposal", "Approve", "GetWork", "GetEvidence", "Endorse", "SubmitDegreeAnswer", "SubmitShareSum",
        )
    },
    **{
        f"/secagg.v1.PublicationService/{method}": EVERYONE
        for method in ("ListReleaseFiles", "GetReleaseFile")
    },
}  # fmt: skip

READERS: dict[str, PartReader[Any]] = {
    "/secagg.v1.ContributionService/Upload": PartReader(pb.UploadRequest.FromString),
    "/secagg.v1.MaskedService/UploadMasked": PartReader(pb.MaskedUploadRequest.FromString),
    "/secagg.v1.CkksService/UploadCkks": PartReader(pb.CkksUploadRequest.FromString),
}
"""Methods that carry uploads: their chunks are not copied."""

if TYPE_CHECKING:
    Handler = grpc.RpcMethodHandler[Any, Any]
    Interceptor = grpc.ServerInterceptor[Any, Any]
else:  # generic for type checkers only
    Handler, Interceptor = grpc.RpcMethodHandler, grpc.ServerInterceptor


def peer_identity(context: grpc.ServicerContext) -> Identity:
    """The party behind the call, from the certificate that TLS verified. Raises CertificateInvalid."""
    shown: Iterable[object] = context.auth_context().get("x509_pem_cert", ())
    pems = [pem for pem in shown if isinstance(pem, bytes)]
    if len(pems) != 1:
        raise CertificateInvalid("the call came without a client certificate")
    return _identity_of(pems[0])


@lru_cache(maxsize=4096)
def _identity_of(pem: bytes) -> Identity:
    """Reading a certificate takes longer than most calls; the same bytes are always the same party."""
    return identify(pem)


def check_allowed(method: str, peer: Identity) -> None:
    """Raise RoleViolation unless the role of `peer` may call the method."""
    if peer.role not in ALLOWED.get(method, frozenset()):
        raise RoleViolation(f"{peer.title} is a {peer.role} and may not call {method.rpartition('/')[2]}")


@contextmanager
def errors_to_status(context: grpc.ServicerContext, operator: "Operator") -> Iterator[None]:
    """End the call with the status of a SecaggError that the body raises."""
    try:
        yield
    except SecaggError as error:
        if isinstance(error, StorageError):
            operator.told(str(error))
        status = to_status(error)
        context.set_trailing_metadata(status.trailing_metadata)
        context.abort(status.code, status.details)


class Operator:
    """Hears of what only whoever runs this machine can mend, once and not at each retry of a caller."""

    def __init__(self, events: EventLog) -> None:
        self._events, self._last, self._lock = events, "", threading.Lock()

    def told(self, reason: str) -> None:
        """Log a refusal of this machine's disk."""
        with self._lock:
            is_new, self._last = reason != self._last, reason
        if is_new:
            self._events.emit("storage", reason=reason)


class Turnstile:
    """Lets each party make so many calls at once: one that opens streams and sends nothing keeps nobody else out."""

    def __init__(self, limit: int = CALLS_AT_ONCE) -> None:
        self._limit, self._lock, self._running = limit, threading.Lock(), Counter[str]()

    @contextmanager
    def inside(self, peer: Identity) -> Iterator[None]:
        """Count the call while the body runs. Raises TransportError, worth a retry, when there are too many."""
        with self._lock:
            if self._running[peer.fingerprint] >= self._limit:
                raise TransportError(f"{peer.title} makes {self._limit} calls already; ask again")
            self._running[peer.fingerprint] += 1
        try:
            yield
        finally:
            with self._lock:
                self._running[peer.fingerprint] -= 1
                if not self._running[peer.fingerprint]:
                    del self._running[peer.fingerprint]


class RoleInterceptor(Interceptor):
    """Checks the caller's role before any handler runs, and gives errors their status."""

    def __init__(self, events: EventLog) -> None:
        self._turnstile, self._operator = Turnstile(), Operator(events)

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Handler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Wrap the handler of the method that is called."""
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        return _guarded(handler, handler_call_details.method, self._turnstile, self._operator)


def _guarded(handler: Handler, method: str, turnstile: Turnstile, operator: Operator) -> Handler:
    inner = handler.unary_unary or handler.stream_unary or handler.unary_stream
    if inner is None:
        raise TypeError(f"{method}: no service of ours streams both ways")

    def answer(request: Any, context: grpc.ServicerContext) -> Any:
        with errors_to_status(context, operator), turnstile.inside(peer := peer_identity(context)):
            check_allowed(method, peer)
            return inner(request, context)

    def stream(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        with errors_to_status(context, operator), turnstile.inside(peer := peer_identity(context)):
            check_allowed(method, peer)
            yield from inner(request, context)

    codecs = {
        "request_deserializer": READERS.get(method, handler.request_deserializer),
        "response_serializer": handler.response_serializer,
    }
    if handler.unary_unary:
        return grpc.unary_unary_rpc_method_handler(answer, **codecs)
    if handler.stream_unary:
        return grpc.stream_unary_rpc_method_handler(answer, **codecs)
    return grpc.unary_stream_rpc_method_handler(stream, **codecs)
