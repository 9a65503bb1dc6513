"""The model card of a release: what it is, its guarantee, and how it is loaded (protocol.md §10.2)."""

import json

from secagg.certificate import ADAPTER, Certificate
from secagg.plan import Plan

PIPELINES = {
    "classify": "text-classification", "lm": "text-generation", "chat": "text-generation",
    "image": "image-classification", "chars": "text-generation",
}  # fmt: skip
"""What model hubs call a kind of task; others have no name there."""
MARKUP = frozenset("\\`*_[]<>&~#")
"""What Markdown and HTML begin with, inside a line or at its start."""


def model_card(
    certificate: Certificate, how: str = "under encryption in one round", audit: str = "", checked: str = ""
) -> bytes:
    """`README.md`, a model card with the front matter that model hubs read.

    `how` the updates were summed, what was reserved for an `audit`, and what the parties `checked` while they summed,
    are put into words by the caller. What the coordinator has put into words is one line each, and plain text, so that
    no section of the card is its own (§10.1a).
    """
    plan = certificate.plan
    pipeline = PIPELINES.get(plan.task.kind)
    what = f"A LoRA adapter ({plan.method})" if plan.adapter_config.get("peft_type") == "LORA" else "Trained weights"
    lines = [
        "---",
        f"base_model: {json.dumps(plan.base_model)}",
        "library_name: peft",
        *([f"pipeline_tag: {pipeline}"] if pipeline else []),
        "tags: [lora, federated-learning, differential-privacy, secure-aggregation]",
        "---",
        "",
        "# A jointly trained adapter",
        "",
        f"{what} for `{plan.base_model}` ({plain(plan.architecture)}), from the updates of "
        f"{len(certificate.members)} institutions, summed {how}.",
        "",
        "## Privacy",
        "",
        certificate.privacy_note,
        "",
        certificate.trust_note,
        "",
        *([f"Reserved for an audit: {audit}.", ""] if audit else []),
        "## Use",
        "",
        "```python",
        *usage_lines(plan),
        "```",
        "",
        "## Check",
        "",
        "`release.json` is the signed certificate. `secagg verify FOLDER --trust ANCHORS.toml` checks it offline, "
        "against anchors that you have from the parties themselves.",
        "",
        *([f"{checked}.", ""] if checked else []),
    ]
    if certificate.evaluation is not None:
        lines += ["## Quality", "", f"> {plain(certificate.evaluation.description)}", ""]
        lines += [f"- {plain(metric.name)}: {metric.value:.4g}" for metric in certificate.evaluation.metrics]
        lines.append("")
    return "\n".join(lines).encode()


def plain(text: str) -> str:
    """One line of text as it is: nothing in it is markup."""
    return "".join(f"\\{one}" if one in MARKUP else one for one in text)


def usage_lines(plan: Plan) -> list[str]:
    """Python lines that load the adapter; BASE and FOLDER are for the reader to fill in."""
    if plan.task.kind in {"lm", "chat"}:
        load = ["from transformers import AutoModelForCausalLM", "base = AutoModelForCausalLM.from_pretrained(BASE)"]
    elif plan.task.kind == "classify" and plan.task.pooling == "mean":
        load = [
            "from secagg_client.classifier import load_classifier",
            f"base = load_classifier(BASE, {len(plan.task.labels)}, feature_norm={plan.task.feature_norm!r})",
        ]
    elif plan.task.kind == "classify":
        load = [
            "from transformers import AutoModelForSequenceClassification",
            f"base = AutoModelForSequenceClassification.from_pretrained(BASE, num_labels={len(plan.task.labels)})",
        ]
    else:
        load = [
            "from secagg.plan import TaskSpec",
            "from secagg_client.models import load_base",
            f"task = TaskSpec.model_validate_json({plan.task.model_dump_json()!r})",
            "base = load_base(BASE, task).model",
        ]
    if plan.adapter_config.get("peft_type") == "LORA":
        return [*load, "from peft import PeftModel", "model = PeftModel.from_pretrained(base, FOLDER)"]
    return [
        *load,
        "from safetensors.torch import load_file",
        f'tensors = load_file(f"{{FOLDER}}/{ADAPTER}")',
        "for name, parameter in base.named_parameters():",
        '    parameter.data.copy_(tensors[f"base_model.model.{name}"])',
        "model = base",
    ]
