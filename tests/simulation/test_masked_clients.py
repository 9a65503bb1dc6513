"""Clients that lie in a masked session, each by name (protocol.md §12.3 to §12.7, §12.10)."""

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from secagg.client_noise.statement import ClientStatement
from secagg.errors import (
    ConflictError,
    HashMismatch,
    MalformedError,
    PolicyViolation,
    ProtocolViolation,
    RoleViolation,
    SignatureInvalid,
    SizeLimitError,
)
from secagg.masked.client import MaskedClient, make_leaves
from secagg.masked.messages import SharingMessage, leaf_data
from secagg.masked.server import AdvertiseRound
from secagg.masked.sharing import Secret
from secagg.masked.vectors import MaskedTotal, vector_root
from secagg.masked.verify import verify_masked
from secagg.merkle import root
from secagg.privacy import stated
from secagg.run import MemoryJournal, certify
from tests.secagg.masked.sessions import Masked
from tests.simulation.ends import masked_end
from tests.simulation.invariants import check_masked
from tests.simulation.masked_session import burnt, exact
from tests.small import NOW


def test_an_honest_masked_session_opens_the_exact_sum() -> None:
    assert exact(Masked()) == (0, 1, 2, 3, 4, 5)
    assert exact(Masked(clients=7, absent={"upload": {1}, "endorse": {4}}, dropout_rate=0.3)) == (0, 2, 3, 4, 5, 6)


def test_a_client_that_shares_another_key_than_it_uses_is_named_when_it_vanishes() -> None:
    session = Masked(absent={"upload": {2}})
    shared, message = session.shared[2]
    leaves = make_leaves(shared.receiver, shared.holders, Secret(os.urandom(32)), "share", os.urandom)
    statement = message.signed.statement.model_copy(
        update={"root": root(leaf_data(leaf.commitment, leaf.box) for leaf in leaves).hex()}
    )
    session.shared[2] = shared, SharingMessage(session.signers[2].sign(statement), leaves)
    burnt(session, session.signers[2].identity.title)


def test_a_client_that_shares_another_self_mask_than_it_uses_is_named() -> None:
    session = Masked()
    message = session.uploaded[1][1]
    statement = message.signed.statement.model_copy(update={"self_mask": "00" * 32})
    lie = replace(message, signed=session.signers[1].sign(statement))
    session.uploaded[1] = session.uploaded[1][0], lie
    burnt(session, session.signers[1].identity.title)


def test_a_client_whose_boxes_do_not_open_is_complained_about_and_the_sum_still_comes_out() -> None:
    session = Masked()
    shared, message = session.shared[4]
    bad = replace(message.leaves[0], box=bytes(len(message.leaves[0].box)))
    leaves = (bad, *message.leaves[1:])
    statement = message.signed.statement.model_copy(
        update={"root": root(leaf_data(leaf.commitment, leaf.box) for leaf in leaves).hex()}
    )
    session.shared[4] = shared, SharingMessage(session.signers[4].sign(statement), leaves)
    assert session.uploaded[0][1].signed.statement.complaints == (4,)
    assert exact(session) == (0, 1, 2, 3, 4, 5)


def test_a_holder_that_answers_with_a_wrong_share_is_named_and_its_answer_is_left_out() -> None:
    session = Masked()
    unmasking = session.unmasking
    signed = session.endorsed[3].unmask(unmasking.request(3), NOW)
    first = signed.statement.self_shares[0].model_copy(update={"share": "00" * 36})
    lie = signed.statement.model_copy(update={"self_shares": (first, *signed.statement.self_shares[1:])})
    with pytest.raises(ProtocolViolation, match=session.signers[3].identity.title):
        unmasking.add(session.signers[3].sign(lie))
    for number in (0, 1, 2, 4, 5):
        unmasking.add(session.endorsed[number].unmask(unmasking.request(number), NOW))
    assert len(exact(session, unmasking)) == 6


