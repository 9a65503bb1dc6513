"""The steps of `masked` one by one: parameters, draws, shares, keys, boxes, masks, vectors (§12.1 to §12.5)."""

from collections.abc import Sequence

from tests.twin import encoding
from tests.twin import masked as twin
from tests.twin.predictable import PredictableRandomness
from tests.twin.sealed import FIELD
from tests.vectors.common import CTX, RANDOMNESS, Json, digest, uniform

COHORTS: tuple[tuple[int, str, str, int], ...] = (
    (3, "0", "0", 2), (4, "0.25", "0", 3), (6, "0.2", "0.1", 4), (10, "0.2", "0.1", 3), (99, "0.2", "0.1", 20),
    (100, "0.3", "0.1", 12), (101, "0.1", "0.05", 10), (150, "0.1", "0.05", 20), (200, "0.1", "0.1", 30),
    (300, "0", "0.34", 150), (500, "0.1", "0.1", 52), (1000, "0.05", "0.05", 60),
    (2, "0", "0", 2), (10, "0.6", "0.1", 3), (10, "0.1", "0.1", 2), (10, "0.1", "0.1", 11), (101, "0.5", "0.4", 50),
    (200, "0.45", "0.3", 70), (120, "0", "0.9", 110),
)  # fmt: skip
STATED: tuple[tuple[int, int, int, int, int], ...] = (
    (10, 9, 6, 1, 2), (10, 9, 5, 1, 2), (10, 9, 7, 1, 2), (10, 8, 6, 1, 2), (10, 9, 6, 1, 4), (100, 60, 40, 5, 5),
    (101, 27, 17, 6, 10), (101, 26, 17, 6, 10), (101, 26, 16, 6, 10), (101, 27, 18, 6, 10), (101, 27, 16, 6, 10),
    (101, 90, 60, 6, 20), (500, 108, 73, 50, 50), (500, 108, 74, 50, 50), (500, 107, 73, 50, 50),
    (1000, 68, 46, 50, 50), (1000, 68, 47, 50, 50), (1000, 67, 46, 50, 50), (1000, 67, 45, 50, 50),
    (2, 1, 2, 0, 0), (1026, 1025, 513, 0, 0),
)  # fmt: skip
"""n, k, t, c, d as a descriptor may state them: on the bounds, and one beside."""

LOW_ORDER = (
    0, 1, 325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823, twin.P - 1, twin.P, twin.P + 1,
    2**255, 2**255 + 1,
)  # fmt: skip
"""Points with u of order 1, 2, 4 or 8, as they may be written (RFC 7748 §6.1)."""

NAMES = [digest(b"client %d" % i) for i in range(4)]


def parameters() -> Json:
    """§12.1: what is chosen for a cohort, what a descriptor may state, and the width."""
    chosen, refused = list[Json](), list[Json]()
    for n, dropout, corruption, n_min in COHORTS:
        case: Json = {"clients": n, "dropout_rate": dropout, "corruption_rate": corruption, "n_min": n_min}
        found = twin.graph(n, dropout, corruption, n_min)
        if found is None:
            refused.append({**case, "code": "parameter"})
            continue
        case |= {"holders": found.holders, "threshold": found.threshold}
        case |= {"corrupt": found.corrupt, "dropouts": found.dropouts}
        chosen.append(case if found.least is None else {**case, "smallest_sum": found.least})
    stated = list[Json]()
    for n, k, t, c, d in STATED:
        case = {"clients": n, "holders": k, "threshold": t, "corrupt": c, "dropouts": d}
        good = n >= 3 and twin.serves(n, twin.Graph(k, t, c, d))
        stated.append({**case, "code": None if good else "parameter"})
    widths = list[Json]()
    for n, bits in ((3, 1), (4, 2), (10, 16), (257, 8), (258, 8), (1000, 16), (65_537, 16), (65_538, 16), (256, 24)):
        found_width = twin.width(n, bits)
        widths.append({"clients": n, "bits": bits, "width": found_width, "code": None if found_width else "parameter"})
    return {
        "rates": "shares of the roster, exact decimals: c is rounded up, d down",
        "chosen": chosen, "malformed": refused, "stated": stated, "widths": widths,
    }  # fmt: skip


