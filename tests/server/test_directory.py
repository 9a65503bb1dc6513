"""Which session a party means that names none (protocol.md §11.2)."""

from dataclasses import dataclass, field

import pytest

from secagg.errors import RoleViolation, UnknownSession
from secagg.identity import Identity, Role
from secagg_server.directory import Directory

NORTH = Identity(Role.CLIENT, "North", "client", "ab" * 32, bytes(32), 0, 1, "")


@dataclass
class Session:
    """A session that lets North in, or not."""

    ctx: str
    running: bool = True
    members: set[str] = field(default_factory=lambda: {NORTH.fingerprint})

    def admit(self, peer: Identity) -> None:
        if peer.fingerprint not in self.members:
            raise RoleViolation("not of this session")


def directory(*sessions: Session) -> Directory[Session]:
    return Directory("ckks", {session.ctx: session for session in sessions})


def test_the_only_one_whether_it_runs_or_not() -> None:
    for running in (True, False):
        assert directory(Session("a", running=running)).find("", NORTH).running is running
    with pytest.raises(RoleViolation):
        directory(Session("a", members=set())).find("", NORTH)
    with pytest.raises(UnknownSession, match="no ckks session to join at this coordinator"):
        directory().find("", NORTH)


def test_of_several_the_one_of_its_own_that_still_runs() -> None:
    served = directory(Session("a", running=False), Session("b", members=set()), Session("c"))
    assert served.find("", NORTH).ctx == "c"
    assert served.find("a", NORTH).ctx == "a"
    assert directory(Session("a", running=False), Session("b", members=set())).find("", NORTH).ctx == "a"


@pytest.mark.parametrize("running", [True, False])
def test_several_that_may_be_meant_are_named(running: bool) -> None:
    served = directory(*(Session(name * 64, running=running) for name in "ab"), Session("c" * 64, members=set()))
    with pytest.raises(UnknownSession, match=r"2 ckks sessions with North/client .*They are a{64}, b{64}$"):
        served.find("", NORTH)


def test_several_of_which_none_is_its_own() -> None:
    with pytest.raises(UnknownSession, match="is the policy for its protocol"):
        directory(Session("a", members=set()), Session("b", members=set())).find("", NORTH)


def test_rounds_that_were_continued_are_joined_by_name_alone() -> None:
    sessions = {"a": Session("a"), "b": Session("b")}
    served = Directory("sealed", sessions, ["b"])
    assert served.find("", NORTH).ctx == "b"
    assert served.find("a", NORTH).ctx == "a"
