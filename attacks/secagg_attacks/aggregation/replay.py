"""Sums over two sets of one session: a coordinator that asks key-holders again, and takes the difference.

Every upload of a session is sealed to the same committee, so t key-holders who answer for two sets open both sums, and
their difference is the update of whoever is in one only. Each key-holder answers for one set, ever; and since two
quorums share an honest key-holder (protocol.md §3.4), showing different ones to different key-holders gives two sums
only when more of them than the assumed f forget what they have endorsed.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from secagg.accumulate import Accumulator
from secagg.contributor import SealedUpload
from secagg.coordinator import fix_candidate, mean_change, open_with_shares, settle
from secagg.descriptor import Descriptor
from secagg.errors import SecaggError
from secagg.evidence import MemberEvidence
from secagg.identity import Identity
from secagg.keyholder import KeyHolder
from secagg.run import evidence
from secagg.signing import Signer
from secagg_attacks.views import Vector

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Who refused what, and why. `holder` is empty where too few answers were left for the coordinator to go on."""

    stage: str
    holder: str
    error: SecaggError


@dataclass(frozen=True, slots=True)
class Asked:
    """What became of one set: the opened mean [values], or None, and every refusal on the way."""

    members: frozenset[str]
    mean: Vector | None = field(repr=False)
    refusals: tuple[Refusal, ...]


@dataclass(frozen=True, slots=True)
class Replayer:
    """A coordinator of one session that fixes any set it likes, and shows it to any key-holders it likes."""

    descriptor: Descriptor
    signer: Signer
    uploads: Sequence[SealedUpload]
    now: int

    def ask(self, members: Collection[str], committee: Sequence[KeyHolder]) -> Asked:
        """Go through all stages over `members` (fingerprints) with these key-holders, as far as they let it."""
        wanted, refusals = frozenset(members), list[Refusal]()
        try:
            mean = self._open([u for u in self.uploads if u.signed.statement.client in wanted], committee, refusals)
        except SecaggError as error:
            refusals.append(Refusal("coordinator", "", error))
            mean = None
        return Asked(wanted, mean, tuple(refusals))

    def _open(self, chosen: list[SealedUpload], committee: Sequence[KeyHolder], refusals: list[Refusal]) -> Vector:
        session, now = self.descriptor, self.now
        candidate = fix_candidate(self.signer, session, [upload.signed for upload in chosen], now)

        def shown(holder: Identity) -> list[MemberEvidence]:
            return evidence(session, holder, sorted(chosen, key=lambda upload: upload.signed.statement.client))

        answers = _gathered(
            "candidate", committee, refusals,
            lambda h: h.endorse_candidate(session, candidate, shown(h.signer.identity), (), now),
        )  # fmt: skip
        endorsed_by_t = len(answers) >= session.threshold  # without, there is nothing to ask (protocol.md §8.4.2)
        degree = _gathered(
            "degree", committee if endorsed_by_t else (), refusals,
            lambda h: h.answer_degree_check(session, candidate, answers, shown(h.signer.identity), now),
        )  # fmt: skip
        settled = settle(self.signer, session, candidate, answers, degree)
        final = settled.final
        endorsed = _gathered(
            "final", committee, refusals,
            lambda h: h.endorse_final(session, candidate, final, settled.answers, settled.degree_answers, (), now),
        )  # fmt: skip
        shares = _gathered(
            "share", committee, refusals,
            lambda h: h.sum_shares(session, final, endorsed, shown(h.signer.identity), now),
        )  # fmt: skip
        total = Accumulator(session.parameters)
        for upload in chosen:
            total.add(upload.ciphertext)
        opening = open_with_shares(session, final.statement, shares, total).opening
        return mean_change(session, final.statement, opening)


def _gathered(
    stage: str, committee: Sequence[KeyHolder], refusals: list[Refusal], ask: Callable[[KeyHolder], T]
) -> list[T]:
    """The answers of those who give one; the refusals of the others are noted."""
    answers = list[T]()
    for holder in committee:
        try:
            answers.append(ask(holder))
        except SecaggError as error:
            refusals.append(Refusal(stage, holder.signer.identity.fingerprint, error))
    return answers
