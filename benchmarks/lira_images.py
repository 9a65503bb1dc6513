"""LiRA on images, beside the figures that its authors publish (docs/auditing.md, "Held against others").

    python benchmarks/lira_images.py --json lira_images.json

Convolutional nets with group norm are trained on CIFAR-10's test set, each on the images that its own coins chose, and
each is attacked once with all others as shadows: by the product's own code for shadows, scores and intervals. A model
that is finished is kept beside the output; the same command goes on where an interrupted one stopped. About 15 minutes
on one core. The images are in the source archive of the package bigbench (358 MB). pip is given its hash, so nothing
else is accepted, and then runs its setup.py, as pip does with every source archive, to read its version.
"""

import argparse
import base64
import hashlib
import io
import itertools
import json
import platform
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import special, stats
from torch import Tensor, nn
from torch.nn import functional

from secagg.errors import DataError, TransportError
from secagg_app.assets import FETCH_SECONDS, Package, Say, cache_folder, check_hash
from secagg_attacks.intervals import Floats, t_interval
from secagg_attacks.membership.shadow import (
    Bools,
    Mode,
    Shadows,
    lira_where_enough,
    logits,
    rmia_where_enough,
    where_enough,
)
from secagg_attacks.roc import BEYOND, Scores, auc, tpr_at
from secagg_host.durable import guard, read_file, write_atomic

ANALYSIS = """Fixed before the run. One set of seeds, drawn once.

Design. 10,000 images, of which 1,000 are drawn as RMIA's population and to measure accuracy: nobody trains on them. For
each of the other 9,000 and each of 17 models an independent fair coin says whether that model is trained on it. No
augmentation, no DP. Each model is the target once, the other 16 its shadows; each image is asked once, unflipped. An
image with fewer than two shadows of a kind gets the median score, as in the product. All attacks see the logit of the
right class, log p - log(1 - p), computed from the net's outputs in float64.

Published: tensorflow/privacy, research/mi_lira_2021, README: 16 wide residual nets at 91% on 50,000 images, one target
and 15 shadows, by the formulas in its plot.py. These differ from the product's: medians for means; "fixed" is one
deviation of all values, between images too, the same for in and out; the offline score is a density, low on both sides
of the mean, where the paper and the product take one side. The rows named "published formula" score the same models in
that way, with the product's least deviation and rule for few shadows, to tell formulas from nets. They decide nothing.

Figures. Area under the ROC and TPR at 1% FPR: a value for each target, mean and 95% t-interval over the 17 targets. TPR
at .1% FPR: refused for one target, which has about 4,500 non-members; so the targets' scores are pooled, one threshold
for all, and the interval is Student's over the targets' own TPR at that threshold. Targets share images and shadow each
other, and the threshold comes from the same scores: these intervals are somewhat too short.

Order. Of the five published rows all ten pairs, by TPR at .1% and by area: "as published" or "the other way" where the
paired 95% t-interval over targets leaves out 0, else "not told apart". Not corrected for their number; all are shown.
Primary: online > offline > global threshold by TPR at .1%, once with fixed and once with each image's own variance;
"holds" when both pairs are as published. "The published order" holds for a measure when all ten pairs are.
Shape. Holds when the global threshold's TPR at .1% is below .3% (published .09%: no better than chance) and that of
online LiRA with fixed variance above 1% (published 5.9%).

Controls. Positive: every model has training accuracy .99 or more and mean training loss .05 or less, or there was
nothing to see. Negative: the targets' scores against coins drawn anew: the interval of each area must hold .5, of which
one in twenty misses by chance. Expected before the run: these nets generalise worse than the published ones, so all
areas, the global threshold's first, should lie above the published.
Reported whichever way it comes out."""

