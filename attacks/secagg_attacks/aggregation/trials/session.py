"""A session in memory up to its uploads, stage by stage, so that an attack can bend any of it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from secagg.contributor import SealedUpload, seal_contribution
from secagg.coordinator import SessionSpec, create_session
from secagg.descriptor import CommitteeMember, Descriptor, RosterMember, SignedDescriptor
from secagg.errors import AuditError
from secagg.keyholder import KeyHolder, check_offers
from secagg.plan import Plan, TaskSpec, TensorInit, TensorSpec, TrainingSettings
from secagg.policy import Policy, check_authority
from secagg.privacy import stated
from secagg.randomness import Randomness
from secagg.rounds import Round
from secagg.run import DAY, MemoryJournal, MemoryKeys, Parties, certify, policy_for
from secagg_attacks.aggregation.replay import Asked, Replayer
from secagg_attacks.aggregation.set_difference import CohortSum
from secagg_attacks.views import Vector

HOLDERS, N_MIN = 4, 3
VALUES = 300


class ForgetfulJournal(MemoryJournal):
    """DEFENCE OFF: of all that must be answered once it remembers the approval alone."""

    def get(self, key: str) -> bytes | None:
        """Nothing but approvals."""
        return super().get(key) if key.startswith("approval/") else None

    def record(self, key: str, value: bytes) -> bytes:
        """Forgets what it endorsed."""
        return super().record(key, value) if key.startswith("approval/") else value


@dataclass(frozen=True, slots=True)
class Bench:
    """Parties, their policy, and what time it is. `random` makes every secret."""

    parties: Parties
    policy: Policy
    now: int
    random: Randomness = field(repr=False)

    @classmethod
    def of(cls, plan: Plan, clients: int, now: int, random: Randomness) -> "Bench":
        """`clients` institutions and four key-holders, of whom one may be corrupt, who pin each other and the plan."""
        names = [f"Hospital {number}" for number in range(1, clients + 1)]
        parties = certify(names, HOLDERS, now)
        return cls(parties, policy_for(parties, plan, N_MIN, 1), now, random)

    def committee(self, forgetful: int = 0) -> tuple[KeyHolder, ...]:
        """Fresh key-holders, of whom the last `forgetful` keep no record of what they endorsed."""
        honest = len(self.parties.holders) - forgetful
        return tuple(
            KeyHolder(
                signer, self.policy, self.parties.authority,
                MemoryJournal() if number < honest else ForgetfulJournal(), MemoryKeys(),
            )
            for number, signer in enumerate(self.parties.holders)
        )  # fmt: skip

    def proposed(
        self, plan: Plan, committee: Sequence[KeyHolder], names: Collection[str] = (), round_: Round | None = None,
        n_min: int = N_MIN,
    ) -> SignedDescriptor:  # fmt: skip
        """What the coordinator signs for these clients, all by default: no key-holder has approved it yet."""
        spec = SessionSpec(n_min=n_min, n_max=10, upload_seconds=DAY, expiry_seconds=2 * DAY)
        members = [
            CommitteeMember(certificate=each.signer.identity.pem, offer=each.offer(self.now, 3 * DAY, self.random))
            for each in committee
        ]
        chosen = names or self.parties.clients
        roster = [RosterMember(certificate=self.parties.clients[name].identity.pem) for name in chosen]
        return create_session(spec, plan, roster, members, self.parties.coordinator, self.now, self.random, round_)

    def approved(self, proposal: SignedDescriptor, committee: Sequence[KeyHolder]) -> SignedDescriptor:
        """With the approval of each key-holder. Raises what a key-holder refuses."""
        return proposal.model_copy(update={"approvals": tuple(each.approve(proposal, self.now) for each in committee)})

    def accept(self, signed: SignedDescriptor) -> Descriptor:
        """What a client checks before it trains, in its order (protocol.md §4.3, §4.4). Raises what it refuses."""
        descriptor = signed.check(approved=True)
        check_authority(descriptor, self.parties.authority, self.now)
        self.policy.check(descriptor)
        check_offers(descriptor)
        return descriptor

    def session(
        self, plan: Plan, changes: Mapping[str, Vector], forgetful: int = 0, round_: Round | None = None
    ) -> "Session":
        """A whole session of the clients in `changes`, until all have uploaded."""
        committee = self.committee(forgetful)
        signed = self.approved(self.proposed(plan, committee, list(changes), round_), committee)
        descriptor = self.accept(signed)
        statement = stated(plan.training, "stated by the caller")
        uploads = [
            seal_contribution(descriptor, self.parties.clients[name], change, statement, self.random)
            for name, change in changes.items()
        ]
        truth = {self.fingerprint(name): change for name, change in changes.items()}
        ordered = tuple(sorted(uploads, key=lambda upload: upload.signed.statement.client))
        return Session(self, committee, signed, descriptor, truth, ordered)

    def fingerprint(self, name: str) -> str:
        """Of a client's certificate."""
        return self.parties.clients[name].identity.fingerprint


