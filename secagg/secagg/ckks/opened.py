"""What the key-holder gives when it has opened a sum (protocol.md §13.5.5)."""

import hashlib
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from secagg.ckks.messages import SignedSumOpening

U32 = NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Opened:
    """The exact sums, uint32 [L], and the key-holder's word for them."""

    signed: SignedSumOpening
    sums: U32 = field(repr=False)


def sums_hash(sums: U32) -> str:
    """What is signed of the sums."""
    return hashlib.sha256(sums.astype("<u4").tobytes()).hexdigest()
