"""What a ckks session takes in from outside (protocol.md §13)."""

from functools import cache
from typing import Any

import numpy as np

from secagg import certificate
from secagg.ckks import messages
from secagg.ckks.certificate import CkksCertificate, SignedCkksRelease
from secagg.ckks.client import accept_session, check_ckks_upload, split_blocks
from secagg.ckks.coordinator import check_arrived, check_opening
from secagg.ckks.descriptor import CkksDescriptor, SignedCkksDescriptor
from secagg.ckks.keyholder import unwrapped
from secagg.ckks.keys import HolderKey
from secagg.ckks.opened import Opened
from secagg.ckks.release import CkksParts, build_ckks_release
from secagg.ckks.scheme import PublicContext
from secagg.ckks.verify import _check_adapter, verify_ckks
from secagg.ckks.wrapping import wrap_block
from secagg.signing import Signer
from secagg.verify import check_files
from tests.fuzz.mutate import frame, parts_of
from tests.fuzz.releases import PROSE, hashes_of, whole_way
from tests.fuzz.target import Target, genuine
from tests.secagg.ckks.sessions import Ckks
from tests.small import NOW

MEMBERS = 4
STATEMENTS: tuple[Any, ...] = (
    messages.SignedKeyOffer, messages.SignedCkksApproval, messages.SignedCkksUpload, messages.SignedUploadSet,
    messages.SignedSumOpening, messages.SignedOpeningRefusal,
)  # fmt: skip


@cache
def session() -> Ckks:
    """A session of five clients with an opening of four."""
    made = Ckks()
    assert made.uploads
    return made


@cache
def opened() -> Opened:
    """What its key-holder gave."""
    return session().open(MEMBERS)


@cache
def approval() -> messages.SignedCkksApproval:
    """Of its key-holder."""
    return session().holder.approve(session().signed, NOW)


@cache
def refusal() -> messages.SignedOpeningRefusal:
    """What it would say of a set with a ciphertext that is none."""
    chosen, signer = session().chosen(MEMBERS).statement, session().holder.signer
    word = messages.OpeningRefusal(
        ctx=chosen.ctx,
        holder=signer.identity.fingerprint,
        set_digest=chosen.digest,
        finding="no-ciphertext",
        client=chosen.members[0].client,
    )
    return signer.sign(word)


def descriptor() -> CkksDescriptor:
    """The session's."""
    return session().descriptor


@cache
def signers() -> dict[str, Signer]:
    """Everybody's, by fingerprint."""
    everyone = (session().parties.coordinator, session().holder.signer, *session().signers)
    return {one.identity.fingerprint: one for one in everyone}


# -- statements ----------------------------------------------------------------------------------------------------


@cache
def statement_seeds() -> list[bytes]:
    """One of each, two uploads."""
    of_kind: list[tuple[int, Any]] = [
        (0, descriptor().offer),
        (1, approval()),
        (2, session().uploads[0].signed),
        (2, session().uploads[1].signed),
        (3, session().chosen(MEMBERS)),
        (4, opened().signed),
        (5, refusal()),
    ]
    return [frame([bytes([kind]), signed.to_bytes()]) for kind, signed in of_kind]


def run_statement(data: bytes) -> object:
    """Parse, and verify under the party that claims to have signed."""
    kind, raw = parts_of(data, 2)
    signed = STATEMENTS[(kind[0] if kind else 0) % len(STATEMENTS)].parse(raw)
    signer = signers().get(signed.signer, session().parties.coordinator)
    statement = signed.verify(signer.identity)
    genuine(signed.to_bytes(), frozenset(bytes(parts_of(one, 2)[1]) for one in statement_seeds()))
    return statement


def descriptor_seeds() -> list[bytes]:
    """The descriptor with the approval, as it is; and signed again by a coordinator that lies."""
    return [frame([how, session().signed.to_bytes(), approval().to_bytes()]) for how in (b"\0", b"\1")]


def run_descriptor(data: bytes) -> object:
    """As a client accepts a session."""
    how, raw, word = parts_of(data, 3)
    signed = SignedCkksDescriptor.parse(raw)
    if how[:1] == b"\1":
        signed = session().parties.coordinator.sign(signed.statement)
    given = messages.SignedCkksApproval.parse(word)
    policy, authority = session().holder.policy, session().parties.authority
    found = accept_session(signed, given, policy, authority, NOW)
    genuine(found.ctx, descriptor().ctx)
    return found


def offer_seeds() -> list[bytes]:
    """The offer, signed as it was, and by a key-holder that lies."""
    return [frame([how, descriptor().offer.to_bytes()]) for how in (b"\0", b"\1")]


