"""The process: `secagg server run`, its configuration, what it refuses to start with, how it ends."""

import json
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from secagg.errors import CertificateInvalid, ConfigError, MalformedError, SizeLimitError, StorageError, TransportError
from secagg.identity import Role
from secagg_host.config import load_toml
from secagg_host.durable import FolderLock
from secagg_host.identity import PartyFiles
from secagg_protos.v1 import secagg_pb2 as pb
from secagg_server import server
from secagg_server.config import ServerConfig
from secagg_server.database import SessionState
from secagg_server.server import Coordinator, listen, load_session
from tests.deployment import Caller, Deployment
from tests.driving import PATIENCE_SECONDS


def run_server(config: Path) -> subprocess.Popen[str]:
    command = [str(Path(sys.executable).with_name("secagg")), "server", "run", "--config", str(config), "--json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_it_serves_until_sigterm_and_the_folder_belongs_to_it(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)
    config = deployment.write_config()
    server = run_server(config)
    assert server.stdout is not None
    listening = json.loads(server.stdout.readline())
    assert listening["event"] == "listening"
    with Caller(listening["address"], deployment.client_files[0]) as caller:
        assert caller.status().state == pb.SESSION_STATE_PROPOSED
    stranger = Deployment(tmp_path / "elsewhere").client_files[0]
    with Caller(listening["address"], stranger) as caller, pytest.raises(CertificateInvalid):
        caller.status()
    second = run_server(config)
    _, errors = second.communicate(timeout=PATIENCE_SECONDS)
    assert second.returncode == 1
    assert errors.startswith("error[storage]: ")
    assert f"in use by another run (pid {server.pid})" in errors
    server.send_signal(signal.SIGTERM)
    output, errors = server.communicate(timeout=PATIENCE_SECONDS)
    assert server.returncode == 0, errors
    assert json.loads(output.splitlines()[-1])["event"] == "stopped"
    assert errors == ""


def test_a_port_in_use_is_said(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)
    with deployment.running() as running, socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(TransportError, match="port is in use"):
            listen(running.coordinator, address, deployment.coordinator_files)


def test_a_folder_in_use_is_said(tmp_path: Path) -> None:
    with FolderLock(tmp_path), pytest.raises(StorageError, match="in use by another run"), FolderLock(tmp_path):
        pass


def test_the_configuration_file_names_its_mistakes(tmp_path: Path) -> None:
    path = Deployment(tmp_path).write_config()
    assert load_toml(path, ServerConfig).release == tmp_path / "release"
    text = path.read_text()
    for old, new, match in (
        ('"127.0.0.1:0"', '"nowhere"', "listen: must be host:port"),
        ('"127.0.0.1:0"', '"127.0.0.1:65536"', "listen: .* above 65535"),
        ('sessions = ["session.json"]', "sessions = []", "sessions"),
        ('state = "state"', "", "state: Field required"),
        ('state = "state"', 'state = "state"\ncolour = "red"', "colour"),
        ('state = "state"', 'state = "state"\nclose_at_uploads = 1', "close_at_uploads"),
    ):
        path.write_text(text.replace(old, new))
        with pytest.raises(ConfigError, match=match):
            load_toml(path, ServerConfig)


def load(deployment: Deployment, files: PartyFiles | None = None) -> None:
    from secagg_host.events import EventLog
    from secagg_server.session import Host

    files = files or deployment.coordinator_files
    Coordinator.load(deployment.config, files, Host(files.signer, deployment.clock, EventLog())).store.close()


def test_another_coordinators_session_is_refused(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)
    with pytest.raises(ConfigError, match="another coordinator"):
        load(deployment, deployment.outsiders[Role.COORDINATOR])


def test_an_altered_session_file_is_refused(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)
    deployment.write_config()
    path = tmp_path / "session.json"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(MalformedError, match=r"session\.json"):
        load_session(path, deployment.coordinator_files)
    with pytest.raises(StorageError, match="does not exist"):
        load_session(tmp_path / "none.json", deployment.coordinator_files)


def test_a_session_that_fits_no_message_is_not_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deployment = Deployment(tmp_path)
    deployment.write_config()
    path = tmp_path / "session.json"
    monkeypatch.setattr(server, "MAX_SESSION_BYTES", path.stat().st_size)
    load_session(path, deployment.coordinator_files)
    monkeypatch.setattr(server, "MAX_SESSION_BYTES", path.stat().st_size - 1)
    with pytest.raises(SizeLimitError, match="have fewer clients on the roster"):
        load_session(path, deployment.coordinator_files)


def test_a_session_with_parties_of_another_authority_is_refused(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path / "a")
    strange = Deployment(tmp_path / "b").party(Role.CLIENT, "client-4", "Hospital 4")
    deployment.client_files[3] = strange
    with pytest.raises(CertificateInvalid, match="Hospital 4/client-4"):
        load(deployment)


def test_closing_below_n_min_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="below n_min = 3"):
        load(Deployment(tmp_path, close_at=2))


def test_something_in_the_place_of_the_release_is_kept(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, close_at=3)
    (tmp_path / "release").mkdir()
    (tmp_path / "release" / "thesis.txt").write_text("all my work")
    with deployment.running() as running:
        running.approve()
        running.upload_all(3)
        running.work()
        with running.client(0) as caller:
            assert "holds something else" in caller.status().reason
        (tmp_path / "release" / "thesis.txt").rename(tmp_path / "thesis.txt")
        deployment.clock.now += 10
        running.advance()
        with running.client(0) as caller:
            assert caller.status().state == pb.SESSION_STATE_RELEASED
    assert (tmp_path / "thesis.txt").read_text() == "all my work"


def test_two_sessions_are_told_apart_by_ctx(tmp_path: Path) -> None:
    """With more than one session the empty ctx names none."""
    from secagg.errors import UnknownSession
    from secagg_server.services import sealed_directory

    deployment = Deployment(tmp_path)
    with deployment.running() as running:
        peer = deployment.client_files[0].identity
        assert sealed_directory({"aa": running.session}).find("", peer) is running.session
        with pytest.raises(UnknownSession):
            sealed_directory({"aa": running.session, "bb": running.session}).find("", peer)


def test_a_session_is_not_begun_anew_beside_uploads_that_the_database_does_not_know(tmp_path: Path) -> None:
    """Another upload would take the place of one that has a receipt (protocol.md §7.2)."""
    deployment, aside = Deployment(tmp_path), tmp_path / "aside"
    with deployment.running() as running:
        running.approve()
        running.upload_all(2)
    aside.mkdir()
    for path in (tmp_path / "state").glob("coordinator.sqlite*"):
        path.rename(aside / path.name)
    with pytest.raises(ConfigError, match=r"uploads of session .* restore `coordinator.sqlite`"), deployment.running():
        pass
    for path in (tmp_path / "state").glob("coordinator.sqlite*"):
        path.unlink()
    for path in aside.iterdir():
        path.rename(tmp_path / "state" / path.name)
    with deployment.running() as running:
        assert running.session.store.count_complete() == 2


def test_a_session_is_not_begun_anew_beside_its_own_release(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, close_at=4)
    with deployment.running() as running:
        running.approve()
        running.upload_all()
        running.work()
    shutil.rmtree(tmp_path / "state")
    with pytest.raises(ConfigError, match="release of session"), deployment.running():
        pass
    (tmp_path / "release").rename(tmp_path / "kept")
    with deployment.running() as running:
        assert running.session.status()[0] == SessionState.PROPOSED
