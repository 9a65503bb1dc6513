"""Texts by optimisation: most words without noise, none with it; and the parts by hand."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from secagg.errors import AuditError
from secagg.plan import TaskSpec
from secagg_attacks.inversion.matching import cosine, cosine_by_tensor, simulated, squared, squared_and_absolute
from secagg_attacks.inversion.recovery import TokenRecovery, text_recovery, token_recovery
from secagg_attacks.inversion.texts import Lamp, Tag, TextAttack, rearranged
from secagg_attacks.registry import attack_named
from secagg_attacks.views import View, ViewName
from secagg_client.models import LoadedBase, load_base
from tests.attacks.texts import ids_of, one_step, text_of
from tests.client.images import DIGITS, digits, make_vit
from tests.client.support import LM, MEAN, loaded

EVERYWHERE = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.fixture
def bert(tiny_bert_dir: Path) -> LoadedBase:
    return loaded(tiny_bert_dir, MEAN)


@pytest.fixture
def llama(tiny_llama_dir: Path) -> LoadedBase:
    return loaded(tiny_llama_dir, LM)


def recovered(attack: TextAttack, view: View, truth: tuple[tuple[int, ...], ...]) -> TokenRecovery:
    """Of all words, each as often as it is there."""
    (guess,) = attack.run(view)
    assert guess.claimed == {token for text in guess.sequences for token in text}
    return token_recovery([t for text in guess.sequences for t in text], [t for text in truth for t in text])


@pytest.mark.parametrize("attack", [Tag(), Lamp()], ids=lambda attack: attack.name)
def test_an_encoders_words_are_found_without_noise_and_not_with_it(bert: LoadedBase, attack: TextAttack) -> None:
    """Eight tokens of a vocabulary of 45: words at random are right about once."""
    data = text_of(bert, 6)
    _, plain = one_step(bert, [data])
    assert recovered(attack, plain.view(ViewName.V1), ids_of(bert, data)).recall >= 0.7
    _, noisy = one_step(bert, [data] * 3, epsilon=1.0)
    shorter = replace(attack, steps=100)
    assert recovered(shorter, noisy.view(ViewName.V2), ids_of(bert, data)).recall <= 0.4


@pytest.mark.parametrize("attack", [Tag(), Lamp()], ids=lambda attack: attack.name)
def test_a_decoders_words_are_found_where_every_layer_is_adapted(llama: LoadedBase, attack: TextAttack) -> None:
    data = text_of(llama, 6, seed=1)
    _, record = one_step(llama, [data], target_modules=EVERYWHERE)
    truth = ids_of(llama, data)
    assert recovered(replace(attack, tokens=6, restarts=2), record.view(ViewName.V1), truth).recall >= 0.6


def test_two_texts_are_guessed_at_once(bert: LoadedBase) -> None:
    data = text_of(bert, 3, count=2)
    _, record = one_step(bert, [data])
    (guess,) = Lamp(examples=2, tokens=5, steps=100).run(record.view(ViewName.V2))
    assert [len(text) for text in guess.sequences] == [5, 5]
    assert text_recovery(guess.sequences, ids_of(bert, data)).rouge1 > 0.2


def test_a_guess_repeats(llama: LoadedBase) -> None:
    _, record = one_step(llama, [text_of(llama, 4)])
    view, attack = record.view(ViewName.V3), Lamp(tokens=4, steps=12, every=5)
    one, again, other = (each.run(view)[0] for each in (attack, attack, replace(attack, seed=1)))
    assert one.sequences == again.sequences
    assert np.array_equal(one.scores, again.scores)
    assert not np.array_equal(one.scores, other.scores)


def test_a_message_in_which_nothing_moved_gives_no_text(llama: LoadedBase) -> None:
    _, record = one_step(llama, [text_of(llama, 4)])
    view: Any = record.view(ViewName.V2)
    still = replace(view, rounds=tuple(replace(each, mean=np.zeros_like(each.mean)) for each in view.rounds))
    (guess,) = Tag().run(still)
    assert guess.claimed == frozenset()
    assert guess.sequences == ()


def test_a_simulated_client_sends_what_the_client_sent(bert: LoadedBase, llama: LoadedBase) -> None:
    """The true words are at distance zero, in scale too; of a language model the labels are soft, so nearly."""
    from secagg_attacks.inversion.dummies import dummies_for

    for base, bound in ((bert, 1e-6), (llama, 1.0)):
        data = text_of(base, 5)
        public, record = one_step(base, [data])
        (message,) = record.view(ViewName.V2).messages()
        labels = torch.tensor(data.labels) if data.labels else None
        with simulated(public, message) as client:
            assert client is not None
            dummies = dummies_for(base, client.model, labels)
            assert float(client.distance(dummies.losses(dummies.of(ids_of(base, data))), squared).detach()) < bound


def test_distances_by_hand() -> None:
    found, target = [torch.tensor([3.0, 4.0]), torch.tensor([1.0])], [torch.tensor([4.0, 3.0]), torch.tensor([-1.0])]
    assert float(squared(found, target)) == 6.0
    assert float(squared_and_absolute(found, target, 0.5)) == 8.0
    assert float(cosine(found, target)) == pytest.approx(1 - 23 / 26)
    assert float(cosine_by_tensor(found, target)) == pytest.approx((1 - 24 / 25 + 2) / 2)


def test_a_rearrangement_keeps_every_place() -> None:
    generator = torch.Generator().manual_seed(3)
    found = {rearranged(5, generator) for _ in range(200)}
    assert {tuple(sorted(order)) for order in found} == {(0, 1, 2, 3, 4)}
    assert len(found) > 20


def test_images_are_refused(tmp_path: Path) -> None:
    base = load_base(str(make_vit(tmp_path)), TaskSpec(kind="image", labels=DIGITS))
    _, record = one_step(base, [digits(range(1))], target_modules=("q_proj", "v_proj"))
    for name in ("tag", "lamp"):
        with pytest.raises(AuditError, match="looks for texts"):
            attack_named(name).run(record.view(ViewName.V1))
