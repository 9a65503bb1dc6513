"""`client.toml`: what an institution decides about its own run. Imports nothing heavy."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from secagg.plan import Frozen, Hash
from secagg_host.config import LocalPath

if TYPE_CHECKING:
    from secagg_client.data import DataConfig


class ModelSection(Frozen):
    """The institution's own copy of the base model: a folder (`path`), or an `id` of a model hub."""

    id: str | None = None
    path: LocalPath | None = None

    @property
    def source(self) -> str:
        """What the loader takes."""
        return str(self.path) if self.path is not None else str(self.id)

    @model_validator(mode="after")
    def _check(self) -> Self:
        _exactly_one(self.id, self.path)
        return self


class DataSection(Frozen):
    """Examples: a local JSONL, CSV or Parquet file (`path`), or a data set `id`; and which columns hold them."""

    id: str | None = None
    path: LocalPath | None = None
    split: str = "train"
    subset: str | None = None
    revision: str | None = None
    text_column: str = "text"
    label_column: str = "label"
    image_column: str = "image"
    messages_column: str = "messages"
    prompt_column: str = "prompt"
    response_column: str = "response"
    limit: int | None = Field(default=None, ge=1)

    @property
    def source(self) -> str:
        """What the loader takes."""
        return str(self.path) if self.path is not None else str(self.id)

    def to_config(self) -> "DataConfig":
        """For the loader."""
        from secagg_client.data import DataConfig

        return DataConfig(source=self.source, **self.model_dump(exclude={"id", "path", "models"}))

    @model_validator(mode="after")
    def _check(self) -> Self:
        _exactly_one(self.id, self.path)
        return self


class EvaluationSection(DataSection):
    """Held-out examples of the institution's own. `models` are scored: before, its own update alone, the release.

    The figures stay in its own event log.
    """

    models: tuple[Literal["start", "own", "release"], ...] = ("start", "own", "release")


class LimitsSection(Frozen):
    """What the institution allows on one and the same data over all sessions (protocol.md §4.5).

    Left out, it is one session with the policy's largest epsilon and delta.
    """

    total_epsilon: float = Field(gt=0)
    delta: float = Field(gt=0, lt=1)
    allow_repeated: bool = False


class TrainingSection(Frozen):
    """What does not touch the result's privacy. `seed` is for sessions with seeded noise: experiments only."""

    device: str | None = None
    micro_batch: int = Field(ge=1, default=64)
    seed: int | None = None


class ClientConfig(Frozen):
    """Where the coordinator is, where this client keeps what is its own, and what it trains on.

    `declared_size` is what the institution says publicly, once, about the size of its data; `data_name` is what its
    ledger calls them. `ledger` and `release` are folders. `session` names the session when the coordinator runs
    several with this client. `patience_minutes` is how long the coordinator may be out of reach at a stretch.
    """

    coordinator: str = Field(pattern=r"^\S+:\d{1,5}$")
    identity: LocalPath
    state: LocalPath
    policy: LocalPath
    ledger: LocalPath
    release: LocalPath
    model: ModelSection
    data: DataSection
    declared_size: int = Field(ge=1)
    data_name: str = Field(min_length=1, max_length=200, default="default")
    evaluation: EvaluationSection | None = None
    limits: LimitsSection | None = None
    training: TrainingSection = TrainingSection()
    session: Hash | None = None
    wait_for_release: bool = True
    patience_minutes: float = Field(gt=0, default=60.0)


def _exactly_one(name: str | None, path: Path | None) -> None:
    if (name is None) == (path is None):
        raise ValueError("give either id or path")
