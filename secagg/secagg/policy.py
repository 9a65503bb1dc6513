"""Local policy: the trust anchors of a client, a key-holder or an auditor (protocol.md §4.4).

Nothing in a policy comes from the coordinator. What a policy does not allow is refused.
"""

from collections.abc import Iterable
from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, model_validator

from secagg.canonical import statement_hash
from secagg.client_noise.session import NoisySession, check_colluders
from secagg.descriptor import AuditReserve, Descriptor
from secagg.errors import PolicyViolation
from secagg.identity import Identity, check_issued_by
from secagg.plan import BASE_NAME, Frozen, Hash, Method, Options, Plan, TaskSpec, TensorSpec, Unit

ClientNoiseRule = Literal["allowed", "required", "refused"]
Fingerprints = Annotated[dict[str, Hash], Field(min_length=1)]


class AdapterSchema(Frozen):
    """What `adapter_schema_hash` covers: every tensor with its start value, and how the model is wired.

    `adapter` is the PEFT configuration without the base model's name: the model's hash pins what it is. Both names in a
    plan are the same (`Plan`).
    """

    architecture: str
    task: TaskSpec
    method: Method
    options: Options = Field(default_factory=dict)
    a_seed: Hash
    tensors: tuple[TensorSpec, ...]
    adapter: dict[str, JsonValue]


def adapter_schema_hash(plan: Plan) -> str:
    """Hash that policies pin to fix architecture and adapter (malicious-architecture attacks, protocol.md §4.4)."""
    schema = AdapterSchema(
        architecture=plan.architecture,
        task=plan.task,
        method=plan.method,
        options=plan.options,
        a_seed=plan.a_seed,
        tensors=plan.tensors,
        adapter={key: value for key, value in plan.adapter_config.items() if key != BASE_NAME},
    )
    return statement_hash("adapter-schema", schema)


def check_model(plan: Plan, base_models: tuple[str, ...], schemas: tuple[str, ...]) -> None:
    """Raise PolicyViolation unless base model and adapter schema are pinned; empty tuples allow any."""
    if base_models and plan.base_model_hash not in base_models:
        raise PolicyViolation(f"base model {plan.base_model_hash[:16]} is not one that is pinned")
    schema = adapter_schema_hash(plan)
    if schemas and schema not in schemas:
        raise PolicyViolation(f"adapter schema {schema[:16]} is not one that is pinned")


