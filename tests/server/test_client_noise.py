"""Sessions of each protocol with client-level noise over real gRPC, with a client that vanishes (protocol.md §14)."""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load

from secagg.certificate import ADAPTER, REPORT
from secagg.ckks.client import seal_ckks
from secagg.ckks.verify import verify_ckks
from secagg.client_noise import concentrated
from secagg.client_noise.setting import ClientNoise, NoiseGrid
from secagg.errors import AccountingError, PolicyViolation
from secagg.masked.messages import SignedMaskedUpload, UploadMessage
from secagg.masked.verify import verify_masked
from secagg.messages import SignedReceipt
from secagg.privacy import stated
from secagg.signing import Signer
from secagg.verify import verify_release
from secagg_client.ckks_calls import CkksCalls
from secagg_client.masked_calls import MaskedCalls
from secagg_host.tls import channel, grpc
from secagg_protos.v1 import secagg_pb2 as pb
from secagg_server.blobs import UploadFiles
from secagg_server.database import SessionState
from tests.ckks_deployment import CkksDeployment, Participant, run_together
from tests.deployment import Deployment
from tests.masked_deployment import Gone, MaskedDeployment, MaskedParticipant, everybody
from tests.server.test_masked_server import play, play_with, released
from tests.server.test_release import anchors, run_session
from tests.small import changes

NOISE = ClientNoise(clip=60.0, noise_multiplier=0.9, delta=1e-6, accept_noise_over_signal=True)


def test_a_deployed_session_carries_the_noise(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, close_at=3, client_noise=NOISE)
    with deployment.running() as running:
        run_session(running, uploads=3)  # the fourth vanishes; n_min is 3
        with running.client(0) as caller:
            assert caller.status().state == pb.SESSION_STATE_RELEASED
            release = caller.release()
        report = verify_release(release, anchors(deployment), running.session.files.blocks)
    assert report.linked
    assert "Client-level" in report.certificate.privacy_note
    page = release[REPORT].decode()
    assert "client-level noise" in page
    assert "times the largest signal in a mean of 3 clients" in page
    check_noise(release, deployment.descriptor.noise_grid, list(changes(4, deployment.plan.length).values())[:3])


def check_noise(release: dict[str, bytes], grid: NoiseGrid | None, inside: Sequence[NDArray[np.float32]]) -> None:
    """What is released differs from the members' plain mean by the noise of all of them; none is beyond its clips."""
    assert grid is not None
    error = (load(release[ADAPTER])["a.lora_B.weight"] - np.mean(inside, axis=0)) * grid.scale / 0.5
    expected = ((float(grid.variance) + 0.25) / len(inside)) ** 0.5
    assert error.std() == pytest.approx(expected, rel=7 / (2 * len(error)) ** 0.5), "seven standard errors"


def announced(folder: Path) -> list[str]:
    """What a client said of the noise before it trained."""
    events = [json.loads(line) for line in (folder / "state" / "events.jsonl").read_text().splitlines()]
    names = [event["event"] for event in events]
    assert names.index("client-noise") < names.index("training")
    return [event["note"] for event in events if event["event"] == "client-noise"]


def test_a_client_that_says_nothing_of_its_noise_is_not_taken(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, close_at=4, client_noise=NOISE)
    with deployment.running() as running:
        running.approve()
        sealed = deployment.uploads[0]
        statement = sealed.signed.statement
        silent = statement.privacy.model_copy(update={"client_level": None})
        signed = deployment.client_files[0].signer.sign(statement.model_copy(update={"privacy": silent}))
        with running.client(0) as caller:
            caller.enrol()
            with pytest.raises(PolicyViolation, match="client-level noise"):
                caller.begin(type(sealed)(signed, sealed.ciphertext, sealed.boxes))


@pytest.mark.parametrize(("at", "members"), [("shared", (0, 2, 3, 4)), ("receipt", (0, 1, 2, 3, 4))])
def test_a_masked_session_carries_the_noise_of_who_is_in_it(tmp_path: Path, at: str, members: tuple[int, ...]) -> None:
    """The second client vanishes, before or after its upload; n_min is 3."""
    deployment = MaskedDeployment(tmp_path, client_noise=NOISE)
    participants, state, why = play(deployment, {1: at})
    assert (state, why) == (SessionState.RELEASED, "")
    assert isinstance(participants[1].error, Gone)
    release = released(tmp_path / "release")
    files = UploadFiles(tmp_path / "state" / "uploads" / deployment.descriptor.ctx)
    report = verify_masked(release, deployment.policy, files.blocks)
    assert report.linked
    assert len(report.certificate.members) == len(members)
    assert "Client-level" in report.certificate.privacy_note
    assert "times the largest signal in a mean of 3 clients" in release[REPORT].decode()
    check_noise(release, deployment.descriptor.noise_grid, [deployment.changes[i] for i in members])
    (note,) = announced(participants[0].folder)
    assert note in release[REPORT].decode()


