"""Image classifiers under DP: a ViT with LoRA on linear layers, a ResNet with LoRA on convolutions, real digits."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from opacus.validators import ModuleValidator
from safetensors.numpy import save_file
from torch import nn

from secagg.adapter import release_tensors
from secagg.errors import ConfigError, DataError, EncodingError, ModelError
from secagg.model_card import usage_lines
from secagg.plan import Plan, TaskSpec
from secagg.release import adapter_config_file
from secagg_client import tables
from secagg_client.data import DataConfig, Examples, load_examples
from secagg_client.evaluation import evaluate_change, evaluate_release
from secagg_client.models import LoadedBase, load_base
from secagg_client.noise import SeededSource
from secagg_client.plan_options import plan_config
from secagg_client.planning import verify_plan
from secagg_client.tasks import make_task
from secagg_client.training import train
from tests.client.gradients import gradient_error
from tests.client.images import DIGITS, digit_files, digits, make_bit, make_convnext, make_resnet, make_vit
from tests.client.support import plan_for, settings

IMAGE = TaskSpec(kind="image", labels=DIGITS)
GROUP = TaskSpec(kind="image", labels=DIGITS, options={"norm": "group"})
CONVOLUTIONS: dict[str, Any] = {"target_modules": ("convolution",), "rank": 4, "alpha": 8, "lora_clip": 1.0}


@pytest.fixture(scope="session")
def vit_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_vit(tmp_path_factory.mktemp("vit"))


@pytest.fixture(scope="session")
def resnet_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_resnet(tmp_path_factory.mktemp("resnet"))


@pytest.fixture
def vit(vit_dir: Path) -> LoadedBase:
    return load_base(str(vit_dir), IMAGE)


@pytest.fixture
def resnet(resnet_dir: Path) -> LoadedBase:
    return load_base(str(resnet_dir), GROUP)


def vit_plan(base: LoadedBase, **changes: object) -> Plan:
    settings: dict[str, Any] = {"target_modules": ("q_proj", "v_proj"), **changes}
    return plan_for(base, **settings)


def test_per_sample_gradients_of_a_vit_are_those_of_each_image_alone(vit: LoadedBase) -> None:
    task = make_task(IMAGE, vit.tokenizer)
    assert gradient_error(vit, vit_plan(vit), task, task.encode(digits(range(6)))) < 1e-4


@pytest.mark.parametrize("method", ["ffa-lora", "fedit"])
def test_per_sample_gradients_of_convolutions_are_those_of_each_image_alone(resnet: LoadedBase, method: str) -> None:
    plan = plan_for(resnet, method=method, **CONVOLUTIONS)
    assert {len(spec.shape) for spec in plan.trained if "lora_B" in spec.name} == {4}
    task = make_task(GROUP, resnet.tokenizer)
    assert gradient_error(resnet, plan, task, task.encode(digits(range(6)))) < 1e-4


@pytest.mark.parametrize("layers", [{"target_modules": ("pwconv1",)}, {"target_modules": ("dwconv",), "rank": 16}])
def test_per_sample_gradients_of_a_convnext_are_those_of_each_image_alone(
    layers: dict[str, Any], tmp_path: Path
) -> None:
    base = load_base(str(make_convnext(tmp_path)), IMAGE)
    task = make_task(IMAGE, base.tokenizer)
    assert gradient_error(base, plan_for(base, **layers), task, task.encode(digits(range(6)))) < 1e-4


def test_grouped_convolutions_that_the_rank_does_not_fit_and_standardised_ones_are_refused(tmp_path: Path) -> None:
    convnext, bit = make_convnext(tmp_path / "convnext"), make_bit(tmp_path / "bit")
    with pytest.raises(ModelError, match="choose a different rank or do not target this specific layer"):
        plan_for(load_base(str(convnext), IMAGE), target_modules=("dwconv",), rank=4)
    with pytest.raises(ModelError, match="is a WeightStandardizedConv2d: only Linear, Conv2d may be trained"):
        plan_for(load_base(str(bit), IMAGE), target_modules=("conv2",))


def test_one_image_moves_a_step_by_no_more_than_the_clipping_norm(resnet: LoadedBase) -> None:
    clip, bound = 0.05, 0.5 * 0.05 / 8
    plan = plan_for(resnet, settings(steps=1, batch_size=8, max_grad_norm=clip), **CONVOLUTIONS)
    less, more = (
        train(plan, resnet, digits(range(count)), 8, SeededSource(3)).change.astype(np.float64) for count in (7, 8)
    )
    assert 0.5 * bound < float(np.linalg.norm(more - less)) <= bound * (1 + 1e-5)


def test_digits_are_learnt_under_dp_and_the_release_scores_alike(resnet: LoadedBase, tmp_path: Path) -> None:
    training = settings(
        steps=40, batch_size=200, optimizer="adamw", learning_rate=0.02, head_learning_rate=0.05, epsilon=8.0
    )
    plan = plan_for(resnet, training, **CONVOLUTIONS)
    test = digits(range(1400, 1797))
    change = train(plan, resnet, digits(range(1400)), 1400, SeededSource(1)).change
    start, own = (evaluate_change(plan, resnet, c, test) for c in (np.zeros_like(change), change))
    assert start.accuracy is not None
    assert own.accuracy is not None
    assert start.accuracy < 0.2
    assert own.accuracy > 0.5
    save_file(release_tensors(plan, change), tmp_path / "adapter_model.safetensors", metadata={"format": "pt"})
    (tmp_path / "adapter_config.json").write_bytes(adapter_config_file(plan))
    assert evaluate_release(tmp_path, resnet, test) == own


def test_a_release_is_loaded_as_its_model_card_says(vit: LoadedBase, vit_dir: Path, tmp_path: Path) -> None:
    plan = vit_plan(vit)
    zeros = np.zeros(plan.length, np.float32)
    save_file(release_tensors(plan, zeros), tmp_path / "adapter_model.safetensors", metadata={"format": "pt"})
    (tmp_path / "adapter_config.json").write_bytes(adapter_config_file(plan))
    names: dict[str, object] = {"BASE": str(vit_dir), "FOLDER": str(tmp_path)}
    exec("\n".join(usage_lines(plan)), names)
    assert type(names["model"]).__name__ == "PeftModel"


def test_batch_norm_is_refused_and_group_norm_offered(resnet: LoadedBase, resnet_dir: Path) -> None:
    with pytest.raises(ModelError, match=r"batch norm.*options.norm = \"group\""):
        load_base(str(resnet_dir), IMAGE)
    assert resnet.architecture == "ResNetForImageClassification(GroupNorm)"
    assert not ModuleValidator.validate(resnet.model.train())
    assert any(isinstance(module, nn.GroupNorm) for module in resnet.model.modules())
    assert load_base(str(resnet_dir), GROUP).model_hash == resnet.model_hash, "nothing of it is drawn at random"


def test_the_hash_covers_how_a_config_computes(vit: LoadedBase, vit_dir: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in vit_dir.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    assert load_base(str(copy), IMAGE).model_hash == vit.model_hash
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "hidden_act": "relu"}))
    assert load_base(str(copy), IMAGE).model_hash != vit.model_hash


def test_plans_are_verified_and_products_of_convolutions_refused(resnet: LoadedBase) -> None:
    verify_plan(plan_for(resnet, **CONVOLUTIONS), resnet)
    with pytest.raises(ModelError, match="is not linear, and fed-sb takes linear layers only"):
        plan_for(resnet, method="fed-sb", **CONVOLUTIONS)
    with pytest.raises(EncodingError):
        plan_for(resnet, method="flexlora", **CONVOLUTIONS)


def test_settings_for_texts_are_refused_and_not_made_up() -> None:
    options = {"model": "m", "task": "image", "labels": ("a", "b")}
    assert plan_config(None, options).task == TaskSpec(kind="image", labels=("a", "b"))
    with pytest.raises(ConfigError, match="neither max_length nor pooling"):
        make_task(IMAGE.model_copy(update={"max_length": 8}), None)
    with pytest.raises(ConfigError, match="options of task image: norm"):
        make_task(IMAGE.model_copy(update={"options": {"norm": "layer"}}), None)


def test_paths_bytes_and_images_of_datasets_are_one_record(tmp_path: Path) -> None:
    files, labels = digit_files()
    (tmp_path / "zero.png").write_bytes(files[0])
    table = tmp_path / "paths.csv"
    table.write_text(f"image,label\nzero.png,{labels[0]}\n")
    from_path = load_examples(DataConfig(source=str(table)), IMAGE)
    raw = tmp_path / "bytes.parquet"
    Dataset.from_dict({"image": [files[0]], "label": ["0"]}, features=_features(Value("binary"))).to_parquet(raw)
    images = tmp_path / "images.parquet"
    rows = {"image": [{"bytes": files[0], "path": None}], "label": ["0"]}
    Dataset.from_dict(rows, features=_features(ImageFeature())).to_parquet(images)
    for path in (raw, images):
        found = load_examples(DataConfig(source=str(path)), IMAGE)
        assert (found.texts, found.labels) == (from_path.texts, from_path.labels)
    assert base64.b64decode(from_path.texts[0]) == files[0]


def test_a_data_set_from_a_hub_names_no_local_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "zero.png").write_bytes(digit_files()[0][0])
    table = Dataset.from_dict({"image": [str(tmp_path / "zero.png")], "label": ["0"]})
    monkeypatch.setattr(tables, "load_dataset", lambda *_args, **_kwargs: table)
    with pytest.raises(DataError, match="row 1: the image is neither a path nor a file's bytes"):
        load_examples(DataConfig(source="someone/digits"), IMAGE)


def _features(image: object) -> Features:
    return Features({"image": image, "label": Value("string")})


def test_bad_images_are_named_by_their_row(vit: LoadedBase, tmp_path: Path) -> None:
    table = tmp_path / "x.jsonl"
    table.write_text('{"image": "absent.png", "label": 1}\n')
    with pytest.raises(DataError, match="row 1: the image file cannot be read"):
        load_examples(DataConfig(source=str(table)), IMAGE)
    table.write_text('{"image": 5, "label": 1}\n')
    with pytest.raises(DataError, match="row 1: the image is neither a path nor"):
        load_examples(DataConfig(source=str(table)), IMAGE)
    good = digits(range(1))
    cut = base64.b64encode(base64.b64decode(good.texts[0])[:60]).decode()
    for bad in (cut, "no image at all", "YWJj"):
        with pytest.raises(DataError, match="digits, row 2: the image cannot be read"):
            make_task(IMAGE, vit.tokenizer).encode(Examples("digits", (good.texts[0], bad), (0, 0)))
