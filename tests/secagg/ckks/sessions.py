"""A ckks session in memory, made step by step (protocol.md §13)."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from secagg.ckks.client import CkksSealed, blocks_root, seal_ckks, wrap_blocks
from secagg.ckks.coordinator import fix_set
from secagg.ckks.descriptor import CkksDescriptor, CkksSpec, SignedCkksDescriptor, create_ckks_session
from secagg.ckks.keyholder import CkksKeyHolder, ShownUpload
from secagg.ckks.keys import HolderKey
from secagg.ckks.messages import SignedUploadSet
from secagg.ckks.opened import Opened
from secagg.ckks.residues import pack, read_block
from secagg.ckks.run import MemoryContexts, policy_for_ckks
from secagg.ckks.scheme import SecretContext
from secagg.ckks.wrapping import BlockContext
from secagg.descriptor import RosterMember
from secagg.encodings.registry import encoding_of
from secagg.plan import Plan
from secagg.privacy import stated
from secagg.randomness import Randomness
from secagg.run import MemoryJournal, Parties, certify
from secagg.signing import Signer
from tests.small import DAY, NOW, changes, small_plan
from tests.twin.predictable import PredictableRandomness

LENGTH = 20_000
SPEC = CkksSpec(n_min=3, n_max=5, upload_seconds=DAY // 2, expiry_seconds=DAY)
PARTIES = certify([f"Hospital {i}" for i in range(1, 6)], 2, NOW)


class CountedContexts(MemoryContexts):
    """Keys of sessions in memory; `used` counts how often one under CKKS was loaded, to decrypt with it."""

    def __init__(self) -> None:
        super().__init__()
        self.used = 0

    def get(self, offer_digest: str) -> HolderKey:
        key = super().get(offer_digest)
        return CountedKey(key.box, key.stored, self)


@dataclass(frozen=True)
class CountedKey(HolderKey):
    """Says when it is loaded."""

    counter: CountedContexts

    def secret(self) -> SecretContext:
        self.counter.used += 1
        return super().secret()


@dataclass
class Ckks:
    """Everything of one session, made on first use."""

    n_min: int = 3
    plan: Plan = field(default_factory=lambda: small_plan(LENGTH))
    parties: Parties = PARTIES
    spec: CkksSpec = SPEC
    keys: CountedContexts = field(default_factory=CountedContexts)

    @cached_property
    def holder(self) -> CkksKeyHolder:
        policy = policy_for_ckks(self.parties, self.plan, self.n_min)
        return CkksKeyHolder(self.parties.holders[0], policy, self.parties.authority, MemoryJournal(), self.keys)

    @cached_property
    def signed(self) -> SignedCkksDescriptor:
        offer = self.holder.offer(16, 5, self.plan.length, NOW, DAY)
        roster = [RosterMember(certificate=signer.identity.pem) for signer in self.parties.clients.values()]
        pem = self.holder.signer.identity.pem
        return create_ckks_session(self.spec, self.plan, roster, pem, offer, self.parties.coordinator, NOW, os.urandom)

    @property
    def descriptor(self) -> CkksDescriptor:
        return self.signed.statement

    @cached_property
    def signers(self) -> list[Signer]:
        return list(self.parties.clients.values())

    @cached_property
    def changes(self) -> list[np.ndarray]:
        return list(changes(5, self.plan.length).values())

    def seal(self, index: int) -> CkksSealed:
        """An upload that is none of `uploads`."""
        return self.seal_as(index, os.urandom)

    def seal_as(self, index: int, random: Randomness) -> CkksSealed:
        """With the quantiser's randomness given: `values` repeats it."""
        statement = stated(self.plan.training, "test")
        return seal_ckks(self.descriptor, self.signers[index], self.changes[index], statement, random)

    def values(self, index: int) -> NDArray[np.uint32]:
        """What client `index` of `uploads` encrypted, uint32 [L]."""
        random = PredictableRandomness(b"client %d" % index)
        vector = encoding_of(self.plan).encode(self.plan, self.changes[index], random)
        return self.descriptor.quantiser.encode(vector, random).values

    @cached_property
    def uploads(self) -> list[CkksSealed]:
        self.holder.approve(self.signed, NOW)
        return [self.seal_as(index, PredictableRandomness(b"client %d" % index)) for index in range(5)]

    def chosen(self, count: int = 4) -> SignedUploadSet:
        uploads = {one.signed.signer: one.signed for one in self.uploads[:count]}
        return fix_set(self.descriptor, uploads, self.parties.coordinator)

    def shown(self, count: int = 4) -> Iterable[ShownUpload]:
        return [ShownUpload(one.signed, one.blocks) for one in self.uploads[:count]]

    def open(self, count: int = 4, shown: Iterable[ShownUpload] | None = None) -> Opened:
        chosen = self.chosen(count)
        return self.holder.open(self.descriptor, chosen, self.shown(count) if shown is None else shown, os.urandom, NOW)

    def again(self) -> "Ckks":
        """The same session and uploads, with a key-holder that has recorded nothing but its approval."""
        other = Ckks(keys=self.keys)
        holder = replace(self.holder, journal=MemoryJournal())
        other.__dict__.update({"holder": holder, "signed": self.signed, "uploads": self.uploads})
        holder.approve(self.signed, NOW)
        return other

    @property
    def kept(self) -> HolderKey:
        """What the key-holder has on its disk, and nobody else."""
        return self.keys.get(self.descriptor.offer.statement.digest)

    def inner(self, index: int) -> tuple[bytes, ...]:
        """The ciphertexts in an upload, which its client and the key-holder know."""
        return tuple(
            self.kept.unwrap(block, self.place(index, number))
            for number, block in enumerate(self.uploads[index].blocks)
        )

    def place(self, index: int, number: int) -> BlockContext:
        """What block `number` of a client is bound to."""
        return BlockContext(ctx=self.descriptor.ctx, client=self.signers[index].identity.fingerprint, index=number)

    def encrypted(self, index: int, ciphertexts: Iterable[bytes]) -> CkksSealed:
        """What a client makes of ciphertexts of its own choice: sealed to the key-holder, and signed."""
        return self.lied(index, wrap_blocks(self.descriptor, self.signers[index].identity.fingerprint, ciphertexts))

    def lied(self, index: int, blocks: tuple[bytes, ...], **update: object) -> CkksSealed:
        """What a client signs in place of an honest upload: blocks as they travel."""
        statement = self.uploads[index].signed.statement.model_copy(
            update={"root": blocks_root(blocks), "blocks": len(blocks), "bytes": sum(map(len, blocks)), **update}
        )
        return CkksSealed(self.signers[index].sign(statement), blocks)

    def shifted(self, block: bytes, amount: int) -> bytes:
        """The ciphertext of other coefficients: `amount` more in each, in units below the scale."""
        ring = self.descriptor.parameters.ring
        found = read_block(ring, block)
        for residues, prime in zip(found[0], ring.primes, strict=True):
            residues[:] = [(int(value) + amount) % prime for value in residues]
        return pack(found, ring.widths)