@pytest.mark.parametrize("lie", [None, {"noise_multiplier": 0.5}, {"delta": 1e-5}])
def test_a_client_that_states_other_noise_has_no_part_in_a_masked_sum(
    tmp_path: Path, lie: dict[str, float] | None
) -> None:
    """It is refused when its vector is there; the others' shares take its masks away, and its noise never counts."""
    deployment = MaskedDeployment(tmp_path, client_noise=NOISE)
    participants = everybody(deployment)
    participants[1].calls = lambda line: LyingCalls(line, participants[1].files.signer, lie)
    _, state, _ = play_with(deployment, participants)
    assert state == SessionState.RELEASED
    assert isinstance(participants[1].error, PolicyViolation)
    assert "other client-level noise" in str(participants[1].error)
    release = released(tmp_path / "release")
    assert len(verify_masked(release, deployment.policy).certificate.members) == 4
    check_noise(release, deployment.descriptor.noise_grid, [deployment.changes[i] for i in (0, 2, 3, 4)])


class LyingCalls(MaskedCalls):
    """A client that signs for other noise than the session agreed on; for none at all where `lie` is None."""

    def __init__(self, line: grpc.Channel, signer: Signer, lie: dict[str, float] | None) -> None:
        super().__init__(line)
        self._signer, self._lie = signer, lie

    def _lied(self, signed: SignedMaskedUpload) -> SignedMaskedUpload:
        privacy = signed.statement.privacy
        level = privacy.client_level
        other = level.model_copy(update=self._lie) if self._lie is not None and level is not None else None
        stated = privacy.model_copy(update={"client_level": other})
        return self._signer.sign(signed.statement.model_copy(update={"privacy": stated}))

    def begin_upload(self, signed: SignedMaskedUpload) -> int | SignedReceipt:
        return super().begin_upload(self._lied(signed))

    def upload(self, message: UploadMessage, offset: int, chunks: Iterable[bytes | memoryview]) -> SignedReceipt:
        return super().upload(replace(message, signed=self._lied(message.signed)), offset, chunks)


def test_a_ckks_session_carries_the_noise_of_who_is_in_it(tmp_path: Path) -> None:
    deployment = CkksDeployment(tmp_path, client_noise=NOISE)
    participants = [Participant(deployment, i, "enrolled" if i == 3 else "") for i in range(4)]
    with deployment.serving() as (_, address):
        run_together(deployment, participants, address)
    assert isinstance(participants[3].error, Gone)
    release = released(tmp_path / "release")
    files = UploadFiles(tmp_path / "state" / "uploads" / deployment.descriptor.ctx)
    report = verify_ckks(release, deployment.policy, files.blocks)
    assert report.linked
    assert "Client-level" in report.certificate.privacy_note
    assert "times the largest signal in a mean of 3 clients" in release[REPORT].decode()
    check_noise(release, deployment.descriptor.noise_grid, deployment.changes[:3])
    assert len(announced(participants[0].folder)) == 1


def test_a_client_that_says_nothing_of_its_noise_is_not_taken_under_ckks(tmp_path: Path) -> None:
    deployment = CkksDeployment(tmp_path, client_noise=NOISE)
    files, privacy = deployment.client_files[0], stated(deployment.plan.training, "test")
    sealed = seal_ckks(deployment.descriptor, files.signer, deployment.changes[0], privacy, os.urandom)
    silent = files.signer.sign(sealed.signed.statement.model_copy(update={"privacy": privacy}))
    with deployment.serving() as (_, address):
        with channel(address, deployment.holder_files[0]) as line:
            CkksCalls(line).approve(deployment.holder().approve(deployment.signed, deployment.clock()))
        with channel(address, files) as line, pytest.raises(PolicyViolation, match="client-level noise"):
            CkksCalls(line).begin_upload(silent)


@pytest.mark.parametrize("protocol", ["masked", "ckks"])
def test_a_client_that_finds_more_spent_than_is_stated_does_not_train(
    tmp_path: Path, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    masked, ckks = MaskedDeployment(tmp_path, client_noise=NOISE), CkksDeployment(tmp_path, client_noise=NOISE)
    deployment = masked if protocol == "masked" else ckks
    assert deployment.signed
    one = MaskedParticipant(masked, 0) if protocol == "masked" else Participant(ckks, 0)
    monkeypatch.setattr(concentrated, "epsilon", lambda *_: 5.0)
    with deployment.serving() as (_, address):
        if protocol == "ckks":
            with channel(address, ckks.holder_files[0]) as line:
                CkksCalls(line).approve(ckks.holder().approve(ckks.signed, ckks.clock()))
        one.take_part(address)
    assert isinstance(one.error, AccountingError)
    assert "dp-accounting finds" in str(one.error)
    assert one.notes == []
