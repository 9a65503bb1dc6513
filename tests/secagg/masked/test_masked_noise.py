"""A masked session with client-level noise, from the descriptor to the verified release (protocol.md §12, §14)."""

import os
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from secagg.canonical import canonical_bytes
from secagg.certificate import CERTIFICATE, FILES, MODEL_CARD
from secagg.client_noise import encoding, sampler
from secagg.client_noise.setting import ClientNoise
from secagg.codec import Quantiser
from secagg.errors import EncodingError, MalformedError, PolicyViolation, VerificationError
from secagg.masked import parameters
from secagg.masked.certificate import SignedMaskedRelease
from secagg.masked.descriptor import MaskedSpec
from secagg.masked.masks import CHUNK, Mask
from secagg.masked.messages import UploadMessage
from secagg.masked.release import MaskedParts, build_masked_release
from secagg.masked.run import STEPS, Step, masked_mean, run_masked
from secagg.masked.sharing import Secret
from secagg.masked.vectors import Shape, mask_encoded, mask_update
from secagg.masked.verify import verify_masked
from secagg.release import sign_files
from tests.secagg.masked.sessions import Masked
from tests.small import DAY, NOW, changes, small_plan
from tests.twin.predictable import PredictableRandomness


def noise(**changes: Any) -> ClientNoise:
    values = {"clip": 4.0, "noise_multiplier": 1.0, "colluders": 1, "delta": 1e-6, "accept_noise_over_signal": True}
    return ClientNoise.model_validate(values | changes)


@cache
def noisy() -> Masked:
    """Member 1 shares its mask key and is gone; member 4 vanishes after its upload."""
    made = Masked(
        clients=7, absent={"upload": {1}, "endorse": {4}}, dropout_rate=0.3, plan=small_plan(300), client_noise=noise()
    )
    assert made.finish()
    return made


@cache
def released() -> dict[str, bytes]:
    parts = MaskedParts.of(noisy().signed, noisy().finish(), (), NOW + 9)
    return build_masked_release(parts, noisy().parties.coordinator, {"secagg": "0"}, lambda _: b"page")


def stating(session: Masked, number: int, lie: dict[str, Any] | None) -> UploadMessage:
    """A client's upload that says something else of its noise; nothing at all for None."""
    message = session.uploaded[number][1]
    stated = message.signed.statement.privacy
    level = stated.client_level.model_copy(update=lie) if lie is not None and stated.client_level else None
    privacy = stated.model_copy(update={"client_level": level})
    statement = message.signed.statement.model_copy(update={"privacy": privacy})
    return replace(message, signed=session.signers[number].sign(statement))


# -- what is sent ----------------------------------------------------------------------------------------------------


def test_a_session_without_noise_is_the_bytes_it_always_was() -> None:
    plain = Masked()
    assert b"client_noise" not in canonical_bytes(plain.descriptor)
    assert b"client_level" not in plain.uploaded[0][1].signed.to_bytes()
    assert plain.descriptor.noise_grid is None


@pytest.mark.parametrize("threads", [1, 3])
def test_a_vector_that_was_encoded_before_is_masked_as_one_that_is_encoded_on_the_way(threads: int) -> None:
    length = 2 * CHUNK + 17
    quantiser, shape = Quantiser.uniform(length, 0.5, 16), Shape(length, 21)
    update = np.random.default_rng(1).uniform(-0.5, 0.5, length).astype(np.float32)
    masks = [Mask.expand("pair", Secret(bytes([i]) * 32), negative=i > 1) for i in range(4)]
    whole = mask_update(shape, quantiser, update, masks, PredictableRandomness(b"x"))
    encoded = quantiser.encode(update, PredictableRandomness(b"x")).values
    assert mask_encoded(shape, encoded, masks, threads=threads).tobytes() == whole.tobytes()
    with pytest.raises(EncodingError, match="the session carries"):
        mask_encoded(shape, encoded[1:], masks)


