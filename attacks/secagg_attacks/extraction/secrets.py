"""Personal data to plant in training texts, and how far a model gives it away (Carlini et al. 2019, arXiv 1802.08232).

A secret is drawn by a public seed from a finite space of known size, so that chance is known too: exposure is
log2 |space| - log2 rank, the bits that are saved by who tries the secrets in the model's order. It is at most
log2 |space|, and of a secret that was not planted 1.44 bits on average: more than b bits in one case of 2^b.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, product

import numpy as np
from scipy import stats

from secagg.errors import AuditError
from secagg_attacks.intervals import Floats
from secagg_attacks.probe import Probe
from secagg_attacks.views import Public, Tensors
from secagg_client.data import Examples

DIGITS = "0123456789"
CODE = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"
"""What booking codes are made of: without I, O, 0 and 1, which are misread."""
LEAST_SAMPLE = 100
"""So few references at least, for a distribution of three parameters to be fitted."""
SECRET, NAME = "{secret}", "{name}"

_FIRST = ("Ada", "Ben", "Cleo", "Dara", "Emil", "Fay", "Gus", "Hana", "Ivo", "June", "Kofi", "Lena", "Milo", "Nora")
_LAST = ("Abbot", "Bauer", "Conti", "Dubois", "Evans", "Fuchs", "Garcia", "Hansen", "Ito", "Jones", "Kowal", "Lopez")
NAMES = tuple(f"{first} {last}" for first, last in product(_FIRST, _LAST))


@dataclass(frozen=True, slots=True)
class Template:
    """Texts of one form, and the space of their secrets.

    `text` has a {name} and ends with {secret}: what is before it is the prompt. `places` are the symbols that may stand
    at each place of a secret; one that is always the same is a place of one symbol. Raises AuditError for a form that
    has no prompt, or for symbols of which two secrets could be made that read alike.
    """

    name: str
    text: str
    places: tuple[tuple[str, ...], ...] = field(repr=False)

    def __post_init__(self) -> None:
        if NAME not in self.text or not self.text.endswith(SECRET) or self.text.count(SECRET) > 1:
            raise AuditError(f"template {self.name}: the text needs a {NAME}, and one {SECRET} at its end")
        for place in self.places:
            ordered = sorted(place)
            if not all(ordered) or any(b.startswith(a) for a, b in pairwise(ordered)):
                raise AuditError(f"template {self.name}: a symbol is empty, or another of its place begins with it")
        if self.size < 2:
            raise AuditError(f"template {self.name}: a space of one secret holds no secret")

    @property
    def size(self) -> int:
        """How many secrets there are."""
        return math.prod(len(place) for place in self.places)

    def value(self, number: int) -> str:
        """Secret number `number` of 0 .. size - 1."""
        symbols = list[str]()
        for place in reversed(self.places):
            number, index = divmod(number, len(place))
            symbols.append(place[index])
        return "".join(reversed(symbols))

    def number(self, value: str) -> int:
        """Which secret this is, the inverse of `value`. Raises AuditError for a text that is none."""
        number, rest = 0, value
        for place in self.places:
            index = next((i for i, symbol in enumerate(place) if rest.startswith(symbol)), None)
            if index is None:
                break
            number, rest = number * len(place) + index, rest[len(place[index]) :]
        else:
            if not rest:
                return number
        raise AuditError(f"template {self.name}: this is none of its secrets")


@dataclass(frozen=True, slots=True)
class Planted:
    """One record to plant: the secret number `number` of its template, and whose it is."""

    template: Template
    owner: str = field(repr=False)
    number: int = field(repr=False)

    @property
    def secret(self) -> str:
        """What must not be given away, without outer white space."""
        return self.template.value(self.number).strip()

    @property
    def text(self) -> str:
        """The whole record."""
        return self._with(self.number)

    @property
    def prompt(self) -> str:
        """What stands before the secret; no space at its end, which most tokenizers put to the next word."""
        return self.template.text.removesuffix(SECRET).replace(NAME, self.owner).rstrip()

    def others(self) -> Iterator[str]:
        """The same record with every other secret of the space, in order."""
        return (self._with(number) for number in range(self.template.size) if number != self.number)

    def sample(self, count: int, seed: int) -> tuple[str, ...]:
        """`count` different ones of them. Raises AuditError when the space has fewer."""
        if count > self.template.size - 1:
            raise AuditError(f"template {self.template.name} has no {count} other secrets")
        drawn = np.random.default_rng(seed).choice(self.template.size - 1, count, replace=False)
        return tuple(self._with(int(each) + (each >= self.number)) for each in drawn)

    def _with(self, number: int) -> str:
        return self.template.text.replace(NAME, self.owner).replace(SECRET, self.template.value(number))


def planted(template: Template, count: int, seed: int, names: Sequence[str] = NAMES) -> tuple[Planted, ...]:
    """`count` records, each of another person and, where the space allows, with another secret.

    Raises AuditError for more records than there are names.
    """
    if count > len(set(names)):
        raise AuditError(f"{count} records need as many different names, and there are {len(set(names))}")
    rng = np.random.default_rng(seed)
    owners = rng.choice(sorted(set(names)), count, replace=False)
    numbers = rng.choice(template.size, count, replace=count > template.size)
    return tuple(Planted(template, str(owner), int(number)) for owner, number in zip(owners, numbers, strict=True))


def places_of(mask: str) -> tuple[tuple[str, ...], ...]:
    """Places as a mask draws them: # any digit, @ any character of a booking code, all else itself."""
    return tuple(tuple({"#": DIGITS, "@": CODE}.get(symbol, symbol)) for symbol in mask)


