"""What is registered, and what is refused with what advice."""

import numpy as np
import pytest
from pydantic import JsonValue

from secagg.encodings.layout import Layout, Part
from secagg.encodings.registry import DEFAULT, encoding_named, encoding_of, encodings
from secagg.errors import EncodingError
from secagg.plan import Plan
from secagg.policy import adapter_schema_hash
from tests.secagg.encodings.support import plan_of
from tests.small import small_plan

OPTIONS: dict[str, dict[str, JsonValue]] = {"sketch": {"size": 24}, "fedex": {"release_rank": 16}}
REFUSED = "flora"
EQUAL = (1.0,) * 4


def test_every_encoding_says_what_it_is_and_what_it_reveals() -> None:
    assert {
        "ffa-lora", "fed-sb", "fedit", "task-arithmetic", "dare", "ties", "sketch", "flexlora", "fedex", "flora",
    } == set(encodings())  # fmt: skip
    assert list(encodings()) == sorted(encodings())
    assert DEFAULT in encodings()
    for name, encoding in encodings().items():
        assert encoding.name == name
        assert encoding.reveals.endswith(".")
        assert 0 < len(encoding.summary) < 120
        assert "\n" not in encoding.summary + encoding.reveals


@pytest.mark.parametrize("method", sorted(set(encodings()) - {REFUSED}))
def test_each_has_a_session_it_fits_and_bits_it_refuses(method: str) -> None:
    plan, encoding = plan_of(method, **OPTIONS.get(method, {})), encoding_named(method)
    encoding.check_session(plan, bits=encoding.min_bits, weights=EQUAL)
    too_few = encoding.min_bits - 1
    with pytest.raises(
        EncodingError, match=rf"{method} needs .* at least {too_few + 1} bits, .* set bits = {too_few + 1}"
    ):
        encoding.check_session(plan, bits=too_few, weights=EQUAL)
    with pytest.raises(EncodingError, match=rf"options of {method}: nonsense"):
        encoding.check(plan.model_copy(update={"options": {**plan.options, "nonsense": 1}}))


@pytest.mark.parametrize("method", sorted(set(encodings()) - {REFUSED}))
def test_tensors_that_a_method_does_not_train_are_refused(method: str) -> None:
    plan, encoding = plan_of(method, **OPTIONS.get(method, {})), encoding_named(method)
    for number, spec in enumerate(plan.tensors):
        if "lora_" not in spec.name:
            continue
        other = spec.model_copy(update={"clip": 0.0 if spec.trained else 0.1})
        tensors = (*plan.tensors[:number], other, *plan.tensors[number + 1 :])
        with pytest.raises(EncodingError, match=rf"{method} trains every tensor"):
            encoding.check(plan.model_copy(update={"tensors": tensors}))


def test_stacking_in_slots_is_refused_with_the_reason() -> None:
    with pytest.raises(EncodingError, match=r"would show every one of them\. Choose sketch"):
        encoding_named(REFUSED).check(plan_of(REFUSED))


def test_unknown_methods_are_named_with_those_that_exist() -> None:
    with pytest.raises(EncodingError, match=r"no encoding is called 'fedavg'; there are dare, fed-sb"):
        encoding_of(small_plan().model_copy(update={"method": "fedavg"}))


def test_sketches_too_small_for_the_roster_or_too_large_for_the_layer() -> None:
    plan, encoding = plan_of("sketch", size=16), encoding_named("sketch")
    with pytest.raises(EncodingError, match=r"size 16 carries 4 clients of rank 4, not 5: .* size = 20 or more"):
        encoding.check_session(plan, bits=24, weights=(1.0,) * 5)
    with pytest.raises(EncodingError, match=r"size 41 is larger than the layer \(48 x 40\): choose flexlora"):
        encoding.check(plan_of("sketch", size=41))
    with pytest.raises(EncodingError, match="options of sketch: size: Field required"):
        encoding.check(plan_of("sketch"))