BIGBENCH = Package(
    "bigbench", "1.0.0", "1bb398a5512c6d798cdebe0dfa0ac03f67f6033fa6b39c6ef71df978c7cbc5c2",
    "CIFAR-10's test set", "none stated for the images", 358,
)  # fmt: skip
MEMBER = "bigbench-1.0.0/bigbench/benchmark_tasks/cifar10_classification/base64/task.json"
SIDE, CLASSES, GROUPS = 32, 10, 4
FPRS = (0.01, 0.001)
LEAST_ACCURACY, LARGEST_LOSS = 0.99, 0.05
GLOBAL_BELOW, ONLINE_ABOVE = 0.003, 0.01
PUBLISHED: Mapping[str, Mapping[str, float]] = {
    "online": {"auc": 0.6676, "tpr_at_0.001": 0.0169},
    "online fixed": {"auc": 0.6856, "tpr_at_0.001": 0.0593},
    "offline": {"auc": 0.5488, "tpr_at_0.001": 0.0130},
    "offline fixed": {"auc": 0.5549, "tpr_at_0.001": 0.0299},
    "global threshold": {"auc": 0.5921, "tpr_at_0.001": 0.0009},
}
CHAINS = {
    "fixed": ("online fixed", "offline fixed", "global threshold"),
    "own": ("online", "offline", "global threshold"),
}
LEAST_DEVIATION = 1e-6
MODES: tuple[Mode, ...] = ("online", "offline")
LIBRARIES = ("secagg", "torch", "numpy", "scipy", "pillow")
Labels = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Settings:
    """What makes a run. Another one keeps its models elsewhere."""

    seed: int = 20
    models: int = 17
    population: int = 1000
    width: int = 32
    epochs: int = 20
    batch: int = 64
    rate: float = 0.1
    decay: float = 5e-4


@dataclass(frozen=True, slots=True)
class Images:
    """Pixels float32 [n, 3, height, width] in -1 to 1, and classes int64 [n]."""

    pixels: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)


@dataclass(frozen=True, slots=True)
class Trained:
    """One model: the logit of the right class on every image [n], and which images it was trained on [n]."""

    logits: Floats = field(repr=False)
    is_in: Bools = field(repr=False)
    loss: float
    accuracy: float
    held_out_accuracy: float
    seconds: float


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# -- images ----------------------------------------------------------------------------------------------------


def archive(say: Say) -> Path:
    """The source archive in the cache, fetched when it is not there. Raises TransportError, HashMismatch."""
    target = cache_folder() / f"{BIGBENCH.name}-{BIGBENCH.version}.tar.gz"
    if not target.is_file():
        say(f"fetching {BIGBENCH.title} ({BIGBENCH.requirement}, {BIGBENCH.megabytes} MB), once")
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as folder:
            _pip_download(Path(folder))
            with guard(target):
                (Path(folder) / target.name).replace(target)
    check_hash(target, BIGBENCH)
    return target


def _pip_download(folder: Path) -> None:
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{BIGBENCH.requirement} --hash=sha256:{BIGBENCH.sha256}\n")
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "--no-binary", ":all:",
        "--dest", str(folder), "--requirement", str(wanted),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_SECONDS, check=False)
    if done.returncode:
        raise TransportError(f"pip cannot fetch {BIGBENCH.requirement}: {done.stderr.strip()[-500:]}")


