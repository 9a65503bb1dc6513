"""docs/deploy.md, followed word for word in three network namespaces that share nothing but public files.

Commands and configuration files are taken out of the document, so a recipe that no longer works fails here.
"""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.end_to_end.machines import TIMEOUT, Machine, available, machines
from tests.tiny import make_bert, sentences

pytestmark = pytest.mark.skipif(not available(), reason="needs root and `ip netns`")

RECIPE = (Path(__file__).parents[2] / "docs" / "deploy.md").read_text("utf-8")
PARTIES = {
    "north": {"coordinator": "coordinator", "client": "client", "holder": "keyholder"},
    "east": {"client": "client", "holder": "keyholder"},
    "west": {"client": "client", "holder": "keyholder", "holder2": "keyholder"},
}
NAMES = {"coordinator": "server", "client": "trainer", "holder": "holder", "holder2": "holder2"}


def blocks(kind: str) -> list[str]:
    """Fenced blocks of the document, by the word after the fence."""
    return [body for word, body in re.findall(r"```(\w*)\n(.*?)```", RECIPE, re.DOTALL) if word == kind]


def toml_with(text: str) -> str:
    (found,) = [block for block in blocks("toml") if text in block]
    return found


def commands_with(text: str) -> list[str]:
    (found,) = [block for block in blocks("") if text in block]
    return found.strip().splitlines()


def make_identities(net: dict[str, Machine]) -> None:
    """Section 1: keys are made where they stay; requests and certificates travel."""
    requests = [block.strip().splitlines() for block in blocks("") if "ca request" in block]
    for name, commands in zip(("north", "east", "west"), requests, strict=True):
        for command in commands:
            net[name].run(command)
    north = net["north"]
    (issue,) = commands_with("ca issue --authority authority --request east-client")
    for name, parties in PARTIES.items():
        for folder, role in parties.items():
            desk = f"{name}-{folder}"
            net[name].send(f"{folder}/request.pem", north, f"{desk}/request.pem")
            command = issue.replace("east-client", desk).replace("--role client", f"--role {role}")
            command = command.replace("--institution East", f"--institution {name.title()}")
            north.run(command.replace("--name trainer", f"--name {NAMES[folder]}"))
            north.send(f"{desk}/certificate.pem", net[name], f"{folder}/certificate.pem")
            north.send("authority/authority.pem", net[name], f"{folder}/authority.pem")


def fingerprint(machine: Machine, certificate: str) -> str:
    fields = json.loads(machine.run(f"secagg ca show {certificate} --json"))
    return str(fields["fingerprint"])


def write_policies(net: dict[str, Machine], hashes: dict[str, str]) -> None:
    """Section 3: every `<...>` of the document's policy is filled in."""
    north = net["north"]
    text = toml_with("[institutions]").replace("<base_model_hash>", hashes["base_model_hash"])
    text = text.replace("<adapter_schema_hash>", hashes["adapter_schema_hash"])
    text = text.replace(
        'coordinator = "<fingerprint>"', f'coordinator = "{fingerprint(north, "coordinator/certificate.pem")}"'
    )
    for key, desk in (
        ("north", "north-holder"),
        ("east", "east-holder"),
        ("west", "west-holder"),
        ("west2", "west-holder2"),
    ):
        text = text.replace(f'{key} = "<fingerprint>"', f'{key} = "{fingerprint(north, desk + "/certificate.pem")}"')
    for name in ("north", "east", "west"):
        pin = fingerprint(north, f"{name}-client/certificate.pem")
        text = text.replace(f'"<fingerprint of {name.title()}\'s client>"', f'"{pin}"')
    assert "<" not in text
    for machine in net.values():
        (machine.folder / "policy.toml").write_text(text)


