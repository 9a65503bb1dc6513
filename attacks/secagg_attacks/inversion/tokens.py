"""`span-exact` and `span-soft`: which tokens, and which texts, were trained on (see `span` for why it works).

The candidates are what the first adapted layer is given for each token of the vocabulary at each place: the normed
embedding with its position in encoders and GPT-2, the normed embedding alone in models with rotary positions.

What cannot be seen in a causal model: the last token of a text, which is a label and never an input that is learnt
from; and in updates that span all dimensions, anything. The claim is empty then.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import nn

from secagg.errors import AuditError
from secagg_attacks.attack import Attack, TokenGuess
from secagg_attacks.intervals import Floats
from secagg_attacks.inversion.candidates import candidate_rows
from secagg_attacks.inversion.decode import Text, grown, whole
from secagg_attacks.inversion.reading import Lowest, Reader
from secagg_attacks.inversion.seen import Seen, seen_in, spanned
from secagg_attacks.inversion.span import directions, distances_from, limit
from secagg_attacks.views import Bools, Message, Public, View
from secagg_client.adapted import attached

Measure = Callable[[Floats, Floats], Floats]
"""A basis [k, d] and candidates [n, d] to a figure for each candidate, [n]: low where the candidate was there."""
SMALLEST = 1e-12
"""Of a squared distance, as a part of the squared length: below are only float64's own errors."""

SAMPLES = 4
"""Random inputs for each dimension, to see how many they span."""
INPUT_TOLERANCE = 1e-5
"""Smaller singular values of a model's inputs are rounding."""


@dataclass(frozen=True)
class Search:
    """How near is there at least, as a part of a candidate's length (see `span.limit`), in two layers.

    The second layer's inputs move with the first's adapter in every step, so `text_threshold` is the wider one. At most
    `beams` texts are followed, of at most `places` tokens.
    """

    places: int
    threshold: float = 1e-3
    text_threshold: float = 5e-3
    beams: int = 1000


