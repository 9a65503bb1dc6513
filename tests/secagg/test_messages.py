"""Only typed errors for whatever comes from outside (protocol.md §11.2)."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg.certificate import SignedRelease
from secagg.descriptor import SignedDescriptor
from secagg.errors import MalformedError, SecaggError
from secagg.messages import SignedCandidate, SignedEndorsement, SignedUpload
from secagg.signing import parse_model
from tests.small import Small

SMALL = Small()
SAMPLES = {
    SignedUpload: SMALL.uploads[0].signed.to_bytes(),
    SignedCandidate: SMALL.candidate.to_bytes(),
    SignedEndorsement: SMALL.answers[0].to_bytes(),
    SignedRelease: SMALL.release["release.json"],
}


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(list(SAMPLES)), st.binary(max_size=200))
def test_junk_is_malformed(kind: type[SignedUpload], junk: bytes) -> None:
    with pytest.raises(MalformedError):
        kind.parse(junk)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(list(SAMPLES)), st.data())
def test_damaged_statements_give_typed_errors(kind: type[SignedUpload], data: st.DataObject) -> None:
    raw = bytearray(SAMPLES[kind])
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        kind.parse(bytes(raw))
    except SecaggError:
        return
    assert json.loads(bytes(raw))


@pytest.mark.parametrize("kind", list(SAMPLES))
def test_round_trip_and_no_unknown_fields(kind: type[SignedUpload]) -> None:
    raw = SAMPLES[kind]
    assert kind.parse(raw).to_bytes() == raw
    extended = json.loads(raw) | {"extra": 1}
    with pytest.raises(MalformedError, match="extra"):
        kind.parse(json.dumps(extended))


def test_a_descriptor_with_contradictions_is_malformed_not_a_crash() -> None:
    plain = json.loads(SMALL.session.model_dump_json())
    plain["descriptor"]["statement"]["threshold"] = 2
    with pytest.raises(MalformedError, match="threshold must be"):
        parse_model(SignedDescriptor, json.dumps(plain))
    plain["descriptor"]["statement"]["threshold"] = 3
    plain["descriptor"]["statement"]["coordinator"] = "junk"
    with pytest.raises(MalformedError):
        parse_model(SignedDescriptor, json.dumps(plain))