def test_a_holder_that_gives_the_other_secret_is_refused() -> None:
    session = Masked()
    unmasking = session.unmasking
    signed = session.endorsed[3].unmask(unmasking.request(3), NOW)
    moved = signed.statement.model_copy(update={"self_shares": (), "key_shares": signed.statement.self_shares})
    with pytest.raises(ProtocolViolation, match="does not ask for"):
        unmasking.add(session.signers[3].sign(moved))
    for number in (0, 1, 2, 4, 5):
        unmasking.add(session.endorsed[number].unmask(unmasking.request(number), NOW))
    assert len(exact(session, unmasking)) == 6


def test_a_client_that_shares_with_others_than_its_holders_is_refused() -> None:
    session = Masked()
    told = session.uploading.shared_with(0)
    fewer = replace(told, members=told.members[:-1], deliveries=told.deliveries[:-1])
    statement = stated(session.plan.training, "test")
    _, message = session.shared[0][0].upload(fewer, session.changes[0], statement, os.urandom, NOW)
    with pytest.raises(ProtocolViolation, match="others than its holders"):
        session.uploading.add(message)


def test_a_client_whose_masks_do_not_cancel_burns_the_session() -> None:
    """It signs a vector under other masks, consistently. Nobody can be named; nothing is released."""
    session = Masked()
    uploaded, message = session.uploaded[0]
    vector = np.frombuffer(os.urandom(message.vector.nbytes), np.uint8).copy()
    vector[-1] = 0
    root_of_it = vector_root(session.descriptor.shape, vector)
    statement = message.signed.statement.model_copy(update={"vector_root": root_of_it})
    session.uploaded[0] = uploaded, replace(message, signed=session.signers[0].sign(statement), vector=vector)
    burnt(session, "masks are left")


def test_a_vector_that_is_not_the_signed_one_or_of_wrong_length_is_not_added() -> None:
    session = Masked()
    message = session.uploaded[0][1]
    bent = message.vector.copy()
    bent[0] ^= 1
    with pytest.raises(HashMismatch, match="not the one that it signed"):
        session.uploading.add(replace(message, vector=bent))
    short = message.vector[:-1].copy()
    shape = session.descriptor.shape
    statement = message.signed.statement.model_copy(
        update={"vector_bytes": short.nbytes, "vector_root": vector_root(shape, short)}
    )
    with pytest.raises(SizeLimitError):
        session.uploading.add(replace(message, signed=session.signers[0].sign(statement), vector=short))
    assert session.uploading.total.count == 0
    assert 0 in exact(session)


def test_two_masked_inputs_are_refused_by_the_client_itself_and_by_the_coordinator() -> None:
    session = Masked()
    message = session.uploaded[0][1]
    with pytest.raises(ConflictError, match="takes no second one"):
        session.upload(0)
    session.uploading.add(message)
    other = message.vector.copy()
    other[0] ^= 1
    statement = message.signed.statement.model_copy(
        update={"vector_root": vector_root(session.descriptor.shape, other)}
    )
    with pytest.raises(ConflictError, match="the first one stays"):
        session.uploading.add(replace(message, signed=session.signers[0].sign(statement), vector=other))
    assert 0 in exact(session)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epsilon": 99.0}, "another privacy"),
        (
            {"client_level": ClientStatement(noise_multiplier=1.0, colluders=1, delta=1e-6, releases=1)},
            "other client-level noise",
        ),
    ],
)
def test_a_client_that_states_another_privacy_is_refused(change: dict[str, object], words: str) -> None:
    """Weaker than was agreed on, or noise for whole clients, which this session has not."""
    session = Masked()
    message = session.uploaded[0][1]
    privacy = message.signed.statement.privacy.model_copy(update=change)
    statement = message.signed.statement.model_copy(update={"privacy": privacy})
    with pytest.raises(PolicyViolation, match=words):
        session.uploading.add(replace(message, signed=session.signers[0].sign(statement)))
    assert len(exact(session)) == 6


def test_keys_of_low_order_and_second_advertisements_are_refused() -> None:
    session = Masked()
    advertising = AdvertiseRound(session.descriptor)
    signed = session.advertised[0][1]
    advertising.add(signed)
    weak = signed.statement.model_copy(update={"mask_key": "00" * 32})
    with pytest.raises(MalformedError, match="low order"):
        advertising.add(session.signers[0].sign(weak))
    second = signed.statement.model_copy(update={"mask_key": session.advertised[1][1].statement.mask_key})
    with pytest.raises(ConflictError):
        advertising.add(session.signers[0].sign(second))


