"""A small masked session in memory, stage by stage, so that a test can bend any one step."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from secagg.client_noise.setting import ClientNoise
from secagg.descriptor import RosterMember
from secagg.encodings.registry import encoding_of
from secagg.masked.client import Advertised, MaskedClient, Shared
from secagg.masked.closing import ConsistencyRound, UnmaskRound
from secagg.masked.descriptor import MaskedDescriptor, MaskedSpec, SignedMaskedDescriptor, create_masked_session
from secagg.masked.messages import SharingMessage, SignedAdvertisement, UploadMessage
from secagg.masked.policy import MaskedPolicy
from secagg.masked.run import STEPS, Step, policy_for_masked
from secagg.masked.server import AdvertiseRound, ShareRound, UploadRound
from secagg.masked.unmasking import Endorsed, Uploaded
from secagg.plan import Plan
from secagg.privacy import stated
from secagg.run import MemoryJournal, Parties, certify
from secagg.signing import Signer
from tests.small import DAY, NOW, changes, small_plan

PARTIES = certify([f"Hospital {i}" for i in range(1, 13)], 0, NOW)


@dataclass
class Masked:
    """Everything of one session, made on first use; `absent[step]` are member numbers that are gone from it on."""

    clients: int = 6
    n_min: int = 4
    absent: Mapping[Step, set[int]] = field(default_factory=dict)
    dropout_rate: float = 0.2
    plan: Plan = field(default_factory=lambda: small_plan(40))
    parties: Parties = field(default_factory=lambda: PARTIES)
    client_noise: ClientNoise | None = None
    drawn: dict[int, list[bytes]] = field(default_factory=dict, repr=False)

    @cached_property
    def signed(self) -> SignedMaskedDescriptor:
        roster = [RosterMember(certificate=signer.identity.pem) for signer in self.signers_any()]
        spec = MaskedSpec(
            n_min=self.n_min, dropout_rate=self.dropout_rate, upload_seconds=DAY // 2, expiry_seconds=DAY,
            client_noise=self.client_noise,
        )  # fmt: skip
        return create_masked_session(spec, self.plan, roster, self.parties.coordinator, NOW, os.urandom)

    def signers_any(self) -> list[Signer]:
        return list(self.parties.clients.values())[: self.clients]

    @cached_property
    def descriptor(self) -> MaskedDescriptor:
        return self.signed.statement

    @cached_property
    def signers(self) -> list[Signer]:
        """By member number."""
        return sorted(self.signers_any(), key=lambda signer: signer.identity.fingerprint)

    @cached_property
    def changes(self) -> list[NDArray[np.float32]]:
        return list(changes(self.clients, self.plan.length).values())

    @cached_property
    def policy(self) -> MaskedPolicy:
        pinned = Parties(
            self.parties.authority,
            self.parties.coordinator,
            {signer.identity.institution: signer for signer in self.signers},
            (),
        )
        return policy_for_masked(pinned, self.descriptor)

    def there(self, step: Step) -> list[int]:
        gone = set[int]().union(*(self.absent.get(earlier, set()) for earlier in STEPS[: STEPS.index(step) + 1]))
        return [number for number in range(self.clients) if number not in gone]

    @cached_property
    def joined(self) -> list[MaskedClient]:
        return [
            MaskedClient.join(self.signed, signer, self.policy, self.parties.authority, MemoryJournal(), NOW)
            for signer in self.signers
        ]

    @cached_property
    def advertised(self) -> dict[int, tuple[Advertised, SignedAdvertisement]]:
        return {number: self.joined[number].advertise(os.urandom, NOW) for number in self.there("advertise")}

    @cached_property
    def sharing(self) -> ShareRound:
        advertising = AdvertiseRound(self.descriptor)
        for _, signed in self.advertised.values():
            advertising.add(signed)
        return advertising.close()

    @cached_property
    def shared(self) -> dict[int, tuple[Shared, SharingMessage]]:
        return {
            number: self.advertised[number][0].share(self.sharing.directory, os.urandom, NOW)
            for number in self.there("share")
        }

    @cached_property
    def uploading(self) -> UploadRound:
        for _, message in self.shared.values():
            self.sharing.add(message)
        return self.sharing.close()

    def upload(self, number: int) -> tuple[Uploaded, UploadMessage]:
        told = self.uploading.shared_with(number)
        statement, drawn = stated(self.plan.training, "test"), list[bytes]()

        def random(size: int) -> bytes:
            drawn.append(os.urandom(size))
            return drawn[-1]

        made = self.shared[number][0].upload(told, self.changes[number], statement, random, NOW)
        self.drawn[number] = drawn
        return made

    def values(self, number: int) -> NDArray[np.uint32]:
        """What an honest member of `uploaded` encoded, uint32 [L]: again, with what it drew after its own mask."""
        assert self.descriptor.noise_grid is None
        drawn = iter(self.drawn[number][1:])
        vector = encoding_of(self.plan).encode(self.plan, self.changes[number], lambda size: next(drawn))
        weight = self.descriptor.roster[number].weight
        return self.descriptor.quantiser.encode(vector, lambda size: next(drawn), weight).values

    @cached_property
    def uploaded(self) -> dict[int, tuple[Uploaded, UploadMessage]]:
        return {number: self.upload(number) for number in self.there("upload")}

    @cached_property
    def consistency(self) -> ConsistencyRound:
        for _, message in self.uploaded.values():
            self.uploading.add(message)
        return self.uploading.close(self.parties.coordinator)

    @cached_property
    def endorsed(self) -> dict[int, Endorsed]:
        out = {}
        for number in self.there("endorse"):
            out[number], signed = self.uploaded[number][0].endorse(self.consistency.chosen, NOW)
            self.consistency.add(signed)
        return out

    @cached_property
    def unmasking(self) -> UnmaskRound:
        assert self.endorsed is not None
        return self.consistency.close()

    def finish(self) -> UnmaskRound:
        """Everybody who is there answers."""
        unmasking = self.unmasking
        for number in self.there("unmask"):
            unmasking.add(self.endorsed[number].unmask(unmasking.request(number), NOW))
        return unmasking
