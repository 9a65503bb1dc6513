"""Clients and key-holders as they run, in a session of several releases (protocol.md §8.7)."""

import json
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy import delete

from secagg.certificate import CERTIFICATE, parse_certificate
from secagg.errors import HashMismatch, ReceiptContradicted, SessionClosed, UploadDropped
from secagg.messages import SignedReceipt
from secagg_client.calls import ContributionCalls, PublicationCalls
from secagg_host.tls import channel
from secagg_server.tables import UploadRow
from tests.client.runner import make_run
from tests.deployment import Deployment, Running
from tests.driving import advancing, await_end, serving


def take_part(running: Running, folder: Path, number: int) -> None:
    """The client with that number, from joining to its release."""
    files = running.deployment.client_files[number]
    with channel(running.address, files) as line:
        contribution, publication = ContributionCalls(line), PublicationCalls(line)
        make_run(folder / f"c{number}", files, running.deployment.policy, contribution, publication).run()


def events(folder: Path, number: int, name: str) -> list[dict[str, object]]:
    lines = (folder / f"c{number}" / "state" / "events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == name]


def test_each_client_gets_the_release_that_holds_its_upload(tmp_path: Path) -> None:
    """The first cohort is served, and done, before the others have begun; who is left over is told so."""
    deployment = Deployment(tmp_path / "hub", clients=8, releases=2)
    with deployment.running() as running, ExitStack() as stack:
        running.approve()
        stack.enter_context(advancing(running))
        stack.enter_context(serving(running, 0, 1, 2, 3))
        for cohort in ((2, 0, 4), (1, 3)):
            threads = [threading.Thread(target=take_part, args=(running, tmp_path, number)) for number in cohort]
            for thread in threads:
                thread.start()
            if cohort == (1, 3):
                break
            for thread in threads:
                await_end(thread)
        take_part_later = threading.Thread(target=take_part, args=(running, tmp_path, 5))
        take_part_later.start()
        while running.session.store.count_complete() < 6:
            take_part_later.join(0.05)
        deployment.clock.now = deployment.descriptor.upload_deadline + 1
        for thread in (*threads, take_part_later):
            await_end(thread)
    for number in (0, 2, 4):
        kept = tmp_path / f"c{number}" / "release" / "release-1"
        assert parse_certificate((kept / CERTIFICATE).read_bytes()).statement.progress is not None
        (said,) = events(tmp_path, number, "released")
        assert (said["release"], said["included"]) == ("release 1 of at most 2", True)
    for number in (1, 3, 5):
        assert [path.name for path in (tmp_path / f"c{number}" / "release").iterdir()] == ["release-2"]
        (said,) = events(tmp_path, number, "released")
        assert (said["release"], said["included"], said["members"]) == ("release 2 of at most 2", True, 3)


def test_a_client_that_is_left_over_is_told_so_with_its_receipt(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path / "hub", clients=6, releases=2)
    failed = list[Exception]()

    def late(running: Running) -> None:
        try:
            take_part(running, tmp_path, 3)
        except SessionClosed as error:
            failed.append(error)

    with deployment.running() as running, ExitStack() as stack:
        running.approve()
        running.upload_all(3)
        running.work()
        thread = threading.Thread(target=late, args=(running,))
        thread.start()
        while running.session.store.count_complete() < 4:
            thread.join(0.05)
        stack.enter_context(advancing(running))
        deployment.clock.now = deployment.descriptor.upload_deadline + 1
        await_end(thread)
    assert len(failed) == 1
    assert "in none of the releases that its coordinator shows, each of which was verified" in str(failed[0])
    assert list((tmp_path / "c3").glob("state/sessions/*/receipt.json"))
    assert not (tmp_path / "c3" / "release").exists()


def test_a_client_that_is_said_to_be_left_over_and_was_there_in_time_has_proof(tmp_path: Path) -> None:
    """The coordinator signs for its upload, fixes a set without it, and says that it came too late (§10.4)."""
    deployment = Deployment(tmp_path / "hub", clients=6, releases=2)
    with deployment.running() as running:
        running.approve()
        files = deployment.client_files[3]
        with channel(running.address, files) as line:
            run = make_run(tmp_path / "c3", files, deployment.policy, ContributionCalls(line), PublicationCalls(line))
            run.run(wait_for_release=False)
            with running.coordinator.store.write() as db:
                db.execute(delete(UploadRow).where(UploadRow.client == files.identity.fingerprint))
            deployment.clock.now += 60
            running.upload_all(3)
            running.work()
            deployment.clock.now = deployment.descriptor.upload_deadline + 1
            running.advance()
            with pytest.raises(UploadDropped, match="Keep both: together they prove it"):
                run.run()
    (kept,) = (tmp_path / "c3" / "release").iterdir()
    assert (kept / CERTIFICATE).is_file()


def test_a_client_that_is_in_the_sum_and_was_dated_back_has_proof(tmp_path: Path) -> None:
    """The coordinator signed when it came; the certificate says earlier, so that the set may be older (§10.4)."""
    deployment = Deployment(tmp_path / "hub", clients=6, releases=2)
    with deployment.running() as running:
        running.approve()
        deployment.clock.now += 100
        files = deployment.client_files[0]
        with channel(running.address, files) as line:
            run = make_run(tmp_path / "c0", files, deployment.policy, ContributionCalls(line), PublicationCalls(line))
            run.run(wait_for_release=False)
            with running.coordinator.store.write() as db:
                row = db.get(UploadRow, (deployment.descriptor.ctx, files.identity.fingerprint))
                assert row is not None
                assert row.receipt is not None
                true = SignedReceipt.parse(row.receipt).statement
                lie = true.model_copy(update={"received_at": true.received_at - 60})
                row.receipt = deployment.coordinator_files.signer.sign(lie).to_bytes()
            for number in (1, 2):
                with running.client(number) as caller:
                    caller.upload(deployment.uploads[number])
            running.work()
            for _ in range(2):  # and again, whenever it is started
                with pytest.raises(ReceiptContradicted, match=r"certificate that it came at .* Keep both"):
                    run.run()
    (said,) = events(tmp_path, 0, "released")
    assert (said["included"], said["receipt"]) == (True, "misdated")


def test_a_client_of_the_second_cohort_refuses_a_running_mean_that_is_not_of_the_first(tmp_path: Path) -> None:
    """It fetches the releases before its own; the coordinator altered one after it was written."""
    deployment = Deployment(tmp_path / "hub", clients=6, releases=2)
    with deployment.running() as running:
        running.approve()
        running.upload_all(3)
        running.work()
        files = deployment.client_files[5]
        with channel(running.address, files) as line:
            run = make_run(tmp_path / "c5", files, deployment.policy, ContributionCalls(line), PublicationCalls(line))
            run.run(wait_for_release=False)
            running.upload_all(5)
            running.work()
            card = tmp_path / "hub" / "release" / "release-1" / "README.md"
            card.write_text(card.read_text() + "\n")
            with pytest.raises(HashMismatch, match=r"earlier release 1 of 1: README\.md does not have the hash"):
                run.run()
