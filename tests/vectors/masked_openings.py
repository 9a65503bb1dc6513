"""Members of `masked_session` who burn it: what they sent passes every check but the last (§12.7.2, §12.7.3)."""

from tests.twin import masked as twin
from tests.twin.predictable import PredictableRandomness
from tests.twin.sealed import FIELD
from tests.vectors import masked_session as session
from tests.vectors.common import Json
from tests.vectors.masked_bending import again, bent, thinned, with_vector
from tests.vectors.masked_session import GONE, MEMBERS, WIDTH, ctx, print_of


def openings() -> list[Json]:
    """§12.7.2, §12.7.3: the session is burnt. Each case replaces what some member sent."""
    own, _, values, _ = session.vector(0)
    count, modulus = len(values), 2**WIDTH

    def shifted(masks: list[tuple[int, str, bytes]]) -> list[int]:
        found = list(values)
        for sign, kind, seed in masks:
            found = [(v + sign * m) % modulus for v, m in zip(found, twin.mask(kind, seed, count), strict=True)]
        return found

    sign, kind, seed = session.pair(0, 1)
    other = PredictableRandomness(b"another b")(32)
    guard = [*values[:-1], (values[-1] + 1) % modulus]
    large = [(values[0] + 200_000) % modulus, *values[1:]]
    another = twin.public_key(PredictableRandomness(b"another key")(32)).hex()
    hashed = twin.self_commitment(ctx(), print_of(0), other)
    upload, key = session.upload(0), session.advertisement(GONE)
    cases: list[tuple[str, Json]] = [
        ("b of another hash than signed", {"uploads": {"0": {
            "signed": again(upload["signed"], "masked-upload", lambda s: s.update(self_mask=hashed))}}}),
        ("a mask key of another public key", {"advertisements": {str(GONE): again(
            key, "masked-advertisement", lambda s: s.update(mask_key=another))}}),
        ("shares of b that are of no secret", inconsistent(0)),
        ("shares of a mask key that are of no secret", inconsistent(GONE)),
        ("a guard that is 2", {"uploads": {"0": with_vector(0, guard)}}),
        ("a pair's mask left out", {"uploads": {"0": with_vector(0, shifted([(-sign, kind, seed)]))}}),
        ("a pair's mask of the other sign", {"uploads": {"0": with_vector(0, shifted([(-sign, kind, seed)] * 2))}}),
        ("masked with another b than signed", {"uploads": {"0": with_vector(
            0, shifted([(-1, "self", own), (1, "self", other)]))}}),
        ("a sum above the members' levels", {"uploads": {"0": with_vector(0, large)}}),
    ]  # fmt: skip
    found: list[Json] = [{"check": "opening", "change": a, "code": "opening", **one} for a, one in cases]
    few = {"check": "opening", "change": "fewer than t shares", "code": "not-ready", "answers": [0, 1, 3]}
    return [*found, few]


def inconsistent(of: int) -> Json:
    """A dealer who commits to a wrong share for its first holder in U, who gives it back as it was dealt."""
    holder = next(number for number in MEMBERS if number != of)
    share = session.held(holder, of)
    wrong = twin.pack_share([(value + 1) % FIELD for value in twin.residues(share)])
    sealed_in, right = ("share", session.sharing(of)) if of == GONE else ("upload", session.upload(of))
    info = twin.box_info(ctx(), print_of(of), print_of(holder), sealed_in)
    peer = twin.public_key(session.keys(holder)[1])
    box = twin.seal(wrong, session.keys(of)[1], peer, info, PredictableRandomness(b"wrong")).hex()
    made = twin.commitment(ctx(), print_of(of), print_of(holder), wrong).hex()
    place = next(i for i, one in enumerate(right["leaves"]) if one["receiver"] == holder)
    dealt = bent(right, "masked-sharing" if of == GONE else "masked-upload", lambda x: x[place].update(
        box=box, commitment=made))  # fmt: skip

    def give(statement: Json) -> None:
        given = statement["key_shares" if of == GONE else "self_shares"]
        next(one for one in given if one["member"] == of).update(share=wrong.hex())

    answer = again(session.unmasking(holder), "masked-unmasking", give)
    return {
        "sharings" if of == GONE else "uploads": {str(of): thinned(dealt, right)},
        "unmaskings": {str(holder): answer},
    }
