"""What a session reserves for an audit is signed into it, and allowed by nobody's policy unless it says so (§4.6)."""

import json

import pytest
from pydantic import ValidationError

from secagg.canonical import canonical_bytes
from secagg.certificate import MODEL_CARD
from secagg.coordinator import SessionSpec
from secagg.descriptor import AuditReserve, Descriptor, SignedDescriptor
from secagg.errors import PolicyViolation
from secagg.signing import parse_model
from tests.small import DAY, NOW, Small

RESERVE = AuditReserve(hold_out=0.25, canaries=40)
ALLOWED = {"max_audit_hold_out": 0.25, "max_audit_canaries": 40}


def reserved(reserve: AuditReserve, **allowed: object) -> Small:
    spec = SessionSpec(n_min=3, n_max=10, bits=16, upload_seconds=DAY, expiry_seconds=2 * DAY, audit=reserve)
    small = Small(spec=spec)
    small.policy = small.policy.model_copy(update=allowed)
    return small


@pytest.fixture(scope="module")
def small() -> Small:
    return reserved(RESERVE, **ALLOWED)


def test_the_reserve_is_part_of_what_is_signed(small: Small) -> None:
    descriptor = small.descriptor
    assert descriptor.audit == RESERVE
    again = parse_model(SignedDescriptor, canonical_bytes(small.session)).check(approved=True)
    assert (again, again.ctx) == (descriptor, descriptor.ctx)
    for other in (None, AuditReserve(hold_out=0.25), AuditReserve(hold_out=0.25, canaries=41)):
        values = {name: getattr(descriptor, name) for name in Descriptor.model_fields}
        changed = Descriptor.model_validate({**values, "audit": other})
        assert changed.ctx != descriptor.ctx


def test_a_session_without_a_reserve_has_the_bytes_it_always_had() -> None:
    content = json.loads(canonical_bytes(Small().proposal.descriptor.statement))
    assert set(content) == {
        "version", "nonce", "protocol", "plan", "ring", "n_min", "n_max", "roster", "committee", "corrupt_keyholders",
        "threshold", "coordinator", "releases", "created_at", "upload_deadline", "expires_at",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("reserve", "allowed", "message"),
    [
        (AuditReserve(hold_out=0.25), {}, r"probability 0\.25, the policy allows 0: set max_audit_hold_out = 0\.25"),
        (AuditReserve(canaries=3), {}, r"3 canaries .*, the policy allows 0: set max_audit_canaries = 3"),
        (RESERVE, {"max_audit_hold_out": 0.25}, "max_audit_canaries = 40"),
        (RESERVE, {"max_audit_canaries": 40, "max_audit_hold_out": 0.2}, r"max_audit_hold_out = 0\.25"),
    ],
)
def test_a_policy_denies_what_it_does_not_allow(
    reserve: AuditReserve, allowed: dict[str, object], message: str
) -> None:
    small = reserved(reserve, **allowed)
    with pytest.raises(PolicyViolation, match=message):
        small.policy.check(small.proposal.descriptor.statement)
    with pytest.raises(PolicyViolation, match=message):
        small.committee[0].approve(small.proposal, NOW)


@pytest.mark.parametrize("content", [{}, {"hold_out": 0.0}, {"hold_out": 0.6}, {"canaries": -1}, {"canaries": 2.0}])
def test_a_reserve_that_reserves_nothing_or_too_much_is_refused(content: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        AuditReserve.model_validate(content)


def test_the_model_card_says_what_was_reserved(small: Small) -> None:
    assert RESERVE.summary == (
        "each record with probability 0.25 and 40 canaries at each client, in training or out of it by a fair coin"
    )
    assert f"Reserved for an audit: {RESERVE.summary}." in small.release[MODEL_CARD].decode()
