"""Reordered, repeated, cut and resumed, slow: the real coordinator and the real runs, TLS on loopback (§7.2, §11)."""

import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load

import secagg_client.calls as calls
import tests.ckks_deployment as ckks
import tests.masked_deployment as masked_deployment
from secagg.certificate import ADAPTER, parse_certificate
from secagg.ckks.verify import verify_ckks
from secagg.errors import ConflictError, NotReady, SessionClosed
from secagg.masked.verify import verify_masked
from secagg.messages import SignedReceipt
from secagg.policy import Anchors
from secagg.receipts import Fate, judge_receipt
from secagg.verify import verify_release
from secagg_client.calls import CommitteeCalls, ContributionCalls, PublicationCalls
from secagg_client.keyholder_run import KeyHolderRun, Shelf
from secagg_client.masked_calls import MaskedCalls
from secagg_client.patience import Patience
from secagg_host.events import EventLog
from secagg_host.tls import channel
from secagg_protos.v1 import secagg_pb2 as pb
from secagg_server.blobs import UploadFiles
from tests.client.runner import SMALL_CHUNK, make_run, nap
from tests.deployment import Deployment
from tests.driving import advancing, await_end
from tests.masked_deployment import FixedTraining, MaskedDeployment, everybody
from tests.simulation.bad_network import BadLine, LateAndTwice
from tests.small import changes, small_plan

STEP = 2 * 0.5 / (2**16 - 1)


@dataclass(frozen=True)
class Weather:
    """What the network does to every party's line."""

    cuts: tuple[int, ...] = ()
    pause: float = 0.0
    piece: int = 65_536
    late: bool = False

    def line(self, target: str) -> BadLine:
        return BadLine(target, self.cuts, self.pause, self.piece)

    def calls(self, inner: Any, seed: int) -> Any:
        return LateAndTwice(inner, seed) if self.late else inner


CUT = Weather(cuts=(9_000, 60_000, 110_000))
SLOW = Weather(pause=0.003, piece=4_096)
LATE = Weather(late=True)
ALL = Weather(cuts=(9_000, 110_000), pause=0.001, piece=8_192, late=True)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "MAX_CHUNK_BYTES", SMALL_CHUNK)


# -- sealed ----------------------------------------------------------------------------------------------------


class Parties:
    """Real client and key-holder runs, each on a bad line of its own."""

    def __init__(self, deployment: Deployment, weather: Weather) -> None:
        self.deployment, self.weather = deployment, weather
        self.changes = list(changes(deployment.clients, deployment.plan.length).values())
        self.shelves = [Shelf(deployment.folder / "committee" / str(i)) for i in range(deployment.holders)]
        kept = zip(deployment.committee, self.shelves, strict=True)
        deployment.committee = [replace(one, journal=shelf.journal, keys=shelf.keys) for one, shelf in kept]
        self.lines = list[BadLine]()
        self.errors = list[BaseException]()

    def secrets(self) -> list[bytes]:
        """Session keys and changes; the keys are erased after the release."""
        offers = [member.offer.statement.digest for member in self.deployment.descriptor.committee]
        keys = [one.keys.get(offer).to_bytes() for one, offer in zip(self.deployment.committee, offers, strict=True)]
        return [*(key[:64] for key in keys), *(key[64:] for key in keys), *(one[:64].tobytes() for one in self.changes)]

    def home(self, index: int) -> Path:
        return self.deployment.folder / "homes" / str(index)

    def contribute(self, index: int, address: str) -> None:
        files, home = self.deployment.client_files[index], self.home(index)
        with channel(address, files) as line:
            contribution = self.weather.calls(ContributionCalls(line), index)
            make_run(
                home, files, self.deployment.policy, contribution, PublicationCalls(line),
                training=FixedTraining(home / "book.txt", change=self.changes[index]),
            ).run()  # fmt: skip

    def hold(self, index: int, address: str) -> None:
        holder, shelf = self.deployment.committee[index], self.shelves[index]
        log = EventLog(self.deployment.folder / "committee" / str(index) / "events.jsonl")
        with channel(address, self.deployment.holder_files[index]) as line:
            committee = self.weather.calls(CommitteeCalls(line), index)
            KeyHolderRun(holder, shelf, committee, Patience(log, 5.0, sleep=nap)).run()
        log.close()

    def run(self, address: str) -> None:
        """Everybody at once, to the end."""
        threads = list[threading.Thread]()
        with ExitStack() as stack:
            for task, count in ((self.contribute, self.deployment.clients), (self.hold, self.deployment.holders)):
                for index in range(count):
                    self.lines.append(self.weather.line(address))
                    near = stack.enter_context(self.lines[-1].open())
                    threads.append(threading.Thread(target=self._run, args=(task, index, near)))
            for thread in threads:
                thread.start()
            for thread in threads:
                await_end(thread, self.errors)
        for shelf in self.shelves:
            shelf.close()

    def _run(self, task: Any, index: int, address: str) -> None:
        try:
            task(index, address)
        except BaseException as error:  # noqa: BLE001 - shown by the test
            self.errors.append(error)


