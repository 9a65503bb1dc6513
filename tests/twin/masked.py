"""`masked`, written from docs/protocol.md §12 in plain Python. Shares no code with the package.

Probabilities are whole numbers over one denominator, X25519 is the ladder of RFC 7748, HKDF is two calls of HMAC,
shares are polynomials as they stand in a textbook, and a packed vector is one big integer. AES (a block at a time; GCM
for boxes) is the only primitive that is taken from elsewhere.
"""

import hashlib
import hmac
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.twin import statements
from tests.twin.sealed import FIELD, Random, fresh, keystream, take

GUARDS = 8
MOST_HOLDERS = 1024
LEAF_VALUES = 65_536
Json = statements.Json


# -- parameters, §12.1 -----------------------------------------------------------------------------------------


def chances(population: int, special: int, draws: int, x: range) -> tuple[int, int]:
    """P[Hyp(population, special, draws) in x] as numerator and denominator."""
    ways = sum(math.comb(special, i) * math.comb(population - special, draws - i) for i in x if i <= draws)
    return ways, math.comb(population, draws)


def keeps_holders(n: int, d: int, k: int, t: int) -> bool:
    """Every client keeps t living holders, but for 2^-40."""
    ways, whole = chances(n - 1, n - d - 1, k, range(t))
    return n * ways * 2**40 <= whole


def never_both(n: int, c: int, d: int, k: int, t: int) -> bool:
    """No honest client has 2t - k corrupt holders, but for 2^-41."""
    ways, whole = chances(n - d - 1, c, k, range(max(0, 2 * t - k), k + 1))
    return (n - c) * ways * 2**41 <= whole


def smallest_sum(n: int, c: int, d: int, k: int, t: int) -> int:
    """s*, at most n - c. `found` is the sum so far over whole^s."""
    a, found = n - d, 0
    whole = math.comb(a - 1, k)
    for s in range(1, n - c + 1):
        ways, _ = chances(a - 1, min(a - 1, s - 1 + c), k, range(t, k + 1))
        found = found * whole + math.comb(n - c, s) * ways**s
        if found * 2**41 > whole**s:
            return s
    return n - c


@dataclass(frozen=True)
class Graph:
    """What §12.1 gives for a cohort. `least` is s*, of a sparse graph."""

    holders: int
    threshold: int
    corrupt: int
    dropouts: int
    least: int | None = None


def complete(n: int, c: int, d: int) -> Graph | None:
    """§12.1.2."""
    t = (n - 1 + c) // 2 + 1
    return Graph(n - 1, t, c, d) if 2 <= t <= n - d - 1 and n - 1 <= MOST_HOLDERS else None


def sparse(n: int, c: int, d: int, n_min: int) -> Graph | None:
    """§12.1.3: the least k for which some t passes; the largest such t."""
    for k in range(2, min(MOST_HOLDERS, n - d - 1, n - 2) + 1):
        t = next((t for t in range(k, 1, -1) if keeps_holders(n, d, k, t)), 0)
        if t and never_both(n, c, d, k, t) and (least := smallest_sum(n, c, d, k, t)) >= n_min - c:
            return Graph(k, t, c, d, least)
    return None


def graph(n: int, dropout_rate: str, corruption_rate: str, n_min: int) -> Graph | None:
    """The graph of a cohort, None where it is refused."""
    c, d = math.ceil(Fraction(corruption_rate) * n), math.floor(Fraction(dropout_rate) * n)
    if n < 3 or not c + 2 <= n_min <= n or d >= n:
        return None
    return (sparse(n, c, d, n_min) if n > 100 else None) or complete(n, c, d)


def serves(n: int, graph: Graph) -> bool:
    """Whether a graph that a descriptor states passes §12.1 (n_min apart)."""
    k, t, c, d = graph.holders, graph.threshold, graph.corrupt, graph.dropouts
    if k == n - 1:
        wanted = complete(n, c, d)
        return wanted is not None and wanted.threshold == t
    if n <= 100 or not 2 <= t <= k <= min(MOST_HOLDERS, n - d - 1):
        return False
    return keeps_holders(n, d, k, t) and never_both(n, c, d, k, t)


