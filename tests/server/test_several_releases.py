"""Cohorts released one after another while clients still arrive, over real gRPC (protocol.md §8.7)."""

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import load, save

from secagg.certificate import CERTIFICATE, OPENING, REPORT, certificate_file, parse_certificate
from secagg.errors import ConflictError, MalformedError, NotReady, SessionClosed, TransportError
from secagg.messages import SignedEndorsement
from secagg.receipts import Fate, judge_receipt
from secagg.verify import NOT_JOINED, verify_release
from secagg_protos.v1 import secagg_pb2 as pb
from secagg_server.database import SessionState
from secagg_server.driver import Driver
from secagg_server.session import DEGREE_CHECK_SECONDS
from secagg_server.steps import RETRY_AFTER
from tests.deployment import Caller, Deployment, Running
from tests.driving import PATIENCE_SECONDS
from tests.server.test_kill import STEPS, Server, play_round
from tests.server.test_release import anchors
from tests.study import free_port


def upload(running: Running, *numbers: int) -> None:
    """These clients enrol and upload, in this order."""
    for number in numbers:
        with running.client(number) as caller:
            caller.enrol()
            caller.upload(running.deployment.uploads[number])


def state_of(running: Running) -> tuple[SessionState, str]:
    return running.session.status()


def test_cohorts_are_released_as_they_fill_and_the_last_with_what_remains(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, clients=8, releases=2)
    with deployment.running() as running:
        running.approve()
        upload(running, 5, 1)
        running.advance()
        state, reason = state_of(running)
        assert (state, reason) == (
            SessionState.OPEN,
            "release 1 of at most 2 takes uploads: 2 have come, 3 are waited for",
        )
        upload(running, 3)
        running.advance()
        assert state_of(running)[0] == SessionState.CLOSING
        upload(running, 0)  # the first release is being closed; this is for the second
        running.work()
        assert state_of(running)[0] == SessionState.OPEN
        with running.client(1) as caller:
            status = caller.status()
            assert (status.releases, status.own_release) == (1, 1)
            first = caller.release(1)
        with running.client(0) as caller:
            assert (caller.status().releases, caller.status().own_release) == (1, 0)
            with pytest.raises(NotReady, match="has no release 2"):
                caller.release(2)
            with pytest.raises(MalformedError, match="at most 2 releases"):
                caller.release(3)
        upload(running, 2, 7)
        running.advance()
        assert state_of(running)[0] == SessionState.OPEN, "the last release waits for the deadline, or for everybody"
        upload(running, 4, 6)
        running.work()
        assert state_of(running)[0] == SessionState.RELEASED
        with running.call(deployment.auditor_files) as caller:
            last = caller.release()
            assert caller.release(1) == first
            assert caller.release(2) == last
        certificate = parse_certificate(last[CERTIFICATE]).statement
        names = [deployment.descriptor.client(arrival.client).name for arrival in certificate.progress.arrivals]  # type: ignore[union-attr]
        assert names == ["client-1", "client-3", "client-8", "client-5", "client-7"]
        trust = anchors(deployment)
        report = verify_release(last, trust, running.session.files.blocks, earlier=[first])
        assert report.linked
        assert NOT_JOINED not in report.checks
        page = last[REPORT].decode()
        assert "Release 2 of at most 2" in page
        assert "mean over all 8 institutions" in page.replace("\n", " ")
    written = {path.name for path in (tmp_path / "release").iterdir()}
    assert written == {"release-1", "release-2"}


def test_at_the_deadline_too_few_are_left_over_and_the_session_ends_with_what_was_released(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, clients=6, releases=2)
    with deployment.running() as running:
        running.approve()
        upload(running, 0, 1, 2)
        running.work()
        upload(running, 3, 4)
        deployment.clock.now = deployment.descriptor.upload_deadline + 1
        running.work()
        state, reason = state_of(running)
        assert state == SessionState.RELEASED
        assert reason == (
            "1 of at most 2 releases were made; left over, in none of them: Hospital 4/client-4, Hospital 5/client-5"
        )
        with running.client(3) as caller:
            status = caller.status()
            assert (status.releases, status.own_release) == (1, 0)
            assert status.signed_receipt_json, "the receipt proves that the upload came"
        with (
            running.client(5) as caller,
            pytest.raises(SessionClosed, match="no more uploads: 1 of at most 2 releases"),
        ):
            caller.enrol()
    events = [json.loads(line) for line in (tmp_path / "state" / "events.jsonl").read_text().splitlines()]
    assert [e["clients"] for e in events if e["event"] == "left-over"] == [
        ["Hospital 4/client-4", "Hospital 5/client-5"]
    ]


def test_too_few_for_a_first_release_open_nothing(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, clients=6, releases=2)
    with deployment.running() as running:
        running.approve()
        upload(running, 0, 1)
        deployment.clock.now = deployment.descriptor.upload_deadline + 1
        running.work()
        assert state_of(running)[0] == SessionState.TOO_FEW


