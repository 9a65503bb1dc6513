"""Clients that lie in a sealed session, each by name. docs/threat-model.md says what stops each of them.

`bad_boxes`: it is named by the key-holders there and left out. `inconsistent`: the degree check names it. `refused`:
its upload never enters a set.
"""

import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from secagg import shamir
from secagg.accumulate import Accumulator
from secagg.boxes import BoxContext, seal_box
from secagg.contributor import SealedUpload
from secagg.descriptor import Descriptor, SignedDescriptor
from secagg.merkle import root
from secagg.packing import pack_block
from secagg.parameters import SealedParameters
from secagg.sealing import fresh_key
from tests.simulation.sealed_parties import PARTIES, STRANGERS, Client, Server
from tests.simulation.sealed_session import SealedSession as Session
from tests.simulation.sealed_session import honest_clients, honest_holders


class LyingClient(Client):
    """Its lie is in `lie`."""

    honest = False
    refused = False
    inconsistent = False

    def contribute(self, session: SignedDescriptor, now: int) -> list[SealedUpload]:
        descriptor = self.check(session, now)
        return self.lie(descriptor, self.seal(descriptor))

    def lie(self, descriptor: Descriptor, honest: SealedUpload) -> list[SealedUpload]:
        raise NotImplementedError

    def shares(self, descriptor: Descriptor) -> list[tuple[bytes, bytes]]:
        """Shares of the key that its honest upload was made with, each with its blinding."""
        key = fresh_key(lambda _: self.random.drawn[1])
        made = shamir.share_key(key, descriptor.threshold, len(descriptor.committee), os.urandom)
        return [(share.packed, share.blinding) for share in made]

    def upload(self, descriptor: Descriptor, honest: SealedUpload, **lies: object) -> SealedUpload:
        """The honest upload with another `ciphertext`, `shares` or `contexts`, signed as if it were true."""
        ciphertext = lies.get("ciphertext", honest.ciphertext)
        assert isinstance(ciphertext, np.ndarray)
        shares = lies.get("shares") or self.shares(descriptor)
        assert isinstance(shares, list)
        ciphertext_root = root(memoryview(block) for block in ciphertext).hex()
        order = lies.get("order", range(len(shares)))
        assert isinstance(order, Sequence)
        boxes = [self.box(descriptor, place, shares[place], ciphertext_root) for place in order]
        statement = honest.signed.statement.model_copy(
            update={
                "ciphertext_root": ciphertext_root,
                "boxes_root": root(boxes).hex(),
                "ciphertext_bytes": ciphertext.nbytes,
            }
        )
        return SealedUpload(self.signer.sign(statement), ciphertext, tuple(boxes))

    def box(self, descriptor: Descriptor, place: int, content: tuple[bytes, bytes], ciphertext_root: str) -> bytes:
        """A box for the key-holder at `place`, around whatever it is."""
        context = BoxContext(
            ctx=descriptor.ctx,
            client=self.fingerprint,
            holder=descriptor.holders[place].fingerprint,
            index=place + 1,
            ciphertext_root=ciphertext_root,
        )
        key = bytes.fromhex(descriptor.committee[place].offer.statement.public_key)
        return seal_box(*content, key, context)


class SharesPointsOnNoPolynomial(LyingClient):
    """Inconsistent shares: those of the second and third key-holder are of other keys."""

    name = "a client that shares points on no polynomial"
    inconsistent = True

    def lie(self, descriptor: Descriptor, honest: SealedUpload) -> list[SealedUpload]:
        first, second, third = (self.shares(descriptor) for _ in range(3))
        return [self.upload(descriptor, honest, shares=[first[0], second[1], third[2], first[3]])]


class BlindsInconsistently(LyingClient):
    """Good shares, and a blinding for one key-holder that is off its polynomial."""

    name = "a client that blinds inconsistently"
    inconsistent = True

    def lie(self, descriptor: Descriptor, honest: SealedUpload) -> list[SealedUpload]:
        shares, others = self.shares(descriptor), self.shares(descriptor)
        return [self.upload(descriptor, honest, shares=[*shares[:3], (shares[3][0], others[3][1])])]


class SharesAnotherKeyThanItUses(LyingClient):
    """Wrong but consistent shares: only a zero-knowledge proof would name it."""

    name = "a client that shares another key than it uses"

    def lie(self, descriptor: Descriptor, honest: SealedUpload) -> list[SealedUpload]:
        other = shamir.share_key(fresh_key(os.urandom), descriptor.threshold, len(descriptor.committee), os.urandom)
        return [self.upload(descriptor, honest, shares=[(share.packed, share.blinding) for share in other])]


class ReplaysAnotherSession(LyingClient):
    """What it once sent to another session of the same parties."""

    name = "a client that replays another session"
    refused = True

    def lie(self, descriptor: Descriptor, honest: SealedUpload) -> list[SealedUpload]:
        earlier = Session(honest_clients(5), honest_holders(), Server(PARTIES.coordinator)).run()
        assert earlier.descriptor.ctx != descriptor.ctx
        return [earlier.server.taken[self.fingerprint][0]]


class SendsAnotherLength(LyingClient):
    """One block less than the session's."""

    name = "a client that sends another length"
    refused = True

    def lie(self, descriptor: Descriptor, honest: SealedUpload) -> list[SealedUpload]:
        longer = np.concatenate([honest.ciphertext, honest.ciphertext])
        silent = replace(honest, ciphertext=longer)
        return [self.upload(descriptor, honest, ciphertext=longer), silent]


