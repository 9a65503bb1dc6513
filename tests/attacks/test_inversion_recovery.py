"""Scores of recovery by hand."""

import math

import numpy as np
import pytest

from secagg.errors import AuditError
from secagg_attacks.attack import ImageGuess
from secagg_attacks.inversion.recovery import ImageRecovery, TextRecovery, image_recovery, text_recovery, token_recovery


def test_tokens_are_counted_as_often_as_they_are_there() -> None:
    found = token_recovery([1, 1, 1, 2], [1, 1, 2, 3, 4])
    assert (found.precision, found.recall) == (3 / 4, 3 / 5)
    assert token_recovery([], [1]) == token_recovery([2], [1])


def test_rouge_by_hand() -> None:
    """Of (1 2 3 4) and (1 2 4): three words in common, 3/3 and 3/4; one pair of 2 and 3, 1/2 and 1/3."""
    found = text_recovery([(1, 2, 4)], [(1, 2, 3, 4)])
    assert (found.exact, found.rouge1, found.rouge2) == pytest.approx((0.0, 6 / 7, 0.4))
    assert text_recovery([(1, 2, 3, 4)], [(1, 2, 3, 4)]) == TextRecovery(1.0, 1.0, 1.0)


def test_one_guess_counts_for_one_text() -> None:
    """With replacement it would be 1.0 for both."""
    twice = [(1, 2, 3), (1, 2, 3)]
    assert text_recovery([(1, 2, 3)], twice) == TextRecovery(0.5, 0.5, 0.5)
    assert text_recovery([], twice) == TextRecovery(0.0, 0.0, 0.0)


def test_texts_are_put_together_to_fit_best_on_the_whole() -> None:
    """In order, or greedily by the first, one of these would be lost."""
    found = text_recovery([(4, 5, 6), (1, 2, 3), (9,)], [(1, 2, 3), (4, 5, 6)])
    assert found == TextRecovery(1.0, 1.0, 1.0)


def test_images_by_hand() -> None:
    truth = np.zeros((2, 1, 2, 2), np.float32)
    truth[1] = 1.0
    guess = ImageGuess(np.stack([truth[1] - 0.1, truth[0] + 0.2]), (0, 1))
    found = image_recovery(guess, truth, peak=1.0)
    assert found.mse == pytest.approx((0.01 + 0.04) / 2, rel=1e-5)
    assert found.psnr == pytest.approx((20 + 10 * math.log10(1 / 0.04)) / 2, rel=1e-5)


def test_an_image_without_a_guess_is_compared_with_its_best_grey() -> None:
    truth = np.array([[[[0.0, 1.0]]], [[[0.0, 2.0]]]], np.float32)
    found = image_recovery(ImageGuess(truth[:1], (0,)), truth, peak=2.0)
    assert found == ImageRecovery(0.5, math.inf), "the variance of the second, 1"


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(AuditError, match="no true text"):
        text_recovery([(1,)], [])
    with pytest.raises(AuditError, match="of one shape"):
        image_recovery(ImageGuess(np.zeros((1, 1, 2, 2), np.float32), (0,)), np.zeros((1, 1, 2, 3), np.float32), 1.0)
