"""The training plan: what model is tuned, how, and which numbers enter the vector (protocol.md §2, §4).

The plan is public. Whoever holds torch derives it from a base model (`secagg client plan`); the coordinator
embeds it in the session descriptor; each client derives it again from its own copy of the model and refuses
to train unless both agree.
"""

import base64
import math
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, model_validator

from secagg.canonical import canonical_bytes
from secagg.errors import MalformedError

Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Kind = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")]
Method = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")]


def _check_canonical(values: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """`allow_inf_nan` does not reach into JSON values: NaN would pass, and have no hash."""
    try:
        canonical_bytes(values)
    except MalformedError as error:
        raise ValueError(str(error)) from error
    return values


def _check_one_line(text: str) -> str:
    if not text.isprintable() or "`" in text:
        raise ValueError(
            "must be one line of printable characters without backticks: it is shown to people, and stands in the card"
        )
    return text


ONE_LINE = AfterValidator(_check_one_line)
"""Words of one party that are shown to others: no control or bidi characters, no line breaks (protocol.md §10.1a)."""
JsonObject = Annotated[dict[str, JsonValue], AfterValidator(_check_canonical)]
"""Any JSON that has a canonical form (protocol.md §1.2)."""
Options = Annotated[JsonObject, Field(exclude_if=lambda options: not options)]
"""Options of an encoding or a task; left out of a statement when there are none."""

Unit = Literal["record", "user"]
"""Whose presence in an institution's data the guarantee hides (protocol.md §2.6a)."""
RecordsPerUser = Annotated[int | None, Field(ge=1, le=1_000_000, exclude_if=lambda most: most is None)]
"""The most records of one user that are used. Left out, as statements without users always were."""

MAX_EMBEDDED_BYTES = 1 << 20
BASE_NAME = "base_model_name_or_path"
"""Where PEFT's configuration names the base model."""


def check_unit(unit: Unit, records_per_user: int | None) -> None:
    """Raise ValueError unless the bound on a user's records is there exactly when the unit is the user."""
    if unit == "user" and records_per_user is None:
        raise ValueError("unit user needs records_per_user: the most records of one user that are used")
    if unit == "record" and records_per_user is not None:
        raise ValueError("records_per_user needs unit user: records are not bounded otherwise")


class Frozen(BaseModel):
    """Base of every value that crosses a border: immutable, no unknown fields, no silent coercion."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class TensorInit(Frozen):
    """Start value of a tensor: all zeros, uniform on [-bound, bound] from the plan's seed, or given in full.

    `embedded` carries little-endian float32 in base64, row major.
    """

    kind: Literal["zeros", "seeded", "embedded"]
    bound: float = Field(default=0.0, ge=0)
    data: str = ""

    @classmethod
    def embed(cls, values: NDArray[np.float32]) -> Self:
        """Carry `values` in full, for small public tensors such as a head made from label descriptions."""
        return cls(kind="embedded", data=base64.b64encode(values.astype("<f4").tobytes()).decode())


class TensorSpec(Frozen):
    """One tensor of the adapter, by its key in the PEFT state dict.

    A tensor with `clip` > 0 is trained: each value's change from the start is meant to stay within [-clip, clip], and
    the plan's encoding carries it no further. A tensor with `clip` == 0 stays at its start value.
    """

    name: str = Field(min_length=1, max_length=300)
    shape: tuple[int, ...] = Field(min_length=1, max_length=4)
    init: TensorInit
    clip: float = Field(ge=0)

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def trained(self) -> bool:
        """Whether the tensor's change enters the vector."""
        return self.clip > 0

    @model_validator(mode="after")
    def _check(self) -> Self:
        if any(side < 1 for side in self.shape):
            raise ValueError(f"tensor {self.name}: every side of shape {self.shape} must be at least 1")
        if self.init.kind == "embedded":
            raw = base64.b64decode(self.init.data, validate=True)
            if len(raw) != 4 * self.size or len(raw) > MAX_EMBEDDED_BYTES:
                raise ValueError(f"tensor {self.name}: embedded start value has {len(raw)} bytes, not {4 * self.size}")
            if not np.isfinite(np.frombuffer(raw, "<f4")).all():
                raise ValueError(f"tensor {self.name}: embedded start value is not finite")
        return self


class TaskSpec(Frozen):
    """What is learnt. `kind` names a kind of task, which reads `options` and checks the rest where torch is.

    `labels` maps class index (position) to its name. `max_length` is in tokens; 0, and left out, for other than texts.

    `pooling` is how a text becomes the head's input: `model` is the architecture's own classification model,
    `mean` the attention-masked mean of the encoder's last hidden states, scaled to the L2 norm `feature_norm`
    unless that is 0.
    """

    kind: Kind
    labels: tuple[str, ...] = ()
    max_length: int = Field(default=0, ge=0, le=8192, exclude_if=lambda length: not length)
    pooling: Literal["model", "mean"] = "model"
    feature_norm: float = Field(default=0.0, ge=0)
    options: Options = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(set(self.labels)) < len(self.labels):
            raise ValueError("two labels are alike")
        if self.max_length == 1:
            raise ValueError("max_length must be at least 2")
        if self.pooling == "model" and self.feature_norm:
            raise ValueError("feature_norm needs pooling = mean")
        return self


class TrainingSettings(Frozen):
    """How each client trains: DP-SGD with a public number of steps, sampling and clipping (training.md).

    `epsilon` None means no differential privacy: an experiment, never allowed by a default policy.
    The sampling rate is batch_size / declared size; the declared size is each client's own, and not in here.
    `head_learning_rate`, when given, is that of the classification head.

    `unit` is whose presence the guarantee hides, and what batch size and declared size count (protocol.md §2.6a): each
    record, or each user, of whom at most `records_per_user` records are used. Records, when it is left out.
    """

    steps: int = Field(ge=1, le=1_000_000)
    batch_size: int = Field(ge=1, le=1_000_000)
    learning_rate: float = Field(gt=0)
    head_learning_rate: float | None = Field(default=None, gt=0)
    optimizer: Literal["adamw", "sgd"]
    momentum: float = Field(default=0.9, ge=0, lt=1)
    warmup_steps: int = Field(default=0, ge=0)
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    max_grad_norm: float = Field(gt=0)
    epsilon: float | None = Field(gt=0)
    delta: float = Field(gt=0, lt=1e-2)
    precision: Literal["fp32", "bf16"] = "fp32"
    noise: Literal["secure", "seeded"] = "secure"
    unit: Unit = Field(default="record", exclude_if=lambda unit: unit == "record")
    records_per_user: RecordsPerUser = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_unit(self.unit, self.records_per_user)
        return self


class Plan(Frozen):
    """Model, adapter and training, as every party must see them alike.

    `adapter_config` is the PEFT `adapter_config.json` that clients train with, word for word; where it names the base
    model it names the plan's. `a_seed` expands the
    frozen tensors. `method` names the encoding (`secagg.encodings`), which reads `options`, fixes the vector from the
    trained tensors, and checks all three when a session is made.
    """

    version: Literal[1] = 1
    base_model: Annotated[str, Field(min_length=1, max_length=300), ONE_LINE]
    base_model_hash: Hash
    architecture: Annotated[str, Field(min_length=1, max_length=200), ONE_LINE]
    task: TaskSpec
    method: Method = "ffa-lora"
    options: Options = Field(default_factory=dict)
    a_seed: Hash
    tensors: tuple[TensorSpec, ...] = Field(min_length=1, max_length=100_000)
    adapter_config: JsonObject
    training: TrainingSettings

    @property
    def trained(self) -> tuple[TensorSpec, ...]:
        """The tensors that clients train, in the order in which their changes are joined."""
        return tuple(spec for spec in self.tensors if spec.trained)

    @property
    def length(self) -> int:
        """How many values a client trains: the length of its change, which an encoding turns into the vector."""
        return sum(spec.size for spec in self.trained)

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [spec.name for spec in self.tensors]
        if names != sorted(set(names)):
            raise ValueError("plan: tensor names must be sorted and distinct")
        if not self.trained:
            raise ValueError("plan: no tensor is trained (every clip is 0)")
        if self.adapter_config.get(BASE_NAME, self.base_model) != self.base_model:
            raise ValueError(
                f"plan: {BASE_NAME} in adapter_config is not the plan's base_model: whoever loads the release would "
                "fetch another model. Give both the same name; `secagg client plan` does"
            )
        return self
