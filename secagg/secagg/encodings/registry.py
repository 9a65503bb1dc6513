"""The encodings by name. Every module of this package that has `ENCODINGS` is asked for its own."""

import pkgutil
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from types import MappingProxyType

from secagg import encodings as package
from secagg.encodings.base import Encoding
from secagg.errors import EncodingError
from secagg.plan import Plan

DEFAULT = "ffa-lora"


@cache
def encodings() -> Mapping[str, Encoding]:
    """Every encoding by name, in order of name."""
    found = dict[str, Encoding]()
    for module in pkgutil.iter_modules(package.__path__):
        for encoding in getattr(import_module(f"{package.__name__}.{module.name}"), "ENCODINGS", ()):
            if encoding.name in found:
                raise ValueError(f"two encodings are called {encoding.name}")
            found[encoding.name] = encoding
    return MappingProxyType(dict(sorted(found.items())))


def encoding_named(name: str) -> Encoding:
    """The encoding of this name. Raises EncodingError."""
    found = encodings().get(name)
    if found is None:
        raise EncodingError(f"no encoding is called {name!r}; there are {', '.join(encodings())}")
    return found


def encoding_of(plan: Plan) -> Encoding:
    """The encoding that the plan's `method` names. Raises EncodingError."""
    return encoding_named(plan.method)
