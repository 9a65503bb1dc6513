"""Each encoding in a whole session in memory: sealed, summed, opened, released, verified offline."""

import json

import numpy as np
import pytest
from pydantic import JsonValue, ValidationError
from safetensors.numpy import load, save

from secagg.certificate import ADAPTER, ADAPTER_CONFIG
from secagg.coordinator import SessionSpec
from secagg.descriptor import Descriptor
from secagg.encodings.registry import encoding_of, encodings
from secagg.errors import EncodingError, SecaggError, VerificationError
from secagg.policy import Anchors
from secagg.verify import verify_release
from tests.secagg.encodings.support import HEAD, LAYERS, RANK, plan_of, planted, relative_error
from tests.small import DAY, Small

CLIENTS = 4
SESSIONS: dict[str, dict[str, JsonValue]] = {
    "ffa-lora": {}, "fed-sb": {}, "fedit": {}, "task-arithmetic": {"scale": 1.0}, "dare": {"drop": 0.3, "scale": 0.5},
    "ties": {"keep": 0.3}, "sketch": {"size": 6 * RANK}, "flexlora": {"release_rank": CLIENTS * RANK},
    "fedex": {"release_rank": CLIENTS * RANK},
}  # fmt: skip
EXACT = {"ffa-lora", "fed-sb", "task-arithmetic", "sketch", "flexlora", "fedex"}


def session_of(method: str) -> Small:
    plan = plan_of(method, **SESSIONS[method])
    bits = encoding_of(plan).min_bits
    spec = SessionSpec(n_min=3, n_max=10, bits=bits, upload_seconds=DAY, expiry_seconds=2 * DAY)
    made = Small(clients=CLIENTS, plan=plan, spec=spec)
    made.__dict__["changes"] = {
        f"Hospital {number}": change for number, change in enumerate(planted(plan, CLIENTS), start=1)
    }
    return made


def anchors_of(session: Small) -> Anchors:
    policy = session.policy
    return Anchors(
        coordinator=policy.coordinator,
        committee=policy.committee,
        institutions=policy.institutions,
        required_institutions=3,
        n_min=3,
    )


def test_every_encoding_has_its_session() -> None:
    assert set(SESSIONS) == set(encodings()) - {"flora"}


@pytest.mark.parametrize("method", sorted(SESSIONS))
def test_a_session_of_each_encoding_is_released_and_verified(method: str) -> None:
    session = session_of(method)
    release = session.release
    assert verify_release(release, anchors_of(session)).checks
    tensors, config = load(release[ADAPTER]), json.loads(release[ADAPTER_CONFIG])
    assert set(tensors) == {HEAD, *(f"{layer}.lora_{factor}.weight" for layer in LAYERS for factor in "AB")}
    assert all(tensors[f"{layer}.lora_A.weight"].shape[0] == config["r"] for layer in LAYERS)
    assert (
        session.descriptor.parameters.length == session.descriptor.layout.length == session.descriptor.quantiser.length
    )
    if method in EXACT:
        step = 2.0 ** (2 - session.descriptor.ring.bits)
        assert relative_error(session.plan, list(session.changes.values()), tensors) < max(20 * step, 1e-4)


@pytest.mark.parametrize("method", ["sketch", "flexlora", "ties"])
def test_another_adapter_of_the_same_sum_is_refused(method: str) -> None:
    """Not even one that differs in a last bit, or by a turn of the factors that changes no weight."""
    session = session_of(method)
    tensors = load(session.release[ADAPTER])
    name = "m.first.lora_B.weight"
    nudged = {**tensors, name: np.nextafter(tensors[name], np.float32(1))}
    turned = {**tensors, name: -tensors[name], "m.first.lora_A.weight": -tensors["m.first.lora_A.weight"]}
    for other in (nudged, turned):
        with pytest.raises(SecaggError):
            verify_release({**session.release, ADAPTER: save(other, metadata={"format": "pt"})}, anchors_of(session))


def test_the_adapter_is_decoded_again_even_if_its_hash_was_signed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A coordinator that publishes another decoding of the sum, under its own signature."""
    session = session_of("flexlora")
    honest = type(encoding_of(session.plan)).decode

    def lying(*arguments: object) -> object:
        tensors = honest(*arguments)  # type: ignore[arg-type]
        tensors["m.first.lora_A.weight"] = -tensors["m.first.lora_A.weight"]
        return tensors

    with monkeypatch.context() as context:
        context.setattr(type(encoding_of(session.plan)), "decode", lying)
        release = session.release
    with pytest.raises(VerificationError, match=ADAPTER):
        verify_release(release, anchors_of(session))


REFUSED: list[tuple[str, int, dict[str, JsonValue], str]] = [
    ("sketch", 16, {"size": 24}, "set bits = 24"),
    ("sketch", 24, {"size": 12}, "size = 16 or more"),
    ("ties", 8, {"keep": 0.5}, "set bits = 16"),
    ("fedex", 16, {"release_rank": 8}, "release_rank = 16 or more"),
    ("flora", 16, {}, "flora stacks"),
    ("dare", 16, {"drop": 1.5}, "options of dare: drop"),
]


@pytest.mark.parametrize(("method", "bits", "options", "advice"), REFUSED)
def test_sessions_that_an_encoding_does_not_fit_are_never_made(
    method: str, bits: int, options: dict[str, JsonValue], advice: str
) -> None:
    plan = plan_of(method, **options)
    spec = SessionSpec(n_min=3, n_max=10, bits=bits, upload_seconds=DAY, expiry_seconds=2 * DAY)
    with pytest.raises(EncodingError, match=advice):
        _ = Small(clients=CLIENTS, plan=plan, spec=spec).proposal


@pytest.mark.parametrize(("method", "bits", "options", "advice"), REFUSED[:4])
def test_nor_accepted_from_a_coordinator_that_signs_one(
    method: str, bits: int, options: dict[str, JsonValue], advice: str
) -> None:
    """The descriptor itself refuses: no client or key-holder can hold one."""
    fitting = session_of(method).proposal.descriptor.statement
    content = fitting.model_dump(mode="json")
    content["plan"]["options"] = options
    content["ring"]["bits"] = bits
    with pytest.raises(ValidationError, match=advice):
        Descriptor.model_validate_json(json.dumps(content))


def test_a_change_of_another_length_than_the_plan_says_is_refused() -> None:
    session = session_of("sketch")
    session.__dict__["changes"] = {name: change[:-1] for name, change in session.changes.items()}
    with pytest.raises(EncodingError, match="the plan says"):
        _ = session.uploads
