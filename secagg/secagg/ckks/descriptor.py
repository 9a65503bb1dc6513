"""The descriptor of a ckks session, which binds everything that it is (protocol.md §13.3)."""

import json
from collections.abc import Sequence
from functools import cached_property
from typing import Literal, Self

from pydantic import Field, ValidationError, model_validator

from secagg.boxes import check_public_key
from secagg.canonical import canonical_bytes, tagged_hash
from secagg.ckks.messages import SignedKeyOffer
from secagg.ckks.parameters import MAX_CLIENTS, CkksParameters
from secagg.ckks.scheme import PublicContext
from secagg.client_noise.session import check_setting, make_grid, statement_of
from secagg.client_noise.setting import ClientNoise, NoiseGrid
from secagg.client_noise.statement import ClientStatement
from secagg.codec import Quantiser
from secagg.descriptor import AuditReserve, Pem, RosterMember
from secagg.encodings.layout import Layout
from secagg.encodings.registry import encoding_of
from secagg.errors import MalformedError, RoleViolation, SecaggError
from secagg.identity import Identity, Role, identify, plain_name
from secagg.messages import Seconds
from secagg.plan import Frozen, Hash, Plan
from secagg.randomness import Randomness
from secagg.signing import Signed, Signer, Statement
from secagg.validation import first_problem


class CkksDescriptor(Statement):
    """Everything that is agreed before a ckks session. `ctx` is its hash; nothing outside it has meaning."""

    version: Literal[1] = 1
    nonce: Hash
    protocol: Literal["ckks"] = "ckks"
    plan: Plan
    bits: int = Field(ge=2, le=24)
    n_min: int = Field(ge=2)
    n_max: int = Field(ge=2, le=MAX_CLIENTS)
    roster: tuple[RosterMember, ...] = Field(min_length=2, max_length=MAX_CLIENTS)
    keyholder: Pem
    offer: SignedKeyOffer
    coordinator: Pem
    releases: Literal[1] = 1
    created_at: Seconds
    upload_deadline: Seconds
    expires_at: Seconds
    client_noise: ClientNoise | None = Field(default=None, exclude_if=lambda noise: noise is None)

    @classmethod
    def purpose(cls) -> str:
        """Domain of the signature."""
        return "ckks-descriptor"

    @cached_property
    def ctx(self) -> str:
        """The session's name, 32 bytes in hex; every other statement carries it."""
        return tagged_hash("secagg/v1/ckks/ctx", canonical_bytes(self)).hex()

    @property
    def series(self) -> str:
        """What the ledger counts under: a ckks session is a series of its own."""
        return self.ctx

    @property
    def number(self) -> int:
        """The first round and the last."""
        return 0

    @property
    def rounds(self) -> int:
        """One: a ckks session does not go on from another."""
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
    def parameters(self) -> CkksParameters:
        """Ring, scale and limbs for this session. Raises ParameterError."""
        return CkksParameters(self.bits, self.n_max, self.layout.length)

    @cached_property
    def public(self) -> PublicContext:
        """The key-holder's public key, its form checked. Raises MalformedError, SizeLimitError or ParameterError."""
        return PublicContext(self.offer.statement.raw, self.parameters.ring)

    @property
    def hpke_key(self) -> bytes:
        """The key-holder's HPKE public key for this session, to which every ciphertext is sealed (§13.2.4)."""
        return bytes.fromhex(self.offer.statement.hpke_key)

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
        return make_grid(self.client_noise, self.layout.quantiser(self.bits), self.n_min, self.n_max)

    @property
    def client_statement(self) -> ClientStatement | None:
        """What each client says of its noise (protocol.md §14.6a), if the session has it."""
        return statement_of(self)

    @cached_property
    def clients(self) -> dict[str, Identity]:
        """Roster by fingerprint."""
        return {identity.fingerprint: identity for identity in map(identify, (m.certificate for m in self.roster))}

    @cached_property
    def weights(self) -> dict[str, float]:
        """Declared public weights by fingerprint."""
        return {identify(member.certificate).fingerprint: member.weight for member in self.roster}

    @cached_property
    def holder(self) -> Identity:
        """The key-holder."""
        return identify(self.keyholder)

    @cached_property
    def coordinator_identity(self) -> Identity:
        """Who runs the server."""
        return identify(self.coordinator)

    def client(self, fingerprint: str) -> Identity:
        """A roster member, or RoleViolation."""
        try:
            return self.clients[fingerprint]
        except KeyError:
            raise RoleViolation(f"client {fingerprint[:16]} is not on the roster of session {self.ctx[:16]}") from None

    def institutions(self, members: Sequence[str]) -> int:
        """How many institutions the members are of; names that differ in case or spaces are one (protocol.md §8.2)."""
        return len({plain_name(self.client(fingerprint).institution) for fingerprint in members})

    @model_validator(mode="after")
    def _check(self) -> Self:
        try:
            self._check_parties()
            self._check_numbers()
        except SecaggError as error:
            raise ValueError(str(error)) from error
        return self

    def _check_parties(self) -> None:
        roles = [(self.coordinator_identity, Role.COORDINATOR), (self.holder, Role.KEYHOLDER)]
        roles += [(client, Role.CLIENT) for client in self.clients.values()]
        for identity, role in roles:
            if identity.role != role:
                raise MalformedError(f"{identity.title} holds a certificate for {identity.role}, not for {role}")
        if len({identity.signing_key for identity, _ in roles}) != len(self.roster) + 2:
            raise MalformedError("roster, key-holder and coordinator must be distinct parties with distinct keys")
        offer = self.offer.verify(self.holder)
        check_public_key(self.hpke_key)
        if offer.holder != self.holder.fingerprint:
            raise MalformedError("the key offer names another key-holder")
        if offer.expires_at < self.expires_at or offer.created_at > self.created_at:
            raise MalformedError("the key offer does not cover the session; ask for a new one")

    def _check_numbers(self) -> None:
        if self.n_max < self.n_min:
            raise MalformedError(f"n_max is {self.n_max}, below n_min = {self.n_min}")
        if not self.n_min <= len(self.roster) <= self.n_max:
            raise MalformedError(f"the roster has {len(self.roster)} clients, not {self.n_min} to {self.n_max}")
        if not self.created_at < self.upload_deadline < self.expires_at:
            raise MalformedError("times must be in the order created_at < upload_deadline < expires_at")
        weights = [member.weight for member in self.roster]
        if max(weights) != 1.0:
            raise MalformedError("weights are fractions of the largest, which must be 1")
        encoding = encoding_of(self.plan)
        encoding.check_session(self.plan, bits=self.bits, weights=weights)
        check_setting(self, encoding)
        if self.offer.statement.ring != self.parameters.ring.name:
            raise MalformedError(
                f"the key was made in the ring {self.offer.statement.ring}, and the session needs "
                f"{self.parameters.ring.name}: ask for an offer with its n_max and number of values"
            )


