"""Parties that lie in a ckks session, each by name (protocol.md §13.2 to §13.7).

Whatever is tried, one of two things holds: the sums that come out are exactly those of a set of at least n_min members,
or the attempt is refused with a typed error, and then the key was not touched or the session is burnt.
"""

import base64
import os
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import pytest

from secagg.ckks.client import CkksSealed, accept_session, seal_ckks, wrap_blocks
from secagg.ckks.coordinator import check_arrived, check_opening, fix_set
from secagg.ckks.descriptor import SignedCkksDescriptor, create_ckks_session
from secagg.ckks.keyholder import CkksKeyHolder, ShownUpload
from secagg.ckks.keys import HolderKey
from secagg.ckks.messages import Chosen, KeyOffer, SignedUploadSet, SumOpening, UploadSet
from secagg.ckks.opened import Opened, sums_hash
from secagg.ckks.parameters import ERROR_ROOM, RINGS, CkksParameters
from secagg.ckks.residues import pack
from secagg.ckks.scheme import PublicContext, SecretContext
from secagg.ckks.wrapping import wrap_block
from secagg.descriptor import RosterMember
from secagg.errors import (
    ConflictError,
    EncodingError,
    EndorsementInvalid,
    HashMismatch,
    MalformedError,
    OpeningError,
    PolicyViolation,
    ProtocolViolation,
    RoleViolation,
    SecaggError,
    SessionClosed,
    SignatureInvalid,
    SizeLimitError,
    TooFewContributions,
)
from secagg.privacy import stated
from secagg.run import MemoryJournal, certify
from tests.secagg.ckks.sessions import Ckks
from tests.simulation.lying_ckks_clients import (
    CombinesOthersCiphertexts,
    CopiesAnother,
    ShiftsItsCiphertextByTheKey,
    as_residues,
)
from tests.small import DAY, NOW


@pytest.fixture(scope="module")
def session() -> Ckks:
    made = Ckks()
    assert made.uploads
    return made


@pytest.fixture
def fresh(session: Ckks) -> Ckks:
    return session.again()


# --- the invariants -----------------------------------------------------------------------------------------------


def nothing_opened(fresh: Ckks, attempt: Callable[[], object], kind: type[SecaggError] | tuple[type[SecaggError], ...],
                   match: str = "") -> None:  # fmt: skip
    """The attempt is refused, and the key-holder's key was not so much as loaded."""
    before = fresh.keys.used
    with pytest.raises(kind, match=match or None):
        attempt()
    assert fresh.keys.used == before


def exactly_opened(fresh: Ckks, opened: Opened, members: Iterable[int]) -> None:
    """The sums are those of the values that these members encrypted, to the last digit, and there are enough."""
    chosen = sorted(members)
    assert len(chosen) >= fresh.descriptor.n_min
    expected = np.sum([fresh.values(index).astype(np.uint64) for index in chosen], axis=0)
    assert np.array_equal(opened.sums, expected)


def open_shown(fresh: Ckks, shown: list[ShownUpload], chosen: SignedUploadSet | None = None) -> Opened:
    signed = chosen or fresh.chosen(4)
    return fresh.holder.open(fresh.descriptor, signed, shown, os.urandom, NOW)


def test_an_honest_session_opens_the_exact_sum_of_any_set_that_is_large_enough(session: Ckks) -> None:
    for count in (3, 4, 5):
        fresh = session.again()
        exactly_opened(fresh, fresh.open(count), range(count))


# --- the coordinator ----------------------------------------------------------------------------------------------


def test_a_set_below_n_min_is_not_opened(fresh: Ckks) -> None:
    with pytest.raises(TooFewContributions):
        fresh.chosen(2)
    two = UploadSet(ctx=fresh.descriptor.ctx, members=fresh.chosen(4).statement.members[:2])
    signed = fresh.parties.coordinator.sign(two)
    nothing_opened(fresh, lambda: open_shown(fresh, list(fresh.shown(2)), signed), TooFewContributions,
                   "nothing is opened below 3")  # fmt: skip


def test_overlapping_sets_are_not_opened_one_after_the_other(fresh: Ckks) -> None:
    """Their difference would be one upload."""
    exactly_opened(fresh, fresh.open(4), range(4))
    nothing_opened(fresh, lambda: fresh.open(5), ConflictError, "only one is ever served")
    nothing_opened(fresh, lambda: fresh.open(3), ConflictError, "only one is ever served")
    exactly_opened(fresh, fresh.open(4), range(4))


