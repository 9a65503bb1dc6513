"""What must hold of every session, whoever lies in it. Each function raises AssertionError in words.

Sealed: at most f of the key-holders lie; clients and the coordinator may be whatever they like, and work together.
Masked: at most c clients work with the coordinator. ckks: coordinator and key-holder do not work together. In each of
them either the exact sum over an endorsed U of at least n_min is released, or it is rejected and the session is over;
and no acknowledged upload is lost unseen.
"""

import functools
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np

from secagg.ckks.coordinator import check_arrived, check_opening, check_refusal, fix_set
from secagg.ckks.keyholder import ShownUpload
from secagg.ckks.messages import SignedUploadSet
from secagg.ckks.verify import verify_ckks
from secagg.errors import (
    ConflictError,
    NotReady,
    OpeningError,
    PolicyViolation,
    SecaggError,
    TooFewContributions,
    Unopenable,
)
from secagg.evidence import ShareAnswer
from secagg.masked.messages import SurvivorSet
from secagg.masked.verify import verify_masked
from secagg.messages import DegreeAnswer, Endorsement, ShareSum
from secagg.plan import Frozen
from secagg.receipts import Fate, judge_receipt
from secagg.sets import verify_endorsements
from secagg.signing import Signed
from secagg.verify import verify_release
from tests.secagg.ckks.sessions import Ckks
from tests.simulation.ends import CkksEnd, MaskedEnd
from tests.simulation.sealed_parties import Client
from tests.simulation.sealed_session import Burnt, Caught, Released, SealedSession, anchors
from tests.small import NOW

T = TypeVar("T")
Kinds = type[SecaggError] | tuple[type[SecaggError], ...]
SAMPLE = 256
"""Bytes of a secret that must not be seen, from its start, its middle and its end. Small numbers may meet by chance."""


def check_all(session: SealedSession) -> None:
    """Every invariant."""
    for invariant in INVARIANTS:
        invariant(session)


def exact_or_burnt_or_unopened(session: SealedSession) -> None:
    """The exact sum over an endorsed U of at least n_min, or a burnt session, or nothing opened at all.

    An opened sum that is not the exact one never verifies against the stored uploads. Values out of the quantiser's
    range are summed as they are (§2.5): nobody sees them.
    """
    outcome = session.outcome
    if isinstance(outcome, Burnt):
        assert isinstance(outcome.error, OpeningError), "burnt for another reason than the test on sum(e)"
        assert "does not open" in str(outcome.error) or "burnt" in str(outcome.error), str(outcome.error)
        return
    if not isinstance(outcome, Released):
        return
    closing = outcome.closing
    assert closing.settlement is not None
    assert closing.opened is not None
    final, descriptor = closing.settlement.final.statement, session.descriptor
    assert len(final.members) >= descriptor.n_min, f"{len(final.members)} members were opened"
    verify_endorsements(
        descriptor, closing.endorsed.values(), stage="final", release=final.release, digest=final.digest
    )
    vectors = [sent_by(session.signer_of(member.client)) for member in final.members]
    # A sum beyond beta is carried into the next limb, which here is padding: only values out of range come to that.
    assert descriptor.parameters.length <= descriptor.parameters.degree
    expected = np.sum(vectors, axis=0, dtype=np.uint64) % np.uint64(descriptor.parameters.base)
    assert np.array_equal(closing.opened.opening.sums, expected), "the released sum is not the sum over U"


def sent_by(client: Client) -> "np.typing.NDArray[np.uint32]":
    assert client.sent is not None, f"{client.name} is in U and has sent nothing"
    return client.sent


def one_set_at_most_is_opened(session: SealedSession) -> None:
    """No two sets reach t share sums: the difference of two sums would be an update."""
    opened = dict[tuple[int, str], set[str]]()
    for answer in said(session.wire, ShareAnswer):
        word = answer.signed.statement
        opened.setdefault((word.release, word.final_digest), set()).add(answer.signed.signer)
    whole = [digest for digest, holders in opened.items() if len(holders) >= session.descriptor.threshold]
    assert len(whole) <= 1, f"{len(whole)} sets have t share sums"


