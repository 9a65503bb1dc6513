"""The commands on masked sessions and releases (protocol.md §12): create, show, verify, annotate."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from secagg.canonical import pretty_bytes
from secagg.certificate import Evaluation, Metric
from secagg.errors import ConfigError, PolicyViolation, TransportError
from secagg.masked.descriptor import MaskedDescriptor, SignedMaskedDescriptor
from secagg.masked.policy import MaskedAnchors, MaskedPolicy
from secagg.policy import Policy
from secagg_app.main import cli
from secagg_attacks.aggregation.certified import Certified
from secagg_attacks.releases import ReleasedRound
from secagg_client.policies import failures_logged, load_anchors, load_policy, naming_policy
from secagg_client.published import read_any_certificate
from secagg_host.events import EventLog
from tests.masked_deployment import MaskedDeployment
from tests.server.test_masked_server import play
from tests.study import toml

EVALUATION = Evaluation(
    data_sha256="ab" * 32,
    data_is_public=True,
    description="Sentences that were made up.",
    metrics=(Metric(name="released adapter", value=0.8, low=0.78, high=0.82),),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MaskedDeployment:
    """A masked release by the real server and clients, with its uploads; the second client has vanished."""
    deployment = MaskedDeployment(tmp_path_factory.mktemp("hub"))
    play(deployment, {1: "shared"})
    policy = deployment.policy.model_dump(mode="json")
    (deployment.folder / "policy.toml").write_text(toml(policy))
    anchors = {name: value for name, value in policy.items() if name in MaskedAnchors.model_fields}
    (deployment.folder / "anchors.toml").write_text(toml(anchors))
    (deployment.folder / "plan.json").write_bytes(pretty_bytes(deployment.plan))
    return deployment


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(one) for one in arguments])


def session_toml(made: MaskedDeployment, folder: Path, **changed: object) -> Path:
    settings: dict[str, object] = {
        "protocol": "masked", "plan": str(made.folder / "plan.json"), "n_min": 3, "dropout_rate": 0.2,
        "corruption_rate": 0.2, "upload_minutes": 10, "round_seconds": 30, "expiry_minutes": 60, **changed,
    }  # fmt: skip
    roster = "".join(
        f'[[roster]]\ncertificate = "{made.folder}/parties/{files.identity.name}/certificate.pem"\n'
        for files in made.client_files
    )
    path = folder / "session.toml"
    path.write_text(toml(settings) + roster)
    return path


def test_a_masked_session_is_made_and_shown(made: MaskedDeployment, tmp_path: Path) -> None:
    out = tmp_path / "session.json"
    server = made.folder / "parties" / "server"
    result = run("session", "create", session_toml(made, tmp_path), "--identity", server, "--out", out)
    assert result.exit_code == 0, result.output
    descriptor = SignedMaskedDescriptor.parse(out.read_bytes()).statement
    assert isinstance(descriptor, MaskedDescriptor)
    assert descriptor.ctx in result.output
    assert (descriptor.graph.holders, descriptor.graph.threshold, descriptor.graph.corrupt) == (4, 3, 1)
    shown = json.loads(run("session", "show", out, "--json").output)
    assert shown["protocol"] == "masked"
    assert shown["threshold"] == "3 of 4 holders give a secret back"
    assert shown["sums"] == "a lying coordinator could open one"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"dropout_rate": 0.6}, "dropouts of 5 clients leave fewer"),
        ({"n_min": 2}, "n_min"),
        ({"round_seconds": 100_000}, "do not fit between"),
        ({"corrupt_keyholders": 1}, "corrupt_keyholders: is a setting of sealed sessions, and this file is for masked"),
        ({"n_max": 5}, "n_max: is a setting of sealed and ckks sessions, and this file is for masked"),
        ({"protocol": "maskd"}, 'protocol: must be "sealed", "masked" or "ckks"'),
        ({"protocol": 3}, 'protocol: must be "sealed", "masked" or "ckks"'),
    ],
)
def test_numbers_that_no_graph_serves_are_refused(
    made: MaskedDeployment, tmp_path: Path, changed: dict[str, object], words: str
) -> None:
    out, server = tmp_path / "session.json", made.folder / "parties" / "server"
    result = run("session", "create", session_toml(made, tmp_path, **changed), "--identity", server, "--out", out)
    assert result.exit_code != 0
    assert words in str(result.exception) + result.output
    assert not out.exists()


def test_a_masked_session_goes_on_from_none(made: MaskedDeployment, tmp_path: Path) -> None:
    server, config = made.folder / "parties" / "server", session_toml(made, tmp_path)
    more = ("--identity", server, "--out", tmp_path / "s.json", "--continue", made.folder / "release")
    result = run("session", "create", config, *more)
    assert result.exit_code == 1
    assert "masked sessions do not go on from another" in result.output


def test_verify_with_and_without_the_uploads(made: MaskedDeployment) -> None:
    release, anchors = made.folder / "release", made.folder / "anchors.toml"
    plain = run("verify", release, "--trust", anchors)
    assert plain.exit_code == 0, plain.output
    assert "4 members, 128 bits" in plain.output
    said = json.loads(
        run("verify", release, "--trust", made.folder / "policy.toml", "--uploads", made.folder / "state" / "uploads",
            "--json").output
    )  # fmt: skip
    assert said["linked"]
    assert len(said["members"]) == 4
    assert "masks were taken out" in said["excluded"][0]["reason"]


def test_anchors_of_the_other_protocol_are_refused(made: MaskedDeployment, tmp_path: Path) -> None:
    text = (made.folder / "anchors.toml").read_text().replace('"masked"', '"sealed"')
    other = tmp_path / "anchors.toml"
    other.write_text(text + f'[committee]\nx = "{"ab" * 32}"\n')
    result = run("verify", made.folder / "release", "--trust", other, "--json")
    assert result.exit_code == 1
    assert "this is a masked release, and the anchors are for sealed ones" in result.output


def test_an_evaluation_is_attached_and_the_release_verifies_again(made: MaskedDeployment, tmp_path: Path) -> None:
    release = tmp_path / "release"
    shutil.copytree(made.folder / "release", release)
    (tmp_path / "evaluation.json").write_text(EVALUATION.model_dump_json())
    server = made.folder / "parties" / "server"
    done = run("release", "annotate", release, "--evaluation", tmp_path / "evaluation.json", "--identity", server)
    assert done.exit_code == 0, done.output
    again = run("verify", release, "--trust", made.folder / "anchors.toml")
    assert again.exit_code == 0, again.output
    assert "the coordinator's word" in again.output
    assert EVALUATION.description in (release / "report.html").read_text()
    assert EVALUATION.description in (release / "README.md").read_text()


def test_audits_read_a_masked_release(made: MaskedDeployment) -> None:
    read = ReleasedRound.read(made.folder / "release")
    assert read.senders == 4
    assert read.mean.shape == (3000,)
    found = Certified.read(made.folder / "release")
    assert set(found.members) == set(read.members)
    assert len(found.clients) == 5
    assert read_any_certificate(made.folder / "release").members == read.members


def test_a_policy_says_which_protocol_it_is_for(made: MaskedDeployment, tmp_path: Path) -> None:
    assert isinstance(load_policy(made.folder / "policy.toml"), MaskedPolicy)
    assert isinstance(load_anchors(made.folder / "anchors.toml"), MaskedAnchors)
    assert not isinstance(load_anchors(made.folder / "anchors.toml"), MaskedPolicy)
    both = tmp_path / "both.toml"
    both.write_text((made.folder / "policy.toml").read_text().replace('["masked"]', '["sealed", "masked"]'))
    with pytest.raises(ConfigError, match="each has a file of its own"):
        load_policy(both)
    sealed = tmp_path / "sealed.toml"
    sealed.write_text((made.folder / "policy.toml").read_text().replace('["masked"]', '["sealed"]'))
    with pytest.raises(ConfigError, match="committee"):
        load_policy(sealed)
    of_sealed = tmp_path / "of-sealed.toml"
    of_sealed.write_text("corrupt_keyholders = 1\n" + (made.folder / "policy.toml").read_text())
    with pytest.raises(ConfigError, match="corrupt_keyholders: is a setting of sealed sessions, and this file is for "):
        load_policy(of_sealed)
    assert not issubclass(MaskedPolicy, Policy)


def test_a_refusal_by_a_policy_names_its_file(tmp_path: Path) -> None:
    refused = naming_policy(PolicyViolation("n_min is 3, at least 4 is asked for"), tmp_path / "policy.toml")
    assert str(refused) == f"n_min is 3, at least 4 is asked for (by {tmp_path / 'policy.toml'})"
    other = TransportError("away")
    assert naming_policy(other, tmp_path / "policy.toml") is other


def test_what_ends_a_run_is_logged_as_it_is_said(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    with pytest.raises(PolicyViolation) as said, failures_logged(log, tmp_path / "policy.toml"):
        raise PolicyViolation("n_min is 3, at least 4 is asked for")
    log.close()
    (event,) = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert (event["event"], event["code"], event["reason"]) == ("failed", "policy", str(said.value))
