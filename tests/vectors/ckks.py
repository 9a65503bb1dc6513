"""What is ours of `ckks`: rings, parameters, coefficients, the wire, sums that are read, statements (§13)."""

import copy
from collections.abc import Callable
from typing import Any

from tests.twin import ckks as twin
from tests.twin import statements as signing
from tests.twin.predictable import PredictableRandomness
from tests.vectors.common import RANDOMNESS, Json, digest, fixed, uniform
from tests.vectors.masked_certificates import name
from tests.vectors.statements import HASHES, PRIVACY, refusals

SEED = PredictableRandomness(b"statements")(32)
SESSIONS = (
    (2, 2, 1), (8, 5, 5000), (16, 5, 5000), (16, 10, 20_000), (16, 1000, 1_000_000), (24, 256, 100_000),
    (12, 100_000, 10**8), (15, 100_000, 2**36), (8, 100, 1000), (16, 2, 8192),
)  # fmt: skip
REFUSED = (
    (1, 10, 100), (25, 10, 100), (16, 1, 100), (16, 100_001, 100), (16, 10, 0), (16, 10, 2**36 + 1), (24, 257, 100),
    (16, 65_538, 100), (17, 100_000, 100),
)  # fmt: skip
BLOCKS = ((16, 10, 20_000), (8, 100, 1000))
"""One session in each ring, whose values, ciphertexts and sums are here."""
CLIENTS = 3


def choices() -> Json:
    """§13.1."""
    chosen = list[Json]()
    for bits, n_max, length in SESSIONS:
        made = setting(bits, n_max, length)
        chosen.append({
            "bits": bits, "n_max": n_max, "length": length, "ring": made.ring.name, "scale_log2": made.scale_log2,
            "limbs": made.limbs, "blocks": made.blocks, "upload_bytes": made.upload_bytes,
        })  # fmt: skip
    assert all(twin.choose(*one) is None for one in REFUSED)
    refused = [dict(zip(("bits", "n_max", "length"), one, strict=True)) | {"code": "parameter"} for one in REFUSED]
    rings = [
        {
            "name": ring.name, "degree": ring.degree, "primes": list(ring.primes), "special": ring.special,
            "block_bytes": ring.bytes_of(ring.primes), "wire_bytes": ring.bytes_of(ring.primes) + twin.WRAPPING,
            "key_bytes": ring.bytes_of((*ring.primes, ring.special)),
            "security_bits": twin.LEVELS[ring.name],
        }
        for ring in twin.rings()
    ]  # fmt: skip
    return {"rings": rings, "chosen": chosen, "malformed": refused}


def setting(bits: int, n_max: int, length: int) -> twin.Setting:
    """Of a session that is carried."""
    made = twin.choose(bits, n_max, length)
    assert made is not None
    return made


def residues(title: str, ring: twin.Ring) -> list[twin.Residues]:
    """Two polynomials: 64-bit words of a title's randomness modulo each prime, in the order of the wire."""
    raw = PredictableRandomness(title.encode())(16 * ring.degree * len(ring.primes))
    numbers = [int.from_bytes(raw[i : i + 8], "little") for i in range(0, len(raw), 8)]
    rows = [numbers[i : i + ring.degree] for i in range(0, len(numbers), ring.degree)]
    found = [[word % ring.primes[i % len(ring.primes)] for word in row] for i, row in enumerate(rows)]
    return [found[: len(ring.primes)], found[len(ring.primes) :]]


def blocks() -> list[Json]:
    """§13.1.2, §13.2.2: values, and the first ciphertext of each client, in place of SEAL's encryption of zero."""
    found = list[Json]()
    for bits, n_max, length in BLOCKS:
        made, sent = setting(bits, n_max, length), list[Json]()
        firsts, seconds = list[twin.Residues](), list[twin.Residues]()
        for client in range(CLIENTS):
            values = uniform(b"ckks values %d of %d" % (client, length), length, bits)
            zero, other = residues(f"zero {client} in {made.ring.name}", made.ring)
            first = twin.embedded(made, twin.messages(made, values)[0], zero)
            block = twin.pack([first, other], made.ring.primes)
            assert twin.unpack(block, made.ring.degree, made.ring.primes) == [first, other]
            firsts.append(first)
            seconds.append(other)
            sent.append({"values_head": values[:4], "head": block[:32].hex(), "sha256": digest(block)})
        total = [twin.added(parts, made.ring.primes) for parts in (firsts, seconds)]
        whole = twin.pack(total, made.ring.primes)
        found.append({
            "bits": bits, "n_max": n_max, "length": length, "ring": made.ring.name, "clients": sent,
            "sum_head": whole[:32].hex(), "sum_sha256": digest(whole),
        })  # fmt: skip
    return found


