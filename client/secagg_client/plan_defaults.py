"""What a plan has where nobody says otherwise, and what names a model. Without torch, so that `--help` can tell."""

from typing import Any

DEFAULT_TRAINING: dict[str, Any] = {
    "steps": 60,
    "batch_size": 64,
    "learning_rate": 5e-3,
    "optimizer": "adamw",
    "max_grad_norm": 1.0,
    "epsilon": 8.0,
    "delta": 1e-5,
}
DEFAULT_CLIP = 0.2
DEFAULT_RANK = 8


def names_a_path(model: str) -> bool:
    """Whether `model` can only be a folder or file here: no model of the Hugging Face hub has such a name."""
    return model.startswith((".", "/", "~")) or model.count("/") > 1 or model.endswith("/")
