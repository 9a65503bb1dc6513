"""A masked session between processes' worth of parties, over mutual TLS (protocol.md §12)."""

from collections.abc import Container
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load

from secagg.certificate import ADAPTER
from secagg.errors import (
    ConflictError,
    NotReady,
    RoleViolation,
    SecaggError,
    SessionClosed,
    UnknownSession,
    UploadDropped,
)
from secagg.masked.closing import Keep
from secagg.masked.messages import UploadMessage
from secagg.masked.server import UploadRound
from secagg.masked.verify import MaskedReport, verify_masked
from secagg_server.blobs import UploadFiles
from secagg_server.database import SessionState
from tests.masked_deployment import Gone, MaskedDeployment, MaskedParticipant, everybody, run_out, together
from tests.small import small_plan


def released(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def play(deployment: MaskedDeployment, leaving: dict[int, str]) -> tuple[list[MaskedParticipant], SessionState, str]:
    """A whole session; rounds wait for everybody who has not gone."""
    return play_with(deployment, everybody(deployment, leaving))


def play_with(
    deployment: MaskedDeployment, participants: list[MaskedParticipant], silent: Container[int] = ()
) -> tuple[list[MaskedParticipant], SessionState, str]:
    """The same with these clients, of whom the `silent` are not waited for."""
    with deployment.serving() as (coordinator, address), together(participants, address):
        session = next(iter(coordinator.masked.values()))
        run_out(session, participants, silent)
        state, reason = session.status()
    return participants, state, reason


def check(deployment: MaskedDeployment, participants: list[MaskedParticipant], members: set[int]) -> MaskedReport:
    """The release is the mean over `members`, verifies with the stored vectors, and everybody who stayed has it."""
    files = UploadFiles(deployment.folder / "state" / "uploads" / deployment.descriptor.ctx)
    content = released(deployment.folder / "release")
    report = verify_masked(content, deployment.policy, files.blocks)
    assert report.linked
    mean = np.mean([deployment.changes[index] for index in members], axis=0)
    assert np.abs(load(content[ADAPTER])["a.lora_B.weight"] - mean).max() < 0.5 / 2**15
    assert set(report.certificate.members) == {deployment.client_files[i].identity.fingerprint for i in members}
    for one in participants:
        if one.error is None:
            assert released(one.folder / "release") == content
    return report


def test_everybody_stays(tmp_path: Path) -> None:
    deployment = MaskedDeployment(tmp_path, clients=4, dropout_rate=0.0)
    participants, state, _ = play(deployment, {})
    assert state == SessionState.RELEASED
    report = check(deployment, participants, {0, 1, 2, 3})
    assert report.certificate.excluded == ()
    for one in participants:
        assert one.error is None
        assert one.notes == ["prepared", "charged", "trained", "sealed", "measured"]
        assert not list(one.folder.glob("state/masked/sessions/*/trained.enc"))


@pytest.mark.parametrize(
    ("at", "in_sum", "reason"),
    [
        ("shared", False, "no masked vector before the set was fixed; its masks were taken out of the sum"),
        ("advertised", False, "did not advertise its keys before the deadline"),
        ("receipt", True, ""),
        ("endorsed", True, ""),
    ],
)
def test_a_client_vanishes_in_any_round(tmp_path: Path, at: str, *, in_sum: bool, reason: str) -> None:
    deployment = MaskedDeployment(tmp_path)
    participants, state, why = play(deployment, {1: at})
    assert (state, why) == (SessionState.RELEASED, "")
    assert isinstance(participants[1].error, Gone)
    report = check(deployment, participants, {0, 1, 2, 3, 4} if in_sum else {0, 2, 3, 4})
    if reason:
        assert [one.reason for one in report.certificate.excluded] == [reason]


def test_more_vanish_than_the_session_allows_and_nothing_is_opened(tmp_path: Path) -> None:
    deployment = MaskedDeployment(tmp_path)
    participants, state, reason = play(deployment, {0: "receipt", 1: "receipt", 2: "receipt"})
    assert state == SessionState.TOO_FEW
    assert "Nothing was opened" in reason
    assert not (tmp_path / "release").exists()
    assert all(isinstance(one.error, SecaggError) for one in participants[3:])


def test_a_client_that_was_stopped_before_it_advertised_goes_on(tmp_path: Path) -> None:
    deployment = MaskedDeployment(tmp_path, clients=4, dropout_rate=0.0)
    first = MaskedParticipant(deployment, 0, "trained")
    with deployment.serving() as (_, address):
        first.take_part(address)
    assert isinstance(first.error, Gone)
    participants, state, _ = play(deployment, {})
    assert state == SessionState.RELEASED
    assert participants[0].error is None
    assert participants[0].notes.count("trained") == 1
    check(deployment, participants, {0, 1, 2, 3})


def test_a_client_that_was_stopped_later_has_vanished_and_says_so(tmp_path: Path) -> None:
    deployment = MaskedDeployment(tmp_path)
    participants, state, _ = play(deployment, {1: "shared"})
    assert state == SessionState.RELEASED
    again = MaskedParticipant(deployment, 1)
    with deployment.serving() as (_, address):
        again.take_part(address)
    assert isinstance(again.error, SessionClosed)
    assert "it has vanished from the session" in str(again.error)
    assert participants[1].notes == ["prepared", "charged", "trained", "abandoned"]


def test_a_client_with_a_receipt_still_gets_the_release_after_a_restart(tmp_path: Path) -> None:
    deployment = MaskedDeployment(tmp_path)
    _, state, _ = play(deployment, {1: "receipt"})
    assert state == SessionState.RELEASED
    again = MaskedParticipant(deployment, 1)
    with deployment.serving() as (_, address):
        again.take_part(address)
    assert again.error is None
    assert released(again.folder / "release") == released(tmp_path / "release")
    assert '"included": true' in again.events or '"included":true' in again.events


def test_only_clients_of_the_roster_are_let_in(tmp_path: Path) -> None:
    deployment = MaskedDeployment(tmp_path)
    from secagg.identity import Role
    from secagg_client.masked_calls import MaskedCalls
    from secagg_host.tls import channel

    with deployment.serving() as (_, address):
        for role in (Role.CLIENT, Role.KEYHOLDER):
            with channel(address, deployment.outsiders[role]) as line, pytest.raises(RoleViolation):
                MaskedCalls(line).session(None)
        with channel(address, deployment.client_files[0]) as line:
            calls = MaskedCalls(line)
            assert calls.session(None) == deployment.signed
            for early in (calls.directory, calls.survivors, calls.shared, calls.unmasking):
                with pytest.raises(NotReady):
                    early(deployment.descriptor.ctx)
            with pytest.raises(UnknownSession):
                calls.directory("ab" * 32)


def test_nobody_hands_in_what_another_signed_nor_two_advertisements(tmp_path: Path) -> None:
    from secagg.masked.client import MaskedClient
    from secagg.run import MemoryJournal
    from secagg_client.masked_calls import MaskedCalls
    from secagg_host.tls import channel

    deployment = MaskedDeployment(tmp_path)

    def advertisement(index: int) -> object:
        signer = deployment.client_files[index].signer
        client = MaskedClient.join(
            deployment.signed, signer, deployment.policy, deployment.authority[0].decode(), MemoryJournal(),
            deployment.clock(),
        )  # fmt: skip
        import os

        return client.advertise(os.urandom, deployment.clock())[1]

    with deployment.serving() as (_, address), channel(address, deployment.client_files[0]) as line:
        calls = MaskedCalls(line)
        with pytest.raises(RoleViolation, match="another party signed"):
            calls.advertise(advertisement(1))  # type: ignore[arg-type]
        first = advertisement(0)
        calls.advertise(first)  # type: ignore[arg-type]
        calls.advertise(first)  # type: ignore[arg-type]
        with pytest.raises(ConflictError):
            calls.advertise(advertisement(0))  # type: ignore[arg-type]


def test_an_upload_that_is_cut_is_resumed_and_one_that_is_altered_is_refused(tmp_path: Path) -> None:
    """The stored part stays a prefix; what is not as signed is discarded, and can be sent again."""
    from secagg_client import masked_calls

    deployment = MaskedDeployment(tmp_path, clients=4, dropout_rate=0.0, plan=small_plan(60_000))
    participants = everybody(deployment)
    bent, cut = [0], [0]
    send = masked_calls.MaskedCalls.upload

    def bad_line(self: masked_calls.MaskedCalls, message, offset, chunks):  # type: ignore[no-untyped-def]
        chunks = list(chunks)
        if not bent[0] and offset == 0:
            bent[0] += 1
            return send(self, message, offset, [bytes([chunks[0][0] ^ 1]) + chunks[0][1:], *chunks[1:]])
        if not cut[0] and offset == 0:
            cut[0] += 1
            whole = b"".join(chunks)
            return send(self, message, offset, [whole[:1000]])
        return send(self, message, offset, chunks)

    masked_calls.MaskedCalls.upload = bad_line  # type: ignore[method-assign]
    try:
        with deployment.serving() as (coordinator, address), together(participants, address):
            run_out(next(iter(coordinator.masked.values())), participants)
    finally:
        masked_calls.MaskedCalls.upload = send  # type: ignore[method-assign]
    assert bent == cut == [1]
    assert [one.error for one in participants] == [None] * 4
    check(deployment, participants, {0, 1, 2, 3})
    assert '"refused"' in (tmp_path / "state" / "events.jsonl").read_text()


def test_a_dropped_upload_ends_the_run_with_both_papers_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A coordinator that signs for client 0's vector and leaves it out of the set (protocol.md §10.4)."""
    deployment, checked = MaskedDeployment(tmp_path), UploadRound.checked
    victim = deployment.client_files[0].identity.fingerprint

    def dropping(stage: UploadRound, message: UploadMessage) -> Keep:
        return (lambda: None) if message.signed.signer == victim else checked(stage, message)

    monkeypatch.setattr(UploadRound, "checked", dropping)
    participants, state, _ = play_with(deployment, everybody(deployment), silent={0})
    assert state == SessionState.RELEASED
    assert participants[0].error is not None, "it endorses no set without itself (§12.6.1)"
    with deployment.serving() as (_, address):
        for _ in range(2):  # it asks for the release when it is started again, and says the same ever after
            participants[0].take_part(address)
            assert isinstance(participants[0].error, UploadDropped)
            assert "receipt.json, the certificate is in" in str(participants[0].error)
    assert released(participants[0].folder / "release") == released(deployment.folder / "release")
