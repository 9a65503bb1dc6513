"""The code against tests/vectors/client_noise.json."""

import hashlib
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from secagg.client_noise.encoding import encode
from secagg.client_noise.sampler import sample
from secagg.client_noise.setting import ClientNoise, NoiseGrid
from secagg.codec import Quantiser
from secagg.errors import ParameterError
from secagg.masked.masks import Mask
from secagg.masked.parameters import width
from secagg.masked.sharing import Secret
from secagg.masked.vectors import MaskedTotal, Shape, mask_encoded
from tests.twin import client_noise as twin
from tests.twin.predictable import PredictableRandomness
from tests.vectors.reading import load

VECTORS = load("client_noise")


def made(case: dict[str, Any]) -> NoiseGrid:
    noise = ClientNoise(
        clip=case["clip"], noise_multiplier=case["noise_multiplier"], colluders=case["colluders"], delta=1e-6
    )
    quantiser = Quantiser.from_groups([(size, clip) for size, clip in case["parts"]], case["bits"])
    return NoiseGrid.make(noise, quantiser, case["n_min"], case["n_min"])


@pytest.mark.parametrize("case", VECTORS["samples"], ids=lambda case: f"{case['variance']}")
def test_samples(case: dict[str, Any]) -> None:
    found = sample(Fraction(*case["variance"]), case["count"], PredictableRandomness(case["seed"].encode()))
    assert found[:12].tolist() == case["head"]
    assert hashlib.sha256(found.astype("<i8").tobytes()).hexdigest() == case["int64_sha256"]


@pytest.mark.parametrize("case", VECTORS["encoded"], ids=lambda case: case["title"])
def test_grids_and_encoded_vectors(case: dict[str, Any]) -> None:
    grid = made(case)
    assert (grid.scale, grid.bound, grid.reach) == (case["scale"], case["bound"], case["reach"])
    assert grid.variance == Fraction(*case["variance"])
    update = np.frombuffer(bytes.fromhex(case["float32"]), "<f4")
    found = encode(grid, update, PredictableRandomness(case["seed"].encode()), case["weight"])
    assert found.values.tolist() == case["encoded"]


@pytest.mark.parametrize("case", VECTORS["summed"], ids=lambda case: case["title"])
def test_noisy_vectors_under_masks_their_sum_and_its_mean(case: dict[str, Any]) -> None:
    grid = made(case)
    shape = Shape(grid.length, width(len(case["clients"]), case["bits"]))
    assert shape.width == case["width"], "noisy values are no wider than others (§14.5)"
    total, own = MaskedTotal(shape), list[Mask]()
    for one in case["clients"]:
        update = np.frombuffer(bytes.fromhex(one["float32"]), "<f4")
        sent = encode(grid, update, PredictableRandomness(one["seed"].encode()), case["weight"]).values
        assert sent.tolist() == one["encoded"]
        masks = [Mask.expand(kind, Secret(bytes.fromhex(seed)), negative=sign) for kind, seed, sign in one["masks"]]
        packed = mask_encoded(shape, sent, masks)
        assert packed.tobytes().hex() == one["packed"]
        total.add(packed)
        own += [mask for mask, (kind, _, _) in zip(masks, one["masks"], strict=True) if kind == "self"]
    sums = total.opened([mask._replace(negative=True) for mask in own], grid.noisy_quantiser)
    assert sums.tolist() == case["sums"]
    mean = grid.noisy_quantiser.decode_mean(sums, len(case["clients"]))
    assert mean.astype("<f4").tobytes().hex() == case["mean"]


@pytest.mark.parametrize("case", VECTORS["malformed"], ids=lambda case: case["title"])
def test_settings_that_are_refused(case: dict[str, Any]) -> None:
    with pytest.raises(ParameterError) as caught:
        made(case)
    assert caught.value.code == case["code"]
    honest = case["n_min"] - case["colluders"]
    if honest:
        length = sum(size for size, _ in case["parts"])
        assert twin.grid(case["bits"], length, case["clip"], case["noise_multiplier"], honest) is None
