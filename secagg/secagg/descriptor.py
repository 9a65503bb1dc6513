"""The session descriptor, which binds everything that a session is (protocol.md §4)."""

from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from secagg.canonical import canonical_bytes, tagged_hash
from secagg.client_noise.session import check_setting, make_grid, statement_of
from secagg.client_noise.setting import ClientNoise, NoiseGrid
from secagg.client_noise.statement import ClientStatement
from secagg.codec import Quantiser
from secagg.encodings.layout import Layout
from secagg.encodings.registry import encoding_of
from secagg.errors import EndorsementInvalid, MalformedError, RoleViolation, SecaggError, VerificationError
from secagg.identity import Identity, Role, identify
from secagg.messages import MAX_RELEASES, Seconds, SignedApproval, SignedOffer
from secagg.parameters import MAX_BITS, MAX_COHORT, MAX_LIMBS, MIN_BITS, SealedParameters
from secagg.plan import Frozen, Hash, Plan
from secagg.rounds import Previous, Round, round_steps
from secagg.signing import Signed, Statement

Pem = Annotated[str, Field(min_length=1, max_length=8192)]


class RosterMember(Frozen):
    """A client that may upload, with its declared public weight (protocol.md §2.4)."""

    certificate: Pem
    weight: float = Field(gt=0, le=1, default=1.0)


class CommitteeMember(Frozen):
    """A key-holder: certificate and the signed offer of its session key. Its index is its position, from 1."""

    certificate: Pem
    offer: SignedOffer


class RingChoice(Frozen):
    """The parameter set by name, and what it was chosen for (protocol.md §3)."""

    name: str = Field(min_length=1, max_length=60)
    limbs: int = Field(ge=1, le=MAX_LIMBS)
    bits: int = Field(ge=MIN_BITS, le=MAX_BITS)
    security_bits: int = Field(ge=128)


class AuditReserve(Frozen):
    """What each client sets aside so that the finished run can be audited (protocol.md §4.6).

    A record becomes a candidate with probability `hold_out`; each candidate, and each of a client's `canaries`, is in
    or out of training by a fair coin that the client alone knows.
    """

    hold_out: float = Field(ge=0, le=0.5, default=0.0)
    canaries: int = Field(ge=0, le=100_000, default=0)

    @property
    def summary(self) -> str:
        """What is reserved, in words."""
        parts = [f"each record with probability {self.hold_out:g}"] if self.hold_out else []
        parts += [f"{self.canaries} canaries at each client"] if self.canaries else []
        return f"{' and '.join(parts)}, in training or out of it by a fair coin"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.hold_out and not self.canaries:
            raise ValueError("audit: nothing is reserved; set hold_out or canaries above 0, or leave audit out")
        return self


