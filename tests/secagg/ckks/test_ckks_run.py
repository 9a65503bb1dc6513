"""A ckks session in memory: exact sums, and parties that lie, each by name (protocol.md §13)."""

import base64
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pytest

from secagg.ckks.client import CkksSealed, accept_session, blocks_root, framed_bytes, seal_ckks
from secagg.ckks.coordinator import check_arrived, check_opening, fix_set
from secagg.ckks.descriptor import CkksDescriptor, CkksSpec, SignedCkksDescriptor, create_ckks_session
from secagg.ckks.keyholder import CkksKeyHolder, ShownUpload
from secagg.ckks.messages import Chosen, KeyOffer, SignedUploadSet, SumOpening, UploadSet
from secagg.ckks.opened import Opened
from secagg.ckks.parameters import SLOTS, CkksParameters, noise_bound
from secagg.ckks.run import MemoryContexts, policy_for_ckks, run_ckks
from secagg.ckks.scheme import PublicContext, SecretContext, pack, unpack
from secagg.descriptor import RosterMember
from secagg.errors import (
    ConflictError,
    EncodingError,
    EndorsementInvalid,
    HashMismatch,
    MalformedError,
    OpeningError,
    ParameterError,
    PolicyViolation,
    ProtocolViolation,
    RoleViolation,
    SessionClosed,
    SignatureInvalid,
    SizeLimitError,
    TooFewContributions,
)
from secagg.plan import Plan
from secagg.privacy import stated
from secagg.run import MemoryJournal, Parties, certify
from secagg.signing import Signer
from tests.small import DAY, NOW, changes, small_plan

