"""One whole session, from offers to the mean: every statement of every party (§4 to §9)."""

import base64
from functools import cache

from tests.twin import encoding
from tests.twin import sealed as arithmetic
from tests.twin import statements as twin
from tests.twin.predictable import PredictableRandomness
from tests.vectors.common import Json, digest, fixed, uniform, words

NOW = 1_800_000_000
DAY = 86_400
CLIENTS, HOLDERS, THRESHOLD = 4, 4, 3
CLIP = 0.5
LENGTH = 20_000
SETTING = arithmetic.Setting(limbs=4, bits=16, n_max=10, length=LENGTH)
COMPLAINED_ABOUT = 1
"""Key-holder 1 says that this client's box does not open, so it is not in U. (Its box does: the key-holder lies.)"""
PLAN: Json = {
    "version": 1,
    "base_model": "tiny",
    "base_model_hash": "ab" * 32,
    "architecture": "Tiny",
    "task": {"kind": "classify", "labels": ["no", "yes"], "max_length": 16, "pooling": "model", "feature_norm": 0.0},
    "method": "ffa-lora",
    "a_seed": "01" * 32,
    "tensors": [
        {"name": "a.lora_A.weight", "shape": [4, 8], "init": {"kind": "seeded", "bound": 0.3, "data": ""}, "clip": 0.0},
        {"name": "a.lora_B", "shape": [50, 400], "init": {"kind": "zeros", "bound": 0.0, "data": ""}, "clip": CLIP},
    ],
    "adapter_config": {"peft_type": "LORA", "r": 4},
    "training": {
        "steps": 4, "batch_size": 8, "learning_rate": 0.01, "head_learning_rate": None, "optimizer": "sgd",
        "momentum": 0.9, "warmup_steps": 0, "schedule": "constant", "max_grad_norm": 1.0, "epsilon": 8.0,
        "delta": 1e-05, "precision": "fp32", "noise": "secure",
    },
}  # fmt: skip
PRIVACY: Json = {
    "unit": "record", "adjacency": "add-or-remove-one", "epsilon": 8.0, "delta": 1e-05, "sampler": "poisson",
    "accountant": "vectors", "noise": "secure",
}  # fmt: skip


def seed(title: str) -> bytes:
    """The Ed25519 key of a party."""
    return PredictableRandomness(f"signing key of {title}".encode())(32)


def session_seed(holder: int) -> bytes:
    """The HPKE key of a key-holder."""
    return PredictableRandomness(b"session key of holder %d" % holder)(96)


@cache
def certificate(title: str) -> str:
    """PEM."""
    return str(fixed()["certificates"][title])


def name(title: str) -> str:
    """Fingerprint."""
    return twin.fingerprint(certificate(title))


def signed(title: str, purpose: str, statement: Json) -> Json:
    """A statement of a party."""
    return twin.sign(purpose, statement, seed(title), name(title))


def change(client: int) -> list[float]:
    """float32 values up to 0.55, a little beyond the clip."""
    return [encoding.single((word / 2**31 - 1) * 0.55) for word in uniform(b"change %d" % client, LENGTH, 32)]


def offer(holder: int) -> Json:
    """§4.1."""
    title = f"holder {holder}"
    statement = {
        "holder": name(title),
        "public_key": twin.session_public(session_seed(holder)).hex(),
        "nonce": digest(b"offer nonce %d" % holder),
        "created_at": NOW,
        "expires_at": NOW + 3 * DAY,
    }
    return signed(title, "key-offer", statement)


@cache
def descriptor() -> Json:
    """§4.2."""
    return {
        "version": 1,
        "nonce": digest(b"session nonce"),
        "protocol": "sealed",
        "plan": PLAN,
        "ring": {"name": "n4096q90", "limbs": SETTING.limbs, "bits": SETTING.bits, "security_bits": 130},
        "n_min": 3,
        "n_max": SETTING.n_max,
        "roster": [{"certificate": certificate(f"client {i}"), "weight": 1.0} for i in range(CLIENTS)],
        "committee": [{"certificate": certificate(f"holder {i}"), "offer": offer(i)} for i in range(HOLDERS)],
        "corrupt_keyholders": 1,
        "threshold": THRESHOLD,
        "coordinator": certificate("coordinator"),
        "releases": 1,
        "created_at": NOW,
        "upload_deadline": NOW + DAY,
        "expires_at": NOW + 2 * DAY,
    }


@cache
def ctx() -> str:
    """§4.2."""
    return twin.tagged("secagg/v1/ctx", twin.canonical(descriptor()).encode()).hex()