def draws() -> list[Json]:
    """§12.4.1: of members 0 to n - 1 without `own`."""
    found = []
    for n, own, count in ((6, 2, 5), (101, 0, 27), (101, 100, 27), (1000, 500, 68)):
        others = [number for number in range(n) if number != own]
        seed = f"draw of {own} among {n}"
        made = twin.draw(others, count, PredictableRandomness(seed.encode()))
        found.append({"clients": n, "own": own, "count": count, "seed": seed, "holders": made})
    return found


def secrets() -> Json:
    """§12.4.3."""
    cases = list[Json]()
    for number, (threshold, holders) in enumerate(((2, 2), (2, 3), (4, 5), (17, 27))):
        secret = b"\xff" * 32 if number == 0 else PredictableRandomness(b"secret %d" % number)(32)
        shares = twin.share(secret, threshold, holders, PredictableRandomness(b"shares %d" % number))
        for chosen in (range(threshold), range(holders - threshold, holders)):
            assert twin.combine({i + 1: shares[i] for i in chosen}) == int.from_bytes(secret, "little")
        cases.append({
            "secret": secret.hex(), "limbs": twin.limbs(secret), "threshold": threshold, "holders": holders,
            "seed": f"shares {number}", "shares": [share.hex() for share in shares],
        })  # fmt: skip
    return {"cases": cases, "malformed": bad_shares(cases[1])}


def bad_shares(case: Json) -> list[Json]:
    """Two shares each, of which no secret can be made."""
    one, two = (bytes.fromhex(share) for share in case["shares"][:2])
    top = [0] * 8
    edits: Sequence[tuple[str, bytes, bytes]] = (
        ("a residue that is the prime", twin.pack_share([FIELD, *twin.residues(one)[1:]]), two),
        ("a residue of 32 bits", b"\xff" * 36, two),
        ("35 bytes", one[:-1], two),
        ("37 bytes", one + b"\0", two),
        ("no bytes", b"", two),
        ("a limb of 31 bits", twin.pack_share([2**30, *top]), twin.pack_share([2**30, *top])),
        ("a number of 257 bits", twin.pack_share([*top, 2**16]), twin.pack_share([*top, 2**16])),
    )
    found = [{"change": change, "shares": {"1": a.hex(), "2": b.hex()}, "code": "share"} for change, a, b in edits]
    return [*found, {"change": "one of two", "shares": {"1": one.hex()}, "code": "share"}]


def key_of(title: str) -> bytes:
    """A private key from text."""
    return PredictableRandomness(f"x25519 {title}".encode())(32)


def keys() -> Json:
    """§12.3.1 and the seeds of pairs, §12.5.2."""
    pairs = list[Json]()
    for i, j in ((0, 1), (1, 2), (0, 3)):
        own, peer = key_of(str(i)), key_of(str(j))
        seed = twin.pair_seed(own, twin.public_key(peer), CTX.hex(), NAMES[i], NAMES[j])
        assert seed == twin.pair_seed(peer, twin.public_key(own), CTX.hex(), NAMES[j], NAMES[i])
        pairs.append({"one": i, "other": j, "seed": seed.hex()})
    low = [point.to_bytes(32, "little") for point in LOW_ORDER]
    assert all(twin.x25519(key_of("0"), point) == bytes(32) for point in low)
    return {
        "names": NAMES,
        "private": [key_of(str(i)).hex() for i in range(4)],
        "public": [twin.public_key(key_of(str(i))).hex() for i in range(4)],
        "pairs": pairs,
        "malformed": [
            *({"change": "low order", "public": point.hex(), "code": "malformed"} for point in low),
            {"change": "31 bytes", "public": "09" * 31, "code": "malformed"},
            {"change": "33 bytes", "public": "09" * 33, "code": "malformed"},
        ],
    }


