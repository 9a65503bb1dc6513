"""What a client or an auditor accepts of a masked session, by its own file alone (protocol.md §4.4, §12.1.5)."""

from collections.abc import Iterable
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from secagg.errors import PolicyViolation, TooFewContributions
from secagg.masked.descriptor import MaskedDescriptor
from secagg.plan import Frozen, Hash
from secagg.policy import TrainingLimits, check_model


class MaskedAnchors(Frozen):
    """Whom a party trusts in a masked session, and for what. Fingerprints are SHA-256 of certificates.

    `required_institutions` of the pinned `institutions` must be on the roster and in every set U. Both that and n_min
    are at least `assumed_corrupt_clients` + 2: whoever is not pinned may be an invention of the coordinator. Empty hash
    lists allow any: only an auditor may leave them so. `protocols` says that the file is for masked sessions.
    """

    protocols: tuple[Literal["masked"]]
    coordinator: Hash
    institutions: Annotated[dict[str, Hash], Field(min_length=1)]
    required_institutions: int = Field(ge=2)
    assumed_corrupt_clients: int = Field(ge=0, default=1)
    n_min: int = Field(ge=2)
    base_model_hashes: tuple[Hash, ...] = ()
    adapter_schema_hashes: tuple[Hash, ...] = ()

    @model_validator(mode="after")
    def _check_counts(self) -> Self:
        least = self.assumed_corrupt_clients + 2
        if min(self.n_min, self.required_institutions) < least:
            raise ValueError(
                f"{self.assumed_corrupt_clients} corrupt clients need n_min and required_institutions >= {least}"
            )
        if self.required_institutions > len(set(self.institutions.values())):
            raise ValueError("required_institutions is larger than the number of pinned institutions")
        return self

    def check_parties(self, descriptor: MaskedDescriptor) -> None:
        """Raise PolicyViolation unless coordinator, roster, numbers and model are as pinned."""
        if descriptor.coordinator_identity.fingerprint != self.coordinator:
            raise PolicyViolation("the coordinator is not the one that is pinned")
        if descriptor.n_min < self.n_min:
            raise PolicyViolation(f"n_min is {descriptor.n_min}, at least {self.n_min} is asked for")
        if descriptor.graph.corrupt < self.assumed_corrupt_clients:
            raise PolicyViolation(
                f"the session withstands {descriptor.graph.corrupt} corrupt clients, "
                f"at least {self.assumed_corrupt_clients} are assumed"
            )
        self._check_pinned(range(len(descriptor.clients)), descriptor, "roster")
        check_model(descriptor.plan, self.base_model_hashes, self.adapter_schema_hashes)

    def check_set(self, descriptor: MaskedDescriptor, members: tuple[int, ...]) -> None:
        """Raise TooFewContributions or PolicyViolation unless U is large enough, by the session and by this policy."""
        least = max(self.n_min, descriptor.n_min)
        institutions = descriptor.institutions(members)
        if min(len(members), institutions) < least:
            raise TooFewContributions(
                f"the set has {len(members)} members of {institutions} institutions; nothing is opened below {least}"
            )
        self._check_pinned(members, descriptor, "set")

    def _check_pinned(self, members: Iterable[int], descriptor: MaskedDescriptor, where: str) -> None:
        shown = {descriptor.member(number).fingerprint for number in members}
        pinned = len(shown & set(self.institutions.values()))
        if pinned < self.required_institutions:
            raise PolicyViolation(
                f"only {pinned} pinned institutions are in the {where}, {self.required_institutions} are asked for: "
                "the rest could be inventions of the coordinator"
            )


class MaskedPolicy(MaskedAnchors, TrainingLimits):
    """What a client accepts of a masked session: its anchors, and limits on what is trained."""

    base_model_hashes: tuple[Hash, ...] = Field(min_length=1)
    adapter_schema_hashes: tuple[Hash, ...] = Field(min_length=1)

    def check(self, descriptor: MaskedDescriptor) -> None:
        """Raise PolicyViolation, naming the first rule that the descriptor breaks."""
        self.check_parties(descriptor)
        self.check_plan(descriptor.plan, (member.weight for member in descriptor.roster))
        self.check_client_noise(descriptor)
