"""The run folder: identities, policies and configuration files, made with the commands of a real deployment.

On three machines each of these files would be written by its owner (docs/deploy.md). Here one program plays all of
them, which is why every policy can pin everybody.
"""

import contextlib
import json
import secrets
import shutil
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from secagg.errors import ConfigError
from secagg.identity import identify
from secagg.plan import Plan
from secagg.policy import adapter_schema_hash
from secagg.signing import parse_model
from secagg_app.demo.processes import run_command
from secagg_app.demo.settings import (
    CORRUPT_HOLDERS,
    DELTA,
    HOLDERS,
    MIN_CLIENTS,
    DemoSettings,
    TaskRecipe,
    holder_name,
    institution,
)
from secagg_app.demo.split import Split, write_jsonl
from secagg_app.demo.toml import Value, write_toml
from secagg_host.durable import guard, make_folder, read_file, write_atomic
from secagg_host.identity import CERTIFICATE

MARKER = "demo.json"
UPLOAD_MINUTES, EXPIRY_MINUTES, ROUND_SECONDS = 60, 120, 20
_PORTS, _PORT_TRIES = range(20_000, 30_000), 100
_AHEAD = 3
"""Commands at once while the folder is made."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Base:
    """The base model: where it is on this machine, and what plan and adapter call it."""

    source: str
    name: str


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Where everything of one run is."""

    root: Path
    clients: int
    holders: int = HOLDERS

    @property
    def client_names(self) -> list[str]:
        """Folders of the clients, those that will vanish last."""
        return [f"client-{index}" for index in range(1, self.clients + 1)]

    @property
    def holder_names(self) -> list[str]:
        """Folders of the key-holders."""
        return [f"keyholder-{index}" for index in range(1, self.holders + 1)]

    @property
    def logs(self) -> Path:
        """One file a process."""
        return self.root / "logs"

    @property
    def release(self) -> Path:
        """What comes out."""
        return self.root / "release"

    @property
    def anchors(self) -> Path:
        """Whom an auditor trusts."""
        return self.root / "anchors.toml"

    @property
    def held_out(self) -> Path:
        """The test set."""
        return self.root / "data" / "heldout.jsonl"

    def plan(self) -> Plan:
        """The plan that the coordinator made."""
        return parse_model(Plan, read_file(self.root / "coordinator" / "plan.json"))

    def fingerprint(self, party: str) -> str:
        """Of a party's certificate."""
        return identify(read_file(self.root / party / "identity" / CERTIFICATE)).fingerprint


def claim(out: Path, *, replace: bool) -> None:
    """Make the run folder, empty but for its lock.

    Raises ConfigError when something is in it, unless it is an earlier demo's and `replace`.
    """
    make_folder(out)
    with guard(out):
        found = [path for path in out.iterdir() if path.name != ".lock"]
        if not found:
            return
        if not (out / MARKER).is_file():
            raise ConfigError(f"{out}: is not empty, and not from an earlier demo; take another --out")
        if not replace:
            raise ConfigError(f"{out}: holds an earlier run; add --replace to remove it, or take another --out")
        for path in found:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def build(settings: DemoSettings, recipe: TaskRecipe, base: Base, split: Split, say: Say) -> RunFolder:
    """Everything that must exist before the processes start. Raises ProcessFailed for a command that fails."""
    folder = RunFolder(settings.out.resolve(), settings.parties, settings.holders)
    write_atomic(
        folder.root / MARKER, (json.dumps({"clients": settings.clients, "drop": settings.drop}) + "\n").encode()
    )
    say("identities, the clients' data files, and the plan: adapter and start values from the base model")
    with ThreadPoolExecutor(1) as pool:  # the plan loads the model, the rest waits for the disk
        plan = pool.submit(_plan, settings, recipe, base, folder)
        _identities(folder)
        _data(folder, split)
        plan.result()
    say("policies: what each party accepts; empty ledgers; key offers; the signed session descriptor")
    _policies(settings, folder)
    address = f"localhost:{free_port()}"
    _party_configs(settings, base, split, folder, address)
    _session(settings, folder)
    return folder


