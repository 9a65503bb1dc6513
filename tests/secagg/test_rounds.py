"""Rounds: what joins the sessions of a series, and what is refused (protocol.md §4.7)."""

import hashlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError
from safetensors.numpy import load, save

from secagg.adapter import start_tensors
from secagg.canonical import canonical_bytes
from secagg.certificate import ADAPTER, START, names
from secagg.descriptor import Descriptor
from secagg.encodings.registry import encodings
from secagg.errors import (
    EncodingError,
    HashMismatch,
    MalformedError,
    PolicyViolation,
    ProtocolViolation,
    VerificationError,
)
from secagg.policy import Anchors
from secagg.rounds import Previous, Round, check_follows, resumed, round_steps
from secagg.verify import NOT_CHAINED, verify_release
from tests.small import Small, small_plan

A, B, C = "aa" * 32, "bb" * 32, "cc" * 32


def first_round(rounds: int = 2) -> Small:
    """A released first round. Its parties are those of every later one."""
    small = Small(plan=small_plan(), round=Round(number=0, rounds=rounds))
    small.policy = small.policy.model_copy(update={"max_rounds": rounds})
    return small


def next_round(last: Small, **changes: object) -> Small:
    """The session after `last`, by the same parties, with `changes` to its place in the series."""
    adapter = last.release[ADAPTER]
    place = {
        "number": last.descriptor.number + 1,
        "rounds": last.descriptor.rounds,
        "previous": Previous(
            series=last.descriptor.series, ctx=last.descriptor.ctx, adapter=hashlib.sha256(adapter).hexdigest()
        ),
    } | changes
    small = Small(plan=last.plan, round=Round(**place), start=adapter)  # type: ignore[arg-type]
    small.parties, small.policy = last.parties, last.policy
    small.changes = {name: change[::-1].copy() for name, change in last.changes.items()}
    return small


@pytest.fixture(scope="module")
def rounds() -> tuple[Small, Small]:
    """Two rounds, both released."""
    last = first_round()
    following = next_round(last)
    assert following.release
    return last, following


def anchors(small: Small) -> Anchors:
    return Anchors(**{name: value for name, value in small.policy if name in Anchors.model_fields})


def test_a_second_round_adds_to_the_release_of_the_first(rounds: tuple[Small, Small]) -> None:
    one, two = rounds
    before, after = load(one.release[ADAPTER]), load(two.release[ADAPTER])
    mean = np.mean(list(two.changes.values()), axis=0)
    step = 2 * 0.5 / (2**16 - 1)
    assert np.abs(after["a.lora_B.weight"] - before["a.lora_B.weight"] - mean).max() <= step
    assert np.array_equal(after["a.lora_A.weight"], before["a.lora_A.weight"])
    assert two.release[START] == one.release[ADAPTER]
    assert two.descriptor.series == one.descriptor.ctx == one.descriptor.series
    assert [one.descriptor.steps, two.descriptor.steps] == [range(2), range(2, 4)]


def test_a_release_of_a_later_round_verifies_alone_and_with_the_rounds_before(rounds: tuple[Small, Small]) -> None:
    one, two = rounds
    alone = verify_release(two.release, anchors(two))
    assert NOT_CHAINED in alone.checks
    assert NOT_CHAINED not in verify_release(one.release, anchors(one)).checks
    whole = verify_release(two.release, anchors(two), earlier=[one.release])
    assert "1 earlier rounds hold as well, and each starts from the release before it" in whole.checks
    assert "all 2 rounds together" in whole.certificate.privacy_note
    assert b"round 2 of 2" in two.release["README.md"]


def test_a_release_whose_start_was_exchanged_does_not_verify(rounds: tuple[Small, Small]) -> None:
    _, two = rounds
    tensors = {name: tensor.copy() for name, tensor in load(two.release[START]).items()}
    tensors["a.lora_B.weight"][0] += 1
    with pytest.raises(HashMismatch, match=START):
        verify_release({**two.release, START: save(tensors)}, anchors(two))
    with pytest.raises(HashMismatch, match=f"{START} is missing"):
        verify_release({name: raw for name, raw in two.release.items() if name != START}, anchors(two))
    # signed again by a coordinator that lies: the session still names the hash that the committee approved
    lying = Small(plan=two.plan, round=two.round, start=save(tensors))
    lying.parties, lying.policy, lying.session = two.parties, two.policy, two.session
    lying.parts = replace(two.parts, start=save(tensors))
    with pytest.raises(HashMismatch, match="does not have the hash that the session names"):
        _ = lying.release


def test_a_release_of_a_single_session_has_no_start(rounds: tuple[Small, Small]) -> None:
    one, two = rounds
    assert START in names(two.descriptor)
    assert START not in names(one.descriptor)
    with pytest.raises(VerificationError, match="does not belong"):
        verify_release({**one.release, START: one.release[ADAPTER]}, anchors(one))


def test_earlier_releases_must_be_all_and_in_order(rounds: tuple[Small, Small]) -> None:
    one, two = rounds
    with pytest.raises(ProtocolViolation, match="2 earlier releases are given, 1 rounds were before"):
        verify_release(two.release, anchors(two), earlier=[one.release, one.release])
    with pytest.raises(HashMismatch, match=r"^earlier release 1 of 1: README\.md does not have the hash"):
        verify_release(two.release, anchors(two), earlier=[{**one.release, "README.md": b"altered"}])
    other = first_round()
    other.parties, other.policy = one.parties, one.policy
    with pytest.raises(ProtocolViolation, match="does not name the earlier release"):
        verify_release(two.release, anchors(two), earlier=[other.release])


