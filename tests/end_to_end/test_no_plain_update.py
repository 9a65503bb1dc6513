"""No deployed command writes or sends a plain update (protocol.md §2.6, docs/threat-model.md).

The noise is seeded here, so the test can train the very same updates itself and then look for them: in everything that
the parties' commands left on disk, the server's stored uploads (all that was ever sent) among it.
"""

import importlib
import mmap
from pathlib import Path

import numpy as np
import pytest
from click import Command, Group
from numpy.typing import NDArray
from safetensors.numpy import load_file

from secagg.adapter import flatten, start_tensors
from secagg.plan import Plan
from secagg.signing import parse_model
from secagg_app.main import COMMANDS
from secagg_client.data import DataConfig, load_examples
from secagg_client.models import load_base
from secagg_client.noise import SeededSource
from secagg_client.training import train
from tests.client.test_local_training import write_data
from tests.study import Study, secagg, toml
from tests.tiny import LABELS, make_bert

SEED = 11
RECORDS = 60
WINDOW = 6  # consecutive float32 values: 24 bytes, no chance hits
Update = NDArray[np.float32]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A session of three institutions, run to its release by the commands that a user types."""
    root = tmp_path_factory.mktemp("study")
    make_bert(root / "model")
    (root / "plan.toml").write_text(
        toml(
            {
                "base_model": str(root / "model"),
                "rank": 4,
                "task": {"kind": "classify", "labels": list(LABELS)},
                "training": {"noise": "seeded", "steps": 5, "batch_size": 16},
            }
        )
    )
    secagg("client", "plan", "--config", root / "plan.toml", "--out", root / "plan.json")
    study = Study(root, plan=parse_model(Plan, (root / "plan.json").read_bytes()))
    study.policy_changes = {"noise": ["seeded"]}
    study.client_settings = {"training": {"seed": SEED}, "declared_size": RECORDS}
    for index, name in enumerate(study.client_names):
        (root / name).mkdir()
        write_data(root / name / "data.jsonl", RECORDS, seed=index)
    study.make()
    with study.running("server", *study.holder_names, *study.client_names) as processes:
        for name in (*study.client_names, *study.holder_names):
            assert processes[name].wait() == 0, processes[name].errors
    return study


@pytest.fixture(scope="module")
def updates(finished: Study) -> list[Update]:
    """What each client trained: the same code, seed and data, in this process."""
    trained = list[Update]()
    for name in finished.client_names:
        base = load_base(str(finished.folder / "model"), finished.plan.task)
        data = load_examples(DataConfig(source=str(finished.folder / name / "data.jsonl")), finished.plan.task)
        trained.append(train(finished.plan, base, data, RECORDS, SeededSource(SEED)).change)
    return trained


def needles(update: Update) -> list[bytes]:
    """Windows of the update as they would stand in a file, in both byte orders and in double precision."""
    starts = [start for start in range(0, len(update) - WINDOW, WINDOW) if np.all(update[start : start + WINDOW] != 0)]
    kinds = ("<f4", ">f4", "<f8")
    return [update[start : start + WINDOW].astype(kind).tobytes() for start in starts for kind in kinds]


def files_with(folder: Path, wanted: list[bytes]) -> list[Path]:
    found = list[Path]()
    for path in folder.rglob("*"):
        if path.is_file() and path.stat().st_size:
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                if any(content.find(needle) >= 0 for needle in wanted):
                    found.append(path)
    return found


def test_the_updates_are_the_ones_that_were_released(finished: Study, updates: list[Update]) -> None:
    """The control of what is looked for: their mean is the released adapter, within the quantiser's step."""
    released = flatten(finished.plan, load_file(finished.folder / "release" / "adapter_model.safetensors"))
    start = flatten(finished.plan, start_tensors(finished.plan))
    step = max(2 * spec.clip / (2**16 - 1) for spec in finished.plan.trained)
    assert np.abs(released - start - np.mean(updates, axis=0)).max() <= step


def test_no_plain_update_is_on_any_disk(finished: Study, updates: list[Update]) -> None:
    for update in updates:
        wanted = needles(update)
        assert len(wanted) > 100, "something to look for"
        assert files_with(finished.folder, wanted) == []


def test_the_search_finds_a_planted_update(finished: Study, updates: list[Update], tmp_path: Path) -> None:
    planted = tmp_path / "deep" / "leak.bin"
    planted.parent.mkdir()
    planted.write_bytes(b"header" + updates[0].tobytes())
    assert files_with(tmp_path, needles(updates[0])) == [planted]


def options(command: Command, name: str) -> list[str]:
    if isinstance(command, Group):
        return [found for sub, inner in command.commands.items() for found in options(inner, f"{name} {sub}")]
    return [f"{name} {option}" for parameter in command.params for option in parameter.opts]


def test_no_command_has_an_option_for_it() -> None:
    found = list[str]()
    for name, entry in COMMANDS.items():
        module, attribute = entry.target.split(":")
        found += options(getattr(importlib.import_module(module), attribute), name)
    assert "client run --config" in found
    assert not [option for option in found if any(word in option for word in ("plain", "update", "delta-out", "dump"))]
