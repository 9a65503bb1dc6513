"""Chat: which tokens count, what is refused, and the way through head loss, kept layers, clipping and noise."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from secagg.errors import DataError
from secagg.plan import TaskSpec
from secagg_client.adapted import attached
from secagg_client.data import DataConfig, Examples, load_examples
from secagg_client.evaluation import evaluate_change
from secagg_client.models import LoadedBase, load_base
from secagg_client.noise import SeededSource
from secagg_client.prefix import KeptPrefix, training_task
from secagg_client.tasks import make_task
from secagg_client.training import train
from tests.client.gradients import gradient_error
from tests.client.support import plan_for, settings
from tests.tiny import sentences

TEMPLATE = (
    "{% for message in messages %}[CLS] {{ message['role'] }} {{ message['content'] }} [SEP] {% endfor %}"
    "{% if add_generation_prompt %}[CLS] assistant {% endif %}"
)
CHAT = TaskSpec(kind="chat", max_length=48, options={"chat_template": TEMPLATE})
PLAIN = TaskSpec(kind="chat", max_length=48)


@pytest.fixture
def base(tiny_llama_dir: Path) -> LoadedBase:
    return load_base(str(tiny_llama_dir), CHAT)


def turns(*contents: str) -> list[dict[str, str]]:
    roles = ("user", "assistant") * len(contents)
    return [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]


def conversations(*messages: list[dict[str, str]]) -> Examples:
    return Examples("chats", tuple(json.dumps(each) for each in messages))


def many(count: int, seed: int = 0) -> Examples:
    texts, _ = sentences(2 * count, seed=seed)
    return conversations(*(turns(texts[2 * i], texts[2 * i + 1]) for i in range(count)))


def counted_words(base: LoadedBase, spec: TaskSpec, messages: list[dict[str, str]]) -> str:
    (row,) = make_task(spec, base.tokenizer).encode(conversations(messages))
    kept = [token for token, counts in zip(row.ids, row.counted, strict=True) if counts]
    return str(base.tokenizer.decode(kept))


def test_only_the_responses_count(base: LoadedBase) -> None:
    assert counted_words(base, CHAT, turns("good food", "very good")) == "very good [SEP]"
    two = turns("good food", "very good", "slow staff", "not great")
    assert counted_words(base, CHAT, two) == "very good [SEP] not great [SEP]"
    system = [{"role": "system", "content": "we are here"}, *turns("food", "bad")]
    assert counted_words(base, CHAT, system) == "bad [SEP]"


def test_a_tokenizer_without_a_template_ends_responses_with_its_own_token(base: LoadedBase) -> None:
    assert counted_words(base, PLAIN, turns("good food", "very good")) == "very good [SEP]"


def test_the_tokenizers_own_template_is_used(base: LoadedBase) -> None:
    base.tokenizer.chat_template = TEMPLATE.replace("[SEP]", "one two")
    assert counted_words(base, PLAIN, turns("good food", "very good")) == "very good one two"
    assert counted_words(base, CHAT, turns("good food", "very good")) == "very good [SEP]", "the plan's comes first"


def test_the_loss_is_the_mean_over_the_responses_tokens(base: LoadedBase) -> None:
    """Against the model's logits, and without the frozen-head path."""
    task = make_task(CHAT, base.tokenizer)
    rows = task.encode(conversations(turns("good food", "very good"), turns("the staff was slow", "sad")))
    batch = task.collate(rows)
    with torch.no_grad():
        logits = base.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        found = task.losses(base.model, batch)
    for number, row in enumerate(rows):
        places = [place for place, counts in enumerate(row.counted) if counts]
        targets = torch.tensor([row.ids[place] for place in places])
        expected = functional.cross_entropy(logits[number, [place - 1 for place in places]], targets)
        torch.testing.assert_close(found[number], expected, atol=1e-5, rtol=1e-5)


def test_per_sample_gradients_are_those_of_each_example_alone(base: LoadedBase) -> None:
    task = make_task(CHAT, base.tokenizer)
    assert gradient_error(base, plan_for(base), task, task.encode(many(6))) < 1e-4


def test_the_prompt_reaches_the_loss_through_attention_only(base: LoadedBase) -> None:
    """Two rows with the same tokens, of which others count, keep one prefix and have two losses."""
    plan = plan_for(base, layers=(1,))
    task: Any = training_task(plan, base, torch.device("cpu"))
    assert isinstance(task._prefix, KeptPrefix)
    same = "[CLS] user food [SEP] [CLS] assistant good [SEP] [CLS] assistant great [SEP] "
    one = [{"role": "user", "content": "food [SEP] [CLS] assistant good"}, {"role": "assistant", "content": "great"}]
    other = [{"role": "user", "content": "food"}, {"role": "assistant", "content": "good [SEP] [CLS] assistant great"}]
    rows = task.encode(conversations(one, other))
    assert rows[0].ids == rows[1].ids == tuple(base.tokenizer(same, add_special_tokens=False)["input_ids"])
    assert rows[0].counted != rows[1].counted
    assert len(task._prefix._kept) == 1
    with attached(plan, base) as adapted, torch.no_grad():
        kept = task.losses(adapted.model, task.collate(rows))
        whole = make_task(CHAT, base.tokenizer)
        torch.testing.assert_close(kept, whole.losses(adapted.model, whole.collate(rows)), atol=1e-5, rtol=1e-5)
    assert float(kept[0]) != pytest.approx(float(kept[1]), abs=1e-3)


