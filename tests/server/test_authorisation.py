"""Who may call what: TLS 1.3 with a client certificate, then the role, then the roster (protocol.md §11.1)."""

import errno
import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from secagg.errors import CertificateInvalid, RoleViolation, SecaggError, TransportError, UnknownSession
from secagg.evidence import MemberEvidence
from secagg.identity import Role, issue, new_authority, new_request
from secagg.messages import Enrolment
from secagg_client.patience import Patience
from secagg_host import tls
from secagg_host.events import EventLog
from secagg_host.identity import CERTIFICATE, TLS_KEY, PartyFiles, load_identity
from secagg_host.rpc import from_rpc_error
from secagg_host.tls import MAX_MESSAGE_BYTES, check_refuses_tls12, grpc
from secagg_protos.v1 import secagg_pb2 as pb
from secagg_server.authorisation import ALLOWED, FAULT
from secagg_server.calls import CALLS_AT_ONCE
from tests.deployment import Caller, Deployment, Running, cut_stream, issue_party
from tests.small import small_plan

SERVICES = pb.DESCRIPTOR.services_by_name
METHODS = {f"/{service.full_name}/{method.name}": method for service in SERVICES.values() for method in service.methods}


def party(running: Running, role: Role) -> PartyFiles:
    deployment = running.deployment
    return {
        Role.CLIENT: lambda: deployment.client_files[0],
        Role.KEYHOLDER: lambda: deployment.holder_files[0],
        Role.AUDITOR: lambda: deployment.auditor_files,
        Role.COORDINATOR: lambda: deployment.coordinator_files,
    }[role]()


def call_empty(caller: Caller, path: str) -> list[Any]:
    """Call a method by its path with an empty request."""
    method = METHODS[path]
    request = getattr(pb, method.input_type.name)
    factory: Callable[..., Any] = {
        (False, False): caller.channel.unary_unary,
        (True, False): caller.channel.stream_unary,
        (False, True): caller.channel.unary_stream,
    }[(method.client_streaming, method.server_streaming)]
    remote = factory(path, request_serializer=request.SerializeToString, response_deserializer=bytes)
    try:
        answer = remote(iter([request()]) if method.client_streaming else request(), timeout=60)
        return list(answer) if method.server_streaming else [answer]
    except grpc.RpcError as error:
        raise from_rpc_error(error) from error


def test_the_table_names_every_method_and_no_other() -> None:
    assert set(ALLOWED) == set(METHODS)


@pytest.mark.parametrize("path", sorted(METHODS))
@pytest.mark.parametrize("role", list(Role))
def test_no_role_calls_another_roles_method(opened: Running, path: str, role: Role) -> None:
    with opened.call(party(opened, role)) as caller:
        try:
            call_empty(caller, path)
            refused = False
        except RoleViolation:
            refused = True
        except SecaggError:
            refused = False  # it came past the role; the empty request is refused for another reason
    assert refused == (role not in ALLOWED[path])


@pytest.mark.parametrize("path", sorted(METHODS))
def test_outsiders_with_the_right_role_are_refused(opened: Running, path: str) -> None:
    for role, files in opened.deployment.outsiders.items():
        if role in ALLOWED[path] and METHODS[path].input_type.fields_by_name.get("ctx"):
            no_such_session = UnknownSession if ".MaskedService/" in path or ".CkksService/" in path else RoleViolation
            with opened.call(files) as caller, pytest.raises(no_such_session):
                call_empty(caller, path)


def test_an_outsider_cannot_enrol(opened: Running) -> None:
    files = opened.deployment.outsiders[Role.CLIENT]
    signed = files.signer.sign(Enrolment(ctx=opened.session.ctx, client=files.identity.fingerprint))
    with opened.call(files) as caller, pytest.raises(RoleViolation, match="not on the roster"):
        caller.ask(caller.contribution.Enrol, pb.EnrolRequest(signed_enrolment_json=signed.to_bytes()))


def test_nobody_enrols_in_anothers_name(opened: Running) -> None:
    first, second = opened.deployment.client_files[:2]
    signed = first.signer.sign(Enrolment(ctx=opened.session.ctx, client=first.identity.fingerprint))
    with opened.call(second) as caller, pytest.raises(SecaggError, match="signed by"):
        caller.ask(caller.contribution.Enrol, pb.EnrolRequest(signed_enrolment_json=signed.to_bytes()))


def test_an_unknown_session_is_named(opened: Running) -> None:
    with opened.client(0) as caller, pytest.raises(UnknownSession, match="ffff"):
        caller.ask(caller.contribution.GetStatus, pb.GetStatusRequest(ctx=b"\xff" * 32))


def test_an_auditor_reads_publications_only(opened: Running) -> None:
    with opened.call(opened.deployment.auditor_files) as caller, pytest.raises(SecaggError, match="has no release"):
        caller.release()