def no_second_word(session: SealedSession) -> None:
    """No honest key-holder signed two sets for one stage, or gave two degree answers or share sums for one release."""
    honest = {holder.fingerprint for holder in session.holders if holder.honest}
    given = dict[tuple[str, ...], set[str]]()
    for message in session.wire:
        signed = message.signed if isinstance(message, ShareAnswer) else message
        if not isinstance(signed, Signed) or signed.signer not in honest:
            continue
        word = signed.statement
        if isinstance(word, Endorsement):
            given.setdefault((signed.signer, word.ctx, str(word.release), word.stage), set()).add(word.set_digest)
        elif isinstance(word, DegreeAnswer):
            answered = f"{word.candidate_digest} {word.values}"
            given.setdefault((signed.signer, word.ctx, str(word.release), "degree"), set()).add(answered)
        elif isinstance(word, ShareSum):
            given.setdefault((signed.signer, word.ctx, str(word.release), "share"), set()).add(word.share_sha256)
    twice = [key for key, words in given.items() if len(words) > 1]
    assert not twice, f"an honest key-holder gave two words: {twice}"


def no_acknowledged_upload_is_lost(session: SealedSession) -> None:
    """With a receipt an upload is in the sum, or left out for a stated reason; else the certificate is a proof."""
    outcome = session.outcome
    for client, receipts in session.receipts.items():
        assert len(set(receipts)) == 1, "two receipts for one client"
        if not isinstance(outcome, Released):
            assert not session.server.honest or client in session.server.taken, "an acknowledged upload is gone"
            continue
        certificate = verify_release(outcome.files, anchors()).certificate
        verdict = judge_receipt(certificate, receipts[0])
        if session.server.honest:
            assert verdict.fate in {Fate.INCLUDED, Fate.EXCLUDED}, f"an honest coordinator dropped {client[:16]}"
        if verdict.fate is Fate.EXCLUDED:
            assert "complaints of key-holders" in verdict.reason or "degree check" in verdict.reason, verdict.reason
        if client not in certificate.members:
            assert verdict.fate is not Fate.INCLUDED


def culprits_are_named(session: SealedSession) -> None:
    """Clients with bad boxes or inconsistent shares are named, and an honest one by a lying key-holder's word alone."""
    if not isinstance(session.outcome, Released):
        return
    certificate = verify_release(session.outcome.files, anchors()).certificate
    complained = {item.client for item in certificate.excluded if "complaints" in item.reason}
    culprits = set(certificate.degree_check.left_out)
    in_candidate = {upload.signer for upload in certificate.uploads}
    attached = {answer.signer for answer in certificate.candidate_endorsements}
    lying = {holder.fingerprint for holder in session.holders if not holder.honest}
    for client in session.clients:
        witnesses = {session.holders[place].fingerprint for place in client.bad_boxes} - lying
        if client.fingerprint in in_candidate and witnesses & attached:
            assert client.fingerprint in complained, f"{client.name} is not named"
        if client.inconsistent and client.fingerprint in in_candidate and certificate.degree_check.outcome == "checked":
            assert client.fingerprint in culprits | complained, f"{client.name} is not named"
        if client.honest and client.fingerprint in complained:
            assert accusers_of(session, client.fingerprint) <= lying, "an honest key-holder accused an honest client"
        if client.honest and client.fingerprint in culprits:
            answered = {answer.signer for answer in certificate.degree_answers}
            assert answered & lying, "an honest client is called a culprit by honest answers"


def key_holders_that_lie_are_named(session: SealedSession) -> None:
    """A wrong share sum is named with its key-holder; an honest one is never said to have lied."""
    if not isinstance(session.outcome, Released):
        return
    certificate = verify_release(session.outcome.files, anchors()).certificate
    named = {fault.holder: fault.finding for fault in certificate.holder_faults}
    for holder in session.holders:
        if holder.honest:
            assert named.get(holder.fingerprint) != "lied", "an honest key-holder is said to have lied"
        if holder.wrong_share_sum and holder.fingerprint in session.outcome.closing.shares:
            assert holder.fingerprint in named, f"{holder.name} is not named"