def free_port() -> int:
    """A port of the loopback interface that nobody listens on now; minutes later the coordinator listens there.

    From a range that outgoing connections are not given: one of those could take it meanwhile. Raises ConfigError.
    """
    for _ in range(_PORT_TRIES):
        port = _PORTS.start + secrets.randbelow(len(_PORTS))
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise ConfigError(f"no port of 127.0.0.1 between {_PORTS.start} and {_PORTS.stop} is free for the coordinator")


def _setup_log(folder: RunFolder) -> Path:
    return folder.logs / "setup.log"


def _run_all(folder: RunFolder, commands: Sequence[Sequence[str | Path]]) -> None:
    """Commands that do not depend on one another."""
    with ThreadPoolExecutor(_AHEAD) as pool:
        for done in [pool.submit(run_command, _setup_log(folder), *command) for command in commands]:
            done.result()


def _identities(folder: RunFolder) -> None:
    authority = folder.root / "authority"
    run_command(_setup_log(folder), "ca", "init", authority, "--name", "Demo authority")
    parties = [("coordinator", "coordinator", "Study office", "server")]
    parties += [(n, "client", institution(i), "trainer") for i, n in enumerate(folder.client_names, 1)]
    parties += [(n, "keyholder", holder_name(i), "holder") for i, n in enumerate(folder.holder_names, 1)]
    commands = list[list[str | Path]]()
    for name, role, organisation, person in parties:
        make_folder(folder.root / name)
        command: list[str | Path] = ["ca", "issue", "--authority", authority, "--out", folder.root / name / "identity"]
        command += ["--role", role, "--institution", organisation, "--name", person]
        if role == "coordinator":
            command += ["--host", "localhost", "--host", "127.0.0.1"]
        commands.append(command)
    _run_all(folder, commands)


def _data(folder: RunFolder, split: Split) -> None:
    labelled = bool(split.corpus.labels)
    for name, records in zip(folder.client_names, split.clients, strict=True):
        write_jsonl(folder.root / name / "data" / "train.jsonl", records, labelled=labelled)
    write_jsonl(folder.held_out, split.held_out, labelled=labelled)


def _plan(settings: DemoSettings, recipe: TaskRecipe, base: Base, folder: RunFolder) -> None:
    training = {**recipe.plan["training"], "epsilon": settings.epsilon, "delta": DELTA}
    if settings.steps is not None:
        training["steps"] = settings.steps
    content: dict[str, Value] = {"base_model": base.source, "base_model_name": base.name, **recipe.plan}
    content["training"] = training
    make_folder(folder.root / "coordinator")
    config = write_toml(
        folder.root / "coordinator" / "plan.toml",
        content,
        "What is trained, and how. Public: it goes into the session.",
    )
    out = folder.root / "coordinator" / "plan.json"
    run_command(_setup_log(folder), "client", "plan", "--config", config, "--out", out)


def _policies(settings: DemoSettings, folder: RunFolder) -> None:
    plan = folder.plan()
    sealed = settings.protocol == "sealed"
    own: dict[str, Value] = {"corrupt_keyholders": CORRUPT_HOLDERS} if sealed else {"protocols": [settings.protocol]}
    if settings.protocol == "ckks":
        own["keyholder"] = folder.fingerprint(folder.holder_names[0])
    anchors: dict[str, Value] = {
        **own,
        "coordinator": folder.fingerprint("coordinator"),
        "required_institutions": 3,
        "assumed_corrupt_clients": 1,
        "n_min": 3,
        "base_model_hashes": [plan.base_model_hash],
        "adapter_schema_hashes": [adapter_schema_hash(plan)],
    }
    committee: Value = {holder_name(i): folder.fingerprint(n) for i, n in enumerate(folder.holder_names, 1)}
    pins: dict[str, Value] = {
        **({"committee": committee} if sealed else {}),
        "institutions": {institution(i): folder.fingerprint(n) for i, n in enumerate(folder.client_names, 1)},
    }
    limits: dict[str, Value] = {"max_epsilon": float(settings.epsilon), "max_delta": DELTA}
    if sealed:
        limits["max_releases"] = 1
    write_toml(folder.anchors, {**anchors, **pins}, "Whom an auditor trusts: for `secagg verify --trust`.")
    for name in [*folder.client_names, *folder.holder_names]:
        comment = "What this party accepts. Each writes its own; nothing in it comes from the coordinator."
        write_toml(folder.root / name / "policy.toml", {**anchors, **limits, **pins}, comment)


