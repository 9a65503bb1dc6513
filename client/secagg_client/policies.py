"""Policy and anchor files: which protocol a file is for is in the file, and nobody else says it."""

from pathlib import Path

from secagg.errors import ConfigError
from secagg.masked.policy import MaskedAnchors, MaskedPolicy
from secagg.policy import Anchors, Policy
from secagg_host.config import check_config, read_toml

PROTOCOLS = ("sealed", "masked")


def load_policy(path: Path) -> Policy | MaskedPolicy:
    """A client's policy. Raises ConfigError."""
    plain = read_toml(path)
    return (
        check_config(plain, MaskedPolicy, path)
        if protocol_of(plain, path) == "masked"
        else check_config(plain, Policy, path)
    )


def load_anchors(path: Path) -> Anchors | MaskedAnchors:
    """Anchors, or the anchors that a policy holds. Raises ConfigError."""
    plain = read_toml(path)
    is_policy = "max_epsilon" in plain
    if protocol_of(plain, path) == "masked":
        return check_config(plain, MaskedPolicy if is_policy else MaskedAnchors, path)
    return check_config(plain, Policy if is_policy else Anchors, path)


def protocol_of(plain: dict[str, object], path: Path) -> str:
    """The one protocol that the file is for: `sealed`, unless `protocols` says otherwise. Raises ConfigError."""
    named = plain.get("protocols", ["sealed"])
    if not isinstance(named, list) or len(named) != 1 or named[0] not in PROTOCOLS:
        raise ConfigError(f'{path}: protocols must be ["sealed"] or ["masked"]: each has a file of its own')
    return str(named[0])
