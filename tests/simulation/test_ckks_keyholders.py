"""Key-holders that lie in a ckks session or come back from a backup, and what one may offer (§13.3, §13.5)."""

import base64
import os
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from secagg.ckks.client import accept_session
from secagg.ckks.coordinator import check_opening
from secagg.ckks.descriptor import SignedCkksDescriptor, create_ckks_session
from secagg.ckks.keyholder import CkksKeyHolder, ShownUpload
from secagg.ckks.keys import HolderKey
from secagg.ckks.messages import KeyOffer, SumOpening
from secagg.ckks.opened import Opened, sums_hash
from secagg.ckks.parameters import RINGS
from secagg.ckks.residues import pack
from secagg.ckks.scheme import PublicContext, SecretContext
from secagg.descriptor import RosterMember
from secagg.errors import (
    HashMismatch,
    MalformedError,
    OpeningError,
    ProtocolViolation,
    SessionClosed,
    SignatureInvalid,
    SizeLimitError,
    StorageError,
)
from secagg.run import MemoryJournal
from tests.secagg.ckks.sessions import SPEC, Ckks
from tests.simulation.ckks_session import exactly_opened
from tests.small import DAY, NOW


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


def test_times_out_of_order_and_offers_that_do_not_cover_the_session_are_refused(session: Ckks) -> None:
    holder, late = session.holder, SPEC.model_copy(update={"upload_seconds": DAY})
    longer, offer = SPEC.model_copy(update={"expiry_seconds": DAY + 1}), session.descriptor.offer
    later = holder.offer(16, 5, session.plan.length, NOW + 1, DAY)
    roster = [RosterMember(certificate=signer.identity.pem) for signer in session.signers]
    for spec, given, words in (
        (late, offer, "in the order"),
        (longer, offer, "does not cover the session"),
        (SPEC, later, "does not cover the session"),
    ):
        with pytest.raises(MalformedError, match=words):
            create_ckks_session(
                spec, session.plan, roster, holder.signer.identity.pem, given, session.parties.coordinator, NOW,
                os.urandom,
            )  # fmt: skip


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
    exactly_opened(fresh, second, range(5), restored)
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


@pytest.mark.parametrize("change", ["a bit", "a block less", "a block more", "half a block"])
def test_what_its_own_disk_changes_is_not_held_against_a_client(fresh: Ckks, change: str) -> None:
    """An upload is checked in one reading and opened in another: what lies between is the key-holder's own trouble."""
    first = fresh.uploads[0]

    class Spooled:
        """The blocks, changed after they were read once."""

        readings = 0

        def __iter__(self) -> Iterator[bytes]:
            self.readings += 1
            blocks = list(first.blocks)
            if self.readings > 1:
                match change:
                    case "a bit":
                        blocks[-1] = blocks[-1][:-1] + bytes([blocks[-1][-1] ^ 1])
                    case "a block less":
                        blocks.pop()
                    case "a block more":
                        blocks.append(blocks[0])
                    case _:
                        blocks[-1] = blocks[-1][: len(blocks[-1]) // 2]
            return iter(blocks)

    for place in (0, 1):  # begins the sum, or is added to it
        honest = [ShownUpload(one.signed, one.blocks) for one in fresh.uploads[1:4]]
        shown = [*honest[:place], ShownUpload(first.signed, Spooled()), *honest[place:]]
        before = fresh.keys.used
        with pytest.raises(StorageError, match="has changed on this machine since it was checked"):
            fresh.holder.open(fresh.descriptor, fresh.chosen(4), shown, os.urandom, NOW)
        assert fresh.keys.used == before
        assert fresh.holder.refusal(fresh.descriptor) is None
    exactly_opened(fresh, fresh.open(4), range(4))