def offer_keys(net: dict[str, Machine]) -> None:
    """Section 4, twice on west."""
    (command,) = commands_with("keyholder offer")
    text = toml_with('identity = "holder"')
    for name, machine in net.items():
        for folder in [party for party in PARTIES[name] if party.startswith("holder")]:
            own = text.replace('"holder"', f'"{folder}"').replace('"holder-state"', f'"{folder}-state"')
            (machine.folder / f"{folder}.toml").write_text(own)
            offer = "offer.json" if folder == "holder" else "offer2.json"
            machine.run(command.replace("holder.toml", f"{folder}.toml").replace("offer.json", offer))
            target = "offer.json" if name == "north" else f"{name}-{folder}/offer.json"
            if name != "north":
                machine.send(offer, net["north"], target)


def run_everything(net: dict[str, Machine]) -> dict[str, int]:
    """Sections 5 and 6; exit codes of everyone but the server."""
    north = net["north"]
    (north.folder / "session.toml").write_text(toml_with("[[roster]]"))
    (north.folder / "server.toml").write_text(toml_with("close_at_uploads"))
    create, show, serve = commands_with("--out session.json")
    north.run(create)
    assert "3 of 4" in north.run(show)
    (hold,) = commands_with("keyholder run")
    (make,) = commands_with("client ledger init")
    (train,) = commands_with("client run")
    server = north.start(serve, "server.log")
    started = {"server": server}
    try:
        for name, machine in net.items():
            for folder in [party for party in PARTIES[name] if party.startswith("holder")]:
                command = hold.replace("holder.toml", f"{folder}.toml")
                started[f"{name} {folder}"] = machine.start(command, f"{folder}.log")
            (machine.folder / "client.toml").write_text(toml_with("[model]"))
            machine.run(make)
            started[f"{name} client"] = machine.start(train, "client.log")
        return {who: process.wait(TIMEOUT) for who, process in started.items() if process is not server}
    finally:
        for process in started.values():
            process.kill()
            process.wait()


def prepare_model_and_data(net: dict[str, Machine]) -> None:
    source = make_bert(net["north"].folder / "model")
    for number, machine in enumerate(net.values()):
        if machine.name != "north":
            shutil.copytree(source, machine.folder / "model")
        texts, labels = sentences(400, seed=number)
        rows = [
            json.dumps({"text": text, "label": ("no", "yes")[label]}) for text, label in zip(texts, labels, strict=True)
        ]
        (machine.folder / "data.jsonl").write_text("\n".join(rows) + "\n")


def test_the_recipe_works_on_three_machines(tmp_path: Path) -> None:
    with machines(tmp_path, ("north", "east", "west")) as net:
        prepare_model_and_data(net)
        make_identities(net)
        (plan,) = commands_with("client plan --model")
        said = {name: net[name].run(plan) for name in ("north", "east")}
        hashes = dict(re.findall(r"(base_model_hash|adapter_schema_hash)\s+([0-9a-f]{64})", said["north"]))
        assert len(set(said.values())) == 1, "two machines derive the same plan"
        write_policies(net, hashes)
        offer_keys(net)
        ended = run_everything(net)
        logs = "\n".join(
            f"--- {path.parent.name}/{path.name}\n{path.read_text()[-2000:]}" for path in tmp_path.glob("*/*.log")
        )
        assert set(ended.values()) == {0}, f"{ended}\n{logs}"
        checks = [commands_with("verify received --trust policy.toml\n")[0], *commands_with("verify release --trust")]
        for machine in net.values():
            assert "NOT linked" in machine.run(checks[0])
        assert "3 uploads were hashed" in net["north"].run(checks[1])
        adapter = json.loads((net["east"].folder / "received" / "adapter_config.json").read_text())
        assert adapter["base_model_name_or_path"] == "sentence-transformers/all-MiniLM-L6-v2"
        releases = {(m.folder / "received" / "adapter_model.safetensors").read_bytes() for m in net.values()}
        assert len(releases) == 1


def test_namespaces_share_no_network(tmp_path: Path) -> None:
    """The control: a machine reaches the coordinator's address over the bridge, and not through loopback."""
    with machines(tmp_path, ("north", "east")) as net:
        near = subprocess.run(
            ["ip", "netns", "exec", net["east"].namespace, "ip", "-br", "address"],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        assert "10.0.0.2" in near
        assert "10.0.0.1/" not in near
