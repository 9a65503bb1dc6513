"""Who may call what. Deny by default: a method that is not in the table is nobody's (protocol.md §11.1)."""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn

from secagg.errors import CertificateInvalid, RoleViolation, SecaggError, StorageError, TransportError
from secagg.identity import Identity, Role, identify
from secagg_host.chunks import PartReader
from secagg_host.events import EventLog
from secagg_host.rpc import to_status
from secagg_host.tls import grpc
from secagg_protos.v1 import secagg_pb2 as pb
from secagg_server.calls import REQUEST_SECONDS, Hourglass, Read, Turnstile, only_request, stream_of_requests
from secagg_server.steps import place_of

FAULT = "something failed at the coordinator that nobody foresaw; its operator is told. It is worth asking again"

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

Take = Callable[[Iterator[bytes], Read], Any]

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
def errors_to_status(context: grpc.ServicerContext, operator: "Operator", method: str = "") -> Iterator[None]:
    """End the call with the status of a SecaggError that the body raises.

    Of any other error the caller is told that there was one and nothing of it, as one that is worth a retry; the
    operator hears of its type and place (protocol.md §11.2).
    """
    try:
        yield
    except grpc.RpcError:
        raise  # the caller has gone: gRPC's own way out of a stream
    except SecaggError as error:
        if isinstance(error, StorageError):
            operator.told(str(error))
        _end(context, error)
    except Exception as error:  # noqa: BLE001 - whatever it is, gRPC would send its text to the caller
        operator.told_fault(method, error)
        _end(context, TransportError(FAULT))


def _end(context: grpc.ServicerContext, error: SecaggError) -> NoReturn:
    status = to_status(error)
    context.set_trailing_metadata(status.trailing_metadata)
    context.abort(status.code, status.details)


class Operator:
    """Hears of what only whoever runs this machine can mend, once and not at each retry of a caller."""

    def __init__(self, events: EventLog) -> None:
        self._events, self._last, self._lock = events, dict[str, str](), threading.Lock()

    def told(self, reason: str) -> None:
        """Log a refusal of this machine's disk."""
        self._tell("storage", reason=reason)

    def told_fault(self, method: str, error: Exception) -> None:
        """Log an error that nobody foresaw: its type, the machine's word for it if it has one, and its place.

        No values: they might be anybody's.
        """
        word = f": {error.strerror}" if isinstance(error, OSError) and error.strerror else ""
        kind = type(error).__name__ + word
        self._tell("fault", method=method.rpartition("/")[2], error=kind, at=place_of(error))

    def _tell(self, event: str, **fields: str) -> None:
        said = str(fields)
        with self._lock:
            is_new, self._last[event] = said != self._last.get(event), said
        if is_new:
            self._events.emit(event, **fields)


class RoleInterceptor(Interceptor):
    """Checks the caller's role before anything is taken from it, and gives errors their status.

    `request_seconds` is how long a call's request is waited for.
    """

    def __init__(self, events: EventLog, request_seconds: float = REQUEST_SECONDS) -> None:
        self._turnstile, self._hourglass, self._operator = Turnstile(), Hourglass(request_seconds), Operator(events)

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Handler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Wrap the handler of the method that is called."""
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        return self._guarded(handler, handler_call_details.method)

    def _guarded(self, handler: Handler, method: str) -> Handler:
        inner = handler.unary_unary or handler.stream_unary or handler.unary_stream
        if inner is None:
            raise TypeError(f"{method}: no service of ours streams both ways")
        take = stream_of_requests if handler.request_streaming else only_request
        read = READERS.get(method) or handler.request_deserializer or bytes

        def answer(raw: Iterator[bytes], context: grpc.ServicerContext) -> Any:
            with self._admitted(method, context):
                return inner(self._taken(take, raw, read, context), context)

        def stream(raw: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[Any]:
            with self._admitted(method, context):
                yield from inner(self._taken(take, raw, read, context), context)

        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(stream, None, handler.response_serializer)
        return grpc.stream_unary_rpc_method_handler(answer, None, handler.response_serializer)

    @contextmanager
    def _admitted(self, method: str, context: grpc.ServicerContext) -> Iterator[None]:
        with errors_to_status(context, self._operator, method):
            peer = peer_identity(context)
            with self._turnstile.inside(peer, context):
                check_allowed(method, peer)
                yield

    def _taken(self, take: Take, raw: Iterator[bytes], read: Read, context: grpc.ServicerContext) -> Any:
        """The request, or the stream of them whose first has come; a call whose request does not come is ended."""
        with self._hourglass.over(context.cancel):
            return take(raw, read)
