"""What a coin was tossed for: a record with its copies, or a user with all records. It counts once, not by its rows."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from secagg_attacks.intervals import Floats
from secagg_client.data import Examples


@dataclass(frozen=True, slots=True)
class Units:
    """`index` [candidates] is the unit of each candidate, from 0, in order of first appearance."""

    index: NDArray[np.int64] = field(repr=False)

    @classmethod
    def of(cls, candidates: Examples) -> "Units":
        """Users where they are known, else records: copies of one are one."""
        owners: Sequence[object] = candidates.users or candidates.record_hashes()
        numbers = {owner: number for number, owner in enumerate(dict.fromkeys(owners))}
        return cls(np.array([numbers[owner] for owner in owners], dtype=np.int64))

    @property
    def count(self) -> int:
        """How many there are."""
        return int(self.index.max(initial=-1)) + 1

    def means(self, scores: Floats) -> Floats:
        """The mean score of each unit's records, [units]."""
        found: Floats = np.bincount(self.index, weights=scores) / np.bincount(self.index)
        return found

    def truth(self, is_in: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Whether each unit is a member, [units]."""
        found = np.zeros(self.count, dtype=bool)
        found[self.index] = is_in
        return found

    def texts(self, texts: Sequence[str]) -> list[str]:
        """Each unit's texts, joined."""
        found: list[list[str]] = [[] for _ in range(self.count)]
        for unit, text in zip(self.index, texts, strict=True):
            found[unit].append(text)
        return ["\n".join(each) for each in found]