class Anchors(Frozen):
    """Whom a party trusts, and for what. Fingerprints are SHA-256 of certificates, by a name of the party's own choice.

    `required_institutions` is how many of the pinned `institutions` must be on the roster and in every set.
    `assumed_corrupt_clients` forces both n_min and `required_institutions` to at least that plus two: unpinned members
    may be inventions, so two honest ones must be among the pinned. Empty hash lists allow any: only an auditor may
    leave them so. `max_releases` is how many cohorts a session may release one after another (protocol.md §8.7).
    """

    protocols: tuple[Literal["sealed"], ...] = ("sealed",)
    coordinator: Hash
    committee: Fingerprints
    corrupt_keyholders: int = Field(ge=0, default=1)
    institutions: Fingerprints
    required_institutions: int = Field(ge=2)
    assumed_corrupt_clients: int = Field(ge=0, default=1)
    n_min: int = Field(ge=2)
    max_releases: int = Field(ge=1, default=1)
    base_model_hashes: tuple[Hash, ...] = ()
    adapter_schema_hashes: tuple[Hash, ...] = ()

    @model_validator(mode="after")
    def _check_counts(self) -> Self:
        if self.n_min < self.assumed_corrupt_clients + 2:
            raise ValueError(
                f"n_min is {self.n_min}, but {self.assumed_corrupt_clients} corrupt clients need at least "
                f"{self.assumed_corrupt_clients + 2}"
            )
        if self.required_institutions < self.assumed_corrupt_clients + 2:
            raise ValueError(
                f"required_institutions is {self.required_institutions}, but {self.assumed_corrupt_clients} corrupt "
                f"clients need at least {self.assumed_corrupt_clients + 2}"
            )
        if self.required_institutions > len(set(self.institutions.values())):
            raise ValueError("required_institutions is larger than the number of pinned institutions")
        return self

    def check_parties(self, descriptor: Descriptor) -> None:
        """Raise PolicyViolation unless coordinator, committee, roster, n_min and model are as pinned."""
        if descriptor.coordinator_identity.fingerprint != self.coordinator:
            raise PolicyViolation("the coordinator is not the one that is pinned")
        unknown = {holder.fingerprint for holder in descriptor.holders} - set(self.committee.values())
        if unknown:
            raise PolicyViolation(f"key-holder {min(unknown)[:16]} is not one that is pinned")
        if descriptor.corrupt_keyholders < self.corrupt_keyholders:
            raise PolicyViolation(
                f"the session assumes f={descriptor.corrupt_keyholders} corrupt key-holders, "
                f"at least {self.corrupt_keyholders} is asked for"
            )
        if descriptor.n_min < self.n_min:
            raise PolicyViolation(f"n_min is {descriptor.n_min}, at least {self.n_min} is asked for")
        if descriptor.releases > self.max_releases:
            raise PolicyViolation(
                f"the session allows {descriptor.releases} releases, {self.max_releases} is the most here: each opens "
                "the sum of a smaller cohort. To accept that, set max_releases"
            )
        self.check_institutions(descriptor.clients, "roster")
        check_colluders(descriptor.client_noise, self.assumed_corrupt_clients)
        plan = descriptor.plan
        check_model(plan, self.base_model_hashes, self.adapter_schema_hashes)

    def check_institutions(self, clients: Iterable[str], where: str) -> None:
        """Raise PolicyViolation when too few pinned institutions are among `clients` (fingerprints)."""
        pinned = len(set(clients) & set(self.institutions.values()))
        if pinned < self.required_institutions:
            raise PolicyViolation(
                f"only {pinned} pinned institutions are in the {where}, {self.required_institutions} are asked for: "
                "the rest could be inventions of the coordinator"
            )


class TrainingLimits(Frozen):
    """What a client or key-holder accepts of a plan, whichever protocol adds up the results.

    `min_weight` is the smallest public weight that any client may have; 1 means equal weights. Among very small weights
    one full one would stand out of the sum as if it were alone. `units` of privacy (protocol.md §2.6a) are accepted:
    `("user",)` for data in which one person has many records.

    `client_noise` says whether a session may, must or must not add noise with whole clients as the unit (protocol.md
    §14), and `max_client_epsilon` what that may spend over all rounds; any, unless it is given.
    """

    base_model_hashes: tuple[Hash, ...] = Field(min_length=1)
    adapter_schema_hashes: tuple[Hash, ...] = Field(min_length=1)
    max_epsilon: float = Field(gt=0)
    max_delta: float = Field(gt=0, lt=1)
    noise: tuple[Literal["secure", "seeded"], ...] = ("secure",)
    units: tuple[Unit, ...] = ("record", "user")
    min_weight: float = Field(gt=0, le=1, default=1.0)
    client_noise: ClientNoiseRule = Field(default="allowed", exclude_if=lambda rule: rule == "allowed")
    max_client_epsilon: float | None = Field(gt=0, default=None, exclude_if=lambda most: most is None)

    def check_plan(self, plan: Plan, weights: Iterable[float]) -> None:
        """Raise PolicyViolation, naming the first rule that weights or training break."""
        lightest = min(weights)
        if lightest < self.min_weight:
            raise PolicyViolation(
                f"a client has weight {lightest}, at least {self.min_weight} is asked for: the sum would show the "
                "heavier ones"
            )
        training = plan.training
        if training.epsilon is None:
            raise PolicyViolation("the session trains without differential privacy")
        if training.epsilon > self.max_epsilon:
            raise PolicyViolation(f"epsilon {training.epsilon} is above the policy's {self.max_epsilon}")
        if training.delta > self.max_delta:
            raise PolicyViolation(f"delta {training.delta} is above the policy's {self.max_delta}")
        if training.noise not in self.noise:
            raise PolicyViolation(f"{training.noise} noise is not among {', '.join(self.noise)}")
        if training.unit not in self.units:
            raise PolicyViolation(
                f"the session's unit of privacy is the {training.unit}, the policy's units are {', '.join(self.units)}"
            )

    def check_client_noise(self, session: NoisySession) -> None:
        """Raise PolicyViolation unless the session's noise for whole clients, or that it has none, is allowed."""
        noise, grid = session.client_noise, session.noise_grid
        if noise is None or grid is None:
            if self.client_noise == "required":
                raise PolicyViolation("the session has no client-level noise, the policy requires it")
            return
        if self.client_noise == "refused":
            raise PolicyViolation("the session adds client-level noise, the policy refuses it")
        epsilon = grid.epsilon(session.client_releases)
        if self.max_client_epsilon is not None and epsilon > self.max_client_epsilon:
            raise PolicyViolation(
                f"client-level epsilon {epsilon:.4g} is above the policy's {self.max_client_epsilon:g}"
            )
        if noise.delta > self.max_delta:
            raise PolicyViolation(f"client-level delta {noise.delta} is above the policy's {self.max_delta}")


