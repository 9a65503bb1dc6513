"""A ckks set that does not open: the key-holder says so, the session is burnt, and everybody hears why (§13.5.7)."""

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from secagg.ckks.client import CkksSealed, blocks_root, seal_ckks, wrap_blocks
from secagg.ckks.coordinator import check_refusal_word
from secagg.ckks.keyholder import ShownUpload
from secagg.ckks.messages import OpeningRefusal, SignedOpeningRefusal, SignedUploadSet
from secagg.errors import (
    ConflictError,
    NotReady,
    OpeningError,
    ProtocolViolation,
    RoleViolation,
    SecaggError,
    SessionClosed,
    SignatureInvalid,
)
from secagg.privacy import stated
from secagg.signing import Signer
from secagg_client.ckks_calls import CkksCalls
from secagg_host.tls import channel
from secagg_server.ckks_session import CkksSession
from secagg_server.database import SessionState
from tests.ckks_deployment import CkksDeployment, Participant
from tests.driving import PATIENCE_SECONDS, await_end
from tests.server.test_ckks_kill import ended, party
from tests.server.test_kill import Server
from tests.study import free_port

LIAR = 2
SAID = r"finds that the sum does not open: .* sent ciphertexts that are none\. The session is burnt"


def honest(deployment: CkksDeployment, index: int) -> CkksSealed:
    """A client's upload as it should be."""
    signer, privacy = deployment.client_files[index].signer, stated(deployment.plan.training, "test")
    return seal_ckks(deployment.descriptor, signer, deployment.changes[index], privacy, os.urandom)


def lying(deployment: CkksDeployment, index: int) -> CkksSealed:
    """Blocks of the right size, sealed to the key-holder, that hold no ciphertexts."""
    good, signer = honest(deployment, index), deployment.client_files[index].signer
    inner = [b"\xff" * deployment.descriptor.parameters.ring.block_bytes] * len(good.blocks)
    blocks = wrap_blocks(deployment.descriptor, signer.identity.fingerprint, inner)
    statement = good.signed.statement.model_copy(update={"root": blocks_root(blocks)})
    return CkksSealed(signer.sign(statement), blocks)


def approve(deployment: CkksDeployment, address: str) -> None:
    with channel(address, deployment.holder_files[0]) as line:
        CkksCalls(line).approve(deployment.holder().approve(deployment.signed, deployment.clock()))


def send(deployment: CkksDeployment, address: str, index: int, sealed: CkksSealed) -> None:
    with channel(address, deployment.client_files[index]) as line:
        calls = CkksCalls(line)
        assert calls.begin_upload(sealed.signed) == 0
        calls.upload(sealed.signed, 0, [b"".join(sealed.blocks)])


def test_every_party_hears_that_the_session_is_burnt_and_by_whom(tmp_path: Path) -> None:
    deployment = CkksDeployment(tmp_path, clients=3)
    others = [Participant(deployment, index) for index in (0, 1)]
    with deployment.serving() as (coordinator, address):
        approve(deployment, address)
        send(deployment, address, LIAR, lying(deployment, LIAR))
        threads = [threading.Thread(target=one.take_part, args=(address,)) for one in others]
        for thread in threads:
            thread.start()
        with pytest.raises(OpeningError, match=SAID) as caught:
            deployment.serve_key(address)
        for thread in threads:
            await_end(thread)
        state, reason = next(iter(coordinator.ckks.values())).status()
        with pytest.raises(OpeningError, match=SAID):
            deployment.serve_key(address)
    assert state == SessionState.BURNT
    assert reason == str(caught.value)
    assert deployment.client_files[LIAR].identity.title in reason
    for one in others:
        assert isinstance(one.error, OpeningError)
        (kept,) = one.folder.glob("state/ckks/sessions/*/refusal.json")
        assert str(one.error) == f"{reason}; its signed word is {kept}"
        word = check_refusal_word(deployment.descriptor, SignedOpeningRefusal.parse(kept.read_bytes()))
        assert word.client == deployment.client_files[LIAR].identity.fingerprint
    assert not list((tmp_path / "holder" / "keys").glob("*.key")), "the key went with the session"
    assert not (tmp_path / "release").exists()


def test_killed_after_it_found_out_it_says_the_same(tmp_path: Path) -> None:
    """Key-holder and coordinator each at their steps: what was found is said, once."""
    deployment = CkksDeployment(tmp_path, clients=3)
    address = f"127.0.0.1:{free_port()}"
    config = deployment.write_config(address)
    server = Server(config, "refuse-stored")
    approve(deployment, address)
    for index in range(3):
        send(deployment, address, index, (lying if index == LIAR else honest)(deployment, index))
    assert ended(party(deployment, address, "holder", "refused")) == -signal.SIGKILL
    assert server.process.poll() is None, "it has heard nothing yet"
    found = deployment.holder().refusal(deployment.descriptor)
    assert found is not None
    holder = party(deployment, address, "holder", "refusal-sent")
    assert server.process.wait(PATIENCE_SECONDS) == -signal.SIGKILL
    assert server.process.stdout is not None
    server.process.stdout.close()
    server.errors.close()
    server = Server(config, None)
    assert ended(holder) == -signal.SIGKILL
    with channel(address, deployment.client_files[0]) as line:
        status = CkksCalls(line).status(deployment.descriptor.ctx)
    assert status.state == "burnt"
    with pytest.raises(OpeningError, match=SAID):
        deployment.serve_key(address)
    assert server.stop() == 0
    assert deployment.holder().refusal(deployment.descriptor) == found
    assert not list((tmp_path / "holder" / "keys").glob("*.key"))