@pytest.mark.parametrize("weather", [CUT, SLOW, LATE, ALL], ids=["cut", "slow", "late", "all"])
def test_a_sealed_session_on_a_bad_network_gives_the_exact_sum_and_loses_no_upload(
    tmp_path: Path, weather: Weather
) -> None:
    deployment = Deployment(tmp_path, close_at=4)
    parties = Parties(deployment, weather)
    with deployment.running() as running, advancing(running):
        secrets = parties.secrets()
        parties.run(running.address)
        assert not parties.errors
        stored = UploadFiles(tmp_path / "state" / "uploads" / deployment.descriptor.ctx)
        release = files_of(tmp_path / "release")
        report = verify_release(release, anchors(deployment), stored.blocks)
    assert report.linked
    assert len(report.certificate.members) == 4
    mean = np.mean(parties.changes, axis=0)
    assert np.abs(load(release[ADAPTER])["a.lora_B.weight"] - mean).max() <= STEP
    for index in range(4):
        home = parties.home(index)
        (receipt,) = home.glob("state/sessions/*/receipt.json")
        assert judge_receipt(report.certificate, SignedReceipt.parse(receipt.read_bytes())).fate is Fate.INCLUDED
        assert files_of(home / "release") == release
        assert FixedTraining(home / "book.txt", change=mean).notes.count("trained") == 1
    assert all(line.cut == len(weather.cuts) for line in parties.lines[:4])
    check_nothing_is_told(tmp_path, secrets)


def check_nothing_is_told(folder: Path, secrets: list[bytes]) -> None:
    """What the coordinator keeps and publishes, and every log: no session key and no change of a client."""
    kept = [path for part in ("state", "release") for path in (folder / part).rglob("*") if path.is_file()]
    for path in (*kept, *folder.rglob("events.jsonl")):
        raw = path.read_bytes()
        for secret in secrets:
            assert secret not in raw, path
            assert secret.hex().encode() not in raw, path


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def anchors(deployment: Deployment) -> Anchors:
    names = set(Anchors.model_fields)
    return Anchors(**{name: value for name, value in deployment.policy if name in names})