SignedCkksDescriptor = Signed[CkksDescriptor]


def is_ckks(raw: bytes) -> bool:
    """Whether a signed session or certificate, in its JSON form, is of a ckks session. Says nothing else about it."""
    try:
        statement = json.loads(raw)["statement"]
        return bool("keyholder" in statement or "keyholder_note" in statement)
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


class CkksSpec(Frozen):
    """What the coordinator's operator decides; seconds count from creation."""

    n_min: int = Field(ge=2)
    n_max: int = Field(ge=2, le=MAX_CLIENTS)
    bits: int = Field(ge=2, le=24, default=16)
    upload_seconds: int = Field(ge=1)
    expiry_seconds: int = Field(ge=2)
    client_noise: ClientNoise | None = None


def create_ckks_session(
    spec: CkksSpec,
    plan: Plan,
    roster: Sequence[RosterMember],
    keyholder: Pem,
    offer: SignedKeyOffer,
    signer: Signer,
    now: int,
    random: Randomness,
) -> SignedCkksDescriptor:
    """Put the descriptor together and sign it (protocol.md §13.3). Raises MalformedError or ParameterError."""
    try:
        descriptor = CkksDescriptor(
            nonce=random(32).hex(),
            plan=plan,
            bits=spec.bits,
            n_min=spec.n_min,
            n_max=spec.n_max,
            roster=tuple(roster),
            keyholder=keyholder,
            offer=offer,
            coordinator=signer.identity.pem,
            created_at=now,
            upload_deadline=now + spec.upload_seconds,
            expires_at=now + spec.expiry_seconds,
            client_noise=spec.client_noise,
        )
    except ValidationError as error:
        raise MalformedError(f"the session does not hold together: {first_problem(error, '')}") from None
    return signer.sign(descriptor)
