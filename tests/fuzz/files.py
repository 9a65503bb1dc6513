"""Files that a party reads: plan, policy, anchors (protocol.md §2.1, §4.4)."""

import base64
import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np

from secagg.adapter import start_tensors
from secagg.encodings.registry import encoding_of
from secagg.parameters import choose
from secagg.plan import Plan
from secagg.policy import Anchors, Policy, adapter_schema_hash
from secagg.signing import parse_model
from secagg_host.config import load_toml
from tests.fuzz.mutate import frame, parts_of
from tests.fuzz.target import Target, text
from tests.vectors.replay import descriptor, policy, published

LARGEST_START = 1 << 16


# -- files: plan, policy, anchors ------------------------------------------------------------------------------


def plan_seeds() -> list[bytes]:
    """The plan of the session, and others."""
    plan = published()["session"]["descriptor"]["statement"]["plan"]
    tensor = plan["tensors"][1] | {"shape": [2, 2]}
    data = base64.b64encode(np.ones(4, dtype="<f4").tobytes()).decode()
    embedded = tensor | {"name": "c", "init": {"kind": "embedded", "bound": 0.0, "data": data}}
    pair = [
        {
            "name": "base_model.model.q.lora_A.weight",
            "shape": [2, 4],
            "init": {"kind": "seeded", "bound": 0.5},
            "clip": 0.1,
        },
        {"name": "base_model.model.q.lora_B.weight", "shape": [4, 2], "init": {"kind": "zeros"}, "clip": 0.1},
    ]
    others = [{**plan, "tensors": [*plan["tensors"], embedded]}]
    methods = ("ffa-lora", "fedit", "task-arithmetic", "dare", "ties", "sketch", "flexlora", "fedex", "fed-sb", "flora")
    others += [
        {**plan, "method": method, "tensors": pair, "adapter_config": {"r": 2, "lora_alpha": 4}} for method in methods
    ]
    others.append({**plan, "method": "dare", "options": {"drop": 0.5, "scale": 1.0}})
    return [frame([text(one)]) for one in (plan, *others)]


def run_plan(data: bytes) -> object:
    """A plan file: its layout, and its start values when they are few."""
    plan = parse_model(Plan, parts_of(data, 1)[0])
    encoding = encoding_of(plan)
    encoding.check_session(plan, bits=16, weights=[1.0, 0.5, 1.0])
    layout = encoding.layout(plan)
    adapter_schema_hash(plan)
    if sum(spec.size for spec in plan.tensors) <= LARGEST_START:
        start_tensors(plan)
    return choose(16, 10, layout.length)


class InMemory(type(Path())):  # type: ignore[misc]
    """A file that is not on disk."""

    content = b""

    def read_text(self, *_: object, **__: object) -> str:
        """Its text."""
        return self.content.decode("utf-8")


def toml(value: dict[str, Any]) -> bytes:
    """Flat values and one table each for the mappings."""
    flat = [f"{key} = {json.dumps(one)}" for key, one in value.items() if not isinstance(one, dict)]
    for key, one in value.items():
        if isinstance(one, dict):
            flat += [f"[{key}]", *(f"{json.dumps(inner)} = {json.dumps(text_)}" for inner, text_ in one.items())]
    return "\n".join(flat).encode() + b"\n"


def policy_seeds() -> list[bytes]:
    """A policy, and the anchors in it."""
    whole = policy().model_dump(mode="json")
    anchors = {key: value for key, value in whole.items() if key in Anchors.model_fields}
    assert tomllib.loads(toml(whole).decode()) == whole
    return [frame([b"\0", toml(whole)]), frame([b"\1", toml(anchors)])]


def run_policy(data: bytes) -> None:
    """A policy or anchors file, and the session under it."""
    kind, raw = parts_of(data, 2)
    path = InMemory("policy.toml")
    path.content = raw
    model: type[Any] = Anchors if kind[:1] == b"\1" else Policy
    found = load_toml(path, model)
    if isinstance(found, Policy):
        found.check(descriptor())
    else:
        found.check_parties(descriptor())


TARGETS: tuple[Target, ...] = (
    Target("plan", plan_seeds, run_plan),
    Target("policy", policy_seeds, run_policy),
)