class Policy(Anchors, TrainingLimits):
    """What a client or key-holder accepts of a session; its anchors, and limits on what is trained and released.

    `max_audit_hold_out` and `max_audit_canaries` are how much a session may reserve for an audit (protocol.md §4.6):
    nothing, unless the institution agrees that part of its records is left out and canaries are trained on.
    """

    max_rounds: int = Field(ge=1, default=1)
    base_model_hashes: tuple[Hash, ...] = Field(min_length=1)
    adapter_schema_hashes: tuple[Hash, ...] = Field(min_length=1)
    max_audit_hold_out: float = Field(ge=0, le=0.5, default=0.0)
    max_audit_canaries: int = Field(ge=0, default=0)

    def check(self, descriptor: Descriptor) -> None:
        """Raise PolicyViolation, naming the first rule that the descriptor breaks."""
        self.check_parties(descriptor)
        if descriptor.protocol not in self.protocols:
            raise PolicyViolation(f"protocol {descriptor.protocol} is not among {', '.join(self.protocols)}")
        if descriptor.rounds > self.max_rounds:
            raise PolicyViolation(
                f"the session is one of {descriptor.rounds} rounds, the policy allows {self.max_rounds}: more rounds "
                "show more of each client. To accept that, set max_rounds"
            )
        self.check_plan(descriptor.plan, (member.weight for member in descriptor.roster))
        self.check_client_noise(descriptor)
        if descriptor.audit is not None:
            self._check_audit(descriptor.audit)

    def _check_audit(self, reserve: AuditReserve) -> None:
        if reserve.hold_out > self.max_audit_hold_out:
            raise PolicyViolation(
                f"the session holds records out for an audit with probability {reserve.hold_out:g}, the policy allows "
                f"{self.max_audit_hold_out:g}: set max_audit_hold_out = {reserve.hold_out:g} in it if you agree"
            )
        if reserve.canaries > self.max_audit_canaries:
            raise PolicyViolation(
                f"the session puts up to {reserve.canaries} canaries into each client's training, the policy allows "
                f"{self.max_audit_canaries}: set max_audit_canaries = {reserve.canaries} in it if you agree"
            )


def check_authority(descriptor: Descriptor, authority_pem: str, now: int) -> None:
    """Raise CertificateInvalid unless every certificate in the descriptor comes from the authority, valid at `now`."""
    everyone: tuple[Identity, ...] = (
        descriptor.coordinator_identity, *descriptor.holders, *descriptor.clients.values()
    )  # fmt: skip
    for identity in everyone:
        check_issued_by(identity, authority_pem, now)
