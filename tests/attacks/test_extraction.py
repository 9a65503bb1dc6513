"""Planted secrets: exposed and completed where they were learnt by heart, at chance where not, or under noise."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from secagg.errors import AuditError
from secagg_attacks.attack import TextGuess
from secagg_attacks.extraction.completion import PrefixCompletion, beam_search, completed
from secagg_attacks.extraction.secrets import (
    TEMPLATES,
    Exposure,
    Planted,
    Template,
    exposure,
    log_perplexities,
    places_of,
    planted,
)
from secagg_attacks.record import Record
from secagg_attacks.registry import attack_named
from secagg_attacks.views import Question, ViewName
from secagg_client.data import Examples
from tests.attacks.federation import public_of, record_of
from tests.client.support import LM, MEAN, examples, loaded
from tests.tiny import WORDS

SYMBOLS = tuple(f" {word}" for word in ("food", "staff", "place", "film", "warm", "cold", "quick", "slow"))
OWNERS = tuple(WORDS[20:])
TINY = Template("tiny", "{name} was here and the{secret}", (SYMBOLS,) * 3)
"""512 secrets: 9 bits."""
RECORDS = planted(TINY, 14, seed=1, names=OWNERS)
IN, OUT = RECORDS[:2], RECORDS[2:]


@dataclass(frozen=True)
class Case:
    record: Record

    def exposed(self, records: tuple[Planted, ...]) -> Exposure:
        losses = [
            log_perplexities(self.record.public, self.record.final, (each.text, *each.others())) for each in records
        ]
        table = np.stack(losses)
        return exposure(table[:, 0], table[:, 1:], TINY.size)

    def said(self, records: tuple[Planted, ...]) -> TextGuess:
        nobody = Examples("nobody", ())
        question = Question(nobody, nobody, prompts=tuple(each.prompt for each in records))
        guess = PrefixCompletion(tokens=3).run(self.record.view(ViewName.V3, question))
        assert isinstance(guess, TextGuess)
        return guess


def case(folder: Path, **changes: Any) -> Case:
    values: dict[str, Any] = {
        "steps": 150, "size": 24, "batch_size": 24, "optimizer": "adamw", "learning_rate": 0.02, "rank": 16,
        "alpha": 32, "rounds": 3, "lora_clip": 4.0,
    }  # fmt: skip
    base = loaded(folder, LM)
    public = public_of(base, **{**values, **changes})
    repeated = Examples("planted", tuple(each.text for each in IN) * 8)
    return Case(record_of(public, [examples(8, LM, seed=client).joined(repeated) for client in range(3)]))


@pytest.fixture(scope="module")
def by_heart(tiny_llama_dir: Path) -> Case:
    return case(tiny_llama_dir)


@pytest.fixture(scope="module")
def noisy(tiny_llama_dir: Path) -> Case:
    return case(tiny_llama_dir, steps=6, epsilon=0.1)


def test_a_repeated_secret_is_exposed_and_completed(by_heart: Case) -> None:
    found = by_heart.exposed(IN)
    assert found.exact
    assert found.highest == 9
    assert (found.bits > 8).all()
    assert completed(by_heart.said(IN), [each.secret for each in IN]).value == 1


def test_a_secret_that_was_not_planted_is_exposed_by_chance_alone(by_heart: Case) -> None:
    assert by_heart.exposed(OUT).bits.mean() < 3, "1.44 expected, and 0.42 the error of the mean of 12"
    assert completed(by_heart.said(OUT), [each.secret for each in OUT]).value == 0


def test_under_strong_noise_planted_secrets_are_not_found(noisy: Case) -> None:
    assert (noisy.exposed(IN).bits < 6).all(), "more by chance once in 32"
    assert completed(noisy.said(IN), [each.secret for each in IN], k=5).value == 0


def test_exposure_of_ranks_counted_by_hand() -> None:
    targets = np.array([1.0, 3.5, 9.0, 2.0])
    others = np.array([[2.0, 3, 4, 5, 6, 7, 8]] * 3 + [[2.0] * 7])
    found = exposure(targets, others, 8)
    np.testing.assert_allclose(found.bits, [3, 3 - np.log2(3), 0, 0])
    assert (found.exact, found.highest) == (True, 3)


@pytest.mark.parametrize("rank", [1, 8, 64, 512, 4096])
def test_extrapolation_agrees_with_the_exact_rank_on_normal_losses(rank: int) -> None:
    random = np.random.default_rng(rank)
    losses = np.sort(random.normal(40, 3, 2**14))
    target, others = losses[[rank - 1]], np.delete(losses, rank - 1)[None]
    exact = exposure(target, others, 2**14)
    sampled = exposure(target, random.choice(others, 4000, replace=False, axis=1), 2**14)
    assert exact.bits[0] == 14 - np.log2(rank)
    assert not sampled.exact
    assert sampled.bits[0] == pytest.approx(exact.bits[0], abs=1)
    assert sampled.bits[0] <= sampled.highest


def test_a_distribution_of_another_form_shows_in_the_fit() -> None:
    two = np.random.default_rng(0).normal(0, 1, 1000) + np.repeat([0.0, 20.0], 500)
    assert exposure(np.array([0.0]), two[None], 10**6).fits[0] < 1e-3


def test_losses_that_say_nothing_are_refused() -> None:
    target = np.zeros(1)
    for references, space, why in (
        (np.zeros((1, 8)), 8, "has no 8 secrets but the target"),
        (np.zeros((1, 99)), 1000, "too few"),
        (np.zeros((1, 100)), 1000, "one loss"),
        (np.full((1, 7), np.inf), 8, "finite"),
        (np.zeros(7), 8, "losses of targets"),
    ):
        with pytest.raises(AuditError, match=why):
            exposure(target, references, space)


def test_records_are_drawn_by_their_seed_from_a_known_space() -> None:
    assert [template.size for template in TEMPLATES] == [10**7, 10**8, 32**6]
    for template in TEMPLATES:
        drawn = planted(template, 20, seed=3)
        assert drawn == planted(template, 20, seed=3) != planted(template, 20, seed=4)
        assert len({each.owner for each in drawn}) == len({each.secret for each in drawn}) == 20
        assert all(each.text == f"{each.prompt} {each.secret}" for each in drawn)
    with pytest.raises(AuditError, match="as many different names"):
        planted(TEMPLATES[0], 1000, seed=0)


def test_the_other_secrets_are_enumerated_and_sampled_without_the_target() -> None:
    one = RECORDS[0]
    others = set(one.others())
    assert len(others) == TINY.size - 1
    assert one.text not in others
    assert set(one.sample(TINY.size - 1, seed=0)) == others
    assert len(set(one.sample(50, seed=0))) == 50
    with pytest.raises(AuditError, match="no 512 other secrets"):
        one.sample(512, seed=0)


def test_templates_whose_secrets_are_ambiguous_are_refused() -> None:
    assert places_of("5#") == (("5",), tuple("0123456789"))
    for text, places, why in (
        ("{name} has {secret} here", places_of("##"), "at its end"),
        ("{name}: {secret}", (("a", "ab"),), "begins with it"),
        ("{name}: {secret}", places_of("55"), "space of one"),
    ):
        with pytest.raises(AuditError, match=why):
            Template("wrong", text, places)


class Chain:
    """A model whose next token depends on the last alone: `table` [tokens, tokens] of probabilities."""

    def __init__(self, table: list[list[float]]) -> None:
        self._logits = torch.tensor(table).log()

    def parameters(self) -> Any:
        return iter([self._logits])

    def __call__(self, input_ids: torch.Tensor, **_ignored: object) -> Any:
        return type("Output", (), {"logits": self._logits[input_ids]})


def test_a_beam_finds_what_greed_misses() -> None:
    """From 0 greed takes 1 (.6), then .3 at best; by way of 2 (.4) it is .4 * .9."""
    chain = Chain([[1e-9, 0.6, 0.4, 1e-9], [0.3, 0.2, 0.25, 0.25], [0.025, 0.05, 0.025, 0.9], [0.25] * 4])
    (greedy,) = beam_search(chain, [0], count=2, width=1, end=None)
    assert greedy.tokens == (1, 0)
    best = beam_search(chain, [0], count=2, width=2, end=None)
    assert best[0].tokens == (2, 3)
    assert np.exp(best[0].logprob) == pytest.approx(0.36)
    ended = beam_search(chain, [0], count=5, width=1, end=1)
    assert ended[0].tokens == (1,)


def test_completions_are_scored_by_their_first_words() -> None:
    guess = TextGuess((("12 34 and more", "9"), ("9", " 5678"), ("1", "2")))
    secrets = ["1234", "5678", "3"]
    assert [completed(guess, secrets, k).value for k in (1, 2)] == pytest.approx([1 / 3, 2 / 3])
    with pytest.raises(AuditError, match="one secret for each prompt"):
        completed(guess, secrets[:2])


def test_what_the_attack_lacks_is_said(noisy: Case, tiny_bert_dir: Path) -> None:
    nothing, attack = Examples("nobody", ()), attack_named("prefix-completion")
    with pytest.raises(AuditError, match="no prompts"):
        attack.run(noisy.record.view(ViewName.V3, Question(nothing, nothing)))
    with pytest.raises(AuditError, match="nothing can follow"):
        attack.run(noisy.record.view(ViewName.V3, Question(nothing, nothing, prompts=("good " * 40,))))
    classes = record_of(public_of(loaded(tiny_bert_dir, MEAN), steps=1))
    with pytest.raises(AuditError, match="completes no prompts"):
        attack.run(classes.view(ViewName.V3, Question(nothing, nothing, prompts=("good",))))