TEMPLATES = (
    Template("phone", f"{NAME} can be reached by phone at {SECRET}", places_of("555-###-####")),
    Template("account", f"{NAME} has the bank account {SECRET}", places_of("#### ####")),
    Template("booking", f"{NAME} travels with the booking code {SECRET}", places_of("@@@@@@")),
)
"""Spaces of 10^7, 10^8 and 32^6 secrets: 23.3, 26.6 and 30 bits."""


@dataclass(frozen=True, slots=True)
class Exposure:
    """Of each target, [targets]: `bits`, of at most `highest`, the log2 of the space.

    `exact` says whether ranks were counted. Otherwise they were extrapolated, and `fits` are p-values [targets] of the
    fitted distribution (Kolmogorov-Smirnov): a small one says that the bits are not to be trusted. A large one says
    little of the tail, and of parameters fitted to the same sample it is larger than it should be.
    """

    bits: Floats
    highest: float
    exact: bool
    fits: Floats = field(repr=False)


def exposure(target_losses: Floats, reference_losses: Floats, space: int) -> Exposure:
    """From the losses of targets [targets] and, of each, the same record with other secrets [targets, references].

    Losses are log-perplexities (`log_perplexities`), in any unit. `references` = space - 1 are all others: the rank is
    one more than how many of them have no higher loss, so that a model that cannot tell them apart exposes nothing.
    Fewer are a random sample, without the target: the rank's part of the space is the probability below the target
    under a skew-normal distribution fitted to them, as in the paper, and no smaller than 1 / space.
    Raises AuditError for losses of other shapes or not finite, for more references than there are, or too few.
    """
    count = _references(target_losses, reference_losses, space)
    highest = math.log2(space)
    if count == space - 1:
        ranks = 1 + (reference_losses <= target_losses[:, None]).sum(axis=1)
        return Exposure(highest - np.log2(ranks), highest, True, np.empty(0))
    if count < LEAST_SAMPLE:
        raise AuditError(f"{count} references are too few to extrapolate from: {LEAST_SAMPLE} are needed")
    fitted = [_extrapolated(*each) for each in zip(target_losses, reference_losses, strict=True)]
    bits, fits = np.array(fitted).T
    return Exposure(np.minimum(bits, highest), highest, False, fits)


def _references(targets: Floats, references: Floats, space: int) -> int:
    """How many there are of each target."""
    if targets.ndim != 1 or len(targets) == 0 or references.ndim != 2 or len(references) != len(targets):
        raise AuditError("exposure needs the losses of targets [targets] and of references [targets, references]")
    if not (np.isfinite(targets).all() and np.isfinite(references).all()):
        raise AuditError("a loss is not a finite number")
    if references.shape[1] > space - 1:
        raise AuditError(f"a space of {space} has no {references.shape[1]} secrets but the target")
    return int(references.shape[1])


def _extrapolated(target: float, references: Floats) -> tuple[float, float]:
    """-log2 of the probability below the target, and how well the distribution fits. The scale is taken out first."""
    centre, scale = float(references.mean()), float(references.std())
    if scale <= 1e-9 * max(1.0, abs(centre)):
        raise AuditError("all references have one loss: the model does not tell the secrets apart")
    found = stats.skewnorm(*stats.skewnorm.fit((references - centre) / scale))
    below = max(float(found.cdf((target - centre) / scale)), np.finfo(np.float64).tiny)
    return -math.log2(below), float(stats.kstest((references - centre) / scale, found.cdf).pvalue)


def log_perplexities(public: Public, tensors: Tensors, texts: Sequence[str]) -> Floats:
    """-log p of each text under an adapter, [texts], in nats: summed over its tokens, however many they are.

    A text is cut at the task's `max_length`: a secret beyond it has the loss of all others, hence no exposure.
    Raises AuditError for other tasks than language models.
    """
    seen = Probe(public, Examples("secrets", tuple(texts))).tokens(tensors)
    return np.array([-each.logprobs.sum() for each in seen])
