"""Coordinators that lie in a sealed session, each by name. They hold no share, whatever they do."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from secagg.certificate import ADAPTER, CERTIFICATE, SignedRelease, certificate_file
from secagg.contributor import SealedUpload, seal_contribution
from secagg.descriptor import CommitteeMember, Descriptor, RosterMember, SignedDescriptor
from secagg.messages import Candidate, SetMember, SignedReceipt
from secagg.privacy import stated
from secagg.release import ReleaseParts
from secagg.releases import Arrival, Progress
from tests.simulation.lying_clients import add_plain
from tests.simulation.sealed_parties import PARTIES, PLAN, STRANGERS, Client, Closing, Holder, Server
from tests.small import DAY


class LyingServer(Server):
    """A coordinator that does not do as it should."""

    honest = False

    def close(self) -> None:
        """With too few uploads there is nothing to lie about."""
        self.closings = self.sets() if len(self.uploads) >= self.spec.n_min else [self.closing(self.uploads)]

    def sets(self) -> list[Closing]:
        """What it asks key-holders about."""
        return [self.closing(self.uploads)]

    def signed_set(self, uploads: Sequence[SealedUpload], **changes: object) -> Closing:
        """A candidate set that it signs, whatever it is."""
        members = tuple(
            SetMember(client=upload.signed.statement.client, upload_root=upload.signed.statement.upload_root)
            for upload in sorted(uploads, key=lambda upload: upload.signed.statement.client)
        )
        fields = {"ctx": self.descriptor.ctx, "release": 1, "members": members, "fixed_at": self.now, **changes}
        return Closing(self, self.signer.sign(Candidate.model_validate(fields)), uploads)


def place_of(holder: Holder) -> int:
    """Its place in the committee."""
    return [signer.identity.fingerprint for signer in PARTIES.holders].index(holder.fingerprint)


class ShowsDifferentSets(LyingServer):
    """Half of the key-holders see everybody, the other half everybody but one."""

    name = "a coordinator that shows different key-holders different sets"

    def sets(self) -> list[Closing]:
        return [self.closing(self.uploads), self.closing(self.uploads[:-1])]

    def asked_of(self, holder: Holder) -> list[Closing]:
        if not holder.honest:  # those who work with it see both
            return self.closings
        return [self.closings[place_of(holder) // 2]] if self.closings else []


class AsksForOverlappingSets(LyingServer):
    """After the sum over everybody it asks each key-holder for the sum over everybody but one."""

    name = "a coordinator that asks for overlapping sets"

    def sets(self) -> list[Closing]:
        return [self.closing(self.uploads), self.closing(self.uploads[:-1])]


class CountsReleasesUp(LyingServer):
    """The same with another release number, as if the session had several."""

    name = "a coordinator that calls a second set another release"

    def sets(self) -> list[Closing]:
        return [self.closing(self.uploads), self.signed_set(self.uploads[:-1], release=2)]


class OpensTooFew(LyingServer):
    """A set of two, in a session that opens nothing below three."""

    name = "a coordinator that opens too few"

    def sets(self) -> list[Closing]:
        return [self.signed_set(self.uploads[:2])]


class AddsMembersOffTheRoster(LyingServer):
    """Two clients and inventions of its own, whose vectors it knows."""

    name = "a coordinator that adds members off the roster"

    def sets(self) -> list[Closing]:
        return [self.signed_set([*self.uploads[:2], *self.inventions()])]

    def inventions(self) -> list[SealedUpload]:
        signers = list(STRANGERS.clients.values())[:2]
        roster = (*self.descriptor.roster, *(RosterMember(certificate=signer.identity.pem) for signer in signers))
        with_them = Descriptor.model_validate({**self.descriptor.model_dump(), "roster": roster})
        zeros, privacy = np.zeros(PLAN.length, np.float32), stated(PLAN.training, "test")
        made = [seal_contribution(with_them, signer, zeros, privacy, os.urandom) for signer in signers]
        return [
            replace(one, signed=signer.sign(one.signed.statement.model_copy(update={"ctx": self.descriptor.ctx})))
            for one, signer in zip(made, signers, strict=True)
        ]


class SwapsTheModel(LyingServer):
    """Another base model, hence another hash, than every policy pins."""

    name = "a coordinator that swaps the base model"

    def propose(self, clients: Sequence[Client], committee: Sequence[CommitteeMember]) -> None:
        plan = PLAN.model_copy(update={"base_model_hash": "cd" * 32})
        self.proposal = self.descriptor_of(self.roster(clients), committee, plan)


class DropsAClientSilently(LyingServer):
    """It gives a receipt for the last upload and then forgets it."""

    name = "a coordinator that drops a client silently"

    def sets(self) -> list[Closing]:
        return [self.closing(self.uploads[:-1])]


class AltersACiphertext(LyingServer):
    """One residue of a stored upload."""

    name = "a coordinator that alters a ciphertext"

    def stored_ciphertext(self, upload: SealedUpload) -> NDArray[np.uint8]:
        if upload is not self.uploads[0]:
            return upload.ciphertext
        altered = upload.ciphertext.copy()
        altered[0, 1] ^= 1
        return altered


class AddsToTheSum(LyingServer):
    """A value of its own, in the clear: additions need no key."""

    name = "a coordinator that adds to the sum"

    def stored_ciphertext(self, upload: SealedUpload) -> NDArray[np.uint8]:
        if upload is not self.uploads[0]:
            return upload.ciphertext
        return add_plain(self.descriptor.parameters, upload.ciphertext, {0: 1, 7: 1})


class PublishesAWrongOpening(LyingServer):
    """The sum is right, the adapter that it signs is another."""

    name = "a coordinator that publishes a wrong opening"

    def publish(self, closing: Closing) -> dict[str, bytes]:
        files = super().publish(closing)
        tensors = load(files[ADAPTER])
        tensors["a.lora_B.weight"] = tensors["a.lora_B.weight"] + np.float32(0.001)
        files[ADAPTER] = save(tensors, metadata={"format": "pt"})
        statement = SignedRelease.parse(files[CERTIFICATE]).statement
        hashes = {**statement.files, ADAPTER: hashlib.sha256(files[ADAPTER]).hexdigest()}
        signed = self.signer.sign(statement.model_copy(update={"files": hashes}))
        return {**files, CERTIFICATE: certificate_file(signed)}


class ForgesBoxesForTheAbsent(LyingServer):
    """The last client sends nothing; the coordinator makes an upload in its name: HPKE lets anybody seal a box."""

    name = "a coordinator that forges boxes for an absent member"

    def sets(self) -> list[Closing]:
        present = self.uploads[:-1]
        absent = self.uploads[-1].signed.statement
        thief = next(iter(PARTIES.clients.values()))
        zeros = np.zeros(PLAN.length, np.float32)
        made = seal_contribution(self.descriptor, thief, zeros, absent.privacy, os.urandom)
        statement = made.signed.statement.model_copy(update={"client": absent.client})
        forged = self.signer.sign(statement).model_copy(update={"signer": absent.client})
        return [self.signed_set([*present, replace(made, signed=forged)])]


class FillsTheRosterWithSybils(LyingServer):
    """Two institutions that everybody knows, and three that it had certified for itself."""

    name = "a coordinator that fills the roster with Sybils"

    def roster(self, clients: Sequence[Client]) -> list[RosterMember]:
        sybils = [signer for name, signer in PARTIES.clients.items() if name.startswith("Sybil")]
        return [
            *super().roster(clients)[:2],
            *(RosterMember(certificate=signer.identity.pem) for signer in sybils),
        ]


class TellsEachClientAnotherSession(LyingServer):
    """The last client is shown another descriptor, with the approvals that the committee gave for the first."""

    name = "a coordinator whose descriptors differ by client"

    def propose(self, clients: Sequence[Client], committee: Sequence[CommitteeMember]) -> None:
        super().propose(clients, committee)
        self.other = self.descriptor_of(self.roster(clients), committee)
        self.victim = clients[-1].fingerprint

    def shown_to_client(self, client: Client) -> SignedDescriptor:
        shown = super().shown_to_client(client)
        return shown if client.fingerprint != self.victim else replace_descriptor(self.other, shown)


class TellsEachHolderAnotherSession(TellsEachClientAnotherSession):
    """Half of the committee is shown another descriptor, with the same key offers."""

    name = "a coordinator whose descriptors differ by key-holder"

    def shown_to_holder(self, holder: Holder) -> SignedDescriptor:
        return self.proposal if place_of(holder) < 2 else self.other

    def shown_to_client(self, client: Client) -> SignedDescriptor:
        return Server.shown_to_client(self, client)


def replace_descriptor(other: SignedDescriptor, approved: SignedDescriptor) -> SignedDescriptor:
    """Another descriptor under borrowed approvals."""
    return SignedDescriptor(descriptor=other.descriptor, approvals=approved.approvals)


class DatesTheSetInTheFuture(LyingServer):
    """The candidate set is fixed tomorrow."""

    name = "a coordinator that dates its set in the future"

    def sets(self) -> list[Closing]:
        return [self.signed_set(self.uploads, fixed_at=self.now + DAY // 2)]


class DatesTheSetBeforeTheSession(LyingServer):
    """The candidate set was fixed before there was a session."""

    name = "a coordinator that dates its set before the session"

    def sets(self) -> list[Closing]:
        return [self.signed_set(self.uploads, fixed_at=self.descriptor.created_at - 1)]


class BackdatesTheSet(LyingServer):
    """It leaves the last upload out, and says that the set was fixed before that came.

    With a roster that is large enough the session may have two releases: so it could be for the second one.
    """

    name = "a coordinator that dates its set back, inside the session"

    def propose(self, clients: Sequence[Client], committee: Sequence[CommitteeMember]) -> None:
        releases = 2 if len(clients) >= 2 * self.spec.n_min else 1
        self.spec = self.spec.model_copy(update={"releases": releases})
        super().propose(clients, committee)

    def take(self, peer: str, sealed: SealedUpload) -> SignedReceipt:
        """One upload a minute."""
        self.now += 60
        return super().take(peer, sealed)

    def sets(self) -> list[Closing]:
        return [self.signed_set(self.uploads[:-1], fixed_at=self.dated)]

    @property
    def dated(self) -> int:
        """After the first upload."""
        return self.descriptor.created_at + 61

    def parts(self, closing: Closing) -> ReleaseParts:
        parts = super().parts(closing)
        if self.descriptor.releases == 1:
            return parts
        return replace(parts, progress=Progress(number=1, arrivals=self.arrivals(closing), earlier=()))

    def arrivals(self, closing: Closing) -> tuple[Arrival, ...]:
        """When its members came, as it signed for it."""
        receipts = [self.taken[client][1].statement for client in closing.uploads]
        return tuple(Arrival(client=receipt.client, received_at=receipt.received_at) for receipt in receipts)


class BackdatesTheMembersToo(BackdatesTheSet):
    """So that the certificate does not contradict itself."""

    name = "a coordinator that dates its set and all who are in it back"

    def arrivals(self, closing: Closing) -> tuple[Arrival, ...]:
        true = super().arrivals(closing)
        return tuple(one.model_copy(update={"received_at": min(one.received_at, self.dated)}) for one in true)


class DatesTheSessionInTheFuture(LyingServer):
    """So that its deadlines are further away than everybody's clock says."""

    name = "a coordinator that dates its session in the future"

    def propose(self, clients: Sequence[Client], committee: Sequence[CommitteeMember]) -> None:
        true, self.now = self.now, self.now + DAY
        super().propose(clients, committee)
        self.now = true


class TakesUploadsWithoutChecks(LyingServer):
    """Whatever a client sends gets a receipt."""

    name = "a coordinator that checks no upload"

    def take(self, peer: str, sealed: SealedUpload) -> SignedReceipt:
        if sealed.signed.statement.client != peer:
            return super().take(peer, sealed)
        if peer not in self.taken:
            self.taken[peer] = sealed, self.receipt(sealed)
        return self.taken[peer][1]


LIARS: tuple[type[LyingServer], ...] = (
    ShowsDifferentSets,
    AsksForOverlappingSets,
    CountsReleasesUp,
    OpensTooFew,
    AddsMembersOffTheRoster,
    SwapsTheModel,
    DropsAClientSilently,
    AltersACiphertext,
    AddsToTheSum,
    PublishesAWrongOpening,
    ForgesBoxesForTheAbsent,
    FillsTheRosterWithSybils,
    TellsEachClientAnotherSession,
    TellsEachHolderAnotherSession,
    DatesTheSetInTheFuture,
    DatesTheSetBeforeTheSession,
    BackdatesTheSet,
    BackdatesTheMembersToo,
    DatesTheSessionInTheFuture,
    TakesUploadsWithoutChecks,
)