def test_training_lowers_the_loss_of_responses(base: LoadedBase) -> None:
    texts, _ = sentences(120)
    data = conversations(*(turns(text, "very good") for text in texts))
    training = settings(steps=20, batch_size=60, optimizer="adamw", learning_rate=0.05, epsilon=8.0)
    plan = plan_for(base, training)
    change = train(plan, base, data, 120, SeededSource(1)).change
    start, after = (evaluate_change(plan, base, c, data).loss for c in (np.zeros_like(change), change))
    assert after < start - 0.2


def test_a_response_beyond_the_length_is_refused(base: LoadedBase) -> None:
    task = make_task(CHAT.model_copy(update={"max_length": 8}), base.tokenizer)
    assert task.encode(conversations(turns("good food", "very good")))[0].length == 8, "cut, with some of it left"
    with pytest.raises(DataError, match="chats, row 2: the response is cut off: the prompt alone fills max_length"):
        task.encode(conversations(turns("good food", "very good"), turns("the food was not very good", "sad")))


def test_a_template_that_rewrites_the_past_is_refused(base: LoadedBase) -> None:
    rewriting = "{{ messages | length }} {% for message in messages %}{{ message['content'] }} {% endfor %}"
    task = make_task(TaskSpec(kind="chat", max_length=48, options={"chat_template": rewriting}), base.tokenizer)
    with pytest.raises(DataError, match="row 1: the chat template writes earlier turns otherwise"):
        task.encode(conversations(turns("food", "good")))
    refusing = "{{ raise_exception('private words') }}"
    task = make_task(TaskSpec(kind="chat", max_length=48, options={"chat_template": refusing}), base.tokenizer)
    with pytest.raises(DataError, match="row 1: the model's chat template does not take") as caught:
        task.encode(conversations(turns("food", "good")))
    assert "private" not in str(caught.value)


def table(path: Path, *rows: dict[str, object]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(path)


def test_prompts_and_responses_or_messages(tmp_path: Path) -> None:
    pairs = table(tmp_path / "pairs.jsonl", {"q": "food?", "a": "Good – sehr gut"})
    whole = table(tmp_path / "whole.jsonl", {"messages": turns("food?", "Good – sehr gut")})
    one = load_examples(DataConfig(source=pairs, prompt_column="q", response_column="a"), CHAT)
    other = load_examples(DataConfig(source=whole), CHAT)
    assert one.texts == other.texts
    assert one.fingerprint() == other.fingerprint()
    assert json.loads(one.texts[0]) == turns("food?", "Good – sehr gut")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "secret", "response": " "}, "row 2: the response is empty"),
        ({"prompt": "secret", "response": None}, "row 2: the response is missing"),
        ({"prompt": "", "response": "secret"}, "row 2: the prompt is empty"),
    ],
)
def test_bad_pairs_are_named_without_their_text(tmp_path: Path, row: dict[str, object], message: str) -> None:
    path = table(tmp_path / "x.jsonl", {"prompt": "a", "response": "b"}, row)
    with pytest.raises(DataError, match=message) as caught:
        load_examples(DataConfig(source=path), CHAT)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        (turns("secret"), "row 2: there is no message of the assistant after another's"),
        ([{"role": "assistant", "content": "secret"}], "row 2: there is no message of the assistant after"),
        (turns("secret", "  "), "row 2: the response is empty"),
        ([{"role": "user", "content": None}, *turns("a", "b")], "row 2: a message lacks its role or content"),
        (None, "row 2: the messages are not a list"),
    ],
)
def test_bad_conversations_are_named_without_their_text(tmp_path: Path, messages: object, message: str) -> None:
    path = table(tmp_path / "x.jsonl", {"messages": turns("a", "b")}, {"messages": messages})
    with pytest.raises(DataError, match=message) as caught:
        load_examples(DataConfig(source=path), CHAT)
    assert "secret" not in str(caught.value)


def test_missing_columns_are_named(tmp_path: Path) -> None:
    path = table(tmp_path / "x.jsonl", {"prompt": "a", "answer": "b"})
    with pytest.raises(DataError, match="no column 'response'; it has 'prompt', 'answer'"):
        load_examples(DataConfig(source=path), CHAT)