LENGTH = 5000
SPEC = CkksSpec(n_min=3, n_max=5, upload_seconds=DAY // 2, expiry_seconds=DAY)
PARTIES = certify([f"Hospital {i}" for i in range(1, 6)], 2, NOW)


@dataclass
class Ckks:
    """Everything of one session, made on first use."""

    n_min: int = 3
    plan: Plan = field(default_factory=lambda: small_plan(LENGTH))
    parties: Parties = PARTIES
    spec: CkksSpec = SPEC

    @cached_property
    def holder(self) -> CkksKeyHolder:
        policy = policy_for_ckks(self.parties, self.plan, self.n_min)
        return CkksKeyHolder(self.parties.holders[0], policy, self.parties.authority, MemoryJournal(), MemoryContexts())

    @cached_property
    def signed(self) -> SignedCkksDescriptor:
        offer = self.holder.offer(16, 5, self.plan.length, NOW, DAY)
        roster = [RosterMember(certificate=signer.identity.pem) for signer in self.parties.clients.values()]
        pem = self.holder.signer.identity.pem
        return create_ckks_session(self.spec, self.plan, roster, pem, offer, self.parties.coordinator, NOW, os.urandom)

    @property
    def descriptor(self) -> CkksDescriptor:
        return self.signed.statement

    @cached_property
    def signers(self) -> list[Signer]:
        return list(self.parties.clients.values())

    @cached_property
    def changes(self) -> list[np.ndarray]:
        return list(changes(5, self.plan.length).values())

    def seal(self, index: int) -> CkksSealed:
        statement = stated(self.plan.training, "test")
        return seal_ckks(self.descriptor, self.signers[index], self.changes[index], statement, os.urandom)

    @cached_property
    def uploads(self) -> list[CkksSealed]:
        self.holder.approve(self.signed, NOW)
        return [self.seal(index) for index in range(5)]

    def chosen(self, count: int = 4) -> SignedUploadSet:
        uploads = {one.signed.signer: one.signed for one in self.uploads[:count]}
        return fix_set(self.descriptor, uploads, self.parties.coordinator)

    def shown(self, count: int = 4) -> Iterable[ShownUpload]:
        return [ShownUpload(one.signed, one.blocks) for one in self.uploads[:count]]

    def open(self, count: int = 4, shown: Iterable[ShownUpload] | None = None) -> Opened:
        chosen = self.chosen(count)
        return self.holder.open(self.descriptor, chosen, self.shown(count) if shown is None else shown, os.urandom, NOW)


@pytest.fixture(scope="module")
def session() -> Ckks:
    made = Ckks()
    assert made.uploads
    return made


@pytest.fixture
def fresh(session: Ckks) -> Ckks:
    """The same session and uploads, with a key-holder that has recorded nothing but its approval."""
    other = Ckks()
    holder = replace(session.holder, journal=MemoryJournal())
    other.__dict__.update({"holder": holder, "signed": session.signed, "uploads": session.uploads})
    holder.approve(session.signed, NOW)
    return other


def test_the_sum_is_exact(fresh: Ckks) -> None:
    """Each opened integer is the sum of the quantised values: the mean is within one step of the quantiser."""
    opened = fresh.open(5)
    mean = check_opening(fresh.descriptor, fresh.chosen(5).statement, opened)
    step = fresh.descriptor.quantiser.step(fresh.descriptor.quantiser.parts[0])
    assert np.abs(mean - np.mean(fresh.changes, axis=0)).max() < step
    again = fresh.open(5)
    assert np.array_equal(opened.sums, again.sums)  # whatever the flooding noise
    assert opened.signed == again.signed


def test_a_client_that_vanishes_costs_nothing() -> None:
    plan, given = small_plan(300), changes(4, 300)
    run = run_ckks(plan, given, now=NOW, random=os.urandom, vanish=["Hospital 2"])
    mean = np.mean([change for name, change in given.items() if name != "Hospital 2"], axis=0)
    assert np.abs(run.mean - mean).max() < 0.5 / 2**14
    assert len(run.uploads) == 3


@pytest.mark.parametrize(("bits", "n_max"), [(2, 2), (8, 4), (16, 4), (16, 1000), (24, 10)])
def test_integers_survive_at_the_edges_of_the_parameters(bits: int, n_max: int) -> None:
    """Largest values, alone and summed as often as a cohort can be: all exact, with the error within its room."""
    parameters = CkksParameters(bits, n_max, 4096)
    secret = SecretContext.generate(parameters.scale_log2)
    top = np.full((parameters.limbs, SLOTS), (1 << bits) - 1, dtype=np.uint32)
    top[:, ::3] = 0
    block = secret.public.encrypt(pack(parameters, list(top)))
    total = secret.read(block)
    count = 1
    while count * 2 <= n_max:  # by doubling: the error of one ciphertext many times is worse than that of many
        secret.add(total, total)
        count *= 2
    slots = secret.decrypt(total)
    assert np.abs(slots - np.rint(slots)).max() < 0.25
    sums = unpack(parameters, np.rint(slots).astype(np.int64))
    assert np.array_equal(sums, (count * top.astype(np.int64)).reshape(-1))


def test_measured_errors_are_below_the_bound_and_not_absurdly_so() -> None:
    """The bound is for the worst slot of all at 2^-60; what is seen is some powers of two smaller."""
    parameters = CkksParameters(16, 16, 4096)
    secret = SecretContext.generate(parameters.scale_log2)
    public, zeros = secret.public, np.zeros(SLOTS)
    total = secret.read(public.encrypt(zeros))
    for _ in range(15):
        secret.add(total, secret.read(public.encrypt(zeros)))
    seen = float(np.abs(secret.decrypt(total)).max()) * parameters.scale
    bound = noise_bound(16, 4096)
    assert bound / 2**9 < seen < bound


def test_parameters_that_could_change_the_sum_are_refused() -> None:
    with pytest.raises(ParameterError, match="do not fit a slot"):
        CkksParameters(24, 100_000, 10**6)
    for bits, n_max, length in ((1, 4, 1), (25, 4, 1), (16, 1, 1), (16, 100_001, 1), (16, 4, 0)):
        with pytest.raises(ParameterError):
            CkksParameters(bits, n_max, length)


def test_limbs_are_as_many_as_fit_and_the_scale_is_as_small_as_it_may_be() -> None:
    for bits in (2, 8, 12, 16, 20):
        for n_max in (2, 10, 100, 1000):
            made = CkksParameters(bits, n_max, 10**6)
            assert made.limbs >= 1
            assert made.base**made.limbs <= 2**43
            assert math.log2(made.base) * made.limbs + made.scale_log2 + 1 < 68
            assert noise_bound(n_max, 10**6) / made.scale <= 0.25 - 2**-5


# -- a lying coordinator ---------------------------------------------------------------------------------------------


def test_a_set_below_n_min_is_not_opened(fresh: Ckks) -> None:
    with pytest.raises(TooFewContributions):
        fresh.chosen(2)
    two = UploadSet(ctx=fresh.descriptor.ctx, members=fresh.chosen(4).statement.members[:2])
    signed = fresh.parties.coordinator.sign(two)
    with pytest.raises(TooFewContributions, match="nothing is opened below 3"):
        fresh.holder.open(fresh.descriptor, signed, fresh.shown(2), os.urandom, NOW)


def test_a_second_set_is_refused(fresh: Ckks) -> None:
    fresh.open(4)
    with pytest.raises(ConflictError, match="only one is ever served"):
        fresh.open(5)


def test_an_upload_passed_off_as_the_sum_is_refused(fresh: Ckks) -> None:
    """One ciphertext shown for every member: each upload must be the one that its client signed."""
    first = fresh.uploads[0]
    for shown in (
        [ShownUpload(first.signed, first.blocks)],
        [ShownUpload(first.signed, first.blocks)] * 4,
        [ShownUpload(one.signed, first.blocks) for one in fresh.uploads[:4]],
    ):
        with pytest.raises((ProtocolViolation, HashMismatch)):
            fresh.open(4, shown)


def test_an_altered_ciphertext_is_refused(fresh: Ckks) -> None:
    one = fresh.uploads[1]
    bent = bytes([one.blocks[0][200] ^ 1])
    blocks = (one.blocks[0][:200] + bent + one.blocks[0][201:], *one.blocks[1:])
    shown = [ShownUpload(one.signed, blocks if i == 1 else fresh.uploads[i].blocks) for i, one in
             enumerate(fresh.uploads[:4])]  # fmt: skip
    with pytest.raises(HashMismatch, match="not what the client signed"):
        fresh.open(4, shown)


def test_an_upload_outside_the_set_is_refused(fresh: Ckks) -> None:
    with pytest.raises(ProtocolViolation, match="not in the set"):
        fresh.open(4, fresh.shown(5))


def test_a_set_of_another_session_or_coordinator_is_refused(fresh: Ckks) -> None:
    members = fresh.chosen(4).statement.members
    other = fresh.parties.coordinator.sign(UploadSet(ctx="ab" * 32, members=members))
    with pytest.raises(ProtocolViolation, match="another session"):
        fresh.holder.open(fresh.descriptor, other, fresh.shown(), os.urandom, NOW)
    forged = fresh.signers[0].sign(fresh.chosen(4).statement)
    with pytest.raises(SignatureInvalid):
        fresh.holder.open(fresh.descriptor, forged, fresh.shown(), os.urandom, NOW)


def test_a_session_that_was_not_approved_is_not_opened(fresh: Ckks) -> None:
    holder = replace(fresh.holder, journal=MemoryJournal())
    with pytest.raises(ProtocolViolation, match="not approved"):
        holder.open(fresh.descriptor, fresh.chosen(), fresh.shown(), os.urandom, NOW)


def test_one_key_serves_one_session(fresh: Ckks) -> None:
    roster = [RosterMember(certificate=signer.identity.pem) for signer in fresh.signers]
    offer, pem = fresh.descriptor.offer, fresh.holder.signer.identity.pem
    again = create_ckks_session(fresh.spec, fresh.plan, roster, pem, offer, fresh.parties.coordinator, NOW, os.urandom)
    with pytest.raises(ConflictError, match="this key serves another session"):
        fresh.holder.approve(again, NOW)


def test_members_off_the_roster_are_refused(fresh: Ckks) -> None:
    stranger = certify(["Elsewhere"], 0, NOW).clients["Elsewhere"].identity.fingerprint
    members = sorted(
        [*fresh.chosen(4).statement.members, Chosen(client=stranger, upload="ab" * 32)], key=lambda one: one.client
    )
    signed = fresh.parties.coordinator.sign(UploadSet(ctx=fresh.descriptor.ctx, members=tuple(members)))
    with pytest.raises(RoleViolation):
        fresh.holder.open(fresh.descriptor, signed, fresh.shown(), os.urandom, NOW)


def test_a_policy_pins_key_holder_coordinator_and_institutions(fresh: Ckks) -> None:
    policy = fresh.holder.policy
    approval = fresh.holder.approve(fresh.signed, NOW)
    strange = "cd" * 32
    for changed, words in (
        ({"keyholder": strange}, "key-holder is not the one"),
        ({"coordinator": strange}, "coordinator is not the one"),
        ({"n_min": 4}, "n_min is 3"),
        ({"base_model_hashes": (strange,)}, "base model"),
        ({"max_epsilon": 0.1}, "epsilon"),
        ({"institutions": {str(i): f"{i:064x}" for i in range(4)}}, "pinned institutions"),
    ):
        with pytest.raises(PolicyViolation, match=words):
            accept_session(fresh.signed, approval, policy.model_copy(update=changed), fresh.parties.authority, NOW)


def test_a_client_wants_the_key_holders_own_approval(fresh: Ckks) -> None:
    policy, authority = fresh.holder.policy, fresh.parties.authority
    approval = fresh.holder.approve(fresh.signed, NOW)
    forged = fresh.parties.coordinator.sign(approval.statement)
    with pytest.raises(SignatureInvalid):
        accept_session(fresh.signed, forged, policy, authority, NOW)
    other = fresh.holder.signer.sign(approval.statement.model_copy(update={"ctx": "ab" * 32}))
    with pytest.raises(EndorsementInvalid):
        accept_session(fresh.signed, other, policy, authority, NOW)
    with pytest.raises(SessionClosed):
        accept_session(fresh.signed, approval, policy, authority, NOW + DAY)


# -- a lying client --------------------------------------------------------------------------------------------------


def lied(fresh: Ckks, index: int, blocks: tuple[bytes, ...], **update: object) -> CkksSealed:
    """What a client signs in place of an honest upload."""
    statement = fresh.uploads[index].signed.statement.model_copy(
        update={"root": blocks_root(blocks), "blocks": len(blocks), "bytes": framed_bytes(blocks), **update}
    )
    return CkksSealed(fresh.signers[index].sign(statement), blocks)


def test_what_is_no_ciphertext_of_the_session_is_refused_at_the_border(fresh: Ckks) -> None:
    good = fresh.uploads[0].blocks
    other = SecretContext.generate(fresh.descriptor.parameters.scale_log2 + 1).public.encrypt(np.ones(SLOTS))
    short = fresh.descriptor.public._context
    import tenseal

    half = bytes(tenseal.ckks_vector(short, [1.0] * 100).serialize())
    for bad in (b"x", os.urandom(1000), good[0][:-5], other, half, b"x" * 100_000):
        sealed = lied(fresh, 0, (bad, *good[1:]))
        with pytest.raises((MalformedError, SizeLimitError)):
            check_arrived(fresh.descriptor, sealed.signed, sealed.blocks)


def test_an_upload_of_another_length_session_client_or_privacy_is_refused(fresh: Ckks) -> None:
    good = fresh.uploads[0]
    with pytest.raises(HashMismatch, match="announces"):
        check_arrived(fresh.descriptor, lied(fresh, 0, good.blocks[1:]).signed, good.blocks[1:])
    with pytest.raises(HashMismatch, match="not those"):
        check_arrived(fresh.descriptor, good.signed, good.blocks[:-1])
    with pytest.raises(HashMismatch, match="more ciphertexts"):
        check_arrived(fresh.descriptor, good.signed, (*good.blocks, good.blocks[0]))
    with pytest.raises(ProtocolViolation):
        check_arrived(fresh.descriptor, lied(fresh, 0, good.blocks, ctx="ab" * 32).signed, good.blocks)
    weaker = good.signed.statement.privacy.model_copy(update={"epsilon": 100.0})
    with pytest.raises(PolicyViolation):
        check_arrived(fresh.descriptor, lied(fresh, 0, good.blocks, privacy=weaker).signed, good.blocks)


def test_values_beyond_the_range_burn_the_session_where_they_leave_the_slot(fresh: Ckks) -> None:
    """A client that encrypts other than the encoding gives: fractions, negative numbers, too large ones."""
    parameters, public = fresh.descriptor.parameters, fresh.descriptor.public
    for value in (0.4, -5e9, 2.0 * parameters.base**parameters.limbs):
        blocks = tuple(public.encrypt(np.full(SLOTS, value)) for _ in range(parameters.blocks))
        bent = lied(fresh, 0, blocks)
        uploads = [bent, *fresh.uploads[1:4]]
        holder = replace(fresh.holder, journal=MemoryJournal())
        holder.approve(fresh.signed, NOW)
        chosen = fix_set(
            fresh.descriptor, {one.signed.signer: one.signed for one in uploads}, fresh.parties.coordinator
        )
        with pytest.raises(OpeningError):
            holder.open(
                fresh.descriptor, chosen, [ShownUpload(one.signed, one.blocks) for one in uploads], os.urandom, NOW
            )


def test_values_that_are_not_finite_are_not_sealed(fresh: Ckks) -> None:
    change = fresh.changes[0].copy()
    change[3] = np.nan
    with pytest.raises(EncodingError):
        seal_ckks(fresh.descriptor, fresh.signers[0], change, stated(fresh.plan.training, "test"), os.urandom)


# -- a lying key-holder, and its key ---------------------------------------------------------------------------------


def test_sums_that_are_not_as_signed_are_refused(fresh: Ckks) -> None:
    opened, chosen = fresh.open(4), fresh.chosen(4).statement
    other = opened.sums.copy()
    other[0] += 1
    with pytest.raises(HashMismatch):
        check_opening(fresh.descriptor, chosen, Opened(opened.signed, other))
    with pytest.raises(ProtocolViolation):
        check_opening(fresh.descriptor, fresh.chosen(5).statement, opened)
    forged = fresh.parties.coordinator.sign(opened.signed.statement)
    with pytest.raises(SignatureInvalid):
        check_opening(fresh.descriptor, chosen, Opened(forged, opened.sums))
    large = np.full_like(opened.sums, 2**31)
    from secagg.ckks.opened import sums_hash

    word = SumOpening.model_validate({**opened.signed.statement.model_dump(), "sums": sums_hash(large)})
    with pytest.raises(OpeningError, match="larger than its members"):
        check_opening(fresh.descriptor, chosen, Opened(fresh.holder.signer.sign(word), large))


def test_a_public_context_with_other_keys_or_parameters_is_refused(session: Ckks) -> None:
    parameters = session.descriptor.parameters
    secret = SecretContext.generate(parameters.scale_log2)
    with pytest.raises((MalformedError, SizeLimitError)):  # a secret key makes it larger than any public one
        PublicContext(secret.to_bytes()[1:], parameters.scale_log2)
    with pytest.raises(MalformedError, match="other parameters"):
        PublicContext(secret.public.raw, parameters.scale_log2 + 1)
    import tenseal

    weak = tenseal.context(tenseal.SCHEME_TYPE.CKKS, 4096, -1, [40, 40, 20], n_threads=1)
    weak.global_scale = parameters.scale
    weak.make_context_public()
    raw = weak.serialize(save_relin_keys=False, save_galois_keys=False)
    with pytest.raises(MalformedError):
        PublicContext(raw, parameters.scale_log2)
    for bad in (b"", b"x" * 50, os.urandom(2000), secret.public.raw[:-10], bytes(200_000)):
        with pytest.raises((MalformedError, SizeLimitError)):
            PublicContext(bad, parameters.scale_log2)


def test_a_descriptor_with_a_key_of_another_scale_or_no_base64_is_refused(session: Ckks) -> None:
    roster = [RosterMember(certificate=signer.identity.pem) for signer in session.signers]
    holder = session.holder
    wide = holder.offer(16, 1000, session.plan.length, NOW, DAY)
    with pytest.raises(MalformedError, match="ask for an offer with its n_max"):
        create_ckks_session(
            session.spec, session.plan, roster, holder.signer.identity.pem, wide, session.parties.coordinator, NOW,
            os.urandom,
        )  # fmt: skip
    with pytest.raises(MalformedError, match="base64"):
        _ = KeyOffer.model_validate({**wide.statement.model_dump(), "context": "***"}).raw
    assert base64.b64decode(wide.statement.context)


def test_secrets_are_not_shown(session: Ckks) -> None:
    secret = SecretContext.generate(24)
    assert repr(secret) == "SecretContext(<redacted>)"
    assert "redacted" in f"{secret}"
    assert str(session.uploads[0].blocks[0]) not in repr(session.uploads[0])


def test_a_forgotten_key_opens_nothing(fresh: Ckks) -> None:
    holder = CkksKeyHolder(
        fresh.holder.signer, fresh.holder.policy, fresh.holder.authority, MemoryJournal(), MemoryContexts()
    )
    holder.approve(fresh.signed, NOW)
    with pytest.raises(SessionClosed, match="erased"):
        holder.open(fresh.descriptor, fresh.chosen(), fresh.shown(), os.urandom, NOW)
