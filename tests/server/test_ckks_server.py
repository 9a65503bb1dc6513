"""A ckks session between processes' worth of parties, over mutual TLS (protocol.md §13)."""

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load

from secagg.certificate import ADAPTER, CERTIFICATE, FILES, MODEL_CARD, OPENING, Evaluation, Metric
from secagg.ckks.certificate import TRUST_NOTE, SignedCkksRelease
from secagg.ckks.client import CkksSealed, seal_ckks
from secagg.ckks.keyholder import CkksKeyHolder
from secagg.ckks.parameters import RINGS
from secagg.ckks.policy import CkksAnchors
from secagg.ckks.verify import NOT_PROVED, verify_ckks
from secagg.errors import (
    ConflictError,
    HashMismatch,
    NotReady,
    PolicyViolation,
    ProtocolViolation,
    RoleViolation,
    SecaggError,
    SessionClosed,
    SignatureInvalid,
    StorageError,
    TransportError,
    UploadDropped,
    VerificationError,
)
from secagg.identity import Role
from secagg.messages import SignedReceipt
from secagg.privacy import stated
from secagg.release import sign_files
from secagg_app.main import cli
from secagg_attacks.aggregation.certified import Certified
from secagg_attacks.releases import ReleasedRound
from secagg_client.ckks_calls import CkksCalls
from secagg_host.tls import channel
from secagg_server.blobs import UploadFiles
from secagg_server.ckks_session import CkksSession
from secagg_server.database import SessionState
from tests.ckks_deployment import CkksDeployment, Participant, run_together
from tests.deployment import HOUR
from tests.masked_deployment import Gone
from tests.small import small_plan
from tests.study import toml


def framed(sealed: CkksSealed) -> bytes:
    """An upload as it travels."""
    return b"".join(sealed.blocks)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> CkksDeployment:
    """A session of four clients of whom the last vanishes after it has enrolled, released."""
    deployment = CkksDeployment(tmp_path_factory.mktemp("hub"))
    participants = [Participant(deployment, i, "enrolled" if i == 3 else "") for i in range(4)]
    with deployment.serving() as (coordinator, address):
        run_together(deployment, participants, address)
        assert next(iter(coordinator.ckks.values())).status() == (SessionState.RELEASED, "")
    assert [type(one.error) for one in participants] == [type(None)] * 3 + [Gone]
    policy = deployment.policy.model_dump(mode="json")
    (deployment.folder / "policy.toml").write_text(toml(policy))
    anchors = {name: value for name, value in policy.items() if name in CkksAnchors.model_fields}
    (deployment.folder / "anchors.toml").write_text(toml(anchors))
    return deployment


@pytest.fixture
def content(made: CkksDeployment) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (made.folder / "release").iterdir()}


def test_a_session_with_a_client_that_vanishes(made: CkksDeployment, content: dict[str, bytes]) -> None:
    files = UploadFiles(made.folder / "state" / "uploads" / made.descriptor.ctx)
    report = verify_ckks(content, made.policy, files.blocks)
    assert report.linked
    assert NOT_PROVED in report.checks
    mean = np.mean(made.changes[:3], axis=0)
    assert np.abs(load(content[ADAPTER])["a.lora_B.weight"] - mean).max() < 0.5 / 2**14
    assert [one.reason for one in report.certificate.excluded] == ["no upload before the set was fixed"]
    for index in range(3):
        one = Participant(made, index)
        assert {p.name: p.read_bytes() for p in (one.folder / "release").iterdir()} == content
        assert one.notes == ["prepared", "charged", "trained", "sealed", "measured"]
        assert not list(one.folder.glob("state/ckks/sessions/*/trained.enc"))
    assert not list((made.folder / "holder" / "keys").glob("*.key")), "the key is erased after the release"