class Descriptor(Statement):
    """Everything that is agreed before a session. `ctx` is its hash; nothing outside it has meaning."""

    version: Literal[1] = 1
    nonce: Hash
    protocol: Literal["sealed"] = "sealed"
    plan: Plan
    ring: RingChoice
    n_min: int = Field(ge=2)
    n_max: int = Field(ge=2, le=MAX_COHORT)
    roster: tuple[RosterMember, ...] = Field(min_length=2, max_length=MAX_COHORT)
    committee: tuple[CommitteeMember, ...] = Field(min_length=1, max_length=255)
    corrupt_keyholders: int = Field(ge=0)
    threshold: int = Field(ge=1)
    coordinator: Pem
    releases: int = Field(ge=1, le=MAX_RELEASES, default=1)
    round: Round | None = Field(default=None, exclude_if=lambda value: value is None)
    created_at: Seconds
    upload_deadline: Seconds
    expires_at: Seconds
    audit: AuditReserve | None = Field(default=None, exclude_if=lambda reserve: reserve is None)
    client_noise: ClientNoise | None = Field(default=None, exclude_if=lambda noise: noise is None)

    @classmethod
    def purpose(cls) -> str:
        """Domain of the signature."""
        return "descriptor"

    @cached_property
    def ctx(self) -> str:
        """The session's name, 32 bytes in hex; every other statement carries it."""
        return tagged_hash("secagg/v1/ctx", canonical_bytes(self)).hex()

    @property
    def number(self) -> int:
        """Which round of its series the session is, from 0."""
        return self.round.number if self.round is not None else 0

    @property
    def rounds(self) -> int:
        """How many rounds its series has."""
        return self.round.rounds if self.round is not None else 1

    @property
    def client_releases(self) -> int:
        """How many releases hold a vector of one client: one a round, whatever `releases` is (protocol.md §14.6)."""
        return self.rounds

    @property
    def previous(self) -> Previous | None:
        """The round before."""
        return self.round.previous if self.round is not None else None

    @property
    def series(self) -> str:
        """The ctx of the first round: what the ledger counts under."""
        return self.previous.series if self.previous is not None else self.ctx

    @property
    def steps(self) -> range:
        """Which of the plan's steps this session takes."""
        return round_steps(self.plan.training.steps, self.number, self.rounds)

    @cached_property
    def layout(self) -> Layout:
        """Where each value of the vector is (protocol.md §2.1). Raises EncodingError."""
        return encoding_of(self.plan).layout(self.plan)

    @cached_property
    def parameters(self) -> SealedParameters:
        """The ring parameters for this session's length and cohort. Raises ParameterError."""
        return SealedParameters.from_name(
            self.ring.name, self.ring.limbs, bits=self.ring.bits, n_max=self.n_max, length=self.layout.length
        )

    @cached_property
    def quantiser(self) -> Quantiser:
        """One clip per part of the vector (protocol.md §2.3); with client-level noise, room for it (§14.2)."""
        return self.layout.quantiser(self.ring.bits) if self.noise_grid is None else self.noise_grid.noisy_quantiser

    @cached_property
    def noise_grid(self) -> NoiseGrid | None:
        """The numbers of client-level noise (protocol.md §14), if the session has it. Raises ParameterError."""
        return make_grid(self.client_noise, self.layout.quantiser(self.ring.bits), self.n_min, self.n_max)

    @property
    def client_statement(self) -> ClientStatement | None:
        """What each client says of its noise (protocol.md §14.6), if the session has it."""
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
    def holders(self) -> tuple[Identity, ...]:
        """The committee in order of index."""
        return tuple(identify(member.certificate) for member in self.committee)

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

    def holder(self, fingerprint: str) -> tuple[int, Identity]:
        """A committee member's index (from 1) and identity, or RoleViolation."""
        for index, identity in enumerate(self.holders, start=1):
            if identity.fingerprint == fingerprint:
                return index, identity
        raise RoleViolation(f"key-holder {fingerprint[:16]} is not in the committee of session {self.ctx[:16]}")

    @model_validator(mode="after")
    def _check(self) -> Self:
        try:
            self._check_parties()
            self._check_numbers()
        except SecaggError as error:
            raise ValueError(str(error)) from error
        return self

    def _check_parties(self) -> None:
        roles = [(self.coordinator_identity, Role.COORDINATOR)]
        roles += [(identify(member.certificate), Role.CLIENT) for member in self.roster]
        roles += [(holder, Role.KEYHOLDER) for holder in self.holders]
        for identity, role in roles:
            if identity.role != role:
                raise MalformedError(f"{identity.title} holds a certificate for {identity.role}, not for {role}")
        keys = {identity.signing_key for identity, _ in roles}
        if len({identity.fingerprint for identity, _ in roles}) != len(roles) or len(keys) != len(roles):
            raise MalformedError("roster, committee and coordinator must be distinct parties with distinct keys")
        for member, holder in zip(self.committee, self.holders, strict=True):
            offer = member.offer.verify(holder)
            if offer.holder != holder.fingerprint:
                raise VerificationError(f"the key offer of {holder.title} names another key-holder")
            if offer.expires_at < self.expires_at or offer.created_at > self.created_at:
                raise MalformedError(f"the key offer of {holder.title} does not cover the session; ask for a new one")

    def _check_numbers(self) -> None:
        m, f = len(self.committee), self.corrupt_keyholders
        if self.threshold != quorum(m, f):
            raise MalformedError(f"threshold must be floor((m+f)/2)+1 = {quorum(m, f)} for m={m}, f={f}")
        if self.n_max < self.n_min:
            raise MalformedError(f"n_max is {self.n_max}, below n_min = {self.n_min}")
        if not self.n_min <= len(self.roster) <= self.n_max:
            raise MalformedError(
                f"the roster has {len(self.roster)} clients; n_min to n_max is {self.n_min} to {self.n_max}"
            )
        if not self.created_at < self.upload_deadline < self.expires_at:
            raise MalformedError("times must be in the order created_at < upload_deadline < expires_at")
        if max(member.weight for member in self.roster) != 1.0:
            raise MalformedError("weights are fractions of the largest, which must be 1")
        weights = [member.weight for member in self.roster]
        encoding = encoding_of(self.plan)
        encoding.check_session(self.plan, bits=self.ring.bits, weights=weights)
        check_setting(self, encoding)
        if self.releases > 1:
            self._check_releases()
        if self.rounds > 1:
            encoding.check_rounds()
            round_steps(self.plan.training.steps, self.number, self.rounds)
        if self.parameters.security_bits != self.ring.security_bits:
            raise MalformedError("ring.security_bits is not what the parameter table says")

    def _check_releases(self) -> None:
        """What does not go together with several releases (protocol.md §8.7)."""
        if self.releases * self.n_min > len(self.roster):
            raise MalformedError(
                f"{self.releases} releases of at least n_min = {self.n_min} clients each need a roster of "
                f"{self.releases * self.n_min}; it has {len(self.roster)}"
            )
        if self.round is not None:
            raise MalformedError(
                "a series of rounds has one release a session: the next round would not know where it starts"
            )
        if self.audit is not None:
            raise MalformedError(
                "an audit reserve goes with one release: what an audit reports is of all that was trained in a session"
            )


