"""One whole masked session: six clients, of whom one vanishes when it has shared; all statements and secrets (§12)."""

import copy
from functools import cache

from tests.twin import encoding
from tests.twin import masked as twin
from tests.twin import statements as signing
from tests.twin.predictable import PredictableRandomness
from tests.vectors.common import RANDOMNESS, Json, digest, uniform
from tests.vectors.masked_certificates import authority, certificate, members, name
from tests.vectors.session import DAY, NOW, PRIVACY, seed
from tests.vectors.session import PLAN as SEALED_PLAN

N, BITS, CLIP, LENGTH, N_MIN = 6, 16, 0.5, 1001, 4
GRAPH = twin.graph(N, "0.2", "0.1", N_MIN) or twin.Graph(0, 0, 0, 0)
WIDTH = twin.width(N, BITS) or 0
GONE = 2
"""The member number of the client that vanishes before it uploads."""
MEMBERS = tuple(number for number in range(N) if number != GONE)
PLAN: Json = copy.deepcopy(SEALED_PLAN)
PLAN["tensors"][1]["shape"] = [7, 143]


def title(number: int) -> str:
    """The party with a member number."""
    return members()[number]


def print_of(number: int) -> str:
    """Its fingerprint."""
    return name(title(number))


def signed(party: str, purpose: str, statement: Json) -> Json:
    """A statement of a party."""
    return signing.sign(purpose, statement, seed(party), name(party))


def by(number: int, purpose: str, statement: Json) -> Json:
    """A statement of a member."""
    return signed(title(number), purpose, statement)


@cache
def descriptor() -> Json:
    """§12.2.1."""
    return {
        "version": 1,
        "nonce": digest(b"masked session nonce"),
        "protocol": "masked",
        "plan": PLAN,
        "bits": BITS,
        "masking": {
            "neighbours": GRAPH.holders, "threshold": GRAPH.threshold, "corrupt": GRAPH.corrupt,
            "dropouts": GRAPH.dropouts,
        },
        "n_min": N_MIN,
        "roster": [{"certificate": certificate(party), "weight": 1.0} for party in members()],
        "coordinator": certificate("coordinator"),
        "releases": 1,
        "created_at": NOW,
        "upload_deadline": NOW + DAY,
        "round_seconds": 60,
        "expires_at": NOW + 2 * DAY,
    }  # fmt: skip


@cache
def ctx() -> str:
    """§12.2.1."""
    return signing.tagged("secagg/v1/masked/ctx", signing.canonical(descriptor()).encode()).hex()


def change(number: int) -> list[float]:
    """float32 values up to 0.55, a little beyond the clip."""
    return [encoding.single((word / 2**31 - 1) * 0.55) for word in uniform(b"masked change %d" % number, LENGTH, 32)]


@cache
def keys(number: int) -> tuple[bytes, bytes]:
    """Private keys for masks and for boxes."""
    random = PredictableRandomness(b"advertise of member %d" % number)
    return random(32), random(32)


def advertisement(number: int) -> Json:
    """§12.3.1."""
    mask_key, box_key = (twin.public_key(key).hex() for key in keys(number))
    statement = {"ctx": ctx(), "client": print_of(number), "mask_key": mask_key, "box_key": box_key}
    return by(number, "masked-advertisement", statement)


def leaves(
    number: int, holders: list[int], shares: list[bytes], sealed_in: str, random: PredictableRandomness
) -> list[Json]:
    """§12.4.4, §12.4.5."""
    made = list[Json]()
    for holder, share in zip(holders, shares, strict=True):
        info = twin.box_info(ctx(), print_of(number), print_of(holder), sealed_in)
        box = twin.seal(share, keys(number)[1], twin.public_key(keys(holder)[1]), info, random)
        commitment = twin.commitment(ctx(), print_of(number), print_of(holder), share)
        made.append({"receiver": holder, "commitment": commitment.hex(), "box": box.hex()})
    return made


def root(made: list[Json]) -> str:
    """§12.4.5."""
    return signing.tree(hashes(made)).hex()


def hashes(made: list[Json]) -> list[bytes]:
    """The leaves of the tree."""
    return [twin.leaf(bytes.fromhex(one["commitment"]), bytes.fromhex(one["box"])) for one in made]


@cache
def mask_shares(number: int) -> tuple[list[int], list[bytes], PredictableRandomness]:
    """§12.4.1, §12.4.3: holders, shares, and the randomness that goes on with nonces."""
    random = PredictableRandomness(b"share of member %d" % number)
    holders = twin.draw([other for other in range(N) if other != number], GRAPH.holders, random)
    return holders, twin.share(keys(number)[0], GRAPH.threshold, len(holders), random), random


@cache
def sharing(number: int) -> Json:
    """§12.4.5."""
    holders, shares, random = mask_shares(number)
    made = leaves(number, holders, shares, "share", random)
    statement = {"ctx": ctx(), "client": print_of(number), "holders": len(made), "root": root(made)}
    return {"signed": by(number, "masked-sharing", statement), "leaves": made}


def pair(number: int, other: int) -> tuple[int, str, bytes]:
    """§12.5.2: sign, kind and seed of the mask with a partner."""
    peer = twin.public_key(keys(other)[0])
    found = twin.pair_seed(keys(number)[0], peer, ctx(), print_of(number), print_of(other))
    return 1 if number < other else -1, "pair", found


@cache
def vector(number: int) -> tuple[bytes, list[int], list[int], PredictableRandomness]:
    """b, encoded values, masked values, and the randomness that goes on with shares of b. Everybody has shared."""
    random = PredictableRandomness(b"upload of member %d" % number)
    own = random(32)
    levels = encoding.encode(change(number), CLIP, BITS, 1.0, random)
    masks = [(1, "self", own), *(pair(number, other) for other in range(N) if other != number)]
    return own, levels, twin.masked(levels, masks, WIDTH), random