def test_an_upload_passed_off_as_the_sum_is_refused(fresh: Ckks) -> None:
    """One ciphertext shown for every member: each upload must be the one that its client signed."""
    first = fresh.uploads[0]
    for shown in (
        [ShownUpload(first.signed, first.blocks)],
        [ShownUpload(first.signed, first.blocks)] * 4,
        [ShownUpload(one.signed, first.blocks) for one in fresh.uploads[:4]],
    ):
        nothing_opened(fresh, lambda shown=shown: open_shown(fresh, shown), (ProtocolViolation, HashMismatch))  # type: ignore[misc]


def test_an_altered_ciphertext_is_refused_and_not_held_against_its_client(fresh: Ckks) -> None:
    """Another last block, bent or sealed anew in the client's name: nothing of that upload gets into a sum."""
    shown = list(fresh.shown(4))
    blocks = fresh.uploads[1].blocks
    again = fresh.encrypted(1, fresh.inner(1)).blocks[-1]
    shown[1] = ShownUpload(fresh.uploads[1].signed, (*blocks[:-1], again))
    nothing_opened(fresh, lambda: open_shown(fresh, shown), HashMismatch, "not what the client signed")
    shown[1] = ShownUpload(fresh.uploads[1].signed, (*blocks[:-1], b"\xff" * len(blocks[-1])))
    nothing_opened(fresh, lambda: open_shown(fresh, shown), HashMismatch, "not what the client signed")
    exactly_opened(fresh, fresh.open(4), range(4))


def test_adding_to_the_sum_is_refused(fresh: Ckks) -> None:
    """An upload that is in no set, the same one twice, or one of the coordinator's own making."""
    nothing_opened(fresh, lambda: fresh.open(4, fresh.shown(5)), ProtocolViolation, "not in the set")
    twice = [*fresh.shown(4), *list(fresh.shown(1))]
    nothing_opened(fresh, lambda: open_shown(fresh, twice), ProtocolViolation, "not in the set")
    own = fresh.uploads[4].signed.model_copy(
        update={"signature": fresh.parties.coordinator.sign(fresh.uploads[4].signed.statement).signature}
    )
    members = (*fresh.chosen(4).statement.members, Chosen(client=own.signer, upload=own.statement.digest))
    ordered = tuple(sorted(members, key=lambda one: one.client))
    signed = fresh.parties.coordinator.sign(UploadSet(ctx=fresh.descriptor.ctx, members=ordered))
    forged = [*fresh.shown(4), ShownUpload(own, fresh.uploads[4].blocks)]
    other = fresh.again()
    nothing_opened(other, lambda: open_shown(other, forged, signed), SignatureInvalid)


def test_an_upload_that_is_withheld_is_missed(fresh: Ckks) -> None:
    nothing_opened(fresh, lambda: fresh.open(4, fresh.shown(3)), ProtocolViolation, "does not show 1 uploads")


def test_a_set_of_another_session_or_signed_by_another_is_refused(fresh: Ckks) -> None:
    members = fresh.chosen(4).statement.members
    other = fresh.parties.coordinator.sign(UploadSet(ctx="ab" * 32, members=members))
    nothing_opened(fresh, lambda: open_shown(fresh, list(fresh.shown()), other), ProtocolViolation, "another session")
    forged = fresh.signers[0].sign(fresh.chosen(4).statement)
    nothing_opened(fresh, lambda: open_shown(fresh, list(fresh.shown()), forged), SignatureInvalid)


def test_a_session_that_was_not_approved_is_not_opened(fresh: Ckks) -> None:
    """Nor by a key-holder that lost its journal: it has approved nothing, as far as it knows."""
    holder = replace(fresh.holder, journal=MemoryJournal())
    chosen, shown = fresh.chosen(), fresh.shown()
    nothing_opened(
        fresh, lambda: holder.open(fresh.descriptor, chosen, shown, os.urandom, NOW), ProtocolViolation, "not approved"
    )


