"""How tests of lying parties end a masked session in memory: the sum is exact or burnt, and the invariants hold."""

import numpy as np
from numpy.typing import NDArray

from secagg.errors import OpeningError, SecaggError
from secagg.masked.closing import UnmaskRound
from tests.secagg.masked.sessions import Masked
from tests.simulation.ends import MaskedEnd, masked_end
from tests.simulation.invariants import check_masked


def exact(session: Masked, unmasking: UnmaskRound | None = None, **sent: NDArray[np.uint32]) -> tuple[int, ...]:
    """The members whose exact sum comes out; every invariant holds."""
    end = masked_end(session, unmasking, **sent)
    check_masked(end)
    assert end.opened is not None, end.error
    return end.opened.members


def burnt(
    session: Masked, words: str, unmasking: UnmaskRound | None = None, kind: type[SecaggError] = OpeningError
) -> MaskedEnd:
    """The opening is rejected in these words; every invariant holds."""
    end = masked_end(session, unmasking)
    check_masked(end)
    assert isinstance(end.error, kind)
    assert words in str(end.error)
    return end
