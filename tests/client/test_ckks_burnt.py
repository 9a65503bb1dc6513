"""A client of a burnt ckks session: it asks for the key-holder's word, keeps it, and its run is over (§13.5.7)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from secagg.ckks.messages import SignedOpeningRefusal
from secagg.errors import (
    OpeningError,
    RoleViolation,
    SecaggError,
    SessionClosed,
    TransportError,
    UnknownSession,
)
from secagg_client.ckks_calls import CkksCalls
from tests.ckks_deployment import CkksDeployment, Participant
from tests.masked_deployment import Gone
from tests.server.test_ckks_refusal import LIAR, SAID, approve, honest, lying, send

WITNESS = 0


@contextmanager
def burnt(folder: Path) -> Iterator[tuple[Participant, str]]:
    """A client that has its receipt, in a session that the key-holder has burnt; and the coordinator's address."""
    deployment = CkksDeployment(folder, clients=3)
    with deployment.serving() as (_, address):
        approve(deployment, address)
        for index in range(3):
            if index != WITNESS:
                send(deployment, address, index, (lying if index == LIAR else honest)(deployment, index))
        witness = Participant(deployment, WITNESS, leaves_at="receipt")
        witness.take_part(address)
        witness.leaves_at = ""
        with pytest.raises(OpeningError, match=SAID):
            deployment.serve_key(address)
        yield witness, address


def answering(monkeypatch: pytest.MonkeyPatch, answer: Callable[[], None]) -> None:
    """`answer` stands before what the coordinator says of the refusal."""
    real = CkksCalls.refusal

    def refusal(calls: CkksCalls, ctx: str) -> SignedOpeningRefusal:
        answer()
        return real(calls, ctx)

    monkeypatch.setattr(CkksCalls, "refusal", refusal)


def ended(client: Participant) -> list[Path]:
    return list(client.folder.glob("state/ckks/sessions/*/ended.json"))


def test_the_word_is_asked_for_again_when_a_call_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = list[str]()

    def lose_two() -> None:
        if len(lost) < 2:
            lost.append("a call")
            raise TransportError("lost")

    answering(monkeypatch, lose_two)
    with burnt(tmp_path) as (client, address):
        client.take_part(address)
    assert len(lost) == 2
    assert isinstance(client.error, OpeningError)
    assert "its signed word is " in str(client.error)
    assert ended(client)


@pytest.mark.parametrize("kind", [UnknownSession, RoleViolation, SessionClosed])
def test_whatever_else_is_answered_the_run_ends_as_burnt_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[SecaggError]
) -> None:
    """Else the next run would take this session up again, and the one after it, and no other."""

    def refuse() -> None:
        raise kind("ask somebody else")

    answering(monkeypatch, refuse)
    with burnt(tmp_path) as (client, address):
        client.take_part(address)
    assert isinstance(client.error, OpeningError)
    assert str(client.error).endswith("(the coordinator shows no word of the key-holder for that: ask somebody else)")
    assert ended(client)


@pytest.mark.parametrize("damaged", [False, True])
def test_killed_with_the_word_in_its_hands_it_does_not_deny_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: bool
) -> None:
    """The coordinator shows it once, and then no more. A damaged copy is none."""
    with burnt(tmp_path) as (client, address):
        client.leaves_at = "refusal"
        client.take_part(address)
        assert isinstance(client.error, Gone)
        assert not ended(client)
        (kept,) = client.folder.glob("state/ckks/sessions/*/refusal.json")
        if damaged:
            kept.write_bytes(kept.read_bytes()[:-9])

        def forget() -> None:
            raise UnknownSession("never heard of it")

        answering(monkeypatch, forget)
        client.leaves_at = ""
        client.take_part(address)
    assert isinstance(client.error, OpeningError)
    assert ("its signed word is " in str(client.error)) is not damaged
    assert ended(client)
