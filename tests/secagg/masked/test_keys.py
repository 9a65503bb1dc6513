"""Keys, pair seeds and boxes are bound to session, parties, direction and round (protocol.md §12.4.4, §12.5.2)."""

import os

import pytest

from secagg.errors import MalformedError, ShareError
from secagg.masked.keys import (
    BoxContext,
    PairContext,
    SessionKeys,
    check_public_key,
    pair_seed,
    public_key,
    seal,
    unseal,
)
from secagg.masked.sharing import Share

A, B, C, CTX = "aa" * 32, "bb" * 32, "cc" * 32, "01" * 32


def test_both_sides_get_the_same_seed_and_a_copied_key_gives_another() -> None:
    one, two = SessionKeys.generate(os.urandom), SessionKeys.generate(os.urandom)
    pair = PairContext(ctx=CTX, low=A, high=B)
    seed = pair_seed(one.mask, public_key(two.mask), pair)
    assert seed == pair_seed(two.mask, public_key(one.mask), pair)
    for other in (PairContext(ctx=CTX, low=A, high=C), PairContext(ctx="02" * 32, low=A, high=B)):
        assert pair_seed(one.mask, public_key(two.mask), other) != seed


def test_a_box_opens_for_this_sender_receiver_session_and_round_alone() -> None:
    sender, receiver = SessionKeys.generate(os.urandom), SessionKeys.generate(os.urandom)
    context = BoxContext(ctx=CTX, sender=A, receiver=B, round="share")
    share = Share(os.urandom(36))
    box = seal(share, sender.box, public_key(receiver.box), context, os.urandom)
    assert unseal(box, receiver.box, public_key(sender.box), context) == share
    bent: list[dict[str, str]] = [{"ctx": "02" * 32}, {"sender": C}, {"receiver": C}, {"round": "upload"}]
    for change in bent:
        with pytest.raises(ShareError, match="does not open"):
            unseal(box, receiver.box, public_key(sender.box), context.model_copy(update=change))
    with pytest.raises(ShareError, match="does not open"):
        unseal(box, receiver.box, public_key(receiver.box), context)
    with pytest.raises(ShareError, match="63 bytes"):
        unseal(box[:-1], receiver.box, public_key(sender.box), context)


def test_keys_of_low_order_are_refused() -> None:
    for bad in (bytes(32), (1).to_bytes(32, "little"), bytes(31)):
        with pytest.raises(MalformedError, match="low order"):
            check_public_key(bad)
    check_public_key(public_key(SessionKeys.generate(os.urandom).mask))


def test_keys_do_not_print() -> None:
    assert repr(SessionKeys.generate(os.urandom)) == "SessionKeys(<redacted>)"