def _party_configs(settings: DemoSettings, base: Base, split: Split, folder: RunFolder, address: str) -> None:
    write_toml(
        folder.root / "coordinator" / "server.toml",
        {
            "listen": address,
            "identity": "identity",
            "state": "state",
            "release": "../release",
            "sessions": ["../session.json"],
            **({} if settings.protocol == "masked" else {"close_at_uploads": settings.clients}),
        },
        "The coordinator. A session closes as soon as it has so many uploads; without that, at the deadline.",
    )
    for name in folder.holder_names:
        write_toml(
            folder.root / name / "keyholder.toml",
            {"coordinator": address, "identity": "identity", "state": "state", "policy": "policy.toml"},
        )
    for name in folder.client_names:
        write_toml(folder.root / name / "client.toml", client_config(base, split, address))


def client_config(base: Base, split: Split, address: str) -> dict[str, Value]:
    """client.toml. The declared size is what the institution says publicly; here it is also the true one."""
    columns: dict[str, Value] = {"text_column": "text"}
    if split.corpus.labels:
        columns["label_column"] = "label"
    model_key = "path" if Path(base.source).exists() else "id"
    return {
        "coordinator": address,
        "identity": "identity",
        "state": "state",
        "policy": "policy.toml",
        "ledger": "ledger",
        "release": "release",
        "declared_size": split.size,
        "data_name": "demo",
        "model": {model_key: base.source},
        "data": {"path": "data/train.jsonl", **columns},
        "evaluation": {"path": "../data/heldout.jsonl", "models": ["own"], **columns},
    }


def _session(settings: DemoSettings, folder: RunFolder) -> None:
    """What each party does before a session, and the session."""
    commands = list[list[str | Path]]()
    for name in folder.holder_names:
        home = folder.root / name
        made_for = ("--plan", folder.root / "coordinator" / "plan.json", "--n-max", str(max(settings.parties, 3)))
        more = made_for if settings.protocol == "ckks" else ()
        commands.append(
            ["keyholder", "offer", "--config", home / "keyholder.toml", "--out", home / "offer.json", *more]
        )
    for name in folder.client_names:
        commands.append(["client", "ledger", "init", "--config", folder.root / name / "client.toml"])
    _run_all(folder, commands)
    roster: list[Value] = [{"certificate": f"{name}/identity/{CERTIFICATE}"} for name in folder.client_names]
    common: dict[str, Value] = {
        "plan": "coordinator/plan.json",
        "n_min": MIN_CLIENTS,
        "bits": 16,
        "upload_minutes": UPLOAD_MINUTES,
        "expiry_minutes": EXPIRY_MINUTES,
        "roster": roster,
    }
    own = {"sealed": _sealed_session, "masked": _masked_session, "ckks": _ckks_session}[settings.protocol](
        settings, folder
    )
    comment = "What the operator decides; `secagg session create` makes session.json of it."
    config = write_toml(folder.root / "session.toml", {**own, **common}, comment)
    identity, out = folder.root / "coordinator" / "identity", folder.root / "session.json"
    run_command(_setup_log(folder), "session", "create", config, "--identity", identity, "--out", out)


def _ckks_session(settings: DemoSettings, folder: RunFolder) -> dict[str, Value]:
    holder = folder.holder_names[0]
    keyholder: Value = {"certificate": f"{holder}/identity/{CERTIFICATE}", "offer": f"{holder}/offer.json"}
    return {"protocol": "ckks", "n_max": max(settings.parties, 3), "keyholder": keyholder}


def _masked_session(settings: DemoSettings, _: RunFolder) -> dict[str, Value]:
    return {
        "protocol": "masked",
        "dropout_rate": settings.dropout_rate,
        "corruption_rate": settings.corruption_rate,
        "round_seconds": ROUND_SECONDS,
    }


def _sealed_session(settings: DemoSettings, folder: RunFolder) -> dict[str, Value]:
    committee: list[Value] = [
        {"certificate": f"{name}/identity/{CERTIFICATE}", "offer": f"{name}/offer.json"} for name in folder.holder_names
    ]
    return {"corrupt_keyholders": CORRUPT_HOLDERS, "n_max": max(settings.parties, 3), "committee": committee}
