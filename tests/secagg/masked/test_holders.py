"""A client draws its holders alike from all others (protocol.md §12.4.1)."""

import os
from collections import Counter

from secagg.masked.holders import draw_holders


def test_every_pair_of_five_is_drawn_about_equally_often() -> None:
    counts = Counter(draw_holders([2, 3, 5, 7, 11], 2, os.urandom) for _ in range(4000))
    assert len(counts) == 10
    assert all(250 < count < 550 for count in counts.values())  # 400 with deviation 19: further off once in 10^12


def test_all_are_drawn_when_all_are_asked_for() -> None:
    assert draw_holders([4, 1, 9], 3, os.urandom) == (1, 4, 9)
    assert draw_holders([4, 1], 3, os.urandom) == (1, 4)
