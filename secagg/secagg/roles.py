"""Who may do what: one capability per role, as types (docs/threat-model.md).

A process is given the object of its own role and no other. Nothing that a coordinator holds can seal an update or
open a box; nothing that a client holds can endorse; a key-holder sees no ciphertext.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from secagg.contributor import SealedUpload
from secagg.descriptor import Descriptor, SignedDescriptor
from secagg.evidence import MemberEvidence, ShareAnswer
from secagg.messages import (
    SignedApproval,
    SignedCandidate,
    SignedDegreeAnswer,
    SignedEndorsement,
    SignedFinalSet,
)
from secagg.privacy import PrivacyStatement
from secagg.randomness import Randomness
from secagg.releases import ReleasedSets
from secagg.signing import Signer


class Contributing(Protocol):
    """A client: makes one sealed upload. `secagg.contributor.seal_contribution` is one."""

    def __call__(
        self,
        descriptor: Descriptor,
        signer: Signer,
        change: NDArray[np.float32],
        privacy: PrivacyStatement,
        random: Randomness,
    ) -> SealedUpload:
        """Seal `change` [L]."""


class Guarding(Protocol):
    """A key-holder: approves a session, endorses sets, sums its own shares. `secagg.keyholder.KeyHolder` is one."""

    def approve(self, signed: SignedDescriptor, now: int) -> SignedApproval:
        """Accept a descriptor within the policy."""

    def endorse_candidate(
        self,
        descriptor: Descriptor,
        signed: SignedCandidate,
        evidence: Iterable[MemberEvidence],
        peers: Sequence[SignedEndorsement],
        now: int,
        earlier: Sequence[ReleasedSets] = (),
    ) -> SignedEndorsement:
        """Accept C, after the releases before it."""

    def answer_degree_check(
        self,
        descriptor: Descriptor,
        signed: SignedCandidate,
        endorsements: Sequence[SignedEndorsement],
        evidence: Iterable[MemberEvidence],
        now: int,
    ) -> SignedDegreeAnswer:
        """Blinded combinations of the shares over C."""

    def endorse_final(
        self,
        descriptor: Descriptor,
        candidate: SignedCandidate,
        final: SignedFinalSet,
        answers: Sequence[SignedEndorsement],
        degree_answers: Sequence[SignedDegreeAnswer],
        peers: Sequence[SignedEndorsement],
        now: int,
    ) -> SignedEndorsement:
        """Accept U."""

    def sum_shares(
        self,
        descriptor: Descriptor,
        final: SignedFinalSet,
        endorsements: Sequence[SignedEndorsement],
        evidence: Iterable[MemberEvidence],
        now: int,
    ) -> ShareAnswer:
        """The share of sum(s) over U."""

    def erase(self, descriptor: Descriptor) -> None:
        """Forget the session key."""
