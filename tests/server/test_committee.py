"""What key-holders hand in: the same again changes nothing, anything else is refused (protocol.md §8, §9)."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from secagg.errors import ConflictError, NotReady, ProtocolViolation, SessionClosed, SignatureInvalid
from secagg.evidence import ShareAnswer
from secagg.messages import Complaint, Endorsement, ShareSum
from secagg_protos.v1 import secagg_pb2 as pb
from secagg_server.session import Waiting
from tests.deployment import Deployment, Running


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
        future = waiting.committee.GetWork.future(pb.GetWorkRequest(wait_milliseconds=20_000), timeout=20)
        one_step(closing, [2])
        assert future.result().WhichOneof("work") == "final"


def test_no_share_sum_before_the_final_set_is_endorsed(closing: Running) -> None:
    with closing.holder(0) as caller:
        with pytest.raises(NotReady):
            caller.submit(*_raw(fake_share(closing)))
        one_step(closing, [0, 1, 2])
        with pytest.raises(ProtocolViolation, match="not endorsed yet"):
            caller.submit(*_raw(lying_share(closing, 0)))


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
    one_step(closing, [0, 1, 2, 3])
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
    one_step(closing, [0, 1, 2, 3])
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
    assert closing.session.store.settlement() is None, "another answer can still outvote it"
    one_step(closing, [3])
    settlement = closing.session.store.settlement()
    assert settlement is not None
    assert len(settlement.final.statement.members) == 4


def test_those_who_are_not_needed_are_not_waited_for() -> None:
    assert Waiting("share sums", 2, 3, ("East/holder",)).reason == "2 of 3 share sums; waiting for East/holder"
    enough = Waiting("share sums", 3, 3, ("East/holder",)).reason
    assert enough == "3 share sums, 3 are enough; none so far from East/holder"
