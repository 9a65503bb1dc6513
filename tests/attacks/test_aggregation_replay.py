"""A coordinator that asks key-holders for two sums of one session. A naive key-holder is the control: it forgets."""

from dataclasses import replace

import numpy as np
import pytest

from secagg.errors import ConflictError, EndorsementInvalid, ProtocolViolation, SessionClosed, TooFewContributions
from secagg.keyholder import KeyHolder
from secagg_attacks.aggregation.replay import Asked, Replayer
from secagg_attacks.aggregation.set_difference import CohortSum, set_difference
from secagg_attacks.aggregation.trials.session import ForgetfulJournal
from tests.small import DAY, Small


def session(naive: int = 0) -> tuple[Small, list[KeyHolder], Replayer]:
    """Four clients, four key-holders (f = 1, t = 3), of whom the last `naive` forget."""
    small = Small(clients=4)
    honest = len(small.committee) - naive
    for number in range(honest, len(small.committee)):
        small.committee[number] = replace(small.committee[number], journal=ForgetfulJournal())
    replayer = Replayer(small.descriptor, small.parties.coordinator, small.uploads, small.now)
    return small, small.committee, replayer


def everybody(small: Small) -> list[str]:
    return [upload.signed.statement.client for upload in small.uploads]


def difference(first: Asked, second: Asked) -> dict[str, np.ndarray]:
    sums = [
        CohortSum(asked.members, len(asked.members) * asked.mean.astype(np.float64))
        for asked in (first, second)
        if asked.mean is not None
    ]
    return set_difference(sums, n_min=2).alone()


def change_of(small: Small, fingerprint: str) -> np.ndarray:
    name = next(name for name, signer in small.parties.clients.items() if signer.identity.fingerprint == fingerprint)
    return small.changes[name]


def test_naive_key_holders_give_the_victims_update_by_subtraction() -> None:
    """The attack works where nobody remembers: exact, but for the quantiser's steps."""
    small, committee, replayer = session(naive=4)
    *others, victim = everybody(small)
    first, second = replayer.ask([*others, victim], committee), replayer.ask(others, committee)
    assert not first.refusals
    assert not second.refusals
    found = difference(first, second)
    assert list(found) == [victim]
    assert np.abs(found[victim] - change_of(small, victim)).max() < 7 / (2**16 - 1) + 1e-6


def test_key_holders_refuse_a_second_set() -> None:
    small, committee, replayer = session()
    *others, victim = everybody(small)
    first, second = replayer.ask([*others, victim], committee), replayer.ask(others, committee)
    assert first.mean is not None
    assert second.mean is None
    refused = [each for each in second.refusals if each.stage == "candidate"]
    assert len(refused) == 4
    assert all(isinstance(each.error, ConflictError) for each in refused)
    assert isinstance(second.refusals[-1].error, TooFewContributions | EndorsementInvalid)


def test_key_holders_answer_the_same_set_again_with_the_same_sum() -> None:
    """A replay of the same session tells nothing new."""
    small, committee, replayer = session()
    first, again = (replayer.ask(everybody(small), committee) for _ in range(2))
    assert first.mean is not None
    assert again.mean is not None
    assert np.array_equal(first.mean, again.mean)


def test_two_sets_shown_to_two_groups_with_one_forgetful_key_holder_open_one_sum_at_most() -> None:
    """f = 1: quorums of three of four share two, one of whom remembers."""
    small, committee, replayer = session(naive=1)
    *others, victim = everybody(small)
    a, b, c, naive = committee
    first = replayer.ask([*others, victim], [a, b, naive])
    second = replayer.ask(others, [c, b, naive])
    assert first.mean is not None
    assert second.mean is None


def test_beyond_the_assumed_f_two_sums_open() -> None:
    """NOT stopped: two forgetful key-holders of four, where the session assumes one (f), give the difference away."""
    small, committee, replayer = session(naive=2)
    *others, victim = everybody(small)
    a, b, *naive = committee
    found = difference(replayer.ask([*others, victim], [a, *naive]), replayer.ask(others, [b, *naive]))
    assert np.abs(found[victim] - change_of(small, victim)).max() < 7 / (2**16 - 1) + 1e-6


def test_a_set_below_n_min_is_refused_by_coordinators_code_and_key_holders_alike() -> None:
    small, committee, replayer = session()
    few = replayer.ask(everybody(small)[:2], committee)
    assert few.mean is None
    assert isinstance(few.refusals[-1].error, TooFewContributions)


def test_uploads_of_one_session_open_in_no_other() -> None:
    """The box is bound to ctx, and so is the client's signature: replayed elsewhere it is refused."""
    small, _, _ = session()
    other = Small(clients=4)
    other.parties, other.committee = small.parties, small.committee
    del other.__dict__["committee"]
    replayed = Replayer(other.descriptor, small.parties.coordinator, small.uploads, small.now)
    asked = replayed.ask(everybody(small), other.committee)
    assert asked.mean is None
    assert {type(each.error) for each in asked.refusals if each.holder} == {ProtocolViolation}


def test_after_expiry_and_after_the_key_is_erased_nothing_is_answered() -> None:
    small, committee, replayer = session()
    late = replace(replayer, now=small.now + 3 * DAY).ask(everybody(small), committee)
    assert all(isinstance(each.error, SessionClosed) for each in late.refusals if each.holder)
    for holder in committee:
        holder.erase(small.descriptor)
    erased = replayer.ask(everybody(small), committee)
    assert {type(each.error) for each in erased.refusals if each.holder} == {SessionClosed}


@pytest.mark.parametrize("naive", [0, 4])
def test_the_control_is_the_same_session_but_for_the_journal(naive: int) -> None:
    small, committee, replayer = session(naive=naive)
    assert replayer.ask(everybody(small), committee).mean is not None
