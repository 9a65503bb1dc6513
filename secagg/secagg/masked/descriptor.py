"""The descriptor of a masked session, which binds everything that it is (protocol.md §12.2)."""

import json
from collections.abc import Sequence
from functools import cached_property
from typing import Literal, Self

from pydantic import Field, ValidationError, model_validator

from secagg.canonical import canonical_bytes, tagged_hash
from secagg.client_noise.session import check_setting, make_grid, statement_of
from secagg.client_noise.setting import ClientNoise, NoiseGrid
from secagg.client_noise.statement import ClientStatement
from secagg.codec import Quantiser
from secagg.descriptor import AuditReserve, Pem, RosterMember
from secagg.encodings.layout import Layout
from secagg.encodings.registry import encoding_of
from secagg.errors import MalformedError, RoleViolation, SecaggError
from secagg.identity import Identity, Role, identify, plain_name
from secagg.masked.parameters import MAX_CLIENTS, Graph, choose_graph, width
from secagg.masked.vectors import Shape
from secagg.messages import Seconds
from secagg.plan import Frozen, Hash, Plan
from secagg.randomness import Randomness
from secagg.signing import Signed, Signer, Statement
from secagg.validation import first_problem

LATER_ROUNDS = 4
"""Rounds after the advertisements: share, upload, endorse, unmask."""


class Masking(Frozen):
    """The numbers of the graph (protocol.md §12.1): holders k, threshold t, corrupt clients c, dropouts d."""

    neighbours: int
    threshold: int
    corrupt: int
    dropouts: int


