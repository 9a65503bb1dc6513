"""Key-holders that lie in a sealed session, each by name. At most f = 1 of four does."""

import hashlib
from dataclasses import replace

from secagg.descriptor import Descriptor, SignedDescriptor
from secagg.evidence import ShareAnswer
from secagg.messages import Complaint, SignedApproval, SignedDegreeAnswer, SignedEndorsement
from secagg.run import MemoryJournal
from secagg.shamir import sum_shares
from tests.simulation.sealed_parties import CandidateRequest, DegreeRequest, FinalRequest, Holder, ShareRequest


class ForgetfulJournal:
    """Records nothing: whoever asks again is answered again."""

    def get(self, key: str) -> bytes | None:
        return None

    def record(self, key: str, value: bytes) -> bytes:
        return value


class RemembersApprovals(ForgetfulJournal):
    """Forgets all but which session it approved, without which a key-holder answers nothing."""

    def __init__(self) -> None:
        self.approvals = MemoryJournal()

    def get(self, key: str) -> bytes | None:
        return self.approvals.get(key) if key.startswith("approval/") else None

    def record(self, key: str, value: bytes) -> bytes:
        return self.approvals.record(key, value) if key.startswith("approval/") else value


class LyingHolder(Holder):
    """A key-holder that does not do as it should."""

    honest = False


class SendsAWrongShareSum(LyingHolder):
    """Well-formed, signed, and twice what it is."""

    name = "a key-holder that sends a wrong share sum"
    wrong_share_sum = True

    def sum_shares(self, descriptor: Descriptor, ask: ShareRequest, now: int) -> list[ShareAnswer]:
        (answer,) = super().sum_shares(descriptor, ask, now)
        wrong = sum_shares([answer.share, answer.share])
        statement = answer.signed.statement.model_copy(update={"share_sha256": hashlib.sha256(wrong).hexdigest()})
        return [ShareAnswer(self.signer.sign(statement), wrong)]


class LiesInTheDegreeCheck(LyingHolder):
    """Its answer for the first member is off, as if that client had dealt inconsistent shares."""

    name = "a key-holder that lies in the degree check"

    def answer_degree_check(self, descriptor: Descriptor, ask: DegreeRequest, now: int) -> list[SignedDegreeAnswer]:
        (signed,) = super().answer_degree_check(descriptor, ask, now)
        lie = "00000001" if signed.statement.values[:8] != "00000001" else "00000002"
        values = lie + signed.statement.values[8:]
        return [self.signer.sign(signed.statement.model_copy(update={"values": values}))]


class EndorsesTwice(LyingHolder):
    """Endorses and sums whatever it is shown, as often as it is asked."""

    name = "a key-holder that endorses twice"

    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.machine = replace(self.machine, journal=RemembersApprovals())


class KeepsSilent(LyingHolder):
    """Approves, and is never heard of again."""

    name = "a key-holder that keeps silent"

    def endorse_candidate(self, descriptor: Descriptor, ask: CandidateRequest, now: int) -> list[SignedEndorsement]:
        return []

    def answer_degree_check(self, descriptor: Descriptor, ask: DegreeRequest, now: int) -> list[SignedDegreeAnswer]:
        return []

    def endorse_final(self, descriptor: Descriptor, ask: FinalRequest, now: int) -> list[SignedEndorsement]:
        return []

    def sum_shares(self, descriptor: Descriptor, ask: ShareRequest, now: int) -> list[ShareAnswer]:
        return []


class NeverApproves(KeepsSilent):
    """Silent from the start."""

    name = "a key-holder that never approves"

    def approve(self, proposal: SignedDescriptor, now: int) -> list[SignedApproval]:
        return []


class SilentAtTheEnd(LyingHolder):
    """Endorses both sets and keeps its share sum."""

    name = "a key-holder that keeps its share sum"

    def sum_shares(self, descriptor: Descriptor, ask: ShareRequest, now: int) -> list[ShareAnswer]:
        return []


class RestoredFromABackup(LyingHolder):
    """Honest otherwise: after each answer its records are put back as they were after its approval."""

    name = "a key-holder restored from an old backup"

    def approve(self, proposal: SignedDescriptor, now: int) -> list[SignedApproval]:
        self.backup = proposal
        return super().approve(proposal, now)

    def restore(self, now: int) -> None:
        self.machine = replace(self.machine, journal=MemoryJournal())
        self.machine.approve(self.backup, now)

    def endorse_candidate(self, descriptor: Descriptor, ask: CandidateRequest, now: int) -> list[SignedEndorsement]:
        try:
            return super().endorse_candidate(descriptor, ask, now)
        finally:
            self.restore(now)

    def answer_degree_check(self, descriptor: Descriptor, ask: DegreeRequest, now: int) -> list[SignedDegreeAnswer]:
        try:
            return super().answer_degree_check(descriptor, ask, now)
        finally:
            self.restore(now)

    def endorse_final(self, descriptor: Descriptor, ask: FinalRequest, now: int) -> list[SignedEndorsement]:
        try:
            return super().endorse_final(descriptor, ask, now)
        finally:
            self.restore(now)


class ComplainsAboutEverybody(LyingHolder):
    """No member's box is good enough for it."""

    name = "a key-holder that complains about everybody"

    def accused(self, ask: CandidateRequest) -> list[str]:
        return [member.client for member in ask.candidate.statement.members]

    def endorse_candidate(self, descriptor: Descriptor, ask: CandidateRequest, now: int) -> list[SignedEndorsement]:
        (signed,) = super().endorse_candidate(descriptor, ask, now)
        complaints = tuple(Complaint(client=client, reason="box-malformed") for client in self.accused(ask))
        return [self.signer.sign(signed.statement.model_copy(update={"complaints": complaints}))]


class FramesAClient(ComplainsAboutEverybody):
    """It complains about one honest member. Its word is signed and published, and cannot be checked by others."""

    name = "a key-holder that frames a client"

    def accused(self, ask: CandidateRequest) -> list[str]:
        return super().accused(ask)[:1]


LIARS: tuple[type[LyingHolder], ...] = (
    SendsAWrongShareSum,
    LiesInTheDegreeCheck,
    EndorsesTwice,
    KeepsSilent,
    NeverApproves,
    SilentAtTheEnd,
    RestoredFromABackup,
    ComplainsAboutEverybody,
    FramesAClient,
)
