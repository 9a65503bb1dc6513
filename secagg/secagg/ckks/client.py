"""The client's side of a ckks session: from a vector to one signed upload (protocol.md §13.4)."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from secagg.ckks.descriptor import CkksDescriptor, SignedCkksDescriptor
from secagg.ckks.messages import CkksUpload, SignedCkksApproval, SignedCkksUpload
from secagg.ckks.parameters import CkksParameters
from secagg.ckks.policy import CkksPolicy
from secagg.ckks.scheme import PublicContext
from secagg.ckks.wrapping import BlockContext, wrap_block
from secagg.client_noise.encoding import encode
from secagg.encodings.registry import encoding_of
from secagg.errors import (
    EncodingError,
    EndorsementInvalid,
    HashMismatch,
    PolicyViolation,
    ProtocolViolation,
    SessionClosed,
    SizeLimitError,
)
from secagg.identity import check_issued_by
from secagg.merkle import leaf_hash, root_of
from secagg.privacy import PrivacyStatement
from secagg.randomness import Randomness
from secagg.signing import Signer


@dataclass(frozen=True, slots=True)
class CkksSealed:
    """All that a client ever sends: statement, and ciphertexts sealed to the key-holder, who alone could open it."""

    signed: SignedCkksUpload
    blocks: tuple[bytes, ...] = field(repr=False)


def accept_session(
    signed: SignedCkksDescriptor, approval: SignedCkksApproval, policy: CkksPolicy, authority: str, now: int
) -> CkksDescriptor:
    """Everything that must hold of a session before a client trains for it (protocol.md §13.3.2, §13.3.3).

    Raises SignatureInvalid, CertificateInvalid, PolicyViolation, EndorsementInvalid, MalformedError or SessionClosed.
    """
    descriptor = signed.verify(signed.statement.coordinator_identity)
    for identity in (descriptor.coordinator_identity, descriptor.holder, *descriptor.clients.values()):
        check_issued_by(identity, authority, now)
    policy.check(descriptor)
    word = approval.verify(descriptor.holder)
    if (word.ctx, word.holder) != (descriptor.ctx, descriptor.holder.fingerprint):
        raise EndorsementInvalid("the key-holder's approval is for another session")
    if now > descriptor.upload_deadline:
        raise SessionClosed(f"session {descriptor.ctx[:16]} takes no more uploads: its deadline has passed")
    descriptor.public.try_out(descriptor.parameters)  # a key that encrypts nothing is refused before anybody trains
    return descriptor


def seal_ckks(
    descriptor: CkksDescriptor,
    signer: Signer,
    change: NDArray[np.float32],
    privacy: PrivacyStatement,
    random: Randomness,
) -> CkksSealed:
    """Encode, encrypt, seal to the key-holder, and sign the commitment. `change` is float32 [plan.length].

    Between the two comes this client's share of the noise for whole clients, if the session has it (§14).

    Call it once per session, keep what it gives, and resend the same bytes. Raises EncodingError or RoleViolation.
    """
    fingerprint, parameters = signer.identity.fingerprint, descriptor.parameters
    descriptor.client(fingerprint)
    if not np.isfinite(change).all():  # before it is encoded: an encoding may drop what is not
        raise EncodingError("the change holds values that are not finite")
    vector = encoding_of(descriptor.plan).encode(descriptor.plan, change, random)
    weight, grid = descriptor.weights[fingerprint], descriptor.noise_grid
    if grid is None:
        encoded = descriptor.quantiser.encode(vector, random, weight)
    else:
        encoded = encode(grid, vector, random, weight)
    try:
        blocks = wrap_blocks(descriptor, fingerprint, encrypt_values(parameters, descriptor.public, encoded.values))
    finally:
        encoded.values.fill(0)
    upload = CkksUpload(
        ctx=descriptor.ctx,
        client=fingerprint,
        blocks=len(blocks),
        bytes=sum(map(len, blocks)),
        root=blocks_root(blocks),
        privacy=privacy.model_copy(update={"client_level": descriptor.client_statement}),
    )
    return CkksSealed(signer.sign(upload), blocks)


def encrypt_values(parameters: CkksParameters, public: PublicContext, values: NDArray[np.uint32]) -> tuple[bytes, ...]:
    """Ciphertexts of encoded values, uint32 [L], filled up with zeros (protocol.md §13.2.2)."""
    padded = np.zeros(parameters.blocks * parameters.block_values, dtype=np.uint32)
    padded[: parameters.length] = values
    shaped = padded.reshape(parameters.blocks, parameters.limbs, parameters.ring.degree)
    blocks = tuple(public.encrypt(parameters, limbs) for limbs in shaped)
    padded.fill(0)
    return blocks


def wrap_blocks(descriptor: CkksDescriptor, client: str, blocks: Iterable[bytes]) -> tuple[bytes, ...]:
    """Ciphertexts of a client as they travel, each sealed to the key-holder (protocol.md §13.2.4)."""
    return tuple(
        wrap_block(block, descriptor.hpke_key, BlockContext(ctx=descriptor.ctx, client=client, index=index))
        for index, block in enumerate(blocks)
    )


def blocks_root(blocks: Iterable[bytes]) -> str:
    """Merkle root over blocks as they travel, each a leaf, hex."""
    return root_of([leaf_hash(block) for block in blocks]).hex()


def split_blocks(read: Callable[[int], bytes], size: int) -> Iterator[bytes]:
    """Blocks of `size` bytes that follow one another; `read(size)` gives at most so many.

    Raises HashMismatch when the end cuts the last one short: nobody signs that.
    """
    while block := read(size):
        if len(block) != size:
            raise HashMismatch("an upload ends in the middle of a block: it is not what its client signed")
        yield block


def check_blocks(descriptor: CkksDescriptor, upload: CkksUpload, blocks: Iterable[bytes]) -> list[bytes]:
    """That the blocks are those which the client signed, each of this session's size (§13.4.3); a hash of each.

    What is in them only the key-holder sees: they are sealed to it. One at a time: memory is one block and a hash for
    each. Raises HashMismatch for what the client did not sign, else SizeLimitError: that is the client's own doing.
    """
    size, leaves, wrong = descriptor.parameters.ring.wire_bytes, list[bytes](), list[int]()
    for block in blocks:
        if len(leaves) == upload.blocks:
            raise HashMismatch("the upload has more blocks than its client signed")
        leaves.append(leaf_hash(block))
        if len(block) != size:
            wrong.append(len(block))
    if len(leaves) != upload.blocks or root_of(leaves).hex() != upload.root:
        raise HashMismatch(f"the blocks of {upload.client[:16]} are not what the client signed")
    if wrong:
        raise SizeLimitError(f"a block of {upload.client[:16]} has {wrong[0]} bytes; in this session it has {size}")
    return leaves


def check_ckks_upload(descriptor: CkksDescriptor, signed: SignedCkksUpload) -> CkksUpload:
    """The client's own signature, for this session and length, with the privacy that was agreed on (§7.1, §14.6a).

    Raises RoleViolation, SignatureInvalid, ProtocolViolation, HashMismatch or PolicyViolation.
    """
    identity = descriptor.client(signed.signer)
    upload = signed.verify(identity)
    if (upload.ctx, upload.client) != (descriptor.ctx, identity.fingerprint):
        raise ProtocolViolation(f"the upload of {identity.title} is for another session or client")
    wanted = (descriptor.parameters.blocks, descriptor.parameters.upload_bytes)
    if (upload.blocks, upload.bytes) != wanted:
        found = f"{upload.blocks} blocks of {upload.bytes} bytes"
        raise HashMismatch(f"{identity.title} announces {found}, not {wanted[0]} of {wanted[1]}")
    agreed, stated = descriptor.plan.training, upload.privacy
    weaker = agreed.epsilon is not None and (stated.epsilon is None or stated.epsilon > agreed.epsilon)
    units = (stated.unit, stated.records_per_user) != (agreed.unit, agreed.records_per_user)
    if weaker or stated.delta > agreed.delta or stated.noise != agreed.noise or units:
        raise PolicyViolation(f"{identity.title} states another privacy than the session agreed on")
    if stated.client_level != descriptor.client_statement:
        raise PolicyViolation(f"{identity.title} states other client-level noise than the session agreed on")
    return upload
