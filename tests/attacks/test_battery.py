"""All attacks together find what each finds alone, and ask the model no more than once."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secagg_attacks.attack import membership_scores
from secagg_attacks.battery import attack_all
from secagg_attacks.probe import Probe
from secagg_attacks.registry import attack_named
from secagg_attacks.views import Question, Tensors, ViewName
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
