"""A masked release: made, verified, altered (protocol.md §12.9)."""

import json
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from safetensors.numpy import load, save

from secagg.canonical import pretty_bytes
from secagg.certificate import ADAPTER, CERTIFICATE, FILES, MODEL_CARD, OPENING, REPORT
from secagg.errors import (
    EndorsementInvalid,
    HashMismatch,
    MalformedError,
    OpeningError,
    PolicyViolation,
    ProtocolViolation,
    SecaggError,
    SignatureInvalid,
    VerificationError,
)
from secagg.masked.certificate import MaskedCertificate, SignedMaskedRelease
from secagg.masked.policy import MaskedAnchors
from secagg.masked.release import MaskedParts, build_masked_release
from secagg.masked.verify import verify_masked
from secagg.messages import Receipt
from secagg.receipts import Fate, judge_receipt
from secagg.release import sign_files
from secagg.run import certify
from tests.secagg.masked.sessions import Masked
from tests.small import NOW

Release = dict[str, bytes]
VECTORS = dict[str, bytes]


def render(certificate: MaskedCertificate) -> bytes:
    return f"page of {certificate.ctx}".encode()


@pytest.fixture(scope="module")
def session() -> Masked:
    """Member 1 shares its mask key and is gone; member 4 vanishes after its upload."""
    return Masked(clients=7, absent={"upload": {1}, "endorse": {4}}, dropout_rate=0.3, n_min=4)


@pytest.fixture(scope="module")
def release(session: Masked) -> Release:
    parts = MaskedParts.of(session.signed, session.finish(), (), NOW + 9)
    return build_masked_release(parts, session.parties.coordinator, {"secagg": "0"}, render)


@pytest.fixture
def anchors(session: Masked) -> MaskedAnchors:
    return session.policy


def test_a_release_verifies_offline_and_gives_the_mean(
    session: Masked, release: Release, anchors: MaskedAnchors
) -> None:
    report = verify_masked(release, anchors)
    assert not report.linked
    assert len(report.certificate.members) == 6
    assert [one.reason for one in report.certificate.excluded] == [
        "no masked vector before the set was fixed; its masks were taken out of the sum"
    ]
    adapter = load(release[ADAPTER])["a.lora_B.weight"]
    mean = np.mean([session.changes[number] for number in range(7) if number != 1], axis=0)
    assert np.abs(adapter - mean).max() < 0.5 / 2**15


def test_receipts_of_masked_sessions_are_judged_by_the_certificate(session: Masked, release: Release) -> None:
    """Member 0 is in the sum; member 1 is not, and holds a receipt that the coordinator should not have given."""
    certificate = SignedMaskedRelease.parse(release[CERTIFICATE]).statement
    fates = list[Fate]()
    for number, root in ((0, session.uploaded[0][1].signed.statement.digest), (0, "ab" * 32), (1, "ab" * 32)):
        client = session.signers[number].identity.fingerprint
        receipt = Receipt(ctx=session.descriptor.ctx, client=client, upload_root=root, received_at=NOW)
        fates.append(judge_receipt(certificate, session.parties.coordinator.sign(receipt)).fate)
    assert fates == [Fate.INCLUDED, Fate.DROPPED, Fate.DROPPED]


def test_with_the_uploads_at_hand_they_are_added_again(
    session: Masked, release: Release, anchors: MaskedAnchors
) -> None:
    def stored(client: str, size: int) -> Iterator[bytes]:
        raw = session.uploaded[session.descriptor.number_of(client)][1].vector.tobytes()
        yield from (raw[start : start + size] for start in range(0, len(raw), size))

    assert verify_masked(release, anchors, stored).linked

    def other(client: str, size: int) -> Iterator[bytes]:
        first, *rest = stored(client, size)
        yield bytes([first[0] ^ 1]) + first[1:]
        yield from rest

    with pytest.raises(HashMismatch, match="not what the client signed"):
        verify_masked(release, anchors, other)


def test_the_same_records_give_the_same_bytes(session: Masked, release: Release) -> None:
    parts = MaskedParts.of(session.signed, session.finish(), (), NOW + 9)
    assert build_masked_release(parts, session.parties.coordinator, {"secagg": "0"}, render) == release


def test_nothing_in_it_is_a_single_vector_or_a_key_that_masks_one(session: Masked, release: Release) -> None:
    everything = b"".join(release.values())
    for number, (_, message) in session.uploaded.items():
        assert message.vector.tobytes()[:64] not in everything
        assert session.shared[number][0].keys.mask.value not in everything
        assert session.shared[number][0].keys.box.value not in everything
    assert session.shared[1][0].keys.mask.value in everything  # it is gone, and no vector of its is in the sum
    assert session.shared[1][0].keys.box.value not in everything


def resigned(session: Masked, release: Release, **update: object) -> Release:
    """The coordinator lies, and signs it."""
    certificate = SignedMaskedRelease.parse(release[CERTIFICATE]).statement.model_copy(update=update)
    contents = {name: release[name] for name in FILES}
    return sign_files(certificate, session.parties.coordinator, contents)


def with_opening(session: Masked, release: Release, change: Callable[[dict[str, np.ndarray]], None]) -> Release:
    tensors = load(release[OPENING])
    change(tensors)
    certificate = SignedMaskedRelease.parse(release[CERTIFICATE]).statement
    contents = {**{name: release[name] for name in FILES}, OPENING: save(tensors)}
    return sign_files(certificate, session.parties.coordinator, contents)


