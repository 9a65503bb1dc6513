"""Clients that collude with the server: what is left of the sum is the others'. n_min limits it from policies alone."""

import os

import numpy as np
import pytest
from pydantic import ValidationError

from secagg.coordinator import SessionSpec, create_session
from secagg.errors import AuditError, MalformedError, PolicyViolation
from secagg.policy import Policy
from secagg.run import run_sealed
from secagg_attacks.aggregation.colluding import colluding
from tests.small import DAY, NOW, Small, changes, small_plan


def test_all_but_one_client_recover_the_last_from_a_real_session() -> None:
    """NOT stopped: a session of n_min clients of which all but one collude opens the last one's update."""
    sent = changes(3)
    run = run_sealed(small_plan(), sent, now=NOW, random=os.urandom)
    first, second, victim = sent.values()
    found = colluding(run.mean, 3, [first, second])
    step = 2 * 0.5 / (2**16 - 1)
    assert found.others == 1
    assert np.abs(found.total - victim).max() <= 3 * step + 1e-6, "each of three values is off by a step at most"
    assert np.abs(found.total).max() > 1000 * step


def test_with_two_honest_clients_it_is_the_sum_of_both() -> None:
    sent = changes(4)
    run = run_sealed(small_plan(), sent, now=NOW, random=os.urandom)
    a, b, c, d = sent.values()
    found = colluding(run.mean, 4, [a, b])
    assert found.others == 2
    assert np.allclose(found.mean, (c.astype(np.float64) + d) / 2, atol=1e-4)
    assert np.abs(found.mean - c).max() > 0.05, "neither of the two"


def test_what_cannot_be_is_refused() -> None:
    zero = np.zeros(3, np.float32)
    for members, own in ((2, []), (2, [zero, zero]), (3, [np.zeros(2, np.float32)])):
        with pytest.raises(AuditError):
            colluding(zero, members, own)


# -- what stops it here ----------------------------------------------------------------------------------------


def test_a_session_of_two_is_outside_a_policy_that_assumes_one_corrupt_client() -> None:
    """The default: one corrupt client is assumed, so n_min is 3, and key-holder and client refuse less."""
    small = Small(clients=3)
    two = small.session_spec.model_copy(update={"n_min": 2})
    proposal = create_session(
        two, small.plan, small.roster, small.members, small.parties.coordinator, small.now, os.urandom
    )
    with pytest.raises(PolicyViolation, match="n_min is 2, at least 3 is asked for"):
        small.committee[0].approve(proposal, small.now)
    with pytest.raises(PolicyViolation, match="n_min is 2, at least 3 is asked for"):
        small.policy.check(proposal.descriptor.statement)


def test_no_policy_has_an_n_min_that_its_assumed_corrupt_clients_could_undo() -> None:
    policy = Small().policy.model_dump()
    with pytest.raises(ValidationError, match="1 corrupt clients need at least 3"):
        Policy.model_validate({**policy, "n_min": 2, "assumed_corrupt_clients": 1})
    with pytest.raises(ValidationError, match="required_institutions is 2"):
        Policy.model_validate({**policy, "required_institutions": 2, "assumed_corrupt_clients": 1})


def test_no_descriptor_has_one_client() -> None:
    with pytest.raises(ValidationError):
        SessionSpec(n_min=1, n_max=3, upload_seconds=DAY, expiry_seconds=2 * DAY)
    small = Small(clients=3)
    with pytest.raises(MalformedError, match="roster"):
        create_session(
            small.session_spec, small.plan, small.roster[:1], small.members, small.parties.coordinator, NOW, os.urandom
        )


def test_two_clients_are_let_through_by_a_policy_that_assumes_nobody_corrupt() -> None:
    """NOT stopped where everybody says assumed_corrupt_clients = 0: then each of the two opens the other."""
    sent = changes(2)
    spec = SessionSpec(n_min=2, n_max=2, upload_seconds=DAY, expiry_seconds=2 * DAY)
    run = run_sealed(small_plan(), sent, now=NOW, random=os.urandom, spec=spec)
    mine, victim = sent.values()
    assert np.allclose(colluding(run.mean, 2, [mine]).total, victim, atol=1e-4)
