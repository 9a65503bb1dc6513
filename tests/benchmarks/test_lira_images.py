"""LiRA on images: the data it accepts, the nets' logits, the figures by hand, what it keeps, and all of it, tiny."""

import base64
import importlib.util
import io
import json
import math
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from secagg.errors import DataError, HashMismatch
from secagg_app import assets
from secagg_attacks.membership.shadow import Shadows
from secagg_attacks.roc import Scores, auc, tpr_at

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "lira_images.py"


@pytest.fixture(scope="module")
def study() -> Any:
    """The script, loaded by its path: another package installs a `benchmarks` of its own."""
    spec = importlib.util.spec_from_file_location("lira_images", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["lira_images"] = module
    spec.loader.exec_module(module)
    return module


# -- images ----------------------------------------------------------------------------------------------------


def png(value: int, side: int = 32) -> str:
    stream = io.BytesIO()
    Image.new("RGB", (side, side), (value, 0, 255)).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def archive_of(study: Any, path: Path, inputs: list[str], name: str | None = None) -> Path:
    classes = ["truck", "bird"]
    rows = [
        {"input": text, "target_scores": {label: int(label == classes[row % 2]) for label in classes}}
        for row, text in enumerate(inputs)
    ]
    content = json.dumps({"examples": rows}).encode()
    info = tarfile.TarInfo(name or study.MEMBER)
    info.size = len(content)
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(info, io.BytesIO(content))
    return path


def test_images_and_classes_come_out_of_the_archive(study: Any, tmp_path: Path) -> None:
    images = study.read_images(archive_of(study, tmp_path / "a.tar.gz", [png(0), png(51), png(255)]))
    assert images.pixels.shape == (3, 3, 32, 32)
    assert images.labels.tolist() == [1, 0, 1], "classes are numbered by name"
    wanted = np.array([[-1, -1, 1], [-0.6, -1, 1], [1, -1, 1]])
    np.testing.assert_allclose(images.pixels[:, :, 5, 7].numpy(), wanted, atol=1e-6)


def test_images_that_would_spoil_the_figures_are_refused(study: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is there twice"):
        study.read_images(archive_of(study, tmp_path / "twice.tar.gz", [png(3), png(4), png(3)]))
    with pytest.raises(DataError, match="was expected"):
        study.read_images(archive_of(study, tmp_path / "size.tar.gz", [png(3, side=16)]))
    with pytest.raises(DataError, match="holds no bigbench"):
        study.read_images(archive_of(study, tmp_path / "none.tar.gz", [png(3)], name="other.json"))


def test_only_the_pinned_archive_is_read(study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(assets.CACHE_VARIABLE, str(tmp_path))
    path = archive_of(study, tmp_path / "bigbench-1.0.0.tar.gz", [png(3)])
    with pytest.raises(HashMismatch, match="is pinned"):
        study.archive(lambda _: None)
    assert not path.exists()
    assert len(bytes.fromhex(study.BIGBENCH.sha256)) == 32


# -- models ----------------------------------------------------------------------------------------------------


def test_the_right_classes_logit_is_exact_where_a_probability_rounds_to_one(study: Any) -> None:
    outputs = torch.tensor([[0.0, 1.0, 2.0], [60.0, 0.0, 0.0], [0.0, 60.0, 0.0]], dtype=torch.float64)
    found = study.right_logits(outputs, torch.tensor([2, 0, 0]))
    odds = [2 - math.log(1 + math.e), 60 - math.log(2), -math.log(math.exp(60) + 1)]
    np.testing.assert_allclose(found, odds)


def test_coins_are_fair_independent_and_never_for_the_population(study: Any) -> None:
    settings, count = study.Settings(), 10_000
    thrown = np.stack([study.coins(settings, model, count) for model in range(3)])
    pool, population = study.pool_of(settings, count)
    assert len(population) == 1000
    assert sorted([*pool, *population]) == list(range(count))
    assert not thrown[:, population].any()
    assert np.abs(thrown[:, pool].mean(axis=1) - 0.5).max() < 0.03
    assert np.abs(np.corrcoef(thrown[:, pool])[np.triu_indices(3, 1)]).max() < 0.05
    np.testing.assert_array_equal(thrown[0], study.coins(settings, 0, count))


def test_nets_have_group_norm_and_no_batch_norm(study: Any) -> None:
    kinds = [type(layer).__name__ for layer in study.network(8)]
    assert kinds.count("GroupNorm") == 3
    assert not any("BatchNorm" in kind for kind in kinds)


# -- figures ---------------------------------------------------------------------------------------------------


def test_the_published_formulas_by_hand(study: Any) -> None:
    """Logits of one image: in 4 and 6 and 11, out 0 and 1 and 5; the target's is 5."""
    seen = np.array([[4.0], [6.0], [11.0], [0.0], [1.0], [5.0]])
    shadows = Shadows(1 / (1 + np.exp(-seen)), np.array([[True]] * 3 + [[False]] * 3))
    target = 1 / (1 + np.exp(-np.array([5.0])))
    deviations = np.std([4, 6, 11]), np.std([0, 1, 5])
    inside, outside = (stats.norm.logpdf(5, centre, d) for centre, d in zip((6, 1), deviations, strict=True))
    alike = stats.norm.logpdf(5, 6, deviations[0]) - stats.norm.logpdf(5, 1, deviations[0])
    found = {
        (mode, fixed): study.published(target, shadows, mode=mode, fixed=fixed)[0]
        for mode in study.MODES
        for fixed in (False, True)
    }
    assert found["online", False] == pytest.approx(inside - outside)
    assert found["online", True] == pytest.approx(alike), "one deviation for in and out"
    assert found["offline", False] == found["offline", True] == pytest.approx(-outside), "far on either side"


def test_one_threshold_for_all_targets_is_that_of_the_pooled_scores(study: Any) -> None:
    rng = np.random.default_rng(3)
    targets = [Scores(rng.normal(shift, 1, 4000), rng.normal(0, 1, 5000)) for shift in (0.5, 1.0, 1.5)]
    together = study.pooled(targets)
    assert len(together.nonmembers) == 15_000
    rates = study.at_pooled_threshold(targets, 0.001)
    assert np.mean(rates) == pytest.approx(tpr_at(together, 0.001)), "as many members each"
    assert rates == sorted(rates)


def test_rates_without_enough_nonmembers_are_left_out(study: Any) -> None:
    rng = np.random.default_rng(3)

    def measured(count: int, nonmembers: int) -> set[str]:
        return set(study.measures([Scores(rng.normal(size=50), rng.normal(size=nonmembers)) for _ in range(count)]))

    assert measured(2, 999) == {"auc"}
    assert measured(2, 1000) == {"auc", "tpr_at_0.01"}
    assert measured(10, 1000) == {"auc", "tpr_at_0.01", "tpr_at_0.001"}


def made_up(study: Any, **changed: float) -> dict[str, dict[str, list[float]]]:
    """Five targets that have the published figures, but for the TPR at .1% of some rows, and small differences."""
    wiggle = np.array([-2, -1, 0, 1, 2]) * 1e-5
    return {
        name: {
            "auc": list(row["auc"] + wiggle),
            "tpr_at_0.001": list(changed.get(name.replace(" ", "_"), row["tpr_at_0.001"]) + wiggle[::-1]),
        }
        for name, row in study.PUBLISHED.items()
    }


def test_the_published_rows_read_as_published(study: Any) -> None:
    found = study.readings(made_up(study))
    assert found["published_order_holds"] == {"auc": True, "tpr_at_0.001": True}
    assert found["chain_holds"] == {"fixed": True, "own": True}
    assert found["shape_holds"]
    assert [len(pairs) for pairs in found["pairs"].values()] == [10, 10]


def test_another_order_reads_otherwise(study: Any) -> None:
    found = study.readings(made_up(study, offline_fixed=0.08))
    pairs = found["pairs"]["tpr_at_0.001"]
    assert pairs["online fixed > offline fixed"]["verdict"] == "the other way"
    assert pairs["online fixed > online"]["verdict"] == "as published"
    assert found["chain_holds"] == {"fixed": False, "own": True}
    assert found["published_order_holds"] == {"auc": True, "tpr_at_0.001": False}
    same = study.readings(made_up(study, online=0.0130))
    assert same["pairs"]["tpr_at_0.001"]["online > offline"]["verdict"] == "not told apart"
    assert not study.readings(made_up(study, global_threshold=0.003))["shape_holds"]


def test_no_rate_no_word_on_it(study: Any) -> None:
    values = {name: {"auc": row["auc"]} for name, row in made_up(study).items()}
    found = study.readings(values)
    assert found["published_order_holds"] == {"auc": True}
    assert "chain_holds" not in found
    assert "shape_holds" not in found


# -- all of it -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(study: Any) -> tuple[Any, Any]:
    """Eight small nets on 240 images of noise, which can only be memorised."""
    settings = study.Settings(models=8, population=40, width=8, epochs=40, batch=16)
    generator = torch.Generator().manual_seed(1)
    pixels = torch.rand(240, 3, 32, 32, generator=generator) * 2 - 1
    return settings, study.Images(pixels, torch.randint(0, 10, (240,), generator=generator))


def test_an_interrupted_run_goes_on_and_gives_the_same(
    study: Any, tiny: tuple[Any, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, images = tiny
    kept = study.kept_folder(tmp_path / "out.json", settings)
    first = study.all_models(settings, images, kept)
    assert capsys.readouterr().err.count(" of 8: loss") == 8
    (kept / "5.npz").unlink()
    again = study.all_models(settings, images, kept)
    assert capsys.readouterr().err.startswith("model 6 of 8")
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.logits, other.logits)
        np.testing.assert_array_equal(one.is_in, other.is_in)
    assert kept != study.kept_folder(tmp_path / "out.json", study.Settings())

    found = study.report(settings, first)
    json.dumps(found, allow_nan=False)
    assert not found["real"]
    assert set(study.PUBLISHED) <= set(found["arms"])
    assert found["arms"]["global threshold"]["auc"]["low"] > 0.9, "noise is known by heart or not at all"
    assert found["arms"]["online fixed"]["auc"]["low"] > 0.9
    assert found["members"] + found["nonmembers"] == 8 * 200
    assert "tpr_at_0.01" not in found["arms"]["online"]
    for each in found["controls"]["auc_of_other_coins"].values():
        assert 0.4 < each["mean"] < 0.6


def test_scores_of_members_lie_above(study: Any, tiny: tuple[Any, Any]) -> None:
    """Models made up: a member's logit is 8 higher than the same image's elsewhere, on average."""
    settings = replace(tiny[0], models=17)
    rng = np.random.default_rng(0)
    models = []
    for model in range(settings.models):
        is_in = study.coins(settings, model, 240)
        models.append(study.Trained(rng.normal(0, 1, 240) + 8 * is_in, is_in, 0.0, 1.0, 0.1, 0.0))
    pool = study.pool_of(settings, 240)[0]
    scores = study.by_membership(study.scores_of(settings, models), [model.is_in[pool] for model in models])
    for name in ("online fixed", "offline fixed", "global threshold", "published formula: online fixed"):
        assert min(auc(each) for each in scores[name]) > 0.99, name
