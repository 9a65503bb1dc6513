"""The rounds of a masked session: a message for its round, the round after, all of them from the store (§12.2.3).

Nothing here is recorded; `masked_session` does that between checking a message and taking it.
"""

from collections.abc import Callable

from secagg.errors import ProtocolViolation, SecaggError, StorageError
from secagg.masked.closing import ConsistencyRound, Keep, UnmaskRound
from secagg.masked.descriptor import MaskedDescriptor
from secagg.masked.messages import (
    SignedAdvertisement,
    SignedSetEndorsement,
    SignedSurvivorSet,
    SignedUnmasking,
    UploadMessage,
)
from secagg.masked.server import AdvertiseRound, ShareRound, UploadRound
from secagg_server.blobs import UploadFiles
from secagg_server.masked_border import leaves_of, sharing_of
from secagg_server.masked_storage import MessageStore

Stage = AdvertiseRound | ShareRound | UploadRound | ConsistencyRound | UnmaskRound

STEPS = ("advertise", "share", "upload", "endorse", "unmask")


def step_of(stage: Stage) -> str:
    """The step that a round takes messages for."""
    kinds = (AdvertiseRound, ShareRound, UploadRound, ConsistencyRound, UnmaskRound)
    return STEPS[[isinstance(stage, kind) for kind in kinds].index(True)]


def expected(stage: Stage) -> set[int]:
    """Members whose message a round can take."""
    match stage:
        case AdvertiseRound(descriptor=descriptor):
            return set(range(len(descriptor.clients)))
        case ShareRound(descriptor=descriptor, directory=directory):
            return {descriptor.number_of(signed.signer) for signed in directory}
        case UploadRound(sharings=sharings):
            return set(sharings)
        case ConsistencyRound(uploads=uploads):
            return set(uploads)
        case UnmaskRound(endorsements=endorsements):
            return set(endorsements)


def missing_of(stage: Stage) -> list[int]:
    """Members that a round still waits for. May be asked while messages are taken into it."""
    return sorted(expected(stage) - set(stage.taken))


def checked(stage: Stage, client: str, body: bytes, files: UploadFiles) -> Keep:
    """Check a message of the step of `stage` and change nothing; what comes back takes it.

    An upload's vector is in `files`. Raises what the round raises, StorageError.
    """
    match stage:
        case AdvertiseRound():
            return stage.checked(SignedAdvertisement.parse(body))
        case ShareRound():
            return stage.checked(sharing_of(body))
        case UploadRound():
            signed, leaves = leaves_of(body)
            return stage.checked(UploadMessage(signed, files.vector(client), leaves))
        case ConsistencyRound():
            return stage.checked(SignedSetEndorsement.parse(body))
        case UnmaskRound():
            return stage.checked(SignedUnmasking.parse(body))


def following(stage: Stage, fix: Callable[[UploadRound], ConsistencyRound]) -> Stage:
    """The round after, whoever is missing now having vanished; `fix` fixes U. Raises TooFewContributions."""
    match stage:
        case AdvertiseRound() | ShareRound() | ConsistencyRound():
            return stage.close()
        case UploadRound():
            return fix(stage)
        case UnmaskRound():
            raise ProtocolViolation("there is no round after the last")


def rebuilt(descriptor: MaskedDescriptor, store: MessageStore, files: UploadFiles) -> Stage:
    """The round that the store has come to, every message taken again; U is the one that was signed.

    Raises StorageError, with what to do, when what is stored cannot be read or contradicts itself.
    """
    try:
        return _replayed(descriptor, store, files)
    except SecaggError as error:
        raise StorageError(
            f"session {store.ctx[:16]} does not go on, because what is stored of it cannot be taken again: {error}. "
            "It is tried again and again, and other sessions are not held up. If the disk is sound, restore "
            f"`coordinator.sqlite` and `uploads/{store.ctx}` in the state folder from one backup, or create another "
            "session"
        ) from error


def _replayed(descriptor: MaskedDescriptor, store: MessageStore, files: UploadFiles) -> Stage:
    stage: Stage = AdvertiseRound(descriptor)
    for step in STEPS:
        signed = store.signed_at(step)
        chosen = None if signed is None else SignedSurvivorSet.parse(signed)
        for client, body in store.messages(step):
            if chosen is None or descriptor.number_of(client) in chosen.statement.members:
                checked(stage, client, body, files)()
        if store.closed_at(step) is None:
            break
        stage = following(stage, _as_signed(chosen))
    return stage


def _as_signed(chosen: SignedSurvivorSet | None) -> Callable[[UploadRound], ConsistencyRound]:
    """Fixes the U that was signed before."""

    def fix(stage: UploadRound) -> ConsistencyRound:
        if chosen is None:
            raise ProtocolViolation("the round 'upload' is recorded as closed, and no set that was signed")
        return stage.close_with(chosen)

    return fix
