"""How good an adapter is, on data that its holder chooses. Figures stay with whoever asked for them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from secagg.errors import ModelError
from secagg.plan import Plan
from secagg_client.adapted import Adapted, attached, load_vector, untrained
from secagg_client.data import Examples
from secagg_client.models import LoadedBase
from secagg_client.tasks import AnyTask, Metrics, make_task


def score(adapted: Adapted, base: LoadedBase, data: Examples, task: AnyTask | None = None) -> Metrics:
    """Metrics of a model with an adapter in it, in the precision it is loaded in.

    `task` is one of float32 that has kept what does not change of the data, when they are scored again and again.
    """
    task = task or make_task(base.task, base.tokenizer)
    return task.metrics(adapted.model, task.encode(data))


def evaluate_change(
    plan: Plan, base: LoadedBase, change: NDArray[np.float32], data: Examples, task: AnyTask | None = None
) -> Metrics:
    """Metrics of start + change; a `change` of zeros [plan.length] is the starting model.

    Raises ModelError, EncodingError.
    """
    with attached(plan, base) as adapted:
        load_vector(plan, adapted, change)
        return score(adapted, base, data, task)


def read_adapter(folder: Path) -> tuple[dict[str, Any], dict[str, NDArray[np.float32]]]:
    """Config and tensors of a PEFT adapter in a folder.

    Raises:
        ModelError: a file is missing or broken.
    """
    try:
        config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
        tensors = load_file(folder / "adapter_model.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(f"{folder}: not a PEFT adapter: {error}") from error
    if not isinstance(config, dict):
        raise ModelError(f"{folder}/adapter_config.json: not an object")
    return config, tensors


def evaluate_release(folder: Path, base: LoadedBase, data: Examples) -> Metrics:
    """Metrics of a released adapter on `data`. The base must be loaded for the release's task.

    Raises:
        ModelError: the folder holds no adapter, or one that does not fit the base.
    """
    config, tensors = read_adapter(folder)
    return evaluate_adapter(config, tensors, base, data, where=str(folder))


def evaluate_adapter(
    config: Mapping[str, Any],
    tensors: Mapping[str, NDArray[np.float32]],
    base: LoadedBase,
    data: Examples,
    *,
    where: str,
    task: AnyTask | None = None,
) -> Metrics:
    """Metrics of an adapter by its PEFT configuration and tensors; `where` names it, `task` is as for `score`.

    Raises ModelError when it does not fit the base.
    """
    with untrained(base, config) as adapted:
        expected = {name: tuple(parameter.shape) for name, parameter in adapted.parameters.items()}
        actual = {name: tensor.shape for name, tensor in tensors.items()}
        if expected != actual:
            odd = sorted(expected.items() ^ actual.items())[0][0]
            raise ModelError(f"{where}: the adapter does not fit {base.architecture}: {odd}")
        adapted.assign(tensors)
        with torch.no_grad():
            return score(adapted, base, data, task)