def width(n: int, bits: int) -> int | None:
    """W of §12.1.4, None where it is above 32."""
    found = next(w for w in range(1, 64) if 2**w > n * (2**bits - 1))
    return found if found <= 32 else None


# -- keys and boxes, §12.3 and §12.4.4 -------------------------------------------------------------------------

P = 2**255 - 19


def x25519(scalar: bytes, u: bytes) -> bytes:
    """RFC 7748 §5, the ladder."""
    k = int.from_bytes(scalar, "little") & ~7 & (2**254 - 1) | 2**254
    x1 = int.from_bytes(u, "little") % 2**255 % P
    x2, z2, x3, z3 = 1, 0, x1, 1
    for bit in reversed(range(255)):
        if k >> bit & 1:
            x2, z2, x3, z3 = x3, z3, x2, z2
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        x3, z3 = (d * a + c * b) ** 2 % P, x1 * (d * a - c * b) ** 2 % P
        aa, bb = a * a % P, b * b % P
        x2, z2 = aa * bb % P, (aa - bb) * (aa + 121665 * (aa - bb)) % P
        if k >> bit & 1:
            x2, z2, x3, z3 = x3, z3, x2, z2
    return (x2 * pow(z2, P - 2, P) % P).to_bytes(32, "little")


def public_key(private: bytes) -> bytes:
    """The key that belongs to a private one."""
    return x25519(private, (9).to_bytes(32, "little"))


def hkdf(secret: bytes, info: bytes) -> bytes:
    """RFC 5869 with SHA-256, no salt, 32 bytes."""
    extracted = hmac.digest(bytes(32), secret, "sha256")
    return hmac.digest(extracted, info + b"\x01", "sha256")


def box_info(ctx: str, sender: str, receiver: str, sealed_in: str) -> bytes:
    """§12.4.4."""
    context = {"ctx": ctx, "sender": sender, "receiver": receiver, "round": sealed_in}
    return b"secagg/v1/masked/box\0" + statements.canonical(context).encode()


def box_key(own: bytes, peer: bytes, info: bytes) -> bytes:
    """§12.4.4."""
    return hkdf(x25519(own, peer), info)


def seal(share: bytes, own: bytes, peer: bytes, info: bytes, random: Random) -> bytes:
    """§12.4.4."""
    nonce = random(12)
    return nonce + AESGCM(box_key(own, peer, info)).encrypt(nonce, share, info)


def open_box(box: bytes, own: bytes, peer: bytes, info: bytes) -> bytes:
    """The share inside; InvalidTag otherwise."""
    return AESGCM(box_key(own, peer, info)).decrypt(box[:12], box[12:], info)


def commitment(ctx: str, sender: str, receiver: str, share: bytes) -> bytes:
    """§12.4.5."""
    return statements.tagged("secagg/v1/masked/share", bytes.fromhex(ctx + sender + receiver) + share)


def leaf(made: bytes, box: bytes) -> bytes:
    """§12.4.5: the hash of one leaf."""
    return statements.leaf(made + hashlib.sha256(box).digest())


# -- holders and shares, §12.4.1 and §12.4.3 -------------------------------------------------------------------


def below(stream: Iterator[int], bound: int) -> int:
    """Uniform below `bound`: words of 32 bits, those in the incomplete last range skipped."""
    while True:
        word = int.from_bytes(take(stream, 4), "little")
        if word < 2**32 - 2**32 % bound:
            return word % bound


def draw(others: Sequence[int], count: int, random: Random) -> list[int]:
    """§12.4.1: position i of the pool changes places with one at or after it."""
    pool, stream = list(others), fresh("secagg/v1/masked/holders", random)
    for i in range(min(count, len(pool))):
        j = i + below(stream, len(pool) - i)
        pool[i], pool[j] = pool[j], pool[i]
    return sorted(pool[:count])


