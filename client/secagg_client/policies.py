"""Policy and anchor files: which protocol a file is for is in the file, and nobody else says it."""

from pathlib import Path

from secagg.ckks.policy import CkksAnchors, CkksPolicy
from secagg.errors import ConfigError
from secagg.masked.policy import MaskedAnchors, MaskedPolicy
from secagg.policy import Anchors, Policy
from secagg_host.config import check_config, read_toml

PROTOCOLS = ("sealed", "masked", "ckks")
AnyPolicy = Policy | MaskedPolicy | CkksPolicy
AnyAnchors = Anchors | MaskedAnchors | CkksAnchors


def load_policy(path: Path) -> AnyPolicy:
    """A client's policy. Raises ConfigError."""
    plain = read_toml(path)
    match protocol_of(plain, path):
        case "masked":
            return check_config(plain, MaskedPolicy, path)
        case "ckks":
            return check_config(plain, CkksPolicy, path)
        case _:
            return check_config(plain, Policy, path)


def load_anchors(path: Path) -> AnyAnchors:
    """Anchors, or the anchors that a policy holds. Raises ConfigError."""
    plain = read_toml(path)
    if "max_epsilon" in plain:
        return load_policy(path)
    match protocol_of(plain, path):
        case "masked":
            return check_config(plain, MaskedAnchors, path)
        case "ckks":
            return check_config(plain, CkksAnchors, path)
        case _:
            return check_config(plain, Anchors, path)


def protocol_of(plain: dict[str, object], path: Path) -> str:
    """The one protocol that the file is for: `sealed`, unless `protocols` says otherwise. Raises ConfigError."""
    named = plain.get("protocols", ["sealed"])
    if not isinstance(named, list) or len(named) != 1 or named[0] not in PROTOCOLS:
        raise ConfigError(f'{path}: protocols must be ["sealed"], ["masked"] or ["ckks"]: each has a file of its own')
    return str(named[0])
