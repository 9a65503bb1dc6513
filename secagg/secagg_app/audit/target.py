"""What `secagg audit release` and `secagg attack` look at: a released run, or any PEFT adapter, and candidates."""

import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from numpy.typing import NDArray

from secagg.certificate import ADAPTER_CONFIG, CERTIFICATE
from secagg.errors import AuditError
from secagg.plan import Plan, TaskSpec
from secagg_app.audit.units import Units
from secagg_attacks.releases import LEAST, ReleasedRun, candidates_of, check_apart
from secagg_attacks.views import FinalModel, Public, Question, View, ViewName
from secagg_client.data import DataConfig, Examples, load_examples
from secagg_client.evaluation import read_adapter
from secagg_client.models import LoadedBase, load_base_for_command
from secagg_client.plan_options import validated
from secagg_client.planning import make_plan

if TYPE_CHECKING:
    from collections.abc import Sequence

ENOUGH = LEAST + LEAST // 4
"""Non-members: a fifth of them is set aside as the population."""
PLAIN_VIEWS = (ViewName.V3,)
RELEASE_VIEWS = (ViewName.V2, ViewName.V3)


@dataclass(frozen=True, slots=True)
class Target:
    """A run to attack. `released` None: a PEFT adapter of which nothing else is known."""

    folder: Path
    public: Public
    released: ReleasedRun | None = field(repr=False)
    adapter: dict[str, Any] = field(repr=False)

    @property
    def plan(self) -> Plan:
        """Of the first round."""
        return self.public.plan

    @property
    def views(self) -> tuple[ViewName, ...]:
        """What can be seen of it."""
        return RELEASE_VIEWS if self.released is not None and not self.without_sums else PLAIN_VIEWS

    @property
    def without_sums(self) -> str:
        """Why v2 is not asked of a release; nothing when it is."""
        if self.released is None:
            return ""
        try:
            self.released.check_sums()
        except AuditError as error:
            return f"v2 is not asked: {error}"
        return ""

    def view(self, name: ViewName, question: Question | None) -> View:
        """Raises AuditError for a view that cannot be had."""
        if self.released is not None:
            return self.released.view(name, self.public, question)
        if name is not ViewName.V3:
            raise AuditError(f"{self.folder} is an adapter alone: only v3, the final model, can be seen of it")
        return FinalModel(self.public, question, self.adapter)

    def examples(self, source: Path) -> Examples:
        """A table of records, as the run's task reads it. Raises DataError."""
        return load_examples(DataConfig(source=str(source)), self.plan.task)

    def candidates(self, source: Path) -> Examples:
        """As `examples`, with whose each record is (column `user`) where the run protects users."""
        by_user = self.released is not None and self.plan.training.unit == "user"
        return load_examples(DataConfig(source=str(source), user_column="user" if by_user else None), self.plan.task)


def task_of(kind: str | None, labels: str | None) -> TaskSpec | None:
    """What an adapter without a certificate does. Raises UsageError."""
    if kind is None:
        return None
    names = tuple(label.strip() for label in labels.split(",")) if labels else ()
    if (kind == "classify") != bool(names):
        raise click.UsageError("--labels goes with --task classify, and only with that")
    return TaskSpec(kind=kind, labels=names, max_length=128)


def target_of(folder: Path, earlier: "Sequence[Path]", base: str | None, task: TaskSpec | None) -> Target:
    """Read what is in `folder`. Raises ModelError with what to do when the base is not at hand; AuditError."""
    if (folder / CERTIFICATE).is_file():
        run = ReleasedRun.read(folder, earlier)
        plan = run.first.plan
        public = run.public(load_base_for_command(base, plan.base_model, plan.task))
        return Target(folder, public, run, dict(run.last.adapter))
    if earlier:
        raise AuditError(f"{folder} has no certificate, so it has no earlier rounds: leave --earlier out")
    if not (folder / ADAPTER_CONFIG).is_file():
        there = "holds neither a release nor a PEFT adapter" if folder.is_dir() else "there is no such folder"
        raise AuditError(f"{folder}: {there} ({CERTIFICATE}, or {ADAPTER_CONFIG} with its weights)")
    if task is None:
        raise AuditError(
            f"{folder} is a PEFT adapter without a certificate: say what it does with --task, and --labels for classes"
        )
    config, tensors = read_adapter(folder)
    poolings = ("model", "mean") if task.kind == "classify" else ("model",)
    for pooling in poolings:  # which of them it was trained under shows in the tensors' names
        spec = task.model_copy(update={"pooling": pooling})
        loaded = load_base_for_command(base, str(config.get("base_model_name_or_path")), spec)
        plan = _plan_like(config, spec, loaded)
        if {each.name: each.shape for each in plan.tensors} == {name: t.shape for name, t in tensors.items()}:
            if broken := [name for name, values in tensors.items() if not np.isfinite(values).all()]:
                raise AuditError(f"{folder}: tensor {broken[0]} holds values that are no finite numbers")
            return Target(folder, Public(plan, loaded, 1, 1, 1), None, dict(tensors))
    raise AuditError(f"{folder}: its tensors are not those of LoRA on {loaded.architecture} for task {task.kind}")