def run_offer(data: bytes) -> object:
    """As a coordinator reads one into a descriptor: signature, base64, and the key's form."""
    how, raw = parts_of(data, 2)
    signed = messages.SignedKeyOffer.parse(raw)
    if how[:1] == b"\1":
        signed = session().holder.signer.sign(signed.statement)
    offer = signed.verify(descriptor().holder)
    if how[:1] != b"\1":
        genuine(offer.digest, descriptor().offer.statement.digest)
    return PublicContext(offer.raw, descriptor().parameters.ring)


# -- keys and ciphertexts ------------------------------------------------------------------------------------------


def ciphertext_seeds() -> list[bytes]:
    """Ciphertexts, their wrapping off, to be bent as they are, or bent and then of the right size again."""
    return [frame([how, block]) for block in session().inner(0) for how in (b"\0", b"\1")]


def sized(data: bytes, size: int) -> bytes:
    """The second part; of the right size when the first says so: else nearly all are refused for that alone."""
    how, raw = parts_of(data, 2)
    return raw[:size].ljust(size, b"\xff") if how[:1] == b"\1" else raw


def run_ciphertext(data: bytes) -> object:
    """As the key-holder reads one; what is accepted is below its primes."""
    found = descriptor().public.read(sized(data, descriptor().parameters.ring.block_bytes))
    primes = np.array(descriptor().parameters.ring.primes, np.uint64)
    genuine(bool((found < primes[:, None]).all()), True)
    return found


def block_seeds() -> list[bytes]:
    """Blocks as they travel; and ciphertexts that a client seals whatever they are."""
    sealed = [frame([b"\0", block]) for block in session().uploads[0].blocks]
    return sealed + [frame([b"\1", block]) for block in session().inner(0)]


def run_block(data: bytes) -> object:
    """As the key-holder opens the first block of a client."""
    how, raw = parts_of(data, 2)
    place = session().place(0, 0)
    sealed = wrap_block(raw, descriptor().hpke_key, place) if how[:1] == b"\1" else raw
    if how[:1] != b"\1":
        session().kept.unwrap(sealed, place)
        genuine(sealed, session().uploads[0].blocks[0])
    return list(unwrapped(descriptor(), place.client, [sealed], session().kept))


def stored_seeds() -> list[bytes]:
    """Both keys, as the key-holder stores them."""
    return [frame([session().kept.to_bytes()])]


def run_stored(data: bytes) -> object:
    """As the key-holder loads them: a bit that has changed is seen."""
    raw = parts_of(data, 1)[0]
    key = HolderKey.from_bytes(raw)
    found = key.secret()
    genuine(raw, session().kept.to_bytes())
    return found


def context_seeds() -> list[bytes]:
    """A public key."""
    return [frame([how, descriptor().public.raw]) for how in (b"\0", b"\1")]


def run_context(data: bytes) -> object:
    """As every party reads one."""
    ring = descriptor().parameters.ring
    return PublicContext(sized(data, ring.key_bytes), ring)


# -- uploads, sets, openings, releases -----------------------------------------------------------------------------


def upload_seeds() -> list[bytes]:
    """An upload; and one whose client signs whatever it sends."""
    one = session().uploads[0]
    return [frame([how, one.signed.to_bytes(), b"".join(one.blocks)]) for how in (b"\0", b"\1")]


def run_upload(data: bytes) -> object:
    """As the coordinator checks what has arrived."""
    how, raw, content = parts_of(data, 3)
    signed = messages.SignedCkksUpload.parse(raw)
    size = descriptor().parameters.ring.wire_bytes
    pieces = iter([content[at : at + size] for at in range(0, len(content), size)])
    blocks = tuple(split_blocks(lambda _: next(pieces, b""), size))
    if how[:1] == b"\1":
        signed = session().lied(0, blocks, privacy=signed.statement.privacy, ctx=signed.statement.ctx).signed
    check_arrived(descriptor(), signed, blocks)
    upload = check_ckks_upload(descriptor(), signed)
    if how[:1] != b"\1":
        genuine(signed.to_bytes(), session().uploads[0].signed.to_bytes())
    return upload


def set_seeds() -> list[bytes]:
    """The set, as it was signed, and signed again by a coordinator that lies."""
    return [frame([how, session().chosen(MEMBERS).to_bytes()]) for how in (b"\0", b"\1")]


