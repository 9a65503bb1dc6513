"""Parameter sets: what is chosen, what is refused, and how sure the opening is (protocol.md §3)."""

import math
from typing import Annotated

import pytest
from annotated_types import MaxLen
from pydantic import BaseModel, TypeAdapter, ValidationError

from secagg import gaussian
from secagg.coordinator import SessionSpec
from secagg.descriptor import Descriptor, RingChoice
from secagg.errors import ParameterError
from secagg.messages import Members
from secagg.parameters import MAX_FAILURE_LOG2, RINGS, SealedParameters, choose
from secagg_app.session_config import SessionConfig


def test_every_ring_in_the_table_meets_the_bar() -> None:
    assert all(row.core_svp_bits >= 128 for row in RINGS.values())
    row = RINGS["n4096q90"]
    assert (row.degree, row.core_svp_bits, row.matzov_bits) == (4096, 130, 159)
    assert math.prod(row.primes) < 2**90


@pytest.mark.parametrize(
    ("bits", "n_max", "limbs"), [(16, 1000, 3), (16, 10, 4), (8, 10, 7), (8, 100, 5), (24, 4096, 2), (24, 100_000, 1)]
)
def test_choose_packs_as_many_limbs_as_are_safe(bits: int, n_max: int, limbs: int) -> None:
    chosen = choose(bits, n_max, 1_000_000)
    assert chosen.limbs == limbs
    assert chosen.failure_log2 <= MAX_FAILURE_LOG2
    with pytest.raises(ParameterError):
        SealedParameters.from_name(chosen.name, limbs + 1, bits, n_max, 1_000_000)


def test_the_default_leaves_the_stated_failure_probability() -> None:
    assert choose(16, 1000, 10**6).failure_log2 == pytest.approx(-71.4, abs=0.1)
    assert choose(16, 1000, 10**9).failure_log2 == pytest.approx(-61.5, abs=0.1)


def test_a_longer_vector_needs_a_smaller_packing() -> None:
    assert choose(16, 1000, 10**9).limbs == 3
    assert choose(16, 1000, 2**36).limbs == 2


def test_a_million_values_cost_less_than_3_9_bytes_each() -> None:
    parameters = choose(16, 1000, 10**6)
    assert parameters.block_bytes == 46080
    assert parameters.share_bytes == 15872
    assert (parameters.ciphertext_bytes + 4 * (parameters.share_bytes + 1200)) / parameters.length < 3.9


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("bits", 1),
        ("bits", 25),
        ("n_max", 1),
        ("n_max", 100_001),
        ("length", 0),
        ("limbs", 0),
        ("limbs", 30),
        ("bits", 16.0),
    ],
)
def test_numbers_out_of_range_are_refused(field: str, value: int) -> None:
    numbers = {"limbs": 3, "bits": 16, "n_max": 1000, "length": 100} | {field: value}
    with pytest.raises(ParameterError, match=field):
        SealedParameters.from_name("n4096q90", **numbers)


def test_a_ring_that_is_in_no_table_is_refused() -> None:
    with pytest.raises(ParameterError, match="no ring"):
        SealedParameters.from_name("n8192q200", 3, 16, 10, 100)
    row = RINGS["n4096q90"]
    with pytest.raises(ParameterError, match="in no table"):
        SealedParameters("n4096q90", row.degree, row.primes[::-1], 3, 16, 10, 100)


def test_choose_refuses_what_no_set_carries() -> None:
    with pytest.raises(ParameterError):
        choose(16, 100_001, 100)


@pytest.mark.parametrize(("field", "bound"), [("n_max", 100_000), ("bits", 24)])
@pytest.mark.parametrize("model", [Descriptor, SessionSpec, SessionConfig])
def test_every_party_has_the_same_bounds(model: type[BaseModel], field: str, bound: int) -> None:
    """What one of them took and another refused would be a session that is made and that nobody can serve."""
    if model is Descriptor and field == "bits":
        model = RingChoice
    adapter = TypeAdapter(Annotated[int, model.model_fields[field]])
    assert adapter.validate_python(2) == 2
    assert adapter.validate_python(bound) == bound
    for wrong in (1, bound + 1):
        with pytest.raises(ValidationError):
            adapter.validate_python(wrong)
        with pytest.raises(ParameterError):
            choose(**({"bits": 16, "n_max": 10, "length": 10**6} | {field: wrong}))
    assert choose(**({"bits": 16, "n_max": 10, "length": 10**6} | {field: bound})).limbs >= 1


def test_no_roster_and_no_set_has_more_than_a_hundred_thousand() -> None:
    lengths = [meta.max_length for meta in Descriptor.model_fields["roster"].metadata if isinstance(meta, MaxLen)]
    assert lengths == [100_000]
    members = [{"client": f"{i:064x}", "upload_root": "00" * 32} for i in range(100_001)]
    adapter = TypeAdapter(Members)
    assert len(adapter.validate_python(members[1:])) == 100_000
    with pytest.raises(ValidationError, match="at most 100000 items"):
        adapter.validate_python(members)


def test_the_error_bound_is_what_honest_uploads_stay_within() -> None:
    parameters = choose(16, 1000, 10**6)
    bounds = [parameters.error_bound(n) for n in (1, 2, 10, 100, 1000)]
    assert bounds == sorted(bounds)
    coefficients = parameters.blocks * parameters.degree
    for n, bound in zip((2, 1000), (bounds[1], bounds[-1]), strict=True):
        for at, holds in ((bound, True), (bound - 1, False)):
            tail = gaussian.sum_tail_log2(gaussian.ERROR_VARIANCE, n, at) + math.log2(coefficients)
            assert (tail <= MAX_FAILURE_LOG2) is holds
    assert bounds[-1] <= parameters.modulus // 2 // parameters.plaintext_modulus - 1


@pytest.mark.parametrize("contributors", [0, -1, 1001])
def test_a_cohort_outside_the_parameters_has_no_bound(contributors: int) -> None:
    with pytest.raises(ParameterError, match="contributors"):
        choose(16, 1000, 100).error_bound(contributors)
