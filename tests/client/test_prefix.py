"""Layers below the lowest adapter are computed once: the same update as when they are computed in each step."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from secagg_client import prefix, training
from secagg_client.adapted import attached
from secagg_client.models import LoadedBase
from secagg_client.noise import SeededSource
from secagg_client.prefix import DECODER, ENCODER, KeptPrefix, Layout, frozen_depth, training_task
from secagg_client.tasks import AnyTask, make_task
from secagg_client.training import train
from tests.client.support import LM, MEAN, examples, loaded, plan_for, settings
from tests.tiny import VOCABULARY, save_tokenizer

CPU = torch.device("cpu")


@pytest.fixture
def base(tiny_bert_dir: Path) -> LoadedBase:
    return loaded(tiny_bert_dir, MEAN)


@pytest.fixture(params=["encoder", "decoder"])
def either(request: pytest.FixtureRequest, tiny_bert_dir: Path, tiny_llama_dir: Path) -> LoadedBase:
    return loaded(tiny_bert_dir, MEAN) if request.param == "encoder" else loaded(tiny_llama_dir, LM)


def keeps(task: AnyTask) -> bool:
    return isinstance(getattr(task, "_prefix", None), KeptPrefix)


def test_layers_that_are_treated_by_their_number_are_not_kept(tmp_path: Path) -> None:
    """Sliding attention in some: cut out, the layers above would get the masks of those below."""
    config = Qwen3Config(
        vocab_size=len(VOCABULARY), hidden_size=32, num_hidden_layers=4, num_attention_heads=2, num_key_value_heads=1,
        head_dim=16, intermediate_size=64, max_position_embeddings=64, pad_token_id=0, use_sliding_window=True,
        sliding_window=4, max_window_layers=2,
    )  # fmt: skip
    Qwen3ForCausalLM(config).save_pretrained(tmp_path)
    save_tokenizer(tmp_path, encoder=False)
    mixed = loaded(tmp_path, LM)
    plan = plan_for(mixed, target_modules=("q_proj", "v_proj"), layers=(2, 3))
    assert not keeps(training_task(plan, mixed, CPU))
    own: Any = mixed.model.config
    own.layer_types = ["full_attention"] * 4
    assert keeps(training_task(plan, mixed, CPU))


@pytest.mark.parametrize("epsilon", [4.0, None])
def test_the_update_is_the_same_with_and_without_kept_layers(
    either: LoadedBase, monkeypatch: pytest.MonkeyPatch, epsilon: float | None
) -> None:
    plan = plan_for(either, settings(epsilon=epsilon), layers=(1,))
    options = training.TrainOptions(allow_no_dp=True, device="cpu")
    assert keeps(training_task(plan, either, CPU))
    kept = train(plan, either, examples(40, either.task), 48, SeededSource(1), options=options)
    monkeypatch.setattr(training, "training_task", lambda plan, base, _device: make_task(plan.task, base.tokenizer))
    anew = train(plan, either, examples(40, either.task), 48, SeededSource(1), options=options)
    np.testing.assert_allclose(kept.change, anew.change, atol=2e-5)
    assert np.abs(anew.change).max() > 1e-3


def test_losses_from_kept_layers_are_those_of_the_whole_model(either: LoadedBase) -> None:
    plan = plan_for(either, layers=(1,), head_start="seeded" if either.head else "zeros")
    task = training_task(plan, either, CPU)
    assert keeps(task)
    rows = task.encode(examples(12, either.task))
    with attached(plan, either) as adapted, torch.no_grad():
        batch = task.collate(rows)
        whole = make_task(plan.task, either.tokenizer).losses(adapted.model, batch)
        torch.testing.assert_close(task.losses(adapted.model, batch), whole, atol=1e-5, rtol=1e-5)


def test_the_model_is_whole_again_afterwards(either: LoadedBase) -> None:
    names = [name for name, _ in either.model.named_parameters()]
    train(plan_for(either, layers=(1,)), either, examples(30, either.task), 32, SeededSource(1))
    assert [name for name, _ in either.model.named_parameters()] == names


@pytest.mark.parametrize("layout", [ENCODER, DECODER])
def test_an_error_in_the_middle_leaves_the_model_whole(
    layout: Layout, tiny_bert_dir: Path, tiny_llama_dir: Path
) -> None:
    stack: Any = (
        loaded(tiny_bert_dir, MEAN).model.encoder if layout is ENCODER else loaded(tiny_llama_dir, LM).model.model
    )
    before = dict(stack.named_modules())
    with pytest.raises(RuntimeError), prefix.only_above(stack, layout, 1, torch.zeros(1, 2, 32)):
        raise RuntimeError
    assert dict(stack.named_modules()) == before
    with pytest.raises(RuntimeError), prefix.only_lowest(stack, layout, 1):
        raise RuntimeError
    assert dict(stack.named_modules()) == before


def test_too_much_to_keep_is_computed_anew(base: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix, "MAX_BYTES", 1000)
    plan = plan_for(base, layers=(1,))
    task = training_task(plan, base, CPU)
    rows = task.encode(examples(12, MEAN))
    with attached(plan, base) as adapted, torch.no_grad():
        batch = task.collate(rows)
        whole = make_task(plan.task, base.tokenizer).losses(adapted.model, batch)
        assert torch.equal(task.losses(adapted.model, batch), whole)


def test_adapters_on_the_lowest_layer_leave_nothing_to_keep(either: LoadedBase) -> None:
    layout = ENCODER if either.head else DECODER
    assert frozen_depth(plan_for(either), layout) == 0
    assert frozen_depth(plan_for(either, layers=(1,)), layout) == 1
    assert not keeps(training_task(plan_for(either), either, CPU))


def test_what_is_kept_is_not_computed_again(either: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    task = training_task(plan_for(either, layers=(1,)), either, CPU)
    task.encode(examples(12, either.task))
    monkeypatch.setattr(prefix, "only_lowest", lambda *_: pytest.fail("computed again"))
    task.encode(examples(12, either.task))
