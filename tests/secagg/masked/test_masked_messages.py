"""Only typed errors for whatever comes from outside, and no statement that gives both secrets (protocol.md §12.7.1)."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from secagg.errors import MalformedError, SecaggError
from secagg.masked.descriptor import SignedMaskedDescriptor
from secagg.masked.messages import (
    RevealedShare,
    SignedAdvertisement,
    SignedMaskedUpload,
    SignedSetEndorsement,
    SignedSharing,
    SignedSurvivorSet,
    SignedUnmasking,
    SurvivorSet,
    Unmasking,
)
from secagg.signing import Signed
from tests.secagg.masked.sessions import Masked
from tests.small import NOW

SESSION = Masked(clients=4, n_min=3)
ANSWER = SESSION.endorsed[0].unmask(SESSION.unmasking.request(0), NOW)
SAMPLES: dict[type[Signed[Any]], bytes] = {
    SignedMaskedDescriptor: SESSION.signed.to_bytes(),
    SignedAdvertisement: SESSION.advertised[0][1].to_bytes(),
    SignedSharing: SESSION.shared[0][1].signed.to_bytes(),
    SignedMaskedUpload: SESSION.uploaded[0][1].signed.to_bytes(),
    SignedSurvivorSet: SESSION.consistency.chosen.to_bytes(),
    SignedSetEndorsement: SESSION.consistency.taken[0].to_bytes(),
    SignedUnmasking: ANSWER.to_bytes(),
}


@pytest.mark.parametrize("kind", SAMPLES)
def test_statements_survive_the_wire(kind: type[Signed[Any]]) -> None:
    assert kind.parse(SAMPLES[kind]).to_bytes() == SAMPLES[kind]


def test_purposes_are_distinct() -> None:
    purposes = {kind.parse(raw).statement.purpose() for kind, raw in SAMPLES.items()}
    assert len(purposes) == len(SAMPLES)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(list(SAMPLES)), st.data())
def test_damaged_statements_give_typed_errors(kind: type[Signed[Any]], data: st.DataObject) -> None:
    raw = bytearray(SAMPLES[kind])
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        kind.parse(bytes(raw))
    except SecaggError:
        return


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(list(SAMPLES)), st.binary(max_size=200))
def test_junk_is_malformed(kind: type[Signed[Any]], junk: bytes) -> None:
    with pytest.raises(MalformedError):
        kind.parse(junk)


def test_an_answer_with_both_secrets_of_one_client_has_no_form() -> None:
    share = RevealedShare(member=1, share="00" * 36)
    with pytest.raises(ValidationError, match="distinct"):
        Unmasking(ctx="00" * 32, client="00" * 32, set_digest="00" * 32, self_shares=(share,), key_shares=(share,))


def test_sets_are_in_order_and_without_doubles() -> None:
    for members in ((2, 1), (1, 1)):
        with pytest.raises(ValidationError, match="in order"):
            SurvivorSet(ctx="00" * 32, members=members)


def test_shares_do_not_print() -> None:
    given_share = ANSWER.statement.self_shares[0]
    assert given_share.share not in repr(ANSWER)
    assert given_share.share not in repr(given_share.value)