def test_one_key_serves_one_session(fresh: Ckks) -> None:
    """Descriptors that differ by client are two sessions; the clients of one never get an approval."""
    roster = [RosterMember(certificate=signer.identity.pem) for signer in fresh.signers]
    offer, pem = fresh.descriptor.offer, fresh.holder.signer.identity.pem
    again = create_ckks_session(fresh.spec, fresh.plan, roster, pem, offer, fresh.parties.coordinator, NOW, os.urandom)
    with pytest.raises(ConflictError, match="this key serves another session"):
        fresh.holder.approve(again, NOW)
    approval = fresh.holder.approve(fresh.signed, NOW)
    with pytest.raises(EndorsementInvalid, match="for another session"):
        accept_session(again, approval, fresh.holder.policy, fresh.parties.authority, NOW)


def test_members_off_the_roster_are_refused(fresh: Ckks) -> None:
    stranger = certify(["Elsewhere"], 0, NOW).clients["Elsewhere"].identity.fingerprint
    members = sorted(
        [*fresh.chosen(4).statement.members, Chosen(client=stranger, upload="ab" * 32)], key=lambda one: one.client
    )
    signed = fresh.parties.coordinator.sign(UploadSet(ctx=fresh.descriptor.ctx, members=tuple(members)))
    nothing_opened(fresh, lambda: open_shown(fresh, list(fresh.shown()), signed), RoleViolation)


def test_a_policy_pins_key_holder_coordinator_model_and_institutions(fresh: Ckks) -> None:
    """Another model, more epsilon, a lower n_min, a roster of inventions."""
    policy = fresh.holder.policy
    approval = fresh.holder.approve(fresh.signed, NOW)
    strange = "cd" * 32
    for changed, words in (
        ({"keyholder": strange}, "key-holder is not the one"),
        ({"coordinator": strange}, "coordinator is not the one"),
        ({"n_min": 4}, "n_min is 3"),
        ({"base_model_hashes": (strange,)}, "base model"),
        ({"max_epsilon": 0.1}, "epsilon"),
        ({"institutions": {str(i): f"{i:064x}" for i in range(4)}}, "inventions of the coordinator"),
    ):
        with pytest.raises(PolicyViolation, match=words):
            accept_session(fresh.signed, approval, policy.model_copy(update=changed), fresh.parties.authority, NOW)


def test_inventions_that_fill_a_set_up_are_refused(fresh: Ckks) -> None:
    """The roster has enough pinned institutions, the set has not."""
    keep = dict(list(fresh.holder.policy.institutions.items())[:3])
    policy = fresh.holder.policy.model_copy(update={"institutions": keep})
    holder = replace(fresh.holder, policy=policy)
    pinned = set(keep.values())
    few = [one for one in fresh.uploads if one.signed.signer not in pinned]
    uploads = {one.signed.signer: one for one in [*few, *[u for u in fresh.uploads if u.signed.signer in pinned][:2]]}
    signed = fix_set(fresh.descriptor, {k: v.signed for k, v in uploads.items()}, fresh.parties.coordinator)
    shown = [ShownUpload(one.signed, one.blocks) for one in uploads.values()]
    nothing_opened(
        fresh, lambda: holder.open(fresh.descriptor, signed, shown, os.urandom, NOW), PolicyViolation, "in the set"
    )


def test_a_client_wants_the_key_holders_own_approval(fresh: Ckks) -> None:
    policy, authority = fresh.holder.policy, fresh.parties.authority
    approval = fresh.holder.approve(fresh.signed, NOW)
    forged = fresh.parties.coordinator.sign(approval.statement)
    with pytest.raises(SignatureInvalid):
        accept_session(fresh.signed, forged, policy, authority, NOW)
    other = fresh.holder.signer.sign(approval.statement.model_copy(update={"ctx": "ab" * 32}))
    with pytest.raises(EndorsementInvalid):
        accept_session(fresh.signed, other, policy, authority, NOW)


def test_games_with_the_clock_are_refused(fresh: Ckks) -> None:
    policy, authority = fresh.holder.policy, fresh.parties.authority
    approval = fresh.holder.approve(fresh.signed, NOW)
    with pytest.raises(SessionClosed):
        accept_session(fresh.signed, approval, policy, authority, NOW + DAY)
    late = fresh.descriptor.expires_at + 1
    chosen, shown = fresh.chosen(), fresh.shown()
    with pytest.raises(SessionClosed, match="expired"):
        fresh.holder.approve(fresh.signed, late)
    nothing_opened(
        fresh, lambda: fresh.holder.open(fresh.descriptor, chosen, shown, os.urandom, late), SessionClosed, "expired"
    )
    moved = fresh.descriptor.model_copy(update={"expires_at": late + DAY})
    with pytest.raises(SignatureInvalid):
        fresh.holder.approve(fresh.signed.model_copy(update={"statement": moved}), NOW)


