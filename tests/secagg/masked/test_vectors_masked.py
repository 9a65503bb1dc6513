"""The published steps of `masked`: reproduced one by one, and what is malformed is refused as stated (§12)."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from secagg.codec import Quantiser
from secagg.errors import SecaggError
from secagg.identity import Identity, Role
from secagg.masked import messages
from secagg.masked.holders import draw_holders
from secagg.masked.keys import (
    BoxContext,
    PairContext,
    check_public_key,
    commitment,
    pair_seed,
    public_key,
    seal,
    self_mask_hash,
    unseal,
)
from secagg.masked.masks import Mask, add_masks
from secagg.masked.messages import leaf_data
from secagg.masked.parameters import Graph, choose_graph, width
from secagg.masked.sharing import Secret, Share, combine, split
from secagg.masked.vectors import Shape, check_packed, mask_update, vector_root
from secagg.merkle import leaf_hash
from secagg.signing import Signed, Statement
from tests.twin.predictable import PredictableRandomness
from tests.vectors.common import Json, digest, uniform
from tests.vectors.reading import load, of_array, title

WANTED = load("masked")
CTX: str = WANTED["ctx"]
NAMES: list[str] = WANTED["keys"]["names"]


def refused(code: str, action: Callable[[], Any]) -> None:
    """The action raises the typed error of this code."""
    with pytest.raises(SecaggError) as caught:
        action()
    assert caught.value.code == code


def either(code: str | None, action: Callable[[], Any]) -> Any:
    """What the action returns where no code is stated."""
    return refused(code, action) if code else action()


# -- parameters, §12.1 -----------------------------------------------------------------------------------------


def chosen(case: Json) -> Graph:
    rates = (float(case["dropout_rate"]), float(case["corruption_rate"]))
    return choose_graph(case["clients"], *rates, case["n_min"])


@pytest.mark.parametrize("case", load("masked_parameters")["chosen"], ids=lambda case: f"{case['clients']} clients")
def test_the_graph_of_a_cohort(case: Json) -> None:
    graph = chosen(case)
    assert (graph.holders, graph.threshold) == (case["holders"], case["threshold"])
    assert (graph.corrupt, graph.dropouts) == (case["corrupt"], case["dropouts"])
    assert graph.complete == ("smallest_sum" not in case)
    if not graph.complete:
        assert graph.smallest_sum == case["smallest_sum"]


@pytest.mark.parametrize("case", load("masked_parameters")["malformed"], ids=str)
def test_cohorts_without_a_graph(case: Json) -> None:
    refused(case["code"], lambda: chosen(case))


@pytest.mark.parametrize("case", load("masked_parameters")["stated"], ids=str)
def test_graphs_on_the_bounds_and_beside(case: Json) -> None:
    numbers = (case[key] for key in ("clients", "holders", "threshold", "corrupt", "dropouts"))
    either(case["code"], lambda: Graph(*numbers))


@pytest.mark.parametrize("case", load("masked_parameters")["widths"], ids=str)
def test_width(case: Json) -> None:
    assert either(case["code"], lambda: width(case["clients"], case["bits"])) == case["width"]


# -- holders and shares, §12.4 ---------------------------------------------------------------------------------


@pytest.mark.parametrize("case", WANTED["draws"], ids=lambda case: case["seed"])
def test_draw_of_holders(case: Json) -> None:
    others = [number for number in range(case["clients"]) if number != case["own"]]
    found = draw_holders(others, case["count"], PredictableRandomness(case["seed"].encode()))
    assert list(found) == case["holders"]


@pytest.mark.parametrize("case", WANTED["secrets"]["cases"], ids=lambda case: case["seed"])
def test_shares_of_a_secret(case: Json) -> None:
    secret, t = Secret(bytes.fromhex(case["secret"])), case["threshold"]
    shares = split(secret, t, case["holders"], PredictableRandomness(case["seed"].encode()))
    assert [share.value.hex() for share in shares] == case["shares"]
    given = {place: Share(bytes.fromhex(share)) for place, share in enumerate(case["shares"], 1)}
    assert combine(given, t) == secret
    last = dict(list(given.items())[-t:])
    assert combine(last, t) == secret


@pytest.mark.parametrize("case", WANTED["secrets"]["malformed"], ids=title)
def test_shares_that_give_no_secret(case: Json) -> None:
    shares = {int(place): Share(bytes.fromhex(share)) for place, share in case["shares"].items()}
    refused(case["code"], lambda: combine(shares, 2))


# -- keys and boxes, §12.3, §12.4.4, §12.5.2 -------------------------------------------------------------------


def private(number: int) -> Secret:
    return Secret(bytes.fromhex(WANTED["keys"]["private"][number]))


def public(number: int) -> bytes:
    return bytes.fromhex(WANTED["keys"]["public"][number])


def test_public_keys() -> None:
    for number in range(len(NAMES)):
        assert public_key(private(number)) == public(number)
        check_public_key(public(number))


@pytest.mark.parametrize("case", WANTED["keys"]["pairs"], ids=str)
def test_both_of_a_pair_have_its_seed(case: Json) -> None:
    one, other = case["one"], case["other"]
    low, high = sorted((NAMES[one], NAMES[other]))
    context = PairContext(ctx=CTX, low=low, high=high)
    assert pair_seed(private(one), public(other), context).value.hex() == case["seed"]
    assert pair_seed(private(other), public(one), context).value.hex() == case["seed"]


@pytest.mark.parametrize("case", WANTED["keys"]["malformed"], ids=lambda case: f"{case['change']} {case['public'][:8]}")
def test_public_keys_that_are_none(case: Json) -> None:
    raw = bytes.fromhex(case["public"])
    refused(case["code"], lambda: check_public_key(raw))
    context = BoxContext(ctx=CTX, sender=NAMES[0], receiver=NAMES[1], round="share")
    refused(case["code"], lambda: unseal(bytes(64), private(0), raw, context))


@pytest.mark.parametrize("case", WANTED["boxes"]["cases"], ids=lambda case: case["round"])
def test_box(case: Json) -> None:
    context = BoxContext(ctx=CTX, sender=NAMES[0], receiver=NAMES[1], round=case["round"])
    share = Share(bytes.fromhex(case["share"]))
    assert context.info.decode() == case["info"]
    box = seal(share, private(0), public(1), context, PredictableRandomness(case["seed"].encode()))
    assert box.hex() == case["box"]
    assert unseal(box, private(1), public(0), context) == share
    made = commitment(CTX, NAMES[0], NAMES[1], share)
    assert made.hex() == case["commitment"]
    assert leaf_hash(leaf_data(made, box)).hex() == case["leaf_hash"]


@pytest.mark.parametrize("case", WANTED["boxes"]["malformed"], ids=title)
def test_box_that_does_not_open(case: Json) -> None:
    changed = {"another ctx": {"ctx": "11" * 32}, "another sender": {"sender": NAMES[2]}}.get(case["change"], {})
    named = {"ctx": CTX, "sender": NAMES[0], "receiver": NAMES[1], "round": "share"}
    context = BoxContext.model_validate({**named, **changed})
    key = private(3 if case["change"] == "another key" else 1)
    refused(case["code"], lambda: unseal(bytes.fromhex(case["box"]), key, public(0), context))


# -- masks and vectors, §12.5 ----------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("case", WANTED["masks"], ids=lambda case: f"{case['kind']} {case['count']}")
def test_mask(case: Json, threads: int) -> None:
    values = np.zeros(case["count"], np.uint32)
    add_masks(values, [Mask.expand(case["kind"], Secret(bytes.fromhex(case["seed"])), negative=False)], threads)
    assert values[:5].tolist() == case["head"]
    assert of_array(values) == case["uint32_sha256"]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("case", WANTED["vectors"]["cases"], ids=lambda case: f"{case['length']} values")
def test_masked_vector(case: Json, threads: int) -> None:
    length, shape = case["length"], Shape(case["length"], case["width"])
    raw = np.array(uniform(b"vector %d" % length, length, 32), dtype=np.float64)
    change = ((raw / 2**31 - 1) * 0.55).astype(np.float32)
    quantiser = Quantiser.uniform(length, case["clip"], case["bits"])
    masks = [
        Mask.expand(one["kind"], Secret(bytes.fromhex(one["seed"])), negative=one["sign"] < 0) for one in case["masks"]
    ]
    random = PredictableRandomness(case["seed"].encode())
    packed = mask_update(shape, quantiser, change, masks, random, threads=threads)
    assert (packed.nbytes, packed[:32].tobytes().hex()) == (case["bytes"], case["packed_head"])
    assert digest(packed.tobytes()) == case["packed_sha256"]
    assert vector_root(shape, packed) == case["root"]
    levels = quantiser.encode(change, PredictableRandomness(case["seed"].encode())).values
    assert levels[:8].tolist() == case["levels_head"]


@pytest.mark.parametrize("case", WANTED["vectors"]["malformed"], ids=title)
def test_packed_vectors_of_another_form(case: Json) -> None:
    packed = np.frombuffer(bytes.fromhex(case["packed"]), np.uint8)
    refused(case["code"], lambda: check_packed(Shape(3, 9), packed))


def test_commitment_to_the_own_mask() -> None:
    wanted = WANTED["self_commitment"]
    assert self_mask_hash(CTX, NAMES[0], Secret(bytes.fromhex(wanted["seed"]))) == wanted["hash"]


# -- statements, §1.3 and §12 ----------------------------------------------------------------------------------

STATEMENTS = load("masked_statements")
SIGNED: dict[str, Any] = {
    "Advertisement": messages.SignedAdvertisement, "Sharing": messages.SignedSharing,
    "MaskedUpload": messages.SignedMaskedUpload, "SurvivorSet": messages.SignedSurvivorSet,
    "SetEndorsement": messages.SignedSetEndorsement, "Unmasking": messages.SignedUnmasking,
}  # fmt: skip


def signer() -> Identity:
    """Whoever signed the vectors: a made-up key under the name of a certificate."""
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(STATEMENTS["signing_key"])).public_key()
    return Identity(Role.CLIENT, "Vectors", "client", STATEMENTS["signer"], key.public_bytes_raw(), 0, 1, "")


@pytest.mark.parametrize("case", STATEMENTS["cases"], ids=title)
def test_statement(case: Json) -> None:
    signed: Signed[Statement] = SIGNED[case["type"]].parse(json.dumps(case["signed"]))
    statement = signed.verify(signer())
    assert (statement.purpose(), statement.digest) == (case["purpose"], case["digest"])
    prefix = b"secagg/v1/sign/" + case["purpose"].encode() + b"\0"
    assert digest(statement.to_sign().removeprefix(prefix)) == case["canonical_sha256"]
    assert json.loads(signed.to_bytes()) == case["signed"]


@pytest.mark.parametrize("case", STATEMENTS["malformed"], ids=title)
def test_statement_that_is_refused(case: Json) -> None:
    refused(case["code"], lambda: SIGNED[case["type"]].parse(json.dumps(case["signed"])).verify(signer()))
