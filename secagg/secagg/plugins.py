"""What a package's modules offer, each thing in the one file that defines it."""

import pkgutil
from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType, ModuleType
from typing import Any


def offered(package: ModuleType, attribute: str) -> Mapping[str, Any]:
    """All that the modules of `package` list under `attribute`, by its `name`, in order of name.

    Raises ValueError when two have one name.
    """
    found = dict[str, Any]()
    for module in pkgutil.iter_modules(package.__path__):
        for item in getattr(import_module(f"{package.__name__}.{module.name}"), attribute, ()):
            if item.name in found:
                raise ValueError(f"{package.__name__}: two are called {item.name}")
            found[item.name] = item
    return MappingProxyType(dict(sorted(found.items())))
