"""All attacks by name: those of this package, and those that installed packages name as entry points."""

from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import entry_points
from types import MappingProxyType

from secagg.errors import AuditError
from secagg.plugins import offered
from secagg_attacks import extraction, inversion, membership
from secagg_attacks.attack import Attack

GROUP = "secagg.attacks"
PACKAGES = (membership, inversion, extraction)


def _foreign() -> Iterator[Attack]:
    for point in entry_points(group=GROUP):
        made = point.load()
        attack = made() if isinstance(made, type) else made
        if not isinstance(attack, Attack):
            raise AuditError(f"entry point {point.name} of {GROUP} is no Attack: {point.value}")
        yield attack


@cache
def attacks() -> Mapping[str, Attack]:
    """Every attack by name. Raises AuditError when two have one name, or an entry point is none."""
    found = dict[str, Attack]()
    for package in PACKAGES:
        found |= offered(package, "ATTACKS")
    for attack in _foreign():
        if attack.name in found:
            raise AuditError(f"two attacks are called {attack.name}")
        found[attack.name] = attack
    return MappingProxyType(dict(sorted(found.items())))


@cache
def membership_attacks() -> Mapping[str, Attack]:
    """Those that tell members from others, and those of other packages, which may."""
    own = offered(membership, "ATTACKS")
    return MappingProxyType({name: attack for name, attack in attacks().items() if name in own or name not in _own()})


def _own() -> frozenset[str]:
    return frozenset(name for package in PACKAGES for name in offered(package, "ATTACKS"))


def attack_named(name: str) -> Attack:
    """The attack of that name. Raises AuditError that lists those that there are."""
    found = attacks().get(name)
    if found is None:
        raise AuditError(f"no attack is called {name!r}; there are {', '.join(attacks())}")
    return found
