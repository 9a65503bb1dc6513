"""tests/vectors/degree.json: challenge, answers and verdicts of the degree check (protocol.md §8.4)."""

import numpy as np
import pytest

from secagg import shamir
from secagg.degree import answer, challenge_from, verdict_over
from secagg.sealing import ShortKey
from tests.twin.predictable import PredictableRandomness
from tests.vectors.common import Json, digest, uniform
from tests.vectors.reading import load, of_array, title

WANTED = load("degree")


def test_challenge() -> None:
    found = challenge_from(WANTED["ctx"], WANTED["release"], WANTED["candidate_digest"])
    assert found[:, :4].tolist() == WANTED["challenge_head"]
    assert of_array(found) == WANTED["challenge_uint32_sha256"]


def test_answers_lie_on_one_polynomial() -> None:
    coefficients = challenge_from(WANTED["ctx"], WANTED["release"], WANTED["candidate_digest"])
    key = ShortKey(np.array([u % 83 - 41 for u in uniform(b"key 0", 4096, 32)], dtype=np.int32))
    shares = shamir.share_key(key, 3, 4, PredictableRandomness(b"share 0"))
    assert [digest(share.packed) for share in shares] == WANTED["share_sha256"]
    assert [share.blinding.hex() for share in shares] == WANTED["blinding"]
    found = [
        answer(coefficients, shamir.unpack_share(share.packed), shamir.unpack_blinding(share.blinding))
        for share in shares
    ]
    assert [row.tolist() for row in found] == WANTED["answers"]
    points = {share.index: row.astype(np.uint64)[None] for share, row in zip(shares, found, strict=True)}
    assert verdict_over(points, [0], 3, 1) == {}


@pytest.mark.parametrize("case", WANTED["verdicts"], ids=title)
def test_verdict(case: Json) -> None:
    points = {
        x: np.frombuffer(bytes.fromhex(values), "<u4").astype(np.uint64).reshape(-1, 4)
        for x, values in enumerate(case["values"], start=1)
    }
    found = verdict_over(points, range(len(points[1])), case["threshold"], case["faulty"])
    assert [
        {"member": row, "contested": sorted(one.contested), "left_out": one.left_out, "certain": one.certain}
        for row, one in found.items()
    ] == case["failing"]
