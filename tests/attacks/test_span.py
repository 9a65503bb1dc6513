"""The span attack on real updates of a tiny BERT, where the tokens that were there are known."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from secagg.adapter import start_tensors, unflatten
from secagg.errors import AuditError
from secagg.plan import Plan
from secagg_attacks.inversion.span import Layer, distances, found_exactly, rank, soft_scores
from secagg_attacks.roc import Scores, auc
from secagg_client.data import Examples
from secagg_client.models import LoadedBase
from secagg_client.noise import SeededSource
from secagg_client.tasks import make_task
from secagg_client.training import TrainOptions, train
from tests.client.support import MEAN, loaded, plan_for, settings
from tests.tiny import VOCABULARY, make_bert

PLACES = 16
LAYERS = ("query", "value")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> LoadedBase:
    return loaded(make_bert(tmp_path_factory.mktemp("model")), MEAN)


def attacked(base: LoadedBase, words: int, lora_rank: int) -> tuple[list[Layer], NDArray[np.bool_]]:
    """One step of plain SGD on one text of so many words: what is seen of it, and which candidates were there.

    The head starts at random values, as B's gradient needs one that is not zero.
    """
    training = settings(epsilon=None, steps=1, batch_size=1)
    plan = plan_for(base, training, rank=lora_rank, alpha=lora_rank, head_start="seeded")
    text = " ".join(list(VOCABULARY)[5 + 2 * i] for i in range(words))
    data = Examples("one text", (text,), (1,))
    change = train(plan, base, data, 1, SeededSource(1), options=TrainOptions(allow_no_dp=True)).change
    (row,) = make_task(base.task, base.tokenizer).encode(data)
    truth = np.zeros((PLACES, len(VOCABULARY)), bool)
    truth[np.arange(len(row.ids)), list(row.ids)] = True
    return layers_of(base, plan, change), truth.reshape(-1)


def layers_of(base: LoadedBase, plan: Plan, change: NDArray[np.float32]) -> list[Layer]:
    """Layer 0's updates of B, and A x for every token at every place."""
    changes, start = unflatten(plan, change), start_tensors(plan)
    embeddings: Any = base.model.get_submodule("encoder.embeddings")
    with torch.no_grad():
        ids = torch.arange(len(VOCABULARY)).repeat(PLACES, 1).T  # [vocabulary, places]
        inputs = embeddings(input_ids=ids).transpose(0, 1).reshape(-1, 32).double().numpy()
    found = list[Layer]()
    for name in LAYERS:
        stem = f"base_model.model.encoder.encoder.layer.0.attention.self.{name}"
        down = start[f"{stem}.lora_A.weight"].astype(np.float64)
        found.append(Layer(changes[f"{stem}.lora_B.weight"].astype(np.float64), inputs @ down.T))
    return found


@pytest.mark.parametrize("words", [4, 9])
def test_with_fewer_tokens_than_the_rank_every_one_is_found_and_no_other(base: LoadedBase, words: int) -> None:
    layers, truth = attacked(base, words, lora_rank=16)
    assert rank(layers[0]) <= words + 2 < 16
    found = found_exactly(layers)
    assert found[truth].all(), "recall 1.00"
    assert not found[~truth].any(), "and nothing else"


def test_with_more_tokens_than_the_rank_nothing_is_told_apart(base: LoadedBase) -> None:
    layers, truth = attacked(base, 12, lora_rank=4)
    found = found_exactly(layers)
    assert found.mean() > 0.99, "everything lies in the span"
    assert truth.sum() == 14


def test_the_soft_score_sees_through_noise_that_breaks_the_exact_check(base: LoadedBase) -> None:
    layers, truth = attacked(base, 6, lora_rank=16)
    rng = np.random.default_rng(1)
    noisy = [
        Layer(layer.update + 1e-3 * np.abs(layer.update).max() * rng.normal(size=layer.update.shape), layer.candidates)
        for layer in layers
    ]
    assert not (found_exactly(noisy) & truth).any() or found_exactly(noisy).mean() > 0.9
    scores = soft_scores(noisy, dimensions=8)
    assert auc(Scores(scores[truth], scores[~truth])) > 0.9


def test_an_update_of_noise_alone_says_nothing(base: LoadedBase) -> None:
    layers, truth = attacked(base, 6, lora_rank=16)
    rng = np.random.default_rng(2)
    noise = [Layer(rng.normal(size=layer.update.shape), layer.candidates) for layer in layers]
    scores = soft_scores(noise, dimensions=8)
    assert abs(auc(Scores(scores[truth], scores[~truth])) - 0.5) < 0.3


def test_distances_by_hand_and_what_does_not_fit() -> None:
    layer = Layer(np.array([[1.0, 0, 0], [0, 1, 0], [1, 1, 0]]), np.array([[3.0, 4, 0], [0, 0, 2], [0, 3, 4]]))
    assert rank(layer) == 2
    np.testing.assert_allclose(distances(layer), [0, 1, 0.8], atol=1e-12)
    assert rank(Layer(np.zeros((2, 3)), np.ones((1, 3)))) == 0
    with pytest.raises(AuditError, match="of one length"):
        Layer(np.ones((2, 3)), np.ones((2, 4)))
    with pytest.raises(AuditError, match="not finite"):
        Layer(np.full((2, 3), np.nan), np.ones((2, 3)))
    with pytest.raises(AuditError, match="one or more"):
        found_exactly([])
