"""A ckks session between processes' worth of parties, over mutual TLS (protocol.md §13)."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from safetensors.numpy import load

from secagg.certificate import ADAPTER, CERTIFICATE, FILES, OPENING, Evaluation, Metric
from secagg.ckks.certificate import SignedCkksRelease
from secagg.ckks.client import frame, seal_ckks
from secagg.ckks.descriptor import CkksDescriptor, CkksSpec, SignedCkksDescriptor, create_ckks_session
from secagg.ckks.keyholder import CkksKeyHolder
from secagg.ckks.policy import CkksAnchors, CkksPolicy
from secagg.ckks.run import policy_for_ckks
from secagg.ckks.verify import NOT_PROVED, verify_ckks
from secagg.descriptor import RosterMember
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
    VerificationError,
)
from secagg.identity import Role
from secagg.messages import SignedReceipt
from secagg.plan import Plan
from secagg.privacy import stated
from secagg.release import sign_files
from secagg.run import Parties
from secagg_app.main import cli
from secagg_attacks.aggregation.certified import Certified
from secagg_attacks.releases import ReleasedRound
from secagg_client.calls import PublicationCalls
from secagg_client.ckks_calls import CkksCalls
from secagg_client.ckks_keyholder import CkksHolderRun, FileContexts
from secagg_client.ckks_run import CkksClientRun
from secagg_client.client_state import CkksShelf
from secagg_client.patience import Patience
from secagg_host.durable import DurableJournal, write_atomic
from secagg_host.events import EventLog
from secagg_host.tls import channel
from secagg_server.blobs import UploadFiles
from secagg_server.server import Coordinator, listen
from secagg_server.session import Checkpoint, Host, no_checkpoint
from secagg_server.storage import SessionState
from tests.client.runner import CountedTraining, nap
from tests.deployment import HOUR, Deployment
from tests.masked_deployment import FixedTraining, Gone
from tests.small import changes, small_plan
from tests.study import toml

DAY = 86_400


@dataclass
class CkksDeployment(Deployment):
    """Certificates, keys and configuration of one ckks session in a folder."""

    clients: int = 4
    holders: int = 1
    close_at: int | None = 3
    plan: Plan = field(default_factory=lambda: small_plan(10_000))

    @cached_property
    def policy(self) -> CkksPolicy:  # type: ignore[override]
        pinned = {files.identity.institution: files.signer for files in self.client_files}
        holders = (self.holder_files[0].signer,)
        parties = Parties(self.authority[0].decode(), self.coordinator_files.signer, pinned, holders)
        return policy_for_ckks(parties, self.plan, self.n_min)

    def holder(self) -> CkksKeyHolder:
        """The key-holder as it is after a start: its journal and keys are on the disk."""
        files, state = self.holder_files[0], self.folder / "holder"
        journal, keys = DurableJournal(state / "ckks.db"), FileContexts(state / "keys")
        return CkksKeyHolder(files.signer, self.policy, files.authority, journal, keys)

    @cached_property
    def signed(self) -> SignedCkksDescriptor:
        offer = self.holder().offer(16, 5, self.plan.length, self.clock(), DAY)
        roster = [RosterMember(certificate=files.identity.pem) for files in self.client_files]
        spec = CkksSpec(
            n_min=self.n_min, n_max=5, upload_seconds=HOUR, expiry_seconds=2 * HOUR, client_noise=self.client_noise
        )
        pem, signer = self.holder_files[0].identity.pem, self.coordinator_files.signer
        return create_ckks_session(spec, self.plan, roster, pem, offer, signer, self.clock(), os.urandom)

    @property
    def descriptor(self) -> CkksDescriptor:  # type: ignore[override]
        return self.signed.statement

    @cached_property
    def changes(self) -> list[NDArray[np.float32]]:
        return list(changes(self.clients, self.plan.length).values())

    def write_config(self, listen_at: str = "127.0.0.1:0") -> Path:
        write_atomic(self.folder / "session.json", self.signed.to_bytes())
        assert self.coordinator_files
        lines = [
            f'listen = "{listen_at}"', 'identity = "parties/server"', 'state = "state"', 'release = "release"',
            'sessions = ["session.json"]', *([f"close_at_uploads = {self.close_at}"] if self.close_at else []),
        ]  # fmt: skip
        path = self.folder / "server.toml"
        path.write_text("\n".join(lines) + "\n")
        return path

    @contextmanager
    def serving(self, checkpoint: Checkpoint = no_checkpoint) -> Iterator[tuple[Coordinator, str]]:
        """The coordinator in this process, on real gRPC, moving on by itself."""
        events = EventLog(self.folder / "state" / "events.jsonl")
        host = Host(self.coordinator_files.signer, self.clock, events, checkpoint)
        coordinator = Coordinator.load(self.config, self.coordinator_files, host)
        listener = listen(coordinator, "127.0.0.1:0", self.coordinator_files)
        stop = threading.Event()

        def drive() -> None:
            while not stop.wait(0.02):
                coordinator.advance()

        thread = threading.Thread(target=drive)
        thread.start()
        try:
            yield coordinator, f"127.0.0.1:{listener.port}"
        finally:
            stop.set()
            thread.join()
            listener.server.stop(0).wait()
            coordinator.store.close()
            events.close()

    def serve_key(self, address: str) -> None:
        """The key-holder's process."""
        log = EventLog(self.folder / "holder" / "events.jsonl")
        with channel(address, self.holder_files[0]) as line:
            CkksHolderRun(self.holder(), CkksCalls(line), Patience(log, 1.0, sleep=nap), os.urandom).run()
        log.close()


