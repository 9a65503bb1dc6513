"""A whole session over real gRPC with mutual TLS: uploads, sets, shares, release (protocol.md §7 to §10)."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from secagg.accumulate import Accumulator
from secagg.boxes import open_box
from secagg.certificate import ADAPTER
from secagg.errors import NotReady
from secagg.messages import FinalSet, SetMember
from secagg.policy import Anchors
from secagg.verify import verify_release
from secagg_protos.v1 import secagg_pb2 as pb
from secagg_server import driver
from secagg_server.blobs import UploadFiles
from secagg_server.clock import ERASE_GRACE_SECONDS
from secagg_server.database import SessionState
from secagg_server.publish import accumulate
from secagg_server.steps import RETRY_AFTER
from tests.deployment import Deployment, Running
from tests.small import changes, small_plan


def anchors(deployment: Deployment) -> Anchors:
    names = set(Anchors.model_fields)
    return Anchors(**{name: value for name, value in deployment.policy if name in names})


def run_session(running: Running, *, uploads: int | None = None, holders: list[int] | None = None) -> None:
    running.approve()
    running.upload_all(uploads)
    running.advance()
    running.work(holders)


def test_a_session_ends_in_a_release_that_verifies(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, close_at=4)
    with deployment.running() as running:
        run_session(running)
        with running.client(0) as caller:
            assert caller.status().state == pb.SESSION_STATE_RELEASED
            release = caller.release()
        files = running.session.files
        report = verify_release(release, anchors(deployment), files.blocks)
    assert report.linked
    assert release == {path.name: path.read_bytes() for path in (tmp_path / "release").iterdir()}


def test_the_adapter_is_the_mean_within_the_quantisation_step(tmp_path: Path) -> None:
    from safetensors.numpy import load

    deployment = Deployment(tmp_path, close_at=4)
    with deployment.running() as running:
        run_session(running)
        with running.client(0) as caller:
            adapter = load(caller.release()[ADAPTER])
    mean = np.mean(list(changes(4, deployment.plan.length).values()), axis=0)
    step = 2 * 0.5 / (2**16 - 1)
    assert np.abs(adapter["a.lora_B.weight"] - mean).max() <= step


def test_t_of_m_key_holders_suffice_and_the_missing_one_is_named(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, close_at=4)
    with deployment.running() as running:
        running.approve()
        running.upload_all()
        running.work([0, 1])
        with running.client(0) as caller:
            status = caller.status()
            assert status.state == pb.SESSION_STATE_CLOSING
            assert "2 of 3" in status.reason
            assert "Notary 3/holder-3" in status.reason
        deployment.clock.now += 1
        running.advance()
        deployment.clock.now += 10
        running.advance()
        running.work([0, 1, 2])
        with running.client(0) as caller:
            assert caller.status().state == pb.SESSION_STATE_RELEASED
    log = [json.loads(line) for line in (tmp_path / "state" / "events.jsonl").read_text().splitlines()]
    waiting = [line for line in log if line["event"] == "waiting"]
    assert waiting
    assert waiting[0]["missing"] == ["Notary 3/holder-3", "Notary 4/holder-4"]


def test_a_vanished_client_changes_nothing(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, close_at=3)
    with deployment.running() as running:
        running.approve()
        with running.client(3) as caller:
            caller.enrol()
        running.upload_all(3)
        running.work()
        with running.client(3) as caller:
            report = verify_release(caller.release(), anchors(deployment))
    assert [one.title for one in report.certificate.excluded] == ["Hospital 4/client-4"]


def test_too_few_at_the_deadline_opens_nothing_and_expiry_deletes(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)
    with deployment.running() as running:
        running.approve()
        running.upload_all(2)
        deployment.clock.now = deployment.descriptor.upload_deadline + 1
        running.advance()
        with running.client(0) as caller, running.holder(0) as holder:
            status = caller.status()
            assert status.state == pb.SESSION_STATE_TOO_FEW
            assert "2 uploads" in status.reason
            assert "n_min = 3" in status.reason
            assert holder.get_work().WhichOneof("work") is None
            with pytest.raises(NotReady, match="too-few"):
                caller.release()
        assert running.session.store.candidate() is None
        assert len(list(running.session.files.folder.iterdir())) == 4, "kept until expiry"
        running.expire()
        assert list(running.session.files.folder.iterdir()) == []
        with running.client(0) as caller:
            again = caller.status()
            assert (again.state, again.reason) == (pb.SESSION_STATE_TOO_FEW, status.reason)


def test_a_burnt_sealed_session_stays_burnt_and_its_uploads_go(tmp_path: Path) -> None:
    """Also what a coordinator that was killed amid the erasing left (protocol.md §7.4)."""
    deployment = Deployment(tmp_path)
    with deployment.running() as running:
        running.approve()
        running.upload_all()
        note = running.session.note("coordinator", "burnt")
        running.session.store.move(SessionState.BURNT, "the sum does not open", note)
        running.expire()
        assert running.session.status() == (SessionState.BURNT, "the sum does not open")
        assert list(running.session.files.folder.iterdir()) == []
    with deployment.running() as running:
        (running.session.files.folder / "client.ct").write_bytes(b"an upload")
        running.expire()
        assert running.session.status() == (SessionState.BURNT, "the sum does not open")
        assert list(running.session.files.folder.iterdir()) == []


def test_expiry_while_closing_deletes_and_says_so(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, close_at=3)
    with deployment.running() as running:
        running.approve()
        running.upload_all()
        running.advance()
        running.expire()
        assert list(running.session.files.folder.iterdir()) == []
        with running.holder(0) as caller:
            assert caller.get_work(5).state == pb.SESSION_STATE_EXPIRED


def test_a_session_that_is_not_approved_in_time_ends(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)
    with deployment.running() as running:
        running.approve(2)
        with running.client(0) as caller, pytest.raises(NotReady, match="2 of 3"):
            caller.session()
        deployment.clock.now = deployment.descriptor.upload_deadline + 1
        running.advance()
        with running.client(0) as caller:
            assert caller.status().state == pb.SESSION_STATE_TOO_FEW


def test_boxes_are_deleted_at_release_and_uploads_at_expiry(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, close_at=4)
    with deployment.running() as running:
        run_session(running)
        running.advance()
        assert {path.suffix for path in running.session.files.folder.iterdir()} == {".ct"}
        running.expire()
        assert list(running.session.files.folder.iterdir()) == []
        with running.client(0) as caller:
            assert caller.status().state == pb.SESSION_STATE_RELEASED


def test_the_streamed_sum_is_the_plain_sum(tmp_path: Path) -> None:
    """Twin test: block by block from files against the whole in memory."""
    deployment = Deployment(tmp_path, close_at=4)
    with deployment.running() as running:
        run_session(running)
        settlement = running.session.store.settlement()
        assert settlement is not None
        streamed = accumulate(deployment.descriptor, settlement.final.statement, running.session.files)
    plain = Accumulator(deployment.descriptor.parameters)
    for upload in deployment.uploads:
        plain.add(upload.ciphertext)
    assert list(streamed.blocks()) == list(plain.blocks())


def test_the_memory_of_a_sum_does_not_grow_with_the_cohort(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path / "parties", plan=small_plan(200_000))
    descriptor, ciphertext = deployment.descriptor, deployment.uploads[0].ciphertext.tobytes()
    files, names = UploadFiles(tmp_path), [f"{index:064x}" for index in range(8)]
    for name in names:
        with files.writer(name) as writer:
            writer.append(ciphertext)

    def peak(members: list[str]) -> int:
        chosen = tuple(SetMember(client=name, upload_root=name) for name in members)
        nothing = "0" * 64
        final = FinalSet(
            ctx=nothing, release=1, candidate_digest=nothing, members=chosen, answers=(), degree_answers=()
        )
        accumulate(descriptor, final, files, threads=1)  # compiled and warm
        tracemalloc.start()
        accumulate(descriptor, final, files, threads=1)  # of several threads, not all hold a buffer at once
        largest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return largest

    assert peak(names) - peak(names[:2]) < 100_000 < len(ciphertext)


def test_evidence_shows_a_key_holder_its_own_boxes_only(tmp_path: Path) -> None:
    from secagg.boxes import BoxContext

    deployment = Deployment(tmp_path, close_at=4)
    with deployment.running() as running:
        running.approve()
        running.upload_all()
        running.advance()
        with running.holder(1) as caller:
            shown = list(caller.evidence(pb.SET_STAGE_CANDIDATE))
    descriptor, holder = deployment.descriptor, deployment.committee[1]
    assert len(shown) == 4
    key = holder.keys.get(descriptor.committee[1].offer.statement.digest)
    for item in shown:
        upload = item.upload.statement
        context = BoxContext(
            ctx=descriptor.ctx, client=upload.client, holder=holder.signer.identity.fingerprint, index=2,
            ciphertext_root=upload.ciphertext_root,
        )  # fmt: skip
        assert open_box(item.box, key, context, descriptor.parameters.share_bytes)


def test_a_damaged_upload_does_not_burn_the_session_and_can_be_put_back(tmp_path: Path) -> None:
    """One flipped byte on the coordinator's own disk (protocol.md §9.2)."""
    deployment = Deployment(tmp_path, close_at=4)
    with deployment.running() as running:
        running.approve()
        running.upload_all()
        client = deployment.client_files[1].identity
        path = running.session.files.path(client.fingerprint)
        good = path.read_bytes()
        path.write_bytes(good[:100] + bytes([good[100] ^ 1]) + good[101:])
        running.work()
        state, reason = running.session.status()
        assert state == SessionState.CLOSING
        assert f"{path}: is damaged: it is not what {client.title} signed" in reason
        path.write_bytes(good)
        deployment.clock.now += RETRY_AFTER
        running.work()
        assert running.session.status()[0] == SessionState.RELEASED


