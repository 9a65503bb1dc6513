"""Responses of a chat model: the loss is on the assistant's tokens alone, under a chat template.

A record is a conversation, written as JSON: `[{"role": "user", "content": "…"}, {"role": "assistant", …}]`.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from secagg.errors import DataError, ModelError
from secagg.plan import TaskSpec
from secagg_client.data import DataConfig, Examples, column, texts
from secagg_client.tasks.base import Encoded, Prefix, TaskOptions, read_options
from secagg_client.tasks.canaries import WORDS, PublicDraws, Vocabulary, distinct
from secagg_client.tasks.language import Language, LanguageTask

if TYPE_CHECKING:
    from datasets import Dataset

ASSISTANT = "assistant"
PLAIN = (
    "{% for message in messages %}{{ message['content'] }}"
    "{{ eos_token if message['role'] == 'assistant' else '\n' }}{% endfor %}"
)
"""For models without a template of their own: a line for each turn, and the end-of-text token after a response."""

Message = dict[str, str]


class ChatOptions(TaskOptions):
    """`chat_template`: a Jinja template for all clients, in the place of the one that comes with the tokenizer."""

    chat_template: str = ""


class ChatTask(LanguageTask):
    """Mean over the tokens of an example's responses, then each example counts the same."""

    def __init__(self, spec: TaskSpec, tokenizer: Any, prefix: Prefix) -> None:
        super().__init__(spec, tokenizer, prefix)
        own = read_options(spec, ChatOptions).chat_template or getattr(tokenizer, "chat_template", None)
        self._template = own or PLAIN
        self._adds_special_tokens = not own  # a chat template writes them itself

    def encode(self, examples: Examples) -> list[Encoded]:
        """Tokens of each conversation, and which of them are a response's.

        Raises DataError for a conversation that the template refuses, or whose responses lie beyond `max_length`;
        ModelError for a tokenizer that does not say where in a text its tokens are.
        """
        if not getattr(self._tokenizer, "is_fast", False):
            raise ModelError("the model's tokenizer does not say where its tokens are in a text: a fast one is needed")
        rows = [
            self._row(json.loads(text), f"{examples.source}, row {row}") for row, text in enumerate(examples.texts, 1)
        ]
        self._prefix.keep(rows, self.collate)
        return rows

    def _row(self, messages: Sequence[Message], where: str) -> Encoded:
        try:
            text, spans = self._rendered(messages)
        except TemplateError:
            raise DataError(f"{where}: the model's chat template does not take this order of roles") from None
        except _Rewritten:
            raise DataError(
                f"{where}: the chat template writes earlier turns otherwise once later ones are there: give one "
                "response to a row, or a chat_template in [task.options]"
            ) from None
        found = self._tokenizer(
            text,
            truncation=True,
            max_length=self._spec.max_length,
            add_special_tokens=self._adds_special_tokens,
            return_offsets_mapping=True,
        )
        counted = tuple(
            any(first < stop and last > start for start, stop in spans) for first, last in found["offset_mapping"]
        )
        if not any(counted[1:]):
            raise DataError(f"{where}: the response is cut off: the prompt alone fills max_length")
        return Encoded(tuple(found["input_ids"]), counted=counted)

    def _rendered(self, messages: Sequence[Message]) -> tuple[str, list[tuple[int, int]]]:
        """The whole text, and from where to where its responses are, in characters."""
        text, spans = self._render(messages, prompt=False), list[tuple[int, int]]()
        for number, message in enumerate(messages):
            if message["role"] == ASSISTANT:
                before = self._render(messages[:number], prompt=True)
                after = self._render(messages[: number + 1], prompt=False)
                if not (text.startswith(after) and after.startswith(before)):
                    raise _Rewritten
                spans.append((len(before), len(after)))
        return text, spans

    def _render(self, messages: Sequence[Message], *, prompt: bool) -> str:
        return str(
            self._tokenizer.apply_chat_template(
                list(messages), chat_template=self._template, tokenize=False, add_generation_prompt=prompt
            )
        )


class _Rewritten(Exception):
    """A conversation's beginning is not the beginning of its text."""


class Chat(Language):
    """Column `messages_column` where there is one, else `prompt_column` and `response_column`."""

    name = "chat"
    summary = "the responses in a conversation, under the model's chat template"
    options_type = ChatOptions

    def read(self, table: "Dataset", config: DataConfig, spec: TaskSpec) -> Examples:  # noqa: ARG002 - the signature
        """Conversations. Raises DataError for one without a response."""
        if config.messages_column in table.column_names:
            rows = enumerate(table[config.messages_column], 1)
            found: Iterable[list[Message]] = [_messages(value, f"{config.source}, row {row}") for row, value in rows]
        else:
            prompts = texts(column(table, config, "prompt_column"), config.source, "prompt")
            responses = texts(column(table, config, "response_column"), config.source, "response")
            found = [_exchange(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]
        return Examples(config.source, tuple(map(_record, found)))

    def said(self, record: str) -> str:
        """The turns without their roles."""
        return "\n".join(message["content"] for message in json.loads(record))

    def make(self, spec: TaskSpec, processor: Any, prefix: Prefix) -> ChatTask:
        """With a tokenizer."""
        return ChatTask(spec, processor, prefix)

    def columns(self, examples: Examples, spec: TaskSpec) -> dict[str, list[Any]]:  # noqa: ARG002 - the signature
        """Conversations."""
        return {"messages": [json.loads(text) for text in examples.texts]}

    def canaries(self, spec: TaskSpec, processor: Any, draws: PublicDraws, count: int) -> Examples:
        """A prompt and a response of random words; short, so that the template's own tokens have room."""
        words, vocabulary = max(1, min(WORDS, spec.max_length // 8)), Vocabulary(processor)

        def conversation() -> str:
            prompt, response = (vocabulary.text(draws, words) for _ in range(2))
            return _record(_exchange(prompt, response))

        return Examples("canaries", distinct(count, conversation))


def _exchange(prompt: str, response: str) -> list[Message]:
    return [{"role": "user", "content": prompt}, {"role": ASSISTANT, "content": response}]


def _record(messages: list[Message]) -> str:
    return json.dumps(messages, ensure_ascii=False)


def _messages(value: object, where: str) -> list[Message]:
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise DataError(f"{where}: the messages are not a list of role and content")
    found = [{"role": item.get("role"), "content": item.get("content")} for item in value]
    if not all(isinstance(part, str) for message in found for part in message.values()):
        raise DataError(f"{where}: a message lacks its role or content, or they are no strings")
    responses = [number for number, message in enumerate(found) if message["role"] == ASSISTANT]
    if not responses or responses[0] == 0:
        raise DataError(f"{where}: there is no message of the {ASSISTANT} after another's")
    if not all(str(found[number]["content"]).strip() for number in responses):
        raise DataError(f"{where}: the response is empty")
    return [{name: str(part) for name, part in message.items()} for message in found]


KINDS = (Chat(),)