@pytest.mark.parametrize(
    ("bend", "problem"),
    [
        (lambda d: {"plan": d.plan.model_copy(update={"base_model": "another"})}, "their plans differ"),
        (lambda d: {"corrupt_keyholders": 0, "threshold": 3}, "corrupt key-holders differ"),
        (lambda d: {"roster": d.roster[:3]}, "their rosters differ"),
        (lambda d: {"n_min": 2}, "least numbers of clients differ"),
        (lambda d: {"round": d.round.model_copy(update={"rounds": 4})}, "numbers of rounds differ"),
    ],
)
def test_the_agreement_stays_through_a_series(
    rounds: tuple[Small, Small], bend: Callable[[Descriptor], dict[str, object]], problem: str
) -> None:
    one, two = rounds
    other = Descriptor.model_construct(**{**dict(two.descriptor), **bend(two.descriptor)})  # as a liar would
    with pytest.raises(ProtocolViolation, match=problem):
        check_follows(one.descriptor, one.release[ADAPTER], other)


def test_a_session_key_serves_one_round(rounds: tuple[Small, Small]) -> None:
    one, two = rounds
    used = (*two.descriptor.committee[:2], one.descriptor.committee[2], *two.descriptor.committee[3:])
    with pytest.raises(ProtocolViolation, match=r"key offer of Key-holder 3/holder was used .*ask for a new one"):
        check_follows(one.descriptor, one.release[ADAPTER], two.descriptor.model_copy(update={"committee": used}))


def test_a_round_is_not_left_out_or_done_from_another_adapter(rounds: tuple[Small, Small]) -> None:
    one, _ = rounds
    previous = Previous(series=one.descriptor.series, ctx=one.descriptor.ctx, adapter=C)
    wrong = one.descriptor.model_copy(update={"round": Round(number=1, rounds=2, previous=previous)})
    with pytest.raises(HashMismatch, match="does not have the hash"):
        check_follows(one.descriptor, one.release[ADAPTER], wrong)
    long = one.descriptor.model_copy(update={"round": Round(number=0, rounds=4)})
    adapter = hashlib.sha256(one.release[ADAPTER]).hexdigest()
    # its ctx is that of the first descriptor, kept by the copy: only the number is wrong here
    skipped = Round(number=2, rounds=4, previous=Previous(series=long.ctx, ctx=long.ctx, adapter=adapter))
    with pytest.raises(ProtocolViolation, match="round 2 \\(from 0\\) cannot follow round 0"):
        check_follows(long, one.release[ADAPTER], long.model_copy(update={"round": skipped}))


def test_more_rounds_are_refused_unless_the_policy_allows_them() -> None:
    small = Small(plan=small_plan(), round=Round(number=0, rounds=2))
    with pytest.raises(PolicyViolation, match="set max_rounds"):
        _ = small.session


def test_rounds_must_divide_the_steps() -> None:
    assert [round_steps(6, number, 3) for number in range(3)] == [range(2), range(2, 4), range(4, 6)]
    with pytest.raises(MalformedError, match="20 steps cannot be shared by 3 rounds"):
        round_steps(20, 0, 3)
    with pytest.raises(MalformedError, match="4 steps cannot be shared by 3 rounds"):
        _ = Small(plan=small_plan(), round=Round(number=0, rounds=3)).proposal


@pytest.mark.parametrize(
    "content",
    [
        {"number": 0, "rounds": 1},
        {"number": 2, "rounds": 2},
        {"number": 1, "rounds": 2},
        {"number": 0, "rounds": 2, "previous": {"series": A, "ctx": B, "adapter": C}},
    ],
)
def test_a_place_in_a_series_that_cannot_be_is_refused(content: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Round.model_validate(content)


def test_a_single_session_says_nothing_of_rounds() -> None:
    assert b'"round"' not in canonical_bytes(Small().descriptor)


def test_methods_whose_release_is_not_what_clients_train_have_no_second_round() -> None:
    resuming = {name for name, encoding in encodings().items() if encoding.resumes}
    assert resuming == {"ffa-lora", "fedit", "task-arithmetic", "dare", "ties"}
    with pytest.raises(EncodingError, match="there is no second round"):
        encodings()["flexlora"].check_rounds()


def test_a_plan_resumes_at_an_adapter_of_its_own_only() -> None:
    plan = small_plan()
    tensors = start_tensors(plan)
    tensors["a.lora_B.weight"] = np.full_like(tensors["a.lora_B.weight"], 0.25)
    assert np.array_equal(start_tensors(resumed(plan, tensors))["a.lora_B.weight"], tensors["a.lora_B.weight"])
    with pytest.raises(EncodingError, match="other tensors"):
        resumed(plan, {"a.lora_B.weight": tensors["a.lora_B.weight"]})
    with pytest.raises(EncodingError, match="not trained, but"):
        resumed(plan, {**tensors, "a.lora_A.weight": tensors["a.lora_A.weight"] + 1})
    for wrong in (np.full(300, np.nan, np.float32), np.zeros(299, np.float32), np.zeros(300)):
        with pytest.raises(EncodingError, match="not finite float32"):
            resumed(plan, {**tensors, "a.lora_B.weight": wrong})
