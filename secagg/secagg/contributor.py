"""The client's side: from a vector to one signed upload (protocol.md §5, §6, §7)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secagg import shamir
from secagg.boxes import BoxContext, seal_box
from secagg.client_noise.encoding import encode
from secagg.descriptor import Descriptor
from secagg.encodings.registry import encoding_of
from secagg.errors import EncodingError
from secagg.merkle import root, rows_root
from secagg.messages import SignedUpload, Upload
from secagg.privacy import PrivacyStatement
from secagg.randomness import Randomness
from secagg.sealing import Sealed, ShortKey, seal, seal_update
from secagg.signing import Signer


@dataclass(frozen=True, slots=True)
class SealedUpload:
    """All that a client ever sends. `ciphertext` is uint8 [blocks, block_bytes]; one box per key-holder.

    Nothing in it opens without t key-holders; the key it was made with is gone.
    """

    signed: SignedUpload
    ciphertext: NDArray[np.uint8]
    boxes: tuple[bytes, ...]


def seal_contribution(
    descriptor: Descriptor,
    signer: Signer,
    change: NDArray[np.float32],
    privacy: PrivacyStatement,
    random: Randomness,
    *,
    threads: int = 1,
) -> SealedUpload:
    """Encode, encrypt and share one update under a fresh key, and sign the commitment; on so many threads.

    `change` has shape [plan.length]; the plan's encoding makes the vector of it (protocol.md §2.7).
    Call it once per session: two vectors under one session from one client are refused by the server, and the caller
    spools the result and resends the same bytes (protocol.md §5.4).
    Raises EncodingError for a wrong length or a value that is not finite.
    """
    fingerprint = signer.identity.fingerprint
    descriptor.client(fingerprint)
    if not np.isfinite(change).all():  # before it is encoded: an encoding may drop what is not
        raise EncodingError("the change holds values that are not finite")
    vector = encoding_of(descriptor.plan).encode(descriptor.plan, change, random)
    sealed = _sealed(descriptor, vector, descriptor.weights[fingerprint], random, threads)
    try:
        ciphertext_root = rows_root(sealed.ciphertext, threads).hex()
        boxes = _boxes(descriptor, fingerprint, ciphertext_root, sealed.key, random)
    finally:
        sealed.key.wipe()
    upload = Upload(
        ctx=descriptor.ctx,
        client=fingerprint,
        ciphertext_root=ciphertext_root,
        boxes_root=root(boxes).hex(),
        ciphertext_bytes=sealed.ciphertext.nbytes,
        privacy=privacy.model_copy(update={"client_level": descriptor.client_statement}),
    )
    return SealedUpload(signed=signer.sign(upload), ciphertext=sealed.ciphertext, boxes=boxes)


def _sealed(
    descriptor: Descriptor, vector: NDArray[np.float32], weight: float, random: Randomness, threads: int
) -> Sealed:
    """The vector, encoded and sealed; with this client's share of the noise between the two, if the session has it."""
    ctx, grid = bytes.fromhex(descriptor.ctx), descriptor.noise_grid
    if grid is None:
        return seal_update(descriptor.parameters, descriptor.quantiser, ctx, vector, random, weight, threads=threads)
    encoded = encode(grid, vector, random, weight)
    try:
        return seal(descriptor.parameters, ctx, encoded.values, random, threads=threads)._replace(
            clipped=encoded.clipped
        )
    finally:
        encoded.values.fill(0)


def _boxes(
    descriptor: Descriptor, client: str, ciphertext_root: str, key: ShortKey, random: Randomness
) -> tuple[bytes, ...]:
    shares = shamir.share_key(key, descriptor.threshold, len(descriptor.committee), random)
    boxes = list[bytes]()
    for member, holder, share in zip(descriptor.committee, descriptor.holders, shares, strict=True):
        context = BoxContext(
            ctx=descriptor.ctx,
            client=client,
            holder=holder.fingerprint,
            index=share.index,
            ciphertext_root=ciphertext_root,
        )
        public_key = bytes.fromhex(member.offer.statement.public_key)
        boxes.append(seal_box(share.packed, share.blinding, public_key, context))
    return tuple(boxes)