@pytest.mark.parametrize("byte", [0, 100])
def test_an_upload_that_is_damaged_after_the_release_was_fixed_is_named_and_can_be_put_back(
    tmp_path: Path, byte: int
) -> None:
    """Between the step that fixes the release and the one that writes it; no party is said to have lied (§9.2)."""

    def damage(name: str) -> None:
        if name == "release-fixed":
            kept.append(path.read_bytes())
            bent = bytearray(kept[0])
            bent[byte] ^= 0xFF if byte == 0 else 1
            path.write_bytes(bent)

    deployment, kept = Deployment(tmp_path, close_at=4), list[bytes]()
    with deployment.running(damage) as running:
        client = deployment.client_files[1].identity
        running.approve()
        running.upload_all()
        path = running.session.files.path(client.fingerprint)
        running.work()
        state, reason = running.session.status()
        assert state == SessionState.CLOSING
        assert f"{path}: is damaged: it is not what {client.title} signed" in reason
        path.write_bytes(kept[0])
        deployment.clock.now += RETRY_AFTER
        running.work()
        assert running.session.status()[0] == SessionState.RELEASED


@pytest.mark.parametrize("lost", ["an upload", "a byte of one"])
def test_a_release_that_the_disk_lost_what_it_is_made_of_keeps_no_session_from_expiring(
    tmp_path: Path, lost: str
) -> None:
    """Between the step that fixes the release and the one that writes it (protocol.md §7.4)."""

    def damage(name: str) -> None:
        if name == "release-fixed":
            path = running.session.files.path(deployment.client_files[1].identity.fingerprint)
            kept.append(path.read_bytes())
            if lost == "an upload":
                path.unlink()
            else:
                path.write_bytes(bytes([kept[0][0] ^ 1]) + kept[0][1:])

    deployment, kept = Deployment(tmp_path, close_at=4), list[bytes]()
    with deployment.running(damage) as running:
        running.approve()
        running.upload_all()
        running.work()
        assert len(kept) == 1
        assert running.session.status()[0] == SessionState.CLOSING
        assert running.session.problem
        running.expire()
        state, reason = running.session.status()
        assert state == SessionState.EXPIRED
        assert "its uploads are deleted (" in reason
        assert list(running.session.files.folder.iterdir()) == []
    assert not (tmp_path / "release").exists()


