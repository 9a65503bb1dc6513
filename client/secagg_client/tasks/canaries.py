"""What canaries are made of: public random words and numbers that every machine draws alike (protocol.md §4.6b)."""

from collections.abc import Callable
from typing import Any

from secagg.errors import ConfigError, ModelError
from secagg.randomness import Keystream

WORDS = 12
"""Of a canary's text, where the task's `max_length` leaves room: far more than enough that no two are alike."""
TRIES = 1000
_WORD_BITS = 32


class PublicDraws:
    """Uniform whole numbers from a public keystream."""

    def __init__(self, stream: Keystream) -> None:
        self._stream = stream

    def below(self, bound: int) -> int:
        """One of 0 .. bound - 1 (bound < 2^32): a 32-bit word modulo `bound`; the words past its last multiple are
        skipped."""
        end = (1 << _WORD_BITS) // bound * bound
        while True:
            word = int(self._stream.read(_WORD_BITS // 8).view("<u4")[0])
            if word < end:
                return word % bound

    def raw(self, count: int) -> bytes:
        """The next `count` bytes."""
        return self._stream.read(count).tobytes()


class Vocabulary:
    """The words of a tokenizer: what its tokens stand for, where that reads back as itself and as nothing special."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._special = frozenset(tokenizer.all_special_ids)
        self._words = dict[int, str | None]()

    def text(self, draws: PublicDraws, count: int) -> str:
        """`count` random words with a space between. Raises ModelError when the tokenizer has none."""
        found = list[str]()
        for _ in range(TRIES * count):
            word = self._word(draws.below(len(self._tokenizer)))
            if word is not None:
                found.append(word)
            if len(found) == count:
                return " ".join(found)
        raise ModelError("the model's tokenizer has no words to make canaries of: set canaries = 0 in [audit]")

    def _word(self, token: int) -> str | None:
        if token not in self._words:
            self._words[token] = self._read(token)
        return self._words[token]

    def _read(self, token: int) -> str | None:
        word = str(self._tokenizer.decode([token])).strip()
        if token in self._special or not word.isalnum():
            return None
        again = self._tokenizer(word, add_special_tokens=False)["input_ids"]
        reads_back = str(self._tokenizer.decode(again)).strip() == word
        return word if reads_back and self._special.isdisjoint(again) else None


def distinct(count: int, make: Callable[[], str]) -> tuple[str, ...]:
    """`count` different texts: equal canaries with different coins would be no canaries. Raises ConfigError."""
    found = dict[str, None]()
    for _ in range(count + TRIES):
        if len(found) == count:
            break
        found[make()] = None
    if len(found) < count:
        raise ConfigError(f"this task does not have {count} different canaries: ask for fewer in [audit]")
    return tuple(found)