def closing(deployment: CkksDeployment, calls: CkksCalls) -> tuple[SignedUploadSet, list[ShownUpload]]:
    """The set and its uploads, when the coordinator has fixed it."""
    for _ in range(PATIENCE_SECONDS * 50):
        try:
            chosen = calls.chosen(deployment.descriptor.ctx)
            break
        except NotReady:
            time.sleep(0.02)
    else:
        raise AssertionError("the set is not fixed")
    shown = list[ShownUpload]()
    size = deployment.descriptor.parameters.ring.wire_bytes
    for member in chosen.statement.members:
        signed, raw = calls.shown(deployment.descriptor.ctx, member.client, size, b"".join)
        shown.append(ShownUpload(signed, [raw[at : at + size] for at in range(0, len(raw), size)]))
    return chosen, shown


def test_a_refusal_is_checked_and_final(tmp_path: Path) -> None:
    deployment = CkksDeployment(tmp_path, clients=3)
    ctx, signer = deployment.descriptor.ctx, deployment.holder_files[0].signer
    word = OpeningRefusal(ctx=ctx, holder=signer.identity.fingerprint, set_digest="0" * 64, finding="error", client="")
    with deployment.serving() as (coordinator, address), channel(address, deployment.holder_files[0]) as line:
        served, calls = next(iter(coordinator.ckks.values())), CkksCalls(line)

        def refused(kind: type[SecaggError], by: Signer = signer, **bent: Any) -> None:
            with pytest.raises(kind):
                calls.refuse(by.sign(word.model_copy(update=bent)))

        approve(deployment, address)
        refused(SessionClosed)  # uploads are still taken
        for index in range(3):
            send(deployment, address, index, honest(deployment, index))
        chosen, shown = closing(deployment, calls)
        refused(ProtocolViolation)  # of another set
        word = word.model_copy(update={"set_digest": chosen.statement.digest})
        refused(ProtocolViolation, holder="1" * 64)
        refused(ProtocolViolation, finding="no-ciphertext", client="2" * 64)
        refused(RoleViolation, by=deployment.coordinator_files.signer)
        with pytest.raises(SignatureInvalid):
            calls.refuse(signer.sign(word).model_copy(update={"signature": "0" * 128}))
        with channel(address, deployment.client_files[0]) as theirs, pytest.raises(RoleViolation):
            CkksCalls(theirs).refuse(signer.sign(word))
        assert served.status()[0] == SessionState.CLOSING
        calls.refuse(signer.sign(word))
        calls.refuse(signer.sign(word))
        assert served.status()[0] == SessionState.BURNT
        refused(ConflictError, finding="sum")
        opened = deployment.holder().open(deployment.descriptor, chosen, shown, os.urandom, deployment.clock())
        with pytest.raises(SessionClosed):
            calls.submit(opened)
    assert not (tmp_path / "release").exists()


def test_after_an_opening_no_refusal_is_taken(tmp_path: Path) -> None:
    """Between the recording of the sums and the release there is no way back."""
    deployment, tried = CkksDeployment(tmp_path, clients=3), list[SecaggError]()
    holder = deployment.holder_files[0]

    def checkpoint(name: str) -> None:
        if name != "open-stored":
            return
        session = next(iter(coordinator.ckks.values()))
        word = OpeningRefusal(
            ctx=session.ctx,
            holder=holder.identity.fingerprint,
            set_digest=session.chosen().statement.digest,
            finding="error",
            client="",
        )
        with pytest.raises(ConflictError, match="has opened the sum") as caught:
            session.refuse(holder.identity, holder.signer.sign(word))
        tried.append(caught.value)

    with deployment.serving(checkpoint) as (coordinator, address):
        approve(deployment, address)
        for index in range(3):
            send(deployment, address, index, honest(deployment, index))
        deployment.serve_key(address)
        assert next(iter(coordinator.ckks.values())).status()[0] == SessionState.RELEASED
    assert len(tried) == 1
    assert deployment.holder().refusal(deployment.descriptor) is None


@pytest.mark.parametrize("shown", ["none", "forged", "of another session"])
def test_a_coordinator_that_invents_a_refusal_has_no_word_to_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shown: str
) -> None:
    """It ends a session that nobody has refused to open, and blames an honest client."""
    deployment = CkksDeployment(tmp_path, clients=3)
    coordinator_signer, holder = deployment.coordinator_files.signer, deployment.holder_files[0].signer
    word = OpeningRefusal(
        ctx=deployment.descriptor.ctx,
        holder=holder.identity.fingerprint,
        set_digest="0" * 64,
        finding="no-ciphertext",
        client=deployment.client_files[1].identity.fingerprint,
    )
    lies = {
        "forged": coordinator_signer.sign(word),
        "of another session": holder.sign(word.model_copy(update={"ctx": "1" * 64})),
    }
    if shown in lies:
        monkeypatch.setattr(CkksSession, "refusal", lambda _: lies[shown])
    others = [Participant(deployment, index) for index in range(3)]
    with deployment.serving() as (coordinator, address):
        approve(deployment, address)
        threads = [threading.Thread(target=one.take_part, args=(address,)) for one in others]
        for thread in threads:
            thread.start()
        with channel(address, deployment.holder_files[0]) as line:
            closing(deployment, CkksCalls(line))
        session = next(iter(coordinator.ckks.values()))
        session.move(SessionState.BURNT, "client-2 sent rubbish", "lies")
        for thread in threads:
            await_end(thread)
    for one in others:
        assert isinstance(one.error, OpeningError)
        assert "(the coordinator shows no word of the key-holder for that: " in str(one.error)
        assert not list(one.folder.glob("state/ckks/sessions/*/refusal.json"))
