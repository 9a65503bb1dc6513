"""How much of the truth a guess recovered. The only module of this package that meets it.

Guessed and true texts, or images, are put together one to one, as well as can be (Kuhn 1955): scoring each true text
against its nearest guess, with replacement, lets one lucky guess count many times over.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from secagg.errors import AuditError
from secagg_attacks.attack import ImageGuess
from secagg_attacks.intervals import Floats
from secagg_attacks.inversion.decode import Text

Images = NDArray[np.float32]
MEASURES = ("rouge1", "rouge2")


@dataclass(frozen=True, slots=True)
class TokenRecovery:
    """Of the claimed tokens, which part was there; of those that were there, which part is claimed. 0 of nothing."""

    precision: float
    recall: float


@dataclass(frozen=True, slots=True)
class TextRecovery:
    """Means over the true texts, a text without a guess counting 0: equal ones, and F1 of ROUGE-1 and ROUGE-2."""

    exact: float
    rouge1: float
    rouge2: float


@dataclass(frozen=True, slots=True)
class ImageRecovery:
    """Means over the true images: squared error, and peak signal to noise in decibels, infinite where all are equal."""

    mse: float
    psnr: float


def token_recovery(claimed: Iterable[int], truth: Iterable[int]) -> TokenRecovery:
    """Of multisets: a token that was there twice must be claimed twice. Give sets to count each once."""
    guessed, there = Counter(claimed), Counter(truth)
    both = (guessed & there).total()
    return TokenRecovery(both / max(1, guessed.total()), both / max(1, there.total()))


def text_recovery(guessed: Sequence[Text], truth: Sequence[Text]) -> TextRecovery:
    """Of texts as token ids, put together so that their ROUGE-1 and ROUGE-2 add up to most.

    ROUGE (Lin 2004) by the `rouge_score` package, over token ids as words. Raises AuditError without a true text.
    """
    if not truth:
        raise AuditError("there is no true text to compare with")
    if not guessed:
        return TextRecovery(0.0, 0.0, 0.0)
    table = _rouge(guessed, truth)
    rows, columns = linear_sum_assignment(-table.sum(axis=2))
    exact = sum(guessed[i] == truth[j] for i, j in zip(rows, columns, strict=True))
    one, two = table[rows, columns].sum(axis=0) / len(truth)
    return TextRecovery(exact / len(truth), float(one), float(two))


class _Words:
    """A tokenizer for `rouge_score`: what is between blanks."""

    def tokenize(self, text: str) -> list[str]:
        return text.split()


def _rouge(guesses: Sequence[Text], truth: Sequence[Text]) -> Floats:
    """F1 of each measure, [guesses, truth, measures]."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(list(MEASURES), tokenizer=_Words())
    out = np.empty((len(guesses), len(truth), len(MEASURES)))
    for i, guess in enumerate(guesses):
        for j, text in enumerate(truth):
            scores = scorer.score(_joined(text), _joined(guess))
            out[i, j] = [scores[name].fmeasure for name in MEASURES]
    return out


def _joined(text: Text) -> str:
    return " ".join(map(str, text))


def image_recovery(guess: ImageGuess, truth: Images, peak: float) -> ImageRecovery:
    """Of images [n, channels, height, width] whose values span `peak`, put together by squared error.

    True images beyond the number of guesses are compared with their best grey: nothing was said of them.
    Raises AuditError for other shapes or no true image.
    """
    if not len(truth) or guess.images.shape[1:] != truth.shape[1:]:
        raise AuditError("guessed and true images must be of one shape, and one true image at least")
    errors = np.array([[np.square(one - other).mean(dtype=np.float64) for other in truth] for one in guess.images])
    each = truth.reshape(len(truth), -1).var(axis=1, dtype=np.float64)
    if len(guess.images):
        rows, columns = linear_sum_assignment(errors)
        each[columns] = errors[rows, columns]
    with np.errstate(divide="ignore"):
        psnr = 10 * np.log10(peak**2 / each)
    return ImageRecovery(float(each.mean()), float(psnr.mean()))
