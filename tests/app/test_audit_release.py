"""`secagg audit release` and `secagg attack` on releases of every kind of method."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from secagg.coordinator import SessionSpec
from secagg_app.main import cli
from tests.attacks.test_aggregation_cohorts import again
from tests.client.support import MEAN, loaded, plan_for, settings
from tests.client.test_local_training import write_data
from tests.small import DAY, Small, small_plan

METHODS: dict[str, dict[str, Any]] = {
    "ffa-lora": {},
    "fed-sb": {},
    "sketch": {"options": {"size": 16}},
    "flexlora": {},
}
OTHERS = [name for name in METHODS if name != "ffa-lora"]


def write_release(small: Small, folder: Path) -> Path:
    """What the coordinator publishes."""
    folder.mkdir(parents=True)
    for name, content in small.release.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def releases(tiny_bert_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One of each method, of made-up updates."""
    base, root = loaded(tiny_bert_dir, MEAN), tmp_path_factory.mktemp("releases")
    spec = SessionSpec(n_min=3, n_max=4, bits=24, upload_seconds=DAY, expiry_seconds=2 * DAY)
    found = dict[str, Path]()
    for method, more in METHODS.items():
        plan = plan_for(base, settings(noise="secure"), method=method, **more)
        found[method] = write_release(Small(plan=plan, spec=spec), root / method)
    return found


def run(words: list[object]) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


def tables(folder: Path) -> list[object]:
    for name, seed in (("in", 0), ("out", 77)):
        write_data(folder / f"{name}.jsonl", 60, seed=seed)
    return ["--members", folder / "in.jsonl", "--nonmembers", folder / "out.jsonl"]


def audit(release: Path, base: Path, folder: Path) -> dict[str, Any]:
    done = run(["audit", "release", release, *tables(folder), "--base", base, "--out", folder / "out"])
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads((folder / "out" / "exposure.json").read_text())
    return found


def test_sums_and_model_are_attacked_where_the_release_is_a_change_of_what_clients_train(
    releases: dict[str, Path], tiny_bert_dir: Path, tmp_path: Path
) -> None:
    found = audit(releases["ffa-lora"], tiny_bert_dir, tmp_path)
    assert [each["view"] for each in found["views"]] == ["v2", "v3"]
    assert not any("v2 is not asked" in note for note in found["notes"])


@pytest.mark.parametrize("method", OTHERS)
def test_the_model_alone_is_attacked_where_another_adapter_is_released(
    method: str, releases: dict[str, Path], tiny_bert_dir: Path, tmp_path: Path
) -> None:
    found = audit(releases[method], tiny_bert_dir, tmp_path)
    assert [each["view"] for each in found["views"]] == ["v3"]
    assert set(found["views"][0]["by_attack"]) >= {"loss", "reference-difference", "trajectory"}
    assert "releases another adapter than clients train" in found["undefined"]["v3/update-cosine"]
    (note,) = [note for note in found["notes"] if note.startswith("v2 is not asked")]
    assert f"method {method} releases another adapter" in note
    assert "v2 is not asked" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize("method", OTHERS)
def test_one_attack_on_the_model_goes_and_one_on_the_sums_says_why_not(
    method: str, releases: dict[str, Path], tiny_bert_dir: Path, tmp_path: Path
) -> None:
    words = ["--run", releases[method], *tables(tmp_path), "--base", tiny_bert_dir]
    done = run(["attack", "loss", "--view", "v3", *words])
    assert done.exit_code == 0, done.output
    assert len(json.loads(done.output)["area"]) == 3
    done = run(["attack", "update-cosine", "--view", "v2", *words])
    assert done.exit_code == 1
    assert "its sums are no change of theirs" in done.output


# -- several releases ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def overlapping(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Sessions of the same parties; `other` is of another adapter. No model is at hand for any."""
    root, four = tmp_path_factory.mktemp("overlapping"), Small(clients=4)
    sessions = {
        "four": four,
        "three": again(four, ["Hospital 1", "Hospital 2", "Hospital 3"]),
        "again": again(four, list(four.changes)),
        "other": Small(clients=4, plan=small_plan(length=301)),
    }
    return {name: write_release(small, root / name) for name, small in sessions.items()}


def test_certificates_alone_say_who_is_isolated(overlapping: dict[str, Path], tmp_path: Path) -> None:
    done = run(["audit", "release", overlapping["four"], "--other", overlapping["three"], "--out", tmp_path])
    assert done.exit_code == 0, done.output
    assert "isolated: Hospital 4 by releases 1 and 2" in done.output
    assert "nobody sees a single contribution" in done.output
    found = json.loads((tmp_path / "exposure.json").read_text())
    assert found["views"] == []
    assert found["together"]["reading"] == "isolated: Hospital 4 by releases 1 and 2"
    assert found["together"]["isolated"][0]["weights"] == {"Hospital 4": 1}
    (pair,) = found["together"]["pairs"]
    assert pair["only_first"] == ["Hospital 4"]
    page = (tmp_path / "report.html").read_text()
    assert "Isolated: Hospital 4 by releases 1 and 2" in page
    assert "Membership was not asked" not in page, "it was not a question"


def test_the_same_cohort_again_isolates_nobody(overlapping: dict[str, Path], tmp_path: Path) -> None:
    done = run(["audit", "release", overlapping["four"], "--other", overlapping["again"], "--out", tmp_path])
    assert done.exit_code == 0, done.output
    assert "no client is isolated by these 2 releases" in done.output
    assert "no client is isolated by these 2 releases" in (tmp_path / "report.html").read_text().lower()


def test_three_releases_are_numbered_in_the_order_of_the_command(overlapping: dict[str, Path], tmp_path: Path) -> None:
    words = [part for name in ("again", "three") for part in ("--other", overlapping[name])]
    done = run(["audit", "release", overlapping["four"], *words, "--out", tmp_path])
    assert "isolated: Hospital 4 by releases 1 and 3" in done.output


def test_releases_that_cannot_be_combined_are_refused(overlapping: dict[str, Path], tmp_path: Path) -> None:
    cases = [
        (overlapping["other"], "is of another plan than release 1"),
        (overlapping["four"], "give each release once"),
        (tmp_path, "has no release.json"),
    ]
    for other, said in cases:
        done = run(["audit", "release", overlapping["four"], "--other", other, "--out", tmp_path / "out"])
        assert done.exit_code == 1, done.output
        assert said in done.output
        assert not (tmp_path / "out").exists(), "nothing is half-written"


def test_membership_and_cohorts_are_asked_together(
    releases: dict[str, Path], tiny_bert_dir: Path, tmp_path: Path
) -> None:
    plan = plan_for(loaded(tiny_bert_dir, MEAN), settings(noise="secure"))
    elsewhere = write_release(Small(clients=3, plan=plan), tmp_path / "elsewhere")
    words = [*tables(tmp_path), "--base", tiny_bert_dir, "--other", elsewhere, "--out", tmp_path / "out"]
    done = run(["audit", "release", releases["ffa-lora"], *words])
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "out" / "exposure.json").read_text())
    assert [each["view"] for each in found["views"]] == ["v2", "v3"]
    assert found["together"]["reading"].startswith("isolated: Hospital 4")
    assert any("training settings" in note or "by name" in note for note in found["together"]["notes"])
