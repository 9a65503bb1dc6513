"""The one key-holder of a ckks session: it adds every upload itself, opens the sum once, and rounds it (§13.5).

Every ciphertext is sealed to it: nobody else ever has one. It could open each upload that it is given, and the
coordinator could give it one in place of a sum: so it takes only uploads that their clients signed, of one set of at
least n_min, ever, and the two must not work together.
"""

import base64
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from secagg.ckks.client import check_blocks, check_ckks_upload
from secagg.ckks.descriptor import CkksDescriptor, SignedCkksDescriptor
from secagg.ckks.keys import HolderKey
from secagg.ckks.messages import (
    Approval,
    KeyOffer,
    OpeningRefusal,
    SignedCkksApproval,
    SignedCkksUpload,
    SignedKeyOffer,
    SignedOpeningRefusal,
    SignedUploadSet,
    SumOpening,
    UploadSet,
)
from secagg.ckks.opened import Opened, sums_hash
from secagg.ckks.parameters import ERROR_ROOM, CkksParameters
from secagg.ckks.policy import CkksPolicy
from secagg.ckks.residues import U64, add_residues, primes_of, read_sums
from secagg.ckks.scheme import SecretContext
from secagg.ckks.wrapping import BlockContext
from secagg.errors import (
    ConflictError,
    MalformedError,
    ProtocolViolation,
    SessionClosed,
    SizeLimitError,
    StorageError,
    Unopenable,
)
from secagg.gaussian import SECRET_VARIANCE, gaussian, sample, stream_bytes
from secagg.identity import check_issued_by
from secagg.keyholder import Journal
from secagg.merkle import leaf_hash
from secagg.randomness import Randomness, fresh_keystream
from secagg.signing import Signer

FLOOD_PURPOSE = "secagg/v1/ckks/flood"
FLOOD_UNIT = 1 / 192
"""Of the grid. Flooding noise is a discrete Gaussian of deviation 4.5 and at most 41 of these (§5.3a, §13.5.4): below
0.22."""

U32 = NDArray[np.uint32]


class ContextStore(Protocol):
    """Both keys of a session by the hash of their offer; `secagg.keyholder.KeyStore` for this protocol."""

    def put(self, offer_digest: str, key: HolderKey) -> None:
        """Store durably, readable by this party alone."""

    def get(self, offer_digest: str) -> HolderKey:
        """Load. Raises SessionClosed when they were erased, MalformedError when they are damaged."""

    def erase(self, offer_digest: str) -> None:
        """Destroy; does nothing when they are gone."""


@dataclass(frozen=True, slots=True)
class ShownUpload:
    """One member's upload as the coordinator shows it: statement, and blocks.

    They are read twice, first to check all of them: so they lie in memory or in a file of the key-holder's own.
    """

    signed: SignedCkksUpload
    blocks: Iterable[bytes] = field(repr=False)