def test_nothing_of_a_single_upload_is_published(made: CkksDeployment, content: dict[str, bytes]) -> None:
    everything = b"".join(content.values())
    for index in range(3):
        (path,) = Participant(made, index).folder.glob("state/ckks/sessions/*/upload/ciphertext.bin")
        assert path.read_bytes()[100:200] not in everything


def test_the_commands(made: CkksDeployment, tmp_path: Path) -> None:
    def run(*arguments: str | Path) -> str:
        done = CliRunner().invoke(cli, [str(one) for one in arguments])
        assert done.exit_code == 0, done.output
        return done.output

    release, uploads = made.folder / "release", made.folder / "state" / "uploads"
    said = run("verify", release, "--trust", made.folder / "anchors.toml", "--uploads", uploads)
    assert f"note {NOT_PROVED}" in said
    assert "3 members, 130 bits" in said
    assert "it states that it opened the sum" in (release / "report.html").read_text()
    assert "No single contribution was opened" not in (release / "README.md").read_text()
    shown = run("session", "show", made.folder / "session.json")
    assert "they must not work together" in shown
    evaluation = Evaluation(
        data_sha256="ab" * 32, data_is_public=True, description="Made-up sentences.",
        metrics=(Metric(name="released adapter", value=0.8),),
    )  # fmt: skip
    import shutil

    shutil.copytree(release, tmp_path / "release")
    (tmp_path / "evaluation.json").write_text(evaluation.model_dump_json())
    server = made.folder / "parties" / "server"
    run("release", "annotate", tmp_path / "release", "--evaluation", tmp_path / "evaluation.json", "--identity", server)
    assert "the coordinator's word" in run("verify", tmp_path / "release", "--trust", made.folder / "policy.toml")
    assert ReleasedRound.read(release).senders == 3
    assert len(Certified.read(release).clients) == 4


def test_the_weaker_trust_is_stated_in_certificate_report_and_verification(
    made: CkksDeployment, content: dict[str, bytes]
) -> None:
    certificate = verify_ckks(content, made.policy).certificate
    assert certificate.keyholder_note == TRUST_NOTE
    assert "Coordinator and key-holder together could have opened single updates" in TRUST_NOTE
    assert "they must not work together" in TRUST_NOTE
    assert "One key-holder holds the whole key" in certificate.security_note
    assert f"{certificate.security_bits} bits of core-SVP" in certificate.security_note
    assert "with the special prime" in certificate.security_note
    report = " ".join(content["report.html"].decode().split())
    assert "it and the coordinator must not work together" in report
    assert "A key-holder and a coordinator that work together" in report
    assert TRUST_NOTE in certificate.trust_note


def test_anchors_of_another_protocol_are_refused(made: CkksDeployment) -> None:
    other = made.folder / "other.toml"
    text = (made.folder / "anchors.toml").read_text().replace('"ckks"', '"masked"')
    other.write_text("\n".join(line for line in text.splitlines() if not line.startswith("keyholder")) + "\n")
    done = CliRunner().invoke(cli, ["verify", str(made.folder / "release"), "--trust", str(other)])
    assert done.exit_code == 1
    assert "this is a ckks release, and the anchors are for masked ones" in done.output


@pytest.mark.parametrize(
    ("lie", "kind"),
    [
        ("sums", HashMismatch),
        ("adapter", VerificationError),
        ("note", VerificationError),
        ("set", ProtocolViolation),
        ("card", VerificationError),
    ],
)
def test_a_lying_coordinator_is_found_out(
    made: CkksDeployment, content: dict[str, bytes], lie: str, kind: type[SecaggError]
) -> None:
    from safetensors.numpy import save

    certificate = SignedCkksRelease.parse(content[CERTIFICATE]).statement
    contents = {name: content[name] for name in FILES}
    match lie:
        case "sums":
            contents[OPENING] = save({"sums": load(content[OPENING])["sums"] + np.uint32(1)})
        case "adapter":
            tensors = {name: value + np.float32(1) for name, value in load(content[ADAPTER]).items()}
            contents[ADAPTER] = save(tensors, metadata={"format": "pt"})
        case "card":
            contents[MODEL_CARD] = contents[MODEL_CARD].replace(b"must not work together", b"may well work together")
            assert contents[MODEL_CARD] != content[MODEL_CARD]
        case "note":
            certificate = certificate.model_copy(update={"keyholder_note": "all is well"})
        case "set":
            certificate = certificate.model_copy(update={"uploads": certificate.uploads[1:]})
    with pytest.raises(kind):
        verify_ckks(sign_files(certificate, made.coordinator_files.signer, contents), made.policy)