@cache
def sealed(client: int) -> tuple[bytes, list[int], list[bytes], list[int], list[bytes]]:
    """Ciphertext, key, shares, levels and blindings of a client, from one source of randomness."""
    random = PredictableRandomness(b"seal of client %d" % client)
    levels = encoding.encode(change(client), CLIP, SETTING.bits, 1.0, random)
    ciphertext, key = arithmetic.seal(SETTING, bytes.fromhex(ctx()), levels, random)
    shares = arithmetic.share(key, THRESHOLD, HOLDERS, random)
    return ciphertext, key, shares, levels, arithmetic.blinding(THRESHOLD, HOLDERS, random)


def ciphertext_root(client: int) -> str:
    """§5.3."""
    whole, size = sealed(client)[0], 3 * arithmetic.N * 30 // 8
    return twin.tree([twin.leaf(whole[at : at + size]) for at in range(0, len(whole), size)]).hex()


def box_context(client: int, holder: int) -> Json:
    """§6.2."""
    return {
        "ctx": ctx(),
        "client": name(f"client {client}"),
        "holder": name(f"holder {holder}"),
        "index": holder + 1,
        "ciphertext_root": ciphertext_root(client),
    }


def box_plaintext(client: int, holder: int) -> bytes:
    """§6.2."""
    return twin.box_plaintext(sealed(client)[2][holder], sealed(client)[4][holder])


def session_boxes() -> list[Json]:
    """All boxes, sealed once: those of key-holder 0 whole, of the others what the Merkle tree needs."""
    rows = []
    for client in range(CLIENTS):
        made = [
            twin.seal_box(box_plaintext(client, holder), session_seed(holder), box_context(client, holder))
            for holder in range(HOLDERS)
        ]
        rows.append({"first": base64.b64encode(made[0]).decode(), "leaves": [twin.leaf(box).hex() for box in made]})
    return rows


def upload(client: int) -> Json:
    """§7.1; opens the box of key-holder 0 to see that it is the one for this session."""
    kept = fixed()["session_boxes"][client]
    box = base64.b64decode(kept["first"])
    assert twin.leaf(box).hex() == kept["leaves"][0]
    assert twin.open_box(box, session_seed(0), box_context(client, 0)) == box_plaintext(client, 0)
    statement = {
        "ctx": ctx(),
        "client": name(f"client {client}"),
        "ciphertext_root": ciphertext_root(client),
        "boxes_root": twin.tree([bytes.fromhex(leaf) for leaf in kept["leaves"]]).hex(),
        "ciphertext_bytes": len(sealed(client)[0]),
        "privacy": PRIVACY,
    }
    return signed(f"client {client}", "upload", statement)


def member(one: Json) -> Json:
    """§8.1."""
    statement = one["statement"]
    joined = statement["ctx"] + statement["ciphertext_root"] + statement["boxes_root"]
    root = twin.tagged("secagg/v1/upload", bytes.fromhex(joined)).hex()
    return {"client": statement["client"], "upload_root": root}


def endorsement(holder: int, stage: str, of: str, complaints: list[Json]) -> Json:
    """§8.2, §8.3."""
    statement = {
        "ctx": ctx(), "release": 1, "stage": stage, "set_digest": of, "holder": name(f"holder {holder}"),
        "complaints": complaints,
    }  # fmt: skip
    return signed(f"holder {holder}", "endorsement", statement)


def degree_answer(holder: int, members: list[Json], candidate_digest: str) -> Json:
    """§8.4.2: key-holder 1 gives zeros for the client that it complains about."""
    seed = bytes.fromhex(ctx()) + (1).to_bytes(4, "little") + bytes.fromhex(candidate_digest)
    rows = arithmetic.degree_challenge(seed)
    clients = {name(f"client {i}"): i for i in range(CLIENTS)}
    values: list[int] = []
    for one in members:
        client = clients[one["client"]]
        if (holder, client) == (1, COMPLAINED_ABOUT):
            values += [0] * 4
        else:
            values += arithmetic.degree_answer(rows, sealed(client)[2][holder], sealed(client)[4][holder])
    statement = {
        "ctx": ctx(), "release": 1, "candidate_digest": candidate_digest, "holder": name(f"holder {holder}"),
        "index": holder + 1, "values": words(values, 4).hex(),
    }  # fmt: skip
    return signed(f"holder {holder}", "degree-answer", statement)


