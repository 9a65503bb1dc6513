"""Policy and anchor files: which protocol a file is for is in the file, and nobody else says it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from secagg.ckks.policy import CkksAnchors, CkksPolicy
from secagg.errors import ConfigError, PolicyViolation, SecaggError
from secagg.masked.policy import MaskedAnchors, MaskedPolicy
from secagg.policy import Anchors, Policy
from secagg_host.config import check_for_protocol, read_toml
from secagg_host.events import EventLog

AnyPolicy = Policy | MaskedPolicy | CkksPolicy
AnyAnchors = Anchors | MaskedAnchors | CkksAnchors
POLICIES: dict[str, type[AnyPolicy]] = {"sealed": Policy, "masked": MaskedPolicy, "ckks": CkksPolicy}
ANCHORS: dict[str, type[AnyAnchors]] = {"sealed": Anchors, "masked": MaskedAnchors, "ckks": CkksAnchors}


def load_policy(path: Path) -> AnyPolicy:
    """A client's policy. Raises ConfigError."""
    plain = read_toml(path)
    return check_for_protocol(plain, POLICIES, protocol_of(plain, path), path)


def load_anchors(path: Path) -> AnyAnchors:
    """Anchors, or the anchors that a policy holds. Raises ConfigError."""
    plain = read_toml(path)
    if "max_epsilon" in plain:
        return load_policy(path)
    return check_for_protocol(plain, ANCHORS, protocol_of(plain, path), path)


def protocol_of(plain: dict[str, object], path: Path) -> str:
    """The one protocol that the file is for: `sealed`, unless `protocols` says otherwise. Raises ConfigError."""
    named = plain.get("protocols", ["sealed"])
    if not isinstance(named, list) or len(named) != 1 or named[0] not in list(POLICIES):
        raise ConfigError(f'{path}: protocols must be ["sealed"], ["masked"] or ["ckks"]: each has a file of its own')
    return str(named[0])


def naming_policy(error: SecaggError, path: Path) -> SecaggError:
    """The same error; where a policy refused, with the file that says so."""
    return PolicyViolation(f"{error} (by {path})") if type(error) is PolicyViolation else error


@contextmanager
def failures_logged(log: EventLog, policy: Path) -> Iterator[None]:
    """Log what ends a party's run, with the policy's file where that refused, and let it go on."""
    try:
        yield
    except KeyboardInterrupt:
        log.emit("stopped", reason="by hand; the same command goes on from what is on the disk")
        raise
    except SecaggError as error:
        refused = naming_policy(error, policy)
        log.emit("failed", code=refused.code, reason=str(refused))
        raise refused from error.__cause__
