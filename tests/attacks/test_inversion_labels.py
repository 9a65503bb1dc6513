"""Classes from the head's update: exactly for one example, nearly for batches, not from noise."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secagg.errors import AuditError
from secagg.plan import TaskSpec
from secagg_attacks.inversion.labels import LabelInference, likeliest
from secagg_attacks.record import Record
from secagg_attacks.registry import attack_named
from secagg_attacks.views import ViewName
from secagg_client.data import Examples
from secagg_client.models import LoadedBase
from tests.attacks.texts import one_step, text_of
from tests.client.support import LM, loaded

CLASSES = ("a", "b", "c", "d")
POOLED = TaskSpec(kind="classify", labels=CLASSES, max_length=32, pooling="mean", feature_norm=10.0)
STOCK = TaskSpec(kind="classify", labels=CLASSES, max_length=32)


def of_classes(base: LoadedBase, labels: list[int], seed: int = 0) -> Examples:
    texts = text_of(base, 6, seed=seed, count=len(labels)).texts
    return Examples(f"classes-{seed}", texts, tuple(labels))


def learnt(base: LoadedBase, labels: list[int], **changes: Any) -> Record:
    _, record = one_step(
        base, [of_classes(base, labels, seed) for seed in range(3)], **{"head_start": "zeros", **changes}
    )
    return record


def guessed(record: Record, view: ViewName = ViewName.V1) -> list[Any]:
    return [guess.shares for guess in LabelInference().run(record.view(view))]


@pytest.fixture
def pooled(tiny_bert_dir: Path) -> LoadedBase:
    return loaded(tiny_bert_dir, POOLED)


@pytest.mark.parametrize("label", range(4))
def test_the_class_of_one_example_is_read_off(pooled: LoadedBase, tiny_llama_dir: Path, label: int) -> None:
    """From a head with a bias, wherever it starts, and from one without (Llama's `score`) that starts at zero."""
    for base, start in ((pooled, "zeros"), (pooled, "seeded"), (loaded(tiny_llama_dir, STOCK), "zeros")):
        for shares in guessed(learnt(base, [label], head_start=start)):
            np.testing.assert_allclose(shares, np.eye(4)[label], atol=1e-4)


def test_shares_of_a_batch_are_exact_from_a_head_of_zeros(pooled: LoadedBase) -> None:
    """Also where a class is missing, and with fewer examples than classes, whose number nobody need know."""
    for labels in ([0, 0, 0, 1, 1, 2, 3, 3], [2, 2, 2, 2, 2, 1, 1, 0], [3, 3, 1]):
        truth = np.bincount(labels, minlength=4) / len(labels)
        for view in ViewName:
            for shares in guessed(learnt(pooled, labels), view):
                np.testing.assert_allclose(shares, truth, atol=1e-3)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_several_steps_still_tell_the_commonest_class(pooled: LoadedBase, optimizer: str) -> None:
    labels = [1, 1, 1, 1, 1, 1, 2, 0, 3, 1]
    record = learnt(pooled, labels, steps=5, optimizer=optimizer, learning_rate=0.01 if optimizer == "sgd" else 1e-3)
    for shares in guessed(record):
        assert shares.argmax() == 1
        assert shares.sum() == pytest.approx(1)
        if optimizer == "sgd":
            np.testing.assert_allclose(shares, [0.1, 0.7, 0.1, 0.1], atol=0.1)


def test_strong_noise_leaves_a_guess_of_the_class_to_chance(pooled: LoadedBase) -> None:
    right = list[bool]()
    for seed in range(8):
        data = [of_classes(pooled, [(seed + client) % 4], seed) for client in range(3)]
        _, record = one_step(pooled, data, head_start="zeros", epsilon=0.2)
        right += [shares.argmax() == (seed + client) % 4 for client, shares in enumerate(guessed(record))]
    assert np.mean(right) < 0.6, "of 24 guesses at 1 in 4, 15 or more would be right once in 30,000"


def test_a_number_of_labels_from_shares() -> None:
    assert likeliest(np.array([0.5, 0.0, 0.5]), 2) == (0, 2)
    assert likeliest(np.array([0.1, 0.7, 0.2]), 1) == (1,)
    assert likeliest(np.array([1 / 3, 1 / 3, 1 / 3]), 4) == (0, 0, 1, 2)


def test_a_language_model_has_no_classes(tiny_llama_dir: Path) -> None:
    base = loaded(tiny_llama_dir, LM)
    _, record = one_step(base, [text_of(base, 4)])
    with pytest.raises(AuditError, match="no classes"):
        attack_named("label-inference").run(record.view(ViewName.V1))
