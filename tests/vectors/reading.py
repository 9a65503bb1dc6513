"""How tests read the vectors."""

import hashlib
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.vectors.common import FOLDER, Json


def load(name: str) -> Json:
    """One file."""
    loaded: Json = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return loaded


def of_array(array: NDArray[Any]) -> str:
    """SHA-256 of the bytes of an array."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def title(case: Json) -> str:
    """A name for a case, for people."""
    return ": ".join(str(case[key]) for key in ("type", "check", "what", "title", "name", "change") if key in case)
