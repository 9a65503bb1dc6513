"""What an encoding is (protocol.md §2.7).

A client trains some tensors of the plan. Their change, float32 [plan.length], is its local result, an output of the DP
mechanism. `encode` turns it into the vector that is summed, float32 [L], and `decode` the mean vector into the tensors
of the released PEFT adapter. Both are functions of public values and of their arguments alone: whatever `encode` does
is post-processing and costs no privacy. `decode` gives the same bits on every machine: the verifier repeats it.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue, ValidationError

from secagg.adapter import flatten, release_tensors, start_tensors
from secagg.encodings.layout import Array, Layout, Part
from secagg.errors import EncodingError
from secagg.plan import Frozen, Plan
from secagg.randomness import Randomness
from secagg.validation import first_problem

Tensors = dict[str, NDArray[np.float32]]
O = TypeVar("O", bound=Frozen)  # noqa: E741 - options


class NoOptions(Frozen):
    """For encodings without any."""


def read_options(plan: Plan, kind: type[O]) -> O:
    """The plan's options of its encoding. Raises EncodingError with the option that is wrong."""
    try:
        return kind.model_validate(plan.options)
    except ValidationError as error:
        raise EncodingError(f"options of {plan.method}: {first_problem(error, '(all)')}") from None


class Encoding(ABC):
    """One encoding. A subclass sets the names below and writes `layout`, `encode` and `decode`.

    Attributes:
        name: what a plan's `method` says.
        summary: one line for `--help`.
        reveals: what whoever sees the opened sum learns, in sentences.
        trained_factors: which of LoRA's factors clients train: A, B, or R, a square factor between A and B.
        min_bits: the fewest bits of quantiser with which the decoded adapter is worth having.
        equal_weights: whether every client must have the same weight.
        resumes: whether a further round can go on from the released adapter: it holds every tensor that is trained.
        options_type: the model of the plan's `options`.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    reveals: ClassVar[str]
    trained_factors: ClassVar[frozenset[str]]
    min_bits: ClassVar[int]
    equal_weights: ClassVar[bool] = False
    resumes: ClassVar[bool] = False
    options_type: ClassVar[type[Frozen]] = NoOptions

    @abstractmethod
    def layout(self, plan: Plan) -> Layout:
        """The parts of the vector. Raises EncodingError for a plan that cannot be encoded."""

    @abstractmethod
    def encode(self, plan: Plan, change: Array, random: Randomness) -> Array:
        """The vector, float32 [L], of one client's `change` [plan.length]; linear, or of clients' terms that add up.

        `random` is secret randomness of this client, for encodings that draw. Raises EncodingError.
        """

    @abstractmethod
    def decode(self, plan: Plan, mean: Array, contributors: int) -> Tensors:
        """The released adapter's tensors, float32, by PEFT key, from the mean vector [L] of `contributors` clients.

        Exact on every machine: numpy element by element, or `secagg.exact`. Raises EncodingError.
        """

    def mean_update(self, plan: Plan, mean: Array, contributors: int) -> Array:
        """What the mean vector [L] says of the clients' changes: the mean of what each sent of its own, [plan.length].

        By default what the release says of it; override it where `decode` merges or scales. Raises EncodingError where
        the release is no change of what clients train.
        """
        if not self.resumes:
            raise EncodingError(f"{self.name} sums something else than changes of what clients train")
        return flatten(plan, self.decode(plan, mean, contributors)) - flatten(plan, start_tensors(plan))

    def adapter_config(self, plan: Plan) -> dict[str, JsonValue]:
        """The `adapter_config.json` of the release; the plan's own unless the released rank is another."""
        return dict(plan.adapter_config)

    def check(self, plan: Plan) -> None:
        """Raise EncodingError unless this encoding carries the plan, with what to choose instead."""
        read_options(plan, self.options_type)
        for spec in plan.tensors:
            factor = lora_factor(spec.name)
            if spec.trained != (factor is None or factor in self.trained_factors):
                raise EncodingError(f"tensor {spec.name}: {self.name} trains {self._trained_words()}")

    def check_session(self, plan: Plan, *, bits: int, weights: Sequence[float]) -> None:
        """`check`, and that `bits` of quantiser and the clients (one weight each) fit. Raises EncodingError."""
        self.check(plan)
        if bits < self.min_bits:
            raise EncodingError(
                f"{self.name} needs a quantiser of at least {self.min_bits} bits, the session has {bits}: "
                f"set bits = {self.min_bits}"
            )
        if self.equal_weights and len(set(weights)) > 1:
            raise EncodingError(f"{self.name} counts clients: give every client the weight 1")

    def check_rounds(self) -> None:
        """Raise EncodingError unless a further round can go on from the release."""
        if not self.resumes:
            raise EncodingError(
                f"{self.name} releases another adapter than clients train, so there is no second round: "
                "set rounds = 1, or take another method"
            )

    def _trained_words(self) -> str:
        frozen = sorted({"A", "B"} - self.trained_factors)
        if not frozen:
            return "every tensor, LoRA's A and B among them"
        return f"every tensor but LoRA's {' and '.join(frozen)}"


def lora_factor(name: str) -> str | None:
    """`A`, `B` or `R` for the tensor of a factor of LoRA, None for any other."""
    for factor in ("A", "B", "R"):
        if name.endswith(f".lora_{factor}.weight"):
            return factor
    return None


class ChangeEncoding(Encoding):
    """The change itself is the vector, and the release is the start plus the mean change."""

    min_bits = 8
    resumes = True

    def layout(self, plan: Plan) -> Layout:
        """The trained tensors in the plan's order, each with its clip."""
        return Layout(tuple(Part(spec.name, spec.shape, spec.clip) for spec in plan.trained))

    def encode(self, plan: Plan, change: Array, random: Randomness) -> Array:  # noqa: ARG002 - nothing is drawn
        """The change as it is."""
        return change

    def mean_update(self, plan: Plan, mean: Array, contributors: int) -> Array:  # noqa: ARG002 - the mean says it all
        """The mean as it is."""
        return mean

    def decode(self, plan: Plan, mean: Array, contributors: int) -> Tensors:  # noqa: ARG002 - the mean says it all
        """One float32 addition per value."""
        return release_tensors(plan, mean)