# --- the client ---------------------------------------------------------------------------------------------------


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
        uploads = [sealed, *fresh.uploads[1:4]]
        chosen = fix_set(fresh.descriptor, {u.signed.signer: u.signed for u in uploads}, fresh.parties.coordinator)
        shown = [ShownUpload(u.signed, u.blocks) for u in uploads]
        holder = replace(fresh.holder, journal=MemoryJournal())
        holder.approve(fresh.signed, NOW)
        nothing_opened(
            fresh, lambda h=holder, c=chosen, s=shown: h.open(fresh.descriptor, c, s, os.urandom, NOW),  # type: ignore[misc]
            MalformedError, f"{sealed.signed.signer[:16]} sent ciphertexts that are none: .*{words}",
        )  # fmt: skip
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


def opened_with(fresh: Ckks, bent: CkksSealed) -> Opened:
    """The opening of a set with this upload in it, by a key-holder that has recorded nothing yet."""
    uploads = [bent, *fresh.uploads[1:4]]
    holder = replace(fresh.holder, journal=MemoryJournal())
    holder.approve(fresh.signed, NOW)
    chosen = fix_set(fresh.descriptor, {one.signed.signer: one.signed for one in uploads}, fresh.parties.coordinator)
    shown = [ShownUpload(one.signed, one.blocks) for one in uploads]
    return holder.open(fresh.descriptor, chosen, shown, os.urandom, NOW)


def test_a_client_that_has_the_key_published_can_decrypt_no_stored_upload(fresh: Ckks) -> None:
    """Of what only the key-holder has the key that got out would open all; of what is stored it opens nothing."""
    liar, parameters = ShiftsItsCiphertextByTheKey(fresh, 0, members=4), fresh.descriptor.parameters
    sealed, public = liar.upload(), fresh.descriptor.public
    check_arrived(fresh.descriptor, sealed.signed, sealed.blocks)
    key = liar.key_in(opened_with(fresh, sealed).sums)
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
    with pytest.raises(OpeningError, match="error of the sum"):
        opened_with(fresh, sealed)


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
        nothing_opened(
            fresh, lambda one=bent: opened_with(fresh, one),  # type: ignore[misc]
            MalformedError, f"client {name[:16]} sent ciphertexts that are none: block . does not open",
        )  # fmt: skip


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
        with pytest.raises(OpeningError, match=words):
            opened_with(fresh, bent)


def test_values_beyond_the_clip_that_stay_in_their_limb_are_seen_only_when_the_sum_is_too_large(fresh: Ckks) -> None:
    """The limit of this protocol (§13.7): one value too many is not seen, a sum above n (2^b - 1) is."""
    parameters = fresh.descriptor.parameters
    scale = 1 << parameters.scale_log2
    little = fresh.encrypted(0, tuple(fresh.shifted(block, scale) for block in fresh.inner(0)))
    opened = opened_with(fresh, little)
    honest = np.sum([fresh.values(index).astype(np.int64) for index in range(4)], axis=0)
    changed = opened.sums.astype(np.int64) - honest
    assert set(np.unique(changed)) == {0, 1}
    large = parameters.base - 1 - int(honest.max())
    much = fresh.encrypted(0, tuple(fresh.shifted(block, large * scale) for block in fresh.inner(0)))
    with pytest.raises(OpeningError, match="larger than its members"):
        opened_with(fresh, much)


def test_values_that_are_not_finite_are_not_sealed(fresh: Ckks) -> None:
    change = fresh.changes[0].copy()
    change[3] = np.nan
    with pytest.raises(EncodingError):
        seal_ckks(fresh.descriptor, fresh.signers[0], change, stated(fresh.plan.training, "test"), os.urandom)


# --- the key-holder -----------------------------------------------------------------------------------------------


