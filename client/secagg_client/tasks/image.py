"""Image classification: any of Transformers' image classifiers, with LoRA on linear and convolutional layers.

A record is the image file's bytes in base64. Images are decoded for each batch anew: pixels are many times larger.
"""

import base64
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoImageProcessor, AutoModelForImageClassification

from secagg.errors import ConfigError, DataError
from secagg.plan import TaskSpec
from secagg_client.classifier import load_options, quiet
from secagg_client.data import DataConfig, Examples, class_indices, column
from secagg_client.group_norm import with_group_norm
from secagg_client.load_error import LOAD_ERRORS, load_error
from secagg_client.loading import load_with_head
from secagg_client.tasks.base import (
    BaseParts,
    Metrics,
    Prefix,
    Task,
    TaskKind,
    TaskOptions,
    read_options,
)
from secagg_client.tasks.canaries import PublicDraws, distinct
from secagg_client.tasks.classify import all_logits, check_labels, classification_metrics

if TYPE_CHECKING:
    from datasets import Dataset

HEAD_NAMES = ("classifier", "head", "fc")
CANARY_SIDE = 32
PPM = b"P6\n%d %d\n255\n" % (CANARY_SIDE, CANARY_SIDE)
"""A file format of plain bytes: the same canary is the same file, whatever library wrote it."""


class ImageOptions(TaskOptions):
    """`norm`: `as-is`, or `group` to put group norm in the place of batch norm, which DP-SGD is not defined for."""

    norm: Literal["as-is", "group"] = "as-is"


@dataclass(frozen=True, slots=True)
class ImageRow:
    """An image file's bytes and the image's class."""

    data: bytes = field(repr=False)
    label: int = field(repr=False)

    @property
    def length(self) -> int:
        """All images cost the same: the model gets them at one size."""
        return 1


@dataclass(frozen=True, slots=True)
class ImageBatch:
    """Pixels as the model's processor makes them, float32 [n, channels, height, width]; classes int64 [n]."""

    pixels: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)

    def to(self, device: torch.device) -> "ImageBatch":
        """The same batch on a device."""
        return ImageBatch(self.pixels.to(device), self.labels.to(device))


class ImageTask(Task[ImageRow, ImageBatch]):
    """Cross entropy of each image."""

    def __init__(self, spec: TaskSpec, processor: Any) -> None:
        self._spec, self._processor = spec, processor

    def encode(self, examples: Examples) -> list[ImageRow]:
        """Bytes and class of each image, each decoded once to see that it can be. Raises DataError."""
        rows = list[ImageRow]()
        for number, (text, label) in enumerate(zip(examples.texts, examples.labels, strict=True), 1):
            try:
                data = base64.b64decode(text, validate=True)
                decoded(data)
            except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError):
                raise DataError(f"{examples.source}, row {number}: the image cannot be read") from None
            rows.append(ImageRow(data, label))
        return rows

    def collate(self, rows: Sequence[ImageRow]) -> ImageBatch:
        """Decoded, resized and scaled as the model's processor says."""
        images = [decoded(row.data) for row in rows]
        pixels = torch.as_tensor(self._processor(images, return_tensors="pt")["pixel_values"])
        return ImageBatch(pixels.float(), torch.tensor([row.label for row in rows], dtype=torch.int64))

    def logits(self, model: nn.Module, batch: ImageBatch) -> Tensor:
        """Float32 logits [n, classes]."""
        return torch.as_tensor(model(pixel_values=batch.pixels).logits).float()

    def losses(self, model: nn.Module, batch: ImageBatch) -> Tensor:
        """Cross entropy of each image, [n]."""
        return functional.cross_entropy(self.logits(model, batch), batch.labels, reduction="none")

    @torch.no_grad()
    def metrics(self, model: nn.Module, rows: Sequence[ImageRow], *, micro_batch: int = 64) -> Metrics:
        """Mean loss, accuracy and macro-averaged F1 over the task's classes."""
        logits = all_logits(self, model, rows, len(self._spec.labels), micro_batch)
        return classification_metrics(logits, torch.tensor([row.label for row in rows]))