def test_roles_and_turns(tmp_path: Path) -> None:
    deployment = CkksDeployment(tmp_path)
    ctx = deployment.descriptor.ctx
    with deployment.serving() as (_, address):
        for role in (Role.CLIENT, Role.KEYHOLDER):
            with channel(address, deployment.outsiders[role]) as line, pytest.raises(RoleViolation):
                CkksCalls(line).session(None)
        with channel(address, deployment.client_files[0]) as line:
            calls = CkksCalls(line)
            with pytest.raises(NotReady):
                calls.approval(ctx)
            with pytest.raises(RoleViolation):
                calls.chosen(ctx)
            with pytest.raises(RoleViolation):
                calls.shown(ctx, deployment.client_files[1].identity.fingerprint, 10, list)
        with channel(address, deployment.holder_files[0]) as line:
            calls, holder = CkksCalls(line), deployment.holder()
            approval = holder.approve(deployment.signed, deployment.clock())
            forged = deployment.coordinator_files.signer.sign(approval.statement)
            with pytest.raises(SignatureInvalid):
                calls.approve(forged)
            calls.approve(approval)
            calls.approve(approval)
            with pytest.raises(NotReady):
                calls.chosen(ctx)
            with pytest.raises(RoleViolation):
                calls.approval(ctx)


def unreadable(*_: object) -> None:
    raise StorageError("input/output error")


def test_an_upload_that_is_cut_altered_or_made_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deployment = CkksDeployment(tmp_path)
    files = deployment.client_files[0]
    privacy = stated(deployment.plan.training, "test")
    sealed, other = (
        seal_ckks(deployment.descriptor, files.signer, deployment.changes[0], privacy, os.urandom) for _ in range(2)
    )
    raw = framed(sealed)
    with deployment.serving() as (_, address), channel(address, files) as line:
        calls = CkksCalls(line)
        with pytest.raises(NotReady):
            calls.begin_upload(sealed.signed)
        with channel(address, deployment.holder_files[0]) as theirs:
            CkksCalls(theirs).approve(deployment.holder().approve(deployment.signed, deployment.clock()))
        assert calls.begin_upload(sealed.signed) == 0
        with pytest.raises(ConflictError):
            calls.begin_upload(other.signed)
        with pytest.raises(SecaggError, match="resume from there"):
            calls.upload(sealed.signed, 0, [raw[:5000]])
        assert calls.begin_upload(sealed.signed) == 5000
        with pytest.raises(NotReady, match="5000 are stored: ask again where to resume"):
            calls.upload(sealed.signed, 0, [raw])
        bent = raw[5000:-1] + bytes([raw[-1] ^ 1])
        with pytest.raises(SecaggError):
            calls.upload(sealed.signed, 5000, [bent])
        assert calls.begin_upload(sealed.signed) == 0, "what was not as signed is discarded"
        with monkeypatch.context() as patch:
            patch.setattr(CkksSession, "_check_content", unreadable)
            with pytest.raises(TransportError):
                calls.upload(sealed.signed, 0, [raw])
        assert calls.begin_upload(sealed.signed) == len(raw), "a disk that fails says nothing of what was sent"
        receipt = calls.upload(sealed.signed, len(raw), [])
        assert receipt.statement.upload_root == sealed.signed.statement.digest
        assert calls.begin_upload(sealed.signed) == receipt
        assert calls.upload(sealed.signed, 0, [raw]) == receipt
        with pytest.raises(ConflictError):
            calls.begin_upload(other.signed)


