"""The published masked session as objects of the package, for tests that need one, or one with something bent."""

import copy
import json
from functools import cache
from typing import Any

import numpy as np
from cryptography.hazmat.primitives import serialization

from secagg.masked.client import Advertised, MaskedClient, Shared
from secagg.masked.closing import ConsistencyRound, KeptUpload, UnmaskRound
from secagg.masked.descriptor import MaskedDescriptor, SignedMaskedDescriptor
from secagg.masked.messages import (
    DeliveredSelfShare,
    DeliveredShare,
    SharedBox,
    SharedSet,
    SharingMessage,
    SignedAdvertisement,
    SignedMaskedUpload,
    SignedSetEndorsement,
    SignedSharing,
    SignedSurvivorSet,
    SignedUnmasking,
    UploadMessage,
)
from secagg.masked.policy import MaskedPolicy
from secagg.masked.server import AdvertiseRound, ShareRound, UploadRound
from secagg.masked.unmasking import Uploaded
from secagg.masked.vectors import MaskedTotal
from secagg.policy import adapter_schema_hash
from secagg.privacy import PrivacyStatement
from secagg.run import MemoryJournal
from secagg.signing import Signer
from tests.twin import statements as twin
from tests.twin.predictable import PredictableRandomness
from tests.vectors import masked_session as session
from tests.vectors.common import Json
from tests.vectors.masked_certificates import certificate
from tests.vectors.reading import load
from tests.vectors.session import NOW, PRIVACY, seed

Bent = dict[str, dict[str, Json]]
"""What some members sent instead: kind -> member number -> message, less what is as it was."""


@cache
def published() -> Json:
    """`masked_session.json`."""
    return load("masked_session")


def text(value: object) -> str:
    """JSON."""
    return json.dumps(value)


@cache
def signed_descriptor() -> SignedMaskedDescriptor:
    """As it travels."""
    return SignedMaskedDescriptor.parse(text(published()["session"]))


@cache
def descriptor() -> MaskedDescriptor:
    """The descriptor, verified."""
    found = signed_descriptor().verify(signed_descriptor().statement.coordinator_identity)
    assert found.ctx == published()["ctx"]
    return found


def signer(party: str) -> Signer:
    """A party's capability to sign."""
    key = twin.signing_key(seed(party)).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Signer(certificate(party).encode(), key)


@cache
def policy() -> MaskedPolicy:
    """Pins everybody."""
    plan = descriptor().plan
    return MaskedPolicy(
        protocols=("masked",),
        coordinator=descriptor().coordinator_identity.fingerprint,
        institutions={identity.institution: identity.fingerprint for identity in descriptor().clients},
        required_institutions=4,
        n_min=4,
        base_model_hashes=(plan.base_model_hash,),
        adapter_schema_hashes=(adapter_schema_hash(plan),),
        max_epsilon=8.0,
        max_delta=1e-5,
    )


# -- what the members sent -------------------------------------------------------------------------------------


def of(number: int) -> Json:
    """All that a member sent."""
    found: Json = published()["clients"][number]
    return found


def filled(bent: Json, right: Json) -> Json:
    """A message with what the case leaves out, because it is as it was."""
    found = {**copy.deepcopy(right), **bent}
    return {**found, "leaves": [right["leaves"][one] if isinstance(one, int) else one for one in found["leaves"]]}


def leaves_of(message: Json) -> tuple[SharedBox, ...]:
    """Leaves."""
    return tuple(
        SharedBox(one["receiver"], bytes.fromhex(one["commitment"]), bytes.fromhex(one["box"]))
        for one in message["leaves"]
    )


def advertisement(message: Json) -> SignedAdvertisement:
    """§12.3.1."""
    return SignedAdvertisement.parse(text(message))


def sharing(message: Json) -> SharingMessage:
    """§12.4.5."""
    return SharingMessage(SignedSharing.parse(text(message["signed"])), leaves_of(message))


def upload(message: Json) -> UploadMessage:
    """§12.5.4."""
    vector = np.frombuffer(bytes.fromhex(message["vector"]), np.uint8)
    return UploadMessage(SignedMaskedUpload.parse(text(message["signed"])), vector, leaves_of(message))


