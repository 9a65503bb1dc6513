"""What key-holders hand in: the same again changes nothing, anything else is refused (protocol.md §8, §9)."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from secagg.certificate import CERTIFICATE, MODEL_CARD, REPORT, parse_certificate
from secagg.errors import ConflictError, NotReady, ProtocolViolation, SessionClosed, SignatureInvalid
from secagg.evidence import ShareAnswer
from secagg.messages import (
    Complaint,
    DegreeAnswer,
    Endorsement,
    ShareSum,
    SignedCandidate,
    SignedDegreeAnswer,
    SignedEndorsement,
)
from secagg.verify import verify_release
from secagg_protos.v1 import secagg_pb2 as pb
from secagg_server.session import DEGREE_CHECK_SECONDS
from secagg_server.tasks import Waiting
from tests.deployment import Deployment, Running
from tests.server.test_release import anchors


@pytest.fixture
def closing(tmp_path: Path) -> Iterator[Running]:
    """Four uploads, the candidate set fixed, no endorsement yet."""
    deployment = Deployment(tmp_path, close_at=4)
    with deployment.running() as running:
        running.approve()
        running.upload_all()
        running.advance()
        yield running


def endorsement(running: Running, index: int, **changes: object) -> Endorsement:
    candidate = running.session.store.candidate()
    assert candidate is not None
    fields: dict[str, object] = {
        "ctx": running.session.ctx, "release": 1, "stage": "candidate", "set_digest": candidate.statement.digest,
        "holder": running.deployment.holder_files[index].identity.fingerprint,
    }  # fmt: skip
    return Endorsement.model_validate(fields | changes)


def one_step(running: Running, holders: list[int]) -> None:
    """Each of them does one thing, then the coordinator goes on."""
    for index in holders:
        with running.holder(index) as caller:
            assert caller.work_once(running.deployment.committee[index], running.deployment.clock())
    running.advance()


def waited(running: Running) -> None:
    """The time for answers to the degree check is over."""
    running.deployment.clock.now += DEGREE_CHECK_SECONDS + 1
    running.advance()


def lying_share(running: Running, index: int) -> ShareAnswer:
    """A well-formed share sum that is not the sum, signed by its key-holder."""
    settlement = running.session.store.settlement()
    assert settlement is not None
    files = running.deployment.holder_files[index]
    share = bytes(running.deployment.descriptor.parameters.share_bytes)
    statement = ShareSum(
        ctx=running.session.ctx,
        release=1,
        final_digest=settlement.final.statement.digest,
        holder=files.identity.fingerprint,
        index=index + 1,
        share_sha256=hashlib.sha256(share).hexdigest(),
    )
    return ShareAnswer(files.signer.sign(statement), share)


def test_the_same_endorsement_again_changes_nothing(closing: Running) -> None:
    signed = closing.deployment.holder_files[0].signer.sign(endorsement(closing, 0))
    with closing.holder(0) as caller:
        caller.endorse(signed)
        caller.endorse(signed)
    assert len(closing.session.store.endorsements("candidate")) == 1


def test_a_second_different_endorsement_is_refused(closing: Running) -> None:
    signer = closing.deployment.holder_files[0].signer
    client = closing.deployment.client_files[0].identity.fingerprint
    complaint = (Complaint(client=client, reason="box-malformed"),)
    with closing.holder(0) as caller:
        caller.endorse(signer.sign(endorsement(closing, 0)))
        with pytest.raises(ConflictError, match="only one"):
            caller.endorse(signer.sign(endorsement(closing, 0, complaints=complaint)))


def test_an_endorsement_of_another_set_is_refused(closing: Running) -> None:
    signer = closing.deployment.holder_files[0].signer
    with closing.holder(0) as caller:
        with pytest.raises(ConflictError, match="another candidate set"):
            caller.endorse(signer.sign(endorsement(closing, 0, set_digest="00" * 32)))
        with pytest.raises(NotReady, match="final set is not fixed"):
            caller.endorse(signer.sign(endorsement(closing, 0, stage="final")))
        stranger = (Complaint(client="11" * 32, reason="box-malformed"),)
        with pytest.raises(ProtocolViolation, match="not in the set"):
            caller.endorse(signer.sign(endorsement(closing, 0, complaints=stranger)))
    assert closing.session.store.endorsements("candidate") == {}


def test_no_key_holder_endorses_for_another(closing: Running) -> None:
    signed = closing.deployment.holder_files[0].signer.sign(endorsement(closing, 0))
    with closing.holder(1) as caller, pytest.raises(SignatureInvalid):
        caller.endorse(signed)


def test_a_key_holder_sees_what_its_peers_endorsed(closing: Running) -> None:
    one_step(closing, [0, 1])
    with closing.holder(2) as caller:
        assert len(caller.get_work().candidate.peer_endorsements_json) == 2
    with closing.holder(0) as caller:
        assert caller.get_work().WhichOneof("work") is None


def test_waiting_for_work_ends_when_there_is_some(closing: Running) -> None:
    one_step(closing, [0, 1])
    with closing.holder(0) as waiting:
        future = waiting.committee.GetWork.future(pb.GetWorkRequest(wait_milliseconds=20_000), timeout=90)
        one_step(closing, [2])
        assert future.result().WhichOneof("work") == "degree"


def test_no_share_sum_before_the_final_set_is_endorsed(closing: Running) -> None:
    with closing.holder(0) as caller:
        with pytest.raises(NotReady):
            caller.submit(*_raw(fake_share(closing)))
        one_step(closing, [0, 1, 2])
        waited(closing)
        with pytest.raises(ProtocolViolation, match="not endorsed yet"):
            caller.submit(*_raw(lying_share(closing, 0)))


def degree_answer(running: Running, index: int) -> SignedDegreeAnswer:
    """What the key-holder would answer, without handing it in."""
    with running.holder(index) as caller:
        work = caller.get_work()
        candidate = SignedCandidate.parse(work.degree.signed_candidate_json)
        given = [SignedEndorsement.parse(one) for one in work.degree.endorsements_json]
        shown = list(caller.evidence(pb.SET_STAGE_CANDIDATE))
    deployment = running.deployment
    now = deployment.clock()
    return deployment.committee[index].answer_degree_check(deployment.descriptor, candidate, given, shown, now)


def bent(running: Running, index: int, signed: SignedDegreeAnswer) -> SignedDegreeAnswer:
    """The same with another value for the first member, rightly signed."""
    values = "00000001" + signed.statement.values[8:]
    statement = signed.statement.model_copy(update={"values": values})
    return running.deployment.holder_files[index].signer.sign(statement)


def test_the_degree_check_is_answered_once_and_only_by_oneself(closing: Running) -> None:
    one_step(closing, [0, 1, 2, 3])
    signed = degree_answer(closing, 0)
    with closing.holder(0) as caller:
        caller.answer(signed)
        caller.answer(signed)
        with pytest.raises(ConflictError, match="only one"):
            caller.answer(bent(closing, 0, signed))
        short = signed.statement.model_copy(update={"values": signed.statement.values[32:]})
        with pytest.raises(ProtocolViolation, match="4 members"):
            caller.answer(closing.deployment.holder_files[0].signer.sign(short))
    with closing.holder(1) as caller, pytest.raises(ProtocolViolation, match="another key-holder"):
        caller.answer(signed)
    assert len(closing.session.store.degree_answers()) == 1


def test_no_degree_answer_before_t_key_holders_have_endorsed_the_set(closing: Running) -> None:
    one_step(closing, [0, 1])
    candidate = closing.session.store.candidate()
    assert candidate is not None
    statement = DegreeAnswer(
        ctx=closing.session.ctx, release=1, candidate_digest=candidate.statement.digest,
        holder=closing.deployment.holder_files[0].identity.fingerprint, index=1, values="00" * 64,
    )  # fmt: skip
    with closing.holder(0) as caller:
        assert caller.get_work().WhichOneof("work") is None
        with pytest.raises(ProtocolViolation, match="not endorsed yet"):
            caller.answer(closing.deployment.holder_files[0].signer.sign(statement))


def test_all_are_waited_for_and_then_the_release_says_unchecked(closing: Running) -> None:
    one_step(closing, [0, 1, 2])
    one_step(closing, [0, 1, 2])
    waiting = closing.session.waiting()
    assert waiting is not None
    assert waiting.reason.startswith("3 of 4 answers to the degree check; waiting for ")
    assert closing.session.store.settlement() is None
    waited(closing)
    closing.work([0, 1, 2])
    with closing.client(0) as client:
        release = client.release()
    certificate = parse_certificate(release[CERTIFICATE]).statement
    assert (certificate.degree_check.outcome, certificate.degree_check.answers) == ("unchecked", 3)
    words = "UNCHECKED, 3 answers are too few; a member with inconsistent shares would have burnt the session"
    assert words in release[REPORT].decode()
    assert "Inconsistent shares were <b>not</b> checked for (3 answers of key-holders)" in release[REPORT].decode()
    assert f"Degree check: {words}." in release[MODEL_CARD].decode()
    assert f"degree check: {words}" in verify_release(release, anchors(closing.deployment)).checks


def test_four_answers_do_not_hold_against_a_liar_and_the_release_says_so(closing: Running) -> None:
    """m = 4, f = 1, t = 3: five answers would (protocol.md §8.4.5)."""
    closing.work()
    with closing.client(0) as client:
        release = client.release()
    words = "the shares of every member are consistent by 4 answers, if all who answered are honest"
    assert words in release[REPORT].decode()
    assert "holds only if all 4 key-holders that answered told the truth" in release[REPORT].decode()
    assert f"Degree check: {words}." in release[MODEL_CARD].decode()
    assert f"degree check: {words}" in verify_release(release, anchors(closing.deployment)).checks


def test_a_key_holder_that_lies_in_the_degree_check_can_have_one_left_out_and_the_report_says_so(
    closing: Running,
) -> None:
    """m = 4: nothing tells the client's lie from the key-holder's (protocol.md §8.4.5)."""
    one_step(closing, [0, 1, 2, 3])
    lie = bent(closing, 0, degree_answer(closing, 0))
    with closing.holder(0) as caller:
        caller.answer(lie)
    closing.work([0, 1, 2, 3])
    with closing.client(0) as client:
        release = client.release()
    certificate = parse_certificate(release[CERTIFICATE]).statement
    assert [one.finding for one in certificate.degree_check.culprits] == ["inconsistent-shares-or-a-lying-key-holder"]
    assert len(certificate.members) == 3
    assert b"inconsistent-shares-or-a-lying-key-holder" in release[REPORT]


def test_a_wrong_share_sum_is_named_in_the_release_and_its_page(closing: Running) -> None:
    for _ in ("candidate", "degree", "final"):
        one_step(closing, [0, 1, 2, 3])
    with closing.holder(0) as caller:
        caller.submit(*_raw(lying_share(closing, 0)))
    closing.work([1, 2, 3])
    with closing.client(0) as client:
        release = client.release()
    certificate = parse_certificate(release[CERTIFICATE]).statement
    liar = closing.deployment.holder_files[0].identity
    assert [(fault.holder, fault.finding) for fault in certificate.holder_faults] == [(liar.fingerprint, "disagrees")]
    assert f"{liar.title}: its sum of shares was off".encode() in release[REPORT]
    verify_release(release, anchors(closing.deployment))


def fake_share(running: Running) -> ShareAnswer:
    files = running.deployment.holder_files[0]
    statement = ShareSum(
        ctx=running.session.ctx, release=1, final_digest="22" * 32, holder=files.identity.fingerprint, index=1,
        share_sha256="33" * 32,
    )  # fmt: skip
    return ShareAnswer(files.signer.sign(statement), b"")


def _raw(answer: ShareAnswer) -> tuple[bytes, bytes]:
    return answer.signed.to_bytes(), answer.share


def test_one_lying_share_among_four_is_outvoted(closing: Running) -> None:
    for _ in ("candidate", "degree", "final"):
        one_step(closing, [0, 1, 2, 3])
    with closing.holder(0) as caller:
        caller.submit(*_raw(lying_share(closing, 0)))
    one_step(closing, [1, 2])
    with closing.client(0) as client:
        assert client.status().state == pb.SESSION_STATE_CLOSING, "three shares with a lie among them do not open"
    one_step(closing, [3])
    with closing.client(0) as client:
        assert client.status().state == pb.SESSION_STATE_RELEASED


def test_without_t_true_shares_the_session_is_burnt(closing: Running) -> None:
    for _ in ("candidate", "degree", "final"):
        one_step(closing, [0, 1, 2, 3])
    for index in (0, 1):
        with closing.holder(index) as caller:
            caller.submit(*_raw(lying_share(closing, index)))
    one_step(closing, [2, 3])
    with closing.client(0) as client:
        status = client.status()
        assert status.state == pb.SESSION_STATE_BURNT
        assert "burnt" in status.reason
    with closing.holder(0) as caller, pytest.raises(SessionClosed):
        list(caller.evidence(pb.SET_STAGE_CANDIDATE))


def test_a_member_complained_about_is_left_out(closing: Running) -> None:
    bad = closing.deployment.client_files[0].identity.fingerprint
    complaint = (Complaint(client=bad, reason="box-does-not-open"),)
    signed = closing.deployment.holder_files[0].signer.sign(endorsement(closing, 0, complaints=complaint))
    with closing.holder(0) as caller:
        caller.endorse(signed)
    one_step(closing, [1, 2])
    waited(closing)
    settlement = closing.session.store.settlement()
    assert settlement is not None
    members = [member.client for member in settlement.final.statement.members]
    assert len(members) == 3
    assert bad not in members


def test_one_that_complains_about_everybody_stops_nothing(closing: Running) -> None:
    everybody = sorted(closing.deployment.descriptor.clients)
    complaints = tuple(Complaint(client=client, reason="box-malformed") for client in everybody)
    signed = closing.deployment.holder_files[0].signer.sign(endorsement(closing, 0, complaints=complaints))
    with closing.holder(0) as caller:
        caller.endorse(signed)
    one_step(closing, [1, 2])
    waited(closing)
    assert closing.session.store.settlement() is None, "another answer can still outvote it"
    one_step(closing, [3])
    settlement = closing.session.store.settlement()
    assert settlement is not None
    assert len(settlement.final.statement.members) == 4


def test_those_who_are_not_needed_are_not_waited_for() -> None:
    assert Waiting("share sums", 2, 3, ("East/holder",)).reason == "2 of 3 share sums; waiting for East/holder"
    enough = Waiting("share sums", 3, 3, ("East/holder",)).reason
    assert enough == "3 share sums, 3 are enough; none so far from East/holder"
