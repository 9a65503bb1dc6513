"""What a client refuses before it trains (protocol.md §4.3, §4.4)."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from secagg.client_noise import concentrated
from secagg.client_noise.setting import ClientNoise
from secagg.coordinator import SessionSpec
from secagg.descriptor import SignedDescriptor
from secagg.errors import (
    AccountingError,
    CertificateInvalid,
    EndorsementInvalid,
    PolicyViolation,
    ProtocolViolation,
    RoleViolation,
    SecaggError,
    SessionClosed,
    SignatureInvalid,
)
from secagg.identity import new_authority
from secagg.policy import Policy
from secagg.signing import Signer
from secagg_client.client_run import ClientRun
from secagg_client.client_state import ClientState, Step
from secagg_client.patience import Patience
from secagg_host.events import EventLog
from secagg_host.identity import PartyFiles
from tests.client.runner import CountedTraining, make_run
from tests.small import DAY, NOW, Small, small_plan

OTHER = "cd" * 32


class Shows:
    """A coordinator that shows one session."""

    def __init__(self, session: SignedDescriptor) -> None:
        self._session = session

    def session(self, ctx: str | None) -> SignedDescriptor:
        return self._session

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was called before the session was accepted")


@pytest.fixture(scope="module")
def small() -> Small:
    made = Small()
    assert made.session
    return made


def client(small: Small, folder: Path, session: SignedDescriptor | None = None, **more: Any) -> ClientRun:
    signer = more.pop("signer", small.parties.clients["Hospital 1"])
    files = PartyFiles(signer, b"", b"", small.parties.authority)
    shown = Shows(small.session if session is None else session)
    return make_run(folder, files, more.pop("policy", small.policy), shown, shown, **more)


def refused(run: ClientRun, folder: Path, error: type[SecaggError], reason: str) -> None:
    """The run ends with the reason, and neither trained nor accepted anything."""
    with pytest.raises(error, match=reason):
        run.run()
    assert CountedTraining(folder / "book.txt").notes == []
    assert not list(folder.glob("state/sessions/*/session.json"))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"coordinator": OTHER}, "coordinator is not the one that is pinned"),
        ({"committee": {"somebody": OTHER}}, "key-holder .* is not one that is pinned"),
        ({"corrupt_keyholders": 2}, "f=1 corrupt key-holders, at least 2"),
        ({"n_min": 4}, "n_min is 3, at least 4"),
        ({"n_min": 5}, "n_min is 3, at least 5"),
        ({"institutions": {"a": OTHER, "b": "ce" * 32, "c": "cf" * 32}}, "only 0 pinned institutions"),
        ({"base_model_hashes": (OTHER,)}, "base model .* is not one that is pinned"),
        ({"adapter_schema_hashes": (OTHER,)}, "adapter schema .* is not one that is pinned"),
        ({"max_epsilon": 7.9}, "epsilon 8.0 is above the policy's 7.9"),
        ({"max_delta": 1e-6}, "delta 1e-05 is above"),
        ({"noise": ("seeded",)}, "secure noise is not among seeded"),
    ],
)
def test_a_session_outside_the_policy_is_refused_before_training(
    small: Small, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    policy = Policy.model_validate({**small.policy.model_dump(), **changes})
    refused(client(small, tmp_path, policy=policy), tmp_path, PolicyViolation, reason)


@pytest.fixture(scope="module")
def noisy() -> Small:
    noise = ClientNoise(clip=4.0, noise_multiplier=1.0, delta=1e-6, accept_noise_over_signal=True)
    spec = SessionSpec(n_min=3, n_max=10, upload_seconds=DAY, expiry_seconds=2 * DAY, client_noise=noise)
    made = Small(spec=spec)
    assert made.session
    return made


def test_client_level_noise_is_announced_before_anything_is_trained(
    noisy: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = client(noisy, tmp_path, patience=Patience(EventLog(stream=sys.stdout), clock=lambda: float(NOW)))
    with pytest.raises(AssertionError, match="enrol was called"):
        run.run()
    said = capsys.readouterr().out
    assert "client-noise" in said
    assert "times the largest signal in a mean of 3 clients" in said


def test_client_level_noise_that_spends_more_than_is_stated(
    noisy: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(concentrated, "epsilon", lambda *_: 1.0)
    refused(client(noisy, tmp_path), tmp_path, AccountingError, "dp-accounting finds 5.22")


def test_client_level_noise_that_the_policy_refuses(noisy: Small, tmp_path: Path) -> None:
    policy = noisy.policy.model_copy(update={"client_noise": "refused"})
    refused(client(noisy, tmp_path, policy=policy), tmp_path, PolicyViolation, "the policy refuses it")


def test_a_session_without_privacy_is_outside_any_policy() -> None:
    """Key-holders refuse it too, so no client ever sees it approved."""
    plain = Small(plan=small_plan(epsilon=None))
    with pytest.raises(PolicyViolation, match="without differential privacy"):
        plain.policy.check(plain.proposal.descriptor.statement)


def test_too_few_approvals(small: Small, tmp_path: Path) -> None:
    session = small.session.model_copy(update={"approvals": small.session.approvals[:2]})
    refused(
        client(small, tmp_path, session), tmp_path, EndorsementInvalid, "2 key-holders approved the session; 3 must"
    )


def test_one_approval_counted_twice(small: Small, tmp_path: Path) -> None:
    first, second, *_ = small.session.approvals
    session = small.session.model_copy(update={"approvals": (first, second, second)})
    refused(client(small, tmp_path, session), tmp_path, EndorsementInvalid, "2 key-holders approved")


def test_an_altered_descriptor(small: Small, tmp_path: Path) -> None:
    signed = small.session.descriptor
    altered = signed.model_copy(update={"statement": signed.statement.model_copy(update={"nonce": OTHER})})
    session = small.session.model_copy(update={"descriptor": altered})
    refused(client(small, tmp_path, session), tmp_path, SignatureInvalid, "does not verify")


def test_another_authority(small: Small, tmp_path: Path) -> None:
    foreign = new_authority("another", NOW)[0].decode()
    refused(client(small, tmp_path, authority=foreign), tmp_path, CertificateInvalid, "not issued by the trusted")


def test_a_client_that_is_not_on_the_roster(small: Small, tmp_path: Path) -> None:
    stranger: Signer = Small(clients=3).parties.clients["Hospital 2"]
    refused(client(small, tmp_path, signer=stranger), tmp_path, RoleViolation, "is not on the roster")


def test_a_session_whose_deadline_has_passed(small: Small, tmp_path: Path) -> None:
    patience = Patience(EventLog(), clock=lambda: NOW + 1.5 * DAY)
    refused(client(small, tmp_path, patience=patience), tmp_path, SessionClosed, "deadline has passed")


def test_a_session_dated_in_the_future(tmp_path: Path) -> None:
    """Ten minutes are more than clocks may differ; the certificates are a day old and valid."""
    early = Small(now=NOW - DAY)
    created = replace(early, now=NOW)
    created.__dict__.update(parties=early.parties, policy=early.policy)
    patience = Patience(EventLog(), clock=lambda: NOW - 600.0)
    run = client(created, tmp_path, patience=patience)
    refused(run, tmp_path, ProtocolViolation, "dated in the future; check the clocks")


def test_another_session_than_the_one_asked_for(small: Small, tmp_path: Path) -> None:
    run = client(small, tmp_path)
    with pytest.raises(ProtocolViolation, match="asked for session cdcd"):
        run.run(OTHER)


@pytest.mark.parametrize(
    ("state", "step"),
    [
        (ClientState(), Step.JOIN),
        (ClientState(accepted=True), Step.TRAIN),
        (ClientState(accepted=True, trained=True), Step.SEAL),
        (ClientState(accepted=True, trained=True, spooled=True), Step.SEND),
        (ClientState(accepted=True, spooled=True), Step.SEND),
        (ClientState(accepted=True, spooled=True, receipted=True), Step.AWAIT),
        (ClientState(accepted=True, ended=True), Step.DONE),
        (ClientState(accepted=True, spooled=True, receipted=True, ended=True), Step.DONE),
    ],
)
def test_what_is_on_the_disk_decides_the_next_step(state: ClientState, step: Step) -> None:
    assert state.next_step is step