def test_sums_that_are_not_as_signed_are_refused(fresh: Ckks) -> None:
    opened, chosen = fresh.open(4), fresh.chosen(4).statement
    other = opened.sums.copy()
    other[0] += 1
    with pytest.raises(HashMismatch):
        check_opening(fresh.descriptor, chosen, Opened(opened.signed, other))
    with pytest.raises(HashMismatch):
        check_opening(fresh.descriptor, chosen, Opened(opened.signed, opened.sums[:-1]))
    with pytest.raises(ProtocolViolation):
        check_opening(fresh.descriptor, fresh.chosen(5).statement, opened)
    forged = fresh.parties.coordinator.sign(opened.signed.statement)
    with pytest.raises(SignatureInvalid):
        check_opening(fresh.descriptor, chosen, Opened(forged, opened.sums))


def test_sums_that_no_members_could_make_are_refused(fresh: Ckks) -> None:
    """The signature is right. Sums within the range that are not those of the uploads are not seen (§13.6.1)."""
    opened, chosen = fresh.open(4), fresh.chosen(4).statement
    large = np.full_like(opened.sums, 2**31)
    word = SumOpening.model_validate({**opened.signed.statement.model_dump(), "sums": sums_hash(large)})
    with pytest.raises(OpeningError, match="larger than its members"):
        check_opening(fresh.descriptor, chosen, Opened(fresh.holder.signer.sign(word), large))


