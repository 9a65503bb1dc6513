"""What masked sessions take in from outside (protocol.md §12)."""

from functools import cache
from typing import Any

import numpy as np

from secagg import certificate
from secagg.ckks import messages as ckks_messages
from secagg.client_noise.setting import ClientNoise
from secagg.masked import messages
from secagg.masked.certificate import MaskedCertificate, SignedMaskedRelease
from secagg.masked.descriptor import SignedMaskedDescriptor
from secagg.masked.keys import check_public_key
from secagg.masked.messages import DeliveredSelfShare, DeliveredShare
from secagg.masked.release import MaskedParts, build_masked_release
from secagg.masked.vectors import MaskedTotal
from secagg.masked.verify import _check_opening, read_masked_opening, verify_masked
from secagg.verify import check_files
from secagg_protos.v1 import secagg_pb2 as pb
from secagg_server.masked_border import leaves_of, sharing_of
from tests.fuzz.mutate import frame, parts_of
from tests.fuzz.releases import PROSE, hashes_of, whole_way
from tests.fuzz.target import Target, genuine
from tests.secagg.masked.sessions import Masked
from tests.small import NOW

STATEMENTS: tuple[Any, ...] = (
    messages.SignedAdvertisement, messages.SignedSharing, messages.SignedMaskedUpload, messages.SignedSurvivorSet,
    messages.SignedSetEndorsement, messages.SignedUnmasking, ckks_messages.SignedKeyOffer,
    ckks_messages.SignedCkksApproval, ckks_messages.SignedCkksUpload, ckks_messages.SignedUploadSet,
    ckks_messages.SignedSumOpening, ckks_messages.SignedOpeningRefusal,
)  # fmt: skip


@cache
def masked() -> Masked:
    """A session of five clients, opened; the third has vanished after it shared."""
    made = Masked(clients=5, n_min=3, absent={"upload": {2}})
    assert made.finish()
    return made


@cache
def release() -> dict[str, bytes]:
    """Its release."""
    parts = MaskedParts.of(masked().signed, masked().finish(), (), NOW + 9)
    return build_masked_release(parts, masked().parties.coordinator, {"secagg": "0"}, lambda _: b"page")


# -- masked: statements, messages, boxes, vectors ------------------------------------------------------------------


def statement_seeds() -> list[bytes]:
    """One of each."""
    session = masked()
    unmasked = session.unmasking.taken[0]
    of_kind: list[tuple[int, Any]] = [
        (0, session.sharing.directory[0]),
        (1, session.shared[0][1].signed),
        (2, session.uploaded[0][1].signed),
        (3, session.consistency.chosen),
        (4, session.unmasking.endorsements[0]),
        (5, unmasked),
    ]
    return [frame([bytes([kind]), signed.to_bytes()]) for kind, signed in of_kind]


def run_statement(data: bytes) -> object:
    """Parse, and verify under the roster member that claims to have signed."""
    kind, raw = parts_of(data, 2)
    signed = STATEMENTS[(kind[0] if kind else 0) % len(STATEMENTS)].parse(raw)
    descriptor = masked().descriptor
    statement = signed.verify(descriptor.member(descriptor.number_of(signed.signer)))
    genuine(signed.to_bytes(), signed_statements())
    return statement


@cache
def signed_statements() -> frozenset[bytes]:
    """All that was signed in the session, one of each."""
    return frozenset(parts_of(one, 2)[1] for one in statement_seeds())


def descriptor_seeds() -> list[bytes]:
    """The descriptor, and one with noise for whole clients."""
    noise = ClientNoise(clip=4.0, noise_multiplier=1.0, delta=1e-6, accept_noise_over_signal=True)
    noisy = Masked(clients=5, n_min=3, client_noise=noise)
    return [frame([one.signed.to_bytes()]) for one in (masked(), noisy)]


def run_descriptor(data: bytes) -> object:
    """Parse it with everything that a client derives."""
    signed = SignedMaskedDescriptor.parse(parts_of(data, 1)[0])
    descriptor = signed.verify(signed.statement.coordinator_identity)
    return descriptor.graph, descriptor.shape, descriptor.layout, descriptor.quantiser, descriptor.client_statement


def message_seeds() -> list[bytes]:
    """Messages of shares, and headers of uploads."""
    session = masked()

    def leaves(of: Any) -> list[pb.MaskedLeaf]:
        return [pb.MaskedLeaf(receiver=one.receiver, commitment=one.commitment, box=one.box) for one in of]

    sharing = session.shared[0][1]
    upload = session.uploaded[0][1]
    first = pb.ShareKeyRequest(signed_sharing_json=sharing.signed.to_bytes(), leaves=leaves(sharing.leaves))
    second = pb.MaskedUploadHeader(signed_upload_json=upload.signed.to_bytes(), leaves=leaves(upload.leaves))
    return [frame([b"\0", first.SerializeToString()]), frame([b"\1", second.SerializeToString()])]


