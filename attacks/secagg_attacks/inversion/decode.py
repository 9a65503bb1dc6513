"""From tokens and places to texts: whichever texts give the second adapted layer inputs that its update spans.

The greedy search of DAGER (Petrov et al. 2024, arXiv 2405.15586, section 4). In a causal model a token's input to the
second layer depends on those before it alone, so prefixes grow by one token at a time; in an encoder it depends on the
whole text, so whole texts are tried, as far as there are few.
"""

from collections.abc import Callable, Iterable
from itertools import product
from math import prod

import numpy as np
from numpy.typing import NDArray

from secagg_attacks.intervals import Floats
from secagg_attacks.views import Bools

Text = tuple[int, ...]
Residuals = Callable[[NDArray[np.int64]], Floats]
"""Token ids [n, tokens] to how far each token's second input is off the span, [n, tokens]: below 1 it fits."""

BLOCK = 256
"""Texts that go through the model at a time."""


def grown(allowed: Bools, residuals: Residuals, beams: int) -> tuple[Text, ...]:
    """Prefixes that cannot be made longer, in a causal model.

    `allowed` [tokens, places]: what may stand where. At most `beams` prefixes are kept of each length, the nearest.
    """
    places = [tuple(int(v) for v in column.nonzero()[0]) for column in allowed.T]
    kept, done = _nearest([(v,) for v in places[0]], residuals, beams), list[Text]()
    for place in places[1:]:
        longer = _nearest([(*text, v) for text in kept for v in place], residuals, beams)
        extended = {text[:-1] for text in longer}
        done += [text for text in kept if text not in extended]
        kept = longer
    return tuple(done + kept)


def _nearest(texts: list[Text], residuals: Residuals, beams: int) -> list[Text]:
    """Those whose last token fits, nearest first."""
    fits = [(far[-1], text) for text, far in _measured(texts, residuals) if far[-1] < 1]
    return [text for _, text in sorted(fits)[:beams]]


def whole(allowed: Bools, residuals: Residuals | None, beams: int) -> tuple[Text, ...]:
    """Texts all of whose tokens fit, in an encoder: of each length, all that `allowed` [tokens, places] admits.

    Lengths with more than `beams` texts are passed over. Without `residuals` nothing can be refused: then a text is
    given only where it is the one that there is, as long as places have tokens.
    """
    places = [tuple(int(v) for v in column.nonzero()[0]) for column in allowed.T]
    filled = next((p for p, tokens in enumerate(places) if not tokens), len(places))
    if residuals is None:
        unique = filled > 0 and prod(map(len, places[:filled])) == 1
        return (tuple(tokens[0] for tokens in places[:filled]),) if unique else ()
    found = list[Text]()
    for length in range(1, filled + 1):
        if prod(map(len, places[:length])) <= beams:
            texts = list(product(*places[:length]))
            found += [text for text, far in _measured(texts, residuals) if far.max() < 1]
    return tuple(found)


def _measured(texts: list[Text], residuals: Residuals) -> Iterable[tuple[Text, Floats]]:
    for start in range(0, len(texts), BLOCK):
        part = texts[start : start + BLOCK]
        yield from zip(part, residuals(np.array(part, dtype=np.int64)), strict=True)
