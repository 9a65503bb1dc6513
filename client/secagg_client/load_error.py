"""Why a model cannot be loaded, in words that say which file is damaged and what to do."""

from pathlib import Path

from safetensors import SafetensorError, safe_open

from secagg.errors import ModelError

LOAD_ERRORS = (OSError, ValueError, ImportError, KeyError, RuntimeError, SafetensorError)
"""What Transformers, safetensors and the hub raise when a model cannot be loaded."""


def load_error(model: str, what: str, error: BaseException) -> ModelError:
    """`error` about the `model`, an id or a folder. `what` continues its name: "cannot be loaded"."""
    if isinstance(error, SafetensorError):
        return ModelError(f"model {model}: {what}: {_damaged(Path(model))} ({error})")
    return ModelError(f"model {model}: {what}: {error}")


def _damaged(folder: Path) -> str:
    """Which weight file of a local model is not whole, and what to do."""
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="numpy"):
                continue
        except (SafetensorError, OSError):
            return f"the file {path} is damaged or cut off; copy or download it again"
    return "a file of weights is damaged or cut off; download the model again"