def lies() -> dict[str, tuple[type[SecaggError], str]]:
    return {
        "adapter": (VerificationError, "not the decoded mean"),
        "card": (VerificationError, "not the model card"),
        "sum": (OpeningError, "masks are left"),
        "seed": (OpeningError, "committed to shares"),
        "key": (OpeningError, "committed to shares"),
        "pair": (OpeningError, "masks are left"),
        "stranger": (MalformedError, "pairs must be"),
        "tensor": (MalformedError, "other tensors"),
        "shape": (MalformedError, "another type or shape"),
        "wide": (MalformedError, "wider than"),
        "member": (ProtocolViolation, "not that of the signed uploads"),
        "endorsements": (EndorsementInvalid, "endorsed the set; at least"),
        "twice": (MalformedError, "distinct members"),
        "note": (VerificationError, "privacy_note"),
        "security": (VerificationError, "security_bits"),
        "excluded": (VerificationError, "excluded"),
        "dated": (ProtocolViolation, "dated before"),
        "ctx": (ProtocolViolation, "another session"),
    }


def lying(session: Masked, release: Release, name: str) -> Release:
    found = SignedMaskedRelease.parse(release[CERTIFICATE]).statement

    def bend(key: str, change: Callable[[np.ndarray], np.ndarray]) -> Release:
        return with_opening(session, release, lambda tensors: tensors.update({key: change(tensors[key])}))

    def flipped(values: np.ndarray) -> np.ndarray:
        values = values.copy()
        values.flat[0] ^= 1
        return values

    match name:
        case "adapter":
            tensors = load(release[ADAPTER])
            tensors["a.lora_B.weight"] = tensors["a.lora_B.weight"] + np.float32(1)
            contents = {**{file: release[file] for file in FILES}, ADAPTER: save(tensors, metadata={"format": "pt"})}
            return sign_files(found, session.parties.coordinator, contents)
        case "card":
            contents = {**{file: release[file] for file in FILES}, MODEL_CARD: b"Nobody could have lied."}
            return sign_files(found, session.parties.coordinator, contents)
        case "sum":
            return bend("masked_sum", lambda values: values ^ np.uint32(1))
        case "seed":
            return bend("seeds", flipped)
        case "key":
            return bend("keys", lambda keys: np.roll(keys, 1))
        case "pair":
            return bend("pairs", lambda pairs: pairs[1:])
        case "stranger":
            return bend("pairs", lambda pairs: pairs[:, ::-1].copy())
        case "tensor":
            return with_opening(session, release, lambda tensors: tensors.update(extra=np.zeros(1)))
        case "shape":
            return bend("seeds", lambda seeds: seeds[1:])
        case "wide":
            return bend("masked_sum", lambda values: values | np.uint32(1 << 31))
        case "member":
            return resigned(session, release, uploads=found.uploads[1:])
        case "endorsements":
            return resigned(session, release, endorsements=found.endorsements[:2])
        case "twice":
            return resigned(session, release, endorsements=(found.endorsements[0], *found.endorsements))
        case "note":
            return resigned(session, release, privacy_note="perfectly private")
        case "security":
            return resigned(session, release, security_bits=256)
        case "excluded":
            return resigned(session, release, excluded=())
        case "dated":
            return resigned(session, release, released_at=NOW - 10)
        case "ctx":
            return resigned(session, release, ctx="ab" * 32)
    raise AssertionError(name)


@pytest.mark.parametrize("name", lies())
def test_a_coordinator_that_lies_in_its_certificate_is_found_out(
    name: str, session: Masked, release: Release, anchors: MaskedAnchors
) -> None:
    kind, words = lies()[name]
    with pytest.raises(kind, match=words):
        verify_masked(lying(session, release, name), anchors)


def test_an_altered_file_is_found(release: Release, anchors: MaskedAnchors) -> None:
    with pytest.raises(HashMismatch, match="was altered"):
        verify_masked({**release, REPORT: b"nice"}, anchors)
    with pytest.raises(HashMismatch, match="is missing"):
        verify_masked({name: raw for name, raw in release.items() if name != OPENING}, anchors)
    with pytest.raises(VerificationError, match="does not belong"):
        verify_masked({**release, "more.txt": b""}, anchors)
    with pytest.raises(HashMismatch, match="not a release"):
        verify_masked({}, anchors)


def test_an_altered_certificate_is_found(release: Release, anchors: MaskedAnchors) -> None:
    plain = json.loads(release[CERTIFICATE])
    plain["statement"]["released_at"] += 1
    altered = pretty_bytes(SignedMaskedRelease.parse(json.dumps(plain)))
    with pytest.raises(SignatureInvalid):
        verify_masked({**release, CERTIFICATE: altered}, anchors)
    with pytest.raises(HashMismatch, match="canonical"):
        verify_masked({**release, CERTIFICATE: release[CERTIFICATE] + b" "}, anchors)


def test_another_coordinator_or_cohort_than_pinned_is_refused(session: Masked, release: Release) -> None:
    others = certify([f"Bank {i}" for i in range(1, 8)], 0, NOW)
    pins = {name: signer.identity.fingerprint for name, signer in others.clients.items()}
    with pytest.raises(PolicyViolation, match="coordinator"):
        verify_masked(
            release, session.policy.model_copy(update={"coordinator": others.coordinator.identity.fingerprint})
        )
    with pytest.raises(PolicyViolation, match="pinned institutions"):
        verify_masked(release, session.policy.model_copy(update={"institutions": pins}))
    with pytest.raises(PolicyViolation, match="n_min"):
        verify_masked(release, session.policy.model_copy(update={"n_min": 6}))
    with pytest.raises(PolicyViolation, match="base model"):
        verify_masked(release, session.policy.model_copy(update={"base_model_hashes": ("cd" * 32,)}))