def test_a_stranger_and_a_forged_advertisement_are_refused() -> None:
    session, stranger = Masked(), Masked().parties.clients["Hospital 12"]
    advertising = AdvertiseRound(session.descriptor)
    with pytest.raises(RoleViolation):
        advertising.add(stranger.sign(session.advertised[0][1].statement))
    forged = session.advertised[0][1].model_copy(update={"signature": session.advertised[1][1].signature})
    with pytest.raises(SignatureInvalid):
        advertising.add(forged)
    with pytest.raises(ProtocolViolation):
        advertising.add(session.signers[1].sign(session.advertised[0][1].statement))


def test_replays_from_another_session_are_refused_in_every_round() -> None:
    old, new = Masked(), Masked()
    with pytest.raises(ProtocolViolation, match="another session"):
        AdvertiseRound(new.descriptor).add(old.advertised[0][1])
    with pytest.raises(ProtocolViolation, match="another session"):
        new.sharing.add(old.shared[0][1])
    with pytest.raises(ProtocolViolation, match="another session"):
        new.uploading.add(old.uploaded[0][1])
    _, endorsement = old.uploaded[0][0].endorse(old.consistency.chosen, NOW)
    with pytest.raises(ProtocolViolation, match="another session"):
        new.consistency.add(endorsement)
    with pytest.raises(ProtocolViolation, match="another session"):
        new.uploaded[0][0].endorse(old.consistency.chosen, NOW)
    assert len(exact(new)) == 6


def adds(session: Masked, number: int, amount: int) -> NDArray[np.uint32]:
    """Member `number` puts so much more under its masks as its first value, and signs it; what it so sent, [L].

    It knows its masks: whatever it adds to the masked vector, it adds to what is under them.
    """
    uploaded, message = session.uploaded[number]
    shape = session.descriptor.shape
    total = MaskedTotal(shape)
    total.add(message.vector)
    values = total.values.astype(np.int64)
    values[0] = (values[0] + amount) % 2**shape.width
    bits = (values[:, None] >> np.arange(shape.width)) & 1
    vector = np.packbits(bits.astype(np.uint8).ravel(), bitorder="little")
    statement = message.signed.statement.model_copy(update={"vector_root": vector_root(shape, vector)})
    lie = replace(message, signed=session.signers[number].sign(statement), vector=vector)
    session.uploaded[number] = uploaded, lie
    sent = session.values(number).astype(np.int64)
    sent[0] = (sent[0] + amount) % 2**shape.width
    return sent.astype(np.uint32)


def test_changes_beyond_the_clip_move_the_masked_mean_by_no_more_than_the_clip_allows() -> None:
    """Not detected, and bounded: honest code limits each value to the clip before it is masked."""
    session = Masked()
    clip = session.descriptor.plan.tensors[1].clip
    session.changes[2] = np.full_like(session.changes[2], 100 * clip)
    end = masked_end(session)
    check_masked(end)
    assert end.opened is not None
    mean = session.descriptor.quantiser.decode_mean(end.opened.sums, 6)
    honest = np.sum([session.changes[number] for number in (0, 1, 3, 4, 5)], axis=0)
    assert np.abs(mean - (honest + clip) / 6).max() <= 2 * clip / (2**16 - 1)


