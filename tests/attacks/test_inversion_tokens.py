"""The span attacks through the views: what is there is found, what cannot be found is not claimed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel

from secagg.errors import AuditError
from secagg_attacks.attack import TokenGuess
from secagg_attacks.inversion.tokens import Search, SpanExact, SpanSoft, exact_of_gradients
from secagg_attacks.registry import attack_named
from secagg_attacks.roc import Scores, auc
from secagg_attacks.views import View, ViewName
from secagg_client.models import LoadedBase
from tests.attacks.federation import public_of
from tests.attacks.texts import ids_of, indicator, one_step, text_of
from tests.client.support import LM, MEAN, loaded
from tests.tiny import save_tokenizer


@pytest.fixture
def bert(tiny_bert_dir: Path) -> LoadedBase:
    return loaded(tiny_bert_dir, MEAN)


@pytest.fixture
def llama(tiny_llama_dir: Path) -> LoadedBase:
    return loaded(tiny_llama_dir, LM)


@pytest.fixture
def gpt2(tmp_path: Path) -> LoadedBase:
    torch.manual_seed(6)
    config = GPT2Config(vocab_size=45, n_embd=32, n_layer=2, n_head=2, n_positions=64, pad_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    save_tokenizer(tmp_path, encoder=False)
    return loaded(tmp_path, LM)


def area(guess: TokenGuess, truth: set[int]) -> float:
    is_in = indicator(truth)
    return auc(Scores(guess.scores[is_in], guess.scores[~is_in]))


def exact_and_soft(view: View) -> tuple[TokenGuess, TokenGuess]:
    return SpanExact().run(view)[0], SpanSoft().run(view)[0]


# -- as long as there are fewer tokens than the rank -----------------------------------------------------------


@pytest.mark.parametrize("method", ["ffa-lora", "fedit"])
@pytest.mark.parametrize("words", [3, 13])
def test_an_encoders_text_is_found_word_for_word(bert: LoadedBase, method: str, words: int) -> None:
    """With [CLS] and [SEP], 13 words are 15 tokens: the most that rank 16 can tell apart."""
    data = text_of(bert, words)
    _, record = one_step(bert, [data], method=method)
    (ids,) = ids_of(bert, data)
    exact, soft = exact_and_soft(record.view(ViewName.V1))
    assert exact.claimed == set(ids), "recall and precision 1.00"
    assert ids in exact.sequences
    assert area(soft, set(ids)) > 0.98


@pytest.mark.parametrize("words", [4, 13])
def test_a_decoders_text_is_found_but_for_its_last_word(llama: LoadedBase, words: int) -> None:
    """The last token is predicted and nothing is predicted from it: it meets no adapter that learns."""
    data = text_of(llama, words)
    _, record = one_step(llama, [data])
    (ids,) = ids_of(llama, data)
    exact, soft = exact_and_soft(record.view(ViewName.V1))
    assert exact.claimed == set(ids[:-1])
    assert exact.sequences == (ids[:-1],)
    assert area(soft, set(ids[:-1])) > 0.98


def test_a_gpt2s_text_is_found_with_its_places(gpt2: LoadedBase) -> None:
    data = text_of(gpt2, 8)
    _, record = one_step(gpt2, [data], target_modules=("c_attn",))
    (ids,) = ids_of(gpt2, data)
    exact, _ = exact_and_soft(record.view(ViewName.V1))
    assert exact.claimed == set(ids[:-1])
    assert exact.sequences == (ids[:-1],)


def test_as_many_tokens_as_the_rank_are_found_by_the_update_of_a(llama: LoadedBase) -> None:
    """12 inputs at rank 12: B's update of the values spans all; that of the queries never holds the first token.

    In a second round B is no longer zero, and A's update holds the inputs themselves.
    """
    data = text_of(llama, 13)
    (ids,) = ids_of(llama, data)
    for method, found in (("ffa-lora", set(ids[1:-1])), ("fedit", set(ids[:-1]))):
        _, record = one_step(llama, [data], steps=2, rounds=2, method=method, rank=12, alpha=12)
        view = record.view(ViewName.V1)
        second = type(view)(view.public, None, view.rounds[1:], view.final)  # type: ignore[attr-defined, call-arg]
        assert exact_and_soft(second)[0].claimed == found


def test_each_view_gives_what_its_messages_span(llama: LoadedBase) -> None:
    """Three clients with four words each: the sum has fewer than 16, and so has what a participant sees."""
    data = [text_of(llama, 4, seed=seed) for seed in (1, 2, 3)]
    _, record = one_step(llama, data)
    each = [ids_of(llama, one)[0][:-1] for one in data]
    everything = {token for ids in each for token in ids}
    plain = SpanExact().run(record.view(ViewName.V1))
    assert [guess.claimed for guess in plain] == [set(ids) for ids in each]
    assert SpanExact().run(record.view(ViewName.V2))[0].claimed == everything
    assert set(SpanExact().run(record.view(ViewName.V2))[0].sequences) == set(each)
    assert SpanExact().run(record.view(ViewName.V3))[0].claimed == everything
    assert SpanExact().run(record.view(ViewName.V4))[0].claimed == set(each[1]) | set(each[2])


def test_several_steps_are_the_same_to_it(bert: LoadedBase) -> None:
    data = text_of(bert, 6)
    _, record = one_step(bert, [data], steps=4, learning_rate=0.05)
    (ids,) = ids_of(bert, data)
    exact, _ = exact_and_soft(record.view(ViewName.V1))
    assert exact.claimed == set(ids)
    assert ids in exact.sequences


# -- where nothing can be told apart ---------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["ffa-lora", "fedit"])
def test_beyond_the_rank_nothing_is_claimed(bert: LoadedBase, method: str) -> None:
    data = text_of(bert, 14, count=6)
    _, record = one_step(bert, [data], method=method, rank=4)
    exact, _ = exact_and_soft(record.view(ViewName.V1))
    assert exact.claimed == frozenset()
    assert exact.sequences == ()


@pytest.mark.parametrize(("method", "epsilon"), [("ffa-lora", 1.0), ("ffa-lora", 8.0), ("fedit", 8.0)])
def test_under_differential_privacy_nothing_is_claimed(llama: LoadedBase, method: str, epsilon: float) -> None:
    """In the second round both factors of `fedit` move."""
    data = [text_of(llama, 6, seed=seed, count=12) for seed in range(3)]
    _, record = one_step(llama, data, epsilon=epsilon, batch_size=1, method=method, steps=2, rounds=2)
    for name in ViewName:
        for guess in SpanExact().run(record.view(name)):
            assert guess.claimed == frozenset()


def test_noise_takes_the_soft_score_to_chance(llama: LoadedBase) -> None:
    areas = {True: list[float](), False: list[float]()}
    for seed in range(8):
        data = text_of(llama, 15, seed=seed)
        (ids,) = ids_of(llama, data)
        for private in (True, False):
            _, record = one_step(llama, [data] * 3, **({"epsilon": 0.5} if private else {}))
            guess = SpanSoft().run(record.view(ViewName.V1))[0]
            areas[private].append(area(guess, set(ids[:-1])))
    assert np.mean(areas[False]) > 0.98
    assert abs(np.mean(areas[True]) - 0.5) < 0.1, "the same texts at epsilon 0.5"


def test_a_step_from_a_head_of_zeros_tells_nothing(bert: LoadedBase) -> None:
    _, record = one_step(bert, [text_of(bert, 4)], head_start="zeros")
    exact, soft = exact_and_soft(record.view(ViewName.V1))
    assert exact.claimed == soft.claimed == frozenset()
    assert not soft.scores.any()


def test_the_soft_score_claims_as_many_as_it_is_told(llama: LoadedBase) -> None:
    data = text_of(llama, 10)
    _, record = one_step(llama, [data])
    (ids,) = ids_of(llama, data)
    assert SpanSoft(claims=9).run(record.view(ViewName.V1))[0].claimed == set(ids[:-1])


# -- what is refused -------------------------------------------------------------------------------------------


def test_an_adapter_above_layer_0_is_refused(bert: LoadedBase) -> None:
    _, record = one_step(bert, [text_of(bert, 4)], layers=(1,))
    for attack in (SpanExact(), SpanSoft()):
        with pytest.raises(AuditError, match="depends on the context"):
            attack.run(record.view(ViewName.V1))


def test_both_are_registered() -> None:
    assert attack_named("span-exact") == SpanExact()
    assert attack_named("span-soft") == SpanSoft()


# -- full gradients, as DAGER has them -------------------------------------------------------------------------


def gradients_of(model: Any, texts: torch.Tensor) -> dict[str, Any]:
    """Of c_attn's weights in both layers, [outputs, inputs], for the mean loss over all tokens."""
    logits = model(input_ids=texts).logits[:, :-1]
    torch.autograd.backward(functional.cross_entropy(logits.flatten(0, 1), texts[:, 1:].flatten()))
    names = ["transformer.h.0.attn.c_attn", "transformer.h.1.attn.c_attn"]
    return {name: model.get_submodule(name).weight.grad.numpy().T.astype(np.float64) for name in names}


