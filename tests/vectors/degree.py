"""The degree check: challenge, answers, and verdicts over answers of which some are wrong (§6.1a, §8.4)."""

from tests.twin import sealed as twin
from tests.twin.predictable import PredictableRandomness
from tests.vectors.common import Json, digest, uniform, words

CTX, RELEASE, SET = "21" * 32, 1, "43" * 32
VERDICTS: tuple[tuple[str, int, int, int, list[list[int]]], ...] = (
    ("4 answers, t = 3, f = 1: nothing tells a client from a key-holder", 3, 1, 4, [[], [2], [], [1, 3]]),
    ("6 answers, t = 4, f = 1: one key-holder lies about all", 4, 1, 6, [[5], [5], [5]]),
    ("6 answers, t = 4, f = 1: one lies, and one member lied to another", 4, 1, 6, [[5], [5], [2], []]),
    ("6 answers, t = 4, f = 1: a member with two bad shares", 4, 1, 6, [[1, 2], [], [6]]),
    ("11 answers, t = 7, f = 2: two lie", 7, 2, 11, [[3, 9], [3], [9], []]),
    ("11 answers, t = 7, f = 2: three are contested", 7, 2, 11, [[3], [9, 3], [1], [4]]),
    ("11 answers, t = 7, f = 2: two lie about one each, one member lied to two", 7, 2, 11, [[10], [11], [1, 2], []]),
    ("10 answers, t = 7, f = 2: too few to tell", 7, 2, 10, [[3], []]),
    ("3 answers, t = 2, f = 0: a client", 2, 0, 3, [[1], []]),
)
"""Title, t, f, number of answers; for each member the key-holders whose answers are one off."""


def points(number: int, threshold: int, answers: int, members: list[list[int]]) -> dict[int, list[list[int]]]:
    """By key-holder: 4 values a member, on random polynomials but for those that are off."""
    found: dict[int, list[list[int]]] = {x: [] for x in range(1, answers + 1)}
    for member, off in enumerate(members):
        drawn = uniform(b"verdict %d, member %d" % (number, member), 4 * threshold, 31)
        rows = [[value % twin.FIELD for value in drawn[k * threshold : (k + 1) * threshold]] for k in range(4)]
        for x, given in found.items():
            given.append([(sum(c * x**d for d, c in enumerate(row)) + (x in off)) % twin.FIELD for row in rows])
    return found


def verdicts() -> list[Json]:
    """Answers as they travel, and who is contested, left out, certainly guilty."""
    cases = []
    for number, (title, threshold, faulty, answers, members) in enumerate(VERDICTS):
        values = points(number, threshold, answers, members)
        found = twin.degree_verdict(values, threshold, faulty)
        cases.append(
            {
                "title": title,
                "threshold": threshold,
                "faulty": faulty,
                "values": [words([v for one in values[x] for v in one], 4).hex() for x in sorted(values)],
                "failing": [
                    {"member": member, "contested": sorted(contested), "left_out": out, "certain": certain}
                    for member, (contested, out, certain) in sorted(found.items())
                ],
            }
        )
    return cases


def document() -> Json:
    """The file."""
    seed = bytes.fromhex(CTX) + RELEASE.to_bytes(4, "little") + bytes.fromhex(SET)
    rows = twin.degree_challenge(seed)
    key = [(value % 83) - 41 for value in uniform(b"key 0", twin.N, 32)]
    random = PredictableRandomness(b"share 0")
    shares, blinding = twin.share(key, 3, 4, random), twin.blinding(3, 4, random)
    return {
        "randomness": "key 0 and its shares as in shares.json, blinding from the same source after them; verdict V, "
        "member M: words of 'verdict V, member M' mod 2^31 - 1, the coefficients of 4 polynomials, lowest first",
        "ctx": CTX,
        "release": RELEASE,
        "candidate_digest": SET,
        "challenge_head": [row[:4] for row in rows],
        "challenge_uint32_sha256": digest(words([value for row in rows for value in row], 4)),
        "share_sha256": [digest(share) for share in shares],
        "blinding": [blind.hex() for blind in blinding],
        "answers": [twin.degree_answer(rows, share, blind) for share, blind in zip(shares, blinding, strict=True)],
        "verdicts": verdicts(),
    }
