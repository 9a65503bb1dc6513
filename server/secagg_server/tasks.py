"""What is asked of key-holders, and what a session waits for (protocol.md §8)."""

import time
from dataclasses import dataclass

from secagg.coordinator import Settlement
from secagg.messages import SignedCandidate, SignedEndorsement, SignedFinalSet
from secagg.releases import ReleasedSets


@dataclass(frozen=True, slots=True)
class CandidateTask:
    """Endorse the candidate set."""

    candidate: SignedCandidate
    peers: tuple[SignedEndorsement, ...]
    earlier: tuple[ReleasedSets, ...] = ()


@dataclass(frozen=True, slots=True)
class DegreeTask:
    """Answer the degree check over the candidate set."""

    candidate: SignedCandidate
    endorsements: tuple[SignedEndorsement, ...]


@dataclass(frozen=True, slots=True)
class FinalTask:
    """Endorse the final set."""

    candidate: SignedCandidate
    settlement: Settlement
    peers: tuple[SignedEndorsement, ...]


@dataclass(frozen=True, slots=True)
class ShareTask:
    """Sum the shares over the final set."""

    final: SignedFinalSet
    endorsements: tuple[SignedEndorsement, ...]


Task = CandidateTask | DegreeTask | FinalTask | ShareTask


@dataclass(frozen=True, slots=True)
class Waiting:
    """What a session waits for: `have` of `needed` answers of a kind, and who has not given one."""

    what: str
    have: int
    needed: int
    missing: tuple[str, ...]

    @property
    def reason(self) -> str:
        """In words. More than the needed may still come: that is not what is waited for."""
        if self.have >= self.needed:
            return f"{self.have} {self.what}, {self.needed} are enough; none so far from {', '.join(self.missing)}"
        return f"{self.have} of {self.needed} {self.what}; waiting for {', '.join(self.missing)}"


def uploads_in_words(come: int, close_at: int | None, n_min: int, deadline: int) -> str:
    """What an open session waits for. `deadline` in seconds since 1970."""
    until = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(deadline))
    wanted = f"it closes with {close_at}" if close_at is not None else f"at least {n_min} are needed"
    return f"{come} uploads have come, and are taken until {until}; {wanted}"
