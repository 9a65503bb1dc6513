"""tests/vectors/releases.json: what is shown before a second release, and the running mean (protocol.md §8.7, §9.4)."""

import json
from functools import cache

import numpy as np
import pytest

from secagg.coordinator import mean_of
from secagg.descriptor import Descriptor
from secagg.digits import Sums
from secagg.errors import SecaggError
from secagg.messages import Candidate
from secagg.releases import ReleasedSets, check_earlier, joined, sums_before
from secagg.signing import Signed, parse_model
from tests.twin.predictable import PredictableRandomness
from tests.vectors import session
from tests.vectors.common import Json
from tests.vectors.reading import load, of_array, title

WANTED = load("releases")


@cache
def descriptor() -> Descriptor:
    signed = parse_model(Signed[Descriptor], json.dumps(WANTED["descriptor"]))
    found = signed.verify(signed.statement.coordinator_identity)
    assert found.ctx == WANTED["ctx"]
    assert found.releases == 2
    return found


def fingerprint(client: int) -> str:
    return list(descriptor().clients)[client]


@cache
def levels(client: int) -> Sums:
    """What a client of that weight puts into the sum."""
    change = np.array(session.change(client), dtype=np.float32)
    random = PredictableRandomness(b"rounding of client %d in two releases" % client)
    weight = descriptor().weights[fingerprint(client)]
    return descriptor().quantiser.encode(change, random, weight).values


def total(clients: list[int]) -> Sums:
    return np.array(np.sum([levels(client) for client in clients], axis=0, dtype=np.uint64))


def shown(case: Json) -> tuple[Candidate, list[ReleasedSets]]:
    earlier = case["earlier"] if isinstance(case["earlier"], list) else [case["earlier"]]
    candidate = parse_model(Candidate, json.dumps(case["candidate"]))
    return candidate, [parse_model(ReleasedSets, json.dumps(one)) for one in earlier]


def test_the_honest_second_release_follows_the_first() -> None:
    check_earlier(descriptor(), *shown(WANTED))


@pytest.mark.parametrize("case", WANTED["malformed"], ids=title)
def test_liars_are_refused(case: Json) -> None:
    with pytest.raises(SecaggError) as caught:
        check_earlier(descriptor(), *shown(case))
    assert caught.value.code == case["code"]


def test_levels() -> None:
    found = [of_array(levels(client).astype("<u8")) for client in range(len(descriptor().roster))]
    assert found == WANTED["levels_uint64_sha256"]


def test_running_sums_and_the_mean_that_is_decoded_from_them() -> None:
    before: Sums | None = None
    clients = list[int]()
    for number, release in enumerate(WANTED["releases"], 1):
        sums = total(release["clients"])
        assert of_array(sums.astype("<u8")) == release["sums_uint64_sha256"]
        running = joined(before, sums)
        assert running[:8].tolist() == release["running_sums_head"]
        assert of_array(running.astype("<u8")) == release["running_sums_uint64_sha256"]
        found = sums_before(running, sums, number)
        assert (found is None) == (before is None)
        assert found is None or before is None or np.array_equal(found, before)
        clients += release["clients"]
        mean = mean_of(descriptor(), [fingerprint(client) for client in clients], running)
        assert of_array(mean.astype("<f4")) == release["mean_float32_sha256"]
        assert mean[:8].astype("<f4").tobytes().hex() == release["mean_float32_head"]
        before = running


def test_the_last_mean_is_that_of_one_release_over_all_whatever_the_order() -> None:
    """Bit for bit (§9.4)."""
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        mean = mean_of(descriptor(), [fingerprint(client) for client in order], total(order))
        assert of_array(mean.astype("<f4")) == WANTED["union_mean_float32_sha256"]
    assert WANTED["union_mean_float32_sha256"] == WANTED["releases"][-1]["mean_float32_sha256"]