def accusers_of(session: SealedSession, client: str) -> set[str]:
    """The key-holders whose answers complain about `client`."""
    return {
        signed.signer
        for signed in said(session.wire, Signed)
        if isinstance(signed.statement, Endorsement) and client in {c.client for c in signed.statement.complaints}
    }


def no_secret_is_said(session: SealedSession) -> None:
    """No seed, key, share of one key or change of an honest client, and no session key, in any message or repr."""
    pieces = [piece for secret in secrets(session) for piece in samples(secret)]
    content = b"\x00".join(bytes_of(message) for message in session.wire)
    shown = "\n".join(map(repr, (*session.wire, *(holder.machine for holder in session.holders))))
    for piece in pieces:
        assert piece not in content, "a secret is in a message"
        assert piece.hex() not in shown, "a secret is in a repr, in hex"
        assert repr(piece)[2:-1] not in shown, "a secret is in a repr"
        assert piece.hex().encode() not in content, "a secret is in a message, in hex"


def no_secret_is_logged(records: Iterable[logging.LogRecord], session: SealedSession) -> None:
    """Nor in a log line or in the words of a refusal."""
    said_aloud = "\n".join([*(record.getMessage() for record in records), *(str(r.error) for r in session.refusals)])
    for secret in secrets(session):
        for piece in samples(secret):
            assert piece.hex() not in said_aloud, "a secret is in a log line or in an error"


def secrets(session: SealedSession) -> Iterator[bytes]:
    for client in session.clients:
        if client.honest:
            yield from client.secrets(session.descriptor)
    for holder in session.holders:
        if holder.honest:
            yield from holder.secrets(session.descriptor)


def samples(secret: bytes) -> tuple[bytes, ...]:
    """What is looked for of it."""
    middle = len(secret) // 2
    return secret[:SAMPLE], secret[middle : middle + SAMPLE], secret[-SAMPLE:]


def bytes_of(message: object) -> bytes:
    """What travels."""
    if isinstance(message, bytes):
        return message
    if isinstance(message, Frozen):
        return message.model_dump_json().encode()
    if isinstance(message, ShareAnswer):  # the sum of many clients' shares is no secret of one
        return message.signed.to_bytes() + message.share
    parts = [getattr(message, "ciphertext", None), *getattr(message, "boxes", ())]
    signed = getattr(message, "signed", None) or getattr(message, "final", None)
    raw = [part.tobytes() if isinstance(part, np.ndarray) else part for part in parts if part is not None]
    return b"\x00".join([*raw, b"" if signed is None else signed.to_bytes()])


def said(wire: Iterable[object], kind: type[T]) -> Iterator[T]:
    return (message for message in wire if isinstance(message, kind))


def was_caught(session: SealedSession) -> Exception | None:
    """Why a published release does not verify, if there is one that does not."""
    return session.outcome.error if isinstance(session.outcome, Caught) else None


INVARIANTS = (
    exact_or_burnt_or_unopened,
    one_set_at_most_is_opened,
    no_second_word,
    no_acknowledged_upload_is_lost,
    culprits_are_named,
    key_holders_that_lie_are_named,
    no_secret_is_said,
)


# --- masked sessions (protocol.md §12) ----------------------------------------------------------------------------


def check_masked(end: MaskedEnd) -> None:
    """Every invariant of a masked session that was released, or came to an end without."""
    for invariant in MASKED_INVARIANTS:
        invariant(end)


