"""The next character of a text, by an LSTM that starts from the plan's public seed: no pretrained base."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from opacus.layers import DPLSTM
from opacus.layers.dp_rnn import RNNLinear
from pydantic import Field
from torch import Tensor, nn
from transformers.modeling_outputs import CausalLMOutput

from secagg.errors import ConfigError, ModelError
from secagg.plan import TaskSpec
from secagg_client.data import Examples
from secagg_client.tasks.base import TRAINED_LAYERS, BaseParts, Prefix, TaskOptions, read_options
from secagg_client.tasks.canaries import PublicDraws, distinct
from secagg_client.tasks.language import Language, LanguageTask

BASE = "lstm"
"""What such a plan calls its base model."""
UNKNOWN = 0
CANARY_CHARACTERS = 24
ALPHABET = "\n !\"'(),-.0123456789:;?ABCDEFGHIJKLMNOPQRSTUVWXYZ[]abcdefghijklmnopqrstuvwxyz"


class CharacterOptions(TaskOptions):
    """Sizes of the network, and the characters it tells apart; all others are one unknown character."""

    alphabet: str = Field(default=ALPHABET, min_length=2, max_length=10_000)
    embedding: int = Field(default=16, ge=1, le=1024)
    hidden: int = Field(default=128, ge=1, le=4096)
    layers: int = Field(default=1, ge=1, le=8)


@dataclass(frozen=True, slots=True)
class CharacterConfig:
    """All that the base's hash covers: there are no pretrained weights."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    embedding_size: int
    alphabet: str
    model_type: str = "secagg-character-lstm"


class CharacterTokenizer:
    """A character's number is its place in the alphabet, from 1. It is called as Hugging Face's tokenizers are."""

    pad_token_id = UNKNOWN

    def __init__(self, alphabet: str) -> None:
        self._number = {character: number for number, character in enumerate(alphabet, 1)}

    def __call__(self, texts: Sequence[str], *, max_length: int, **_ignored: object) -> dict[str, list[list[int]]]:
        """`input_ids` of each text, at most `max_length`."""
        ids = [[self._number.get(character, UNKNOWN) for character in text[:max_length]] for text in texts]
        return {"input_ids": ids}


class CharacterNetwork(nn.Module):
    """Embedding, LSTM and linear output. Opacus' LSTM is made of linear layers, which have per-example gradients."""

    def __init__(self, config: CharacterConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.embedding_size)
        self.lstm = DPLSTM(
            config.embedding_size, config.hidden_size, num_layers=config.num_hidden_layers, batch_first=True
        )
        self.output = nn.Linear(config.hidden_size, config.vocab_size)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Logits [n, characters, alphabet + 1]. What is padded on the right reaches nothing on its left."""
        logits: Tensor = self.output(self.lstm(self.embedding(input_ids))[0])
        return logits


class CharacterModel(nn.Module):
    """A causal language model whose `network` is trained whole."""

    def __init__(self, config: CharacterConfig) -> None:
        super().__init__()
        self.config = config
        self.network = CharacterNetwork(config)

    def forward(self, input_ids: Tensor, **_ignored: object) -> CausalLMOutput:
        """`.logits`, as Transformers' models give them."""
        return CausalLMOutput(logits=self.network(input_ids))


class Characters(Language):
    """Column `text_column`; `max_length` in characters."""

    name = "chars"
    summary = "the next character of a text, by an LSTM from the plan's seed"
    peft_task_type = None
    options_type = CharacterOptions
    defaults = MappingProxyType({"max_length": 80})
    config_keys = ("embedding_size", "alphabet")
    adapts = False
    trained_layers = (*TRAINED_LAYERS, nn.Embedding, DPLSTM, RNNLinear)

    def check(self, spec: TaskSpec) -> None:
        """As for lm, and each character once."""
        super().check(spec)
        alphabet = read_options(spec, CharacterOptions).alphabet
        if len(set(alphabet)) < len(alphabet):
            raise ConfigError("options of task chars: alphabet: a character stands there twice")

    def load(self, model: str, spec: TaskSpec) -> BaseParts:
        """The network, whose values are the plan's to give. Raises ModelError for any other base."""
        if model != BASE:
            raise ModelError(f'model {model}: task chars starts from no pretrained model: the base is called "{BASE}"')
        own = read_options(spec, CharacterOptions)
        config = CharacterConfig(len(own.alphabet) + 1, own.hidden, own.layers, own.embedding, own.alphabet)
        return BaseParts(CharacterModel(config), CharacterTokenizer(own.alphabet), "network")

    def make(self, spec: TaskSpec, processor: Any, prefix: Prefix) -> LanguageTask:
        """With a CharacterTokenizer."""
        return LanguageTask(spec, processor, prefix)

    def canaries(self, spec: TaskSpec, processor: Any, draws: PublicDraws, count: int) -> Examples:  # noqa: ARG002
        """Random characters of the alphabet that are no white space. Raises ConfigError when there are none."""
        visible = [character for character in read_options(spec, CharacterOptions).alphabet if character.strip()]
        if not visible:
            raise ConfigError("options of task chars: alphabet: nothing but white space, so there are no canaries")
        length = min(spec.max_length, CANARY_CHARACTERS)
        found = distinct(count, lambda: "".join(visible[draws.below(len(visible))] for _ in range(length)))
        return Examples("canaries", found)


KINDS = (Characters(),)