def _plan_like(config: dict[str, Any], task: TaskSpec, base: LoadedBase) -> Plan:
    """A plan whose adapter has the tensors of a foreign one. Only its shapes matter here."""
    targets = config.get("target_modules")
    if config.get("peft_type") != "LORA" or not isinstance(targets, list):
        raise AuditError("the adapter is not LoRA with a list of target modules: other kinds cannot be attacked yet")
    if not isinstance(config.get("r"), int) or not isinstance(config.get("lora_alpha"), int | float):
        raise AuditError("adapter_config.json lacks r or lora_alpha: it is none that PEFT wrote")
    layers = config.get("layers_to_transform")
    plain = {
        "base_model": str(config.get("base_model_name_or_path")), "method": "fedit", "rank": config["r"],
        "alpha": config["lora_alpha"], "target_modules": targets, "lora_clip": 1.0,
        "layers": [layers] if isinstance(layers, int) else layers, "task": task.model_dump(exclude_defaults=True),
        "training": {
            "steps": 1, "batch_size": 1, "learning_rate": 1.0, "optimizer": "sgd", "max_grad_norm": 1.0, "delta": 1e-5,
            "epsilon": 1.0,
        },
    }  # fmt: skip
    return make_plan(validated({k: v for k, v in plain.items() if v is not None}, "the adapter"), base)


def _check_alike(members: Examples, nonmembers: Examples) -> None:
    """Raise AuditError for records that are one but for case, white space or the way that letters are composed.

    Not of records that coins dealt: there two such are two.
    """
    both = set(map(_folded, members.texts)) & set(map(_folded, nonmembers.texts))
    if both:
        raise AuditError(
            f"{len(both)} records are among members and non-members, but for case or white space: remove them from one "
            f"of {members.source} and {nonmembers.source}"
        )


def _folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


@dataclass(frozen=True, slots=True)
class Asked:
    """Candidates in a random order, and the truth, which no attack is given. Figures are over `units`.

    `by_coin`: members and others were drawn by the coins that the run's session reserved.
    """

    question: Question
    is_in: NDArray[np.bool_] = field(repr=False)
    by_coin: bool

    @property
    def units(self) -> Units:
        """What the coins were tossed for."""
        return Units.of(self.question.candidates)


def asked(target: Target, members: Path, nonmembers: Path) -> Asked:
    """Read both tables. The last fifth of the non-members, which is asked of nobody, is the population.

    Raises DataError; AuditError for overlap, too few, and records that a draw's coins did not put there.
    """
    inside, outside = target.candidates(members), target.candidates(nonmembers)
    check_apart(inside, outside)  # both in full: what is wrong with them is said before they are cut
    drawn = target.released is not None and target.released.drawn_by_coin(members, nonmembers, inside, outside)
    if not drawn:
        _check_alike(inside, outside)
    owners = Units.of(outside)
    cut = owners.count - owners.count // 5
    for table, count, enough in ((members, Units.of(inside).count, LEAST), (nonmembers, owners.count, ENOUGH)):
        if count < enough:
            raise AuditError(f"{table}: holds {count} different ones, which is too few: {enough} are needed")
    candidates, is_in = candidates_of(inside, outside.select(np.flatnonzero(owners.index < cut).tolist()))
    population = outside.select(np.flatnonzero(owners.index >= cut).tolist())
    return Asked(Question(candidates, population), is_in, drawn)
