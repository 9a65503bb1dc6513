"""Parties and sessions that the benchmarks run: real certificates, descriptors and approvals around a made-up plan."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secagg.coordinator import SessionSpec, create_session
from secagg.descriptor import CommitteeMember, RosterMember, SignedDescriptor
from secagg.identity import Role, issue, new_authority, new_request
from secagg.keyholder import KeyHolder
from secagg.plan import Plan, TaskSpec, TensorInit, TensorSpec, TrainingSettings
from secagg.policy import Policy, adapter_schema_hash
from secagg.privacy import PrivacyStatement, stated
from secagg.randomness import Randomness
from secagg.run import MemoryJournal, MemoryKeys, Parties, policy_for
from secagg_host.durable import make_folder, write_atomic
from secagg_host.identity import AUTHORITY, CERTIFICATE, SIGNING_KEY, TLS_KEY, PartyFiles, load_identity

CLIP = 0.01
BITS = 16
HOLDERS = 4
HOUR = 3600


def bench_plan(length: int) -> Plan:
    """A plan whose vector has `length` values of one clip. Nothing is trained, so there is no model behind it."""
    return Plan(
        base_model="none",
        base_model_hash="ab" * 32,
        architecture="None",
        task=TaskSpec(kind="classify", labels=("no", "yes"), max_length=16),
        a_seed="01" * 32,
        tensors=(
            TensorSpec(name="a.lora_A.weight", shape=(4, 8), init=TensorInit(kind="seeded", bound=0.3), clip=0.0),
            TensorSpec(name="a.lora_B.weight", shape=(length,), init=TensorInit(kind="zeros"), clip=CLIP),
        ),
        adapter_config={"peft_type": "LORA", "r": 4},
        training=TrainingSettings(
            steps=1, batch_size=1, learning_rate=0.01, optimizer="sgd", max_grad_norm=1.0, epsilon=8.0, delta=1e-5
        ),
    )


def bench_statement(plan: Plan) -> PrivacyStatement:
    """What a client says of its training. None took place."""
    return stated(plan.training, "benchmark, nothing was trained")


def bench_update(length: int, number: int) -> NDArray[np.float32]:
    """Client `number`'s made-up update, float32 [length], within the clip; the same each time."""
    values = np.random.default_rng(number).random(length, dtype=np.float32)
    return (values * np.float32(2 * CLIP) - np.float32(CLIP)).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Committee:
    """Key-holders with their session keys in memory, and what a session says of them."""

    holders: tuple[KeyHolder, ...]
    members: tuple[CommitteeMember, ...]

    @classmethod
    def make(cls, parties: Parties, policy: Policy, now: int, random: Randomness) -> "Committee":
        """Fresh offers of everybody in the committee, under `policy`."""
        holders = tuple(
            KeyHolder(signer, policy, parties.authority, MemoryJournal(), MemoryKeys()) for signer in parties.holders
        )
        members = tuple(
            CommitteeMember(certificate=holder.signer.identity.pem, offer=holder.offer(now, 9 * HOUR, random))
            for holder in holders
        )
        return cls(holders, members)


@dataclass(frozen=True, slots=True)
class BenchSession:
    """A proposed session, and who is in it."""

    parties: Parties
    plan: Plan
    committee: Committee
    proposal: SignedDescriptor

    @classmethod
    def make(cls, parties: Parties, length: int, now: int, random: Randomness, n_min: int = 2) -> "BenchSession":
        """A session of `length` values for exactly the clients in `parties`.

        Raises ParameterError when no parameter set carries it.
        """
        plan, count = bench_plan(length), len(parties.clients)
        spec = SessionSpec(n_min=n_min, n_max=count, bits=BITS, upload_seconds=4 * HOUR, expiry_seconds=8 * HOUR)
        policy = policy_for(parties, plan, n_min, spec.corrupt_keyholders)
        committee = Committee.make(parties, policy, now, random)
        roster = [RosterMember(certificate=signer.identity.pem) for signer in parties.clients.values()]
        proposal = create_session(spec, plan, roster, committee.members, parties.coordinator, now, random)
        return cls(parties, plan, committee, proposal)

    def approved(self, now: int) -> SignedDescriptor:
        """The descriptor with the approvals of the whole committee, each given after its own checks."""
        approvals = tuple(holder.approve(self.proposal, now) for holder in self.committee.holders)
        return SignedDescriptor(descriptor=self.proposal.descriptor, approvals=approvals)

    @property
    def schema(self) -> str:
        """Hash of the adapter's shape, for policies."""
        return adapter_schema_hash(self.plan)


@dataclass(frozen=True, slots=True)
class PartyFolders:
    """The same parties with their files on disk, as `secagg ca issue` leaves them: for processes and for TLS."""

    coordinator: Path
    clients: tuple[PartyFiles, ...]
    holders: tuple[PartyFiles, ...]
    parties: Parties

    @classmethod
    def make(cls, folder: Path, clients: int) -> "PartyFolders":
        """An authority, a coordinator on loopback, so many clients, and HOLDERS key-holders, below `folder`."""
        now = int(time.time())
        authority = new_authority("benchmark authority", now)

        def party(role: Role, institution: str, name: str, home: str) -> PartyFiles:
            hosts = ("127.0.0.1", "localhost") if role == Role.COORDINATOR else ()
            request, tls_key, signing_key = new_request(role, institution, name, hosts)
            certificate = issue(request, *authority, now, expect=(role, institution, name), days=30)
            content = {CERTIFICATE: certificate, TLS_KEY: tls_key, SIGNING_KEY: signing_key, AUTHORITY: authority[0]}
            for file, data in content.items():
                write_atomic(make_folder(folder / home) / file, data)
            return load_identity(folder / home)

        coordinator = party(Role.COORDINATOR, "Coordinator", "server", "server")
        trainers = tuple(party(Role.CLIENT, f"Client {i}", "trainer", f"client-{i}") for i in range(clients))
        holders = tuple(party(Role.KEYHOLDER, f"Holder {i}", "holder", f"holder-{i}") for i in range(HOLDERS))
        parties = Parties(
            authority=authority[0].decode(),
            coordinator=coordinator.signer,
            clients={files.identity.institution: files.signer for files in trainers},
            holders=tuple(files.signer for files in holders),
        )
        return cls(folder / "server", trainers, holders, parties)
