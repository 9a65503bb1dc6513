"""Clients that lie in a ckks session, each by name (protocol.md §13.2, §13.4, §13.5)."""

import os
import re

import numpy as np
import pytest

from secagg.ckks.client import seal_ckks, wrap_blocks
from secagg.ckks.coordinator import check_arrived
from secagg.ckks.keyholder import ShownUpload
from secagg.ckks.keys import HolderKey
from secagg.ckks.parameters import ERROR_ROOM, CkksParameters
from secagg.ckks.scheme import SecretContext
from secagg.ckks.wrapping import wrap_block
from secagg.errors import (
    EncodingError,
    HashMismatch,
    MalformedError,
    OpeningError,
    PolicyViolation,
    ProtocolViolation,
    RoleViolation,
    SignatureInvalid,
    SizeLimitError,
    Unopenable,
)
from secagg.privacy import stated
from secagg.run import certify
from tests.secagg.ckks.sessions import Ckks
from tests.simulation.ckks_session import exactly_opened, lowest_limbs, named_in, open_shown, opened_with
from tests.simulation.ends import ckks_end
from tests.simulation.invariants import check_ckks, nothing_opened
from tests.simulation.lying_ckks_clients import (
    CombinesOthersCiphertexts,
    CopiesAnother,
    ShiftsItsCiphertextByTheKey,
    as_residues,
)
from tests.small import NOW


