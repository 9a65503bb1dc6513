"""Attacks on the aggregation as a user runs them: each works with its defence off, and a hole in a defence shows."""

import os

import numpy as np
import pytest

from secagg.errors import AuditError, ConflictError, PolicyViolation
from secagg.policy import Policy
from secagg_attacks.aggregation.replay import Asked, Refusal
from secagg_attacks.aggregation.trials.battery import Tried, try_all
from secagg_attacks.aggregation.trials.cohort import second_sets, two_clients
from secagg_attacks.aggregation.trials.session import Bench, made_up, plain_plan, sum_of
from secagg_attacks.aggregation.trials.trial import Attempt, Figure, Opening, Trial, attempt, attempt_to_open, recovery
from tests.small import NOW


@pytest.fixture(scope="module")
def tried() -> Tried:
    return try_all(NOW, os.urandom)


def named(tried: Tried, name: str) -> Trial:
    return next(trial for trial in tried.trials if trial.name.startswith(name))


def refusals(trial: Trial) -> list[str]:
    return [each.error for each in trial.attempts]


def test_every_attack_works_with_its_defence_off_and_nothing_does_without_the_attack(tried: Tried) -> None:
    for trial in tried.trials:
        assert trial.figure.works is True, trial.name
        assert trial.control.works is False, trial.name
    assert tried.sound


@pytest.mark.parametrize(
    ("name", "errors"),
    [
        ("set difference", ["LimitReached", "LedgerError"]),
        ("disaggregation", ["PolicyViolation", "PolicyViolation"]),
        ("colluding", []),
        ("a cohort of two", ["PolicyViolation", "PolicyViolation"]),
        (
            "a second set",
            ["ConflictError", "ConflictError", "ProtocolViolation", "TooFewContributions", "SessionClosed"],
        ),
        (
            "other models",
            [
                "SignatureInvalid", "EndorsementInvalid", "EndorsementInvalid", "PolicyViolation", "PolicyViolation",
                "HashMismatch",
            ],
        ),
        (
            "planted weights",
            ["SignatureInvalid", "EndorsementInvalid", "EndorsementInvalid", "PolicyViolation", "PolicyViolation"],
        ),
    ],
)  # fmt: skip
def test_each_defence_is_the_one_of_the_threat_model(tried: Tried, name: str, errors: list[str]) -> None:
    assert refusals(named(tried, name)) == errors


def test_what_is_not_stopped_is_said(tried: Tried) -> None:
    assert named(tried, "colluding").verdict == "NOT stopped"
    assert "NOT stopped: colluding clients" in tried.reading
    beyond = named(tried, "a second set").openings[0]
    assert beyond.figure is not None
    assert beyond.figure.works, "two forgetful key-holders of four"
    assert named(tried, "other models").openings[0].figure is None, "not measured, and not claimed"


def test_who_trained_anew_under_privacy_is_not_recovered_by_a_difference(tried: Tried) -> None:
    (opening,) = named(tried, "set difference").openings
    assert opening.figure is not None
    assert opening.figure.works is False
    assert opening.figure.value > 1, "further away than a guess of zeros"


# -- a hole in a defence is seen -------------------------------------------------------------------------------


def test_a_policy_that_checks_nothing_is_a_failed_defence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Policy, "check", lambda _self, _descriptor: None)
    trial = two_clients(NOW, os.urandom)
    assert not trial.sound
    assert trial.verdict == "A DEFENCE FAILED"
    assert [each.held for each in trial.attempts] == [False, False]
    assert "a cohort of two: A DEFENCE FAILED" in Tried((trial,)).reading


def test_key_holders_that_forget_are_a_failed_defence(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Bench.committee
    monkeypatch.setattr(Bench, "committee", lambda self, _forgetful=0: real(self, 4))
    trial = second_sets(NOW, os.urandom)
    assert trial.verdict == "A DEFENCE FAILED"
    assert [each.held for each in trial.attempts] == [False, False, True, True, True]


def test_a_refusal_for_another_reason_is_no_defence() -> None:
    def refuse() -> None:
        raise AuditError("the coffee is cold")

    found = attempt("a try", "somebody", refuse, PolicyViolation)
    assert not found.held
    assert found.error == "AuditError"
    assert not attempt("a try", "nobody", lambda: None, PolicyViolation).held
    asked = Asked(frozenset(), None, (Refusal("candidate", "aa", PolicyViolation("no")),))
    assert not attempt_to_open("a try", asked, ConflictError).held
    assert attempt_to_open("a try", asked, PolicyViolation).held


def test_an_attack_that_does_not_work_shows_nothing() -> None:
    truth = np.ones(5, np.float32)
    good, bad = recovery(np.ones(5), truth), recovery(np.zeros(5), truth)
    assert (good.works, bad.works, bad.value) == (True, False, 1.0)
    held = Attempt("a try", ("PolicyViolation",), "somebody", "PolicyViolation", "no")
    assert Trial("n", "w", "s", "off", bad, bad, (held,)).verdict == "the attack did not work: shows nothing"
    assert Trial("n", "w", "s", "off", good, good, (held,)).verdict == "the attack did not work: shows nothing"
    assert Trial("n", "w", "s", "off", good, bad, (held,)).verdict == "stopped"
    limited = Trial("n", "w", "s", "off", good, bad, (held,), (Opening("when", "left"),))
    assert limited.verdict == "stopped, within limits"
    assert Figure("what", 1.0).works is None


# -- the bench is the deployed protocol ------------------------------------------------------------------------


def test_the_benchs_sum_is_the_mean_of_what_was_sent() -> None:
    plan = plain_plan()
    bench = Bench.of(plan, 4, NOW, os.urandom)
    changes = made_up(bench)
    session = bench.session(plan, changes)
    total = session.opened().total
    assert np.abs(total - np.sum(list(changes.values()), axis=0)).max() < 4 / (2**16 - 1) + 1e-6
    with pytest.raises(AuditError, match="a session that should open was refused"):
        sum_of(session.ask(session.everybody[:-1]))


def test_keys_are_fresh_in_every_run_and_the_verdict_is_the_same() -> None:
    assert {trial(NOW, os.urandom).verdict for trial in (second_sets, two_clients) for _ in range(2)} == {
        "stopped, within limits"
    }
