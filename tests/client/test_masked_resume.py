"""A masked client that is killed between the coordinator's receipt and its own copy of it (protocol.md §12.2.2)."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from secagg.errors import SessionClosed
from secagg.masked.certificate import SignedMaskedRelease
from secagg.messages import SignedReceipt
from secagg_client.calls import Status
from secagg_client.client_state import MaskedFolder
from secagg_client.masked_calls import MaskedCalls
from secagg_client.patience import Patience
from secagg_host.durable import DurableJournal
from tests.driving import PATIENCE_SECONDS, await_end
from tests.masked_deployment import Gone, MaskedDeployment, MaskedParticipant, everybody, run_out, together

VICTIM = 2


@contextmanager
def killed(
    deployment: MaskedDeployment, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[MaskedParticipant, str, Callable[[], None]]]:
    """Everybody takes part; one is gone as soon as the coordinator has signed for its vector.

    Gives its next process, where the coordinator is, and what has the others go on to the end.
    """
    own, keep = deployment.client_files[VICTIM].identity.fingerprint, MaskedFolder.keep_receipt

    def keep_receipt(folder: MaskedFolder, receipt: SignedReceipt) -> None:
        if receipt.statement.client == own:
            raise Gone("the receipt is on its way to the disk")
        keep(folder, receipt)

    clients = everybody(deployment)
    with deployment.serving() as (coordinator, address), together(clients, address):
        with monkeypatch.context() as patch:
            patch.setattr(MaskedFolder, "keep_receipt", keep_receipt)
            end = time.monotonic() + PATIENCE_SECONDS
            while not clients[VICTIM].over and time.monotonic() < end:
                time.sleep(0.05)
        assert isinstance(clients[VICTIM].error, Gone)
        (session,) = coordinator.masked.values()
        yield MaskedParticipant(deployment, VICTIM), address, lambda: run_out(session, clients)


def steps(client: MaskedParticipant) -> set[str]:
    """The steps that it has taken in the session, by its own records."""
    journal, ctx = DurableJournal(client.folder / "state" / "masked" / "journal.db"), client.deployment.descriptor.ctx
    try:
        every = ("advertised", "drawn", "shared", "uploaded", "endorsed", "unmasked")
        return {step for step in every if journal.get(f"masked/{ctx}/{step}") is not None}
    finally:
        journal.close()


@pytest.mark.parametrize("late", [False, True])
def test_it_asks_for_the_receipt_and_gets_the_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, late: bool
) -> None:
    """Also when the session has expired by then."""
    deployment = MaskedDeployment(tmp_path)
    with killed(deployment, monkeypatch) as (again, address, go_on):
        go_on()
        if late:
            monkeypatch.setattr(Patience, "now", property(lambda _: deployment.descriptor.expires_at + 1))
        again.take_part(address)
    assert again.error is None
    certificate = SignedMaskedRelease.parse((again.folder / "release" / "release.json").read_bytes()).statement
    assert again.files.identity.fingerprint in certificate.members
    assert "abandoned" not in again.notes
    (kept,) = again.folder.glob("state/masked/sessions/*/receipt.json")
    assert SignedReceipt.parse(kept.read_bytes()).statement.client == again.files.identity.fingerprint


def test_it_takes_no_further_part_while_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its keys are gone: it only waits."""
    deployment = MaskedDeployment(tmp_path)
    with killed(deployment, monkeypatch) as (again, address, go_on):
        thread = threading.Thread(target=again.take_part, args=(address,))
        thread.start()
        end = time.monotonic() + PATIENCE_SECONDS
        while not list(again.folder.glob("state/masked/sessions/*/receipt.json")) and time.monotonic() < end:
            time.sleep(0.05)
        assert not (tmp_path / "release").exists()
        go_on()
        await_end(thread)
    assert again.error is None
    assert steps(again) == {"advertised", "drawn", "shared", "uploaded"}
    assert again.notes == ["prepared", "charged", "trained", "sealed", "measured"]


class Silent(MaskedCalls):
    """The coordinator does not show the receipt."""

    def status(self, ctx: str) -> Status:
        found = super().status(ctx)
        return Status(found.state, found.reason, None)


class Another(MaskedCalls):
    """It shows one for another upload in the client's name."""

    def status(self, ctx: str) -> Status:
        found = super().status(ctx)
        assert found.receipt is not None
        statement = found.receipt.statement.model_copy(update={"upload_root": "0" * 64})
        return Status(found.state, found.reason, found.receipt.model_copy(update={"statement": statement}))


@pytest.mark.parametrize("calls", [Silent, Another])
def test_without_a_receipt_it_does_not_say_that_the_others_go_on_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: type[MaskedCalls]
) -> None:
    """It does not know that. The session is over for it, once."""
    deployment = MaskedDeployment(tmp_path)
    with killed(deployment, monkeypatch) as (again, address, go_on):
        go_on()
        again.calls = calls
        for _ in range(2):
            again.error = None
            again.take_part(address)
            assert isinstance(again.error, SessionClosed)
            assert "Whether the vector is in the sum it cannot say" in str(again.error)
    assert not (again.folder / "release").exists()