def read_images(path: Path) -> Images:
    """Of a BIG-bench task's JSON in a tar archive: PNG files in base64, and the one class with target score 1.

    Raises DataError for an archive without that file, other sizes, or an image that is there twice.
    """
    with guard(path), tarfile.open(path) as tar:
        content = next((tar.extractfile(member) for member in tar if member.name == MEMBER), None)
        if content is None:
            raise DataError(f"{path}: holds no {MEMBER}")
        rows = json.load(content)["examples"]
    found = [decoded(row["input"]) for row in rows]
    if len({image.tobytes() for image in found}) != len(found):
        raise DataError(f"{path}: an image is there twice, so a member may be a non-member too")
    names = sorted(rows[0]["target_scores"])
    chosen = [[name for name, score in row["target_scores"].items() if score == 1] for row in rows]
    pixels = torch.tensor(np.stack(found)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return Images(pixels, torch.tensor([names.index(name) for (name,) in chosen]))


def decoded(text: str) -> NDArray[np.uint8]:
    """uint8 [SIDE, SIDE, 3] of a PNG file in base64. Raises DataError."""
    with Image.open(io.BytesIO(base64.b64decode(text))) as image:
        if image.size != (SIDE, SIDE):
            raise DataError(f"an image is {image.size}, {SIDE} x {SIDE} was expected")
        return np.asarray(image.convert("RGB"))


# -- models ----------------------------------------------------------------------------------------------------


def seed_of(settings: Settings, what: str) -> int:
    """A seed for each use, distinct for each."""
    return int.from_bytes(hashlib.sha256(f"lira-images/{settings.seed}/{what}".encode()).digest()[:6], "big")


def pool_of(settings: Settings, count: int) -> tuple[Labels, Labels]:
    """Row numbers of the images that coins are thrown for, and of the population."""
    order = np.random.default_rng(seed_of(settings, "pool")).permutation(count)
    return np.sort(order[settings.population :]), np.sort(order[: settings.population])


def coins(settings: Settings, model: int, count: int) -> Bools:
    """Whether a model is trained on each image, [count]; never on the population."""
    pool, _ = pool_of(settings, count)
    found = np.zeros(count, dtype=np.bool_)
    found[pool] = np.random.default_rng(seed_of(settings, f"coins/{model}")).random(len(pool)) < 0.5
    return found


def network(width: int) -> nn.Module:
    """Three blocks of convolution, group norm and pooling, and a linear layer: for 32 x 32 pixels."""
    layers = list[nn.Module]()
    for before, after in itertools.pairwise((3, width, 2 * width, 4 * width)):
        convolution = nn.Conv2d(before, after, 3, padding=1, bias=False)
        layers += [convolution, nn.GroupNorm(GROUPS, after), nn.ReLU(), nn.MaxPool2d(2)]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * width * (SIDE // 8) ** 2, CLASSES))
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def train(settings: Settings, model: int, images: Images) -> Trained:
    """One model, by SGD with momentum and a rate that rises and falls once."""
    started, is_in = time.monotonic(), coins(settings, model, len(images.labels))
    torch.manual_seed(seed_of(settings, f"model/{model}"))
    net, rows = network(settings.width), torch.tensor(np.flatnonzero(is_in))
    optimizer = torch.optim.SGD(
        net.parameters(), lr=settings.rate, momentum=0.9, nesterov=True, weight_decay=settings.decay
    )
    steps = settings.epochs * -(-len(rows) // settings.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.rate, total_steps=steps, pct_start=0.2)
    for _ in range(settings.epochs):
        for batch in rows[torch.randperm(len(rows))].split(settings.batch):  # type: ignore[no-untyped-call]
            optimizer.zero_grad()
            outputs = net(images.pixels[batch].contiguous(memory_format=torch.channels_last))
            functional.cross_entropy(outputs, images.labels[batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    outputs = all_outputs(net, images.pixels)
    right = (outputs.argmax(1) == images.labels).double().numpy()
    _, held_out = pool_of(settings, len(is_in))
    return Trained(
        right_logits(outputs, images.labels), is_in,
        float(functional.cross_entropy(outputs[rows], images.labels[rows])),
        float(right[is_in].mean()), float(right[held_out].mean()), time.monotonic() - started,
    )  # fmt: skip


@torch.no_grad()
def all_outputs(net: nn.Module, pixels: Tensor) -> Tensor:
    """Float64 [n, classes]."""
    parts = pixels.split(500)  # type: ignore[no-untyped-call]
    return torch.cat([net(part.contiguous(memory_format=torch.channels_last)).double() for part in parts])


def right_logits(outputs: Tensor, labels: Tensor) -> Floats:
    """log p - log(1 - p) of the right class [n], of [n, classes], without forming 1 - p, which rounds to 0."""
    right = outputs.gather(1, labels[:, None])
    others = outputs.scatter(1, labels[:, None], -torch.inf)
    found: Floats = (right[:, 0] - others.logsumexp(1)).numpy()
    return found


def kept_folder(output: Path, settings: Settings) -> Path:
    """Where finished models are kept, by their settings: a shortened run must never pass for a real one."""
    digest = hashlib.sha256(json.dumps(asdict(settings), sort_keys=True).encode()).hexdigest()[:8]
    return output.with_suffix(f".{digest}.models")


def all_models(settings: Settings, images: Images, kept: Path) -> list[Trained]:
    """All models; those that are kept are read."""
    kept.mkdir(parents=True, exist_ok=True)
    found = list[Trained]()
    for model in range(settings.models):
        path = kept / f"{model}.npz"
        if not path.exists():
            trained = train(settings, model, images)
            stream = io.BytesIO()
            np.savez(stream, **asdict(trained))
            write_atomic(path, stream.getvalue())
            say(f"model {model + 1} of {settings.models}: loss {trained.loss:.4f}, {trained.seconds:.0f} s")
        with np.load(io.BytesIO(read_file(path))) as values:
            figures = {name: float(values[name]) for name in ("loss", "accuracy", "held_out_accuracy", "seconds")}
            found.append(Trained(values["logits"], values["is_in"], **figures))
    return found


# -- attacks ---------------------------------------------------------------------------------------------------

Score = Callable[[Floats, Shadows], Floats]
"""Of probabilities of the right class under the target [examples], and the shadows."""


def attacks(population: Floats, seen: Floats) -> dict[str, Score]:
    """By name. `population` [others] and `seen` [shadows, others] are probabilities that RMIA compares with."""
    return {
        "online": partial(lira_where_enough, mode="online", variance="example"),
        "online fixed": partial(lira_where_enough, mode="online", variance="fixed"),
        "offline": partial(lira_where_enough, mode="offline", variance="example"),
        "offline fixed": partial(lira_where_enough, mode="offline", variance="fixed"),
        "RMIA online": lambda target, own: rmia_where_enough(target, own, population, seen, mode="online"),
        "RMIA offline": lambda target, own: rmia_where_enough(target, own, population, seen, mode="offline"),
        "global threshold": lambda target, _: logits(target),
        **{
            f"published formula: {mode}{' fixed' if fixed else ''}": partial(published, mode=mode, fixed=fixed)
            for mode in MODES
            for fixed in (False, True)
        },
    }


def published(target: Floats, shadows: Shadows, *, mode: Mode, fixed: bool) -> Floats:
    """The scores that the published figures come from, after the formulas in their plot.py."""
    return where_enough(shadows, mode, lambda rows, own: _published(logits(target[rows]), own, mode, fixed))


def _published(observed: Floats, shadows: Shadows, mode: Mode, fixed: bool) -> Floats:
    seen = logits(shadows.probabilities)

    def normal(chosen: Bools) -> tuple[Floats, Floats]:
        values = np.where(chosen, seen, np.nan)
        spread = np.full(len(observed), np.nanstd(values)) if fixed else np.nanstd(values, axis=0)
        return np.nanmedian(values, axis=0), spread

    def density(centre: Floats, spread: Floats) -> Floats:
        return np.asarray(stats.norm.logpdf(observed, centre, np.maximum(spread, LEAST_DEVIATION)), dtype=np.float64)

    outside, out_spread = normal(~shadows.is_in)
    if mode == "offline":
        return -density(outside, out_spread)
    inside, in_spread = normal(shadows.is_in)
    return density(inside, in_spread) - density(outside, in_spread if fixed else out_spread)


def _pool(settings: Settings, models: Sequence[Trained]) -> Labels:
    return pool_of(settings, len(models[0].logits))[0]


def scores_of(settings: Settings, models: Sequence[Trained]) -> dict[str, list[Floats]]:
    """Each attack's scores of the pool [examples], for each target in turn."""
    pool, others = pool_of(settings, len(models[0].logits))
    probabilities = np.stack([special.expit(model.logits) for model in models])
    is_in = np.stack([model.is_in for model in models])[:, pool]
    found = dict[str, list[Floats]]()
    for target in range(len(models)):
        rest = np.arange(len(models)) != target
        shadows = Shadows(probabilities[rest][:, pool], is_in[rest])
        for name, score in attacks(probabilities[target, others], probabilities[rest][:, others]).items():
            found.setdefault(name, []).append(score(probabilities[target, pool], shadows))
    return found


def by_membership(scores: Mapping[str, Sequence[Floats]], is_in: Sequence[Bools]) -> dict[str, list[Scores]]:
    """Each target's scores [examples], told apart by its coins [examples]."""
    return {
        name: [Scores(own[inside], own[~inside]) for own, inside in zip(each, is_in, strict=True)]
        for name, each in scores.items()
    }


# -- figures ---------------------------------------------------------------------------------------------------


def pooled(targets: Sequence[Scores]) -> Scores:
    """All targets' scores together."""
    return Scores(np.concatenate([t.members for t in targets]), np.concatenate([t.nonmembers for t in targets]))


def at_pooled_threshold(targets: Sequence[Scores], fpr: float) -> list[float]:
    """Each target's TPR at the lowest threshold that at most `fpr` of all targets' non-members reach."""
    ordered = np.sort(np.concatenate([t.nonmembers for t in targets]))[::-1]
    highest_refused = ordered[int(np.floor(fpr * len(ordered)))]
    return [float((target.members > highest_refused).mean()) for target in targets]


def measures(targets: Sequence[Scores]) -> dict[str, list[float]]:
    """Of each target. A rate is left out when too few non-members allow it: of one for 1%, of all pooled for .1%."""
    found = {"auc": [auc(target) for target in targets]}
    one, rare = FPRS
    if all(len(target.nonmembers) * one >= BEYOND for target in targets):
        found[f"tpr_at_{one:g}"] = [tpr_at(target, one) for target in targets]
    if sum(len(target.nonmembers) for target in targets) * rare >= BEYOND:
        found[f"tpr_at_{rare:g}"] = at_pooled_threshold(targets, rare)
    return found


def interval(values: Sequence[float]) -> dict[str, float]:
    """Mean and 95% t-interval over targets."""
    found = t_interval(values)
    return {"mean": found.value, "low": found.low, "high": found.high}


def verdict(found: Mapping[str, float]) -> str:
    """Of a paired difference that is positive in the published rows."""
    if found["low"] > 0:
        return "as published"
    return "the other way" if found["high"] < 0 else "not told apart"


def order(values: Mapping[str, Mapping[str, Sequence[float]]], measure: str) -> dict[str, dict[str, Any]]:
    """All pairs of published rows, the higher one first: their difference, paired by target, and its verdict."""
    ranked = sorted(PUBLISHED, key=lambda name: -PUBLISHED[name][measure])
    found = dict[str, dict[str, Any]]()
    for high, low in itertools.combinations(ranked, 2):
        difference = interval([a - b for a, b in zip(values[high][measure], values[low][measure], strict=True)])
        found[f"{high} > {low}"] = {**difference, "verdict": verdict(difference)}
    return found


def readings(values: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, Any]:
    """What the analysis above decides. Without a rate at .1% nothing is said of it."""
    rare = f"tpr_at_{FPRS[1]:g}"
    names = ["auc"] + [rare] * (rare in values["online"])
    orders = {name: order(values, name) for name in names}
    found: dict[str, Any] = {"pairs": orders}
    found["published_order_holds"] = {
        name: all(pair["verdict"] == "as published" for pair in pairs.values()) for name, pairs in orders.items()
    }
    if rare in names:
        found["chain_holds"] = {
            title: all(orders[rare][f"{a} > {b}"]["verdict"] == "as published" for a, b in itertools.pairwise(chain))
            for title, chain in CHAINS.items()
        }
        online, plain = (float(np.mean(values[name][rare])) for name in ("online fixed", "global threshold"))
        found["shape_holds"] = plain < GLOBAL_BELOW and online > ONLINE_ABOVE
    return found


def controls(settings: Settings, models: Sequence[Trained], scores: Mapping[str, Sequence[Floats]]) -> dict[str, Any]:
    """Whether there was something to see, and each attack's area against coins drawn anew."""
    rng = np.random.default_rng(seed_of(settings, "control"))
    fresh = [rng.random(len(own)) < 0.5 for own in scores["online"]]
    areas = {name: interval([auc(t) for t in each]) for name, each in by_membership(scores, fresh).items()}
    return {
        "something_to_see": all(m.accuracy >= LEAST_ACCURACY and m.loss <= LARGEST_LOSS for m in models),
        "auc_of_other_coins": {
            name: {**found, "holds_half": found["low"] <= 0.5 <= found["high"]} for name, found in areas.items()
        },
    }


def report(settings: Settings, models: Sequence[Trained]) -> dict[str, Any]:
    """All figures, their intervals, what they decide, the controls and each model's own."""
    scores = scores_of(settings, models)
    pool = _pool(settings, models)
    targets = by_membership(scores, [model.is_in[pool] for model in models])
    values = {name: measures(each) for name, each in targets.items()}
    counted = pooled(targets["online"])
    return {
        "analysis": ANALYSIS,
        "settings": asdict(settings),
        "real": settings == Settings(),
        "members": len(counted.members),
        "nonmembers": len(counted.nonmembers),
        "arms": {name: {m: interval(each) for m, each in found.items()} for name, found in values.items()},
        "published": PUBLISHED,
        "readings": readings(values),
        "controls": controls(settings, models, scores),
        "targets": values,
        "models": [
            {"loss": m.loss, "accuracy": m.accuracy, "held_out_accuracy": m.held_out_accuracy, "seconds": m.seconds}
            for m in models
        ],
        "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="written here; finished models are kept beside it")
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = Settings()
    models = all_models(settings, read_images(archive(say)), kept_folder(options.json, settings))
    content = json.dumps(report(settings, models), indent=1, allow_nan=False)
    write_atomic(options.json, (content + "\n").encode())
    say(f"written: {options.json}")


if __name__ == "__main__":
    main()
