"""The protocol as a whole: what comes out is exactly what the clients put in (protocol.md §2, §9)."""

import os

import numpy as np
import pytest

from secagg import shamir
from secagg.accumulate import Accumulator
from secagg.contributor import seal_contribution
from secagg.coordinator import SessionSpec, create_session, mean_change, open_with_shares
from secagg.descriptor import RosterMember
from secagg.errors import EncodingError, MalformedError, RoleViolation, ShareError
from secagg.opening import open_sum
from secagg.run import run_sealed
from secagg.sealing import seal
from tests.small import DAY, NOW, Small, changes, small_plan


def test_mean_is_the_plain_mean_within_the_quantisation_step() -> None:
    updates = changes(5)
    run = run_sealed(small_plan(), updates, now=NOW, random=os.urandom)
    step = 2 * 0.5 / (2**16 - 1)
    assert np.abs(run.mean - np.mean(list(updates.values()), axis=0)).max() <= step


def test_opened_sum_equals_the_plain_sum_of_the_encoded_vectors_exactly() -> None:
    """Record what each client encoded, then compare integers with integers."""
    small = Small()
    encoded = [small.descriptor.quantiser.encode(change, os.urandom).values for change in small.changes.values()]
    sealed = [seal(small.descriptor.parameters, bytes.fromhex(small.descriptor.ctx), v, os.urandom) for v in encoded]
    total = Accumulator(small.descriptor.parameters)
    sums = dict[int, list[bytes]]()
    for upload in sealed:
        total.add(upload.ciphertext)
        for share in shamir.share_key(upload.key, 3, 4, os.urandom):
            sums.setdefault(share.index, []).append(share.packed)
    key_sum = shamir.reconstruct(3, {index: shamir.sum_shares(shares) for index, shares in sums.items()})
    opening = open_sum(small.descriptor.parameters, bytes.fromhex(small.descriptor.ctx), total, key_sum, 4)
    assert opening.sums.tolist() == np.sum(encoded, axis=0, dtype=np.uint64).tolist()


def test_declared_public_weights_give_the_weighted_mean() -> None:
    small = Small()
    small.roster = [
        RosterMember(certificate=member.certificate, weight=weight)
        for member, weight in zip(small.roster, (1.0, 0.5, 0.25, 1.0), strict=True)
    ]
    small.policy = small.policy.model_copy(update={"min_weight": 0.25})
    weights = np.array([1.0, 0.5, 0.25, 1.0])
    expected = np.average(np.stack(list(small.changes.values())), axis=0, weights=weights)
    mean = mean_change(small.descriptor, small.settled.final.statement, small.opened.opening)
    assert np.abs(mean - expected).max() <= 4 / 2.75 * 2 * 0.5 / (2**16 - 1)


def test_three_of_four_share_sums_open_and_two_do_not() -> None:
    small = Small()
    final = small.settled.final.statement
    three = open_with_shares(small.descriptor, final, small.shares[1:], small.total)
    assert np.array_equal(three.opening.sums, small.opened.opening.sums)
    with pytest.raises(ShareError, match="3 are needed"):
        open_with_shares(small.descriptor, final, small.shares[:2], small.total)


def test_a_vector_of_wrong_length_or_not_finite_is_refused_before_anything_is_sealed() -> None:
    small = Small()
    name, signer = next(iter(small.parties.clients.items()))
    with pytest.raises(EncodingError):
        seal_contribution(small.descriptor, signer, small.changes[name][:-1], small.statement, os.urandom)
    broken = small.changes[name].copy()
    broken[3] = np.nan
    with pytest.raises(EncodingError, match="not finite"):
        seal_contribution(small.descriptor, signer, broken, small.statement, os.urandom)


def test_a_party_that_is_not_on_the_roster_cannot_seal() -> None:
    small = Small()
    stranger = small.parties.holders[0]
    with pytest.raises(RoleViolation, match="not on the roster"):
        seal_contribution(small.descriptor, stranger, changes(1)["Hospital 1"], small.statement, os.urandom)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("n_min", 6, "n_min to n_max is"),
        ("n_max", 3, "n_min to n_max is"),
        ("corrupt_keyholders", 2, "leave no quorum"),
        ("expiry_seconds", 3, "times must be in the order"),
    ],
)
def test_contradictory_sessions_are_refused(field: str, value: int, message: str) -> None:
    small = Small()
    spec = small.session_spec.model_copy(update={field: value})
    with pytest.raises(MalformedError, match=message):
        create_session(spec, small.plan, small.roster, small.members, small.parties.coordinator, small.now, os.urandom)


def test_a_short_lived_key_offer_does_not_cover_the_session() -> None:
    small = Small()
    spec = SessionSpec(n_min=3, n_max=10, upload_seconds=DAY, expiry_seconds=9 * DAY)
    with pytest.raises(MalformedError, match="does not cover the session"):
        create_session(spec, small.plan, small.roster, small.members, small.parties.coordinator, small.now, os.urandom)
