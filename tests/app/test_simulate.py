"""`secagg simulate`: repeatable cells, sweeps that go on, a table in the end."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from click.testing import CliRunner

from secagg.client_noise.setting import ClientNoise
from secagg.errors import ConfigError, EncodingError, ParameterError, StorageError
from secagg_app.main import cli
from secagg_app.simulate import sweep as sweep_module
from secagg_app.simulate.cell import Cell
from secagg_app.simulate.federation import run_cell
from secagg_app.simulate.settings import Data, Grid, Simulation
from secagg_app.simulate.sweep import Sweep, run_sweep
from tests.tiny import LABELS, sentences


@pytest.fixture
def simulation(tiny_bert_dir: Path, tmp_path: Path) -> Simulation:
    texts, labels = sentences(400)
    lines = [json.dumps({"text": t, "label": LABELS[label]}) for t, label in zip(texts, labels, strict=True)]
    (tmp_path / "data.jsonl").write_text("\n".join(lines))
    return Simulation(
        model=str(tiny_bert_dir),
        data=Data(source=str(tmp_path / "data.jsonl"), size=60, held_out=80, tuning=0),
        plan={
            "training": {"steps": 6, "batch_size": 20, "learning_rate": 0.05, "precision": "fp32"},
            "lora_clip": 1.0,
        },
        grid=Grid(arms=("start", "federated"), rounds=(1, 3)),
    )


def cell(**changes: Any) -> Cell:
    values: dict[str, Any] = {
        "arm": "federated", "seed": 1, "rounds": 1, "clients": 3, "alpha": 3.0, "epsilon": 8.0, "method": "ffa-lora",
        "learning_rate": 1.0,
    }  # fmt: skip
    return Cell(**{**values, **changes})


def test_a_cell_repeats_to_the_last_bit(simulation: Simulation) -> None:
    first, second = (run_cell(cell(rounds=2), simulation) for _ in range(2))
    assert (first.metrics, first.curve) == (second.metrics, second.curve)
    assert run_cell(cell(rounds=2, seed=2), simulation).metrics != first.metrics
    assert len(first.curve) == 2
    assert first.bytes_up > 2 * 60_000


def test_the_sealed_sum_is_the_plain_sum_within_the_quantiser(simulation: Simulation) -> None:
    sealed = run_cell(cell(), simulation)
    plain = run_cell(cell(), simulation.model_copy(update={"sealed": False}))
    assert sealed.metrics["loss"] == pytest.approx(plain.metrics["loss"], abs=1e-3)
    assert sealed.bytes_up == plain.bytes_up


def test_noise_for_whole_clients(simulation: Simulation, capfd: pytest.CaptureFixture[str]) -> None:
    noise = ClientNoise(clip=50.0, noise_multiplier=1.0, delta=1e-6, accept_noise_over_signal=True)
    noisy = simulation.model_copy(update={"client_noise": noise})
    sealed, plain = run_cell(cell(), noisy), run_cell(cell(), noisy.model_copy(update={"sealed": False}))
    assert sealed.details["client_epsilon"] == plain.details["client_epsilon"] == pytest.approx(5.22, abs=0.01)
    assert sealed.details["noise_over_signal"] > 1
    assert sealed.metrics != run_cell(cell(), simulation).metrics
    assert "times the largest signal in a mean of 3 clients" in capfd.readouterr().err
    assert run_cell(cell(rounds=2), noisy).details["client_epsilon"] > 7
    refused = noisy.model_copy(update={"client_noise": noise.model_copy(update={"accept_noise_over_signal": False})})
    with pytest.raises(ParameterError, match="mostly noise"):
        run_cell(cell(), refused)


def test_every_arm_has_its_figures(simulation: Simulation) -> None:
    local = run_cell(cell(arm="local"), simulation)
    assert set(local.details) == {"client_0", "client_1", "client_2"}
    assert local.value == pytest.approx(sum(local.details.values()) / 3)
    assert local.bytes_up == 0
    start = run_cell(cell(arm="start").canonical(), simulation)
    assert start.value == start.start
    assert start.sigma == 0
    assert run_cell(cell(arm="centralised", epsilon=0.0), simulation).value > start.value


def test_other_encodings_and_their_rounds(simulation: Simulation) -> None:
    assert run_cell(cell(method="fed-sb"), simulation).bytes_down < run_cell(cell(), simulation).bytes_down
    assert len(run_cell(cell(method="ties", rounds=2), simulation).curve) == 2
    with pytest.raises(EncodingError, match="fed-sb releases another adapter than clients train"):
        run_cell(cell(method="fed-sb", rounds=2), simulation)


def test_cells_that_differ_in_nothing_are_one(simulation: Simulation) -> None:
    cells = simulation.model_copy(update={"grid": Grid(arms=("start", "local"), rounds=(1, 3), epsilon=(8.0, 3.0))})
    assert [one.arm for one in cells.cells()] == ["start", "local", "local"]


def test_a_sweep_goes_on_where_it_was(simulation: Simulation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = Sweep(simulation, tmp_path / "out")
    first, *rest = simulation.cells()
    ran = list[Cell]()

    def here(_function: Any, jobs: list[tuple[Cell, str]], _workers: int, _ray: str | None) -> Any:
        for job in jobs:
            one = job[0]
            ran.append(one)
            yield job, {**asdict(one), "value": 0.5, "start": 0.4, "seconds": 1.0, "measure": "accuracy", "size": 60}

    monkeypatch.setattr(sweep_module, "spread", here)
    with sweep.locked():
        sweep.keep(first, {**asdict(first), "value": 0.4, "extra": 1})
        assert run_sweep(sweep, 1, lambda _: None) == []
        with pytest.raises(StorageError, match="in use by another run"), Sweep(simulation, tmp_path / "out").locked():
            pass
    assert ran == rest
    table = pyarrow.parquet.read_table(sweep.write_table()).to_pylist()
    assert [row["value"] for row in table] == [0.4, 0.5, 0.5]
    assert [row["extra"] for row in table] == [1, None, None]
    other = Sweep(simulation.model_copy(update={"sealed": False}), tmp_path / "out")
    assert other.missing() == list(simulation.cells()), "another simulation has results of its own"


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b"{}", b'{"arm": "start", "value": "x"}'])
def test_a_damaged_result_is_named(simulation: Simulation, tmp_path: Path, content: bytes) -> None:
    sweep = Sweep(simulation, tmp_path)
    first, second, *_ = simulation.cells()
    sweep.keep(first, {**asdict(first), "value": 0.4})
    sweep.path(second).write_bytes(content)
    with pytest.raises(StorageError, match=rf"{sweep.path(second).name}: is damaged. Delete it"):
        sweep.rows()
    sweep.path(second).write_bytes(sweep.path(first).read_bytes())
    with pytest.raises(StorageError, match="holds the result of another cell"):
        sweep.rows()


def test_other_data_under_the_same_name_are_another_setting(simulation: Simulation, tmp_path: Path) -> None:
    file, model = tmp_path / "own.jsonl", tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    file.write_text("{}\n")
    own = simulation.model_copy(update={"data": Data(source=str(file)), "model": str(model)})
    first = own.cells()[0]
    names = [Sweep(own, tmp_path).path(first)]
    file.write_text("{} \n")
    names.append(Sweep(own, tmp_path).path(first))
    (model / "config.json").write_text("[]")
    names.append(Sweep(own, tmp_path).path(first))
    assert len(set(names)) == 3


def test_the_command_runs_a_grid_and_says_what_was_refused(simulation: Simulation, tmp_path: Path) -> None:
    plain = f"""
