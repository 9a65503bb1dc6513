"""The commands on masked and ckks sessions with client-level noise (protocol.md §14): create, show, verify."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from secagg.canonical import pretty_bytes
from secagg.ckks.descriptor import SignedCkksDescriptor
from secagg.client_noise.setting import ClientNoise
from secagg.masked.descriptor import SignedMaskedDescriptor
from secagg_app.main import cli
from secagg_client.policies import load_policy
from tests.ckks_deployment import CkksDeployment
from tests.masked_deployment import MaskedDeployment
from tests.server.test_masked_server import play
from tests.study import toml

SETTING = {"clip": 60.0, "noise_multiplier": 0.9, "colluders": 1, "delta": 1e-6}
ACCEPTED = {**SETTING, "accept_noise_over_signal": True}


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> MaskedDeployment:
    """A masked session with noise, released; the second client has vanished."""
    noise = ClientNoise.model_validate(ACCEPTED)
    deployment = MaskedDeployment(tmp_path_factory.mktemp("masked"), client_noise=noise)
    play(deployment, {1: "shared"})
    (deployment.folder / "plan.json").write_bytes(pretty_bytes(deployment.plan))
    return deployment


@pytest.fixture(scope="module")
def ckks(tmp_path_factory: pytest.TempPathFactory) -> CkksDeployment:
    """The parties of a ckks session."""
    deployment = CkksDeployment(tmp_path_factory.mktemp("ckks"))
    assert deployment.coordinator_files
    (deployment.folder / "plan.json").write_bytes(pretty_bytes(deployment.plan))
    (deployment.folder / "offer.json").write_bytes(deployment.descriptor.offer.to_bytes())
    return deployment


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(one) for one in arguments])


def create(made: MaskedDeployment | CkksDeployment, folder: Path, noise: Mapping[str, Any]) -> Result:
    """`secagg session create` with a session.toml of the deployment's protocol, into `folder`/session.json."""
    parties = made.folder / "parties"
    settings: dict[str, Any] = {
        "protocol": made.descriptor.protocol, "plan": str(made.folder / "plan.json"), "n_min": 3,
        "upload_minutes": 10, "expiry_minutes": 60,
    }  # fmt: skip
    if isinstance(made, CkksDeployment):
        (holder,) = made.holder_files
        settings |= {"n_max": 5, "keyholder": {
            "certificate": str(parties / holder.identity.name / "certificate.pem"),
            "offer": str(made.folder / "offer.json"),
        }}  # fmt: skip
    roster = "".join(
        f'[[roster]]\ncertificate = "{parties}/{files.identity.name}/certificate.pem"\n' for files in made.client_files
    )
    config = folder / "session.toml"
    config.write_text(toml({**settings, **({"client_noise": dict(noise)} if noise else {})}) + roster)
    return run("session", "create", config, "--identity", parties / "server", "--out", folder / "session.json")


@pytest.mark.parametrize("protocol", ["masked", "ckks"])
def test_noise_is_signed_shown_and_announced(protocol: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    made = request.getfixturevalue(protocol)
    drowned = create(made, tmp_path, {**SETTING, "clip": 4.0})
    assert drowned.exit_code == 1
    assert "mostly noise" in drowned.output
    assert not (tmp_path / "session.json").exists()
    result = create(made, tmp_path, ACCEPTED)
    assert result.exit_code == 0, result.output
    assert "times the largest signal in a mean of 3 clients" in result.output
    raw = (tmp_path / "session.json").read_bytes()
    signed = SignedMaskedDescriptor.parse(raw) if protocol == "masked" else SignedCkksDescriptor.parse(raw)
    assert signed.statement.client_noise == ClientNoise.model_validate(ACCEPTED)
    shown = json.loads(run("session", "show", tmp_path / "session.json", "--json").output)
    assert shown["client noise"].startswith("Client-level: were the whole change of one member zero")
    assert shown["noise over signal"] in result.output


@pytest.mark.parametrize("protocol", ["masked", "ckks"])
def test_a_session_without_noise_says_so(protocol: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    result = create(request.getfixturevalue(protocol), tmp_path, {})
    assert result.exit_code == 0, result.output
    assert "largest signal" not in result.output
    assert json.loads(run("session", "show", tmp_path / "session.json", "--json").output)["client noise"] == "none"


@pytest.mark.parametrize("protocol", ["masked", "ckks"])
def test_a_setting_that_is_none_is_refused(protocol: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    result = create(request.getfixturevalue(protocol), tmp_path, {**SETTING, "sigma": 1.0})
    assert result.exit_code == 1
    assert "client_noise.sigma: there is no such setting" in result.output


def test_verify_says_what_every_member_signed_for(masked: MaskedDeployment) -> None:
    policy = masked.policy.model_dump(mode="json")
    path = masked.folder / "policy.toml"
    path.write_text(toml({"client_noise": "required", "max_client_epsilon": 7.0, **policy}))
    loaded = load_policy(path)
    assert (loaded.client_noise, loaded.max_client_epsilon) == ("required", 7.0)
    release = masked.folder / "release"
    said = run("verify", release, "--trust", path, "--uploads", masked.folder / "state" / "uploads")
    assert said.exit_code == 0, said.output
    assert "ok   every member signed for its share of the client-level noise: epsilon" in said.output
    assert "of which that of 2 counts" in said.output
    assert "Client-level" in (release / "README.md").read_text()