def quorum(holders: int, corrupt: int) -> int:
    """t = floor((m+f)/2)+1, so that two quorums share an honest key-holder (protocol.md §3.4).

    Raises MalformedError when m key-holders of whom f may be corrupt have no such t.
    """
    threshold = (holders + corrupt) // 2 + 1
    if threshold > holders - corrupt:
        raise MalformedError(
            f"{holders} key-holders with {corrupt} corrupt leave no quorum; take m=4 f=1, m=7 f=2, or f=0"
        )
    return threshold


class SignedDescriptor(Frozen):
    """A descriptor with the coordinator's signature and the key-holders' approvals (protocol.md §4.3)."""

    descriptor: Signed[Descriptor]
    approvals: tuple[SignedApproval, ...] = ()

    def check(self, *, approved: bool) -> Descriptor:
        """Verify the coordinator's signature and, if `approved`, at least t valid approvals.

        Raises SignatureInvalid or EndorsementInvalid.
        """
        descriptor = self.descriptor.verify(self.descriptor.statement.coordinator_identity)
        seen = set[str]()
        for approval in self.approvals:
            _, holder = descriptor.holder(approval.signer)
            statement = approval.verify(holder)
            if statement.ctx != descriptor.ctx or statement.holder != holder.fingerprint:
                raise EndorsementInvalid(f"the approval of {holder.title} is for another session")
            seen.add(holder.fingerprint)
        if approved and len(seen) < descriptor.threshold:
            raise EndorsementInvalid(f"{len(seen)} key-holders approved the session; {descriptor.threshold} must")
        return descriptor
