"""Scores from what one model makes of an example's tokens, without any other trained model.

`logprobs` are the natural log probabilities that the model gives each of an example's tokens, [tokens]. References:
loss (Yeom et al. 2018), zlib and reference (Carlini et al. 2021), min-k% (Shi et al. 2024), min-k%++ (Zhang et al.
2025).
"""

import zlib

import numpy as np

from secagg.errors import AuditError
from secagg_attacks.intervals import Floats

LOWEST = 0.2
"""The part of an example's tokens that min-k% looks at: those that the model finds least likely."""
_CERTAIN = 1e-9


def loss(logprobs: Floats) -> float:
    """The mean log probability: minus the example's loss."""
    return float(_tokens(logprobs).mean())


def zlib_ratio(logprobs: Floats, text: str) -> float:
    """The sum of log probabilities over the text's compressed size in bytes: likely, though it does not compress."""
    return float(_tokens(logprobs).sum()) / len(zlib.compress(text.encode("utf-8", "surrogatepass")))


def min_k(logprobs: Floats, lowest: float = LOWEST) -> float:
    """The mean over the least likely `lowest` of the tokens, one at least."""
    return _mean_of_lowest(_tokens(logprobs), lowest)


def min_k_plus_plus(logprobs: Floats, means: Floats, deviations: Floats, lowest: float = LOWEST) -> float:
    """As `min_k`, of log probabilities in units of what the model expects at each place.

    `means` and `deviations` [tokens] are those of log p(v) over the vocabulary, v drawn from the model's own p.
    Where all tokens are alike to the model (deviation 0), one says nothing and counts 0.
    """
    tokens = _tokens(logprobs)
    if means.shape != tokens.shape or deviations.shape != tokens.shape:
        raise AuditError("min-k%++ needs a mean and a deviation for every token")
    certain = deviations <= _CERTAIN
    scaled = np.where(certain, 0.0, (tokens - means) / np.where(certain, 1.0, deviations))
    return _mean_of_lowest(scaled, lowest)


def expectations(logits: Floats) -> tuple[Floats, Floats]:
    """Mean and deviation of log p(v) for v drawn from p, at each place, from logits [tokens, vocabulary]."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    weights = np.exp(logs)
    means = (weights * logs).sum(axis=1)
    return means, np.sqrt(np.maximum((weights * (logs - means[:, None]) ** 2).sum(axis=1), 0.0))


def reference_difference(logprobs: Floats, reference: Floats) -> float:
    """How much more likely the example is than under a model that was not trained on it: the start of the run."""
    return loss(logprobs) - loss(reference)


def _mean_of_lowest(values: Floats, lowest: float) -> float:
    if not 0 < lowest <= 1:
        raise AuditError(f"the part of the tokens must be in (0, 1], not {lowest}")
    count = max(1, int(lowest * len(values)))
    return float(np.partition(values, count - 1)[:count].mean())


def _tokens(logprobs: Floats) -> Floats:
    if logprobs.ndim != 1 or not len(logprobs) or not np.isfinite(logprobs).all() or (logprobs > 0).any():
        raise AuditError("log probabilities of an example are finite, not above 0, and one at least")
    return logprobs
