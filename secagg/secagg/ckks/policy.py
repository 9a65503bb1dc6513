"""What a party accepts of a ckks session, by its own file alone (protocol.md §4.4, §13.3.2)."""

from collections.abc import Iterable
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from secagg.ckks.descriptor import CkksDescriptor
from secagg.client_noise.session import check_colluders
from secagg.errors import PolicyViolation, TooFewContributions
from secagg.plan import Frozen, Hash
from secagg.policy import TrainingLimits, check_model


class CkksAnchors(Frozen):
    """Whom a party trusts in a ckks session. Fingerprints are SHA-256 of certificates.

    The key-holder could open every upload that it is given: pin one that the coordinator cannot order about. Counts
    are as in `policy.Anchors`; empty hash lists allow any: only an auditor may leave them so.
    """

    protocols: tuple[Literal["ckks"]]
    coordinator: Hash
    keyholder: Hash
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

    def check_parties(self, descriptor: CkksDescriptor) -> None:
        """Raise PolicyViolation unless coordinator, key-holder, roster, n_min and model are as pinned."""
        if descriptor.coordinator_identity.fingerprint != self.coordinator:
            raise PolicyViolation("the coordinator is not the one that is pinned")
        if descriptor.holder.fingerprint != self.keyholder:
            raise PolicyViolation("the key-holder is not the one that is pinned")
        if descriptor.n_min < self.n_min:
            raise PolicyViolation(f"n_min is {descriptor.n_min}, at least {self.n_min} is asked for")
        self._check_pinned(descriptor.clients, "roster")
        check_colluders(descriptor.client_noise, self.assumed_corrupt_clients)
        check_model(descriptor.plan, self.base_model_hashes, self.adapter_schema_hashes)

    def check_set(self, descriptor: CkksDescriptor, members: tuple[str, ...]) -> None:
        """Raise TooFewContributions or PolicyViolation unless U is large enough, by the session and by this policy."""
        least = max(self.n_min, descriptor.n_min)
        institutions = descriptor.institutions(members)
        if min(len(members), institutions) < least:
            raise TooFewContributions(
                f"the set has {len(members)} members of {institutions} institutions; nothing is opened below {least}"
            )
        if len(members) > descriptor.n_max:
            raise PolicyViolation(f"the set has {len(members)} members, more than n_max = {descriptor.n_max}")
        self._check_pinned(members, "set")

    def _check_pinned(self, members: Iterable[str], where: str) -> None:
        pinned = len(set(members) & set(self.institutions.values()))
        if pinned < self.required_institutions:
            raise PolicyViolation(
                f"only {pinned} pinned institutions are in the {where}, {self.required_institutions} are asked for: "
                "the rest could be inventions of the coordinator"
            )


class CkksPolicy(CkksAnchors, TrainingLimits):
    """What a client or key-holder accepts of a ckks session: its anchors, and limits on what is trained."""

    base_model_hashes: tuple[Hash, ...] = Field(min_length=1)
    adapter_schema_hashes: tuple[Hash, ...] = Field(min_length=1)

    def check(self, descriptor: CkksDescriptor) -> None:
        """Raise PolicyViolation, naming the first rule that the descriptor breaks."""
        self.check_parties(descriptor)
        self.check_plan(descriptor.plan, (member.weight for member in descriptor.roster))
        self.check_client_noise(descriptor)