def test_calls_out_of_order_are_refused_and_change_nothing(tmp_path: Path) -> None:
    """Each message is handed in before its time, and after it once more."""
    deployment = Deployment(tmp_path, close_at=4)
    with deployment.running() as running:
        with running.client(0) as client, pytest.raises(NotReady):
            client.upload(deployment.uploads[0])
        running.approve()
        running.upload_all(3)
        with running.holder(0) as holder:
            with pytest.raises(NotReady):
                list(holder.evidence(pb.SET_STAGE_CANDIDATE))
            assert holder.get_work().WhichOneof("work") is None
        with running.client(3) as client:
            client.upload(deployment.uploads[3])
            client.enrol()
        for pair in ([3, 1], [2, 0], [1, 3], [0, 2], [3, 1]):
            running.work(pair)
        with running.client(1) as client:
            assert client.status().state == pb.SESSION_STATE_RELEASED
            certificate = parse_certificate(client.release()["release.json"]).statement
            again = client.upload(deployment.uploads[1])
            assert judge_receipt(certificate, again).fate is Fate.INCLUDED
            with pytest.raises(ConflictError):
                client.upload(replace(deployment.uploads[1], signed=other_upload(deployment, 1)))
        assert len(certificate.members) == 4
        with running.holder(0) as holder, pytest.raises(SessionClosed):
            list(holder.evidence(pb.SET_STAGE_CANDIDATE))


def other_upload(deployment: Deployment, index: int) -> Any:
    statement = deployment.uploads[index].signed.statement
    return deployment.client_files[index].signer.sign(statement.model_copy(update={"ciphertext_root": "ab" * 32}))


# -- masked and ckks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "weather", [replace(CUT, cuts=(40_000,)), replace(SLOW, pause=0.002), LATE], ids=["cut", "slow", "late"]
)
def test_a_masked_session_on_a_bad_network_loses_nobody(
    tmp_path: Path, weather: Weather, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut in the middle of the vector; every later round still sees everybody within `round_seconds`."""
    inner = MaskedCalls
    monkeypatch.setattr(masked_deployment, "MaskedCalls", lambda line: weather.calls(inner(line), 1))
    deployment = MaskedDeployment(tmp_path, clients=4, dropout_rate=0.0, round_seconds=120, plan=small_plan(60_000))
    participants = everybody(deployment)
    with deployment.serving() as (_, address), ExitStack() as stack:
        lines = [weather.line(address) for _ in participants]
        nears = [stack.enter_context(line.open()) for line in lines]
        threads = [
            threading.Thread(target=one.take_part, args=(near,)) for one, near in zip(participants, nears, strict=True)
        ]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            deployment.clock.now = int(time.time())
            time.sleep(0.02)
    assert [one.error for one in participants] == [None] * 4
    assert all(line.cut == len(weather.cuts) for line in lines)
    release = files_of(tmp_path / "release")
    stored = UploadFiles(tmp_path / "state" / "uploads" / deployment.descriptor.ctx)
    report = verify_masked(release, deployment.policy, stored.blocks)
    assert report.linked
    assert np.abs(load(release[ADAPTER])["a.lora_B.weight"] - np.mean(deployment.changes, axis=0)).max() <= STEP
    check_receipts(report.certificate, tmp_path, "masked", 4)


def check_receipts(certificate: Any, folder: Path, protocol: str, count: int) -> None:
    for index in range(count):
        (path,) = (folder / "homes" / str(index)).glob(f"state/{protocol}/sessions/*/receipt.json")
        assert judge_receipt(certificate, SignedReceipt.parse(path.read_bytes())).fate is Fate.INCLUDED


def test_a_ckks_upload_that_is_cut_twice_is_resumed(tmp_path: Path) -> None:
    deployment = ckks.CkksDeployment(tmp_path, clients=3)
    participants = [ckks.Participant(deployment, index) for index in range(3)]
    with deployment.serving() as (_, address):
        line = BadLine(address, cuts=(50_000, 60_000))
        with line.open() as near:
            ckks.run_together(deployment, participants, near)
    assert [one.error for one in participants] == [None] * 3
    assert line.cut >= 1
    release = files_of(tmp_path / "release")
    stored = UploadFiles(tmp_path / "state" / "uploads" / deployment.descriptor.ctx)
    report = verify_ckks(release, deployment.policy, stored.blocks)
    assert report.linked
    check_receipts(report.certificate, tmp_path, "ckks", 3)
