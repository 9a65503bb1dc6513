"""Offline verification: passes on what was released, fails on anything else (protocol.md §10.3)."""

import hashlib
import json
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from secagg import certificate as files
from secagg import release
from secagg.certificate import Evaluation, Metric, SignedRelease
from secagg.errors import HashMismatch, MalformedError, PolicyViolation, SecaggError, VerificationError
from secagg.policy import Anchors
from secagg.release import annotate_release
from secagg.verify import PAGE_NOTE, verify_release
from tests.small import Small

SMALL = Small()
RELEASE = SMALL.release
ANCHORS = Anchors(
    coordinator=SMALL.policy.coordinator,
    committee=SMALL.policy.committee,
    institutions=SMALL.policy.institutions,
    required_institutions=3,
    n_min=3,
)


def stored(client: str, size: int) -> Iterator[bytes]:
    upload = next(u for u in SMALL.uploads if u.signed.statement.client == client)
    raw = upload.ciphertext.tobytes()
    return (raw[start : start + size] for start in range(0, len(raw), size))


def test_a_release_verifies_and_says_whether_the_uploads_were_linked() -> None:
    plain = verify_release(RELEASE, ANCHORS)
    assert not plain.linked
    assert any("NOT linked" in check for check in plain.checks)
    linked = verify_release(RELEASE, ANCHORS, stored)
    assert linked.linked
    assert any("4 uploads were hashed and added" in check for check in linked.checks)


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(sorted(RELEASE)), where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_in_any_file_fails(name: str, where: float, bit: int) -> None:
    raw = bytearray(RELEASE[name])
    raw[int(where * len(raw))] ^= 1 << bit
    with pytest.raises(SecaggError):
        verify_release({**RELEASE, name: bytes(raw)}, ANCHORS)


def test_every_byte_of_the_signature_and_of_white_space_counts() -> None:
    raw = RELEASE[files.CERTIFICATE]
    positions = [raw.rindex(b'"signature"') + offset for offset in range(0, 150, 7)]
    for position in (*positions, raw.index(b" "), len(raw) - 1):
        altered = bytearray(raw)
        altered[position] ^= 0x20
        with pytest.raises(SecaggError):
            verify_release({**RELEASE, files.CERTIFICATE: bytes(altered)}, ANCHORS)


@pytest.mark.parametrize("name", sorted(RELEASE))
def test_a_missing_truncated_or_extra_file_fails(name: str) -> None:
    with pytest.raises(SecaggError):
        verify_release({key: value for key, value in RELEASE.items() if key != name}, ANCHORS)
    with pytest.raises(SecaggError):
        verify_release({**RELEASE, name: RELEASE[name][:-1]}, ANCHORS)
    with pytest.raises(VerificationError, match="does not belong"):
        verify_release({**RELEASE, "extra.bin": b""}, ANCHORS)


def test_a_whole_release_signed_anew_under_other_anchors_fails() -> None:
    other = Small().release
    with pytest.raises(PolicyViolation, match="coordinator is not the one"):
        verify_release(other, ANCHORS)


def resign(content: dict[str, bytes]) -> dict[str, bytes]:
    """What a lying coordinator does: state the hashes of the altered files and sign again."""
    signed = SignedRelease.parse(RELEASE[files.CERTIFICATE])
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in content.items() if name != files.CERTIFICATE}
    statement = signed.statement.model_copy(update={"files": hashes})
    return {**content, files.CERTIFICATE: files.certificate_file(SMALL.parties.coordinator.sign(statement))}


def test_a_coordinator_that_swaps_the_configuration_is_caught() -> None:
    swapped = resign({**RELEASE, files.ADAPTER_CONFIG: b"{}\n"})
    with pytest.raises(VerificationError, match="not the one that the session agreed on"):
        verify_release(swapped, ANCHORS)


def test_a_certificate_that_is_cut_off_is_named() -> None:
    cut = {**RELEASE, files.CERTIFICATE: RELEASE[files.CERTIFICATE][:1000]}
    with pytest.raises(MalformedError, match=r"release\.json is no certificate: it was altered or cut off"):
        verify_release(cut, ANCHORS)


def test_a_stored_upload_that_was_altered_is_caught() -> None:
    def altered(client: str, size: int) -> Iterator[bytes]:
        for index, block in enumerate(stored(client, size)):
            yield block if index else bytes([block[0] ^ 1]) + block[1:]

    with pytest.raises(HashMismatch, match="not what the client signed"):
        verify_release(RELEASE, ANCHORS, altered)


