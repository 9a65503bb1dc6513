"""A ckks session with client-level noise, from the descriptor to the verified release (protocol.md §13, §14)."""

import os
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from secagg.canonical import canonical_bytes
from secagg.certificate import CERTIFICATE, FILES, MODEL_CARD
from secagg.ckks.certificate import SignedCkksRelease
from secagg.ckks.client import CkksSealed
from secagg.ckks.coordinator import check_arrived, check_opening, fix_set
from secagg.ckks.keyholder import ShownUpload
from secagg.ckks.release import CkksParts, build_ckks_release
from secagg.ckks.run import run_ckks
from secagg.ckks.verify import verify_ckks
from secagg.client_noise.setting import ClientNoise
from secagg.errors import MalformedError, PolicyViolation, VerificationError
from secagg.release import sign_files
from secagg.run import MemoryJournal
from tests.secagg.ckks.sessions import SPEC, Ckks
from tests.small import NOW, changes, small_plan


def noise(**changes: Any) -> ClientNoise:
    values = {"clip": 60.0, "noise_multiplier": 0.9, "colluders": 1, "delta": 1e-6, "accept_noise_over_signal": True}
    return ClientNoise.model_validate(values | changes)


def session(setting: ClientNoise | None) -> Ckks:
    return Ckks(spec=SPEC.model_copy(update={"client_noise": setting}))


@cache
def noisy() -> Ckks:
    """Five clients, of whom four are in the set: the fifth has vanished."""
    made = session(noise())
    assert made.uploads
    return made


@cache
def parts() -> CkksParts:
    made = noisy()
    chosen = made.chosen(4)
    uploads = {one.signed.signer: one.signed for one in made.uploads[:4]}
    members = tuple(uploads[member.client] for member in chosen.statement.members)
    approval = made.holder.approve(made.signed, NOW)
    return CkksParts(made.signed, approval, members, chosen, made.open(4), (), NOW + 9)


@cache
def released() -> dict[str, bytes]:
    return build_ckks_release(parts(), noisy().parties.coordinator, {"secagg": "0"}, lambda _: b"page")


def stating(made: Ckks, index: int, lie: dict[str, Any] | None) -> CkksSealed:
    """A client's upload that says something else of its noise; nothing at all for None."""
    sealed = made.uploads[index]
    stated = sealed.signed.statement.privacy
    level = stated.client_level.model_copy(update=lie) if lie is not None and stated.client_level else None
    privacy = stated.model_copy(update={"client_level": level})
    statement = sealed.signed.statement.model_copy(update={"privacy": privacy})
    return CkksSealed(made.signers[index].sign(statement), sealed.blocks)


def test_a_session_without_noise_is_the_bytes_it_always_was() -> None:
    plain = session(None)
    assert b"client_noise" not in canonical_bytes(plain.descriptor)
    assert plain.descriptor.noise_grid is None
    assert b"client_level" not in plain.seal(0).signed.to_bytes()


def test_the_mean_carries_the_noise_that_was_said() -> None:
    made, grid = noisy(), noisy().descriptor.noise_grid
    assert grid is not None
    mean = check_opening(made.descriptor, parts().final.statement, parts().opened)
    error = (mean - np.mean(made.changes[:4], axis=0)) * grid.scale / 0.5  # none is beyond its clips
    assert error.std() == pytest.approx(((float(grid.variance) + 0.25) / 4) ** 0.5, rel=0.05)
    assert int(parts().opened.sums.max()) <= 4 * 2 * grid.half


def test_a_run_in_memory_with_a_client_that_vanishes() -> None:
    setting = noise(clip=4.0, noise_multiplier=1.0)
    run = run_ckks(
        small_plan(300), changes(4, 300), now=NOW, random=os.urandom, vanish=["Hospital 2"],
        spec=SPEC.model_copy(update={"client_noise": setting}),
    )  # fmt: skip
    assert len(run.uploads) == 3
    assert run.mean.std() > 3 * np.mean(list(changes(4, 300).values()), axis=0).std()


def test_every_client_signs_what_it_adds() -> None:
    stated = noisy().uploads[0].signed.statement.privacy.client_level
    assert stated is not None
    assert stated == noisy().descriptor.client_statement
    assert (stated.unit, stated.adjacency, stated.releases) == ("client", "zero-out-one", 1)