@dataclass(frozen=True, slots=True)
class Session:
    """A session with all uploads in. `changes` is the truth by fingerprint, for the scorer."""

    bench: Bench
    committee: tuple[KeyHolder, ...]
    signed: SignedDescriptor = field(repr=False)
    descriptor: Descriptor = field(repr=False)
    changes: Mapping[str, Vector] = field(repr=False)
    uploads: tuple[SealedUpload, ...] = field(repr=False)

    @property
    def everybody(self) -> tuple[str, ...]:
        """Fingerprints, as sets are ordered."""
        return tuple(upload.signed.statement.client for upload in self.uploads)

    def ask(
        self, members: Collection[str], committee: Sequence[KeyHolder] = (), late: int = 0,
        descriptor: Descriptor | None = None,
    ) -> Asked:  # fmt: skip
        """The coordinator asks key-holders, its own by default, to open the sum over these, `late` seconds later.

        `descriptor` is another session's, to which the uploads are replayed.
        """
        coordinator, now = self.bench.parties.coordinator, self.bench.now + late
        replayer = Replayer(descriptor or self.descriptor, coordinator, self.uploads, now)
        return replayer.ask(members, committee or self.committee)

    def opened(self, members: Collection[str] = ()) -> CohortSum:
        """The sum over these, or all. Raises AuditError when it was refused."""
        return sum_of(self.ask(members or self.everybody))


def sum_of(asked: Asked) -> CohortSum:
    """The opened sum. Raises AuditError when there is none."""
    if asked.mean is None:
        raise AuditError(f"a session that should open was refused: {asked.refusals[-1].error}")
    return CohortSum(asked.members, len(asked.members) * asked.mean.astype(np.float64))


def plain_plan() -> Plan:
    """VALUES trained values of a model that does not exist: for attacks that no training is needed for."""
    return Plan(
        base_model="none",
        base_model_hash="00" * 32,
        architecture="None",
        task=TaskSpec(kind="classify", labels=("no", "yes"), max_length=16),
        a_seed="01" * 32,
        tensors=(
            TensorSpec(name="a.lora_A.weight", shape=(4, 8), init=TensorInit(kind="seeded", bound=0.3), clip=0.0),
            TensorSpec(name="a.lora_B.weight", shape=(VALUES,), init=TensorInit(kind="zeros"), clip=0.5),
        ),
        adapter_config={"peft_type": "LORA", "r": 4},
        training=TrainingSettings(
            steps=4, batch_size=8, learning_rate=0.01, optimizer="sgd", max_grad_norm=1.0, epsilon=8.0, delta=1e-5
        ),
    )


def made_up(bench: Bench, seed: int = 7) -> dict[str, Vector]:
    """An update for each client, [VALUES], of deviation .1 within a clip of .5."""
    rng = np.random.default_rng(seed)
    return {name: rng.normal(0, 0.1, VALUES).clip(-0.5, 0.5).astype(np.float32) for name in bench.parties.clients}
