"""What one party's calls may hold of the coordinator: places, workers, unread answers (protocol.md §11.3)."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from secagg.errors import MalformedError, TransportError
from secagg.identity import Role
from secagg_host import tls
from secagg_host.rpc import from_rpc_error
from secagg_host.tls import CALLS_PER_CONNECTION, MAX_MESSAGE_BYTES, grpc
from secagg_protos.v1 import secagg_pb2 as pb
from secagg_server import server
from secagg_server.authorisation import RoleInterceptor
from secagg_server.calls import CALLS_AT_ONCE, Hourglass, Turnstile
from tests.deployment import Caller, Deployment, Running, upload_messages
from tests.small import small_plan

STATUS = "/secagg.v1.ContributionService/GetStatus"
FILES = "/secagg.v1.PublicationService/ListReleaseFiles"
FILE = "/secagg.v1.PublicationService/GetReleaseFile"
UPLOAD = "/secagg.v1.ContributionService/Upload"


def raw_call(caller: Caller, path: str, messages: Iterator[bytes], timeout: float | None = 30) -> Any:
    """Call a method as one that streams both ways, with bytes as they are."""
    remote = caller.channel.stream_stream(path, request_serializer=bytes, response_deserializer=bytes)
    return remote(messages, timeout=timeout)


def ended(call: Any, seconds: float = 60) -> Any:
    """The error that the call ended with."""
    end = time.monotonic() + seconds
    while not call.done() and time.monotonic() < end:
        time.sleep(0.02)
    assert call.done(), "the call goes on"
    return from_rpc_error(call)


def settled(calls: list[Any], running: int) -> bool:
    """Whether all but so many calls have ended, after a while at the most."""
    end = time.monotonic() + 20
    while sum(not call.done() for call in calls) > running and time.monotonic() < end:
        time.sleep(0.02)
    time.sleep(0.3)
    return sum(not call.done() for call in calls) == running


class Pause:
    """Messages that do not come until the test is over."""

    def __init__(self) -> None:
        self.over = threading.Event()

    def after(self, *messages: bytes) -> Iterator[bytes]:
        yield from messages
        self.over.wait(60)


@pytest.fixture
def pause() -> Iterator[Pause]:
    made = Pause()
    yield made
    made.over.set()


def test_calls_whose_request_never_comes_keep_nobody_else_out(opened: Running, pause: Pause) -> None:
    """More of them than the coordinator has workers, of a party that is in no session."""
    with ExitStack() as stack:
        auditors = [stack.enter_context(opened.call(opened.deployment.auditor_files)) for _ in range(5)]
        calls = [raw_call(one, FILES, pause.after()) for one in auditors for _ in range(CALLS_PER_CONNECTION)]
        assert settled(calls, CALLS_AT_ONCE)
        with opened.client(0) as client:
            assert client.status().state == pb.SESSION_STATE_OPEN
        for call in calls:
            call.cancel()


@pytest.fixture
def hasty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """A coordinator that waits for requests a few seconds only: more than a busy machine takes for one that comes."""
    monkeypatch.setattr(server, "RoleInterceptor", partial(RoleInterceptor, request_seconds=3.0))
    with Deployment(tmp_path).running() as running:
        running.approve()
        yield running


def test_a_call_whose_request_does_not_come_is_ended(hasty: Running, pause: Pause) -> None:
    with hasty.client(0) as client:
        begun = [raw_call(client, path, pause.after(), timeout=None) for path in (STATUS, FILES, FILE, UPLOAD)]
        for call in begun:
            assert isinstance(ended(call), TransportError)
            assert call.code() == grpc.StatusCode.CANCELLED
        half = raw_call(client, STATUS, pause.after(b""), timeout=None)  # and it never says that this was all
        assert isinstance(ended(half), TransportError)
        assert client.status().state == pb.SESSION_STATE_OPEN


def test_an_upload_that_has_begun_may_pause_for_longer(hasty: Running) -> None:
    sealed = hasty.deployment.uploads[0]

    def slowly() -> Iterator[Any]:
        for number, message in enumerate(upload_messages(sealed, sealed.ciphertext.tobytes(), 0)):
            if number == 1:
                time.sleep(4.5)
            yield message

    with hasty.client(0) as client:
        client.enrol()
        client.begin(sealed)
        assert client.ask(client.contribution.Upload, slowly()).signed_receipt_json


@pytest.mark.parametrize("path", [STATUS, FILE])
@pytest.mark.parametrize(
    ("messages", "match"),
    [
        ((), "ended without its request"),
        ((b"", b""), "a second one came"),
        ((b"\xff",), "not what the method takes"),
    ],
)
def test_a_method_that_takes_one_request_takes_one(
    opened: Running, path: str, messages: tuple[bytes, ...], match: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with opened.client(0) as client:
        error = ended(raw_call(client, path, iter(messages)))
    assert isinstance(error, MalformedError)
    assert match in str(error)
    assert capfd.readouterr().err == ""


def test_a_stream_of_garbage_is_malformed(opened: Running, capfd: pytest.CaptureFixture[str]) -> None:
    with opened.client(0) as client:
        assert isinstance(ended(raw_call(client, UPLOAD, iter([b"\xff"]))), MalformedError)
    assert capfd.readouterr().err == ""


def test_answers_that_nobody_reads_are_no_more_than_the_calls_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is megabytes of the coordinator's memory; they are given up with their calls."""
    plan = small_plan()
    plan = plan.model_copy(update={"adapter_config": {**plan.adapter_config, "note": "x" * (MAX_MESSAGE_BYTES + 1)}})
    narrow = (*tls.CHANNEL_OPTIONS, ("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1024))
    deployment = Deployment(tmp_path, plan=plan)
    with deployment.running() as running:
        running.approve()
        monkeypatch.setattr(tls, "CHANNEL_OPTIONS", narrow)
        with running.client(0) as deaf:
            method = "/secagg.v1.ContributionService/GetSession"
            unread = deaf.channel.unary_stream(method, request_serializer=bytes, response_deserializer=bytes)
            calls: list[Any] = [unread(b"", timeout=60) for _ in range(12)]
            assert settled(calls, CALLS_AT_ONCE)
            with running.client(1) as other:
                assert other.status().state == pb.SESSION_STATE_OPEN
            for call in calls:
                call.cancel()
            assert eventually(lambda: deaf.status().state == pb.SESSION_STATE_OPEN)


def eventually(done: Callable[[], bool]) -> bool:
    """What `done` says once it no longer raises TransportError."""
    for _ in range(1000):
        try:
            return done()
        except TransportError:
            time.sleep(0.05)
    return False


class Call:
    """Stands for gRPC's context: it knows whether the call is over, and tells once it is."""

    def __init__(self, *, over: bool = False) -> None:
        self._over, self._callbacks = over, list[Callable[[], None]]()

    def add_callback(self, callback: Callable[[], None]) -> bool:
        if not self._over:
            self._callbacks.append(callback)
        return not self._over

    def end(self) -> None:
        self._over = True
        for callback in self._callbacks:
            callback()


@pytest.fixture
def turn(tmp_path: Path) -> Callable[[Call], Any]:
    """The turnstile for one call at once of one party."""
    peer = Deployment(tmp_path).party(Role.CLIENT, "client-1", "Hospital 1").identity
    turnstile = Turnstile(1)
    return lambda call: turnstile.inside(peer, call)  # type: ignore[arg-type]


def is_free(turn: Callable[[Call], Any]) -> bool:
    try:
        with turn(call := Call()):
            pass
        call.end()
    except TransportError:
        return False
    return True


def test_a_place_is_kept_until_the_answer_has_gone_out(turn: Callable[[Call], Any]) -> None:
    with turn(call := Call()):
        assert not is_free(turn)
    assert not is_free(turn)
    call.end()
    assert is_free(turn)


def test_a_place_is_kept_while_the_body_runs_on_for_a_caller_that_has_gone(turn: Callable[[Call], Any]) -> None:
    """As when somebody asks for work, hangs up, and asks again, with a worker each time."""
    with turn(call := Call()):
        call.end()
        assert not is_free(turn)
    assert is_free(turn)


def test_a_call_that_was_over_before_its_turn_keeps_no_place(turn: Callable[[Call], Any]) -> None:
    with turn(Call(over=True)):
        pass
    assert is_free(turn)


def test_a_body_that_fails_gives_its_part_of_the_place_back(turn: Callable[[Call], Any]) -> None:
    with pytest.raises(MalformedError), turn(call := Call()):
        raise MalformedError("nothing")
    call.end()
    assert is_free(turn)


def test_an_hourglass_ends_what_is_late_and_nothing_else() -> None:
    hourglass, ends = Hourglass(1.5), list[str]()  # a thread may wait a while for its turn
    late, done = threading.Event(), threading.Event()
    with hourglass.over(lambda: ends.append("in time")):
        pass
    with hourglass.over(late.set):
        assert late.wait(60)
    with hourglass.over(done.set):  # its thread may have gone meanwhile
        assert done.wait(60)
    assert ends == []