@dataclass(frozen=True, slots=True)
class CkksKeyHolder:
    """The key-holder. `journal` is durable and write-once; `keys` holds secret contexts until a session ends."""

    signer: Signer
    policy: CkksPolicy
    authority: str
    journal: Journal
    keys: ContextStore

    def offer(self, bits: int, n_max: int, length: int, now: int, seconds: int) -> SignedKeyOffer:
        """Fresh keys for one session of so many bits, clients and values (§13.3.1). Raises ParameterError."""
        parameters = CkksParameters(bits, n_max, length)
        keys = HolderKey.generate(parameters.ring)
        offer = KeyOffer(
            holder=self.signer.identity.fingerprint,
            ring=parameters.ring.name,
            context=base64.b64encode(keys.secret().public.raw).decode(),
            hpke_key=keys.box.public_bytes.hex(),
            created_at=now,
            expires_at=now + seconds,
        )
        self.keys.put(offer.digest, keys)
        return self.signer.sign(offer)

    def approve(self, signed: SignedCkksDescriptor, now: int) -> SignedCkksApproval:
        """Accept a session, one for each key (§13.3.3).

        Raises SignatureInvalid, CertificateInvalid, PolicyViolation, ConflictError or SessionClosed.
        """
        descriptor = signed.verify(signed.statement.coordinator_identity)
        for identity in (descriptor.coordinator_identity, descriptor.holder, *descriptor.clients.values()):
            check_issued_by(identity, self.authority, now)
        self.policy.check(descriptor)
        self._check_mine(descriptor, now)
        self._once(f"ckks/{descriptor.offer.statement.digest}/session", descriptor.ctx, "key", "session")
        return self.signer.sign(Approval(ctx=descriptor.ctx, holder=self.signer.identity.fingerprint))

    def _check_mine(self, descriptor: CkksDescriptor, now: int) -> None:
        if descriptor.holder.fingerprint != self.signer.identity.fingerprint:
            raise ProtocolViolation("the session names another key-holder")
        if now > descriptor.expires_at:
            raise SessionClosed(f"session {descriptor.ctx[:16]} has expired")

    def _once(self, slot: str, value: str, what: str, taken: str) -> None:
        if self.journal.record(slot, value.encode()) != value.encode():
            raise ConflictError(f"this {what} serves another {taken} already; only one is ever served")

    def open(
        self,
        descriptor: CkksDescriptor,
        signed: SignedUploadSet,
        shown: Iterable[ShownUpload],
        random: Randomness,
        now: int,
    ) -> Opened:
        """Check the set and every upload of it, add them up, decrypt once, round (§13.5). The set is recorded first.

        Asked again for the same set it gives the same sums. Memory is one running sum and one ciphertext, whatever
        the cohort.
        Raises what shows a lie of the coordinator, TooFewContributions, ConflictError (another set), and Unopenable
        when the set burns the session: that is recorded first, and `refusal` has it from then on.
        """
        self._check_mine(descriptor, now)
        approved = self.journal.get(f"ckks/{descriptor.offer.statement.digest}/session")
        if approved != descriptor.ctx.encode():
            raise ProtocolViolation("this key-holder has not approved the session")
        chosen = signed.verify(descriptor.coordinator_identity)
        if chosen.ctx != descriptor.ctx:
            raise ProtocolViolation("the set is of another session")
        self.policy.check_set(descriptor, tuple(member.client for member in chosen.members))
        self._once(f"ckks/{descriptor.ctx}/set", chosen.digest, "session", "set")
        keys = self.keys.get(descriptor.offer.statement.digest)
        try:
            sums = sum_up(descriptor, chosen, shown, keys, random)
        except Unopenable as found:
            self._record_refusal(descriptor, chosen, found)
            raise
        statement = SumOpening(
            ctx=descriptor.ctx,
            holder=self.signer.identity.fingerprint,
            set_digest=chosen.digest,
            sums=sums_hash(sums),
        )
        return Opened(self.signer.sign(statement), sums)

    def _record_refusal(self, descriptor: CkksDescriptor, chosen: UploadSet, found: Unopenable) -> None:
        word = OpeningRefusal.model_validate(
            {
                "ctx": descriptor.ctx,
                "holder": self.signer.identity.fingerprint,
                "set_digest": chosen.digest,
                "finding": found.finding,
                "client": found.client,
            }
        )
        self.journal.record(f"ckks/{descriptor.ctx}/refusal", self.signer.sign(word).to_bytes())

    def refusal(self, descriptor: CkksDescriptor) -> SignedOpeningRefusal | None:
        """Its word that the set of this session does not open, if it has found that (§13.5.7)."""
        raw = self.journal.get(f"ckks/{descriptor.ctx}/refusal")
        return None if raw is None else SignedOpeningRefusal.parse(raw)

    def forget(self, descriptor: CkksDescriptor) -> None:
        """The session is over: destroy its keys (§13.5.6)."""
        self.keys.erase(descriptor.offer.statement.digest)


