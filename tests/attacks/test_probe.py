"""What the probe says of an example is what that example alone gives."""

from pathlib import Path

import numpy as np
import pytest
import torch

from secagg.adapter import start_tensors
from secagg.errors import AuditError
from secagg_attacks.probe import Probe
from secagg_client.adapted import attached
from secagg_client.tasks import make_task
from tests.attacks.federation import public_of, record_of
from tests.client.support import LM, MEAN, examples, loaded


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_losses_and_gradients_are_those_of_each_example_alone(
    kind: str, tiny_bert_dir: Path, tiny_llama_dir: Path
) -> None:
    base = loaded(tiny_bert_dir, MEAN) if kind == "bert" else loaded(tiny_llama_dir, LM)
    public = public_of(base)
    record, data = record_of(public), examples(40, base.task, seed=9)
    probe, task = Probe(public, data), make_task(base.task, base.tokenizer)
    losses = probe.losses(record.final)
    gradients = np.zeros((40, public.plan.length), np.float32)
    for index, part in probe.gradients(record.final):
        gradients[index] = part
    rows = task.encode(data)
    with attached(public.plan, base) as adapted:
        adapted.assign(dict(record.final))
        for number in (0, 7, 39):
            loss = task.losses(adapted.model, task.collate([rows[number]]))[0]
            trained = [adapted.parameters[spec.name] for spec in public.plan.trained]
            flat = torch.cat([g.flatten() for g in torch.autograd.grad(loss, trained)]).numpy()
            assert losses[number] == pytest.approx(loss.item(), rel=1e-5)
            assert np.abs(gradients[number] - flat).max() < 1e-4 * max(1e-2, np.abs(flat).max())
    assert probe.losses(record.final) is losses, "computed once"


def test_tokens_are_what_the_loss_is_the_mean_of(tiny_llama_dir: Path) -> None:
    public = public_of(loaded(tiny_llama_dir, LM))
    probe = Probe(public, examples(12, LM, seed=9))
    start = start_tensors(public.plan)
    for view, loss in zip(probe.tokens(start), probe.losses(start), strict=True):
        assert -view.logprobs.mean() == pytest.approx(loss, rel=1e-5)
        assert (view.means <= 0).all()
        assert (view.deviations >= 0).all()
    assert np.allclose(probe.probabilities(start), np.exp(-probe.losses(start)))


def test_an_encoder_gives_no_tokens(tiny_bert_dir: Path) -> None:
    public = public_of(loaded(tiny_bert_dir, MEAN))
    with pytest.raises(AuditError, match="no probabilities of tokens"):
        Probe(public, examples(4, MEAN)).tokens(start_tensors(public.plan))
    with pytest.raises(AuditError, match="not one of this run"):
        Probe(public, examples(4, MEAN)).losses({})
