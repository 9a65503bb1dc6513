"""A ckks key-holder whose coordinator says nothing: the key goes at expiry all the same (protocol.md §13.5.6)."""

import os
from pathlib import Path
from typing import cast

import pytest
from click.testing import CliRunner

from secagg.canonical import pretty_bytes
from secagg.ckks.descriptor import SignedCkksDescriptor
from secagg.ckks.messages import SignedCkksApproval, SignedKeyOffer
from secagg.errors import MalformedError, SecaggError, SessionClosed, TransportError
from secagg_app.main import cli
from secagg_client.ckks_calls import CkksCalls
from secagg_client.ckks_keyholder import CkksHolderRun, FileContexts
from secagg_client.ckks_spool import Spool
from secagg_client.patience import Patience
from secagg_host.events import EventLog
from tests.ckks_deployment import CkksDeployment
from tests.study import toml


class Silent:
    """A coordinator that is never heard of again once it has the approval."""

    def __init__(self, signed: SignedCkksDescriptor) -> None:
        self._signed = signed

    def session(self, ctx: str | None) -> SignedCkksDescriptor:
        return self._signed

    def approve(self, approval: SignedCkksApproval) -> None:
        """It came."""

    def chosen(self, ctx: str) -> None:
        raise TransportError("gone")

    def status(self, ctx: str) -> None:
        raise TransportError("gone")


@pytest.fixture
def deployment(tmp_path: Path) -> CkksDeployment:
    return CkksDeployment(tmp_path)


def keys_left(deployment: CkksDeployment) -> list[Path]:
    return list((deployment.folder / "holder" / "keys").glob("*.key"))


def serve(deployment: CkksDeployment, minutes: float) -> None:
    """One run of the key-holder, which waits so long for a coordinator that is away."""
    clock = deployment.clock

    def sleep(seconds: float) -> None:
        clock.now += max(int(seconds), 30)

    calls, keys = cast("CkksCalls", Silent(deployment.signed)), FileContexts(deployment.folder / "holder" / "keys")
    patience = Patience(EventLog(), minutes, clock=lambda: float(clock()), sleep=sleep)
    CkksHolderRun(deployment.holder(), calls, keys, Spool(deployment.folder / "spool"), patience, os.urandom).run()


def test_the_key_is_erased_at_expiry_whatever_the_coordinator_says(deployment: CkksDeployment) -> None:
    assert deployment.signed
    assert keys_left(deployment)
    with pytest.raises(SessionClosed, match="time is over"):
        serve(deployment, minutes=24 * 60)
    assert 0 < deployment.clock() - deployment.descriptor.expires_at <= 60
    assert not keys_left(deployment)


def test_the_key_of_a_run_that_ended_before_expiry_goes_at_the_next_start(deployment: CkksDeployment) -> None:
    with pytest.raises(TransportError):
        serve(deployment, minutes=60)
    assert deployment.clock() < deployment.descriptor.expires_at
    assert len(keys_left(deployment)) == 1, "the session may still be served"
    deployment.clock.now = deployment.descriptor.expires_at + 1
    with pytest.raises(SecaggError, match="expired"):
        serve(deployment, minutes=60)
    assert not keys_left(deployment)


def test_a_damaged_date_is_named_and_the_other_keys_go(deployment: CkksDeployment) -> None:
    with pytest.raises(TransportError):
        serve(deployment, minutes=60)
    keys = FileContexts(deployment.folder / "holder" / "keys")
    damaged = deployment.folder / "holder" / "keys" / f"{'0' * 64}.expires"
    damaged.write_bytes(b"")
    with pytest.raises(MalformedError, match=str(damaged)):
        keys.sweep(deployment.descriptor.expires_at + 1)
    assert not keys_left(deployment)


def test_keys_of_an_offer_that_no_session_took_up_go_when_it_is_over(deployment: CkksDeployment) -> None:
    deployment.write_config()
    folder = deployment.folder
    (folder / "policy.toml").write_text(toml(deployment.policy.model_dump(mode="json")))
    (folder / "plan.json").write_bytes(pretty_bytes(deployment.plan))
    (folder / "keyholder.toml").write_text(
        'coordinator = "127.0.0.1:1"\nidentity = "parties/holder-1"\nstate = "own"\npolicy = "policy.toml"\n'
    )
    where = ("--config", folder / "keyholder.toml", "--plan", folder / "plan.json", "--out", folder / "offer.json")
    command = ["keyholder", "offer", *map(str, where), "--n-max", "5", "--days", "2"]
    done = CliRunner().invoke(cli, command)
    assert done.exit_code == 0, done.output
    keys, expires = (
        FileContexts(folder / "own" / "ckks-keys"),
        SignedKeyOffer.parse((folder / "offer.json").read_bytes()),
    )
    assert keys.sweep(expires.statement.expires_at) == 0
    assert list((folder / "own" / "ckks-keys").glob("*.key"))
    assert keys.sweep(expires.statement.expires_at + 1) == 1
    assert not list((folder / "own" / "ckks-keys").glob("*.key"))
