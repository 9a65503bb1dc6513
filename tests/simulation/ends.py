"""How a masked or a ckks session in memory ended, with all that the invariants look at (invariants.py).

What members sent is what was under their masks, or in their ciphertexts: integers, whatever they are. Those of a liar
are given.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from numpy.typing import NDArray

from secagg.ckks.client import CkksSealed
from secagg.ckks.coordinator import fix_set
from secagg.ckks.keyholder import CkksKeyHolder, ShownUpload
from secagg.ckks.messages import SignedUploadSet
from secagg.ckks.opened import Opened
from secagg.ckks.release import CkksParts, build_ckks_release
from secagg.errors import SecaggError
from secagg.masked.closing import MaskedSum, UnmaskRound
from secagg.masked.release import MaskedParts, build_masked_release
from secagg.messages import Receipt, SignedReceipt
from secagg.run import MemoryJournal
from secagg.signing import Signer
from tests.secagg.ckks.sessions import Ckks
from tests.secagg.masked.sessions import Masked
from tests.small import NOW

Vector = NDArray[Any]
LATER = NOW + 9


def page(certificate: object) -> bytes:
    return b"a page"


def receipt(coordinator: Signer, ctx: str, client: str, digest: str) -> SignedReceipt:
    """What a coordinator signs for an upload that it has stored."""
    return coordinator.sign(Receipt(ctx=ctx, client=client, upload_root=digest, received_at=NOW))


@dataclass
class MaskedEnd:
    """A session whose coordinator has tried to open the sum."""

    session: Masked
    unmasking: UnmaskRound
    sent: Mapping[int, Vector] = field(default_factory=dict)
    opened: MaskedSum | None = None
    error: SecaggError | None = None

    def vector(self, number: int) -> Vector:
        """What a member put under its masks, [L]."""
        return self.sent[number] if number in self.sent else self.session.values(number)

    @cached_property
    def release(self) -> dict[str, bytes]:
        """Every file of it."""
        parts = MaskedParts.of(self.session.signed, self.unmasking, (), LATER)
        return build_masked_release(parts, self.session.parties.coordinator, {"secagg": "0"}, page)

    @cached_property
    def receipts(self) -> dict[int, SignedReceipt]:
        """Those of everybody whose upload was taken, in the set or not."""
        session = self.session
        return {
            number: receipt(
                session.parties.coordinator, session.descriptor.ctx, kept.signed.signer, kept.signed.statement.digest
            )
            for number, kept in session.uploading.taken.items()
        }

    def stored(self, client: str, size: int) -> Iterator[bytes]:
        """An upload as the coordinator keeps it."""
        raw = self.session.uploaded[self.session.descriptor.number_of(client)][1].vector.tobytes()
        yield from (raw[start : start + size] for start in range(0, len(raw), size))


def masked_end(session: Masked, unmasking: UnmaskRound | None = None, **sent: Vector) -> MaskedEnd:
    """The end of a session; `sent` is what liars put under their masks: m0=... for member 0."""
    end = MaskedEnd(session, unmasking or session.finish(), {int(name[1:]): vector for name, vector in sent.items()})
    try:
        end.opened = end.unmasking.open()
    except SecaggError as error:
        end.error = error
    return end


@dataclass
class CkksEnd:
    """A key-holder that was shown one set of uploads. All that were taken have receipts, in the set or not."""

    session: Ckks
    holder: CkksKeyHolder
    chosen: SignedUploadSet
    uploads: Mapping[str, CkksSealed]
    sent: Mapping[str, Vector] = field(default_factory=dict)
    opened: Opened | None = None
    error: SecaggError | None = None

    @property
    def members(self) -> tuple[str, ...]:
        return tuple(member.client for member in self.chosen.statement.members)

    def vector(self, client: str) -> Vector:
        """What a member has in its ciphertexts, [L]."""
        if client in self.sent:
            return self.sent[client]
        return self.session.values([one.identity.fingerprint for one in self.session.signers].index(client))

    def shown(self) -> list[ShownUpload]:
        return [ShownUpload(self.uploads[client].signed, self.uploads[client].blocks) for client in self.members]

    @cached_property
    def release(self) -> dict[str, bytes]:
        """Every file of it."""
        assert self.opened is not None
        parts = CkksParts(
            session=self.session.signed,
            approval=self.holder.approve(self.session.signed, NOW),
            uploads=tuple(self.uploads[client].signed for client in self.members),
            final=self.chosen,
            opened=self.opened,
            timeline=(),
            released_at=LATER,
        )
        return build_ckks_release(parts, self.session.parties.coordinator, {"secagg": "0"}, page)

    @cached_property
    def receipts(self) -> dict[str, SignedReceipt]:
        """Those of everybody whose upload was taken."""
        coordinator, ctx = self.session.parties.coordinator, self.session.descriptor.ctx
        return {
            client: receipt(coordinator, ctx, client, one.signed.statement.digest)
            for client, one in self.uploads.items()
        }

    def stored(self, client: str, size: int) -> Iterator[bytes]:
        """An upload as the coordinator keeps it."""
        yield from self.uploads[client].blocks


def ckks_end(
    session: Ckks, uploads: Sequence[CkksSealed], sent: Mapping[str, Vector] | None = None,
    forgotten: Sequence[CkksSealed] = (),
) -> CkksEnd:  # fmt: skip
    """The end of a session over these uploads, by a key-holder that has recorded nothing yet.

    The coordinator acknowledges the `forgotten` ones too, and leaves them out.
    """
    holder = replace(session.holder, journal=MemoryJournal())
    holder.approve(session.signed, NOW)
    members = {one.signed.signer: one.signed for one in uploads}
    chosen = fix_set(session.descriptor, members, session.parties.coordinator)
    taken = {one.signed.signer: one for one in (*uploads, *forgotten)}
    end = CkksEnd(session, holder, chosen, taken, sent or {})
    try:
        end.opened = holder.open(session.descriptor, chosen, end.shown(), os.urandom, NOW)
    except SecaggError as error:
        end.error = error
    return end