@pytest.mark.parametrize("step", ["release_files", "write_folder"])
def test_a_fixed_release_that_cannot_be_made_or_written_keeps_no_upload_after_expiry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """A fault of whatever kind (protocol.md §7.4)."""

    def fail(*_: object) -> None:
        raise KeyError("a template that is gone")

    monkeypatch.setattr(driver, step, fail)
    deployment = Deployment(tmp_path, close_at=4)
    with deployment.running() as running:
        run_session(running)
        assert running.session.store.release_inputs() is not None
        deployment.clock.now = deployment.descriptor.expires_at + 1
        running.advance()
        assert running.session.status()[0] == SessionState.CLOSING
        running.expire()
        state, reason = running.session.status()
        assert state == SessionState.EXPIRED
        assert "its uploads are deleted (KeyError" in reason
        assert list(running.session.files.folder.iterdir()) == []


def test_one_tick_of_a_wrong_clock_deletes_no_acknowledged_upload(tmp_path: Path) -> None:
    """Past the expiry, then right again; and it counts anew from there (protocol.md §7.4)."""
    deployment = Deployment(tmp_path)
    with deployment.running() as running:
        running.approve()
        running.upload_all(3)
        good, expires_at = deployment.clock.now, deployment.descriptor.expires_at
        for now in (expires_at + 1, expires_at + ERASE_GRACE_SECONDS, good, expires_at + ERASE_GRACE_SECONDS + 1, good):
            deployment.clock.now = now
            running.advance()
            assert running.session.status()[0] == SessionState.OPEN
        with running.client(3) as caller:
            caller.upload(deployment.uploads[3])
        assert len(list(running.session.files.folder.glob("*.ct"))) == 4
    with deployment.running() as running:  # nor does a process that has just begun
        deployment.clock.now = expires_at + ERASE_GRACE_SECONDS + 1
        running.advance()
        assert len(list(running.session.files.folder.glob("*.ct"))) == 4
        deployment.clock.now += ERASE_GRACE_SECONDS
        running.advance()
        assert list(running.session.files.folder.iterdir()) == []


def test_nothing_is_taken_while_the_clock_is_before_the_session(tmp_path: Path) -> None:
    """A receipt of then would be dated before the session, and prove nothing (protocol.md §7.2, §7.4)."""
    deployment = Deployment(tmp_path)
    with deployment.running() as running:
        running.approve()
        good = deployment.clock.now
        deployment.clock.now = deployment.descriptor.created_at - 1
        running.advance()
        assert "1 seconds before session" in running.session.problem
        with running.client(0) as caller:
            for step in (caller.enrol, lambda: caller.begin(deployment.uploads[0])):
                with pytest.raises(NotReady, match="set it right"):
                    step()
        deployment.clock.now = good + RETRY_AFTER
        running.advance()
        assert running.session.problem == ""
        with running.client(0) as caller:
            caller.enrol()
            assert caller.upload(deployment.uploads[0]).statement.received_at >= deployment.descriptor.created_at