@cache
def self_shares(number: int) -> tuple[list[int], list[bytes]]:
    """§12.5.3."""
    own, _, _, random = vector(number)
    holders = mask_shares(number)[0]
    return holders, twin.share(own, GRAPH.threshold, len(holders), random)


@cache
def upload(number: int) -> Json:
    """§12.5.4."""
    holders, shares = self_shares(number)
    own, _, values, random = vector(number)
    made = leaves(number, holders, shares, "upload", random)
    packed = twin.pack(values, WIDTH)
    statement = {
        "ctx": ctx(),
        "client": print_of(number),
        "holders": len(made),
        "root": root(made),
        "vector_root": twin.vector_root(packed, WIDTH),
        "vector_bytes": len(packed),
        "self_mask": twin.self_commitment(ctx(), print_of(number), own),
        "complaints": [],
        "privacy": PRIVACY,
    }
    return {"signed": by(number, "masked-upload", statement), "leaves": made, "vector": packed.hex()}


def chosen() -> Json:
    """§12.6.1: U."""
    return {"ctx": ctx(), "members": list(MEMBERS)}


def set_digest() -> str:
    """The hash of U."""
    return signing.statement_hash("masked-set", chosen())


def endorsement(number: int) -> Json:
    """§12.6.1."""
    statement = {"ctx": ctx(), "client": print_of(number), "set_digest": set_digest()}
    return by(number, "masked-endorsement", statement)


def held(number: int, of: int) -> bytes:
    """The share that §12.7.1 has a member give of another: of b, or of the mask key of the one who is gone."""
    holders, shares = mask_shares(of)[:2] if of == GONE else self_shares(of)
    return shares[holders.index(number)]


def unmasking(number: int) -> Json:
    """§12.7.1."""
    statement = {
        "ctx": ctx(),
        "client": print_of(number),
        "set_digest": set_digest(),
        "self_shares": [{"member": of, "share": held(number, of).hex()} for of in MEMBERS if of != number],
        "key_shares": [{"member": GONE, "share": held(number, GONE).hex()}],
        "complaints": [],
    }
    return by(number, "masked-unmasking", statement)


def recovered(of: int) -> bytes:
    """§12.7.2: from the first t members of U that hold a share."""
    holders = mask_shares(of)[0]
    points = [holder for holder in holders if holder in MEMBERS][: GRAPH.threshold]
    return twin.combine({holders.index(holder) + 1: held(holder, of) for holder in points}).to_bytes(32, "little")


def opening() -> Json:
    """§12.7.2, §12.7.3, and the secrets as a release has them (§12.9.2)."""
    total = [sum(column) % 2**WIDTH for column in zip(*(vector(number)[2] for number in MEMBERS), strict=True)]
    seeds = {number: recovered(number) for number in MEMBERS}
    assert all(seeds[number] == vector(number)[0] for number in MEMBERS)
    gone = recovered(GONE)
    assert gone == keys(GONE)[0]
    values = list(total)
    masks = [(-1, "self", own) for own in seeds.values()]
    for number in MEMBERS:
        found = twin.pair_seed(gone, twin.public_key(keys(number)[0]), ctx(), print_of(GONE), print_of(number))
        masks.append((-1 if number < GONE else 1, "pair", found))
    for sign, kind, found in masks:
        values = [v + sign * m for v, m in zip(values, twin.mask(kind, found, len(values)), strict=True)]
    values = [value % 2**WIDTH for value in values]
    sums, guards = values[:LENGTH], values[LENGTH:]
    assert guards == [len(MEMBERS)] * twin.GUARDS
    assert sums == [sum(column) for column in zip(*(vector(number)[1] for number in MEMBERS), strict=True)]
    mean = encoding.decode_mean(sums, CLIP, BITS, [1.0] * len(MEMBERS))
    return {
        "masked_sum_head": total[:8],
        "masked_sum_uint32_sha256": digest(b"".join(value.to_bytes(4, "little") for value in total)),
        "seeds": [found.hex() for found in seeds.values()],
        "gone": [GONE],
        "keys": [gone.hex()],
        "pairs": [[GONE, number] for number in MEMBERS],
        "sums_head": sums[:8],
        "sums_uint32_sha256": digest(b"".join(value.to_bytes(4, "little") for value in sums)),
        "mean_float32_head": encoding.single_bytes(mean[:8]).hex(),
        "mean_float32_sha256": digest(encoding.single_bytes(mean)),
    }


def document() -> Json:
    """The session."""
    return {
        "randomness": RANDOMNESS
        + ". Of member I: 'advertise of member I' gives the mask key, then the box key; 'share of member I' the seed "
        "of the draw, that of the shares, a nonce for each box; 'upload of member I' b, the seed of the rounding, "
        "that of the shares, nonces; 'masked change I' words u, and (u/2^31 - 1) 0.55 as float32 is the change",
        "now": NOW,
        "authority": authority(),
        "ctx": ctx(),
        "session": signed("coordinator", "masked-descriptor", descriptor()),
        "width": WIDTH,
        "gone": GONE,
        "clients": [
            {
                "party": title(number),
                "change_float32_sha256": digest(encoding.single_bytes(change(number))),
                "advertisement": advertisement(number),
                "sharing": sharing(number),
                **({} if number == GONE else {"upload": upload(number), "unmasking": unmasking(number)}),
            }
            for number in range(N)
        ],
        "set": signed("coordinator", "masked-set", chosen()),
        "set_digest": set_digest(),
        "endorsements": [endorsement(number) for number in MEMBERS],
        "opening": opening(),
    }