def sets(uploads: list[Json]) -> Json:
    """Candidate, answers, degree check, final set, endorsements (§8.1 to §8.4)."""
    members = sorted(map(member, uploads), key=lambda one: str(one["client"]))
    candidate = {"ctx": ctx(), "release": 1, "members": members, "fixed_at": NOW + DAY}
    candidate_digest = twin.statement_hash("candidate", candidate)
    accused = name(f"client {COMPLAINED_ABOUT}")
    complaints = {1: [{"client": accused, "reason": "box-does-not-open"}]}
    answers = [endorsement(i, "candidate", candidate_digest, complaints.get(i, [])) for i in range(HOLDERS)]
    degree = [degree_answer(i, members, candidate_digest) for i in range(HOLDERS)]
    final = {
        "ctx": ctx(),
        "release": 1,
        "candidate_digest": candidate_digest,
        "members": [one for one in members if one["client"] != accused],
        "answers": sorted(twin.statement_hash("endorsement", answer["statement"]) for answer in answers),
        "degree_answers": sorted(twin.statement_hash("degree-answer", answer["statement"]) for answer in degree),
    }
    final_digest = twin.statement_hash("final", final)
    return {
        "candidate": signed("coordinator", "candidate", candidate),
        "candidate_digest": candidate_digest,
        "answers": answers,
        "degree_answers": degree,
        "final": signed("coordinator", "final", final),
        "final_digest": final_digest,
        "endorsements": [endorsement(i, "final", final_digest, []) for i in range(HOLDERS)],
    }


def share_sums(final_digest: str) -> tuple[list[Json], list[bytes]]:
    """§8.5."""
    statements, sums = [], []
    chosen = [i for i in range(CLIENTS) if i != COMPLAINED_ABOUT]
    for holder in range(HOLDERS):
        rows = [
            arithmetic.split_bits(int.from_bytes(sealed(client)[2][holder], "little"), 31, arithmetic.N)
            for client in chosen
        ]
        total = [sum(column) % arithmetic.FIELD for column in zip(*rows, strict=True)]
        packed = arithmetic.join_bits(total, 31).to_bytes(arithmetic.N * 31 // 8, "little")
        statement = {
            "ctx": ctx(),
            "release": 1,
            "final_digest": final_digest,
            "holder": name(f"holder {holder}"),
            "index": holder + 1,
            "share_sha256": digest(packed),
        }
        statements.append(signed(f"holder {holder}", "share-sum", statement))
        sums.append(packed)
    return statements, sums


def opening() -> Json:
    """§9 and §2.4."""
    chosen = [sealed(i) for i in range(CLIENTS) if i != COMPLAINED_ABOUT]
    total = arithmetic.add([one[0] for one in chosen])
    key_sum = [sum(column) for column in zip(*(one[1] for one in chosen), strict=True)]
    sums, error_max = arithmetic.open_sum(SETTING, bytes.fromhex(ctx()), total, key_sum)
    assert sums == [sum(column) for column in zip(*(one[3] for one in chosen), strict=True)]
    mean = encoding.decode_mean(sums, CLIP, SETTING.bits, [1.0] * len(chosen))
    return {
        "ciphertext_sum_sha256": digest(total),
        "key_sum_int64_sha256": digest(words(key_sum, 8)),
        "sums_head": sums[:8],
        "sums_uint64_sha256": digest(words(sums, 8)),
        "error_max": error_max,
        "mean_float32_head": encoding.single_bytes(mean[:8]).hex(),
        "mean_float32_sha256": digest(encoding.single_bytes(mean)),
    }


def document() -> Json:
    """The session."""
    uploads = [upload(i) for i in range(CLIENTS)]
    stages = sets(uploads)
    statements, sums = share_sums(stages["final_digest"])
    session = {
        "descriptor": signed("coordinator", "descriptor", descriptor()),
        "approvals": [
            signed(f"holder {i}", "approval", {"ctx": ctx(), "holder": name(f"holder {i}")}) for i in range(HOLDERS)
        ],
    }
    return {
        "randomness": "call n: SHA-256(seed || u64be(n) || u64be(i)) for i = 0, 1, ...; seeds: 'signing key of PARTY', "
        "'session key of holder I', 'seal of client I'; 'change I' gives words u, change (u/2^31 - 1) 0.55 as float32",
        "now": NOW,
        "ctx": ctx(),
        "session": session,
        "clients": [
            {
                "change_float32_sha256": digest(encoding.single_bytes(change(i))),
                "ciphertext_sha256": digest(sealed(i)[0]),
                "share_sha256": [digest(share) for share in sealed(i)[2]],
                "blinding": [blind.hex() for blind in sealed(i)[4]],
                "upload": uploads[i],
            }
            for i in range(CLIENTS)
        ],
        **stages,
        "share_sums": statements,
        "share_sum_head": [packed[:16].hex() for packed in sums],
        "opening": opening(),
    }