@pytest.mark.parametrize(("batch", "width"), [(1, 64), (4, 64), (16, 96)])
def test_full_gradients_of_gpt2_give_every_text_of_the_batch(batch: int, width: int) -> None:
    """Texts of six tokens: 5, 20 and 80 inputs that are learnt from, among 64 or 96 dimensions."""
    torch.manual_seed(7)
    config = GPT2Config(vocab_size=300, n_embd=width, n_layer=2, n_head=4, n_positions=16,
                        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    texts = torch.randint(0, 300, (batch, 6), generator=torch.Generator().manual_seed(8))
    guess = exact_of_gradients(model, gradients_of(model, texts), 300, Search(places=8))
    learnt = {tuple(row[:-1]) for row in texts.tolist()}
    assert guess.claimed == {token for text in learnt for token in text}
    assert set(guess.sequences) == learnt


def test_full_gradients_of_more_tokens_than_dimensions_claim_nothing() -> None:
    torch.manual_seed(7)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=4, n_positions=16)).eval()
    texts = torch.randint(0, 300, (16, 6), generator=torch.Generator().manual_seed(8))
    guess = exact_of_gradients(model, gradients_of(model, texts), 300, Search(places=8))
    assert guess.claimed == frozenset()
    assert guess.sequences == ()


def test_a_plan_without_trained_layers_of_text_is_refused(bert: LoadedBase) -> None:
    public = public_of(bert)
    head = public.plan.model_copy(update={"tensors": tuple(s for s in public.plan.tensors if "lora" not in s.name)})
    _, record = one_step(bert, [text_of(bert, 3)])
    view = record.view(ViewName.V1)
    bare = type(view.public)(head, bert, 1, 1, 1)
    object.__setattr__(view, "public", bare)
    with pytest.raises(AuditError, match="LoRA layers that are trained"):
        SpanExact().run(view)
