"""Errors on the wire: each has its status; what a peer may say comes back as itself, and nothing else (§11.2)."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from secagg.errors import (
    LimitReached,
    ReceiptContradicted,
    SecaggError,
    SizeLimitError,
    TransportError,
    Unopenable,
    UploadDropped,
)
from secagg_host.rpc import ERROR_KEY, MAX_DETAILS, SAYABLE, STATUS, Status, error_classes, from_rpc_error, to_status
from secagg_host.tls import grpc

CLASSES = list(error_classes())


@pytest.fixture(scope="module")
def remote() -> Iterator[grpc.Channel]:
    """A bare gRPC server that fails as its caller asks: `code|details|secagg code`."""

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        code, details, sent = request.decode().split("|")
        if sent:
            context.set_trailing_metadata(((ERROR_KEY, sent),))
        context.abort(grpc.StatusCode[code], details)
        raise AssertionError

    handler = grpc.method_handlers_generic_handler("test", {"Fail": grpc.unary_unary_rpc_method_handler(answer)})
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    server.stop(0).wait()


def fail(remote: grpc.Channel, request: str) -> None:
    """Call the method that fails."""
    remote.unary_unary("/test/Fail", str.encode, bytes.decode)(request, timeout=60)


def provoke(remote: grpc.Channel, status: Status) -> SecaggError:
    sent = dict(status.trailing_metadata).get(ERROR_KEY, "")
    with pytest.raises(grpc.RpcError) as caught:
        fail(remote, f"{status.code.name}|{status.details}|{sent}")
    return from_rpc_error(caught.value)


def test_every_error_has_a_status_and_a_code_of_its_own() -> None:
    assert set(STATUS) == set(CLASSES)
    assert len({kind.code for kind in CLASSES}) == len(CLASSES)


@pytest.mark.parametrize("kind", SAYABLE.values())
def test_an_error_comes_back_as_itself(remote: grpc.Channel, kind: type[SecaggError]) -> None:
    status = to_status(kind("what, where, and what to do: äöü"))
    assert status.code == STATUS[kind]
    returned = provoke(remote, status)
    assert type(returned) is kind
    assert str(returned) == "what, where, and what to do: äöü"


def test_findings_of_a_party_itself_are_not_for_a_peer_to_say() -> None:
    assert not {Unopenable, UploadDropped, ReceiptContradicted, LimitReached} & set(SAYABLE.values())


@pytest.mark.parametrize("kind", sorted(set(CLASSES) - set(SAYABLE.values()), key=str))
def test_an_error_that_is_not_for_a_peer_to_say_is_an_answer_in_no_terms_of_ours(
    remote: grpc.Channel, kind: type[SecaggError]
) -> None:
    returned = provoke(remote, to_status(kind("client-2 lies")))
    assert type(returned) is TransportError
    assert (
        str(returned) == f"the coordinator answers with the error {kind.code}, which is not its to say: client-2 lies"
    )


def test_a_long_message_is_cut() -> None:
    assert len(to_status(SecaggError("x" * 10_000)).details) == MAX_DETAILS


@pytest.mark.parametrize(
    ("code", "details", "kind", "match"),
    [
        (grpc.StatusCode.UNAVAILABLE, "nobody there", TransportError, "cannot be reached"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "slow", TransportError, "in time"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "message larger than max (5 vs. 4)", SizeLimitError, "larger"),
        (grpc.StatusCode.UNKNOWN, "Exception calling application", TransportError, "UNKNOWN"),
    ],
)
def test_what_is_not_ours_is_a_transport_error(
    remote: grpc.Channel, code: grpc.StatusCode, details: str, kind: type[SecaggError], match: str
) -> None:
    returned = provoke(remote, Status(code, details, ()))
    assert type(returned) is kind
    assert match in str(returned)


def test_an_unknown_code_is_a_transport_error(remote: grpc.Channel) -> None:
    returned = provoke(remote, Status(grpc.StatusCode.NOT_FOUND, "later version", ((ERROR_KEY, "new-code"),)))
    assert type(returned) is TransportError


def test_a_coordinator_that_is_not_there(remote: grpc.Channel) -> None:
    with grpc.insecure_channel("127.0.0.1:1") as channel, pytest.raises(grpc.RpcError) as caught:
        fail(channel, "")
    assert isinstance(from_rpc_error(caught.value), TransportError)