def sum_up(
    descriptor: CkksDescriptor, chosen: UploadSet, shown: Iterable[ShownUpload], keys: HolderKey, random: Randomness
) -> U32:
    """The sums over the set, uint32 [L] (§13.5.3, §13.5.4).

    Raises what shows a lie of the coordinator, or Unopenable.
    """
    total = add_all(descriptor, chosen, shown, keys)
    secret = keys.secret()  # not before every upload was checked
    sums = round_sums(descriptor.parameters, total, secret, random)[: descriptor.parameters.length]
    if int(sums.max()) > len(chosen.members) * descriptor.quantiser.levels:
        raise Unopenable(
            "a sum is larger than its members can make it: some client sent values that are none. The session is burnt",
            "sum",
        )
    return sums


def add_all(descriptor: CkksDescriptor, chosen: UploadSet, shown: Iterable[ShownUpload], keys: HolderKey) -> list[U64]:
    """The ciphertexts of every member added up, block by block; each is [2, k, N] (§13.5.3).

    An upload is checked whole, against what its client signed, before any of it is opened.
    """
    wanted = {member.client: member.upload for member in chosen.members}
    total, primes = list[U64](), primes_of(descriptor.parameters.ring)
    for one in shown:
        upload = check_ckks_upload(descriptor, one.signed)
        if wanted.pop(upload.client, "") != upload.digest:
            raise ProtocolViolation(f"the coordinator shows an upload of {upload.client[:16]} that is not in the set")
        leaves = check_blocks(descriptor, upload, one.blocks)
        vectors = unwrapped(descriptor, upload.client, again(upload.client, one.blocks, leaves), keys)
        if not total:
            total = list(vectors)
            continue
        for held, vector in zip(total, vectors, strict=True):
            add_residues(held, vector, primes)
    if wanted:
        raise ProtocolViolation(f"the coordinator does not show {len(wanted)} uploads of the set")
    return total


def again(client: str, blocks: Iterable[bytes], leaves: list[bytes]) -> Iterator[bytes]:
    """The blocks read a second time: what a disk has changed since is not held against the client.

    Raises StorageError when they are not those that were checked.
    """
    changed = StorageError(
        f"the upload of {client[:16]} has changed on this machine since it was checked: look at disk and memory, then "
        "run again"
    )
    count = 0
    for block in blocks:
        if count == len(leaves) or leaf_hash(block) != leaves[count]:
            raise changed
        count += 1
        yield block
    if count != len(leaves):
        raise changed


def unwrapped(descriptor: CkksDescriptor, client: str, blocks: Iterable[bytes], keys: HolderKey) -> Iterator[U64]:
    """The ciphertexts in a member's blocks, [2, k, N], one at a time, each of the right form (§13.2.2, §13.2.4).

    Raises Unopenable that names the client: the blocks are those that it signed.
    """
    for index, block in enumerate(blocks):
        context = BlockContext(ctx=descriptor.ctx, client=client, index=index)
        try:
            found = descriptor.public.read(keys.unwrap(block, context))
        except (MalformedError, SizeLimitError) as error:
            words = f"client {client[:16]} sent ciphertexts that are none: {error}. The session is burnt"
            raise Unopenable(words, "no-ciphertext", client) from error
        yield found


def round_sums(parameters: CkksParameters, total: list[U64], secret: SecretContext, random: Randomness) -> U32:
    """Decrypt each block, test its error, flood it, and round to the grid (§13.5.4)."""
    stream, degree = fresh_keystream(FLOOD_PURPOSE, random), parameters.ring.degree
    sums = list[U32]()
    for vector in total:
        drawn = sample(gaussian(SECRET_VARIANCE), stream.read(stream_bytes(degree)), degree)
        noise = np.rint(drawn * (FLOOD_UNIT * 2.0**parameters.scale_log2)).astype(np.int64)
        found, error, beyond = read_sums(parameters, secret.decrypt(vector), noise)
        if error > ERROR_ROOM:
            raise Unopenable(
                "the error of the sum is larger than honest ciphertexts can make it: some client encrypted otherwise. "
                "The session is burnt",
                "error",
            )
        if beyond:
            raise Unopenable(
                f"the sum does not open: {beyond} coefficients hold more than their limbs, or less than nothing. "
                "The session is burnt",
                "limbs",
            )
        sums.append(found)
    return np.concatenate(sums)
