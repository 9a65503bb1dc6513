"""The published masked session: every part made again from the same randomness, byte for byte; liars refused."""

import copy
import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from secagg.codec import Quantiser
from secagg.errors import SecaggError
from secagg.masked.messages import SharedSet, SignedSurvivorSet, UnmaskRequest
from secagg.masked.server import AdvertiseRound
from secagg.signing import Signed
from tests.vectors import masked_replay as replay
from tests.vectors import masked_session as session
from tests.vectors.common import Json
from tests.vectors.masked_replay import (
    advertisement,
    delivered,
    endorsement,
    filled,
    of,
    sharing,
    text,
    unmasking,
    upload,
)
from tests.vectors.reading import load, of_array, title
from tests.vectors.session import NOW

WANTED = replay.published()
MEMBERS = session.MEMBERS


def plain(signed: Signed[Any]) -> object:
    return json.loads(signed.to_bytes())


def leaves(message: Any) -> list[Json]:
    return [
        {"receiver": one.receiver, "commitment": one.commitment.hex(), "box": one.box.hex()} for one in message.leaves
    ]


# -- the parties -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(session.N))
def test_client_until_it_has_shared(number: int) -> None:
    assert plain(replay.advertised(number)[1]) == of(number)["advertisement"]
    _, message = replay.shared(number)
    assert plain(message.signed) == of(number)["sharing"]["signed"]
    assert leaves(message) == of(number)["sharing"]["leaves"]


@pytest.mark.parametrize("number", MEMBERS)
def test_client_to_the_end(number: int) -> None:
    assert of_array(replay.change(number)) == of(number)["change_float32_sha256"]
    state, message = replay.uploaded(number)
    wanted = of(number)["upload"]
    assert message.vector.tobytes().hex() == wanted["vector"]
    assert plain(message.signed) == wanted["signed"]
    assert leaves(message) == wanted["leaves"]
    endorsed, said = state.endorse(replay.chosen(), NOW)
    assert plain(said) == WANTED["endorsements"][MEMBERS.index(number)]
    assert plain(endorsed.unmask(replay.unmask_round().request(number), NOW)) == of(number)["unmasking"]


def test_coordinator() -> None:
    round_ = replay.consistency_round()
    assert plain(round_.chosen) == WANTED["set"]
    assert round_.chosen.statement.digest == WANTED["set_digest"]
    for one in WANTED["endorsements"]:
        round_.add(endorsement(one))
    opening = round_.close()
    for number in MEMBERS:
        opening.add(unmasking(of(number)["unmasking"]))
    wanted, found = WANTED["opening"], opening.recover()
    assert [found.seeds[number].value.hex() for number in MEMBERS] == wanted["seeds"]
    assert {number: key.value.hex() for number, key in found.keys.items()} == dict(
        zip(wanted["gone"], wanted["keys"], strict=True)
    )
    assert [list(pair) for pair in found.pairs] == wanted["pairs"]
    assert opening.total.values[:8].tolist() == wanted["masked_sum_head"]
    assert of_array(opening.total.values) == wanted["masked_sum_uint32_sha256"]
    opened = opening.open()
    assert opened.sums[:8].tolist() == wanted["sums_head"]
    assert of_array(opened.sums) == wanted["sums_uint32_sha256"]
    quantiser: Quantiser = replay.descriptor().quantiser
    mean = quantiser.decode_mean(opened.sums, len(MEMBERS))
    assert mean[:8].tobytes().hex() == wanted["mean_float32_head"]
    assert of_array(mean) == wanted["mean_float32_sha256"]


# -- the liars -------------------------------------------------------------------------------------------------


def check_descriptor(case: Json) -> None:
    statement = copy.deepcopy(session.descriptor()) | case["changes"]
    bad = session.signed("coordinator", "masked-descriptor", statement)
    type(replay.signed_descriptor()).parse(text(bad))