class SendsTwoUploads(LyingClient):
    """Both whole and well signed. The first is the one that counts."""

    name = "a client that sends two uploads"

    def lie(self, descriptor: Descriptor, honest: SealedUpload) -> list[SealedUpload]:
        first = self.sent
        second = self.seal(descriptor)
        self.sent = first
        return [honest, second]


class SealsForTheWrongHolder(LyingClient):
    """Two key-holders find each other's box."""

    name = "a client whose box is for the wrong key-holder"
    bad_boxes = (0, 1)

    def lie(self, descriptor: Descriptor, honest: SealedUpload) -> list[SealedUpload]:
        return [self.upload(descriptor, honest, order=(1, 0, 2, 3))]


class SealsRubbish(LyingClient):
    """One box opens, to a residue that is none."""

    name = "a client that seals rubbish"
    bad_boxes = (1,)

    def lie(self, descriptor: Descriptor, honest: SealedUpload) -> list[SealedUpload]:
        shares = self.shares(descriptor)
        share, blinding = shares[1]
        shares[1] = b"\xff" * len(share), blinding
        return [self.upload(descriptor, honest, shares=shares)]


class ClaimsAnothersUpload(LyingClient):
    """It has another client's certificate, which is public, and not its signing key."""

    name = "a thief of a certificate"
    refused = True

    def lie(self, descriptor: Descriptor, honest: SealedUpload) -> list[SealedUpload]:
        victim = next(name for name in descriptor.clients if name != self.fingerprint)
        statement = honest.signed.statement.model_copy(update={"client": victim})
        return [replace(honest, signed=self.signer.sign(statement).model_copy(update={"signer": victim}))]


class StoleCertificateAndKeys(LyingClient):
    """It has all that the client has, and comes first. In the session it *is* the client."""

    name = "a thief of a certificate and its keys"

    def lie(self, descriptor: Descriptor, honest: SealedUpload) -> list[SealedUpload]:
        return [honest]


class UploadsFromOffTheRoster(LyingClient):
    """A good certificate, of an institution that nobody invited."""

    name = "a stranger"
    refused = True

    def lie(self, descriptor: Descriptor, honest: SealedUpload) -> list[SealedUpload]:
        stranger = next(iter(STRANGERS.clients.values()))
        statement = honest.signed.statement.model_copy(update={"client": stranger.identity.fingerprint})
        return [replace(honest, signed=stranger.sign(statement))]


class ClaimsABetterPrivacy(LyingClient):
    """Its statement is not the session's."""

    name = "a client that states another epsilon"
    refused = True

    def lie(self, descriptor: Descriptor, honest: SealedUpload) -> list[SealedUpload]:
        privacy = honest.signed.statement.privacy.model_copy(update={"epsilon": 99.0})
        return [
            replace(honest, signed=self.signer.sign(honest.signed.statement.model_copy(update={"privacy": privacy})))
        ]


class GoesBeyondTheClip(LyingClient):
    """A change of a thousand times the clip: its own encoder limits it, as it would limit any poison."""

    name = "a client that goes beyond the clip"

    def seal(self, descriptor: Descriptor) -> SealedUpload:
        self.change = 1000 * self.change
        return super().seal(descriptor)

    def lie(self, descriptor: Descriptor, honest: SealedUpload) -> list[SealedUpload]:
        return [honest]


class OverflowsItsLimb(LyingClient):
    """It adds to the first value of its ciphertext, beyond the quantiser's range, under a good signature."""

    name = "a client whose value is beyond the quantiser's range"
    by = 70_000

    def lie(self, descriptor: Descriptor, honest: SealedUpload) -> list[SealedUpload]:
        assert self.sent is not None
        self.sent = self.sent.copy()
        self.sent[0] += self.by
        shifted = add_plain(descriptor.parameters, honest.ciphertext, {0: self.by})
        return [self.upload(descriptor, honest, ciphertext=shifted)]


class OverflowsTheSum(OverflowsItsLimb):
    """So far beyond that the sum leaves what |U| honest values can reach."""

    name = "a client whose value is beyond the sum's range"
    by = 400_000


class VanishesWithoutAWord(LyingClient):
    """It takes part and sends nothing."""

    name = "a client that vanishes"
    refused = True

    def lie(self, descriptor: Descriptor, honest: SealedUpload) -> list[SealedUpload]:
        return []


def plain_block(parameters: SealedParameters, values: dict[int, int]) -> bytes:
    """A block that holds `values` by coefficient, under no key and without noise."""
    residues = np.zeros((len(parameters.primes), parameters.degree), np.uint32)
    for place, value in values.items():
        residues[:, place] = [value % prime for prime in parameters.primes]
    return pack_block(parameters, residues)


def add_plain(parameters: SealedParameters, ciphertext: NDArray[np.uint8], values: dict[int, int]) -> NDArray[np.uint8]:
    """The ciphertext with `values` added to its first block: whoever holds it can do that, without a key."""
    total = Accumulator(parameters)
    total.add(ciphertext)
    plain = [plain_block(parameters, {})] * (parameters.blocks - 1)
    total.add([plain_block(parameters, values), *plain])
    return np.stack([np.frombuffer(block, np.uint8) for block in total.blocks()])


LIARS: tuple[type[LyingClient], ...] = (
    SharesPointsOnNoPolynomial,
    BlindsInconsistently,
    SharesAnotherKeyThanItUses,
    ReplaysAnotherSession,
    SendsAnotherLength,
    SendsTwoUploads,
    SealsForTheWrongHolder,
    SealsRubbish,
    ClaimsAnothersUpload,
    StoleCertificateAndKeys,
    UploadsFromOffTheRoster,
    ClaimsABetterPrivacy,
    GoesBeyondTheClip,
    OverflowsItsLimb,
    OverflowsTheSum,
    VanishesWithoutAWord,
)