def masked_sum_is_exact_or_rejected(end: MaskedEnd) -> None:
    """The exact sum over a U of at least n_min that t members endorsed; or the opening is rejected, and stays so.

    Sums are modulo 2^W: of values out of range nothing is seen that the sum does not show (§12.10).
    """
    session, unmasking = end.session, end.unmasking
    if end.opened is None:
        assert isinstance(end.error, OpeningError | NotReady), f"ended for another reason: {end.error!r}"
        assert_refused(unmasking.open, type(end.error))
        assert_refused(lambda: end.release, type(end.error))
        return
    descriptor, members = session.descriptor, end.opened.members
    chosen = unmasking.chosen.verify(descriptor.coordinator_identity)
    assert members == chosen.members
    assert min(len(members), descriptor.institutions(members)) >= descriptor.n_min, f"{len(members)} were opened"
    endorsed = {
        descriptor.number_of(signed.signer)
        for signed in unmasking.endorsements.values()
        if signed.verify(descriptor.member(descriptor.number_of(signed.signer))).set_digest == chosen.digest
    }
    assert len(endorsed & set(members)) >= descriptor.graph.threshold, f"{len(endorsed)} endorsed the set"
    vectors = [end.vector(number) for number in members]
    expected = np.sum(vectors, axis=0, dtype=np.uint64) % np.uint64(1 << descriptor.shape.width)
    assert np.array_equal(end.opened.sums, expected), "the opened sum is not the sum over U"


def masked_clients_endorse_no_other_set(end: MaskedEnd) -> None:
    """Whatever came out, whoever has endorsed a set endorses no smaller one: the difference would be one vector."""
    session = end.session
    for number, client in session.endorsed.items():
        members = client.chosen.members
        for gone in set(members) - {number}:
            less = SurvivorSet(ctx=session.descriptor.ctx, members=tuple(one for one in members if one != gone))
            signed = session.parties.coordinator.sign(less)
            assert_refused(
                lambda number=number, signed=signed: session.uploaded[number][0].endorse(signed, NOW),  # type: ignore[misc]
                (ConflictError, TooFewContributions, PolicyViolation),
            )


def masked_members_keep_one_secret(end: MaskedEnd) -> None:
    """Of nobody are shares of both secrets out: of own masks in U, of mask keys beside it."""
    members = set(end.unmasking.chosen.statement.members)
    for answer in end.unmasking.taken.values():
        assert {one.member for one in answer.statement.self_shares} <= members
        assert not {one.member for one in answer.statement.key_shares} & members


def masked_uploads_are_not_lost(end: MaskedEnd) -> None:
    """Every acknowledged vector is in the sum, and verifies against the stored one; else the certificate is a proof."""
    kept = end.unmasking.uploads
    in_set = {number: end.session.uploading.taken[number] for number in end.unmasking.chosen.statement.members}
    assert {number: kept[number].signed for number in in_set} == {n: one.signed for n, one in in_set.items()}
    if end.opened is None:
        return
    certificate = verify_masked(end.release, end.session.policy, end.stored).certificate
    for number, signed in end.receipts.items():
        wanted = Fate.INCLUDED if number in end.opened.members else Fate.DROPPED
        assert judge_receipt(certificate, signed).fate is wanted, f"member {number} is not {wanted}"


def masked_release_tells_no_secret(end: MaskedEnd) -> None:
    """No vector, and of members of U neither the key of their masks nor the one of their boxes."""
    if end.opened is None:
        return
    content = b"\x00".join(end.release.values())
    for number in end.opened.members:
        vector, keys = end.session.uploaded[number][1].vector, end.session.shared[number][0].keys
        secrets = (vector.tobytes()[:SAMPLE], keys.mask.value, keys.box.value)
        assert not [one for one in secrets if one in content or one.hex().encode() in content]


# --- ckks sessions (protocol.md §13) ------------------------------------------------------------------------------


def check_ckks(end: CkksEnd) -> None:
    """Every invariant of a ckks session that was opened, or burnt."""
    for invariant in CKKS_INVARIANTS:
        invariant(end)


def nothing_opened(session: Ckks, attempt: Callable[[], object], kind: Kinds, match: str = "") -> None:
    """An attempt is refused, and the key-holder's key was not so much as loaded."""
    before = session.keys.used
    words = str(assert_refused(attempt, kind))
    assert re.search(match, words), f"refused, and for another reason: {words}"
    assert session.keys.used == before, "the key was loaded"