def openings() -> list[Json]:
    """§13.5.4: decrypted residues are sums times the scale, with an error; and a flood on top."""
    found = list[Json]()
    for bits, n_max, length in BLOCKS:
        made = setting(bits, n_max, length)
        degree, scale = made.ring.degree, 2**made.scale_log2
        sums = [value % made.base for value in uniform(b"ckks sums", degree * made.limbs, 32)]
        messages = [sum(sums[j * degree + i] * made.base**j for j in range(made.limbs)) for i in range(degree)]
        errors = [word % (scale // 2 + 1) - scale // 4 for word in uniform(b"ckks errors", degree, 31)]
        flood = [word % (scale // 5 * 2) - scale // 5 for word in uniform(b"ckks flood", degree, 31)]
        for change, first, error in opened_otherwise(made, messages[0], errors[0]):
            shown = [first, *messages[1:]], [error, *errors[1:]]
            held = [m * scale + e for m, e in zip(*shown, strict=True)]
            rows = [[value % prime for value in held] for prime in made.ring.primes]
            values, worst, beyond = twin.read(made, rows, flood)
            assert change or (values == sums and not beyond)
            found.append({
                "bits": bits, "n_max": n_max, "length": length, "change": change or "as it should be",
                "first": str(first), "first_error": error, "sums_head": values[:4], "largest_error": worst,
                "beyond": beyond, "sums_sha256": digest(b"".join(value.to_bytes(4, "little") for value in values)),
                "refused": worst > scale // 4 or beyond > 0,
            })  # fmt: skip
    return found


def opened_otherwise(made: twin.Setting, first: int, error: int) -> list[tuple[str, int, int]]:
    """The message and the error of the first coefficient: right, and at and beyond each limit."""
    scale, top = 2**made.scale_log2, made.base**made.limbs
    return [
        ("", first, error),
        ("the largest message", top - 1, 0),
        ("one more than the largest", top, 0),
        ("less than nothing", -1, 0),
        ("an error of a quarter", first, scale // 4),
        ("an error above a quarter", first, scale // 4 + 1),
        ("an error below minus a quarter", first, -(scale // 4) - 1),
        ("half of the grid", first, scale // 2),
    ]


def wire() -> list[Json]:
    """§13.2.2 of a ciphertext, and of a public key, which has the special prime too: what no party reads."""
    found = list[Json]()
    for ring in twin.rings():
        for kind, primes in (("ciphertext", ring.primes), ("key", (*ring.primes, ring.special))):
            size = ring.bytes_of(primes)
            found += [
                {"what": kind, "ring": ring.name, "change": change, "bytes": count, "code": "size-limit"}
                for change, count in (("no bytes", 0), ("a byte short", size - 1), ("a byte more", size + 1))
            ]
            for number, prime in enumerate(primes):
                found.append({
                    "what": kind, "ring": ring.name, "change": f"residue 5 of prime {number} is the prime",
                    "prime": number, "value": prime, "code": "malformed",
                })  # fmt: skip
            found.append({"what": kind, "ring": ring.name, "change": "all is zero", "bytes": size, "code": "malformed"})
    return found


def wrapped() -> Json:
    """§13.2.4. It was sealed once (fixed.json), around a short text in place of a ciphertext; here is what it holds."""
    kept, seed = fixed()["ckks_block"], PredictableRandomness(b"ckks block")(96)
    info = twin.block_info(kept["context"])
    plain = signing.suite().decrypt(bytes.fromhex(kept["block"]), signing.session_key(seed), info=info)
    assert len(kept["block"]) // 2 == len(plain) + twin.WRAPPING
    return {
        "session_key": seed.hex(), "public_key_sha256": digest(signing.session_public(seed)),
        "context": kept["context"], "info": info.hex(), "added_bytes": twin.WRAPPING, "plaintext": plain.decode(),
        "malformed": [
            {"change": change, "code": "malformed"}
            for change in (
                "another ctx", "another client", "another index", "another key", "last byte changed",
                "first byte changed", "last byte missing", "a byte more", "no bytes",
            )
        ],
    }  # fmt: skip


def sealed_block() -> Json:
    """Seals what `wrapped` opens. Other bytes each time."""
    seed, context = PredictableRandomness(b"ckks block")(96), {"ctx": HASHES[0], "client": HASHES[1], "index": 7}
    key = signing.session_key(seed).public_key()
    block = signing.suite().encrypt(b"in place of a ciphertext", key, info=twin.block_info(context))
    return {"context": context, "block": block.hex()}


def of_each_purpose() -> list[tuple[str, str, Json]]:
    """(type, purpose, statement), but for descriptors and releases."""
    ctx, client, root, holder, other, third = HASHES
    members = sorted([{"client": client, "upload": root}, {"client": other, "upload": third}],
                     key=lambda one: one["client"])  # fmt: skip
    return [
        ("KeyOffer", "ckks-offer", {
            "holder": holder, "ring": "n8192q175", "context": "AAEC", "hpke_key": "000102",
            "created_at": 1, "expires_at": 2}),
        ("Approval", "ckks-approval", {"ctx": ctx, "holder": holder}),
        ("CkksUpload", "ckks-upload", {
            "ctx": ctx, "client": client, "blocks": 3, "bytes": 980_304, "root": root, "privacy": PRIVACY}),
        ("UploadSet", "ckks-set", {"ctx": ctx, "members": members}),
        ("SumOpening", "ckks-opening", {"ctx": ctx, "holder": holder, "set_digest": root, "sums": third}),
        ("OpeningRefusal", "ckks-refusal", {
            "ctx": ctx, "holder": holder, "set_digest": root, "finding": "no-ciphertext", "client": client}),
    ]  # fmt: skip


EDITS: tuple[tuple[str, str, Callable[[Json], Any]], ...] = (
    ("KeyOffer", "an unknown ring", lambda s: s.update(ring="n2048q60")),
    ("KeyOffer", "no key", lambda s: s.update(context="")),
    ("KeyOffer", "no HPKE key", lambda s: s.pop("hpke_key")),
    ("KeyOffer", "an HPKE key in capitals", lambda s: s.update(hpke_key="AB")),
    ("KeyOffer", "a negative time", lambda s: s.update(created_at=-1)),
    ("CkksUpload", "no blocks", lambda s: s.update(blocks=0)),
    ("CkksUpload", "2^32 blocks and one", lambda s: s.update(blocks=2**32 + 1)),
    ("CkksUpload", "no bytes", lambda s: s.update(bytes=0)),
    ("CkksUpload", "2^50 bytes and one", lambda s: s.update(bytes=2**50 + 1)),
    ("CkksUpload", "blocks as text", lambda s: s.update(blocks="3")),
    ("CkksUpload", "no privacy statement", lambda s: s.pop("privacy")),
    ("UploadSet", "members out of order", lambda s: s["members"].reverse()),
    ("UploadSet", "a member twice", lambda s: s["members"].append(s["members"][-1])),
    ("UploadSet", "a member without an upload", lambda s: s["members"][0].pop("upload")),
    ("SumOpening", "a hash of 31 bytes", lambda s: s.update(sums="00" * 31)),
    ("OpeningRefusal", "a finding in other words", lambda s: s.update(finding="it failed")),
    ("OpeningRefusal", "nobody named for no ciphertext", lambda s: s.update(client="")),
    ("OpeningRefusal", "somebody named for an error", lambda s: s.update(finding="error")),
)  # fmt: skip


def statements() -> Json:
    """As in statements.json."""
    signer, cases, malformed = name("holder 0"), list[Json](), list[Json]()
    made = {kind: (purpose, statement) for kind, purpose, statement in of_each_purpose()}
    for kind, (purpose, statement) in made.items():
        signed = signing.sign(purpose, statement, SEED, signer)
        cases.append({
            "type": kind, "purpose": purpose, "digest": signing.statement_hash(purpose, statement), "signed": signed,
        })  # fmt: skip
        malformed += [{"type": kind, **case} for case in refusals(signed)]
    for kind, change, edit in EDITS:
        purpose, statement = made[kind]
        bad = copy.deepcopy(statement)
        edit(bad)
        signed = signing.sign(purpose, bad, SEED, signer)
        malformed.append({"type": kind, "change": change, "signed": signed, "code": "malformed"})
    moved = signing.sign("approval", made["Approval"][1], SEED, signer)
    malformed.append({"type": "Approval", "change": "signed as sealed's", "signed": moved, "code": "signature"})
    return {"signing_key": SEED.hex(), "signer": signer, "cases": cases, "malformed": malformed}


def document() -> Json:
    """All of it."""
    sums = uniform(b"ckks published sums", 5, 32)
    return {
        "randomness": RANDOMNESS,
        "seeds": "'ckks values C of L': values of client C, low bits of 32-bit words; 'zero C in RING': 64-bit words, "
        "each modulo its prime, in the order of the wire; 'ckks sums', 'ckks errors', 'ckks flood': words w, and then "
        "w mod beta, w mod (scale/2 + 1) - scale/4, w mod 2(scale//5) - scale//5, the last two of 31 bits",
        "parameters": choices(),
        "blocks": blocks(),
        "openings": openings(),
        "malformed": wire(),
        "wrapped": wrapped(),
        "sums_hash": {"sums": sums, "hash": digest(b"".join(value.to_bytes(4, "little") for value in sums))},
        "statements": statements(),
    }