@pytest.mark.parametrize("amount", [2 * 65_535, -2 * 65_535], ids=["above", "below"])
def test_a_masked_value_outside_the_range_is_not_seen(amount: int) -> None:
    """**Not detected**: masked sums are plain sums modulo 2^W, and below |U| (2^b - 1) one says nothing of its parts.

    The opening does not notice, nor does whoever verifies the release with the stored vectors; the mean moves by four
    clips over n, more than any honest client can move it.
    """
    session = Masked()
    levels, clip = session.descriptor.quantiser.levels, session.descriptor.plan.tensors[1].clip
    honest = session.values(3) if session.uploaded else None
    sent = adds(session, 3, amount)
    assert honest is not None
    assert not 0 <= int(honest[0]) + amount <= levels
    end = masked_end(session, m3=sent)
    check_masked(end)
    assert end.opened is not None
    assert 3 in end.opened.members
    vectors = [session.values(number).astype(np.int64) for number in range(6)]
    moved = end.opened.sums.astype(np.int64) - np.sum(vectors, axis=0)
    assert moved[0] == amount
    assert not moved[1:].any()
    assert verify_masked(end.release, session.policy, end.stored).linked
    mean = session.descriptor.quantiser.decode_mean(end.opened.sums, 6)
    shift = mean[0] - np.mean([change[0] for change in session.changes])
    assert abs(abs(shift) - 4 * clip / 6) < 2 * clip / levels


def test_a_masked_sum_that_no_honest_values_reach_burns_the_session_and_names_nobody() -> None:
    session = Masked()
    assert session.uploaded
    top, most = 2**session.descriptor.shape.width, 6 * session.descriptor.quantiser.levels
    total = sum(int(session.values(number)[0]) for number in range(6))
    adds(session, 3, (most + 1 + top) // 2 - total)
    end = burnt(session, "masks are left in the sum")
    assert not [one for one in session.signers if one.identity.title in str(end.error)]


def test_a_stolen_certificate_without_its_keys_is_of_no_use() -> None:
    """It is public. The thief signs with a key of its own, in its own name, or in the client's."""
    session, thief = Masked(), certify(["Elsewhere"], 0, NOW).clients["Elsewhere"]
    victim, message = session.signers[0].identity.fingerprint, session.uploaded[0][1]
    advertised, shared = session.advertised[0][1].statement, session.shared[0][1]
    upload = message.signed.statement
    endorsement = session.uploaded[0][0].endorse(session.consistency.chosen, NOW)[1].statement
    takes: tuple[tuple[Callable[[Any], None], Any], ...] = (
        (AdvertiseRound(session.descriptor).add, thief.sign(advertised)),
        (session.sharing.add, SharingMessage(thief.sign(shared.signed.statement), shared.leaves)),
        (session.uploading.add, replace(message, signed=thief.sign(upload))),
        (session.consistency.add, thief.sign(endorsement)),
    )
    for take, stolen in takes:
        with pytest.raises(RoleViolation):
            take(stolen)
        named = in_the_name_of(victim, stolen)
        with pytest.raises(SignatureInvalid):
            take(named)


def in_the_name_of(victim: str, message: Any) -> Any:
    """The same bytes under the same signature, said to be of somebody else."""
    if hasattr(message, "signed"):
        return replace(message, signed=in_the_name_of(victim, message.signed))
    return message.model_copy(update={"signer": victim})


def test_a_stolen_certificate_with_its_keys_is_the_client_until_the_client_comes_to_a_masked_session() -> None:
    """**Not stopped**: the thief's vector is in the sum. The client is refused, and sees that somebody was there."""
    session = Masked()
    mine = MaskedClient.join(
        session.signed, session.signers[0], session.policy, session.parties.authority, MemoryJournal(), NOW
    )
    client, own = mine.advertise(os.urandom, NOW)
    advertising = AdvertiseRound(session.descriptor)
    for _, signed in session.advertised.values():
        advertising.add(signed)
    with pytest.raises(ConflictError, match="advertised other keys before"):
        advertising.add(own)
    with pytest.raises(ProtocolViolation, match="own advertisement"):
        client.share(session.sharing.directory, os.urandom, NOW)
    assert 0 in exact(session)


def test_a_thief_that_comes_after_the_client_is_refused() -> None:
    session = Masked()
    thief = MaskedClient.join(
        session.signed, session.signers[0], session.policy, session.parties.authority, MemoryJournal(), NOW
    )
    _, second = thief.advertise(os.urandom, NOW)
    advertising = AdvertiseRound(session.descriptor)
    for _, signed in session.advertised.values():
        advertising.add(signed)
    with pytest.raises(ConflictError, match="advertised other keys before"):
        advertising.add(second)
    assert 0 in exact(session)