@pytest.mark.parametrize("step", STEPS)
def test_the_sum_is_exactly_that_of_the_noisy_vectors_of_who_is_in_it(
    step: Step, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever vanishes before its upload takes its noise along; who vanishes later leaves it in the sum."""
    seen = list[NDArray[np.uint32]]()
    real = encoding.encode

    def spy(*arguments: Any) -> Any:
        encoded = real(*arguments)
        seen.append(encoded.values.copy())
        return encoded

    monkeypatch.setattr("secagg.masked.client.encode", spy)
    session = Masked(absent={step: {2}}, client_noise=noise())
    opened, grid = session.finish().open(), session.descriptor.noise_grid
    assert grid is not None
    assert len(seen) == len(opened.members) == (5 if step in STEPS[:3] else 6)
    assert opened.sums.tolist() == np.sum(seen, axis=0, dtype=np.int64).tolist()
    assert max(int(values.max()) for values in seen) <= 2 * grid.half < 2**16 - 1
    assert session.descriptor.shape.width == parameters.width(6, 16), "noise makes no value wider"


def test_the_mean_carries_the_noise_that_was_said() -> None:
    session, grid = noisy(), noisy().descriptor.noise_grid
    assert grid is not None
    assert grid.honest == 3
    opened = session.finish().open()
    inside = [np.clip(session.changes[number], -0.5, 0.5) for number in opened.members]
    scaled = [x * min(1.0, 4.0 / float(np.linalg.norm(x / 0.5))) for x in inside]
    error = (masked_mean(session.descriptor, opened) - np.mean(scaled, axis=0)) * grid.scale / 0.5 * len(scaled)
    expected = (len(scaled) * (float(grid.variance) + 0.25)) ** 0.5
    assert error.std() == pytest.approx(expected, rel=0.25)  # 300 values: six standard errors
    assert abs(error.mean()) < 6 * expected / len(error) ** 0.5


def test_a_run_in_memory_with_a_client_that_vanishes() -> None:
    spec = MaskedSpec(n_min=3, dropout_rate=0.2, upload_seconds=DAY // 2, expiry_seconds=DAY, client_noise=noise())
    run = run_masked(
        small_plan(), changes(5), now=NOW, random=os.urandom, spec=spec, vanish={"Hospital 2": "upload"}, threads=2
    )
    assert len(run.opened.members) == 4
    assert run.mean.std() > 3 * np.mean(list(changes(5).values()), axis=0).std(), (
        "300 values of 4 clients: mostly noise"
    )


def test_noise_that_leaves_its_range_is_an_error_and_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Masked(client_noise=noise())
    assert session.uploading
    monkeypatch.setattr("secagg.client_noise.encoding.sample", lambda _, length, __: np.full(length, 2**20))
    with pytest.raises(EncodingError, match="nothing was encoded"):
        session.upload(0)
    monkeypatch.setattr("secagg.client_noise.encoding.sample", sampler.sample)
    assert session.upload(0), "no step was recorded: it was not an upload"


# -- what is said of it ----------------------------------------------------------------------------------------------


def test_every_client_signs_what_it_adds() -> None:
    session = noisy()
    stated = session.uploaded[0][1].signed.statement.privacy.client_level
    assert stated is not None
    assert (stated.unit, stated.adjacency, stated.sampler, stated.releases) == ("client", "zero-out-one", "none", 1)
    assert stated == session.descriptor.client_statement


@pytest.mark.parametrize("lie", [None, {"noise_multiplier": 0.5}, {"delta": 1e-5}, {"colluders": 0}, {"releases": 2}])
def test_a_client_that_states_other_noise_is_refused_by_the_coordinator(lie: dict[str, Any] | None) -> None:
    session = Masked(client_noise=noise())
    with pytest.raises(PolicyViolation, match="other client-level noise"):
        session.uploading.add(stating(session, 0, lie))
    session.uploading.add(session.uploaded[0][1])


def test_the_release_verifies_and_says_what_it_protects() -> None:
    report = verify_masked(released(), noisy().policy)
    note = report.certificate.privacy_note
    assert "Client-level: were the whole change of one member zero" in note
    assert "exp(5.22" in note
    assert note.encode() in released()[MODEL_CARD]
    assert any("client-level noise: epsilon 5.22" in check for check in report.checks)


def resigned(**update: object) -> dict[str, bytes]:
    """The coordinator lies, and signs it."""
    certificate = SignedMaskedRelease.parse(released()[CERTIFICATE]).statement.model_copy(update=update)
    return sign_files(certificate, noisy().parties.coordinator, {name: released()[name] for name in FILES})


def test_a_coordinator_that_claims_more_privacy_is_found_out() -> None:
    note = SignedMaskedRelease.parse(released()[CERTIFICATE]).statement.privacy_note
    with pytest.raises(VerificationError, match="privacy_note"):
        verify_masked(resigned(privacy_note=note.replace("exp(5.22", "exp(1.22")), noisy().policy)


@pytest.mark.parametrize("lie", [None, {"noise_multiplier": 2.0}, {"delta": 1e-9}])
def test_a_coordinator_that_took_a_client_without_the_noise_is_found_out(lie: dict[str, Any] | None) -> None:
    uploads = SignedMaskedRelease.parse(released()[CERTIFICATE]).statement.uploads
    with pytest.raises(PolicyViolation, match="other client-level noise"):
        verify_masked(resigned(uploads=(stating(noisy(), 0, lie).signed, *uploads[1:])), noisy().policy)


# -- what is not made, and not accepted ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (Masked(client_noise=noise(accept_noise_over_signal=False), plan=small_plan(300)), "mostly noise"),
        (Masked(client_noise=noise(noise_multiplier=1000.0, clip=60.0)), "does not fit 16 bits"),
        (Masked(client_noise=noise(colluders=4)), "nobody is left"),
        (Masked(client_noise=noise(colluders=0)), "withstands 1 corrupt clients, and its noise only 0"),
        (Masked(client_noise=noise(noise_multiplier=0.1)), "not accounted"),
    ],
)
def test_a_session_that_does_not_hold_is_not_made(made: Masked, message: str) -> None:
    with pytest.raises(MalformedError, match=message):
        _ = made.signed


def test_an_encoding_that_counts_clients_takes_no_noise() -> None:
    plan = small_plan(40).model_copy(update={"method": "ties", "options": {}})
    with pytest.raises((MalformedError, EncodingError), match="counts clients"):
        _ = Masked(plan=plan, client_noise=noise()).signed


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ({"client_noise": "refused"}, "the policy refuses it"),
        ({"max_client_epsilon": 5.0}, "client-level epsilon 5.22.* is above the policy's 5"),
        ({"max_delta": 1e-9}, "delta"),
        ({"assumed_corrupt_clients": 2}, "withstands 1 corrupt clients, at least 2 are assumed"),
    ],
)
def test_a_policy_may_refuse(update: dict[str, Any], message: str) -> None:
    session = noisy()
    policy = session.policy
    policy.model_copy(update={"client_noise": "required", "max_client_epsilon": 5.3}).check(session.descriptor)
    with pytest.raises(PolicyViolation, match=message):
        policy.model_copy(update=update).check(session.descriptor)


def test_a_policy_may_demand() -> None:
    plain = Masked()
    with pytest.raises(PolicyViolation, match="the policy requires it"):
        plain.policy.model_copy(update={"client_noise": "required"}).check(plain.descriptor)
