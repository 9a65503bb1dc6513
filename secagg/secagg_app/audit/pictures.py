"""Images that a message gives back, beside the originals: scikit-learn's handwritten digits, 8 x 8 pixels.

The model is a small vision transformer with random weights: none with weights of its own can be had everywhere, and an
untrained one is what the attack was made for. Rank 32 on all linear layers, one step of SGD on one image a client; so
this shows what secure aggregation and noise do to the attack, and not what a real model gives away.
"""

import base64
import hashlib
import io
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from secagg.errors import AuditError
from secagg.plan import TaskSpec
from secagg_app.audit.inversion import one_step
from secagg_attacks.attack import ImageGuess
from secagg_attacks.intervals import Interval, clopper_pearson
from secagg_attacks.inversion.images import DeepLeakage
from secagg_attacks.inversion.recovery import image_recovery
from secagg_attacks.record import Record, recorded
from secagg_attacks.views import ClientUpdates, Public, View, ViewName
from secagg_client.classifier import quiet
from secagg_client.data import Examples
from secagg_client.models import LoadedBase, load_base
from secagg_client.plan_options import validated
from secagg_client.planning import make_plan
from secagg_client.tasks import make_task

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

CLIENTS = 3
"""Fewer, and a plan is refused."""
SIDE, RANGE, SHOWN = 8, 2.0, 96
"""Pixels of an image, what a pixel's values span for the model, and pixels on the page."""
ATTACK = DeepLeakage()
RANK, HIDDEN = 32, 64
NEARER = 8.0
"""An image counts as found when the guess is so many decibels nearer than a plain grey is."""
Images = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class PictureSetting:
    """Who looks, and with which epsilon the message was made; 0 is no noise."""

    title: str
    view: ViewName
    epsilon: float


SETTINGS = (
    PictureSetting("one client's update", ViewName.V1, 0.0),
    PictureSetting("the sum of three clients", ViewName.V2, 0.0),
    PictureSetting("one client's update at epsilon 8", ViewName.V1, 8.0),
)


@dataclass(frozen=True, slots=True)
class Picture:
    """One image, attacked in one setting: as PNGs in base64, and how near they are in decibels.

    `blank` is how near a plain grey of the image's own mean is.
    """

    setting: str
    original: str = field(repr=False)
    guess: str = field(repr=False)
    psnr: float
    blank: float


@dataclass(frozen=True, slots=True)
class PictureRow:
    """A setting over all images: which part of them was found, with its exact interval."""

    setting: str
    found: Interval


def recipe(beginnings: int) -> str:
    """What names a result: settings and attack."""
    content = f"{SETTINGS}{replace(ATTACK, restarts=beginnings)}{RANK}{HIDDEN}"
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def pictures(seed: int, beginnings: int) -> list[Picture]:
    """One image for each client, drawn by the seed; the first client's is looked for in each setting."""
    attack = replace(ATTACK, restarts=beginnings)
    base = _base()
    drawn = _digits(seed)
    truth = _pixels(base, drawn[:1])
    blank = np.broadcast_to(truth.mean(axis=(1, 2, 3), keepdims=True), truth.shape).astype(np.float32)
    grey = image_recovery(ImageGuess(blank, ()), truth, RANGE).psnr
    found = list[Picture]()
    for setting in SETTINGS:
        record = _record(base, drawn, setting.epsilon, seed)
        guess = attack.run(_first(record, setting.view))[0]
        if not isinstance(guess, ImageGuess) or len(guess.images) != 1:
            raise AuditError(f"{setting.title}: the attack gave {guess!r}, and one image was asked for")
        psnr = image_recovery(guess, truth, RANGE).psnr
        found.append(Picture(setting.title, _png(truth[0]), _png(guess.images[0]), psnr, grey))
    return found


def _first(record: Record, view: ViewName) -> View:
    """The first client's message alone, where there are several: the others' images are not looked for."""
    if view is not ViewName.V1:
        return record.view(view)
    only = replace(record.rounds[0], changes=record.rounds[0].changes[:1])
    return ClientUpdates(record.public, None, (only,), record.final)


def rows_of(found: Sequence[Picture]) -> list[PictureRow]:
    """In the order of the settings."""
    groups = defaultdict[str, list[Picture]](list)
    for each in found:
        groups[each.setting].append(each)
    return [
        PictureRow(name, clopper_pearson(sum(each.psnr >= each.blank + NEARER for each in mine), len(mine)))
        for name, mine in groups.items()
    ]


@lru_cache(maxsize=1)
def _base() -> LoadedBase:
    import torch
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

    config = ViTConfig(
        image_size=SIDE, patch_size=4, hidden_size=HIDDEN, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=128, num_labels=10, initializer_range=0.15,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng():
        torch.manual_seed(0)
        with quiet():
            ViTForImageClassification(config).save_pretrained(folder)
        ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
        return load_base(folder, TaskSpec(kind="image", labels=tuple("0123456789")))


def _digits(seed: int) -> list[Examples]:
    """One image of another class for each client."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits, rng = load_digits(), np.random.default_rng([seed, 8])
    classes = rng.permutation(10)[:CLIENTS]
    rows = [int(rng.choice(np.flatnonzero(digits.target == each))) for each in classes]
    found = list[Examples]()
    for row in rows:
        text = _encoded(Image.fromarray((digits.images[row] * 15).astype(np.uint8)))
        found.append(Examples(f"digit {row}", (text,), (int(digits.target[row]),)))
    return found


def _pixels(base: LoadedBase, parts: Sequence[Examples]) -> Images:
    """[n, channels, height, width], as the model sees them."""
    task: Any = make_task(base.task, base.tokenizer)
    rows = [row for part in parts for row in task.encode(part)]
    found: Images = task.collate(rows).pixels.numpy()
    return found


def _record(base: LoadedBase, data: Sequence[Examples], epsilon: float, seed: int) -> Record:
    plain: dict[str, Any] = {
        "base_model": "vit", "rank": RANK, "alpha": RANK, "lora_clip": 1.0, "head_start": "seeded",
        "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"],
        "task": {"kind": "image", "labels": list(base.task.labels)},
        "training": one_step(1, epsilon),
    }  # fmt: skip
    plan = make_plan(validated(plain, "the pictures"), base)
    return recorded(Public(plan, base, CLIENTS, 1, 1), data, seed)


def _png(image: Images) -> str:
    """An image [channels, height, width] with values in -1 .. 1, enlarged without smoothing."""
    from PIL import Image

    values = np.clip((image.mean(axis=0) + 1) * 127.5, 0, 255).astype(np.uint8)
    return _encoded(Image.fromarray(values).resize((SHOWN, SHOWN), Image.Resampling.NEAREST))


def _encoded(picture: "PilImage") -> str:
    """A PNG file in base64."""
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()
