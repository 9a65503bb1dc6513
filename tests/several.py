"""A session of several releases in memory, cohort after cohort, so that a test can bend any one of them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from secagg.accumulate import Accumulator
from secagg.certificate import OPENING
from secagg.contributor import SealedUpload
from secagg.coordinator import SessionSpec, Settlement, fix_candidate, open_with_shares, settle
from secagg.descriptor import Descriptor
from secagg.keyholder import KeyHolder
from secagg.messages import Receipt, SignedCandidate, SignedEndorsement, SignedReceipt
from secagg.policy import Policy
from secagg.release import ReleaseParts, build_release, running_sums
from secagg.releases import Arrival, EarlierRelease, Progress, ReleasedSets
from tests.small import DAY, Small


@dataclass
class SeveralSmall(Small):
    """A small session whose parties allow several releases."""

    clients: int = 8
    releases: int = 2

    @cached_property
    def policy(self) -> Policy:
        plain: Policy = Small.policy.func(self)  # type: ignore[attr-defined]
        return plain.model_copy(update={"max_releases": self.releases})

    @cached_property
    def session_spec(self) -> SessionSpec:
        plain: SessionSpec = Small.session_spec.func(self)  # type: ignore[attr-defined]
        return plain.model_copy(update={"releases": self.releases})


@dataclass
class Several:
    """Runs releases one after another; a cohort is given by the numbers of its uploads, in order of arrival."""

    small: SeveralSmall = field(default_factory=SeveralSmall)
    sets: list[ReleasedSets] = field(default_factory=list)
    contents: list[dict[str, bytes]] = field(default_factory=list)

    @property
    def descriptor(self) -> Descriptor:
        return self.small.descriptor

    def uploads(self, cohort: Sequence[int]) -> list[SealedUpload]:
        """In order of fingerprint."""
        chosen = [self.small.uploads[number] for number in cohort]
        return sorted(chosen, key=lambda upload: upload.signed.statement.client)

    def candidate(self, number: int, cohort: Sequence[int]) -> SignedCandidate:
        uploads = [upload.signed for upload in self.uploads(cohort)]
        return fix_candidate(self.small.parties.coordinator, self.descriptor, uploads, self.fixed_at(number), number)

    def fixed_at(self, number: int) -> int:
        """When the set of a release is fixed: nobody's clock is further."""
        return self.small.now

    def came(self, number: int) -> int:
        """When an upload came. Time stands still here unless a test says otherwise."""
        return self.small.now

    def receipt(self, number: int) -> SignedReceipt:
        """What the coordinator signed when it came."""
        upload = self.small.uploads[number].signed.statement
        return self.small.parties.coordinator.sign(
            Receipt(ctx=upload.ctx, client=upload.client, upload_root=upload.upload_root, received_at=self.came(number))
        )

    def endorse(
        self,
        holder: KeyHolder,
        number: int,
        cohort: Sequence[int],
        earlier: Sequence[ReleasedSets] | None = None,
        peers: Sequence[SignedEndorsement] = (),
    ) -> SignedEndorsement:
        shown = self.small.shown(holder, self.uploads(cohort))
        before = self.sets if earlier is None else earlier
        candidate = self.candidate(number, cohort)
        return holder.endorse_candidate(self.descriptor, candidate, shown, peers, self.small.now, before)

    def close(self, number: int, cohort: Sequence[int]) -> tuple[SignedCandidate, Settlement, ReleasedSets]:
        """Both sets of a release, endorsed by everybody."""
        small, candidate = self.small, self.candidate(number, cohort)
        answers = [self.endorse(holder, number, cohort) for holder in small.committee]
        degree = [
            holder.answer_degree_check(
                self.descriptor, candidate, answers, small.shown(holder, self.uploads(cohort)), small.now
            )
            for holder in small.committee
        ]
        settled = settle(small.parties.coordinator, self.descriptor, candidate, answers, degree)
        endorsed = tuple(
            holder.endorse_final(
                self.descriptor, candidate, settled.final, settled.answers, settled.degree_answers, (), small.now
            )
            for holder in small.committee
        )
        return candidate, settled, ReleasedSets(candidate=candidate, final=settled.final, endorsements=endorsed)

    def parts(self, cohort: Sequence[int]) -> ReleaseParts:
        """The next release, opened."""
        small, number = self.small, len(self.sets) + 1
        candidate, settled, sets = self.close(number, cohort)
        uploads = self.uploads(cohort)
        shares = [
            h.sum_shares(self.descriptor, settled.final, sets.endorsements, small.shown(h, uploads), small.now)
            for h in small.committee
        ]
        total = Accumulator(self.descriptor.parameters)
        for upload in uploads:
            total.add(upload.ciphertext)
        opened = open_with_shares(self.descriptor, settled.final.statement, shares, total)
        parts = ReleaseParts(
            session=small.session,
            uploads=tuple(upload.signed for upload in uploads),
            candidate=candidate,
            settlement=settled,
            final_endorsements=sets.endorsements,
            opened=opened,
            total=total,
            start=None,
            timeline=(),
            released_at=small.now,
            progress=self.progress(cohort),
            before=running_sums(self.contents[-1][OPENING]) if self.contents else None,
        )
        self.sets.append(sets)
        return parts

    def progress(self, cohort: Sequence[int]) -> Progress:
        arrivals = tuple(
            Arrival(client=self.small.uploads[number].signed.statement.client, received_at=self.came(number))
            for number in cohort
        )
        earlier = tuple(
            EarlierRelease(sets=sets, opening_sha256=hashlib.sha256(content[OPENING]).hexdigest())
            for sets, content in zip(self.sets, self.contents, strict=True)
        )
        return Progress(number=len(self.sets) + 1, arrivals=arrivals, earlier=earlier)

    def release(self, cohort: Sequence[int]) -> dict[str, bytes]:
        """The next release, as a folder."""
        parts = self.parts(cohort)
        return self.build(parts)

    def build(self, parts: ReleaseParts) -> dict[str, bytes]:
        made = build_release(parts, self.small.parties.coordinator, {"secagg": "0.1.0"}, lambda _: b"<html></html>")
        self.contents.append(made)
        return made


def several(releases: int = 2, clients: int = 8, **more: object) -> Several:
    """A session of so many clients and releases."""
    spec = SessionSpec(n_min=3, n_max=10, bits=16, upload_seconds=DAY, expiry_seconds=2 * DAY, **more)  # type: ignore[arg-type]
    return Several(SeveralSmall(clients=clients, releases=releases, spec=spec))