def run_set(data: bytes) -> object:
    """As the key-holder looks at U before it fetches anything."""
    how, raw = parts_of(data, 2)
    signed = messages.SignedUploadSet.parse(raw)
    if how[:1] == b"\1":
        signed = session().parties.coordinator.sign(signed.statement)
    chosen = signed.verify(descriptor().coordinator_identity)
    session().holder.policy.check_set(descriptor(), tuple(member.client for member in chosen.members))
    if how[:1] != b"\1":
        genuine(chosen.digest, session().chosen(MEMBERS).statement.digest)
    return chosen


def opening_seeds() -> list[bytes]:
    """The opening with its sums; and one whose key-holder signs whatever it sends."""
    raw = opened().sums.astype("<u4").tobytes()
    return [frame([how, opened().signed.to_bytes(), raw]) for how in (b"\0", b"\1")]


def run_opening(data: bytes) -> object:
    """As the coordinator takes the sums in."""
    how, raw, content = parts_of(data, 3)
    signed = messages.SignedSumOpening.parse(raw)
    sums = np.frombuffer(content[: len(content) // 4 * 4], "<u4").astype(np.uint32)
    if how[:1] == b"\1":
        from secagg.ckks.opened import sums_hash

        word = signed.statement.model_copy(update={"sums": sums_hash(sums)})
        signed = session().holder.signer.sign(word)
    mean = check_opening(descriptor(), session().chosen(MEMBERS).statement, Opened(signed, sums))
    if how[:1] != b"\1":
        genuine(sums.tobytes(), opened().sums.tobytes())
    return mean


@cache
def release() -> dict[str, bytes]:
    """The session's release."""
    chosen = session().chosen(MEMBERS)
    uploads = {one.signed.signer: one.signed for one in session().uploads}
    members = tuple(uploads[member.client] for member in chosen.statement.members)
    parts = CkksParts(session().signed, approval(), members, chosen, opened(), (), NOW + 9)
    return build_ckks_release(parts, session().parties.coordinator, {"secagg": "0"}, lambda _: b"page")


@cache
def release_certificate() -> CkksCertificate:
    """Its certificate."""
    return SignedCkksRelease.parse(release()[certificate.CERTIFICATE]).statement


def release_seeds() -> list[bytes]:
    """Each file of it; the first part says which, and whether a lying coordinator signs again."""
    files = enumerate(sorted(release().items()))
    return [frame([bytes([number, again]), raw]) for number, (_, raw) in files for again in (0, 1)]


def signed_again(content: dict[str, bytes]) -> dict[str, bytes]:
    """The release with its certificate signed by the coordinator itself, hashes of the files made anew."""
    raw = content[certificate.CERTIFICATE]
    known = raw == release()[certificate.CERTIFICATE]
    statement = release_certificate() if known else SignedCkksRelease.parse(raw).statement
    signed = session().parties.coordinator.sign(statement.model_copy(update={"files": hashes_of(content)}))
    return {**content, certificate.CERTIFICATE: signed.to_bytes()}


def run_release(data: bytes) -> object:
    """Verify a release of which one file is changed; of the certificate itself the whole, of others what reads them."""
    how, raw = parts_of(data, 2)
    names = sorted(release())
    name = names[(how[0] if how else 0) % len(names)]
    content, again = {**release(), name: raw}, how[1:2] == b"\1"
    if name != certificate.CERTIFICATE and not whole_way(data):
        return read_release(content, name, again)
    if again:
        return verify_ckks(signed_again(content), session().holder.policy)
    report = verify_ckks(content, session().holder.policy)
    genuine(content == release(), True)
    return report


def read_release(content: dict[str, bytes], name: str, again: bool) -> object:
    """The part of `verify_ckks` that reads the file, under a certificate that is right, or signed again."""
    known = release_certificate()
    if again:
        known = known.model_copy(update={"files": hashes_of(content)})
    check_files(content, known.files, set(certificate.FILES))
    if name not in PROSE:
        _check_adapter(content, known, descriptor())
    if not again:
        genuine(content == release(), True)
    return known


TARGETS: tuple[Target, ...] = (
    Target("ckks-statements", statement_seeds, run_statement),
    Target("ckks-descriptor", descriptor_seeds, run_descriptor),
    Target("ckks-offer", offer_seeds, run_offer),
    Target("ckks-ciphertext", ciphertext_seeds, run_ciphertext),
    Target("ckks-block", block_seeds, run_block),
    Target("ckks-stored-keys", stored_seeds, run_stored),
    Target("ckks-context", context_seeds, run_context),
    Target("ckks-upload", upload_seeds, run_upload),
    Target("ckks-set", set_seeds, run_set),
    Target("ckks-opening", opening_seeds, run_opening),
    Target("ckks-release", release_seeds, run_release),
)
