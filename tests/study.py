"""A whole study on loopback, made with the commands that a user types, and run as the processes that a user runs."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from secagg.canonical import pretty_bytes
from secagg.plan import Plan
from secagg.policy import adapter_schema_hash
from secagg_app.main import cli
from tests.small import small_plan

PATIENCE_SECONDS = 900
"""A study takes a minute; on a machine that is busy otherwise, several. It tells a hang from that."""

SECAGG = "from secagg_app.main import main; main()"


def secagg(*args: str | Path) -> str:
    """Run a command in this process; it must succeed."""
    result = CliRunner().invoke(cli, [str(arg) for arg in args])
    assert result.exit_code == 0, result.output
    return result.output


_KEPT = list[socket.socket]()


def free_port() -> int:
    """A port for a server that is started later, and again. It stays bound here, without listening: nobody else is
    given it meanwhile, and whoever asks for it by number may have it (SO_REUSEADDR, as every server sets)."""
    kept = socket.socket()
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    kept.bind(("127.0.0.1", 0))
    _KEPT.append(kept)
    return int(kept.getsockname()[1])


def toml(content: dict[str, Any]) -> str:
    """Enough TOML for configuration files: JSON's scalars and lists are TOML's, tables come last."""
    tables = {key: value for key, value in content.items() if isinstance(value, dict)}
    lines = [f"{key} = {json.dumps(value)}" for key, value in content.items() if key not in tables]
    for name, table in tables.items():
        lines += ["", f"[{name}]", *(f'"{key}" = {json.dumps(value)}' for key, value in table.items())]
    return "\n".join(lines) + "\n"


@dataclass
class Study:
    """Certificates, policies, session and configurations of one session in `folder`."""

    folder: Path
    clients: int = 3
    holders: int = 4
    n_min: int = 3
    rounds: int = 1
    closes_at: int | None = None
    plan: Plan = field(default_factory=small_plan)
    upload_minutes: float = 60
    expiry_minutes: float = 120
    client_settings: dict[str, Any] = field(default_factory=dict)
    policy_changes: dict[str, Any] = field(default_factory=dict)
    session_changes: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def port(self) -> int:
        return free_port()

    @property
    def client_names(self) -> list[str]:
        return [f"client-{i}" for i in range(1, self.clients + 1)]

    @property
    def holder_names(self) -> list[str]:
        return [f"holder-{i}" for i in range(1, self.holders + 1)]

    def identity(self, name: str) -> Path:
        return self.folder / name / "identity"

    def fingerprint(self, name: str) -> str:
        shown = json.loads(secagg("ca", "show", self.identity(name) / "certificate.pem", "--json"))
        return str(shown["fingerprint"])

    def _issue(self, role: str, institution: str, name: str) -> None:
        hosts = ["--host", "127.0.0.1"] if role == "coordinator" else []
        secagg(
            "ca", "issue", "--authority", self.folder / "authority", "--role", role, "--institution", institution,
            "--name", name, *hosts, "--out", self.identity(name),
        )  # fmt: skip

    def make(self) -> "Study":
        """Everything up to the signed session, in the order in which parties do it."""
        secagg("ca", "init", self.folder / "authority", "--name", "test study")
        self._issue("coordinator", "Hub", "server")
        for index, name in enumerate(self.client_names, 1):
            self._issue("client", f"Hospital {index}", name)
        for index, name in enumerate(self.holder_names, 1):
            self._issue("keyholder", f"Notary {index}", name)
        (self.folder / "plan.json").write_bytes(pretty_bytes(self.plan))
        (self.folder / "policy.toml").write_text(toml(self.policy))
        for name in self.holder_names:
            (self.folder / name / "keyholder.toml").write_text(toml(self.party(name)))
            self.offer(name)
        self.create_session()
        for name in self.client_names:
            secagg("client", "ledger", "init", "--config", self.write_client(name))
        self.write_server("session.json")
        return self

    def write_server(self, *sessions: str) -> None:
        """server.toml for these session files."""
        server = {
            "listen": f"127.0.0.1:{self.port}", "identity": "identity", "state": "state", "release": "../release",
            "sessions": [f"../{name}" for name in sessions], "close_at_uploads": self.closes_at or self.clients,
        }  # fmt: skip
        (self.folder / "server" / "server.toml").write_text(toml(server))

    @property
    def policy(self) -> dict[str, Any]:
        training = self.plan.training
        return {
            "coordinator": self.fingerprint("server"),
            "corrupt_keyholders": 1,
            "required_institutions": self.n_min,
            "n_min": self.n_min,
            "assumed_corrupt_clients": 1,
            "base_model_hashes": [self.plan.base_model_hash],
            "adapter_schema_hashes": [adapter_schema_hash(self.plan)],
            "max_epsilon": training.epsilon or 1.0,
            "max_delta": training.delta,
            "committee": {name: self.fingerprint(name) for name in self.holder_names},
            "institutions": {name: self.fingerprint(name) for name in self.client_names},
            **self.policy_changes,
        }

    def party(self, name: str) -> dict[str, Any]:
        address = f"127.0.0.1:{self.port}"
        return {"coordinator": address, "identity": "identity", "state": "state", "policy": "../policy.toml"}

    def offer(self, name: str) -> None:
        own = self.folder / name
        secagg("keyholder", "offer", "--config", own / "keyholder.toml", "--out", own / "offer.json")

    def create_session(self, out: str = "session.json", *more: str | Path) -> Path:
        text = toml(
            {
                "plan": "plan.json", "n_min": self.n_min, "n_max": max(10, self.clients), "corrupt_keyholders": 1,
                "rounds": self.rounds, "upload_minutes": self.upload_minutes, "expiry_minutes": self.expiry_minutes,
                **self.session_changes,
            }
        )  # fmt: skip
        for name in self.client_names:
            text += f'[[roster]]\ncertificate = "{name}/identity/certificate.pem"\n'
        for name in self.holder_names:
            text += f'[[committee]]\ncertificate = "{name}/identity/certificate.pem"\noffer = "{name}/offer.json"\n'
        (self.folder / "session.toml").write_text(text)
        path = self.folder / out
        who = ("--identity", self.identity("server"), "--out", path)
        secagg("session", "create", self.folder / "session.toml", *who, *more)
        return path

    def write_client(self, name: str, **changes: Any) -> Path:
        content = {
            **self.party(name), "ledger": "ledger", "release": "release", "declared_size": 100,
            "model": {"path": "../model"}, "data": {"path": "data.jsonl"}, **self.client_settings, **changes,
        }  # fmt: skip
        path = self.folder / name / "client.toml"
        path.write_text(toml(content))
        return path

    def command(self, name: str) -> list[str]:
        """The command that party `name` runs."""
        kind = {"s": "server", "h": "keyholder", "c": "client"}[name[0]]
        return [kind, "run", "--config", str(self.folder / name / f"{kind}.toml"), "--json"]

    @contextlib.contextmanager
    def running(self, *names: str) -> Iterator[dict[str, "Process"]]:
        """The processes of these parties; killed at the end, if they still run."""
        started = {name: Process(self.command(name), self.folder / name) for name in names}
        try:
            yield started
        finally:
            for process in started.values():
                process.kill()


class Process:
    """A real process of a party, with its events."""

    def __init__(self, command: list[str], folder: Path, script: str = SECAGG) -> None:
        self.folder = folder
        self._errors = (folder / "stderr.txt").open("ab")
        self._popen = subprocess.Popen(
            [sys.executable, "-c", script, *command],
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        )

    @property
    def events(self) -> list[dict[str, Any]]:
        path = self.folder / "state" / "events.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def errors(self) -> str:
        return (self.folder / "stderr.txt").read_text()

    def wait_for(self, event: str, seconds: float = PATIENCE_SECONDS) -> dict[str, Any]:
        """The first event of that name."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = [item for item in self.events if item["event"] == event]
            if found:
                return found[0]
            assert self._popen.poll() is None, f"ended with {self._popen.returncode}: {self.errors}"
            time.sleep(0.05)
        raise AssertionError(f"no {event} within {seconds} s; {self.events[-3:]} {self.errors}")

    def wait(self, seconds: float = PATIENCE_SECONDS) -> int:
        return self._popen.wait(seconds)

    def kill(self) -> None:
        """kill -9."""
        if self._popen.poll() is None:
            self._popen.send_signal(signal.SIGKILL)
        self._popen.wait(60)
        self._errors.close()