def test_a_public_key_of_another_form_is_refused(session: Ckks) -> None:
    ring = session.descriptor.parameters.ring
    secret, other = SecretContext.generate(ring), RINGS["n8192q175"]
    assert other != ring
    raw = secret.public.raw
    for bad in (b"", b"x" * 50, raw[:-8], raw + bytes(8), secret.to_bytes(), SecretContext.generate(other).public.raw):
        with pytest.raises(SizeLimitError, match="a public key has"):
            PublicContext(bad, ring)
    for bad, words in (
        (b"\xff" * ring.key_bytes, "below its prime"),
        (bytes(ring.key_bytes), "zero"),
        (raw[: ring.key_bytes // 2] + bytes(ring.key_bytes // 2), "zero"),
    ):
        with pytest.raises(MalformedError, match=words):
            PublicContext(bad, ring)


def with_key(polynomials: np.ndarray, session: Ckks) -> SignedCkksDescriptor:
    """The session of a key-holder that offers this public key."""
    ring, holder = session.descriptor.parameters.ring, session.holder
    raw = pack(polynomials.astype(np.uint64), (*ring.widths, ring.special.bit_length()))
    update = {"context": base64.b64encode(raw).decode()}
    offer = holder.signer.sign(session.descriptor.offer.statement.model_copy(update=update))
    roster, pem = (
        [RosterMember(certificate=signer.identity.pem) for signer in session.signers],
        holder.signer.identity.pem,
    )
    return create_ckks_session(
        session.spec, session.plan, roster, pem, offer, session.parties.coordinator, NOW, os.urandom
    )


def test_a_public_key_that_encrypts_nothing_is_refused_before_anybody_trains(session: Ckks) -> None:
    """It has the form of one: b = a = 1, which SEAL refuses to use; one residue in each, which would hide nothing."""
    ring, holder = session.descriptor.parameters.ring, session.holder
    shape = (2, len(ring.primes) + 1, ring.degree)
    ones, single = np.ones(shape), np.zeros(shape)
    single[:, 0, 0] = 1
    for polynomials, words in ((ones, "encrypts nothing"), (single, "zero modulo a prime")):
        signed = with_key(polynomials, session)
        journal = replace(holder, journal=MemoryJournal())
        approval = journal.approve(signed, NOW)
        with pytest.raises(MalformedError, match=words):
            accept_session(signed, approval, holder.policy, session.parties.authority, NOW)


def test_an_hpke_key_that_seals_nothing_is_refused_before_anybody_trains(session: Ckks) -> None:
    offer, holder = session.descriptor.offer.statement, session.holder
    roster = [RosterMember(certificate=signer.identity.pem) for signer in session.signers]
    for bad in ("", "00" * 40, offer.hpke_key[:-2], offer.hpke_key[: 2 * 1184] + "00" * 32, "ff" * 1216):
        signed = holder.signer.sign(offer.model_copy(update={"hpke_key": bad}))
        with pytest.raises(MalformedError, match="session key"):
            create_ckks_session(
                session.spec, session.plan, roster, holder.signer.identity.pem, signed, session.parties.coordinator,
                NOW, os.urandom,
            )  # fmt: skip


def test_stored_keys_of_which_a_bit_has_changed_are_not_used(session: Ckks) -> None:
    raw = session.kept.to_bytes()
    found = HolderKey.from_bytes(raw)
    assert found.unwrap(session.uploads[0].blocks[0], session.place(0, 0)) == session.inner(0)[0]
    for at in (0, 31, 32, 100, 127, 128, 160, 170, len(raw) - 1):
        bent = raw[:at] + bytes([raw[at] ^ 4]) + raw[at + 1 :]
        with pytest.raises(MalformedError, match="damaged"):
            HolderKey.from_bytes(bent).secret()
    for cut in (b"", raw[:60], raw[:128], raw[:-1], raw + b"x", bytes(len(raw))):
        with pytest.raises(MalformedError, match="damaged"):
            HolderKey.from_bytes(cut).secret()


def test_a_descriptor_with_a_key_of_another_ring_or_no_base64_is_refused(session: Ckks) -> None:
    roster = [RosterMember(certificate=signer.identity.pem) for signer in session.signers]
    holder = session.holder
    wide = holder.offer(16, 1000, 10**6, NOW, DAY)
    with pytest.raises(MalformedError, match="ask for an offer with its n_max"):
        create_ckks_session(
            session.spec, session.plan, roster, holder.signer.identity.pem, wide, session.parties.coordinator, NOW,
            os.urandom,
        )  # fmt: skip
    with pytest.raises(MalformedError, match="base64"):
        _ = KeyOffer.model_validate({**wide.statement.model_dump(), "context": "***"}).raw
    assert base64.b64decode(wide.statement.context)


def test_a_second_answer_is_the_first_one(fresh: Ckks) -> None:
    """Whatever the flooding noise: so a key-holder that is asked again tells nothing more."""
    first, again = fresh.open(4), fresh.open(4)
    assert first.signed.to_bytes() == again.signed.to_bytes()
    assert np.array_equal(first.sums, again.sums)


def test_a_key_holder_that_forgot_its_set_can_be_made_to_open_two(fresh: Ckks) -> None:
    """Restored from a backup that is older than its set: **nothing stops it** but that its key is erased in time.

    What does not get out is more than one release: the coordinator takes one opening a session (§13.5.5).
    """
    journal = MemoryJournal()
    restored = replace(fresh.holder, journal=journal)
    restored.approve(fresh.signed, NOW)
    exactly_opened(fresh, fresh.open(4), range(4))
    second = restored.open(fresh.descriptor, fresh.chosen(5), fresh.shown(5), os.urandom, NOW)
    exactly_opened(fresh, second, range(5))
    with pytest.raises(ProtocolViolation, match="another session or set"):
        check_opening(fresh.descriptor, fresh.chosen(4).statement, second)


def test_an_erased_key_opens_nothing_for_whoever_restores_the_rest(session: Ckks) -> None:
    fresh = Ckks()
    assert fresh.uploads
    fresh.holder.forget(fresh.descriptor)
    restored = CkksKeyHolder(
        fresh.holder.signer, fresh.holder.policy, fresh.holder.authority, MemoryJournal(), fresh.keys
    )
    restored.approve(fresh.signed, NOW)
    with pytest.raises(SessionClosed, match="erased"):
        restored.open(fresh.descriptor, fresh.chosen(), fresh.shown(), os.urandom, NOW)


# --- the network --------------------------------------------------------------------------------------------------


def test_uploads_in_another_order_give_the_same_sums(fresh: Ckks) -> None:
    shown = list(reversed(list(fresh.shown(5))))
    exactly_opened(fresh, fresh.open(5, shown), range(5))


def test_an_upload_that_is_cut_is_not_taken(fresh: Ckks) -> None:
    """By the coordinator as it comes in, and by the key-holder as it is shown."""
    good = fresh.uploads[0]
    for blocks in (good.blocks[:-1], (), (*good.blocks[:-1], good.blocks[-1][:-8])):
        with pytest.raises((HashMismatch, SizeLimitError)):
            check_arrived(fresh.descriptor, good.signed, blocks)
        shown = [ShownUpload(good.signed, blocks), *list(fresh.shown(4))[1:]]
        nothing_opened(fresh, lambda s=shown: open_shown(fresh, s), (HashMismatch, SizeLimitError))  # type: ignore[misc]
    exactly_opened(fresh, fresh.open(4), range(4))
