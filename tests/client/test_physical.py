"""Physical batches: every example once, within memory, little padding."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertConfig, PretrainedConfig

from secagg_client import physical
from secagg_client.physical import Footprint, PhysicalBatches, free_bytes
from secagg_client.tasks import Encoded

MINILM = Footprint(layers=6, hidden=384, heads=12, values=36_864)


def rows(lengths: list[int]) -> list[Encoded]:
    return [Encoded((number, *range(length - 1)), number) for number, length in enumerate(lengths)]


@settings(deadline=None)
@given(lengths=st.lists(st.integers(1, 500), max_size=60), budget=st.integers(0, 10**9), most=st.integers(1, 40))
def test_every_example_goes_through_once_and_memory_is_bounded(lengths: list[int], budget: int, most: int) -> None:
    batches = PhysicalBatches(MINILM, budget, most)
    parts = batches.cut(rows(lengths))
    assert sorted(row.label for part in parts for row in part) == list(range(len(lengths)))
    for part in parts:
        longest = max(len(row.ids) for row in part)
        assert len(part) <= most
        assert len(part) == 1 or len(part) * MINILM.bytes_of(longest) <= budget


def test_like_lengths_go_together() -> None:
    parts = PhysicalBatches(MINILM, 10**12, 2).cut(rows([3, 50, 4, 49]))
    assert [[len(row.ids) for row in part] for part in parts] == [[50, 49], [4, 3]]


def test_the_estimate_is_near_what_a_layer_keeps() -> None:
    """Against the tensors that autograd saves for the backward pass of a real layer."""
    from transformers import BertModel

    config = BertConfig(
        hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=256, vocab_size=99,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model = BertModel(config, add_pooling_layer=False)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    seen = dict[int, int]()

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    embedded = torch.randn(1, 32, 64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(inputs_embeds=embedded)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = sum(size for pointer, size in seen.items() if pointer not in weights)
    estimate = Footprint.of(config, 0).bytes_of(32)
    assert 0.3 * kept < estimate < 3 * kept


def test_a_model_that_does_not_say_its_sizes_is_taken_to_be_large() -> None:
    assert Footprint.of(PretrainedConfig(), 1).bytes_of(64) > MINILM.bytes_of(64)


def test_free_memory_is_that_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1 << 20 < free_bytes(torch.device("cpu")) < 1 << 45
    monkeypatch.setattr(physical, "free_bytes", lambda _device: 1000)
    cut = PhysicalBatches.for_device(MINILM, torch.device("cpu"), None)
    assert (cut.budget, cut.most) == (250, physical.MOST_ON_CPU)
    assert PhysicalBatches.for_device(MINILM, torch.device("cpu"), 3).most == 3