def endorsement(message: Json) -> SignedSetEndorsement:
    """§12.6.1."""
    return SignedSetEndorsement.parse(text(message))


def unmasking(message: Json) -> SignedUnmasking:
    """§12.7.1."""
    return SignedUnmasking.parse(text(message))


def chosen() -> SignedSurvivorSet:
    """U."""
    return SignedSurvivorSet.parse(text(published()["set"]))


def delivered(message: Json, own: bool) -> Any:
    """§12.5.1, §12.7.1."""
    signed = (SignedMaskedUpload if own else SignedSharing).parse(text(message["signed"]))
    path = tuple(map(bytes.fromhex, message["path"]))
    kind: Any = DeliveredSelfShare if own else DeliveredShare
    commitment, box = bytes.fromhex(message["commitment"]), bytes.fromhex(message["box"])
    return kind(signed, message["index"], commitment, path, box)


# -- the coordinator, up to each round -------------------------------------------------------------------------


def share_round() -> ShareRound:
    """Waits for shares of mask keys."""
    advertising = AdvertiseRound(descriptor())
    for number in range(session.N):
        advertising.add(advertisement(of(number)["advertisement"]))
    return advertising.close()


def upload_round(without: int | None = None) -> UploadRound:
    """Waits for vectors; a member may not have shared."""
    sharing_round = share_round()
    for number in range(session.N):
        if number != without:
            sharing_round.add(sharing(of(number)["sharing"]))
    return sharing_round.close()


def consistency_round() -> ConsistencyRound:
    """Waits for endorsements."""
    uploading = upload_round()
    for number in session.MEMBERS:
        uploading.add(upload(of(number)["upload"]))
    return uploading.close(signer("coordinator"))


def unmask_round(bent: Bent | None = None) -> UnmaskRound:
    """Waits for shares of secrets; `bent` is what was taken in earlier rounds in place of what is published."""
    given: Bent = bent or {}

    def sent(kind: str, one: str, number: int) -> Json:
        right = of(number)[one]
        other = given.get(kind, {}).get(str(number))
        return filled(other, right) if other is not None and "leaves" in right else other or right

    directory = tuple(advertisement(sent("advertisements", "advertisement", n)) for n in range(session.N))
    sharings = {n: sharing(sent("sharings", "sharing", n)) for n in range(session.N)}
    total, kept = MaskedTotal(descriptor().shape), dict[int, KeptUpload]()
    for number in session.MEMBERS:
        message = upload(sent("uploads", "upload", number))
        total.add(message.vector)
        kept[number] = KeptUpload(message.signed, message.leaves)
    round_ = ConsistencyRound(descriptor(), directory, sharings, kept, total, chosen())
    for one in published()["endorsements"]:
        round_.add(endorsement(one))
    return round_.close()


# -- member 0, or another, up to each step ---------------------------------------------------------------------


def joined(number: int) -> MaskedClient:
    """A member that has just joined."""
    party = session.title(number)
    authority = published()["authority"]
    return MaskedClient.join(signed_descriptor(), signer(party), policy(), authority, MemoryJournal(), NOW)


def randomness(step: str, number: int) -> PredictableRandomness:
    """As the vectors' `randomness` says."""
    return PredictableRandomness(f"{step} of member {number}".encode())


def advertised(number: int) -> tuple[Advertised, SignedAdvertisement]:
    """Has sent its keys."""
    return joined(number).advertise(randomness("advertise", number), NOW)


def shared(number: int) -> tuple[Shared, SharingMessage]:
    """Has shared its mask key."""
    state, _ = advertised(number)
    return state.share(share_round().directory, randomness("share", number), NOW)


def change(number: int) -> Any:
    """float32 [L]."""
    return np.array(session.change(number), dtype=np.float32)


def uploaded(number: int, told: SharedSet | None = None) -> tuple[Uploaded, UploadMessage]:
    """Has sent its vector."""
    state, _ = shared(number)
    shown = upload_round().shared_with(number) if told is None else told
    privacy = PrivacyStatement(**PRIVACY)
    return state.upload(shown, change(number), privacy, randomness("upload", number), NOW)
