"""The encodings by name. Every module of this package that has `ENCODINGS` is asked for its own."""

from collections.abc import Mapping
from functools import cache

from secagg import encodings as package
from secagg.encodings.base import Encoding
from secagg.errors import EncodingError
from secagg.plan import Plan
from secagg.plugins import offered

DEFAULT = "ffa-lora"


@cache
def encodings() -> Mapping[str, Encoding]:
    """Every encoding by name, in order of name."""
    return offered(package, "ENCODINGS")


def encoding_named(name: str) -> Encoding:
    """The encoding of this name. Raises EncodingError."""
    found = encodings().get(name)
    if found is None:
        raise EncodingError(f"no encoding is called {name!r}; there are {', '.join(encodings())}")
    return found


def encoding_of(plan: Plan) -> Encoding:
    """The encoding that the plan's `method` names. Raises EncodingError."""
    return encoding_named(plan.method)