def test_a_session_that_expires_keeps_its_releases_and_deletes_all_uploads(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, clients=6, releases=2)
    with deployment.running() as running:
        running.approve()
        upload(running, 0, 1, 2)
        running.work()
        upload(running, 3, 4, 5)
        running.advance()  # the second is being closed, and no key-holder comes
        running.expire()
        assert state_of(running)[0] == SessionState.RELEASED
        with running.client(0) as caller:
            assert verify_release(caller.release(1), anchors(deployment))
        assert not list(running.session.files.folder.iterdir())


def test_boxes_of_a_released_cohort_are_erased_and_the_others_stay(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, clients=6, releases=2)
    with deployment.running() as running:
        running.approve()
        upload(running, 0, 1, 2)
        running.advance()
        upload(running, 3)
        running.work()
        left = [path.stem for path in running.session.files.folder.glob("*.boxes")]
        assert left == [deployment.client_files[3].identity.fingerprint]


def test_an_answer_for_a_release_that_was_written_without_it_is_taken_and_not_needed(tmp_path: Path) -> None:
    """Three of four key-holders were enough; the fourth comes with its endorsement when the next release closes."""
    deployment = Deployment(tmp_path, clients=6, releases=2)
    with deployment.running() as running:
        running.approve()
        upload(running, 0, 1, 2)
        running.work([0, 1])
        with running.holder(3) as slow:
            holder = deployment.committee[3]
            signed = list[SignedEndorsement]()
            slow.endorse = signed.append  # type: ignore[method-assign, assignment]
            assert slow.work_once(holder, deployment.clock())
        running.work([0, 1, 2])
        deployment.clock.now += DEGREE_CHECK_SECONDS
        running.work([0, 1, 2])
        upload(running, 3, 4, 5)
        running.advance()
        with running.holder(3) as slow:
            slow.endorse(signed[0])
            other = signed[0].statement.model_copy(update={"release": 2})
            with pytest.raises(ConflictError, match="for another candidate set"):
                slow.endorse(holder.signer.sign(other))
        running.work()
        assert state_of(running)[0] == SessionState.RELEASED


def test_evidence_of_a_release_that_is_over_is_not_shown(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, clients=6, releases=2)
    with deployment.running() as running:
        running.approve()
        upload(running, 0, 1, 2)
        running.work()
        upload(running, 3, 4, 5)
        running.advance()
        request = pb.GetEvidenceRequest(stage=pb.SET_STAGE_CANDIDATE, release=1)
        with running.holder(0) as caller, pytest.raises(SessionClosed, match="release 1 of session"):
            caller.stream(caller.committee.GetEvidence, request)


def test_restarted_between_releases_the_server_goes_on(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, clients=7, releases=2)
    with deployment.running() as running:
        running.approve()
        upload(running, 6, 0, 1)
        running.work()
        upload(running, 5)
    with deployment.running() as running:
        assert state_of(running)[0] == SessionState.OPEN
        upload(running, 2, 3, 4)
        running.work()
        with running.client(2) as caller:
            first, last = caller.release(1), caller.release(2)
        certificate = parse_certificate(last[CERTIFICATE]).statement
        assert certificate.progress is not None
        names = [deployment.descriptor.client(arrival.client).name for arrival in certificate.progress.arrivals]
        assert names == ["client-6", "client-3", "client-4", "client-5"], "the order is kept on the disk"
        assert verify_release(last, anchors(deployment), running.session.files.blocks, earlier=[first]).linked