class MaskedDescriptor(Statement):
    """Everything that is agreed before a masked session. `ctx` is its hash; nothing outside it has meaning."""

    version: Literal[1] = 1
    nonce: Hash
    protocol: Literal["masked"] = "masked"
    plan: Plan
    bits: int = Field(ge=2, le=24)
    masking: Masking
    n_min: int = Field(ge=2)
    roster: tuple[RosterMember, ...] = Field(min_length=3, max_length=MAX_CLIENTS)
    coordinator: Pem
    releases: Literal[1] = 1
    created_at: Seconds
    upload_deadline: Seconds
    round_seconds: int = Field(ge=1, le=7 * 86_400)
    expires_at: Seconds
    client_noise: ClientNoise | None = Field(default=None, exclude_if=lambda noise: noise is None)

    @classmethod
    def purpose(cls) -> str:
        """Domain of the signature."""
        return "masked-descriptor"

    @cached_property
    def ctx(self) -> str:
        """The session's name, 32 bytes in hex; every other statement carries it."""
        return tagged_hash("secagg/v1/masked/ctx", canonical_bytes(self)).hex()

    @property
    def series(self) -> str:
        """What the ledger counts under: a masked session is a series of its own."""
        return self.ctx

    @property
    def number(self) -> int:
        """The first round and the last."""
        return 0

    @property
    def rounds(self) -> int:
        """One: a masked session does not go on from another."""
        return 1

    @property
    def client_releases(self) -> int:
        """One, with one vector of each member (protocol.md §14.6)."""
        return self.rounds

    @property
    def round(self) -> None:
        """No place in a series."""

    @property
    def previous(self) -> None:
        """No round before."""

    @property
    def steps(self) -> range:
        """All of the plan's steps."""
        return range(self.plan.training.steps)

    @property
    def audit(self) -> AuditReserve | None:
        """Nothing is set aside."""
        return None

    @cached_property
    def graph(self) -> Graph:
        """The numbers of the graph, checked. Raises ParameterError."""
        chosen = self.masking
        return Graph(len(self.roster), chosen.neighbours, chosen.threshold, chosen.corrupt, chosen.dropouts)

    @cached_property
    def clients(self) -> tuple[Identity, ...]:
        """The roster; a member number is a place in it."""
        return tuple(identify(member.certificate) for member in self.roster)

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Member numbers by fingerprint."""
        return {identity.fingerprint: number for number, identity in enumerate(self.clients)}

    @cached_property
    def coordinator_identity(self) -> Identity:
        """Who runs the server."""
        return identify(self.coordinator)

    @cached_property
    def layout(self) -> Layout:
        """Where each value of the vector is (protocol.md §2.1). Raises EncodingError."""
        return encoding_of(self.plan).layout(self.plan)

    @cached_property
    def quantiser(self) -> Quantiser:
        """One clip per part of the vector (protocol.md §2.3); with client-level noise, room for it (§14.2)."""
        return self.layout.quantiser(self.bits) if self.noise_grid is None else self.noise_grid.noisy_quantiser

    @cached_property
    def noise_grid(self) -> NoiseGrid | None:
        """The numbers of client-level noise (protocol.md §14), if the session has it. Raises ParameterError."""
        return make_grid(self.client_noise, self.layout.quantiser(self.bits), self.n_min, len(self.roster))

    @property
    def client_statement(self) -> ClientStatement | None:
        """What each client says of its noise (protocol.md §14.6a), if the session has it."""
        return statement_of(self)

    @cached_property
    def shape(self) -> Shape:
        """Length and width of a masked vector (protocol.md §12.1.4). Raises ParameterError."""
        return Shape(self.layout.length, width(len(self.roster), self.bits))

    def number_of(self, fingerprint: str) -> int:
        """The member number of a client, or RoleViolation."""
        try:
            return self.numbers[fingerprint]
        except KeyError:
            raise RoleViolation(f"client {fingerprint[:16]} is not on the roster of session {self.ctx[:16]}") from None

    def member(self, number: int) -> Identity:
        """The client with a member number, or RoleViolation."""
        if not 0 <= number < len(self.clients):
            raise RoleViolation(f"there is no member {number} on the roster of session {self.ctx[:16]}")
        return self.clients[number]

    def institutions(self, members: Sequence[int]) -> int:
        """How many institutions the members are of; names that differ in case or spaces are one (protocol.md §8.2)."""
        return len({plain_name(self.member(number).institution) for number in members})

    @model_validator(mode="after")
    def _check(self) -> Self:
        try:
            self._check_parties()
            self._check_numbers()
        except SecaggError as error:
            raise ValueError(str(error)) from error
        return self

    def _check_parties(self) -> None:
        roles = [(self.coordinator_identity, Role.COORDINATOR), *((client, Role.CLIENT) for client in self.clients)]
        for identity, role in roles:
            if identity.role != role:
                raise MalformedError(f"{identity.title} holds a certificate for {identity.role}, not for {role}")
        if len({identity.signing_key for identity, _ in roles}) != len(roles):
            raise MalformedError("roster and coordinator must be distinct parties with distinct keys")
        names = [client.fingerprint for client in self.clients]
        if names != sorted(set(names)):
            raise MalformedError("the roster must be in order of fingerprint")

    def _check_numbers(self) -> None:
        if not self.created_at < self.upload_deadline < self.expires_at:
            raise MalformedError("times must be in the order created_at < upload_deadline < expires_at")
        if self.upload_deadline + LATER_ROUNDS * self.round_seconds > self.expires_at:
            raise MalformedError(
                f"{LATER_ROUNDS} rounds of {self.round_seconds} s do not fit between upload_deadline and expires_at"
            )
        weights = [member.weight for member in self.roster]
        if max(weights) != 1.0:
            raise MalformedError("weights are fractions of the largest, which must be 1")
        encoding = encoding_of(self.plan)
        encoding.check_session(self.plan, bits=self.bits, weights=weights)
        self.graph.check_least(self.n_min)
        if self.client_noise is not None and self.client_noise.colluders < self.masking.corrupt:
            raise MalformedError(
                f"the session withstands {self.masking.corrupt} corrupt clients, and its noise only "
                f"{self.client_noise.colluders} that tell theirs: set colluders = {self.masking.corrupt} or more"
            )
        check_setting(self, encoding)
        if self.shape.length < 1:
            raise MalformedError("the plan's vector is empty")


SignedMaskedDescriptor = Signed[MaskedDescriptor]


def is_masked(raw: bytes) -> bool:
    """Whether a signed session or certificate, in its JSON form, is of a masked session. Says nothing else about it."""
    try:
        statement = json.loads(raw)["statement"]
        return bool("masking" in statement or "masking_note" in statement)
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


class MaskedSpec(Frozen):
    """What the coordinator's operator decides. Rates are shares of the roster; seconds count from creation.

    `round_seconds` is how long each round after the advertisements waits for clients that are silent.
    """

    n_min: int = Field(ge=2)
    dropout_rate: float = Field(ge=0, lt=1, default=0.1)
    corruption_rate: float = Field(ge=0, lt=1, default=0.1)
    bits: int = Field(ge=2, le=24, default=16)
    upload_seconds: int = Field(ge=1)
    round_seconds: int = Field(ge=1, default=60)
    expiry_seconds: int = Field(ge=2)
    client_noise: ClientNoise | None = None


def create_masked_session(
    spec: MaskedSpec, plan: Plan, roster: Sequence[RosterMember], signer: Signer, now: int, random: Randomness
) -> SignedMaskedDescriptor:
    """Choose the graph, put the descriptor together and sign it (protocol.md §12.1, §12.2).

    Raises ParameterError when no graph serves the numbers, MalformedError when the parts contradict each other.
    """
    graph = choose_graph(len(roster), spec.dropout_rate, spec.corruption_rate, spec.n_min)
    width(len(roster), spec.bits)
    try:
        descriptor = MaskedDescriptor(
            nonce=random(32).hex(),
            plan=plan,
            bits=spec.bits,
            masking=Masking(
                neighbours=graph.holders, threshold=graph.threshold, corrupt=graph.corrupt, dropouts=graph.dropouts
            ),
            n_min=spec.n_min,
            roster=tuple(sorted(roster, key=lambda member: identify(member.certificate).fingerprint)),
            coordinator=signer.identity.pem,
            created_at=now,
            upload_deadline=now + spec.upload_seconds,
            round_seconds=spec.round_seconds,
            expires_at=now + spec.expiry_seconds,
            client_noise=spec.client_noise,
        )
    except ValidationError as error:
        raise MalformedError(f"the session does not hold together: {first_problem(error, '')}") from None
    return signer.sign(descriptor)
