"""The unit of privacy in plan, statement and release (protocol.md §2.6a, §7.1); statements that lie about it."""

import json
from functools import cache

import pytest
from pydantic import ValidationError

from secagg.canonical import canonical_bytes
from secagg.certificate import CERTIFICATE, MODEL_CARD, certificate_file, parse_certificate
from secagg.errors import PolicyViolation
from secagg.plan import Plan
from secagg.policy import Anchors
from secagg.privacy import PrivacyStatement, stated, unit_in_words
from secagg.release import privacy_note
from secagg.verify import verify_release
from tests.small import Small, small_plan

RECORDS, USERS = small_plan(), small_plan(unit="user", records_per_user=5)
LIES = [
    (RECORDS, {"unit": "user", "records_per_user": 5}),
    (USERS, {"unit": "record", "records_per_user": None}),
    (USERS, {"records_per_user": 4}),
    (USERS, {"records_per_user": 6}),
]


def test_plans_and_statements_about_records_are_the_bytes_they_always_were() -> None:
    for value in (RECORDS, stated(RECORDS.training, "test")):
        assert b"records_per_user" not in canonical_bytes(value)
    assert b'"unit"' not in canonical_bytes(RECORDS)
    assert b'"unit":"record"' in canonical_bytes(stated(RECORDS.training, "test"))
    assert canonical_bytes(small_plan(unit="record")) == canonical_bytes(RECORDS)
    for value in (USERS, stated(USERS.training, "test")):
        assert type(value).model_validate_json(canonical_bytes(value)) == value
        assert b'"records_per_user":5' in canonical_bytes(value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unit": "user"}, "unit user needs records_per_user"),
        ({"records_per_user": 3}, "records_per_user needs unit user"),
        ({"unit": "user", "records_per_user": 0}, "greater than or equal to 1"),
        ({"unit": "household", "records_per_user": 3}, "'record' or 'user'"),
    ],
)
def test_a_user_has_a_bound_and_a_record_has_none(change: dict[str, object], message: str) -> None:
    plan = json.loads(canonical_bytes(RECORDS))
    plan["training"] |= change
    with pytest.raises(ValidationError, match=message):
        Plan.model_validate_json(json.dumps(plan))
    with pytest.raises(ValidationError, match=message):
        PrivacyStatement.model_validate({"epsilon": 1.0, "delta": 1e-5, "accountant": "x", "noise": "secure"} | change)


def test_units_in_words() -> None:
    assert unit_in_words("record", None) == "record"
    assert unit_in_words("user", 1) == "user, at most 1 record of each"
    assert unit_in_words("user", 5) == "user, at most 5 records of each"


@pytest.mark.parametrize(("plan", "lie"), LIES)
def test_key_holders_refuse_an_upload_that_states_another_unit(plan: Plan, lie: dict[str, object]) -> None:
    """The coordinator is in on it, or did not look: it shows uploads that their clients signed."""
    small = Small(plan=plan)
    small.statement = stated(plan.training, "test").model_copy(update=lie)
    with pytest.raises(PolicyViolation, match=r"states the unit of privacy .*; the session agreed on"):
        small.endorse_candidate(small.committee[0])


@pytest.mark.parametrize(("plan", "lie"), LIES)
def test_the_verifier_refuses_an_upload_that_states_another_unit(plan: Plan, lie: dict[str, object]) -> None:
    """Coordinator and client lie together, after the fact."""
    small = released(plan)
    signed = parse_certificate(small.release[CERTIFICATE])
    first, *others = signed.statement.uploads
    signer = next(s for s in small.parties.clients.values() if s.identity.fingerprint == first.signer)
    false = first.statement.model_copy(update={"privacy": first.statement.privacy.model_copy(update=lie)})
    statement = signed.statement.model_copy(update={"uploads": (signer.sign(false), *others)})
    altered = {**small.release, CERTIFICATE: certificate_file(small.parties.coordinator.sign(statement))}
    with pytest.raises(PolicyViolation, match="states the unit of privacy"):
        verify_release(altered, anchors(small))


def test_a_release_of_users_verifies_and_says_so() -> None:
    small = released(USERS)
    note = verify_release(small.release, anchors(small)).certificate.privacy_note
    for expected in (
        "removing one user of a member, with all records there,", "user-level", "at most 5 records were used",
        "the epsilons add up",
    ):  # fmt: skip
        assert expected in note
    assert note.encode() in small.release[MODEL_CARD]


def test_a_release_of_records_says_what_it_always_said() -> None:
    small = released(RECORDS)
    note = privacy_note(small.descriptor, small.parts.uploads)
    assert note == (
        "Adding or removing one record of a member changes the probability of any release by at most a factor exp(8), "
        "but for probability 1e-05 (record-level differential privacy, Poisson sampling). Others' noise is not "
        "credited."
    )


@cache
def _released(users: bool) -> Small:
    small = Small(plan=USERS if users else RECORDS)
    assert small.release
    return small


def released(plan: Plan) -> Small:
    return _released(plan is USERS)


def anchors(small: Small) -> Anchors:
    pins = small.policy
    return Anchors(
        coordinator=pins.coordinator, committee=pins.committee, institutions=pins.institutions,
        required_institutions=3, n_min=3,
    )  # fmt: skip