def exact(reader: Reader, seen: list[Seen], lowest: Lowest, search: Search) -> TokenGuess:
    """What lies in the span of every layer's update, of those that leave something out; nothing where none does."""
    layers = _speaking(reader, seen, lowest.first, search.places)
    if not layers:
        return TokenGuess(np.zeros(reader.vocabulary), frozenset())
    places = 1 if lowest.place_free else search.places
    far = {
        name: np.min([_ratios(reader, each, places, search.threshold) for each in factors], axis=0)
        for name, factors in layers.items()
    }
    worst = np.repeat(np.max(list(far.values()), axis=0), search.places // places, axis=1)
    sighted = [values[:, 0] for name, values in far.items() if not _is_blind(name, lowest)]
    if len(sighted) < len(far):  # the first token is in no blind layer's update: the others decide on it
        worst[:, 0] = np.max(sighted, axis=0) if sighted else np.inf
    allowed = worst < 1
    claimed = _tokens(np.flatnonzero(allowed.any(axis=1)))
    return TokenGuess(-worst.min(axis=1), claimed, _texts(reader, seen, lowest, allowed, search))


def _tokens(found: NDArray[np.int64]) -> frozenset[int]:
    return frozenset(int(token) for token in found)


def _speaking(reader: Reader, seen: list[Seen], modules: Sequence[str], places: int) -> dict[str, list[Seen]]:
    """By module, the factors whose updates leave out something that an input could be.

    Either will do: both hold the same inputs, and rounding may have kept a direction out of one.
    """
    found = dict[str, list[Seen]]()
    for each in seen:
        if each.module in modules and 0 < len(each.basis) < _room(reader, each, places):
            found.setdefault(each.module, []).append(each)
    return found


def _room(reader: Reader, each: Seen, places: int) -> int:
    """How many dimensions inputs span at all: one less than their width after a layer norm that centres them."""
    count = -(-SAMPLES * each.basis.shape[1] // places)
    ids = np.random.default_rng(0).integers(0, reader.vocabulary, (count, places))
    rows = each.rows(reader.inputs(ids, (each.module,))[each.module])
    return len(directions(rows, tolerance=INPUT_TOLERANCE))


def _ratios(reader: Reader, each: Seen, places: int, least: float) -> Floats:
    """Distances of all tokens at all places over what is allowed, [vocabulary, places]: below 1 for those there."""
    return _measured(reader, each, places, distances_from) / limit(each.basis, least)


def soft(reader: Reader, seen: list[Seen], lowest: Lowest, places: int) -> Floats:
    """A score for each token, [vocabulary]: its nearness to the strongest directions, over all layers."""
    moved = [each for each in seen if len(each.basis) and each.module in lowest.first]
    if not moved:
        return np.zeros(reader.vocabulary)
    places = 1 if lowest.place_free else places
    scores: Floats = -np.mean([_measured(reader, each, places, log_distances) for each in moved], axis=0).min(axis=1)
    return scores


def log_distances(basis: Floats, candidates: Floats) -> Floats:
    """The mean over k of log(distance from the k strongest directions), [n]; never all of them, where they are all.

    No one has to choose k: where an update is exact the largest k decides, where it is noisy all have their say.
    """
    most = min(len(basis), basis.shape[1] - 1)
    squares = np.square(candidates).sum(axis=1, keepdims=True)
    within = np.cumsum(np.square(candidates @ basis[:most].T), axis=1) / np.maximum(squares, 1e-30)
    found: Floats = 0.5 * np.log(np.maximum(1.0 - within, SMALLEST)).mean(axis=1)
    return np.where(squares[:, 0] > 0, found, 0.0)


def _measured(reader: Reader, each: Seen, places: int, measure: Measure) -> Floats:
    """Of each token at each place, [vocabulary, places]."""
    parts = [measure(each.basis, rows) for rows in candidate_rows(reader, each, places)]
    return np.concatenate(parts).reshape(reader.vocabulary, places)


def _is_blind(module: str, lowest: Lowest) -> bool:
    return module.rsplit(".", 1)[-1] in lowest.blind


def _texts(reader: Reader, seen: list[Seen], lowest: Lowest, allowed: Bools, search: Search) -> tuple[Text, ...]:
    """By the inputs of the second adapted layer, when its update leaves something out."""
    layers = _speaking(reader, seen, lowest.second, search.places)

    def residuals(ids: NDArray[np.int64]) -> Floats:
        given, worst = reader.inputs(ids, list(layers)), np.zeros(ids.shape)
        for name, factors in layers.items():
            far: Floats = np.min([distances_from(each.basis, each.rows(given[name])) for each in factors], axis=0)
            far = far.reshape(ids.shape)
            if _is_blind(name, lowest):
                far[:, 0] = 0.0
            worst = np.maximum(worst, far)
        return worst / search.text_threshold

    if not lowest.causal:
        return whole(allowed, residuals if layers else None, search.beams)
    return grown(allowed, residuals, search.beams) if layers else ()


def exact_of_gradients(
    model: nn.Module, gradients: Mapping[str, Floats], vocabulary: int, search: Search
) -> TokenGuess:
    """DAGER as published: from full gradients of weights, [outputs, inputs], of the modules that they are named by.

    Transpose those of GPT-2's Conv1D. The rank limit is the inputs' width, not LoRA's rank.
    """
    reader = Reader(model, vocabulary)
    seen = [spanned(name, gradient) for name, gradient in gradients.items()]
    return exact(reader, seen, reader.lowest(list(gradients)), search)


@contextmanager
def _opened(public: Public, message: Message) -> Iterator[tuple[Reader, Lowest]]:
    """The model as the clients of this message had it, and its lowest adapted layers. Raises AuditError."""
    plan = public.plan
    if not any(".lora_" in spec.name for spec in plan.trained) or not plan.task.max_length:
        raise AuditError("the span attacks need a text model with LoRA layers that are trained")
    modules = [spec.name.removesuffix(".lora_A.weight") for spec in plan.tensors if ".lora_A." in spec.name]
    with attached(plan, public.base) as adapted:
        adapted.assign(message.start)
        config = adapted.model.config
        words = int(config.vocab_size)  # type: ignore[union-attr, arg-type]
        reader = Reader(adapted.model, words, public.base.model_hash)
        yield reader, reader.lowest(modules)


@dataclass(frozen=True, slots=True)
class SpanExact(Attack):
    """Settings as in `Search`."""

    name: ClassVar[str] = "span-exact"
    summary: ClassVar[str] = "tokens and texts whose inputs lie in the span of an update, exactly"
    source: ClassVar[str] = "Petrov et al. 2024, DAGER, arXiv 2405.15586, carried to LoRA"
    threshold: float = Search.threshold
    text_threshold: float = Search.text_threshold
    beams: int = Search.beams

    def run(self, view: View) -> tuple[TokenGuess, ...]:
        """Of each message. Raises AuditError when the lowest adapter is not in layer 0, or nothing is a text."""
        places = view.public.plan.task.max_length
        search = Search(places, self.threshold, self.text_threshold, self.beams)
        found = list[TokenGuess]()
        for message in view.messages():
            with _opened(view.public, message) as (reader, lowest):
                found.append(exact(reader, seen_in(view.public, message), lowest, search))
        return tuple(found)


@dataclass(frozen=True, slots=True)
class SpanSoft(Attack):
    """Scores alone, unless `claims` says how many tokens to claim, the best first."""

    name: ClassVar[str] = "span-soft"
    summary: ClassVar[str] = "tokens by their nearness to an update's strongest directions"
    source: ClassVar[str] = "after Petrov et al. 2024, DAGER, arXiv 2405.15586"
    claims: int = 0

    def run(self, view: View) -> tuple[TokenGuess, ...]:
        """Of each message. Raises AuditError as `span-exact` does."""
        places, found = view.public.plan.task.max_length, list[TokenGuess]()
        for message in view.messages():
            with _opened(view.public, message) as (reader, lowest):
                scores = soft(reader, seen_in(view.public, message), lowest, places)
            claims = self.claims if scores.any() else 0
            found.append(TokenGuess(scores, _tokens(np.argsort(-scores, kind="stable")[:claims])))
        return tuple(found)


ATTACKS = (SpanExact(), SpanSoft())
