"""That a set does not open a ckks key-holder finds itself: nobody can tell it so (protocol.md §11.2, §13.5.7)."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from secagg.ckks.messages import Finding
from secagg.errors import OpeningError, Unopenable
from secagg_server.ckks_services import Ckks
from tests.ckks_deployment import CkksDeployment
from tests.driving import await_end
from tests.server.test_ckks_refusal import LIAR, approve, honest, lying, send

FINDING: Finding = "no-ciphertext"


def once(deployment: CkksDeployment, then: Callable[..., Any]) -> Callable[..., Any]:
    """A method of the coordinator that answers, the first time, that an honest client sent rubbish."""
    accused = deployment.client_files[0].identity
    left = [Unopenable(f"{accused.title} sent ciphertexts that are none", FINDING, accused.fingerprint)]

    def method(service: Ckks, *args: Any) -> Any:
        if left:
            raise left.pop()
        return then(service, *args)

    return method


@pytest.mark.parametrize("asked", ["GetCkksSet", "GetCkksUpload"])
def test_a_coordinator_that_says_so_makes_a_ckks_key_holder_find_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    """Neither for the set nor for an upload of it: it asks again, and opens what it is shown."""
    deployment = CkksDeployment(tmp_path, clients=3)
    monkeypatch.setattr(Ckks, asked, once(deployment, getattr(Ckks, asked)))
    with deployment.serving() as (_, address):
        approve(deployment, address)
        for index in range(3):
            send(deployment, address, index, honest(deployment, index))
        served = threading.Thread(target=deployment.serve_key, args=(address,))
        served.start()
        await_end(served)
    log = [json.loads(line) for line in (tmp_path / "holder" / "events.jsonl").read_text().splitlines()]
    assert "unopenable" not in {entry["event"] for entry in log}
    assert "is not its to say" in next(entry["reason"] for entry in log if entry["event"] == "waiting")
    assert deployment.holder().refusal(deployment.descriptor) is None
    assert (tmp_path / "release" / "release.json").exists()


def test_what_a_ckks_key_holder_finds_itself_is_logged_and_said(tmp_path: Path) -> None:
    deployment = CkksDeployment(tmp_path, clients=3)
    with deployment.serving() as (_, address):
        approve(deployment, address)
        for index in range(3):
            send(deployment, address, index, (lying if index == LIAR else honest)(deployment, index))
        with pytest.raises(OpeningError):
            deployment.serve_key(address)
    log = [json.loads(line) for line in (tmp_path / "holder" / "events.jsonl").read_text().splitlines()]
    assert [entry["event"] for entry in log].count("unopenable") == 1
    assert deployment.holder().refusal(deployment.descriptor) is not None
