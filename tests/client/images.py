"""Tiny image classifiers, and the handwritten digits that come with scikit-learn as image files."""

import base64
import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from transformers import (
    BitConfig,
    BitForImageClassification,
    ConvNextConfig,
    ConvNextForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

from secagg_client.data import Examples

DIGITS = tuple("0123456789")
SIDE = 16


def make_vit(folder: Path) -> Path:
    torch.manual_seed(4)
    config = ViTConfig(
        image_size=SIDE, patch_size=4, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, num_labels=10,
    )  # fmt: skip
    ViTForImageClassification(config).save_pretrained(folder)
    return _with_processor(folder)


def make_resnet(folder: Path) -> Path:
    """A convolutional network with batch norm."""
    torch.manual_seed(5)
    config = ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic", num_labels=10)
    ResNetForImageClassification(config).save_pretrained(folder)
    return _with_processor(folder)


def make_convnext(folder: Path) -> Path:
    """Depthwise convolutions, layer norms, and linear layers on [n, height, width, channels]."""
    torch.manual_seed(6)
    config = ConvNextConfig(hidden_sizes=[16, 16], depths=[1, 1], num_stages=2, patch_size=2, num_labels=10)
    ConvNextForImageClassification(config).save_pretrained(folder)
    return _with_processor(folder)


def make_bit(folder: Path) -> Path:
    """Convolutions whose weights are standardised in each pass, and group norms."""
    torch.manual_seed(7)
    config = BitConfig(embedding_size=32, hidden_sizes=[32, 64], depths=[1, 1], num_labels=10, num_groups=8)
    BitForImageClassification(config).save_pretrained(folder)
    return _with_processor(folder)


def _with_processor(folder: Path) -> Path:
    ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return folder


def digit_files() -> tuple[list[bytes], list[int]]:
    """1,797 images of 8 x 8 grey pixels as PNG, and what they show."""
    found = load_digits()
    return [_png(image) for image in found.images], [int(label) for label in found.target]


def _png(pixels: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray((pixels * 15).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def digits(rows: range) -> Examples:
    files, labels = digit_files()
    texts = tuple(base64.b64encode(files[row]).decode() for row in rows)
    return Examples("digits", texts, tuple(labels[row] for row in rows))