def check_advertise(case: Json) -> None:
    round_ = AdvertiseRound(replay.descriptor())
    if case.get("before"):
        round_.add(advertisement(of(0)["advertisement"]))
    round_.add(advertisement(case["advertisement"]))


def check_directory(case: Json) -> None:
    state, _ = replay.advertised(0)
    shown = [of(one)["advertisement"] if isinstance(one, int) else one for one in case["directory"]]
    state.share(tuple(map(advertisement, shown)), replay.randomness("share", 0), NOW)


def check_sharing(case: Json) -> None:
    round_, right = replay.share_round(), of(0)["sharing"]
    if case.get("before"):
        round_.add(sharing(right))
    round_.add(sharing(filled(case["sharing"], right)))


def check_shared(case: Json) -> None:
    told = replay.upload_round().shared_with(0)
    members, shown = tuple(case.get("members", told.members)), list(told.deliveries)
    if "delivery" in case:
        shown[0] = delivered(case["delivery"], own=False)
    if "twice" in case:
        shown.append(shown[0])
    if "senders" in case:
        names = {session.print_of(number) for number in case["senders"]}
        shown = [one for one in shown if one.signed.signer in names]
    _, message = replay.uploaded(0, SharedSet(members, tuple(shown)))
    assert message.signed.statement.complaints == (1,)


def check_upload(case: Json) -> None:
    missing = sorted(set(range(session.N)) - set(case.get("sharings", range(session.N))))
    round_, right = replay.upload_round(*missing), of(0)["upload"]
    if case.get("before"):
        round_.add(upload(right))
    before = round_.total.values.copy()
    try:
        round_.add(upload(filled({key: case[key] for key in ("signed", "vector", "leaves") if key in case}, right)))
    finally:
        assert np.array_equal(round_.total.values, before)  # whatever is wrong, nothing is added


def check_set(case: Json) -> None:
    state, _ = replay.uploaded(0)
    if "shared" in case:
        state = dataclasses.replace(state, shared=tuple(case["shared"]))
    if case.get("before"):
        state.endorse(replay.chosen(), NOW)
    state.endorse(SignedSurvivorSet.parse(text(case["set"])), NOW)


def check_endorsement(case: Json) -> None:
    replay.consistency_round().add(endorsement(case["endorsement"]))


def check_unmask(case: Json) -> None:
    state, _ = replay.uploaded(0)
    endorsed, _ = state.endorse(replay.chosen(), NOW)
    right = replay.unmask_round().request(0)
    said, shown = right.endorsements, list(right.deliveries)
    if "endorsements" in case:
        said = tuple(map(endorsement, case["endorsements"]))
    if "delivery" in case:
        shown[0] = delivered(case["delivery"], own=True)
    if "twice" in case:
        shown.append(shown[0])
    endorsed.unmask(UnmaskRequest(said, tuple(shown)), NOW)


def check_unmasking(case: Json) -> None:
    round_ = replay.unmask_round()
    if case.get("before"):
        round_.add(unmasking(of(0)["unmasking"]))
    round_.add(unmasking(case["unmasking"]))


def check_opening(case: Json) -> None:
    round_ = replay.unmask_round(case)
    for number in case.get("answers", MEMBERS):
        other = case.get("unmaskings", {}).get(str(number))
        round_.add(unmasking(other or of(number)["unmasking"]))
    round_.open()


CHECKS = {
    "descriptor": check_descriptor, "advertise": check_advertise, "directory": check_directory,
    "sharing": check_sharing, "shared": check_shared, "upload": check_upload, "set": check_set,
    "endorsement": check_endorsement, "unmask": check_unmask, "unmasking": check_unmasking, "opening": check_opening,
}  # fmt: skip


@pytest.mark.parametrize("case", load("masked_liars")["malformed"], ids=title)
def test_liar(case: Json) -> None:
    if case["code"] is None:
        CHECKS[case["check"]](case)
        return
    with pytest.raises(SecaggError) as caught:
        CHECKS[case["check"]](case)
    assert caught.value.code == case["code"]