def _raw_context(version: ssl.TLSVersion, files: Path | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    if files is not None:
        context.load_cert_chain(files / CERTIFICATE, files / TLS_KEY)
    return context


def _handshake(running: Running, context: ssl.SSLContext) -> tuple[str | None, bytes]:
    """The version agreed on, and the first bytes that the server sends after the HTTP/2 preface."""
    with socket.create_connection(("127.0.0.1", running.listener.port), 60) as raw, context.wrap_socket(raw) as tls:
        tls.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
        return tls.version(), tls.recv(64)


def test_tls_1_2_is_refused_and_tls_1_3_taken(opened: Running) -> None:
    files = opened.deployment.folder / "parties" / "client-1"
    assert opened.deployment.client_files
    version, answer = _handshake(opened, _raw_context(ssl.TLSVersion.TLSv1_3, files))
    assert version == "TLSv1.3"
    assert answer
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        _handshake(opened, _raw_context(ssl.TLSVersion.TLSv1_2, files))
    check_refuses_tls12("127.0.0.1", opened.listener.port, files)


def test_the_probe_notices_a_server_that_takes_tls_1_2(opened: Running) -> None:
    """The control: an ordinary server with the same certificates."""
    assert opened.deployment.client_files
    folder = opened.deployment.folder / "parties"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server" / CERTIFICATE, folder / "server" / TLS_KEY)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        import threading

        def answer() -> None:
            connection, _ = listener.accept()
            context.wrap_socket(connection, server_side=True).close()

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(TransportError, match=r"accepted TLSv1\.2"):
            check_refuses_tls12("127.0.0.1", listener.getsockname()[1], folder / "client-1")
        thread.join(5)


def test_no_client_certificate_no_answer(opened: Running) -> None:
    """In TLS 1.3 the client learns of the refusal only when it reads."""
    try:
        _, answer = _handshake(opened, _raw_context(ssl.TLSVersion.TLSv1_3, None))
    except (ssl.SSLError, ConnectionError):
        return
    assert answer == b""


def test_another_authoritys_certificate_is_refused(opened: Running, tmp_path: Path) -> None:
    strange = Deployment(tmp_path).party(Role.CLIENT, "client-1", "Hospital 1")
    mixed = PartyFiles(
        strange.signer, strange.certificate, strange.tls_key, opened.deployment.client_files[0].authority
    )
    with opened.call(mixed) as caller, pytest.raises(TransportError, match="same authority"):
        caller.status()


def test_a_client_refuses_a_coordinator_of_another_authority(opened: Running, tmp_path: Path) -> None:
    strange = Deployment(tmp_path).party(Role.CLIENT, "client-1", "Hospital 1")
    with (
        opened.call(strange) as caller,
        pytest.raises(CertificateInvalid, match="certificate signature"),
    ):
        caller.status()


def test_a_client_refuses_a_coordinator_of_an_unknown_authority(opened: Running) -> None:
    files = opened.deployment.client_files[0]
    unknown = new_authority("another authority", opened.deployment.clock())[0].decode()
    with (
        opened.call(PartyFiles(files.signer, files.certificate, files.tls_key, unknown)) as caller,
        pytest.raises(CertificateInvalid, match=r"authority\.pem \(unable to get local issuer certificate\)"),
    ):
        caller.status()


def test_a_client_refuses_a_coordinator_of_another_name(opened: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    options = (*tls.CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", "elsewhere.example"))
    monkeypatch.setattr(tls, "CHANNEL_OPTIONS", options)
    with opened.client(0) as caller, pytest.raises(CertificateInvalid, match="is for another host name"):
        caller.status()


def test_a_coordinator_of_another_authority_is_not_waited_for(opened: Running, tmp_path: Path) -> None:
    def sleep(_seconds: float) -> None:
        raise AssertionError("it waits")

    strange = Deployment(tmp_path).party(Role.CLIENT, "client-1", "Hospital 1")
    with opened.call(strange) as caller, pytest.raises(CertificateInvalid):
        Patience(EventLog(), sleep=sleep).ask(caller.status)


def test_an_expired_certificate_is_refused_by_the_server_too(opened: Running, tmp_path: Path) -> None:
    authority = opened.deployment.authority
    files = issue_party(tmp_path / "short", authority, Role.CLIENT, "short", "Hospital 9")
    request, tls_key, signing_key = new_request(Role.CLIENT, "Hospital 9", "short")
    long_ago = files.identity.not_before - 40 * 86_400
    expect = (Role.CLIENT, "Hospital 9", "short")
    (tmp_path / "short" / CERTIFICATE).write_bytes(issue(request, *authority, long_ago, expect=expect, days=1))
    (tmp_path / "short" / TLS_KEY).write_bytes(tls_key)
    (tmp_path / "short" / "signing-key.pem").write_bytes(signing_key)
    with pytest.raises(CertificateInvalid, match="expired"):
        load_identity(tmp_path / "short")
    with pytest.raises(CertificateInvalid, match="authority's own"):
        load_identity(tmp_path / "short", now=long_ago)
    pem = (tmp_path / "short" / CERTIFICATE).read_bytes()
    expired = PartyFiles(files.signer, pem, tls_key, files.authority)
    with opened.call(expired) as caller, pytest.raises(TransportError, match="expired"):
        caller.status()


def test_a_message_over_the_limit_is_refused(opened: Running) -> None:
    request = pb.EnrolRequest(signed_enrolment_json=bytes(MAX_MESSAGE_BYTES + 1))
    with opened.client(0) as caller, pytest.raises(SecaggError, match="larger than"):
        caller.ask(caller.contribution.Enrol, request)


def test_a_session_larger_than_a_message_to_the_coordinator_reaches_every_party(tmp_path: Path) -> None:
    """As that of some thousand clients is, whose certificates are all in it."""
    plan = small_plan()
    plan = plan.model_copy(update={"adapter_config": {**plan.adapter_config, "note": "x" * (MAX_MESSAGE_BYTES + 1)}})
    deployment = Deployment(tmp_path, plan=plan)
    with deployment.running() as running:
        running.approve()
        with running.client(0) as client:
            assert client.session().check(approved=True).ctx == deployment.descriptor.ctx


def test_a_party_that_opens_streams_and_sends_nothing_keeps_nobody_else_out(opened: Running) -> None:
    """Calls over the limit are refused; the others' go through."""
    hold = threading.Event()

    def silence() -> Iterator[Any]:
        hold.wait(60)
        yield from ()

    with opened.call(opened.deployment.outsiders[Role.CLIENT]) as stranger, opened.client(0) as client:
        calls = [stranger.contribution.Upload.future(silence(), timeout=60) for _ in range(60)]
        end = time.monotonic() + 25  # then those inside are given up too
        while sum(call.done() for call in calls) < len(calls) - CALLS_AT_ONCE and time.monotonic() < end:
            time.sleep(0.02)
        time.sleep(0.3)  # and no more of them
        refused = [call for call in calls if call.done()]
        assert len(refused) == len(calls) - CALLS_AT_ONCE
        assert all(was_refused(call) for call in refused)
        assert client.status().state == pb.SESSION_STATE_OPEN
        hold.set()
        for call in calls:
            call.cancel()


def was_refused(call: Any) -> bool:
    """Whether the call ended with the error that is worth a retry: at the turnstile, or at its connection's limit."""
    said = from_rpc_error(call.exception())
    assert isinstance(said, TransportError)
    return "calls already" in str(said) or "RST_STREAM" in str(said)


def faults(running: Running) -> list[dict[str, Any]]:
    """What the operator was told of errors that nobody foresaw."""
    lines = (running.deployment.folder / "state" / "events.jsonl").read_text().splitlines()
    return [told for told in map(json.loads, lines) if told["event"] == "fault"]


@pytest.mark.parametrize("error", [KeyError("/srv/state: a secret"), OSError(errno.EMFILE, os.strerror(errno.EMFILE))])
def test_what_fails_unforeseen_in_a_call_is_told_to_the_operator_and_not_to_the_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """In an answer that is one message, and in the middle of one that is many (protocol.md §11.2)."""

    def fail(*_: object) -> Any:
        raise type(error)(*error.args)

    def fail_later(*_: object) -> Iterator[MemberEvidence]:
        yield MemberEvidence(deployment.uploads[0].signed, b"box", ())
        raise type(error)(*error.args)

    deployment = Deployment(tmp_path)
    with deployment.running() as running:
        running.approve()
        monkeypatch.setattr(running.session, "status", fail)
        monkeypatch.setattr(running.session, "evidence", fail_later)
        told = list[str]()
        with running.client(0) as client, running.holder(0) as holder:
            for _ in range(2):
                with pytest.raises(TransportError) as said:
                    client.status()
                told.append(str(said.value))
            with pytest.raises(TransportError) as said:
                list(holder.evidence(pb.SET_STAGE_CANDIDATE))
            told.append(str(said.value))
        assert set(told) == {FAULT}
        status, evidence = faults(running)
        assert (status["method"], evidence["method"]) == ("GetStatus", "GetEvidence")
        for fault, place in ((status, "in fail"), (evidence, "in fail_later")):
            assert fault["error"] in ("KeyError", "OSError: Too many open files")
            assert fault["at"].endswith(place)
            assert "secret" not in str(fault)


def test_a_caller_that_goes_away_in_the_middle_is_no_fault(opened: Running) -> None:
    cut_stream(opened, 0, 1000)
    with opened.client(1) as caller:
        assert caller.status().state == pb.SESSION_STATE_OPEN
    assert faults(opened) == []