def run_message(data: bytes) -> object:
    """As the coordinator reads them from its own store and from outside."""
    kind, raw = parts_of(data, 2)
    return leaves_of(raw) if kind == b"\1" else sharing_of(raw)


def box_seeds() -> list[bytes]:
    """What a holder is shown, in both rounds."""
    session = masked()
    share = session.uploading.shared_with(0).deliveries[0]
    own = session.unmasking.request(0).deliveries[0]
    return [
        frame([bytes([kind]), one.signed.to_bytes(), bytes([one.index]), one.commitment, one.box, *one.path])
        for kind, one in ((0, share), (1, own))
    ]


def run_box(data: bytes) -> object:
    """Open a delivered share."""
    parts = parts_of(data)
    kind, signed, index, commitment, box, *path = [*parts, *([b""] * max(0, 5 - len(parts)))]
    receiver = masked().shared[0][0].receiver
    place = index[0] if index else 0
    if kind == b"\1":
        statement = messages.SignedMaskedUpload.parse(signed)
        return receiver.open(DeliveredSelfShare(statement, place, commitment, tuple(path), box), "upload")
    sharing = messages.SignedSharing.parse(signed)
    return receiver.open(DeliveredShare(sharing, place, commitment, tuple(path), box), "share")


def vector_seeds() -> list[bytes]:
    """A packed vector, and a public key."""
    return [
        frame([b"\0", masked().uploaded[0][1].vector.tobytes()]),
        frame([b"\1", bytes.fromhex(masked().sharing.directory[0].statement.mask_key)]),
    ]


def run_vector(data: bytes) -> object:
    """Add a vector, or look at a key."""
    kind, raw = parts_of(data, 2)
    if kind == b"\1":
        check_public_key(raw)
        return None
    total = MaskedTotal(masked().descriptor.shape)
    total.add(np.frombuffer(raw, np.uint8))
    return total.count


# -- masked: releases ----------------------------------------------------------------------------------------------


def release_seeds() -> list[bytes]:
    """Each file of the release."""
    files = sorted(release().items())
    return [frame([bytes([number, again]), raw]) for number, (_, raw) in enumerate(files) for again in (0, 1)]


def run_release(data: bytes) -> object:
    """Verify a release of which one file is changed.

    As with sealed releases, one input in 64 goes the whole way when that is not the certificate. The second byte is 1
    when a lying coordinator has signed the changed file.
    """
    how, raw = parts_of(data, 2)
    names = sorted(release())
    name = names[(how[0] if how else 0) % len(names)]
    content, again = {**release(), name: raw}, how[1:2] == b"\1"
    if name != certificate.CERTIFICATE and not whole_way(data):
        found = read_release(content, name, again)
    else:
        found = verify_masked(signed_again(content) if again else content, masked().policy)
    if not again:
        genuine(content == release(), True)
    return found


def signed_again(content: dict[str, bytes]) -> dict[str, bytes]:
    """The release with its certificate signed by the coordinator itself, hashes of the files made anew."""
    raw = content[certificate.CERTIFICATE]
    known = raw == release()[certificate.CERTIFICATE]
    statement = masked_certificate() if known else SignedMaskedRelease.parse(raw).statement
    signed = masked().parties.coordinator.sign(statement.model_copy(update={"files": hashes_of(content)}))
    return {**content, certificate.CERTIFICATE: signed.to_bytes()}


def read_release(content: dict[str, bytes], name: str, again: bool) -> object:
    """The part of `verify_masked` that reads the file, under a certificate that is right, or signed again."""
    known = masked_certificate()
    if again:
        known = known.model_copy(update={"files": hashes_of(content)})
    check_files(content, known.files, set(certificate.FILES))
    return None if name in PROSE else _check_opening(content, known, known.session.statement)


def opening_seeds() -> list[bytes]:
    """The published opening."""
    return [frame([release()[certificate.OPENING]])]


@cache
def masked_certificate() -> MaskedCertificate:
    """The certificate."""
    return SignedMaskedRelease.parse(release()[certificate.CERTIFICATE]).statement


def run_opening(data: bytes) -> object:
    """`opening.safetensors` of a coordinator that lies."""
    return read_masked_opening(parts_of(data, 1)[0], masked_certificate())


TARGETS: tuple[Target, ...] = (
    Target("masked-statements", statement_seeds, run_statement),
    Target("masked-descriptor", descriptor_seeds, run_descriptor),
    Target("masked-messages", message_seeds, run_message),
    Target("masked-boxes", box_seeds, run_box),
    Target("masked-vectors", vector_seeds, run_vector),
    Target("masked-release", release_seeds, run_release),
    Target("masked-opening", opening_seeds, run_opening),
)