@dataclass
class Participant:
    """One client, with its own folder; `leaves_at` names the checkpoint at which it is gone."""

    deployment: CkksDeployment
    index: int
    leaves_at: str = ""
    error: BaseException | None = None

    @property
    def folder(self) -> Path:
        return self.deployment.folder / "homes" / str(self.index)

    @property
    def notes(self) -> list[str]:
        return CountedTraining(self.folder / "book.txt").notes

    def checkpoint(self, name: str) -> None:
        if name == self.leaves_at:
            raise Gone(name)

    def take_part(self, address: str) -> None:
        """One process of the client; its end is in `error`."""
        files, state = self.deployment.client_files[self.index], self.folder / "state"
        log, self.error = EventLog(state / "events.jsonl"), None
        try:
            with channel(address, files) as line:
                CkksClientRun(
                    signer=files.signer,
                    authority=files.authority,
                    policy=self.deployment.policy,
                    shelf=CkksShelf(state / "ckks" / "sessions", files.signer, os.urandom),
                    calls=CkksCalls(line),
                    publication=PublicationCalls(line),
                    training=FixedTraining(self.folder / "book.txt", change=self.deployment.changes[self.index]),
                    release=self.folder / "release",
                    patience=Patience(log, 1.0, sleep=nap),
                    random=os.urandom,
                    checkpoint=self.checkpoint,
                ).run()
        except (SecaggError, Gone) as error:
            self.error = error
        finally:
            log.close()


def run_together(deployment: CkksDeployment, participants: list[Participant], address: str) -> None:
    """The key-holder and everybody at once, to the end."""
    threads = [threading.Thread(target=one.take_part, args=(address,)) for one in participants]
    threads.append(threading.Thread(target=deployment.serve_key, args=(address,)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
        assert not thread.is_alive(), "a party did not end"


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
    assert "3 members, 134 bits" in said
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


def test_anchors_of_another_protocol_are_refused(made: CkksDeployment) -> None:
    other = made.folder / "other.toml"
    text = (made.folder / "anchors.toml").read_text().replace('"ckks"', '"masked"')
    other.write_text("\n".join(line for line in text.splitlines() if not line.startswith("keyholder")) + "\n")
    done = CliRunner().invoke(cli, ["verify", str(made.folder / "release"), "--trust", str(other)])
    assert done.exit_code == 1
    assert "this is a ckks release, and the anchors are for masked ones" in done.output


@pytest.mark.parametrize(
    ("lie", "kind"),
    [("sums", HashMismatch), ("adapter", VerificationError), ("note", VerificationError), ("set", ProtocolViolation)],
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
                calls.shown(ctx, deployment.client_files[1].identity.fingerprint, 10)
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


def test_an_upload_that_is_cut_altered_or_made_twice(tmp_path: Path) -> None:
    deployment = CkksDeployment(tmp_path)
    files = deployment.client_files[0]
    privacy = stated(deployment.plan.training, "test")
    sealed, other = (
        seal_ckks(deployment.descriptor, files.signer, deployment.changes[0], privacy, os.urandom) for _ in range(2)
    )
    raw = frame(sealed.blocks)
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
        with pytest.raises(ProtocolViolation, match="resume there"):
            calls.upload(sealed.signed, 0, [raw])
        bent = raw[5000:-1] + bytes([raw[-1] ^ 1])
        with pytest.raises(SecaggError):
            calls.upload(sealed.signed, 5000, [bent])
        assert calls.begin_upload(sealed.signed) == 0, "what was not as signed is discarded"
        receipt = calls.upload(sealed.signed, 0, [raw])
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
            receipts[index] = calls.upload(sealed.signed, 0, [frame(sealed.blocks)])
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
        end = time.monotonic() + 20
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
