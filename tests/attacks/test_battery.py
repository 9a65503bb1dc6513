"""All attacks together find what each finds alone, and ask the model no more than once."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secagg.errors import AuditError
from secagg_attacks import battery
from secagg_attacks.attack import Attack, Guess, MembershipGuess, membership_scores
from secagg_attacks.battery import attack_all
from secagg_attacks.probe import Probe
from secagg_attacks.registry import attack_named
from secagg_attacks.views import Question, Tensors, View, ViewName
from tests.attacks.federation import data_of, public_of, record_of
from tests.client.support import MEAN, examples, loaded


def test_together_is_as_each_alone_with_one_pass_over_gradients_a_model(
    tiny_bert_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    public = public_of(loaded(tiny_bert_dir, MEAN), rounds=2, steps=2)
    record, candidates = record_of(public), data_of(public)[0]
    question = Question(candidates, examples(20, MEAN, seed=50))
    passes, real = list[Tensors](), Probe.gradients

    def counted(probe: Probe, tensors: Tensors) -> Any:
        passes.append(tensors)
        return real(probe, tensors)

    monkeypatch.setattr(Probe, "gradients", counted)
    scores, undefined = attack_all([record.view(name, question) for name in ViewName])
    assert len(passes) == 3, "two starts of rounds, and the release for the norms"
    assert {view for view, _ in scores} == set(ViewName)
    assert undefined["v2/fedmia-loss"].endswith("only on v1")
    for (name, attack), found in scores.items():
        fresh = replace(record, public=replace(public))  # another probe
        alone = membership_scores(attack_named(attack), fresh.view(ViewName(name), question))
        assert np.allclose(found, alone, rtol=1e-9, atol=1e-12), (name, attack)


class Foreign(Attack):
    """Somebody's, that does `what`."""

    name, summary, source = "foreign", "somebody's", "elsewhere"

    def __init__(self, what: str) -> None:
        self.what = what

    def run(self, view: View) -> Guess:
        count = len(view.asked().candidates)
        match self.what:
            case "raises":
                raise IndexError("list index out of range")
            case "is short":
                return MembershipGuess(np.zeros(count - 1))
            case "is no number":
                return MembershipGuess(np.array([np.nan] * 3 + [0.0] * (count - 3)))
            case "writes":
                for values in view.models()[-1].values():
                    values[...] = 0
        return MembershipGuess(np.zeros(count))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("raises", "attack foreign broke: IndexError: list index out of range"),
        ("is short", "gave scores of shape"),
        ("is no number", "gave 3 of"),
    ],
)
def test_an_attack_that_breaks_is_named_and_stops_no_other(
    tiny_bert_dir: Path, monkeypatch: pytest.MonkeyPatch, what: str, message: str
) -> None:
    public = public_of(loaded(tiny_bert_dir, MEAN), rounds=1, steps=1)
    view = record_of(public).view(ViewName.V3, Question(data_of(public)[0], examples(20, MEAN, seed=50)))
    monkeypatch.setattr(battery, "membership_attacks", lambda: {"f": Foreign(what), "loss": attack_named("loss")})
    scores, undefined = attack_all([view])
    assert list(scores) == [("v3", "loss")]
    assert message in undefined["v3/foreign"]


def test_an_attack_that_writes_into_its_view_ends_the_audit(
    tiny_bert_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    public = public_of(loaded(tiny_bert_dir, MEAN), rounds=1, steps=1)
    view = record_of(public).view(ViewName.V3, Question(data_of(public)[0], examples(20, MEAN, seed=50)))
    monkeypatch.setattr(battery, "membership_attacks", lambda: {"f": Foreign("writes")})
    with pytest.raises(AuditError, match="foreign writes into the view v3"):
        attack_all([view])
