"""A ckks session in memory: exact sums (protocol.md §13). Parties that lie: tests/simulation/test_ckks_*.py."""

import os

import numpy as np
import pytest

from secagg.ckks.coordinator import check_opening
from secagg.ckks.keyholder import CkksKeyHolder
from secagg.ckks.run import MemoryContexts, run_ckks
from secagg.ckks.scheme import SecretContext
from secagg.errors import SessionClosed
from secagg.run import MemoryJournal
from tests.secagg.ckks.sessions import Ckks
from tests.small import NOW, changes, small_plan


@pytest.fixture(scope="module")
def session() -> Ckks:
    made = Ckks()
    assert made.uploads
    return made


@pytest.fixture
def fresh(session: Ckks) -> Ckks:
    return session.again()


def test_the_sum_is_exact(fresh: Ckks) -> None:
    """Each opened integer is the sum of the quantised values: the mean is within one step of the quantiser."""
    opened = fresh.open(5)
    mean = check_opening(fresh.descriptor, fresh.chosen(5).statement, opened)
    step = fresh.descriptor.quantiser.step(fresh.descriptor.quantiser.parts[0])
    assert np.abs(mean - np.mean(fresh.changes, axis=0)).max() < step
    again = fresh.open(5)
    assert np.array_equal(opened.sums, again.sums)  # whatever the flooding noise
    assert opened.signed == again.signed


def test_a_client_that_vanishes_costs_nothing() -> None:
    plan, given = small_plan(300), changes(4, 300)
    run = run_ckks(plan, given, now=NOW, random=os.urandom, vanish=["Hospital 2"])
    mean = np.mean([change for name, change in given.items() if name != "Hospital 2"], axis=0)
    assert np.abs(run.mean - mean).max() < 0.5 / 2**14
    assert len(run.uploads) == 3


def test_secrets_are_not_shown(session: Ckks) -> None:
    secret = SecretContext.generate(session.descriptor.parameters.ring)
    assert repr(secret) == "SecretContext(<redacted>)"
    assert "redacted" in f"{secret}"
    assert str(session.uploads[0].blocks[0]) not in repr(session.uploads[0])


def test_a_forgotten_key_opens_nothing(fresh: Ckks) -> None:
    holder = CkksKeyHolder(
        fresh.holder.signer, fresh.holder.policy, fresh.holder.authority, MemoryJournal(), MemoryContexts()
    )
    holder.approve(fresh.signed, NOW)
    with pytest.raises(SessionClosed, match="erased"):
        holder.open(fresh.descriptor, fresh.chosen(), fresh.shown(), os.urandom, NOW)
