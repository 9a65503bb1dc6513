"""`tag` and `lamp`: texts whose gradient is the one that was sent, by moving embeddings.

As in both papers the number of texts and their length are taken as known. LAMP's prior, a language model's perplexity,
is left out: it is another model, and the attack is the weaker for it.
"""

from abc import abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from secagg.errors import AuditError
from secagg_attacks.attack import Attack, TokenGuess
from secagg_attacks.inversion.decode import Text
from secagg_attacks.inversion.dummies import Dummies, dummies_for
from secagg_attacks.inversion.labels import class_shares, likeliest
from secagg_attacks.inversion.matching import Client, Distance, cosine_by_tensor, simulated, squared_and_absolute
from secagg_attacks.views import Message, Public, View


@dataclass(frozen=True)
class TextAttack(Attack):
    """`examples` texts of `tokens` tokens each are looked for, from `restarts` beginnings of `steps` steps of Adam.

    `rate` is the learning rate, in deviations of the model's own embeddings; it falls to zero.
    """

    examples: int = 1
    tokens: int = 8
    steps: int = 300
    restarts: int = 1
    rate: float = 0.1
    seed: int = 0

    def run(self, view: View) -> tuple[TokenGuess, ...]:
        """Of each message. Raises AuditError for a task without texts."""
        if not view.public.plan.task.max_length:
            raise AuditError(f"attack {self.name} looks for texts, and the task is {view.public.plan.task.kind}")
        return tuple(self._guess(view.public, message) for message in view.messages())

    def _guess(self, public: Public, message: Message) -> TokenGuess:
        labels = None
        if public.plan.task.labels:
            labels = torch.tensor(likeliest(class_shares(public, message), self.examples))
        generator = torch.Generator().manual_seed(self.seed)
        with simulated(public, message) as client:
            vocabulary = int(public.base.model.config.vocab_size)  # type: ignore[union-attr, arg-type]
            if client is None:
                return TokenGuess(torch.zeros(vocabulary).double().numpy(), frozenset())
            dummies = dummies_for(public.base, client.model, labels)
            found = [self.descend(client, dummies, generator) for _ in range(self.restarts)]
            best = min(found, key=lambda values: self.value(client, dummies, dummies.of(dummies.nearest(values))))
            texts = dummies.nearest(best)
        return TokenGuess(dummies.scores(best), frozenset(token for text in texts for token in text), texts)

    def value(self, client: Client, dummies: Dummies, values: Tensor) -> float:
        """How far the gradient of dummies is off."""
        return float(client.distance(dummies.losses(values), self.distance).detach())

    def descend(self, client: Client, dummies: Dummies, generator: torch.Generator) -> Tensor:
        """Dummies [examples, tokens, width] whose gradient is like the client's."""
        values = dummies.noise(self.examples, self.tokens, generator).requires_grad_()
        peak = self.rate * float(dummies.words.std())
        optimizer = torch.optim.Adam([values], lr=peak)
        for step in range(self.steps):
            optimizer.param_groups[0]["lr"] = peak * (1 - step / self.steps)
            loss = client.distance(dummies.losses(values), self.distance) + self.penalty(dummies, values)
            (values.grad,) = torch.autograd.grad(loss, [values])
            optimizer.step()
            self.between(step, client, dummies, values, generator)
        return values.detach()

    @property
    @abstractmethod
    def distance(self) -> Distance:
        """Between gradients."""

    def penalty(self, dummies: Dummies, values: Tensor) -> Tensor | float:  # noqa: ARG002 - the signature
        """What is added to the distance: nothing."""
        return 0.0

    def between(self, step: int, client: Client, dummies: Dummies, values: Tensor, generator: torch.Generator) -> None:
        """What is done to the dummies, in place, after a step: nothing."""


@dataclass(frozen=True)
class Tag(TextAttack):
    """`absolute` weighs the absolute distance beside the squared one."""

    name: ClassVar[str] = "tag"
    summary: ClassVar[str] = "texts by their gradient's squared and absolute distance"
    source: ClassVar[str] = "Deng et al. 2021, TAG, arXiv 2103.06819"
    absolute: float = 0.01

    @property
    def distance(self) -> Distance:
        """Squared and absolute."""
        return partial(squared_and_absolute, weight=self.absolute)


@dataclass(frozen=True)
class Lamp(TextAttack):
    """Every `every` steps `moves` rearrangements are tried of each text, and the best is kept if it is better.

    `length` weighs how far the dummies' mean length is from that of the model's words.
    """

    name: ClassVar[str] = "lamp"
    summary: ClassVar[str] = "texts by their gradient's angle, with rearrangements; no language model's prior"
    source: ClassVar[str] = "Balunovic et al. 2022, LAMP, arXiv 2202.08827"
    length: float = 0.1
    every: int = 50
    moves: int = 20

    @property
    def distance(self) -> Distance:
        """1 - cos, the mean over tensors."""
        return cosine_by_tensor

    def penalty(self, dummies: Dummies, values: Tensor) -> Tensor:
        """Relative to the words' own mean length, so that `length` is of no unit."""
        usual = dummies.words.norm(dim=-1).mean()
        off: Tensor = (values.norm(dim=-1).mean() / usual - 1).square()
        return self.length * off

    def between(self, step: int, client: Client, dummies: Dummies, values: Tensor, generator: torch.Generator) -> None:
        """The discrete step."""
        if (step + 1) % self.every:
            return
        for row in range(self.examples):
            tried = [values.detach().clone() for _ in range(self.moves)]
            for each in tried:
                each[row] = each[row, list(rearranged(self.tokens, generator))]
            best = min([values.detach().clone(), *tried], key=lambda each: self.value(client, dummies, each))
            with torch.no_grad():
                values.copy_(best)


def rearranged(tokens: int, generator: torch.Generator) -> Text:
    """A random order of places: two tokens swapped, one moved, or a stretch of them moved to the end."""
    order = list(range(tokens))
    kind, first, second = (int(torch.randint(n, (1,), generator=generator)) for n in (3, tokens, tokens))
    if kind == 0:
        order[first], order[second] = order[second], order[first]
    elif kind == 1:
        order.insert(second, order.pop(first))
    else:
        low, high = min(first, second), max(first, second)
        order = order[:low] + order[high:] + order[low:high]
    return tuple(order)


ATTACKS = (Tag(), Lamp())
"""Each looks for one text of eight tokens."""