def test_fedex_must_hold_every_clients_share() -> None:
    encoding = encoding_named("fedex")
    with pytest.raises(EncodingError, match=r"5 clients can have 20: .* release_rank = 20 or more, or choose flexlora"):
        encoding.check_session(plan_of("fedex", release_rank=16), bits=16, weights=(1.0,) * 5)
    encoding.check_session(plan_of("fedex", release_rank=40), bits=16, weights=(1.0,) * 5_000)
    with pytest.raises(EncodingError, match="options of fedex: release_rank: Field required"):
        encoding.check(plan_of("fedex"))


@pytest.mark.parametrize("method", ["flexlora", "fedex"])
def test_dense_sums_above_their_size_are_refused(method: str) -> None:
    with pytest.raises(EncodingError, match=r"would send 33554432 values .* choose sketch or ffa-lora"):
        encoding_named(method).check(plan_of(method, (1 << 14, 1 << 10), release_rank=8))
    with pytest.raises(EncodingError, match="shorter side of up to 1025"):
        encoding_named(method).check(plan_of(method, (1025, 1025), release_rank=8))


def test_ties_counts_clients_so_weights_are_equal() -> None:
    with pytest.raises(EncodingError, match="ties counts clients"):
        encoding_named("ties").check_session(plan_of("ties"), bits=16, weights=(1.0, 0.5, 1.0))
    encoding_named("ffa-lora").check_session(plan_of("ffa-lora"), bits=16, weights=(1.0, 0.5, 1.0))


def test_products_need_a_scale_that_the_release_can_say() -> None:
    plan = plan_of("sketch", size=24)
    for change in ({"use_rslora": True}, {"r": None}, {"lora_alpha": "8"}):
        with pytest.raises(EncodingError, match="needs r and lora_alpha"):
            encoding_of(plan).check(plan.model_copy(update={"adapter_config": {**plan.adapter_config, **change}}))
    head = tuple(spec for spec in plan.tensors if "lora_" not in spec.name)
    with pytest.raises(EncodingError, match="choose ffa-lora"):
        encoding_of(plan).check(plan.model_copy(update={"tensors": head}))
    with pytest.raises(EncodingError, match="LoRA's A or B is missing"):
        encoding_of(plan).check(plan.model_copy(update={"tensors": plan.tensors[1:]}))


def test_fed_sb_needs_a_square_in_every_layer() -> None:
    plan = plan_of("fed-sb")
    missing = tuple(spec for spec in plan.tensors if spec.name != "m.first.lora_R.weight")
    with pytest.raises(EncodingError, match="needs a square R"):
        encoding_of(plan).check(plan.model_copy(update={"tensors": missing}))


def test_plans_without_options_have_the_bytes_they_had() -> None:
    plan = small_plan()
    assert "options" not in plan.model_dump(mode="json")
    with_options = plan_of("ties", keep=0.5)
    assert with_options.model_dump(mode="json")["options"] == {"keep": 0.5}
    assert Plan.model_validate_json(with_options.model_dump_json()) == with_options
    assert adapter_schema_hash(with_options) != adapter_schema_hash(plan_of("ties", keep=0.6))
    assert adapter_schema_hash(plan) == "fdbeb0f13717785bbbef7bf63909d343fd8aa87e9964150a7fcd51dc3717551e"


def test_layouts_join_and_split() -> None:
    layout = Layout((Part("a", (2, 3), 0.5), Part("b", (4,), 2.0)))
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, dtype=np.float32)}
    vector = layout.join(arrays)
    assert (layout.length, vector.dtype) == (10, np.dtype(np.float32))
    assert all(np.array_equal(found, arrays[name]) for name, found in layout.split(vector).items())
    assert layout.quantiser(16).groups == ((0, 6, 0.5), (6, 4, 2.0))
    with pytest.raises(EncodingError, match="part b is missing"):
        layout.join({"a": arrays["a"]})
    with pytest.raises(EncodingError, match=r"part a is of shape \(6,\)"):
        layout.join({**arrays, "a": np.zeros(6, dtype=np.float32)})
    with pytest.raises(EncodingError, match=r"its layout says \(10,\)"):
        layout.split(vector[:-1])
    with pytest.raises(EncodingError, match="not finite"):
        layout.split(np.full(10, np.nan, np.float32))
