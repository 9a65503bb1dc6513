"""Layers below the lowest adapter are computed once: the same update as when they are computed in each step."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from secagg_client import prefix, training
from secagg_client.adapted import attached
from secagg_client.models import LoadedBase
from secagg_client.noise import SeededSource
from secagg_client.prefix import PrefixTask, frozen_depth, training_task
from secagg_client.tasks import make_task
from secagg_client.training import train
from tests.client.support import LM, MEAN, examples, loaded, plan_for, settings

CPU = torch.device("cpu")


@pytest.fixture
def base(tiny_bert_dir: Path) -> LoadedBase:
    return loaded(tiny_bert_dir, MEAN)


@pytest.mark.parametrize("epsilon", [4.0, None])
def test_the_update_is_the_same_with_and_without_kept_layers(
    base: LoadedBase, monkeypatch: pytest.MonkeyPatch, epsilon: float | None
) -> None:
    plan = plan_for(base, settings(epsilon=epsilon), layers=(1,))
    options = training.TrainOptions(allow_no_dp=True, device="cpu")
    kept = train(plan, base, examples(40, MEAN), 48, SeededSource(1), options=options)
    monkeypatch.setattr(training, "training_task", lambda plan, base, _device: make_task(plan.task, base.tokenizer))
    anew = train(plan, base, examples(40, MEAN), 48, SeededSource(1), options=options)
    np.testing.assert_allclose(kept.change, anew.change, atol=2e-5)
    assert np.abs(anew.change).max() > 1e-2


def test_logits_from_kept_layers_are_those_of_the_whole_model(base: LoadedBase) -> None:
    plan = plan_for(base, layers=(1,), head_start="seeded")
    task = training_task(plan, base, CPU)
    assert isinstance(task, PrefixTask)
    rows = task.encode(examples(12, MEAN))
    with attached(plan, base) as adapted, torch.no_grad():
        batch = task.collate(rows)
        whole = make_task(plan.task, base.tokenizer).losses(adapted.model, batch)
        torch.testing.assert_close(task.losses(adapted.model, batch), whole, atol=1e-5, rtol=1e-5)


def test_the_model_is_whole_again_afterwards(base: LoadedBase) -> None:
    names = [name for name, _ in base.model.named_parameters()]
    train(plan_for(base, layers=(1,)), base, examples(30, MEAN), 32, SeededSource(1))
    assert [name for name, _ in base.model.named_parameters()] == names


def test_an_error_in_the_middle_leaves_the_model_whole(base: LoadedBase) -> None:
    encoder: Any = base.model.encoder
    stack, embeddings = encoder.encoder.layer, encoder.embeddings
    with pytest.raises(RuntimeError), prefix.only_layers(encoder, slice(1, None), torch.zeros(1, 2, 32)):
        raise RuntimeError
    assert encoder.encoder.layer is stack
    assert isinstance(stack, nn.ModuleList)
    assert encoder.embeddings is embeddings


def test_too_much_to_keep_is_computed_anew(base: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix, "MAX_BYTES", 1000)
    plan = plan_for(base, layers=(1,))
    task = training_task(plan, base, CPU)
    rows = task.encode(examples(12, MEAN))
    with attached(plan, base) as adapted, torch.no_grad():
        batch = task.collate(rows)
        whole = make_task(plan.task, base.tokenizer).losses(adapted.model, batch)
        assert torch.equal(task.losses(adapted.model, batch), whole)


def test_adapters_on_the_lowest_layer_leave_nothing_to_keep(base: LoadedBase, tiny_llama_dir: Path) -> None:
    assert frozen_depth(plan_for(base)) == 0
    assert frozen_depth(plan_for(base, layers=(1,))) == 1
    assert not isinstance(training_task(plan_for(base), base, CPU), PrefixTask)
    causal = loaded(tiny_llama_dir, LM)
    assert not isinstance(training_task(plan_for(causal, layers=(1,)), causal, CPU), PrefixTask)
