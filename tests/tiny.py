"""Tiny models made on the spot: a BERT and a Llama of 32 hidden units with a word-level tokenizer."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split, Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

WORDS = (  # noqa: SIM905 - a list of forty strings reads worse
    "the a was is and not very good bad great poor film food service place staff slow quick warm cold happy sad "
    "we they it loved hated liked found would never always come back again today here one two three"
).split()
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCABULARY = {word: index for index, word in enumerate(SPECIAL + WORDS)}
LABELS = ("negative", "positive")


def save_tokenizer(directory: Path, *, encoder: bool) -> None:
    """Of words; an encoder's puts its own tokens around a text."""
    tokenizer = Tokenizer(WordLevel(VOCABULARY, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    if encoder:
        tokenizer.post_processor = TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", VOCABULARY["[CLS]"]), ("[SEP]", VOCABULARY["[SEP]"])]
        )
    fast: Any = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", eos_token="[SEP]", model_max_length=64,
    )  # fmt: skip
    fast.save_pretrained(directory)


def _bert_config() -> BertConfig:
    return BertConfig(
        vocab_size=len(VOCABULARY), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=64, pad_token_id=0,
    )  # fmt: skip


def make_bert(directory: Path) -> Path:
    """An encoder with a pooler: `pooling` may be `mean` or `model`."""
    torch.manual_seed(1)
    BertModel(_bert_config()).save_pretrained(directory)
    save_tokenizer(directory, encoder=True)
    return directory


def make_bert_classifier(directory: Path) -> Path:
    """A stock classifier with three classes of its own."""
    torch.manual_seed(2)
    config = _bert_config()
    config.num_labels = 3
    BertForSequenceClassification(config).save_pretrained(directory)
    save_tokenizer(directory, encoder=True)
    return directory


def make_llama(directory: Path) -> Path:
    """A causal language model."""
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(VOCABULARY), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, intermediate_size=64, max_position_embeddings=64, pad_token_id=0,
        bos_token_id=2, eos_token_id=3, tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(directory)
    save_tokenizer(directory, encoder=False)
    return directory


def make_llama_of_characters(directory: Path) -> Path:
    """A causal language model whose tokens are single characters, so that it can tell numbers apart."""
    torch.manual_seed(4)
    characters = [*SPECIAL, *map(chr, range(32, 127))]
    config = LlamaConfig(
        vocab_size=len(characters), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, intermediate_size=64, max_position_embeddings=128, pad_token_id=0,
        bos_token_id=2, eos_token_id=3, tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer = Tokenizer(WordLevel({each: index for index, each in enumerate(characters)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Split("", "isolated")
    fast: Any = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", eos_token="[SEP]", model_max_length=128
    )
    fast.save_pretrained(directory)
    return directory


def sentences(count: int, *, seed: int = 0) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """`count` distinct sentences of 3 to 20 words, and whether each says something good (1) or bad (0)."""
    generator = torch.Generator().manual_seed(seed)
    texts, labels = list[str](), list[int]()
    seen = set[str]()
    while len(texts) < count:
        length = int(torch.randint(3, 20, (1,), generator=generator))
        words = [WORDS[int(i)] for i in torch.randint(13, len(WORDS), (length,), generator=generator)]
        label = int(torch.randint(0, 2, (1,), generator=generator))
        marks = ("good", "great", "loved") if label else ("bad", "poor", "hated")
        words[length // 2] = marks[int(torch.randint(0, 3, (1,), generator=generator))]
        words.insert(0, marks[0])
        text = " ".join(words)
        if text not in seen:
            seen.add(text)
            texts.append(text)
            labels.append(label)
    return tuple(texts), tuple(labels)
