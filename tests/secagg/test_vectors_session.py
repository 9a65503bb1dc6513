"""The published session: every party's part made again from the same randomness, byte for byte; liars refused."""

import copy
import json
from functools import cache
from typing import Any

import numpy as np
import pytest

from secagg.accumulate import Accumulator
from secagg.boxes import BoxContext, SessionKey, open_box
from secagg.contributor import SealedUpload, seal_contribution
from secagg.coordinator import check_share_answer, fix_candidate, mean_change, open_with_shares, settle
from secagg.degree import verify_answers
from secagg.descriptor import Descriptor, SignedDescriptor
from secagg.errors import SecaggError
from secagg.evidence import ShareAnswer
from secagg.identity import Identity, identify
from secagg.messages import (
    FinalSet,
    SignedCandidate,
    SignedDegreeAnswer,
    SignedEndorsement,
    SignedFinalSet,
    SignedShareSum,
    SignedUpload,
)
from secagg.privacy import PrivacyStatement
from secagg.sets import check_candidate, check_final, check_upload, verify_endorsements
from secagg.shamir import sum_shares
from secagg.signing import Signed, parse_model
from tests.twin.predictable import PredictableRandomness
from tests.vectors import session
from tests.vectors.common import Json, digest
from tests.vectors.reading import of_array, title
from tests.vectors.replay import descriptor, evidence, key_holder, published, signer, uploads

WANTED = published()
CHOSEN = [i for i in range(session.CLIENTS) if i != session.COMPLAINED_ABOUT]


def text(value: object) -> str:
    return json.dumps(value)


def plain(signed: Signed[Any]) -> object:
    return json.loads(signed.to_bytes())


@cache
def sealed(client: int) -> SealedUpload:
    change = np.array(session.change(client), dtype=np.float32)
    assert of_array(change) == WANTED["clients"][client]["change_float32_sha256"]
    random = PredictableRandomness(b"seal of client %d" % client)
    privacy = PrivacyStatement(**session.PRIVACY)
    return seal_contribution(descriptor(), signer(f"client {client}"), change, privacy, random)


def degree_answers(case: Json = WANTED) -> list[SignedDegreeAnswer]:
    return [SignedDegreeAnswer.parse(text(one)) for one in case["degree_answers"]]


def final() -> FinalSet:
    return SignedFinalSet.parse(text(WANTED["final"])).statement


# -- the parties -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("client", range(session.CLIENTS))
def test_client(client: int) -> None:
    made, wanted = sealed(client), WANTED["clients"][client]
    assert of_array(made.ciphertext) == wanted["ciphertext_sha256"]
    ours, theirs = made.signed.statement, wanted["upload"]["statement"]
    assert ours.model_dump(mode="json") | {"boxes_root": ""} == theirs | {"boxes_root": ""}  # HPKE draws its own
    for holder, box in enumerate(made.boxes):
        context = BoxContext(**session.box_context(client, holder))
        found = open_box(box, SessionKey.from_bytes(session.session_seed(holder)), context, 15_872)
        assert digest(found.share) == wanted["share_sha256"][holder]
        assert found.blinding.hex() == wanted["blinding"][holder]


def test_uploads_are_accepted() -> None:
    for signed in uploads():
        check_upload(descriptor(), signed, signed.signer)


def test_key_holder() -> None:
    holder, now = key_holder(), session.NOW + session.DAY
    proposal = parse_model(SignedDescriptor, text(WANTED["session"]))
    assert plain(holder.approve(proposal, now)) == WANTED["session"]["approvals"][0]
    candidate = SignedCandidate.parse(text(WANTED["candidate"]))
    members = [member.client for member in candidate.statement.members]
    answer = holder.endorse_candidate(descriptor(), candidate, evidence(members), (), now)
    assert plain(answer) == WANTED["answers"][0]
    chosen = SignedFinalSet.parse(text(WANTED["final"]))
    answers = [SignedEndorsement.parse(text(one)) for one in WANTED["answers"]]
    given = holder.answer_degree_check(descriptor(), candidate, answers, evidence(members), now)
    assert plain(given) == WANTED["degree_answers"][0]
    endorsement = holder.endorse_final(descriptor(), candidate, chosen, answers, degree_answers(), (), now)
    assert plain(endorsement) == WANTED["endorsements"][0]
    endorsed = [SignedEndorsement.parse(text(one)) for one in WANTED["endorsements"]]
    members = [member.client for member in chosen.statement.members]
    found = holder.sum_shares(descriptor(), chosen, endorsed, evidence(members), now)
    assert plain(found.signed) == WANTED["share_sums"][0]
    assert found.share[:16].hex() == WANTED["share_sum_head"][0]


