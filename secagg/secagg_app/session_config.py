"""`session.toml`: what the coordinator's operator decides, for each protocol."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from secagg.ckks.descriptor import CkksSpec
from secagg.ckks.parameters import MAX_CLIENTS
from secagg.client_noise.setting import ClientNoise
from secagg.coordinator import SessionSpec
from secagg.descriptor import AuditReserve
from secagg.errors import ConfigError
from secagg.masked.descriptor import MaskedSpec
from secagg.messages import MAX_RELEASES
from secagg.parameters import MAX_BITS, MAX_COHORT, MIN_BITS
from secagg.plan import Frozen
from secagg.rounds import MAX_ROUNDS
from secagg_host.config import LocalPath, check_for_protocol, read_toml

MAX_MINUTES = 366 * 24 * 60.0
"""A year: a session that lasts longer is a slip of the pen."""


class RosterEntry(Frozen):
    """One client of the session: its certificate's file and its declared public weight."""

    certificate: LocalPath
    weight: float = Field(gt=0, le=1, default=1.0)


class CommitteeEntry(Frozen):
    """One key-holder: its certificate's file and the signed offer it made for this session."""

    certificate: LocalPath
    offer: LocalPath


class SessionConfig(Frozen):
    """`session.toml`: what the operator decides. Times run from the moment the session is created.

    `rounds` shares the plan's steps among so many sessions; each but the first is made with `--continue`. `releases` is
    how many cohorts may be released one after another while clients still arrive.
    """

    protocol: Literal["sealed"] = "sealed"
    plan: LocalPath
    roster: tuple[RosterEntry, ...] = Field(min_length=2)
    committee: tuple[CommitteeEntry, ...] = Field(min_length=1)
    corrupt_keyholders: int = Field(ge=0, default=1)
    n_min: int = Field(ge=2)
    n_max: int = Field(ge=2, le=MAX_COHORT)
    bits: int = Field(ge=MIN_BITS, le=MAX_BITS, default=16)
    rounds: int = Field(ge=1, le=MAX_ROUNDS, default=1)
    releases: int = Field(ge=1, le=MAX_RELEASES, default=1)
    upload_minutes: float = Field(gt=0, le=MAX_MINUTES)
    expiry_minutes: float = Field(gt=0, le=MAX_MINUTES)
    audit: AuditReserve | None = None
    client_noise: ClientNoise | None = None

    def spec(self) -> SessionSpec:
        """The numbers, with times in seconds."""
        return SessionSpec(
            n_min=self.n_min,
            n_max=self.n_max,
            bits=self.bits,
            corrupt_keyholders=self.corrupt_keyholders,
            upload_seconds=max(1, round(60 * self.upload_minutes)),
            expiry_seconds=max(2, round(60 * self.expiry_minutes)),
            releases=self.releases,
            audit=self.audit,
            client_noise=self.client_noise,
        )


class MaskedSessionConfig(Frozen):
    """`session.toml` of a masked session. Rates are shares of the roster that may vanish, or be corrupt."""

    protocol: Literal["masked"]
    plan: LocalPath
    roster: tuple[RosterEntry, ...] = Field(min_length=3)
    n_min: int = Field(ge=2)
    dropout_rate: float = Field(ge=0, lt=1, default=0.1)
    corruption_rate: float = Field(ge=0, lt=1, default=0.1)
    bits: int = Field(ge=2, le=24, default=16)
    upload_minutes: float = Field(gt=0, le=MAX_MINUTES)
    round_seconds: int = Field(ge=1, le=7 * 86_400, default=60)
    expiry_minutes: float = Field(gt=0, le=MAX_MINUTES)
    client_noise: ClientNoise | None = None

    def spec(self) -> MaskedSpec:
        """The numbers, with times in seconds."""
        return MaskedSpec(
            n_min=self.n_min,
            dropout_rate=self.dropout_rate,
            corruption_rate=self.corruption_rate,
            bits=self.bits,
            upload_seconds=max(1, round(60 * self.upload_minutes)),
            round_seconds=self.round_seconds,
            expiry_seconds=max(2, round(60 * self.expiry_minutes)),
            client_noise=self.client_noise,
        )


class CkksSessionConfig(Frozen):
    """`session.toml` of a ckks session: one key-holder, with the offer it made for this plan and n_max."""

    protocol: Literal["ckks"]
    plan: LocalPath
    roster: tuple[RosterEntry, ...] = Field(min_length=2)
    keyholder: CommitteeEntry
    n_min: int = Field(ge=2)
    n_max: int = Field(ge=2, le=MAX_CLIENTS)
    bits: int = Field(ge=2, le=24, default=16)
    upload_minutes: float = Field(gt=0, le=MAX_MINUTES)
    expiry_minutes: float = Field(gt=0, le=MAX_MINUTES)
    client_noise: ClientNoise | None = None

    def spec(self) -> CkksSpec:
        """The numbers, with times in seconds."""
        return CkksSpec(
            n_min=self.n_min,
            n_max=self.n_max,
            bits=self.bits,
            upload_seconds=max(1, round(60 * self.upload_minutes)),
            expiry_seconds=max(2, round(60 * self.expiry_minutes)),
            client_noise=self.client_noise,
        )


AnyConfig = SessionConfig | MaskedSessionConfig | CkksSessionConfig
CONFIGS: dict[str, type[AnyConfig]] = {
    "sealed": SessionConfig,
    "masked": MaskedSessionConfig,
    "ckks": CkksSessionConfig,
}


def load_session_config(path: Path, releases: int | None = None) -> AnyConfig:
    """Read `session.toml`; `releases` stands for the setting of that name. Raises ConfigError."""
    plain = read_toml(path)
    protocol = plain.get("protocol", "sealed")
    if not isinstance(protocol, str) or protocol not in CONFIGS:
        raise ConfigError(f'{path}: protocol: must be "sealed", "masked" or "ckks"; without it, it is "sealed"')
    if releases is not None and protocol != "sealed":
        raise ConfigError(f"{path}: {protocol} sessions have one release; --releases is for sealed ones")
    return check_for_protocol(plain if releases is None else {**plain, "releases": releases}, CONFIGS, protocol, path)