def ckks_sum_is_exact_or_rejected(end: CkksEnd) -> None:
    """The exact sum over a U of at least n_min for which the key-holder signed; or it refuses, and so ever after.

    Of a set that does not open it has signed what it found, and the coordinator takes its word.
    """
    descriptor = end.session.descriptor
    if end.opened is None:
        assert isinstance(end.error, Unopenable), f"ended for another reason: {end.error!r}"
        again = assert_refused(lambda: open_set(end, end.chosen, end.shown()), Unopenable)
        assert str(again) == str(end.error)
        refusal = end.holder.refusal(descriptor)
        assert refusal is not None, "it did not record why"
        word = check_refusal(descriptor, end.chosen.statement, refusal)
        assert (word.finding, word.client) == (end.error.finding, end.error.client)
        return
    assert end.holder.refusal(descriptor) is None
    members = end.members
    assert min(len(members), descriptor.institutions(members)) >= descriptor.n_min, f"{len(members)} were opened"
    check_opening(descriptor, end.chosen.verify(descriptor.coordinator_identity), end.opened)
    expected = np.sum([end.vector(client).astype(np.int64) for client in members], axis=0)
    assert np.array_equal(end.opened.sums, expected), "the opened sum is not the sum over U"


def ckks_holder_opens_no_other_set(end: CkksEnd) -> None:
    """Opened or burnt, its session is over: a set with one member more or fewer does not get as far as its key."""
    every = {one.signed.signer: one for one in end.session.uploads} | dict(end.uploads)
    others = [set(every) - {client} for client in every] + [set(every)]
    for other in others:
        if other == set(end.members) or len(other) < end.session.descriptor.n_min:
            continue
        uploads = {client: every[client].signed for client in other}
        signed = fix_set(end.session.descriptor, uploads, end.session.parties.coordinator)
        shown = [ShownUpload(every[client].signed, every[client].blocks) for client in other]
        attempt = functools.partial(open_set, end, signed, shown)
        nothing_opened(end.session, attempt, ConflictError, "only one is ever served")


def ckks_uploads_are_not_lost(end: CkksEnd) -> None:
    """Every acknowledged upload is in the sum, and verifies against the stored one; else the certificate is a proof.

    Of a burnt session every member's upload is there, as it was signed: what burnt it can be looked for.
    """
    descriptor = end.session.descriptor
    for client in end.members:
        check_arrived(descriptor, end.uploads[client].signed, end.uploads[client].blocks)
    if end.opened is None:
        return
    certificate = verify_ckks(end.release, end.holder.policy, end.stored).certificate
    for client, signed in end.receipts.items():
        wanted = Fate.INCLUDED if client in end.members else Fate.DROPPED
        assert judge_receipt(certificate, signed).fate is wanted, f"{client[:16]} is not {wanted}"


def ckks_release_tells_no_secret(end: CkksEnd) -> None:
    """No block of an upload, no ciphertext in one, nothing of the key-holder's keys."""
    if end.opened is None:
        return
    content, kept = b"\x00".join(end.release.values()), end.session.kept.to_bytes()
    inner = [block for index in range(len(end.session.signers)) for block in end.session.inner(index)]
    secrets = [kept, *inner, *(block for one in end.uploads.values() for block in one.blocks)]
    for piece in (piece for secret in secrets for piece in samples(secret)):
        assert piece not in content, "a secret is in the release"


def open_set(end: CkksEnd, chosen: SignedUploadSet, shown: list[ShownUpload]) -> object:
    return end.holder.open(end.session.descriptor, chosen, shown, os.urandom, NOW)


def assert_refused(attempt: Callable[[], object], kind: Kinds) -> Exception:
    """The error of this kind that it ends in."""
    try:
        attempt()
    except kind as error:
        return error
    raise AssertionError("it was not refused")


MASKED_INVARIANTS = (
    masked_sum_is_exact_or_rejected,
    masked_clients_endorse_no_other_set,
    masked_members_keep_one_secret,
    masked_uploads_are_not_lost,
    masked_release_tells_no_secret,
)
CKKS_INVARIANTS = (
    ckks_sum_is_exact_or_rejected,
    ckks_holder_opens_no_other_set,
    ckks_uploads_are_not_lost,
    ckks_release_tells_no_secret,
)
