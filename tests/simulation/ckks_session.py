"""What tests of lying parties do with a ckks session in memory: show, open, and hold the invariants."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secagg.ckks.client import CkksSealed
from secagg.ckks.keyholder import CkksKeyHolder, ShownUpload
from secagg.ckks.messages import SignedUploadSet
from secagg.ckks.opened import Opened
from tests.secagg.ckks.sessions import Ckks
from tests.simulation.ends import CkksEnd, ckks_end
from tests.simulation.invariants import check_ckks
from tests.small import NOW


def open_shown(fresh: Ckks, shown: list[ShownUpload], chosen: SignedUploadSet | None = None) -> Opened:
    """The key-holder is shown these uploads for a set; by default that of the first four."""
    return fresh.holder.open(fresh.descriptor, chosen or fresh.chosen(4), shown, os.urandom, NOW)


def exactly_opened(fresh: Ckks, opened: Opened, members: Iterable[int], holder: CkksKeyHolder | None = None) -> None:
    """The sums are those of the values that these members encrypted, to the last digit; and the other invariants."""
    uploads = [fresh.uploads[index] for index in members]
    chosen = fresh.chosen(len(uploads))
    end = CkksEnd(fresh, holder or fresh.holder, chosen, {one.signed.signer: one for one in uploads}, opened=opened)
    assert set(end.members) == set(end.uploads)
    check_ckks(end)


def opened_with(fresh: Ckks, bent: CkksSealed, sent: NDArray[Any] | None = None) -> CkksEnd:
    """The end of a session in which client 0 sent this, and clients 1 to 3 what they should; invariants held."""
    given: Mapping[str, NDArray[Any]] = {} if sent is None else {bent.signed.signer: sent}
    end = ckks_end(fresh, [bent, *fresh.uploads[1:4]], given)
    check_ckks(end)
    return end


def named_in(end: CkksEnd) -> str:
    """Whom the key-holder's refusal names, if anybody (§13.5.7)."""
    refusal = end.holder.refusal(end.session.descriptor)
    assert refusal is not None
    return refusal.statement.client


def lowest_limbs(fresh: Ckks) -> NDArray[np.bool_]:
    """Which values of the vector are in the lowest limb of their coefficient, bool [L]."""
    parameters = fresh.descriptor.parameters
    shape = (parameters.blocks, parameters.limbs, parameters.ring.degree)
    lowest = np.zeros(shape, np.bool_)
    lowest[:, 0] = True
    return lowest.ravel()[: parameters.length]
