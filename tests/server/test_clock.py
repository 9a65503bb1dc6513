"""A coordinator whose clock is wrong, in masked and ckks sessions (protocol.md §7.4); sealed: test_release."""

from pathlib import Path

import pytest

from secagg.errors import ConfigError, NotReady
from secagg_host.events import EventLog
from secagg_server.blobs import WHOLE
from secagg_server.ckks_session import CkksSession
from secagg_server.clock import ERASE_GRACE_SECONDS, check_clock
from secagg_server.database import SessionState
from secagg_server.masked_session import MaskedSession
from secagg_server.server import Coordinator
from secagg_server.session import Host
from secagg_server.steps import RETRY_AFTER
from tests.ckks_deployment import CkksDeployment
from tests.masked_deployment import MaskedDeployment

Made = MaskedDeployment | CkksDeployment


@pytest.fixture(params=[MaskedDeployment, CkksDeployment])
def deployment(request: pytest.FixtureRequest, tmp_path: Path) -> Made:
    made: Made = request.param(tmp_path)
    return made


def load(deployment: Made) -> Coordinator:
    host = Host(deployment.coordinator_files.signer, deployment.clock, EventLog())
    return Coordinator.load(deployment.config, deployment.coordinator_files, host)


def only(coordinator: Coordinator) -> MaskedSession | CkksSession:
    """The one session that it serves."""
    sessions = list[MaskedSession | CkksSession](coordinator.masked.values())
    sessions += coordinator.ckks.values()
    return sessions[0]


def test_uploads_go_when_the_clock_has_been_past_the_expiry_for_long_enough(deployment: Made) -> None:
    coordinator, good = load(deployment), deployment.clock.now
    session = only(coordinator)
    (session.files.folder / f"client{WHOLE}").write_bytes(b"an upload")
    state, expires_at = session.status()[0], deployment.descriptor.expires_at
    for now in (expires_at + 1, good, expires_at + ERASE_GRACE_SECONDS, expires_at + 2 * ERASE_GRACE_SECONDS - 1):
        deployment.clock.now = now
        coordinator.advance()
        assert session.status()[0] == state
        assert session.files.any_stored()
    deployment.clock.now += 1
    coordinator.advance()
    assert session.status()[0] == SessionState.EXPIRED
    assert not session.files.any_stored()
    coordinator.store.close()


@pytest.mark.parametrize("state", [SessionState.TOO_FEW, SessionState.BURNT])
def test_a_session_that_had_ended_stays_what_it_was_and_its_uploads_go(deployment: Made, state: SessionState) -> None:
    """Once, and again where a coordinator was killed amid the erasing."""
    for _ in range(2):
        coordinator = load(deployment)
        session = only(coordinator)
        if session.running:
            session.move(state, "this is why", "it ended")
        (session.files.folder / f"client{WHOLE}").write_bytes(b"an upload")
        for deployment.clock.now in (deployment.clock.now + ERASE_GRACE_SECONDS + 7200 for _ in range(2)):
            assert session.files.any_stored()
            coordinator.advance()
        assert session.status() == (state, "this is why")
        assert not session.files.any_stored()
        coordinator.store.close()


def test_nothing_moves_while_the_clock_is_before_the_session_and_all_does_after(deployment: Made) -> None:
    coordinator, created_at = load(deployment), deployment.descriptor.created_at
    session = only(coordinator)
    with pytest.raises(NotReady, match="set it right"):
        check_clock(deployment.descriptor, created_at - 1)
    deployment.clock.now = created_at - 3600
    coordinator.advance()
    assert "3600 seconds before session" in session.problem
    deployment.clock.now = created_at + RETRY_AFTER
    coordinator.advance()
    assert session.problem == ""
    coordinator.store.close()


def test_no_session_is_begun_anew_beside_its_uploads(deployment: Made) -> None:
    first = load(deployment)
    session = only(first)
    (session.files.folder / f"client{WHOLE}").write_bytes(b"an upload")
    first.store.close()
    for path in (deployment.folder / "state").glob("coordinator.sqlite*"):
        path.unlink()
    with pytest.raises(ConfigError, match=r"restore `coordinator\.sqlite`"):
        load(deployment)
