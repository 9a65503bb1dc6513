"""Dummy texts: embeddings that are fed to a model in the place of its own, and their losses.

Of a language model the labels are the texts themselves: each dummy predicts the next one, whose label is spread over
the vocabulary by nearness. Of a classifier they are classes, and given.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from secagg_attacks.inversion.decode import Text
from secagg_client.models import LoadedBase

SHARPNESS = 10.0
"""Of a soft label: how many nats a token loses when its cosine falls by 1."""


@dataclass(frozen=True, slots=True)
class Dummies:
    """A model that takes embeddings: `words` [vocabulary, width] are its own; `labels` [n] classes, or None."""

    model: nn.Module = field(repr=False)
    embedding: nn.Module = field(repr=False)
    words: Tensor = field(repr=False)
    labels: Tensor | None

    def noise(self, count: int, tokens: int, generator: torch.Generator) -> Tensor:
        """Random embeddings of the words' spread, [count, tokens, width]."""
        values = torch.randn((count, tokens, self.words.shape[1]), generator=generator)
        return self.words.mean(0) + self.words.std(0) * values.to(self.words)

    def losses(self, dummies: Tensor) -> Tensor:
        """Of dummies [n, tokens, width]: [n], as the client's task has them."""
        ids = torch.zeros(dummies.shape[:2], dtype=torch.int64, device=dummies.device)
        with _in_place_of(self.embedding, dummies):
            logits = torch.as_tensor(self.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits).float()
        if self.labels is not None:
            return functional.cross_entropy(logits, self.labels, reduction="none")
        wanted = (SHARPNESS * self._cosines(dummies[:, 1:])).softmax(-1)
        return -(wanted * logits[:, :-1].log_softmax(-1)).sum(-1).mean(1)

    def nearest(self, dummies: Tensor) -> tuple[Text, ...]:
        """The words that dummies [n, tokens, width] are nearest to, by cosine."""
        return tuple(tuple(row) for row in self._cosines(dummies).argmax(-1).tolist())

    def of(self, texts: tuple[Text, ...]) -> Tensor:
        """The words' own embeddings, [n, tokens, width]."""
        return self.words[torch.tensor(texts, device=self.words.device)]

    def scores(self, dummies: Tensor) -> Any:
        """How near each word comes to any of the dummies, by cosine, float64 [vocabulary]."""
        nearest: Tensor = self._cosines(dummies).flatten(0, 1).max(0).values
        return nearest.double().cpu().numpy().astype(np.float64)

    def _cosines(self, dummies: Tensor) -> Tensor:
        return functional.normalize(dummies, dim=-1) @ functional.normalize(self.words, dim=-1).T


def dummies_for(base: LoadedBase, model: nn.Module, labels: Tensor | None) -> Dummies:
    """For an adapted `model` of `base`: an encoder under mean pooling, or any model that knows its embeddings."""
    owner: Any = getattr(base.model, "encoder", base.model)
    embedding: nn.Module = owner.get_input_embeddings()
    return Dummies(model, embedding, embedding.get_parameter("weight").detach(), labels)


@contextmanager
def _in_place_of(embedding: nn.Module, values: Tensor) -> Iterator[None]:
    """Inside, the embedding gives `values`, whatever it is asked for."""
    handle = embedding.register_forward_hook(lambda _module, _inputs, _output: values)
    try:
        yield
    finally:
        handle.remove()
