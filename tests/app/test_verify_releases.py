"""`secagg verify` and `secagg release annotate` on several releases of one session (protocol.md §10.3a)."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from secagg.certificate import CERTIFICATE, Evaluation, Metric, parse_certificate
from secagg.errors import AuditError
from secagg.messages import Receipt
from secagg_app.main import cli
from secagg_attacks.releases import ReleasedRound
from tests.deployment import Deployment
from tests.study import toml


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    """Two releases by the real server, with its uploads."""
    deployment = Deployment(tmp_path_factory.mktemp("hub"), clients=6, releases=2)
    with deployment.running() as running:
        running.approve()
        running.upload_all(3)
        running.work()
        running.upload_all()
        running.work()
    (deployment.folder / "policy.toml").write_text(toml(deployment.policy.model_dump(mode="json")))
    return deployment


def verify(made: Deployment, release: Path, *more: str | Path) -> Result:
    words = ["verify", str(release), "--trust", str(made.folder / "policy.toml"), *map(str, more)]
    return CliRunner().invoke(cli, words)


def test_alone_and_with_the_release_before_and_the_uploads(made: Deployment) -> None:
    first, last = made.folder / "release" / "release-1", made.folder / "release" / "release-2"
    alone = verify(made, last)
    assert alone.exit_code == 0, alone.output
    assert "\nnote the releases before are NOT checked" in alone.output
    whole = verify(made, last, "--earlier", first, "--uploads", made.folder / "state" / "uploads", "--json")
    assert whole.exit_code == 0, whole.output
    shown = json.loads(whole.output)
    assert shown["linked"]
    assert len(shown["members"]) == 3
    assert (
        "1 earlier releases hold as well, and the running mean is made of them and this one, exactly" in shown["checks"]
    )


def test_the_wrong_release_before_is_refused(made: Deployment) -> None:
    last = made.folder / "release" / "release-2"
    result = verify(made, last, "--earlier", last)
    assert result.exit_code == 1
    assert "earlier release 1 of 1 is not the one that was before" in result.output


def test_a_receipt_with_another_time_than_the_certificate_is_shown_as_a_proof(made: Deployment, tmp_path: Path) -> None:
    """Whatever the time: both are signed by the coordinator (protocol.md §10.4)."""
    first = made.folder / "release" / "release-1"
    certificate = parse_certificate((first / CERTIFICATE).read_bytes()).statement
    assert certificate.progress is not None
    came, upload = certificate.progress.arrivals[0], certificate.candidate.statement.members
    root = next(member.upload_root for member in upload if member.client == came.client)
    for seconds, code, word in ((0, 0, "included"), (1, 1, "misdated")):
        receipt = Receipt(
            ctx=certificate.ctx, client=came.client, upload_root=root, received_at=came.received_at + seconds
        )
        path = tmp_path / f"{word}.json"
        path.write_bytes(made.coordinator_files.signer.sign(receipt).to_bytes())
        result = verify(made, first, "--receipt", path)
        assert result.exit_code == code, result.output
        assert f": {word}: " in result.output
    assert "together they prove it to anybody" in result.output


def test_a_first_release_that_was_annotated_meanwhile_is_still_the_one_before(made: Deployment, tmp_path: Path) -> None:
    """Annotating signs the certificate again; what the later release names is the opening, which stays."""
    first, last = tmp_path / "first", made.folder / "release" / "release-2"
    shutil.copytree(made.folder / "release" / "release-1", first)
    evaluation = Evaluation(
        data_sha256="ab" * 32, data_is_public=True, description="tweets", metrics=(Metric(name="accuracy", value=0.5),)
    )
    (tmp_path / "evaluation.json").write_text(evaluation.model_dump_json())
    words = ["release", "annotate", str(first), "--evaluation", str(tmp_path / "evaluation.json")]
    done = CliRunner().invoke(cli, [*words, "--identity", str(made.folder / "parties" / "server")])
    assert done.exit_code == 0, done.output
    assert "tweets" in (first / "README.md").read_text()
    result = verify(made, last, "--earlier", first)
    assert result.exit_code == 0, result.output


def test_an_audit_takes_the_first_release_and_no_later_one(made: Deployment) -> None:
    """The adapter of a later one is a mean of several cohorts; attacks here look at one sum."""
    assert ReleasedRound.read(made.folder / "release" / "release-1").senders == 3
    with pytest.raises(AuditError, match="is release 2 of its session"):
        ReleasedRound.read(made.folder / "release" / "release-2")
