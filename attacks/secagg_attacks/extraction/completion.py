"""What a released language model says after a prompt, and how often that is the secret.

Greedy and beam search by the plain forward pass: no sampling and no settings of the model's own, so that a run
repeats (Carlini et al. 2021, arXiv 2012.07805; what a prefix brings out is extractable: Carlini et al. 2023,
arXiv 2202.07646).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from secagg.errors import AuditError
from secagg_attacks.attack import Attack, Need, TextGuess
from secagg_attacks.intervals import Floats, Interval, clopper_pearson
from secagg_attacks.probe import released
from secagg_attacks.views import View
from secagg_client.tasks.base import device_of


@dataclass(frozen=True, slots=True)
class Beam:
    """New tokens after a prompt, and the natural logarithm of their probability."""

    tokens: tuple[int, ...]
    logprob: float


@torch.no_grad()
def beam_search(model: Any, prompt: Sequence[int], *, count: int, width: int, end: int | None) -> tuple[Beam, ...]:
    """The `width` likeliest continuations that are found, of `count` tokens or up to `end`, best first.

    `width` 1 is greedy. Of equal ones that with the lower token numbers comes first.
    """
    beams = [Beam((), 0.0)]
    for _ in range(count):
        done = [beam for beam in beams if end is not None and beam.tokens[-1:] == (end,)]
        open_ = [beam for beam in beams if beam not in done]
        if not open_:
            break
        ids = torch.tensor([[*prompt, *beam.tokens] for beam in open_], device=device_of(model))
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, -1]
        logs = logits.double().log_softmax(1).cpu().numpy()
        beams = _best([*done, *_longer(open_, logs, width)], width)
    return tuple(beams)


def _longer(beams: Sequence[Beam], logs: Floats, width: int) -> list[Beam]:
    """Each beam with each of its `width` likeliest next tokens; logs [beams, tokens]."""
    return [
        Beam((*beam.tokens, int(token)), beam.logprob + float(row[token]))
        for beam, row in zip(beams, logs, strict=True)
        for token in np.argsort(-row, kind="stable")[:width]
    ]


def _best(beams: Sequence[Beam], width: int) -> list[Beam]:
    return sorted(beams, key=lambda beam: (-beam.logprob, beam.tokens))[:width]


@dataclass(frozen=True, slots=True)
class PrefixCompletion(Attack):
    """The greedy continuation and those of a beam search, without doubles, likeliest first.

    `tokens` are new ones; `width` is the beam's. No text goes beyond the task's `max_length`: nothing was learnt there.
    """

    tokens: int = 24
    width: int = 5

    name: ClassVar[str] = "prefix-completion"
    summary: ClassVar[str] = "the released language model's likeliest continuations of each prompt"
    source: ClassVar[str] = "Carlini et al. 2021, arXiv 2012.07805; Carlini et al. 2023, arXiv 2202.07646"
    needs: ClassVar[frozenset[Need]] = frozenset({"prompts"})

    def run(self, view: View) -> TextGuess:
        """Continuations of the question's prompts, one tuple for each.

        Prompts are plain text: for a chat model, as its template writes it. Raises AuditError without prompts, for a
        prompt without room after it, and for other tasks than language models.
        """
        plan, base, prompts = view.public.plan, view.public.base, view.asked().prompts
        if plan.task.kind not in ("lm", "chat"):
            raise AuditError(f"task {plan.task.kind} completes no prompts: {self.name} asks language models")
        if not prompts:
            raise AuditError(f"the question has no prompts, and {self.name} has nothing else to go by")
        with released(plan, base, view.models()[-1]) as model:
            return TextGuess(tuple(self._texts(model, base.tokenizer, each, plan.task.max_length) for each in prompts))

    def _texts(self, model: Any, tokenizer: Any, prompt: str, most: int) -> tuple[str, ...]:
        ids = tuple(tokenizer(prompt)["input_ids"])
        end = tokenizer.eos_token_id
        if ids[-1:] == (end,):  # of tokenizers that close every text
            ids = ids[:-1]
        count = min(self.tokens, most - len(ids))
        if not ids or count < 1:
            raise AuditError(f"a prompt has {len(ids)} tokens, and the task's max_length is {most}: nothing can follow")
        found = {
            beam for width in (1, self.width) for beam in beam_search(model, ids, count=count, width=width, end=end)
        }
        best = _best(tuple(found), len(found))
        return tuple(tokenizer.decode(beam.tokens, skip_special_tokens=True) for beam in best)


def completed(guess: TextGuess, secrets: Sequence[str], k: int = 1) -> Interval:
    """Which share of the secrets is said word for word at the start of one of the first `k` continuations.

    Exact interval of 95%. White space does not count: tokenizers put their own between words. Raises AuditError
    for another number of secrets than prompts, an empty secret, or k < 1.
    """
    if k < 1 or len(secrets) != len(guess.texts) or not all(_bare(secret) for secret in secrets):
        raise AuditError("completions are scored against one secret for each prompt, and at least the first of them")
    found = sum(
        any(_bare(text).startswith(_bare(secret)) for text in texts[:k])
        for texts, secret in zip(guess.texts, secrets, strict=True)
    )
    return clopper_pearson(found, len(secrets))


def _bare(text: str) -> str:
    return "".join(text.split())


ATTACKS = (PrefixCompletion(),)
