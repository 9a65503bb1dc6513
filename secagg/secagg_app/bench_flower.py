"""Flower's SecAgg+ primitives beside ours: run in an environment of their own, since its packages are not ours."""

import json
import os
import subprocess
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secagg.errors import ProcessFailed
from secagg_app.bench_masked import GRAPHS, graph_of

PACKAGE = "flwr"


@dataclass(frozen=True, slots=True)
class FlowerCost:
    """Medians in ms, on one thread: Flower's functions have no other. `per_million` times are scaled from `params`."""

    version: str
    params: int
    own_mask_ms: float
    neighbour_ms: float
    add_ms: float
    unmask_ms_per_mask: float
    bytes_per_param: float
    mean_error: float
    graphs: tuple[dict[str, float], ...]

    def to_json(self) -> dict[str, Any]:
        """Headline figures, per million values."""
        scale = 1e6 / self.params
        figures: dict[str, Any] = {
            "flower_version": self.version,
            "flower_own_mask_ms_per_million": self.own_mask_ms * scale,
            "flower_ms_per_million_per_neighbour": self.neighbour_ms * scale,
            "flower_add_ms_per_million": self.add_ms * scale,
            "flower_bytes_per_param": self.bytes_per_param,
        }
        for graph in self.graphs:
            figures[f"flower_mask_ms_{graph['clients']}_clients"] = graph["mask_ms"]
            figures[f"flower_setup_ms_{graph['clients']}_clients"] = graph["setup_ms"]
        return figures


def make_environment(folder: Path) -> Path:
    """A virtual environment with Flower in `folder`, made with venv and pip unless it is there; returns its Python.

    Raises ProcessFailed when pip fails.
    """
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    done = subprocess.run(
        [str(python), "-m", "pip", "install", "--quiet", PACKAGE], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ProcessFailed(f"pip install {PACKAGE} failed: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    return python


def measure_flower(python: Path, params: int, clip: float, bits: int, seed: int, repeats: int) -> FlowerCost:
    """Time Flower's primitives on the first client's vector, at as many neighbours as our graphs have.

    Raises ProcessFailed when that Python has no Flower, or a Flower without these functions.
    """
    graphs = [
        {"clients": size, "neighbours": graph_of(size).holders, "threshold": graph_of(size).threshold}
        for size in GRAPHS
    ]
    request = {"params": params, "clip": clip, "levels": (1 << bits) - 1, "seed": seed, "repeats": repeats}
    done = subprocess.run(
        [str(python), str(Path(__file__).with_name("bench_flower_worker.py"))],
        input=json.dumps(request | {"graphs": graphs}),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": "", "FLWR_TELEMETRY_ENABLED": "0"},
    )
    if done.returncode:
        raise ProcessFailed(
            f"{python} cannot run Flower's primitives: {(done.stderr.strip().splitlines() or ['?'])[-1]}"
        )
    found = json.loads(done.stdout)
    return FlowerCost(
        version=found["version"],
        params=params,
        own_mask_ms=found["own_mask_ms"],
        neighbour_ms=found["neighbour_ms"],
        add_ms=found["add_ms"],
        unmask_ms_per_mask=found["unmask_ms_per_mask"],
        bytes_per_param=found["bytes_per_param"],
        mean_error=found["mean_error"],
        graphs=tuple(found["graphs"]),
    )