def test_what_is_no_ciphertext_of_the_session_is_refused_and_its_client_named(fresh: Ckks) -> None:
    """What is sealed only the key-holder sees, and refuses; the coordinator sees sizes, and refuses those."""
    good, ring = fresh.uploads[0].blocks, fresh.descriptor.parameters.ring
    own = fresh.inner(0)
    wide = CkksParameters(16, 5, 10**6)
    assert wide.ring != ring
    other = SecretContext.generate(wide.ring).public.encrypt(wide, np.ones((wide.limbs, wide.ring.degree), np.uint32))
    bare = own[0][: ring.block_bytes // 2] + bytes(ring.block_bytes // 2)
    for bad, words in ((bare, "hides nothing"), (b"\xff" * ring.block_bytes, "below its prime")):
        sealed = fresh.encrypted(0, (bad, *own[1:]))
        check_arrived(fresh.descriptor, sealed.signed, sealed.blocks)
        before = fresh.keys.used
        end = opened_with(fresh, sealed)
        assert isinstance(end.error, Unopenable)
        assert named_in(end) == sealed.signed.signer
        assert re.search(f"{sealed.signed.signer[:16]} sent ciphertexts that are none: .*{words}", str(end.error))
        assert fresh.keys.used == before
    for bad in (b"x", os.urandom(1000), good[0][:-5], other, b""):
        sealed = fresh.lied(0, (bad, *good[1:]))
        with pytest.raises(HashMismatch, match="announces"):
            check_arrived(fresh.descriptor, sealed.signed, sealed.blocks)
        sealed = fresh.lied(0, (bad, *good[1:]), bytes=fresh.descriptor.parameters.upload_bytes)
        with pytest.raises(SizeLimitError):
            check_arrived(fresh.descriptor, sealed.signed, sealed.blocks)


def test_an_upload_of_another_length_session_client_or_privacy_is_refused(fresh: Ckks) -> None:
    good = fresh.uploads[0]
    with pytest.raises(HashMismatch, match="announces"):
        check_arrived(fresh.descriptor, fresh.lied(0, good.blocks[1:]).signed, good.blocks[1:])
    with pytest.raises(HashMismatch, match="not what the client signed"):
        check_arrived(fresh.descriptor, good.signed, good.blocks[:-1])
    with pytest.raises(HashMismatch, match="more blocks"):
        check_arrived(fresh.descriptor, good.signed, (*good.blocks, good.blocks[0]))
    with pytest.raises(HashMismatch, match="not what the client signed"):
        check_arrived(fresh.descriptor, good.signed, tuple(reversed(good.blocks)))
    weaker = good.signed.statement.privacy.model_copy(update={"epsilon": 100.0})
    with pytest.raises(PolicyViolation):
        check_arrived(fresh.descriptor, fresh.lied(0, good.blocks, privacy=weaker).signed, good.blocks)


def test_a_replay_from_another_session_and_a_stolen_name_are_refused(fresh: Ckks) -> None:
    good, other = fresh.uploads[0], Ckks(parties=fresh.parties)
    assert other.descriptor.ctx != fresh.descriptor.ctx
    with pytest.raises(ProtocolViolation, match="another session or client"):
        check_arrived(other.descriptor, good.signed, good.blocks)
    named = fresh.signers[1].identity.fingerprint
    with pytest.raises(ProtocolViolation, match="another session or client"):
        check_arrived(fresh.descriptor, fresh.lied(0, good.blocks, client=named).signed, good.blocks)
    stolen = good.signed.model_copy(update={"signer": named})
    with pytest.raises(SignatureInvalid):
        check_arrived(fresh.descriptor, stolen, good.blocks)
    stranger = certify(["Elsewhere"], 0, NOW).clients["Elsewhere"]
    with pytest.raises(RoleViolation):
        check_arrived(fresh.descriptor, stranger.sign(good.signed.statement), good.blocks)


def test_a_client_with_two_uploads_is_summed_with_the_one_of_the_set(fresh: Ckks) -> None:
    """It signed both; the set names one, and the other is refused. (The coordinator takes no second one: §7.2.)"""
    second = fresh.seal(0)
    assert second.signed != fresh.uploads[0].signed
    shown = [ShownUpload(second.signed, second.blocks), *list(fresh.shown(4))[1:]]
    nothing_opened(fresh, lambda: open_shown(fresh, shown), ProtocolViolation, "not in the set")
    exactly_opened(fresh, fresh.open(4), range(4))


def test_a_client_that_has_the_key_published_can_decrypt_no_stored_upload(fresh: Ckks) -> None:
    """Of what only the key-holder has the key that got out would open all; of what is stored it opens nothing."""
    liar, parameters = ShiftsItsCiphertextByTheKey(fresh, 0, members=4), fresh.descriptor.parameters
    sealed, public = liar.upload(), fresh.descriptor.public
    check_arrived(fresh.descriptor, sealed.signed, sealed.blocks)
    end = ckks_end(fresh, [sealed, *fresh.uploads[1:4]])
    assert end.opened is not None
    key = liar.key_in(end.opened.sums)
    end.sent = {sealed.signed.signer: liar.sent(key)}
    check_ckks(end)
    start, last = (parameters.blocks - 1) * parameters.block_values, fresh.inner(1)[-1]
    held, error, beyond = liar.decrypted(key, public.read(last))
    assert np.array_equal(held[: parameters.length - start], fresh.values(1)[start:])  # it is the key
    assert (error <= ERROR_ROOM, beyond) == (True, 0)
    for number, block in enumerate(fresh.uploads[1].blocks):
        with pytest.raises(SizeLimitError):
            public.read(block)
        _, error, _ = liar.decrypted(key, as_residues(parameters.ring, block))
        assert error > ERROR_ROOM
        with pytest.raises(MalformedError, match="does not open"):
            HolderKey.generate(parameters.ring).unwrap(block, fresh.place(1, number))


def test_sealed_blocks_cannot_be_combined(fresh: Ckks) -> None:
    """Were they ciphertexts, the sum of four would be the vector of the one that is left out."""
    liar = CombinesOthersCiphertexts(fresh, 0, others=(1, 2))
    sealed = liar.upload()
    check_arrived(fresh.descriptor, sealed.signed, sealed.blocks)
    end = opened_with(fresh, sealed)
    assert isinstance(end.error, OpeningError)
    assert "error of the sum" in str(end.error)
    assert not named_in(end)


def test_a_block_opens_for_its_client_session_and_place_alone(fresh: Ckks) -> None:
    """Another's blocks, its own in another order or one twice, and its own of another session."""
    own, other = fresh.uploads[0].blocks, Ckks(parties=fresh.parties)
    assert len(own) > 1
    name = fresh.signers[0].identity.fingerprint
    elsewhere = wrap_blocks(other.descriptor, name, fresh.inner(0))
    to_us = [wrap_block(block, fresh.descriptor.hpke_key, other.place(0, i)) for i, block in enumerate(fresh.inner(0))]
    for bent in (
        CopiesAnother(fresh, 0, other=1).upload(),
        fresh.lied(0, (*own[1:], own[0])),
        fresh.lied(0, (own[0], *own[:-1])),
        fresh.lied(0, elsewhere),
        fresh.lied(0, tuple(to_us)),
    ):
        check_arrived(fresh.descriptor, bent.signed, bent.blocks)
        before = fresh.keys.used
        end = opened_with(fresh, bent)
        assert isinstance(end.error, Unopenable)
        assert named_in(end) == name
        assert re.search(f"client {name[:16]} sent ciphertexts that are none: block . does not open", str(end.error))
        assert fresh.keys.used == before


def test_values_that_leave_their_coefficient_burn_the_session(fresh: Ckks) -> None:
    """A client that encrypts other than the encoding gives: fractions, negative numbers, too large ones."""
    parameters = fresh.descriptor.parameters
    scale, top = 1 << parameters.scale_log2, parameters.base**parameters.limbs
    for amount, words in (
        (scale // 2, "error of the sum"),
        (-scale // 3, "error of the sum"),
        (top * scale, "more than their limbs"),
        (-top * scale, "less than nothing"),
    ):
        bent = fresh.encrypted(0, tuple(fresh.shifted(block, amount) for block in fresh.inner(0)))
        end = opened_with(fresh, bent)
        assert isinstance(end.error, OpeningError)
        assert words in str(end.error)


def test_values_beyond_the_clip_that_stay_in_their_limb_are_seen_only_when_the_sum_is_too_large(fresh: Ckks) -> None:
    """The limit of this protocol (§13.7): one value too many is not seen, a sum above n (2^b - 1) is."""
    parameters = fresh.descriptor.parameters
    scale = 1 << parameters.scale_log2
    little = fresh.encrypted(0, tuple(fresh.shifted(block, scale) for block in fresh.inner(0)))
    end = opened_with(fresh, little, fresh.values(0) + lowest_limbs(fresh))
    assert end.opened is not None
    honest = np.sum([fresh.values(index).astype(np.int64) for index in range(4)], axis=0)
    assert set(np.unique(end.opened.sums.astype(np.int64) - honest)) == {0, 1}
    large = parameters.base - 1 - int(honest.max())
    much = fresh.encrypted(0, tuple(fresh.shifted(block, large * scale) for block in fresh.inner(0)))
    burnt = opened_with(fresh, much)
    assert isinstance(burnt.error, OpeningError)
    assert "larger than its members" in str(burnt.error)
    names = [one.identity.institution for one in fresh.signers] + [one.identity.fingerprint for one in fresh.signers]
    assert not [name for name in names if name[:16] in str(burnt.error)], "nobody can be named"


def test_values_that_are_not_finite_are_not_sealed(fresh: Ckks) -> None:
    change = fresh.changes[0].copy()
    change[3] = np.nan
    with pytest.raises(EncodingError):
        seal_ckks(fresh.descriptor, fresh.signers[0], change, stated(fresh.plan.training, "test"), os.urandom)