def limbs(secret: bytes) -> list[int]:
    """§12.4.3: nine of 30 bits, the last of 16."""
    number = int.from_bytes(secret, "little")
    return [number // 2 ** (30 * i) % 2**30 for i in range(9)]


def share(secret: bytes, threshold: int, holders: int, random: Random) -> list[bytes]:
    """§12.4.3: shares of holders 1, 2, ... Coefficients: all limbs of x, then of x^2, ..."""
    stream, rows = fresh("secagg/v1/masked/share", random), [limbs(secret)]
    for _ in range(threshold - 1):
        row: list[int] = []
        while len(row) < 9:
            word = int.from_bytes(take(stream, 4), "little") % 2**31
            if word != FIELD:
                row.append(word)
        rows.append(row)
    return [
        pack_share([sum(row[limb] * x**power for power, row in enumerate(rows)) % FIELD for limb in range(9)])
        for x in range(1, holders + 1)
    ]


def pack_share(values: Sequence[int]) -> bytes:
    """Nine u32."""
    return b"".join(value.to_bytes(4, "little") for value in values)


def residues(packed: bytes) -> list[int]:
    """Inverse of `pack_share`."""
    return [int.from_bytes(packed[i : i + 4], "little") for i in range(0, 36, 4)]


def combine(shares: Mapping[int, bytes]) -> int:
    """The number whose limbs are the values at 0, by Lagrange; below 2^256 if the shares are of one secret."""
    found = 0
    for limb in range(9):
        value = 0
        for i, packed in shares.items():
            above = math.prod(j for j in shares if j != i)
            under = math.prod(j - i for j in shares if j != i)
            value += residues(packed)[limb] * above * pow(under, -1, FIELD)
        found += value % FIELD * 2 ** (30 * limb)
    return found


# -- masks and vectors, §12.5 ----------------------------------------------------------------------------------


def pair_seed(own: bytes, peer: bytes, ctx: str, one: str, other: str) -> bytes:
    """§12.5.2."""
    low, high = sorted((one, other))
    info = b"secagg/v1/masked/pair\0" + statements.canonical({"ctx": ctx, "low": low, "high": high}).encode()
    return hkdf(x25519(own, peer), info)


def mask(kind: str, seed: bytes, count: int) -> list[int]:
    """§12.5.2: `count` words of 32 bits."""
    stream = keystream(hashlib.sha256(b"secagg/v1/masked/mask-" + kind.encode() + seed).digest())
    raw = take(stream, 4 * count)
    return [int.from_bytes(raw[i : i + 4], "little") for i in range(0, 4 * count, 4)]


def masked(levels: Sequence[int], masks: Sequence[tuple[int, str, bytes]], bits: int) -> list[int]:
    """§12.5.2: encoded values and guards, plus each mask (sign, kind, seed), modulo 2^bits."""
    values = [*levels, *[1] * GUARDS]
    for sign, kind, seed in masks:
        values = [v + sign * m for v, m in zip(values, mask(kind, seed, len(values)), strict=True)]
    return [value % 2**bits for value in values]


def pack(values: Sequence[int], bits: int) -> bytes:
    """§12.1.4: value i at bits W i and up of one big integer."""
    text = "".join(format(value, f"0{bits}b") for value in reversed(values))
    return int(text, 2).to_bytes(-(-len(text) // 8), "little")


def unpack(packed: bytes, bits: int, count: int) -> list[int]:
    """Inverse of `pack`."""
    text = format(int.from_bytes(packed, "little"), f"0{bits * count}b")
    return [int(text[len(text) - bits * (i + 1) : len(text) - bits * i], 2) for i in range(count)]


def vector_root(packed: bytes, bits: int) -> str:
    """§12.5.4."""
    step = LEAF_VALUES * bits // 8
    return statements.tree([statements.leaf(packed[i : i + step]) for i in range(0, len(packed), step)]).hex()


def self_commitment(ctx: str, client: str, seed: bytes) -> str:
    """§12.5.4."""
    return statements.tagged("secagg/v1/masked/self", bytes.fromhex(ctx + client) + seed).hex()