def boxes() -> Json:
    """§12.4.4, §12.4.5: from client 0 to client 1."""
    share = twin.pack_share(uniform(b"boxed", 9, 30))
    cases = list[Json]()
    for sealed_in in ("share", "upload"):
        info = twin.box_info(CTX.hex(), NAMES[0], NAMES[1], sealed_in)
        random = PredictableRandomness(f"nonce {sealed_in}".encode())
        box = twin.seal(share, key_of("0"), twin.public_key(key_of("1")), info, random)
        assert twin.open_box(box, key_of("1"), twin.public_key(key_of("0")), info) == share
        made = twin.commitment(CTX.hex(), NAMES[0], NAMES[1], share)
        cases.append({
            "round": sealed_in, "info": info.decode(), "seed": f"nonce {sealed_in}", "share": share.hex(),
            "box": box.hex(), "commitment": made.hex(), "leaf_hash": twin.leaf(made, box).hex(),
        })  # fmt: skip
    whole = bytes.fromhex(cases[0]["box"])

    def bent(at: int) -> str:
        return (whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]).hex()

    swapped = twin.box_info(CTX.hex(), NAMES[1], NAMES[0], "share")
    reflected = twin.seal(share, key_of("1"), twin.public_key(key_of("0")), swapped, PredictableRandomness(b"back"))
    edits = (
        ("nonce changed", bent(0)), ("share changed", bent(20)), ("tag changed", bent(63)),
        ("63 bytes", whole[:-1].hex()), ("65 bytes", (whole + b"\0").hex()), ("no bytes", ""),
        ("of the other round", cases[1]["box"]),
        ("of the other direction", reflected.hex()),
    )  # fmt: skip
    return {
        "cases": cases,
        "malformed": [
            *({"change": change, "box": box, "code": "share"} for change, box in edits),
            *(
                {"change": f"another {what}", "box": cases[0]["box"], "code": "share"}
                for what in ("ctx", "sender", "key")
            ),
        ],
    }


def vectors() -> Json:
    """§12.5.2 and §12.5.4: encoded, guarded, masked, packed; the second has two leaves."""
    cases = list[Json]()
    for length, bits, width in ((1, 2, 4), (25, 8, 11), (1001, 16, 19), (40, 24, 32), (70_000, 16, 21)):
        change = [encoding.single((word / 2**31 - 1) * 0.55) for word in uniform(b"vector %d" % length, length, 32)]
        levels = encoding.encode(change, 0.5, bits, 1.0, PredictableRandomness(b"rounding %d" % length))
        masks = [(sign, kind, PredictableRandomness(b"mask %d" % i)(32)) for i, (sign, kind) in enumerate(
            ((1, "self"), (1, "pair"), (-1, "pair")))]  # fmt: skip
        values = twin.masked(levels, masks, width)
        packed = twin.pack(values, width)
        assert twin.unpack(packed, width, length + twin.GUARDS) == values
        cases.append({
            "length": length, "bits": bits, "width": width, "clip": 0.5,
            "change": f"(u/2^31 - 1) 0.55 as float32, u the words of 'vector {length}'", "seed": f"rounding {length}",
            "levels_head": levels[:8],
            "masks": [{"sign": sign, "kind": kind, "seed": seed.hex()} for sign, kind, seed in masks],
            "bytes": len(packed), "packed_head": packed[:32].hex(), "packed_sha256": digest(packed),
            "root": twin.vector_root(packed, width),
        })  # fmt: skip
    return {"cases": cases, "malformed": bad_vectors()}


def bad_vectors() -> list[Json]:
    """Of a session with 3 values and W = 9, so 99 bits: 13 bytes with 5 to spare."""
    return [
        {"change": "a byte short", "packed": "00" * 12, "code": "size-limit"},
        {"change": "a byte more", "packed": "00" * 14, "code": "size-limit"},
        {"change": "no bytes", "packed": "", "code": "size-limit"},
        {"change": "a bit after the last value", "packed": "00" * 12 + "08", "code": "malformed"},
        {"change": "the last bit", "packed": "00" * 12 + "80", "code": "malformed"},
    ]


def masks() -> list[Json]:
    """§12.5.2."""
    found = []
    for kind, count in (("self", 5), ("pair", 5), ("pair", 70_000)):
        seed = PredictableRandomness(f"mask {kind} {count}".encode())(32)
        values = twin.mask(kind, seed, count)
        raw = b"".join(value.to_bytes(4, "little") for value in values)
        found.append(
            {"kind": kind, "seed": seed.hex(), "count": count, "head": values[:5], "uint32_sha256": digest(raw)}
        )
    return found


def document() -> Json:
    """All of it."""
    seed = PredictableRandomness(b"own mask")(32)
    return {
        "randomness": RANDOMNESS,
        "ctx": CTX.hex(),
        "draws": draws(),
        "secrets": secrets(),
        "keys": keys(),
        "boxes": boxes(),
        "masks": masks(),
        "vectors": vectors(),
        "self_commitment": {"seed": seed.hex(), "hash": twin.self_commitment(CTX.hex(), NAMES[0], seed)},
    }
