"""The parties of the published session as objects of the package, for tests that need one ready-made."""

import base64
import json
from functools import cache

from cryptography.hazmat.primitives import serialization

from secagg.boxes import SessionKey
from secagg.descriptor import Descriptor, SignedDescriptor
from secagg.evidence import MemberEvidence
from secagg.keyholder import KeyHolder
from secagg.merkle import path
from secagg.messages import SignedUpload
from secagg.policy import Policy, adapter_schema_hash
from secagg.run import MemoryJournal, MemoryKeys
from secagg.signing import Signer, parse_model
from tests.twin import statements as twin
from tests.vectors import session
from tests.vectors.common import Json, fixed
from tests.vectors.reading import load


@cache
def published() -> Json:
    """`session.json`."""
    return load("session")


@cache
def descriptor() -> Descriptor:
    """The descriptor, checked."""
    found = parse_model(SignedDescriptor, json.dumps(published()["session"])).check(approved=True)
    assert found.ctx == published()["ctx"]
    return found


def signer(title: str) -> Signer:
    """A party's capability to sign."""
    key = twin.signing_key(session.seed(title)).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Signer(session.certificate(title).encode(), key)


def uploads() -> list[SignedUpload]:
    """Of clients 0, 1, ..."""
    return [SignedUpload.parse(json.dumps(one["upload"])) for one in published()["clients"]]


def policy() -> Policy:
    """Pins everybody."""
    plan = descriptor().plan
    return Policy(
        coordinator=descriptor().coordinator_identity.fingerprint,
        committee={identity.title: identity.fingerprint for identity in descriptor().holders},
        institutions={identity.institution: identity.fingerprint for identity in descriptor().clients.values()},
        required_institutions=3,
        n_min=3,
        base_model_hashes=(plan.base_model_hash,),
        adapter_schema_hashes=(adapter_schema_hash(plan),),
        max_epsilon=8.0,
        max_delta=1e-5,
    )


def key_holder() -> KeyHolder:
    """Key-holder 0, who has approved nothing yet."""
    keys = MemoryKeys()
    keys.put(descriptor().committee[0].offer.statement.digest, SessionKey.from_bytes(session.session_seed(0)))
    return KeyHolder(signer("holder 0"), policy(), fixed()["authority"], MemoryJournal(), keys)


def evidence(members: list[str]) -> list[MemberEvidence]:
    """What key-holder 0 is shown for these clients."""
    shown = dict[str, MemberEvidence]()
    for client, signed in enumerate(uploads()):
        kept = fixed()["session_boxes"][client]
        leaves = [bytes.fromhex(leaf) for leaf in kept["leaves"]]
        shown[signed.signer] = MemberEvidence(signed, base64.b64decode(kept["first"]), path(leaves, 0))
    return [shown[member] for member in members]
