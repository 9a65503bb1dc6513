"""A session with client-level noise, from the descriptor to the verified release (protocol.md §14)."""

import os
from functools import cache
from typing import Any

import numpy as np
import pytest

from secagg.canonical import canonical_bytes
from secagg.certificate import CERTIFICATE, MODEL_CARD, certificate_file, parse_certificate
from secagg.client_noise.setting import ClientNoise
from secagg.coordinator import SessionSpec, mean_change
from secagg.errors import EncodingError, MalformedError, PolicyViolation, SecaggError
from secagg.policy import Anchors
from secagg.run import run_sealed
from secagg.sets import check_upload
from secagg.verify import verify_release
from tests.small import DAY, NOW, Small, small_plan


def noise(**changes: Any) -> ClientNoise:
    values = {"clip": 4.0, "noise_multiplier": 1.0, "colluders": 1, "delta": 1e-6, "accept_noise_over_signal": True}
    return ClientNoise.model_validate(values | changes)


def spec(setting: ClientNoise | None, bits: int = 16, n_min: int = 3) -> SessionSpec:
    return SessionSpec(
        n_min=n_min, n_max=10, bits=bits, upload_seconds=DAY, expiry_seconds=2 * DAY, client_noise=setting
    )


@cache
def noisy() -> Small:
    return Small(spec=spec(noise()))


def anchors(small: Small) -> Anchors:
    return Anchors.model_validate(
        {name: value for name, value in small.policy.model_dump().items() if name in Anchors.model_fields}
    )


def test_a_session_without_noise_is_the_bytes_it_always_was() -> None:
    plain = Small()
    assert b"client_noise" not in canonical_bytes(plain.descriptor)
    assert b"client_level" not in canonical_bytes(plain.uploads[0].signed)
    assert plain.descriptor.noise_grid is None


def test_the_mean_carries_the_noise_that_was_said() -> None:
    small = noisy()
    grid = small.descriptor.noise_grid
    assert grid is not None
    mean = mean_change(small.descriptor, small.settled.final.statement, small.opened.opening)
    inside = [np.clip(change, -0.5, 0.5) for change in small.changes.values()]
    scaled = [x * min(1.0, 4.0 / float(np.linalg.norm(x / 0.5))) for x in inside]
    error = (mean - np.mean(scaled, axis=0)) * grid.scale / 0.5 * len(scaled)
    expected = (len(scaled) * (float(grid.variance) + 0.25)) ** 0.5
    assert error.std() == pytest.approx(expected, rel=0.25)  # 300 values: six standard errors
    assert abs(error.mean()) < 6 * expected / len(error) ** 0.5


def test_the_release_verifies_and_says_what_it_protects() -> None:
    small = noisy()
    report = verify_release(small.release, anchors(small))
    note = report.certificate.privacy_note
    assert "Client-level: were the whole change of one member zero" in note
    assert "exp(5.22" in note
    assert note.encode() in small.release[MODEL_CARD]
    assert any("client-level noise: epsilon 5.22" in check for check in report.checks)


def test_every_client_signs_what_it_adds() -> None:
    small = noisy()
    stated = small.uploads[0].signed.statement.privacy.client_level
    assert stated is not None
    assert (stated.unit, stated.adjacency, stated.sampler) == ("client", "zero-out-one", "none")
    assert stated == small.descriptor.client_statement


@pytest.mark.parametrize("lie", [None, {"noise_multiplier": 0.5}, {"delta": 1e-5}, {"colluders": 0}, {"releases": 2}])
def test_a_client_that_states_other_noise_is_refused(lie: dict[str, Any] | None) -> None:
    small = noisy()
    upload = small.uploads[0].signed
    stated = upload.statement.privacy
    level = stated.client_level.model_copy(update=lie) if lie and stated.client_level else None
    false = upload.statement.model_copy(update={"privacy": stated.model_copy(update={"client_level": level})})
    signer = next(s for s in small.parties.clients.values() if s.identity.fingerprint == upload.signer)
    with pytest.raises(PolicyViolation, match="client-level noise"):
        check_upload(small.descriptor, signer.sign(false), upload.signer)


def test_a_coordinator_that_claims_more_privacy_is_found_out() -> None:
    small = noisy()
    statement = parse_certificate(small.release[CERTIFICATE]).statement
    better = statement.model_copy(update={"privacy_note": statement.privacy_note.replace("exp(5.22", "exp(1.22")})
    assert better != statement
    altered = {**small.release, CERTIFICATE: certificate_file(small.parties.coordinator.sign(better))}
    with pytest.raises(SecaggError, match="privacy_note"):
        verify_release(altered, anchors(small))


@pytest.mark.parametrize(
    ("setting", "bits", "message"),
    [
        (noise(accept_noise_over_signal=False), 16, "mostly noise"),
        (noise(noise_multiplier=50.0), 8, "does not fit 8 bits"),
        (noise(colluders=3), 16, "nobody is left"),
        (noise(noise_multiplier=0.1), 16, "not accounted"),
    ],
)
def test_a_session_that_does_not_hold_is_not_made(setting: ClientNoise, bits: int, message: str) -> None:
    with pytest.raises(MalformedError, match=message):
        _ = Small(spec=spec(setting, bits)).proposal


def test_an_encoding_that_counts_clients_takes_no_noise() -> None:
    plan = small_plan().model_copy(update={"method": "ties", "options": {}})
    with pytest.raises((MalformedError, EncodingError), match="counts clients"):
        _ = Small(spec=spec(noise()), plan=plan).proposal


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ({"client_noise": "refused"}, "the policy refuses it"),
        ({"max_client_epsilon": 5.0}, "client-level epsilon 5.22.* is above the policy's 5"),
        ({"max_delta": 1e-9}, "delta"),
        ({"assumed_corrupt_clients": 2, "n_min": 3}, "would be too little"),
    ],
)
def test_a_policy_may_refuse(update: dict[str, Any], message: str) -> None:
    small = noisy()
    small.policy.model_copy(update={"client_noise": "required", "max_client_epsilon": 5.3}).check(small.descriptor)
    with pytest.raises(PolicyViolation, match=message):
        small.policy.model_copy(update=update).check(small.descriptor)


def test_a_policy_may_demand() -> None:
    plain = Small()
    with pytest.raises(PolicyViolation, match="the policy requires it"):
        plain.policy.model_copy(update={"client_noise": "required"}).check(plain.descriptor)


def test_an_auditor_who_assumes_more_colluders_refuses_the_release() -> None:
    small = noisy()
    stricter = anchors(small).model_copy(update={"assumed_corrupt_clients": 2})
    with pytest.raises(PolicyViolation, match="would be too little"):
        verify_release(small.release, stricter)


def test_the_noise_is_fresh_for_each_client_and_each_session() -> None:
    zero = {f"Hospital {i}": np.zeros(300, dtype=np.float32) for i in range(4)}
    runs = [run_sealed(small_plan(), zero, now=NOW, random=os.urandom, spec=spec(noise())) for _ in range(2)]
    assert abs(np.corrcoef(runs[0].mean, runs[1].mean)[0, 1]) < 0.4  # 300 values: seven standard errors
    assert runs[0].mean.std() > 0