def test_a_client_that_is_stopped_anywhere_neither_trains_nor_seals_twice(tmp_path: Path) -> None:
    deployment = CkksDeployment(tmp_path)
    steps = ("accepted", "enrolled", "charged", "trained", "spooled", "marked", "cleared", "receipt")
    with deployment.serving() as (_, address):
        with channel(address, deployment.holder_files[0]) as line:
            CkksCalls(line).approve(deployment.holder().approve(deployment.signed, deployment.clock()))
        for step in steps:
            one = Participant(deployment, 0, step)
            one.take_part(address)
            assert isinstance(one.error, Gone), step
        run_together(deployment, [Participant(deployment, i) for i in range(4)], address)
    notes = Participant(deployment, 0).notes
    assert notes.count("trained") == 1
    assert notes.count("sealed") == 1


def test_a_coordinator_that_is_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    """A restart between any two parties' steps: nothing that was acknowledged is lost."""
    deployment = CkksDeployment(tmp_path)
    holder = deployment.holder()
    with deployment.serving() as (_, address), channel(address, deployment.holder_files[0]) as line:
        CkksCalls(line).approve(holder.approve(deployment.signed, deployment.clock()))
    receipts = dict[int, SignedReceipt]()
    for index in range(3):
        files = deployment.client_files[index]
        privacy = stated(deployment.plan.training, "test")
        sealed = seal_ckks(deployment.descriptor, files.signer, deployment.changes[index], privacy, os.urandom)
        with deployment.serving() as (_, address), channel(address, files) as line:
            calls = CkksCalls(line)
            assert calls.begin_upload(sealed.signed) == 0
            receipts[index] = calls.upload(sealed.signed, 0, [framed(sealed)])
        with deployment.serving() as (_, address), channel(address, files) as line:
            assert CkksCalls(line).begin_upload(sealed.signed) == receipts[index]
    with deployment.serving() as (coordinator, address):
        deployment.serve_key(address)
        assert next(iter(coordinator.ckks.values())).status()[0] == SessionState.RELEASED
    with deployment.serving() as (_, address), channel(address, deployment.client_files[3]) as line:
        assert CkksCalls(line).status(deployment.descriptor.ctx).state == "released"
    content = {path.name: path.read_bytes() for path in (tmp_path / "release").iterdir()}
    assert len(verify_ckks(content, deployment.policy).certificate.members) == 3


def test_too_few_uploads_or_no_approval_and_nothing_is_opened(tmp_path: Path) -> None:
    deployment = CkksDeployment(tmp_path, close_at=None)
    with deployment.serving() as (coordinator, address):
        session = next(iter(coordinator.ckks.values()))
        with channel(address, deployment.holder_files[0]) as line:
            CkksCalls(line).approve(deployment.holder().approve(deployment.signed, deployment.clock()))
        deployment.clock.now += HOUR + 1
        end = time.monotonic() + 60
        while session.running and time.monotonic() < end:
            time.sleep(0.02)
        assert session.status()[0] == SessionState.TOO_FEW
        with pytest.raises(SessionClosed), channel(address, deployment.holder_files[0]) as line:
            CkksCalls(line).chosen(deployment.descriptor.ctx)


def test_a_key_holder_refuses_what_its_policy_does_not_allow(tmp_path: Path) -> None:
    deployment = CkksDeployment(tmp_path)
    strict = deployment.policy.model_copy(update={"max_epsilon": 0.5})
    holder = deployment.holder()
    with pytest.raises(PolicyViolation, match="epsilon"):
        CkksKeyHolder(holder.signer, strict, holder.authority, holder.journal, holder.keys).approve(
            deployment.signed, deployment.clock()
        )