@pytest.mark.parametrize(
    ("field", "value"),
    [("security_bits", 200), ("committee_note", "trust us"), ("privacy_note", "perfect"), ("error_max", 0)],
)
def test_a_statement_that_does_not_follow_is_refused(field: str, value: object) -> None:
    signed = SignedRelease.parse(RELEASE[files.CERTIFICATE])
    statement = signed.statement.model_copy(update={field: value})
    content = {**RELEASE, files.CERTIFICATE: files.certificate_file(SMALL.parties.coordinator.sign(statement))}
    with pytest.raises(VerificationError, match=field):
        verify_release(content, ANCHORS)


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ({"coordinator": "00" * 32}, "coordinator is not the one"),
        ({"committee": {"a": "00" * 32}}, "key-holder .* is not one that is pinned"),
        ({"corrupt_keyholders": 2}, "assumes f=1"),
        ({"n_min": 4, "assumed_corrupt_clients": 2}, "n_min is 3"),
        ({"base_model_hashes": ("00" * 32,)}, "base model"),
        ({"adapter_schema_hashes": ("00" * 32,)}, "adapter schema"),
        ({"institutions": {"a": "00" * 32, "b": "11" * 32, "c": "22" * 32}}, "only 0 pinned"),
    ],
)
def test_each_anchor_is_held(update: dict[str, object], message: str) -> None:
    with pytest.raises(PolicyViolation, match=message):
        verify_release(RELEASE, ANCHORS.model_copy(update=update))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"clip": 0.0', b'"clip": -0.0'),  # one canonical form: the signature alone would not tell
        (b'"version": 1', b'"version": 1,\n  "version": 1'),
        (b'"peft_type": "LORA"', b'"peft_type": NaN'),
        (b'"peft_type": "LORA"', b'"peft_type": ' + b"[" * 5000 + b"]" * 5000),
        (b'"peft_type": "LORA"', b'"peft_type": "\\u004cORA"'),
        (b'"r": 4', b'"r": 4.0'),
    ],
)
def test_another_spelling_of_the_certificate_is_refused(old: bytes, new: bytes) -> None:
    raw = RELEASE[files.CERTIFICATE]
    assert old in raw
    with pytest.raises(SecaggError):
        verify_release({**RELEASE, files.CERTIFICATE: raw.replace(old, new, 1)}, ANCHORS)


@pytest.mark.parametrize("shape", [(), (1, -1), (1, 1, -1)])
def test_a_tensor_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    """Signed by the coordinator itself."""
    tensors = release.load_tensors(RELEASE[files.OPENING], files.OPENING)
    tensors["key_sum"] = tensors["key_sum"].reshape(shape) if shape else np.array(3, np.int64)
    opening = save(tensors)
    statement = SignedRelease.parse(RELEASE[files.CERTIFICATE]).statement
    hashes = {**statement.files, files.OPENING: hashlib.sha256(opening).hexdigest()}
    signed = SMALL.parties.coordinator.sign(statement.model_copy(update={"files": hashes}))
    with pytest.raises(MalformedError, match="key_sum is missing or of another type or shape"):
        verify_release({**RELEASE, files.OPENING: opening, files.CERTIFICATE: files.certificate_file(signed)}, ANCHORS)


def test_a_model_card_of_the_coordinators_own_words_is_refused() -> None:
    """It signs them; of the page, which is made with plots, a report says that nobody made it again."""
    statement = SignedRelease.parse(RELEASE[files.CERTIFICATE]).statement
    contents = {name: data for name, data in RELEASE.items() if name != files.CERTIFICATE}
    lied = {**contents, files.MODEL_CARD: contents[files.MODEL_CARD].replace(b"institutions", b"honest institutions")}
    assert lied != contents
    with pytest.raises(VerificationError, match="not the model card that the certificate gives"):
        verify_release(release.sign_files(statement, SMALL.parties.coordinator, lied), ANCHORS)
    page = release.sign_files(statement, SMALL.parties.coordinator, {**contents, files.REPORT: b"all is well"})
    assert PAGE_NOTE in verify_release(page, ANCHORS).checks


def test_an_evaluation_is_attached_and_signed_and_still_verifies() -> None:
    evaluation = Evaluation(
        data_sha256="ab" * 32,
        data_is_public=True,
        description="held-out rows of a public set",
        metrics=(Metric(name="accuracy", value=0.75),),
    )
    noted = annotate_release(RELEASE, SMALL.parties.coordinator, evaluation, lambda _: b"<html>quality</html>")
    report = verify_release(noted, ANCHORS)
    assert report.certificate.evaluation == evaluation
    assert noted[files.ADAPTER] == RELEASE[files.ADAPTER]
    assert b"accuracy: 0.75" in noted[files.MODEL_CARD]
    with pytest.raises(SecaggError):
        annotate_release(RELEASE, SMALL.parties.holders[0], evaluation, lambda _: b"")


def test_the_same_records_give_the_same_bytes() -> None:
    again = release.build_release(
        SMALL.parts, SMALL.parties.coordinator, {"secagg": "0.1.0"}, lambda _: b"<html></html>"
    )
    assert again == RELEASE


def keys(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from keys(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from keys(inner)


def test_no_sampling_rate_or_count_is_in_the_certificate() -> None:
    """With the public batch size either would give the size of a client's data away (protocol.md §7.1)."""
    found = set(keys(json.loads(RELEASE[files.CERTIFICATE])))
    assert "batch_size" in found
    for word in ("rate", "declared_size", "examples", "dataset_size", "sigma", "noise_multiplier", "loss"):
        assert not [key for key in found if key == word or (key.endswith(("_rate",)) and "learning" not in key)]
