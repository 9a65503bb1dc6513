"""Which release a client's upload is in, it finds itself: the coordinator says where to look first (§10.4)."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from sqlalchemy import delete

from secagg.certificate import CERTIFICATE, parse_certificate
from secagg.errors import NotReady, ProtocolViolation, ReceiptContradicted, SessionClosed, UploadDropped
from secagg.keyholder import MAX_CLOCK_SKEW
from secagg.messages import SignedReceipt
from secagg.receipts import Fate, judge_receipt
from secagg_client.calls import ContributionCalls, PublicationCalls, Status
from secagg_client.client_run import ClientRun
from secagg_host.identity import PartyFiles
from secagg_host.tls import channel
from secagg_server.tables import ArrivalRow, UploadRow
from tests.client.runner import make_run
from tests.deployment import Deployment, Running


@dataclass
class Says:
    """The coordinator, with another answer to GetStatus."""

    calls: ContributionCalls
    change: Callable[[Status], Status]
    asked: list[str] = field(default_factory=list)

    def status(self, ctx: str) -> Status:
        self.asked.append(ctx)
        return self.change(self.calls.status(ctx))

    def __getattr__(self, name: str) -> object:
        return getattr(self.calls, name)


def own(release: int) -> Callable[[Status], Status]:
    return lambda status: replace(status, own_release=release)


@dataclass
class Scene:
    """Six or seven clients in a session of two releases; number 0 runs for real, the others have their uploads."""

    tmp_path: Path
    deployment: Deployment
    running: Running
    run: ClientRun

    @property
    def files(self) -> PartyFiles:
        return self.deployment.client_files[0]

    def send(self, *numbers: int) -> None:
        for number in numbers:
            with self.running.client(number) as caller:
                caller.upload(self.deployment.uploads[number])

    def end(self) -> None:
        self.deployment.clock.now = self.deployment.descriptor.upload_deadline + 1
        self.running.work()

    def misdate(self) -> None:
        """The coordinator dates its own copy of the receipt back by a minute, and with it the certificate."""
        with self.running.coordinator.store.write() as db:
            row = db.get(UploadRow, (self.deployment.descriptor.ctx, self.files.identity.fingerprint))
            assert row is not None
            assert row.receipt is not None
            true = SignedReceipt.parse(row.receipt).statement
            lie = true.model_copy(update={"received_at": true.received_at - 60})
            row.receipt = self.deployment.coordinator_files.signer.sign(lie).to_bytes()

    def forget(self) -> None:
        """The coordinator has never seen the upload that it gave a receipt for."""
        client = self.files.identity.fingerprint
        with self.running.coordinator.store.write() as db:
            db.execute(delete(UploadRow).where(UploadRow.client == client))
            db.execute(delete(ArrivalRow).where(ArrivalRow.client == client))

    @property
    def kept(self) -> list[str]:
        folder = self.tmp_path / "c0" / "release"
        return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def with_scene(
    tmp_path: Path, change: Callable[[Status], Status], act: Callable[[Scene], None], *, releases: int = 2
) -> None:
    deployment = Deployment(tmp_path / "hub", clients=7, releases=releases)
    with deployment.running() as running:
        running.approve()
        deployment.clock.now += 100
        files = deployment.client_files[0]
        with channel(running.address, files) as line:
            says = Says(ContributionCalls(line), change)
            run = make_run(tmp_path / "c0", files, deployment.policy, says, PublicationCalls(line))  # type: ignore[arg-type]
            act(Scene(tmp_path, deployment, running, run))


@pytest.mark.parametrize("told", [0, 2])
def test_a_misdated_member_has_its_proof_wherever_it_is_told_to_look(tmp_path: Path, told: int) -> None:
    def act(scene: Scene) -> None:
        scene.run.run(wait_for_release=False)
        scene.misdate()
        scene.send(1, 2)
        scene.running.work()
        scene.send(3, 4, 5)
        scene.end()
        with pytest.raises(ReceiptContradicted, match="certificate that it came at"):
            scene.run.run()
        assert scene.kept == ["release-1"]

    with_scene(tmp_path, own(told), act)


def test_a_member_that_is_said_to_be_in_no_release_finds_the_one_that_has_it(tmp_path: Path) -> None:
    def act(scene: Scene) -> None:
        scene.run.run(wait_for_release=False)
        scene.send(1, 2)
        scene.running.work()
        scene.end()
        scene.run.run()
        assert scene.kept == ["release-1"]

    with_scene(tmp_path, own(0), act)


def test_a_dropped_client_is_not_put_off_with_a_release_of_others(tmp_path: Path) -> None:
    def act(scene: Scene) -> None:
        scene.send(1, 2, 3)
        scene.running.work()
        scene.deployment.clock.now += 60
        scene.run.run(wait_for_release=False)
        scene.forget()
        scene.send(4, 5, 6)
        scene.end()
        with pytest.raises(UploadDropped, match="Keep both: together they prove it"):
            scene.run.run()
        assert scene.kept == ["release-2"]

    with_scene(tmp_path, own(1), act)


def test_a_release_that_does_not_tell_of_the_upload_is_not_the_end(tmp_path: Path) -> None:
    """It is said to be in release 1 while it waits for release 2: it looks, and waits on."""
    told = list[int]()

    def change(status: Status) -> Status:
        told.append(status.releases)
        return replace(status, own_release=1) if len(told) == 1 else status

    def act(scene: Scene) -> None:
        scene.send(1, 2, 3)
        scene.running.work()
        scene.run.run(wait_for_release=False)

        def nap(_: float) -> None:
            scene.send(4, 5)
            scene.end()

        run = replace(scene.run, patience=replace(scene.run.patience, sleep=nap))
        run.run()
        assert scene.kept == ["release-2"]

    with_scene(tmp_path, change, act)


@pytest.mark.parametrize(("made", "own_release"), [(1_000_000, 0), (1, 1_000_000)])
def test_more_releases_than_the_session_has_are_refused_unseen(tmp_path: Path, made: int, own_release: int) -> None:
    def act(scene: Scene) -> None:
        scene.run.run(wait_for_release=False)
        with pytest.raises(ProtocolViolation, match="release 1000000 of a session that has 2 at most"):
            scene.run.run()
        assert scene.kept == []

    with_scene(tmp_path, lambda status: replace(status, releases=made, own_release=own_release), act)


def test_a_session_that_shows_no_release_ends_with_what_the_client_holds(tmp_path: Path) -> None:
    def act(scene: Scene) -> None:
        scene.run.run(wait_for_release=False)
        scene.send(1, 2)
        scene.running.work()
        scene.end()
        for _ in range(2):  # and again, whenever it is started
            with pytest.raises(SessionClosed, match="shows no release; the receipt says that this upload came"):
                scene.run.run()

    with_scene(tmp_path, lambda status: replace(status, own_release=0, releases=0), act)


def test_another_upload_in_the_client_s_name_is_a_dropped_one_and_the_proof_is_kept(tmp_path: Path) -> None:
    def act(scene: Scene) -> None:
        scene.run.run(wait_for_release=False)
        scene.forget()
        scene.running.coordinator.intakes[scene.deployment.descriptor.ctx] = type(
            scene.running.coordinator.intakes[scene.deployment.descriptor.ctx]
        )(scene.running.session)
        scene.running.session.files.discard(scene.files.identity.fingerprint)
        scene.send(0, 1, 2, 3)  # the coordinator takes what somebody with this client's keys sealed
        scene.end()
        with pytest.raises(UploadDropped, match="the certificate lists another upload in this client's name"):
            scene.run.run()
        (receipt,) = scene.tmp_path.glob("c0/state/sessions/*/receipt.json")
        certificate = parse_certificate((scene.tmp_path / "c0" / "release" / CERTIFICATE).read_bytes()).statement
        assert judge_receipt(certificate, SignedReceipt.parse(receipt.read_bytes())).fate is Fate.DROPPED

    with_scene(tmp_path, lambda status: status, act, releases=1)


def test_a_coordinator_that_says_not_yet_for_ever_keeps_nobody_past_the_expiry(tmp_path: Path) -> None:
    def never(_: Status) -> Status:
        raise NotReady("ask again")

    def act(scene: Scene) -> None:
        scene.run.run(wait_for_release=False)
        late = scene.deployment.descriptor.expires_at + MAX_CLOCK_SKEW + 1
        run = replace(scene.run, patience=replace(scene.run.patience, clock=lambda: late))
        for _ in range(2):
            with pytest.raises(SessionClosed, match=r"not come any more, and the coordinator says: .*ask again"):
                run.run()

    with_scene(tmp_path, never, act)