def test_a_session_in_the_larger_ring(tmp_path: Path) -> None:
    """Several ciphertexts of the larger ring; its public key is in the descriptor and the certificate."""
    deployment = CkksDeployment(tmp_path, clients=3, plan=small_plan(100_000))
    assert deployment.descriptor.parameters.ring == RINGS["n8192q175"]
    assert deployment.descriptor.parameters.blocks == 2
    participants = [Participant(deployment, index) for index in range(3)]
    with deployment.serving() as (_, address):
        run_together(deployment, participants, address)
    assert [one.error for one in participants] == [None] * 3
    content = {path.name: path.read_bytes() for path in (tmp_path / "release").iterdir()}
    files = UploadFiles(tmp_path / "state" / "uploads" / deployment.descriptor.ctx)
    certificate = verify_ckks(content, deployment.policy, files.blocks).certificate
    assert certificate.security_bits == 129
    assert "N = 8192, log2 q = 175" in certificate.security_note
    mean = np.mean(deployment.changes, axis=0)
    assert np.abs(load(content[ADAPTER])["a.lora_B.weight"] - mean).max() < 0.5 / 2**14


def test_a_dropped_ckks_upload_ends_the_run_with_both_papers_named(tmp_path: Path) -> None:
    """A coordinator that signs for client 0's upload and forgets it (protocol.md §10.4)."""
    deployment, received = CkksDeployment(tmp_path), threading.Event()
    victim, sessions = deployment.client_files[0].identity.fingerprint, list[CkksSession]()

    def forget(step: str) -> None:
        if step == "receipt-stored":
            sessions[0].store.forget("upload", victim)

    class First(Participant):
        def checkpoint(self, name: str) -> None:
            if name == "receipt":
                received.set()

    class Later(Participant):
        def checkpoint(self, name: str) -> None:
            if name == "spooled":
                assert received.wait(60)

    participants = [First(deployment, 0), *(Later(deployment, i) for i in range(1, 4))]
    with deployment.serving(forget) as (coordinator, address):
        sessions.extend(coordinator.ckks.values())
        run_together(deployment, participants, address)
        assert [type(one.error) for one in participants] == [UploadDropped, *[type(None)] * 3]
        participants[0].take_part(address)  # and again, whenever it is started
    assert isinstance(participants[0].error, UploadDropped)
    assert "receipt.json, the certificate is in" in str(participants[0].error)
    released = {path.name: path.read_bytes() for path in (deployment.folder / "release").iterdir()}
    assert {path.name: path.read_bytes() for path in (participants[0].folder / "release").iterdir()} == released


def test_another_ckks_upload_in_a_client_s_name_is_a_dropped_one_and_the_proof_is_kept(tmp_path: Path) -> None:
    """The coordinator signs for another upload of client 0 than the one that it hands to the key-holder (§10.4)."""
    deployment = CkksDeployment(tmp_path)

    class Misled(Participant):
        def checkpoint(self, name: str) -> None:
            if name == "receipt":
                (kept,) = self.folder.glob("**/receipt.json")
                true = SignedReceipt.parse(kept.read_bytes()).statement
                other = true.model_copy(update={"upload_root": "ab" * 32})
                kept.write_bytes(deployment.coordinator_files.signer.sign(other).to_bytes())

    participants = [Misled(deployment, 0), *(Participant(deployment, i) for i in range(1, 4))]
    with deployment.serving() as (_, address):
        run_together(deployment, participants, address)
    assert [type(one.error) for one in participants] == [UploadDropped, *[type(None)] * 3]
    assert "the certificate lists another upload in this client's name" in str(participants[0].error)
    released = {path.name: path.read_bytes() for path in (deployment.folder / "release").iterdir()}
    assert {path.name: path.read_bytes() for path in (participants[0].folder / "release").iterdir()} == released
