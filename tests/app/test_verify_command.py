"""`secagg verify` and `secagg release annotate` on a release folder (protocol.md §10)."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from secagg.canonical import pretty_bytes
from secagg.certificate import CERTIFICATE, FILES, Evaluation, Metric
from secagg.messages import Receipt, SignedReceipt
from secagg.policy import Anchors
from secagg_app.annotate import exchange_folder, finish_exchange
from secagg_app.main import cli
from secagg_app.verify import read_release
from tests.deployment import Deployment
from tests.study import toml

HASH = "ab" * 32


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    """A release by the real server, with its uploads."""
    deployment = Deployment(tmp_path_factory.mktemp("hub"), close_at=4)
    with deployment.running() as running:
        running.approve()
        running.upload_all()
        running.work()
    (deployment.folder / "policy.toml").write_text(toml(deployment.policy.model_dump(mode="json")))
    anchors = deployment.policy.model_dump(mode="json", include=set(Anchors.model_fields))
    (deployment.folder / "anchors.toml").write_text(toml(anchors))
    return deployment


@pytest.fixture
def release(made: Deployment, tmp_path: Path) -> Path:
    shutil.copytree(made.folder / "release", tmp_path / "release")
    return tmp_path / "release"


def verify(made: Deployment, release: Path, *args: str | Path, trust: str = "anchors.toml") -> Result:
    words = ["verify", str(release), "--trust", str(made.folder / trust), *map(str, args)]
    return CliRunner().invoke(cli, words)


@pytest.mark.parametrize("trust", ["anchors.toml", "policy.toml"])
def test_a_good_release(made: Deployment, release: Path, trust: str) -> None:
    result = verify(made, release, trust=trust)
    assert result.exit_code == 0, result.output
    assert "\nnote the sum is NOT linked to the uploads" in result.output
    assert "\nok   " in f"\n{result.output}"


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        ({"max_epsilon": 1.0}, "epsilon 8.0 is above the policy's 1.0"),
        ({"client_noise": "required"}, "client-level noise"),
    ],
)
def test_a_whole_policy_holds_its_limits_too(
    made: Deployment, release: Path, limit: dict[str, object], words: str
) -> None:
    """Who gives a policy as anchors is not told `verified` of what the policy would have refused."""
    stricter = made.policy.model_dump(mode="json") | limit
    (made.folder / "stricter.toml").write_text(toml(stricter))
    result = verify(made, release, trust="stricter.toml")
    assert result.exit_code == 1
    assert words in result.output + result.stderr


@pytest.mark.parametrize("inner", [True, False])
def test_with_the_uploads_the_sum_is_linked(made: Deployment, release: Path, inner: bool) -> None:
    uploads = made.folder / "state" / "uploads"
    result = verify(made, release, "--uploads", uploads / made.descriptor.ctx if inner else uploads, "--json")
    assert result.exit_code == 0, result.output
    shown = json.loads(result.output)
    assert shown["verified"] is True
    assert shown["linked"] is True
    assert len(shown["members"]) == 4


@pytest.mark.parametrize("change", ["alter", "shorten", "remove"])
def test_an_upload_that_is_not_the_one(made: Deployment, release: Path, tmp_path: Path, change: str) -> None:
    uploads = tmp_path / "uploads"
    shutil.copytree(made.folder / "state" / "uploads" / made.descriptor.ctx, uploads)
    path = sorted(uploads.glob("*.ct"))[0]
    raw = path.read_bytes()
    match change:
        case "alter":
            path.write_bytes(raw[:100] + bytes([raw[100] ^ 1]) + raw[101:])
        case "shorten":
            path.write_bytes(raw[:-1])
        case _:
            path.unlink()
    result = verify(made, release, "--uploads", uploads)
    assert result.exit_code == 1
    assert path.stem[:16] in result.stderr


@pytest.mark.parametrize("name", [*FILES, CERTIFICATE])
@pytest.mark.parametrize("place", [0.0, 0.3, 0.7, 1.0])
def test_a_flipped_byte_in_any_file(made: Deployment, release: Path, name: str, place: float) -> None:
    raw = bytearray((release / name).read_bytes())
    raw[round(place * (len(raw) - 1))] ^= 1
    (release / name).write_bytes(bytes(raw))
    result = verify(made, release, "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["verified"] is False
    assert result.stderr.startswith("error[")


@pytest.mark.parametrize("name", [*FILES, CERTIFICATE])
def test_a_missing_file(made: Deployment, release: Path, name: str) -> None:
    (release / name).unlink()
    result = verify(made, release)
    assert result.exit_code == 1
    assert "is missing" in result.stderr


def test_a_stranger_in_the_folder(made: Deployment, release: Path) -> None:
    (release / "model.bin").write_bytes(b"x")
    assert "does not belong to the release" in verify(made, release).stderr
    (release / "model.bin").unlink()
    (release / "more").mkdir()
    assert "not a plain file" in verify(made, release).stderr


def test_anchors_that_pin_somebody_else(made: Deployment, release: Path) -> None:
    text = (made.folder / "anchors.toml").read_text()
    fingerprint = made.coordinator_files.identity.fingerprint
    (made.folder / "other.toml").write_text(text.replace(fingerprint, HASH))
    result = verify(made, release, trust="other.toml")
    assert result.exit_code == 1
    assert "error[policy]: the coordinator is not the one that is pinned" in result.stderr


def test_a_folder_that_is_not_there(made: Deployment, release: Path, tmp_path: Path) -> None:
    assert verify(made, tmp_path / "nowhere").exit_code == 1
    without = verify(made, release, "--uploads", tmp_path / "nowhere")
    assert without.exit_code == 1
    assert "there is no such folder of uploads" in without.stderr


# -- receipts


def receipt_of(made: Deployment, tmp_path: Path, index: int, **changes: object) -> Path:
    """The receipt that the coordinator gave client `index`, or one that it signed for something else."""
    client, upload = made.client_files[index].identity.fingerprint, made.uploads[index].signed.statement
    given = Receipt(ctx=made.descriptor.ctx, client=client, upload_root=upload.upload_root, received_at=made.clock())
    signed = made.coordinator_files.signer.sign(given.model_copy(update=changes))
    (tmp_path / "receipt.json").write_bytes(signed.to_bytes())
    return tmp_path / "receipt.json"


def test_a_receipt_of_an_upload_that_is_in_the_sum(made: Deployment, release: Path, tmp_path: Path) -> None:
    result = verify(made, release, "--receipt", receipt_of(made, tmp_path, 0))
    assert result.exit_code == 0, result.output
    assert "included: the upload is in the sum" in result.output
    shown = json.loads(verify(made, release, "--receipt", tmp_path / "receipt.json", "--json").output)
    assert shown["receipt"]["fate"] == "included"


def test_a_receipt_of_an_upload_that_the_release_does_not_have_is_a_proof(
    made: Deployment, release: Path, tmp_path: Path
) -> None:
    path = receipt_of(made, tmp_path, 1, upload_root=HASH)
    result = verify(made, release, "--receipt", path)
    assert result.exit_code == 1
    assert "error[dropped]: the coordinator signed a receipt" in result.stderr
    assert "together they prove it" in result.stderr
    assert "dropped: the certificate lists another upload in this client's name" in result.stdout
    shown = json.loads(verify(made, release, "--receipt", path, "--json").stdout)
    assert shown["verified"] is True
    assert shown["receipt"]["fate"] == "dropped"


def test_a_receipt_that_proves_nothing(made: Deployment, release: Path, tmp_path: Path) -> None:
    path = receipt_of(made, tmp_path, 0, ctx=HASH)
    assert "error[protocol]: the receipt is for session" in verify(made, release, "--receipt", path).stderr
    forged = made.client_files[0].signer.sign(SignedReceipt.parse(path.read_bytes()).statement)
    path.write_bytes(forged.to_bytes())
    assert "error[signature]" in verify(made, release, "--receipt", path).stderr
    path.write_bytes(b"{}")
    assert "error[malformed]" in verify(made, release, "--receipt", path).stderr


# -- annotate --------------------------------------------------------------------------------------------------


def annotate(made: Deployment, release: Path, tmp_path: Path, identity: str = "server") -> Result:
    found = Evaluation(
        data_sha256=HASH,
        data_is_public=True,
        description="Made-up sentences",
        metrics=(Metric(name="accuracy", value=0.75),),
    )
    (tmp_path / "evaluation.json").write_bytes(pretty_bytes(found))
    words = ["release", "annotate", str(release), "--evaluation", str(tmp_path / "evaluation.json"), "--identity"]
    return CliRunner().invoke(cli, [*words, str(made.folder / "parties" / identity)])


def test_an_evaluation_is_attached_and_the_release_still_verifies(
    made: Deployment, release: Path, tmp_path: Path
) -> None:
    adapter = (release / "adapter_model.safetensors").read_bytes()
    result = annotate(made, release, tmp_path)
    assert result.exit_code == 0, result.output
    assert verify(made, release).exit_code == 0
    assert "Made-up sentences" in (release / "README.md").read_text()
    assert (release / "adapter_model.safetensors").read_bytes() == adapter
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_an_altered_release_is_not_signed_again(made: Deployment, release: Path, tmp_path: Path) -> None:
    raw = bytearray((release / "adapter_model.safetensors").read_bytes())
    raw[-1] ^= 1
    (release / "adapter_model.safetensors").write_bytes(bytes(raw))
    before = read_release(release)
    result = annotate(made, release, tmp_path)
    assert result.exit_code == 1
    assert "error[hash]" in result.stderr
    assert read_release(release) == before


def test_only_the_release_s_own_coordinator_annotates(made: Deployment, release: Path, tmp_path: Path) -> None:
    assert made.outsiders
    result = annotate(made, release, tmp_path, "strange-server")
    assert result.exit_code == 1
    assert "error[signature]" in result.stderr


def test_an_interrupted_exchange_leaves_the_old_or_the_new(release: Path) -> None:
    old = read_release(release)
    release.rename(release.with_name(".release.old"))
    release.with_name(".release.draft").mkdir()
    finish_exchange(release)
    assert read_release(release) == old
    new = {**old, "README.md": b"new"}
    exchange_folder(release, new)
    assert read_release(release) == new
    assert sorted(path.name for path in release.parent.iterdir()) == ["release"]
