"""A descriptor outside the local policy is refused, with the rule it breaks (protocol.md §4.4)."""

import json

import pytest

from secagg.descriptor import RosterMember
from secagg.errors import CertificateInvalid, PolicyViolation
from secagg.identity import new_authority
from secagg.policy import Policy, adapter_schema_hash, check_authority
from tests.small import NOW, Small, small_plan

SMALL = Small()


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ({"coordinator": "00" * 32}, "coordinator"),
        ({"committee": {"x": "00" * 32}}, "key-holder"),
        ({"corrupt_keyholders": 2}, "corrupt key-holders"),
        ({"n_min": 4}, "n_min is 3"),
        ({"institutions": {str(i): f"{i:064x}" for i in range(3)}}, "inventions of the coordinator"),
        ({"base_model_hashes": ("00" * 32,)}, "base model"),
        ({"adapter_schema_hashes": ("00" * 32,)}, "adapter schema"),
        ({"max_epsilon": 1.0}, "epsilon 8.0 is above"),
        ({"max_delta": 1e-9}, "delta"),
        ({"noise": ("seeded",)}, "secure noise"),
        ({"units": ("user",)}, "unit of privacy is the record, the policy's units are user"),
        ({"protocols": ()}, "protocol sealed"),
        ({"max_releases": 0}, "releases"),
    ],
)
def test_each_rule_is_held(update: dict[str, object], message: str) -> None:
    SMALL.policy.check(SMALL.descriptor)
    with pytest.raises(PolicyViolation, match=message):
        SMALL.policy.model_copy(update=update).check(SMALL.descriptor)


def test_both_units_of_privacy_are_accepted_unless_the_policy_says_otherwise() -> None:
    users = Small(plan=small_plan(unit="user", records_per_user=5))
    users.policy.check(users.descriptor)
    with pytest.raises(PolicyViolation, match="unit of privacy is the user, the policy's units are record"):
        users.policy.model_copy(update={"units": ("record",)}).check(users.descriptor)


def test_training_without_privacy_is_never_allowed() -> None:
    plain = Small(plan=small_plan(epsilon=None))
    with pytest.raises(PolicyViolation, match="without differential privacy"):
        plain.policy.check(plain.proposal.descriptor.statement)


def test_n_min_covers_the_assumed_corrupt_clients_and_two_more() -> None:
    values = SMALL.policy.model_dump(mode="json") | {"assumed_corrupt_clients": 2}
    with pytest.raises(ValueError, match="need at least 4"):
        Policy.model_validate_json(json.dumps(values))


def test_two_honest_clients_are_among_the_pinned_institutions() -> None:
    """The rest of a set may be inventions of the coordinator, which knows their updates."""
    values = SMALL.policy.model_dump(mode="json") | {"required_institutions": 2}
    with pytest.raises(ValueError, match="required_institutions is 2, but 1 corrupt clients need at least 3"):
        Policy.model_validate_json(json.dumps(values))


def test_a_client_cannot_be_singled_out_by_weights() -> None:
    """Beside weights of 10^-9 a full one would stand out of the opened sum, within the quantisation step."""
    lone = Small()
    weights = (1.0, *[1e-9] * (lone.clients - 1))
    lone.roster = [
        RosterMember(certificate=member.certificate, weight=weight)
        for member, weight in zip(lone.roster, weights, strict=True)
    ]
    for holder in lone.committee:
        with pytest.raises(PolicyViolation, match=r"weight 1e-09, at least 1\.0 is asked for"):
            holder.approve(lone.proposal, NOW)


@pytest.mark.parametrize("change", [{"lora_alpha": 1e9}, {"target_modules": ".*"}, {"use_rslora": True}])
def test_the_schema_hash_covers_how_the_adapter_is_wired(change: dict[str, object]) -> None:
    plan = small_plan()
    other = plan.model_copy(update={"adapter_config": {**plan.adapter_config, **change}})
    assert adapter_schema_hash(other) != adapter_schema_hash(plan)


def test_the_schema_hash_does_not_depend_on_what_the_base_model_is_called() -> None:
    plan = small_plan()
    other = plan.model_copy(update={"adapter_config": {**plan.adapter_config, "base_model_name_or_path": "mine"}})
    assert adapter_schema_hash(other) == adapter_schema_hash(plan)


def test_certificates_must_come_from_the_partys_own_authority() -> None:
    check_authority(SMALL.descriptor, SMALL.parties.authority, NOW)
    other, _ = new_authority("other", NOW)
    with pytest.raises(CertificateInvalid):
        check_authority(SMALL.descriptor, other.decode(), NOW)
