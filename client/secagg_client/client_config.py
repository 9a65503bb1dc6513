"""`client.toml`: what an institution decides about its own run. Imports nothing heavy."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from secagg.errors import ConfigError
from secagg.identity import Role
from secagg.plan import Frozen, Hash
from secagg.policy import TrainingLimits
from secagg_client.ledger_entry import LedgerLimits
from secagg_client.ledger_files import LedgerFiles
from secagg_host.config import Address, LocalPath
from secagg_host.identity import PartyFiles, load_identity

if TYPE_CHECKING:
    from secagg_client.data import DataConfig

WITNESS_FOLDER = "ledger-witness"


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
    """Examples: a local JSONL, CSV or Parquet file (`path`), or a data set `id`; and which columns hold them.

    `user_column` says whose each record is: sessions with the user as unit of privacy need it.
    """

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
    user_column: str | None = Field(default=None, min_length=1)
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


class TrainingSection(Frozen):
    """How this machine trains. `seed` is for sessions with seeded noise, experiments only: who knows it can take the
    noise away; nothing else here touches the result's privacy.

    `micro_batch` examples at most go through the model at a time; left out, as many as memory holds. `threads` are
    those of one client, when several share a machine; left out, all processors.
    """

    device: str | None = None
    micro_batch: int | None = Field(ge=1, default=None)
    threads: int | None = Field(ge=1, default=None)
    seed: int | None = None


class ClientConfig(Frozen):
    """Where the coordinator is, where this client keeps what is its own, and what it trains on.

    `declared_size` is what the institution says publicly, once, about the size of its data: in records, or in users
    where the session's unit of privacy is the user. `data_name` is what its ledger calls them. `ledger` and `release`
    are folders. `witness` is the folder of the ledger's key and witness, apart from the ledger; left out, it is one in
    the identity folder. `limits` hold for one and the same data over all sessions (protocol.md §4.5); left out, they
    are one session with the policy's largest epsilon and delta. `session` names the session when the coordinator runs
    several with this client. `patience_minutes` is how long the coordinator may be out of reach at a stretch.
    """

    coordinator: Address
    identity: LocalPath
    state: LocalPath
    policy: LocalPath
    ledger: LocalPath
    witness: LocalPath | None = None
    release: LocalPath
    model: ModelSection
    data: DataSection
    declared_size: int = Field(ge=1)
    data_name: str = Field(min_length=1, max_length=200, default="default")
    evaluation: EvaluationSection | None = None
    limits: LedgerLimits | None = None
    training: TrainingSection = TrainingSection()
    session: Hash | None = None
    wait_for_release: bool = True
    patience_minutes: float = Field(gt=0, default=60.0)

    @property
    def sessions(self) -> Path:
        """The folder of all sessions: one folder in it for each, by its ctx."""
        return self.state / "sessions"

    @property
    def masked_sessions(self) -> Path:
        """The same for masked sessions."""
        return self.state / "masked" / "sessions"

    @property
    def ckks_sessions(self) -> Path:
        """The same for ckks sessions."""
        return self.state / "ckks" / "sessions"

    @property
    def masked_journal(self) -> Path:
        """Which steps of masked sessions this client has taken."""
        return self.state / "masked" / "journal.db"

    @property
    def ledger_files(self) -> LedgerFiles:
        """Where the ledger and its witness are."""
        return LedgerFiles(self.ledger, self.witness or self.identity / WITNESS_FOLDER)

    def ledger_limits(self, policy: TrainingLimits) -> LedgerLimits:
        """What the ledger allows on the same data, and of the institution as a whole.

        The policy bounds the second in one session only; it bounds all of them where it takes none without such noise.
        """
        if self.limits is not None:
            return self.limits
        whole = policy.max_client_epsilon if policy.client_noise == "required" else None
        return LedgerLimits(total_epsilon=policy.max_epsilon, delta=policy.max_delta, total_client_epsilon=whole)

    def load_party(self) -> PartyFiles:
        """The identity folder. Raises ConfigError when it is missing, or not a client's."""
        party = load_identity(self.identity)
        if party.identity.role is not Role.CLIENT:
            raise ConfigError(f"{self.identity}: holds the identity of a {party.identity.role}, not of a client")
        return party

    @model_validator(mode="after")
    def _check(self) -> Self:
        files = self.ledger_files
        if files.witness.is_relative_to(files.folder) or files.folder.is_relative_to(files.witness):
            raise ValueError("ledger and witness must be apart: what happens to one must not happen to the other")
        return self


def _exactly_one(name: str | None, path: Path | None) -> None:
    if (name is None) == (path is None):
        raise ValueError("give either id or path")