def decoded(data: bytes) -> Image.Image:
    """The image in an image file's bytes, with three colours. Raises what PIL raises."""
    with Image.open(io.BytesIO(data)) as image:
        return image.convert("RGB")


class ImageClassify(TaskKind):
    """Columns `image_column` (a path, the file's bytes, or an image of `datasets`) and `label_column`."""

    name = "image"
    summary = "a class for each image"
    options_type = ImageOptions
    config_keys = (
        "depths", "downsample_in_bottleneck", "downsample_in_first_stage", "embedding_dynamic_padding",
        "global_padding", "hidden_sizes", "image_size", "layer_type", "num_channels", "num_groups", "output_stride",
        "patch_size", "qkv_bias", "width_factor",
    )  # fmt: skip

    def check(self, spec: TaskSpec) -> None:
        """Two labels or more; nothing that is for texts."""
        super().check(spec)
        check_labels(spec)
        if spec.max_length or spec.pooling != "model":
            raise ConfigError("task image takes neither max_length nor pooling: those are for texts")

    def read(self, table: "Dataset", config: DataConfig, spec: TaskSpec) -> Examples:
        """Image files in base64, and classes.

        Paths are relative to the data file's folder; a data set from a hub may not name files of this machine.
        """
        column(table, config, "image_column")
        source = Path(config.source)
        folder = source.parent if source.is_file() else None
        values = _undecoded(table, config.image_column)[config.image_column]
        records = tuple(_file(value, folder, f"{config.source}, row {row}") for row, value in enumerate(values, 1))
        return Examples(config.source, records, class_indices(table, config, spec))

    def load(self, model: str, spec: TaskSpec) -> BaseParts:
        """An image classifier, whole but for its head. Raises ModelError."""
        processor = _load_processor(model)
        loaded, head = load_with_head(model, AutoModelForImageClassification, spec, HEAD_NAMES)
        if read_options(spec, ImageOptions).norm == "group":
            return BaseParts(with_group_norm(loaded), processor, head, f"{type(loaded).__name__}(GroupNorm)")
        return BaseParts(loaded, processor, head)

    def make(self, spec: TaskSpec, processor: Any, prefix: Prefix) -> ImageTask:  # noqa: ARG002 - the signature
        """With an image processor."""
        return ImageTask(spec, processor)

    def columns(self, examples: Examples, spec: TaskSpec) -> dict[str, list[Any]]:
        """Image files' bytes, and classes."""
        files = [base64.b64decode(text) for text in examples.texts]
        return {"image": files, "label": [spec.labels[label] for label in examples.labels]}

    def said(self, record: str) -> str:
        """A hash: only the same file is the same. Files of different images have long stretches in common."""
        return hashlib.sha256(record.encode()).hexdigest()

    def canaries(self, spec: TaskSpec, processor: Any, draws: PublicDraws, count: int) -> Examples:  # noqa: ARG002
        """Random colours, with a random class each; the model's processor brings them to its size."""
        found = distinct(count, lambda: base64.b64encode(PPM + draws.raw(3 * CANARY_SIDE**2)).decode())
        return Examples("canaries", found, tuple(draws.below(len(spec.labels)) for _ in found))


def _load_processor(model: str) -> Any:
    source, options = load_options(model)
    options.pop("dtype", None)
    try:
        with quiet():
            return AutoImageProcessor.from_pretrained(source, backend="pil", **options)
    except LOAD_ERRORS as error:
        raise load_error(model, "the image processor cannot be loaded", error) from error


def _undecoded(table: "Dataset", name: str) -> "Dataset":
    from datasets import Image as ImageFeature

    is_image = isinstance(table.features[name], ImageFeature)
    return table.cast_column(name, ImageFeature(decode=False)) if is_image else table


def _file(value: object, folder: Path | None, where: str) -> str:
    if isinstance(value, dict):  # an image of `datasets`, not decoded
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str) and value and folder is not None:
        try:
            value = (folder / value).read_bytes()
        except OSError:
            raise DataError(f"{where}: the image file cannot be read") from None
    if not isinstance(value, bytes) or not value:
        raise DataError(f"{where}: the image is neither a path nor a file's bytes")
    return base64.b64encode(value).decode()


KINDS = (ImageClassify(),)
