"""Local policy: the trust anchors of a client, a key-holder or an auditor (protocol.md §4.4).

Nothing in a policy comes from the coordinator. What a policy does not allow is refused.
"""

from collections.abc import Iterable
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from secagg.canonical import statement_hash
from secagg.descriptor import Descriptor
from secagg.errors import PolicyViolation
from secagg.identity import Identity, check_issued_by
from secagg.plan import Frozen, Hash, Plan, TaskSpec, TensorSpec

Fingerprints = Annotated[dict[str, Hash], Field(min_length=1)]


class AdapterSchema(Frozen):
    """What `adapter_schema_hash` covers: every tensor with its start value, and how the model is wired."""

    architecture: str
    task: TaskSpec
    method: str
    a_seed: Hash
    tensors: tuple[TensorSpec, ...]


def adapter_schema_hash(plan: Plan) -> str:
    """Hash that policies pin to fix architecture and adapter (malicious-architecture attacks, protocol.md §4.4)."""
    schema = AdapterSchema(
        architecture=plan.architecture, task=plan.task, method=plan.method, a_seed=plan.a_seed, tensors=plan.tensors
    )
    return statement_hash("adapter-schema", schema)


class Policy(Frozen):
    """What one party accepts. Fingerprints are SHA-256 of certificates, by a name of the party's own choice.

    `required_institutions` is how many of the pinned `institutions` must be on the roster and, for key-holders,
    in every set. `assumed_corrupt_clients` forces n_min to at least that plus two.
    """

    coordinator: Hash
    committee: Fingerprints
    corrupt_keyholders: int = Field(ge=0, default=1)
    institutions: Fingerprints
    required_institutions: int = Field(ge=2)
    assumed_corrupt_clients: int = Field(ge=0, default=1)
    n_min: int = Field(ge=2)
    max_releases: int = Field(ge=1, default=1)
    protocols: tuple[Literal["sealed"], ...] = ("sealed",)
    base_model_hashes: tuple[Hash, ...] = Field(min_length=1)
    adapter_schema_hashes: tuple[Hash, ...] = Field(min_length=1)
    max_epsilon: float = Field(gt=0)
    max_delta: float = Field(gt=0, lt=1)
    noise: tuple[Literal["secure", "seeded"], ...] = ("secure",)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.n_min < self.assumed_corrupt_clients + 2:
            raise ValueError(
                f"n_min is {self.n_min}, but {self.assumed_corrupt_clients} corrupt clients need at least "
                f"{self.assumed_corrupt_clients + 2}"
            )
        if self.required_institutions > len(self.institutions):
            raise ValueError("required_institutions is larger than the number of pinned institutions")
        return self

    def check(self, descriptor: Descriptor) -> None:
        """Raise PolicyViolation, naming the first rule that the descriptor breaks."""
        self._check_parties(descriptor)
        self._check_privacy(descriptor)
        plan = descriptor.plan
        if descriptor.protocol not in self.protocols:
            raise PolicyViolation(f"protocol {descriptor.protocol} is not among {', '.join(self.protocols)}")
        if plan.base_model_hash not in self.base_model_hashes:
            raise PolicyViolation(f"base model {plan.base_model_hash[:16]} is not one that the policy pins")
        schema = adapter_schema_hash(plan)
        if schema not in self.adapter_schema_hashes:
            raise PolicyViolation(f"adapter schema {schema[:16]} is not one that the policy pins")
        if descriptor.releases > self.max_releases:
            raise PolicyViolation(f"{descriptor.releases} releases, the policy allows {self.max_releases}")

    def _check_parties(self, descriptor: Descriptor) -> None:
        if descriptor.coordinator_identity.fingerprint != self.coordinator:
            raise PolicyViolation("the coordinator is not the one that the policy pins")
        holders = {holder.fingerprint for holder in descriptor.holders}
        unknown = holders - set(self.committee.values())
        if unknown:
            raise PolicyViolation(f"key-holder {min(unknown)[:16]} is not one that the policy pins")
        if descriptor.corrupt_keyholders < self.corrupt_keyholders:
            raise PolicyViolation(
                f"the session assumes f={descriptor.corrupt_keyholders} corrupt key-holders, "
                f"the policy asks for at least {self.corrupt_keyholders}"
            )
        if descriptor.n_min < self.n_min:
            raise PolicyViolation(f"n_min is {descriptor.n_min}, the policy asks for at least {self.n_min}")
        self.check_institutions(descriptor.clients, "roster")

    def check_institutions(self, clients: Iterable[str], where: str) -> None:
        """Raise PolicyViolation when too few pinned institutions are among `clients` (fingerprints)."""
        pinned = len(set(clients) & set(self.institutions.values()))
        if pinned < self.required_institutions:
            raise PolicyViolation(
                f"only {pinned} pinned institutions are in the {where}, the policy asks for "
                f"{self.required_institutions}: the rest could be inventions of the coordinator"
            )

    def _check_privacy(self, descriptor: Descriptor) -> None:
        training = descriptor.plan.training
        if training.epsilon is None:
            raise PolicyViolation("the session trains without differential privacy")
        if training.epsilon > self.max_epsilon:
            raise PolicyViolation(f"epsilon {training.epsilon} is above the policy's {self.max_epsilon}")
        if training.delta > self.max_delta:
            raise PolicyViolation(f"delta {training.delta} is above the policy's {self.max_delta}")
        if training.noise not in self.noise:
            raise PolicyViolation(f"{training.noise} noise is not among {', '.join(self.noise)}")


def check_authority(descriptor: Descriptor, authority_pem: str, now: int) -> None:
    """Raise CertificateInvalid unless every certificate in the descriptor comes from the authority, valid at `now`."""
    everyone: tuple[Identity, ...] = (
        descriptor.coordinator_identity, *descriptor.holders, *descriptor.clients.values()
    )  # fmt: skip
    for identity in everyone:
        check_issued_by(identity, authority_pem, now)
