"""Tasks of `lm-eval` on a language model with a released adapter, from local task files: no hub is asked.

lm-eval is Gao et al., "The Language Model Evaluation Harness" (2024); it comes with the extra `eval`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from secagg.errors import ConfigError
from secagg.plan import Plan
from secagg_client.adapted import untrained
from secagg_client.evaluation import read_adapter
from secagg_client.models import LoadedBase

Scores = dict[str, dict[str, float]]


def release_scores(folder: Path, plan: Plan, base: LoadedBase, files: Sequence[Path]) -> tuple[Scores, Scores]:
    """What lm-eval says of the starting model and of the release, by task and measure.

    Raises:
        ConfigError: lm-eval is not installed, the plan's model is no causal language model, or a file is no task.
        ModelError: the release does not fit the base.
    """
    if plan.adapter_config.get("task_type") != "CAUSAL_LM":
        raise ConfigError(f"lm-eval is for causal language models; the release is one of task {plan.task.kind}")
    tasks = [read_task(path) for path in files]
    config, tensors = read_adapter(folder)
    with untrained(base, config) as adapted:
        start = _scores(adapted.model, base.tokenizer, tasks)
        adapted.assign(tensors)
        return start, _scores(adapted.model, base.tokenizer, tasks)


def read_task(path: Path) -> dict[str, Any]:
    """A task in lm-eval's YAML; data files are relative to it. Raises ConfigError; tags that run code are refused."""
    try:
        task = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not plain YAML, which task files must be (no !function, no include)") from error
    if not isinstance(task, dict) or not isinstance(task.get("task"), str):
        raise ConfigError(f"{path}: is no lm-eval task: it needs at least task, dataset_path and doc_to_text")
    options = dict(task.get("dataset_kwargs") or {})
    if isinstance(options.get("data_files"), dict):
        files = options["data_files"]
        options["data_files"] = {split: str(path.resolve().parent / name) for split, name in files.items()}
        task["dataset_kwargs"] = options
    return task


def _scores(model: nn.Module, tokenizer: Any, tasks: Sequence[dict[str, Any]]) -> Scores:
    try:
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
    except ImportError as error:
        raise ConfigError("lm-eval is not installed: install secagg's wheel again, with its extra [eval]") from error
    harness = HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=8)
    found = simple_evaluate(model=harness, tasks=[dict(task) for task in tasks], log_samples=False, bootstrap_iters=0)
    return {task: _measures(scores) for task, scores in found["results"].items()}


def _measures(scores: dict[str, object]) -> dict[str, float]:
    """Figures alone, without lm-eval's mark for "no filter"."""
    return {
        name.removesuffix(",none"): float(value)
        for name, value in sorted(scores.items())
        if isinstance(value, int | float) and "stderr" not in name and name != "sample_len"
    }