@pytest.mark.parametrize("lie", [None, {"noise_multiplier": 0.5}, {"delta": 1e-5}, {"colluders": 0}, {"releases": 2}])
def test_a_client_that_states_other_noise_is_refused_by_coordinator_and_key_holder(lie: dict[str, Any] | None) -> None:
    made = noisy()
    false = stating(made, 0, lie)
    with pytest.raises(PolicyViolation, match="other client-level noise"):
        check_arrived(made.descriptor, false.signed, false.blocks)
    uploads = [false, *made.uploads[1:4]]
    shown = [ShownUpload(one.signed, one.blocks) for one in uploads]
    chosen = fix_set(made.descriptor, {one.signed.signer: one.signed for one in uploads}, made.parties.coordinator)
    fresh = replace(made.holder, journal=MemoryJournal())
    fresh.approve(made.signed, NOW)
    with pytest.raises(PolicyViolation, match="other client-level noise"):
        fresh.open(made.descriptor, chosen, shown, os.urandom, NOW)


def test_the_release_verifies_and_says_what_it_protects() -> None:
    report = verify_ckks(released(), noisy().holder.policy)
    note = report.certificate.privacy_note
    assert "Client-level: were the whole change of one member zero" in note
    assert note.encode() in released()[MODEL_CARD]
    assert any("signed for its share of the client-level noise" in check for check in report.checks)


def resigned(**update: object) -> dict[str, bytes]:
    """The coordinator lies, and signs it."""
    certificate = SignedCkksRelease.parse(released()[CERTIFICATE]).statement.model_copy(update=update)
    return sign_files(certificate, noisy().parties.coordinator, {name: released()[name] for name in FILES})


def test_a_coordinator_that_claims_more_privacy_is_found_out() -> None:
    note = SignedCkksRelease.parse(released()[CERTIFICATE]).statement.privacy_note
    with pytest.raises(VerificationError, match="privacy_note"):
        verify_ckks(resigned(privacy_note=note.split(" Client-level")[0]), noisy().holder.policy)


@pytest.mark.parametrize("lie", [None, {"noise_multiplier": 2.0}, {"delta": 1e-9}])
def test_a_coordinator_that_took_a_client_without_the_noise_is_found_out(lie: dict[str, Any] | None) -> None:
    uploads = SignedCkksRelease.parse(released()[CERTIFICATE]).statement.uploads
    index = next(i for i, one in enumerate(noisy().uploads) if one.signed.signer == uploads[0].signer)
    with pytest.raises(PolicyViolation, match="other client-level noise"):
        verify_ckks(resigned(uploads=(stating(noisy(), index, lie).signed, *uploads[1:])), noisy().holder.policy)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (noise(accept_noise_over_signal=False, clip=4.0), "mostly noise"),
        (noise(noise_multiplier=500.0), "does not fit 16 bits"),
        (noise(colluders=3), "nobody is left"),
        (noise(noise_multiplier=0.1), "not accounted"),
    ],
)
def test_a_session_that_does_not_hold_is_not_made(setting: ClientNoise, message: str) -> None:
    with pytest.raises(MalformedError, match=message):
        _ = session(setting).signed


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ({"client_noise": "refused"}, "the policy refuses it"),
        ({"max_client_epsilon": 5.0}, "is above the policy's 5"),
        ({"max_delta": 1e-9}, "delta"),
        ({"assumed_corrupt_clients": 2}, "would be too little"),
    ],
)
def test_a_policy_may_refuse(update: dict[str, Any], message: str) -> None:
    made = noisy()
    made.holder.policy.model_copy(update={"client_noise": "required", "max_client_epsilon": 6.3}).check(made.descriptor)
    with pytest.raises(PolicyViolation, match=message):
        made.holder.policy.model_copy(update=update).check(made.descriptor)


def test_a_policy_may_demand() -> None:
    plain = session(None)
    with pytest.raises(PolicyViolation, match="the policy requires it"):
        plain.holder.policy.model_copy(update={"client_noise": "required"}).check(plain.descriptor)


def test_an_auditor_who_assumes_more_colluders_refuses_the_release() -> None:
    stricter = noisy().holder.policy.model_copy(update={"assumed_corrupt_clients": 2})
    with pytest.raises(PolicyViolation, match="would be too little"):
        verify_ckks(released(), stricter)