def test_coordinator() -> None:
    coordinator = signer("coordinator")
    candidate = fix_candidate(coordinator, descriptor(), uploads(), session.NOW + session.DAY)
    assert plain(candidate) == WANTED["candidate"]
    assert candidate.statement.digest == WANTED["candidate_digest"]
    answers = [SignedEndorsement.parse(text(one)) for one in WANTED["answers"]]
    settled = settle(coordinator, descriptor(), candidate, answers, degree_answers())
    assert plain(settled.final) == WANTED["final"]
    assert settled.final.statement.digest == WANTED["final_digest"]


def answers_of_all() -> list[ShareAnswer]:
    found = []
    for holder, one in enumerate(WANTED["share_sums"]):
        packed = sum_shares(session.sealed(client)[2][holder] for client in CHOSEN)
        found.append(ShareAnswer(SignedShareSum.parse(text(one)), packed))
    return found


def test_opening() -> None:
    total, wanted = Accumulator(descriptor().parameters), WANTED["opening"]
    for client in CHOSEN:
        total.add(sealed(client).ciphertext)
    assert digest(b"".join(total.blocks())) == wanted["ciphertext_sum_sha256"]
    opened = open_with_shares(descriptor(), final(), answers_of_all(), total)
    assert of_array(opened.key_sum) == wanted["key_sum_int64_sha256"]
    assert opened.opening.sums[:8].tolist() == wanted["sums_head"]
    assert of_array(opened.opening.sums.astype(np.uint64)) == wanted["sums_uint64_sha256"]
    assert opened.opening.error_max == wanted["error_max"]
    mean = mean_change(descriptor(), final(), opened.opening)
    assert mean[:8].tobytes().hex() == wanted["mean_float32_head"]
    assert of_array(mean) == wanted["mean_float32_sha256"]


# -- the liars -------------------------------------------------------------------------------------------------


def coordinator_of(found: Descriptor) -> Identity:
    return identify(found.coordinator)


def check(case: Json) -> None:
    """The check of the step that the case is for."""
    mine = descriptor()
    candidate = SignedCandidate.parse(text(WANTED["candidate"])).statement
    answers = [
        SignedEndorsement.parse(text(one)) for one in (case["answers"] if "answers" in case else WANTED["answers"])
    ]
    match case["check"]:
        case "upload":
            check_upload(mine, SignedUpload.parse(text(case["upload"])), case["client"])
        case "candidate":
            check_candidate(mine, SignedCandidate.parse(text(case["candidate"])).verify(coordinator_of(mine)))
        case "answers":
            verify_endorsements(mine, answers, stage="candidate", release=1, digest=candidate.digest)
        case "final":
            chosen = SignedFinalSet.parse(text(case["final"])).verify(coordinator_of(mine))
            check_final(mine, candidate, chosen, answers, degree_answers())
        case "degree":
            verify_answers(mine, candidate, degree_answers(case))
        case "share-sum":
            answer = ShareAnswer(SignedShareSum.parse(text(case["share_sum"])), answers_of_all()[0].share)
            check_share_answer(mine, final(), answer)
        case "descriptor":
            statement = copy.deepcopy(session.descriptor()) | case["changes"]
            bad = {"descriptor": session.signed("coordinator", "descriptor", statement), "approvals": []}
            parse_model(SignedDescriptor, text(bad)).check(approved=False)
        case other:
            raise ValueError(other)


@pytest.mark.parametrize("case", WANTED["malformed"], ids=title)
def test_liar(case: Json) -> None:
    with pytest.raises(SecaggError) as caught:
        check(case)
    assert caught.value.code == case["code"]