def cut(raw: bytes) -> bytes:
    return raw[: len(raw) // 2]


def more_in_the_running_sums(raw: bytes) -> bytes:
    tensors = load(raw)
    tensors["running_sums"][0] += 1
    return save(tensors)


@pytest.mark.parametrize(("name", "damage"), [(OPENING, cut), (OPENING, more_in_the_running_sums), (CERTIFICATE, cut)])
def test_a_damaged_folder_of_the_release_before_is_found_and_can_be_put_back(
    tmp_path: Path, name: str, damage: Callable[[bytes], bytes]
) -> None:
    """The running sums of the next release come from there (protocol.md §9.4a)."""
    deployment = Deployment(tmp_path, clients=6, releases=2)
    with deployment.running() as running:
        running.approve()
        upload(running, 0, 1, 2)
        running.work()
        path = tmp_path / "release" / "release-1" / name
        good = path.read_bytes()
        path.write_bytes(damage(good))
        upload(running, 3, 4, 5)
        running.work()
        state, reason = state_of(running)
        assert state == SessionState.CLOSING
        assert str(path) in reason
        assert "ut it back" in reason
        assert running.session.store.release_inputs() is None, "nothing is fixed of what was damaged"
        path.write_bytes(good)
        deployment.clock.now += RETRY_AFTER
        running.work()
        assert state_of(running)[0] == SessionState.RELEASED
        with running.call(deployment.auditor_files) as caller:
            first, last = caller.release(1), caller.release(2)
        assert verify_release(last, anchors(deployment), running.session.files.blocks, earlier=[first]).linked


def test_a_damaged_release_before_that_nobody_puts_back_keeps_no_upload_after_expiry(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, clients=6, releases=2)
    with deployment.running() as running:
        running.approve()
        upload(running, 0, 1, 2)
        running.work()
        path = tmp_path / "release" / "release-1" / OPENING
        path.write_bytes(cut(path.read_bytes()))
        upload(running, 3, 4, 5)
        running.work()
        assert state_of(running)[0] == SessionState.CLOSING
        running.expire()
        assert state_of(running)[0] == SessionState.RELEASED
        assert not list(running.session.files.folder.iterdir())


def test_another_release_in_the_place_of_the_one_before_is_found(tmp_path: Path) -> None:
    """Signed by the same coordinator, and with the hash of what lies beside it; but not the release that was made."""
    deployment = Deployment(tmp_path, clients=6, releases=2)
    with deployment.running() as running:
        running.approve()
        upload(running, 0, 1, 2)
        running.work()
        path, signer = tmp_path / "release" / "release-1" / CERTIFICATE, deployment.coordinator_files.signer
        certificate = parse_certificate(path.read_bytes()).statement
        final = certificate.final.statement.model_copy(update={"candidate_digest": "44" * 32})
        other = signer.sign(certificate.model_copy(update={"final": signer.sign(final)}))
        path.write_bytes(certificate_file(other))
        upload(running, 3, 4, 5)
        running.work()
        state, reason = state_of(running)
        assert state == SessionState.CLOSING
        assert f"{path}: is not that of release 1" in reason


def test_dates_are_in_order_though_the_clock_is_set_back(tmp_path: Path) -> None:
    """Else the client whose upload came next could prove that it was dropped from the first release (§8.1a)."""
    deployment = Deployment(tmp_path, clients=6, releases=2)
    with deployment.running() as running:
        running.approve()
        deployment.clock.now += 100
        upload(running, 0, 1, 2)
        deployment.clock.now -= 50  # corrected before the set is fixed, and again after
        running.work()
        deployment.clock.now -= 30
        upload(running, 3, 4, 5)
        running.work()
        assert state_of(running)[0] == SessionState.RELEASED
        with running.call(deployment.auditor_files) as caller:
            first, last = caller.release(1), caller.release(2)
        verify_release(last, anchors(deployment), earlier=[first])
        certificate = parse_certificate(first[CERTIFICATE]).statement
        fates = list[Fate]()
        for files in deployment.client_files:
            receipt = running.session.receipt(files.identity.fingerprint)
            assert receipt is not None
            fates.append(judge_receipt(certificate, receipt).fate)
        assert fates == [Fate.INCLUDED] * 3 + [Fate.ELSEWHERE] * 3


def test_a_receipt_that_is_younger_than_the_step_that_fixes_the_set_is_not_after_it(tmp_path: Path) -> None:
    """The clock was read, then an upload became complete, then the set was fixed over it (§8.1a)."""
    deployment = Deployment(tmp_path, clients=6, releases=2)
    with deployment.running() as running:
        running.approve()
        before = deployment.clock.now
        deployment.clock.now += 2
        upload(running, 0, 1, 2)
        assert Driver(running.session)._step(before)
        running.work()
        with running.call(deployment.auditor_files) as caller:
            certificate = verify_release(caller.release(1), anchors(deployment)).certificate
        assert certificate.progress is not None
        came = {arrival.received_at for arrival in certificate.progress.arrivals}
        assert (came, certificate.candidate.statement.fixed_at) == ({before + 2}, before + 2)


def test_killed_at_every_step_of_either_release_they_are_the_same(tmp_path: Path) -> None:
    """SIGKILL at steps of the first close and at each of the second; what was written stays, byte for byte."""
    deployment = Deployment(tmp_path, clients=6, releases=2)
    sealed, everybody, port = deployment.uploads, deployment.client_files, free_port()
    config, address = deployment.write_config(f"127.0.0.1:{port}"), f"127.0.0.1:{port}"

    def folder(number: int) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (tmp_path / "release" / f"release-{number}").iterdir()}

    def play(step: str | None, clients: int, made: int) -> int:
        """With so many of the clients, until the server dies or so many releases are made; its exit code."""
        server, deadline = Server(config, step), time.monotonic() + PATIENCE_SECONDS
        deployment.__dict__.update(client_files=everybody[:clients], uploads=sealed[:clients])
        while server.alive and time.monotonic() < deadline:
            try:
                play_round(deployment, address, {})
                with Caller(address, everybody[0]) as caller:
                    if caller.status().releases >= made:
                        break
            except TransportError:
                server.ending()
        return server.stop()

    for step in ("candidate-fixed", "release-fixed", "release-written"):
        assert play(step, 3, 3) == -signal.SIGKILL, f"the server did not come to step {step} of release 1"
    first = folder(1)
    assert play(None, 3, 1) == 0
    last: dict[str, bytes] = {}
    for step in STEPS[2:]:
        assert play(step, 6, 3) == -signal.SIGKILL, f"the server did not come to step {step} of release 2"
        if step == "release-written":
            last = folder(2)
    assert play(None, 6, 2) == 0
    deployment.__dict__["client_files"] = everybody
    assert folder(1) == first, "the first release stays as it is"
    assert folder(2) == last, "the second one, built again, is the same"
    report = verify_release(last, anchors(deployment), earlier=[first])
    assert len(report.certificate.members) == 3