model = "{simulation.model}"
sealed = false
[data]
source = "{simulation.data.source}"
size = 60
held_out = 80
tuning = 0
[plan]
lora_clip = 1.0
[plan.training]
steps = 3
batch_size = 20
[grid]
arms = ["start", "federated"]
rounds = [1, 2]
clients = [3]
"""
    (tmp_path / "grid.toml").write_text(plain)
    run = CliRunner().invoke(
        cli, ["simulate", str(tmp_path / "grid.toml"), "--out", str(tmp_path / "out"), "--workers", "1"]
    )
    assert run.exit_code == 1
    assert "1 cells were refused" in run.output + run.stderr
    assert "3 steps cannot be shared by 2 rounds" in run.output + run.stderr
    rows = pyarrow.parquet.read_table(tmp_path / "out" / "results.parquet").to_pylist()
    assert [row["arm"] for row in rows] == ["start", "federated"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[grid]\nrounds = [0]", "at least one round"),
        ("[grid]\nclients = [2]", "three clients"),
        ("[grid]\nepsilon = [-1.0]", "not below 0"),
        ("[gird]", "gird: there is no such setting"),
        ("model = [", "is not TOML"),
        ('[plan.training]\nunit = "user"\nrecords_per_user = 3', "unit: simulated records are nobody's"),
    ],
)
def test_a_file_that_is_wrong_says_where(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        Simulation.read(path)
