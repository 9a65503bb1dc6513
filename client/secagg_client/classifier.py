"""An encoder with a linear head on mean-pooled features, loadable in one line beside PEFT.

    from peft import PeftModel
    from secagg_client.classifier import load_classifier
    model = PeftModel.from_pretrained(load_classifier("path/or/id", classes=3), "release")

Sentence encoders are trained for the masked mean of their last hidden states (Reimers & Gurevych 2019); a
first-token pooler that no one trained, as the stock classification models put on top, throws that away.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModel
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils import logging

from secagg.errors import ModelError
from secagg_client.load_error import LOAD_ERRORS, load_error
from secagg_client.plan_defaults import names_a_path

HEAD = "classifier"


class MeanPoolClassifier(nn.Module):
    """`classifier(pool(encoder(text)))`, with `pool` the attention-masked mean over tokens.

    Args:
        encoder: a Hugging Face encoder whose output has `last_hidden_state` [n, tokens, hidden].
        classes: the number of classes.
        feature_norm: features are scaled to this L2 norm; 0 leaves them as they are.
    """

    def __init__(self, encoder: Any, classes: int, feature_norm: float = 0.0) -> None:
        super().__init__()
        self.config = encoder.config
        self.encoder = encoder
        self.feature_norm = feature_norm
        self.classifier = nn.Linear(int(encoder.config.hidden_size), classes)

    def features(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Pooled features of shape [n, hidden]: float32, or float64 from a model in float64."""
        output = self.encoder(input_ids=input_ids, attention_mask=attention_mask)
        hidden: Tensor = output.last_hidden_state
        hidden = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        pooled = (hidden * mask).sum(1) / mask.sum(1).clamp_min(1.0)
        if self.feature_norm:
            return functional.normalize(pooled, dim=-1) * self.feature_norm
        return pooled

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_ignored: object) -> SequenceClassifierOutput:
        """Logits of shape [n, classes] in `.logits`. Other arguments of the stock models are ignored."""
        return SequenceClassifierOutput(logits=self.classifier(self.features(input_ids, attention_mask)))


def load_options(model: str) -> tuple[str, dict[str, Any]]:
    """Where and how Transformers may load `model`: safetensors (or GGUF) only, never code from the model.

    Nothing is fetched when `model` is a folder or HF_HUB_OFFLINE is set. Raises ModelError for a missing folder.
    """
    offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}
    path = Path(model)
    if names_a_path(model) and not path.exists():
        raise ModelError(f"model {model}: no such folder")
    options: dict[str, Any] = {"trust_remote_code": False, "local_files_only": offline or path.exists()}
    if path.suffix == ".gguf":
        return str(path.parent), {**options, "gguf_file": path.name, "dtype": torch.float32}
    return model, options


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars or reports on what a load left out: what matters of it is checked, and raised."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def attention_for(max_length: int) -> str:
    """The attention kernel: on short texts, plain matrix products train twice as fast on a CPU as fused kernels."""
    return "eager" if max_length <= 256 else "sdpa"


def load_encoder(model: str, max_length: int = 512) -> Any:
    """The bare encoder in its stored precision, without a pooler.

    Raises:
        ModelError: it cannot be loaded, or its file lacks weights of the encoder.
    """
    source, options = load_options(model)
    if "gguf_file" not in options:
        options |= {"dtype": "auto", "use_safetensors": True}
    options["attn_implementation"] = attention_for(max_length)
    try:
        with quiet():
            encoder, info = AutoModel.from_pretrained(source, output_loading_info=True, **options)
    except LOAD_ERRORS as error:
        raise load_error(model, "cannot be loaded as an encoder", error) from error
    missing = sorted(name for name in info["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise ModelError(f"model {model}: the file lacks {missing[0]} and {len(missing) - 1} more tensors")
    if hasattr(encoder, "pooler"):
        encoder.pooler = None
    return encoder


def load_classifier(model: str, classes: int, feature_norm: float = 0.0) -> MeanPoolClassifier:
    """The base that a `pooling = "mean"` adapter was trained on, for `PeftModel.from_pretrained(base, folder)`.

    `classes` and `feature_norm` are in the release's model card. The head starts at zero; the adapter brings its own.
    Raises ModelError when the encoder cannot be loaded.
    """
    classifier = MeanPoolClassifier(load_encoder(model), classes, feature_norm)
    nn.init.zeros_(classifier.classifier.weight)
    nn.init.zeros_(classifier.classifier.bias)
    return classifier.eval()
