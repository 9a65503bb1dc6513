"""The release: an adapter in PEFT's format, what proves it, and the signed certificate (protocol.md §10)."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from safetensors.numpy import load, save

from secagg.accumulate import Accumulator
from secagg.canonical import pretty_bytes
from secagg.coordinator import OpenedSum, Settlement, mean_change
from secagg.descriptor import Descriptor, SignedDescriptor
from secagg.encodings.registry import encoding_of
from secagg.errors import MalformedError
from secagg.messages import (
    Seconds,
    SignedCandidate,
    SignedEndorsement,
    SignedFinalSet,
    SignedShareSum,
    SignedUpload,
)
from secagg.plan import Frozen, Hash, Plan
from secagg.privacy import guarantee_in_words
from secagg.rounds import check_start, resumed
from secagg.sets import complaints_by_client
from secagg.signing import Signed, Signer, Statement

ADAPTER = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
MODEL_CARD = "README.md"
REPORT = "report.html"
OPENING = "opening.safetensors"
CERTIFICATE = "release.json"
PIPELINES = {
    "classify": "text-classification", "lm": "text-generation", "chat": "text-generation",
    "image": "image-classification", "chars": "text-generation",
}  # fmt: skip
"""What model hubs call a kind of task; others have no name there."""
START = "start.safetensors"
"""The adapter that the round before released, in the release of a later round."""
FILES = (ADAPTER, ADAPTER_CONFIG, MODEL_CARD, REPORT, OPENING)

Short = Annotated[str, Field(min_length=1, max_length=300)]


class TimelineEvent(Frozen):
    """Who did what when, as the coordinator saw it. Holds no figure about data."""

    at: Seconds
    party: Short
    event: Short


class Excluded(Frozen):
    """A roster member that is not in the release, and why."""

    client: Hash
    title: Short
    reason: Short


class Metric(Frozen):
    """One figure on held-out data, with an interval (`low` to `high`) where one was computed.

    `kind` says whose it is: the released adapter's, a baseline's, one client's alone, or that of a run in memory.
    """

    name: Short
    value: float
    low: float | None = None
    high: float | None = None
    kind: Literal["released", "baseline", "local", "simulation"] = "released"


class ExposureCheck(Frozen):
    """A membership attack on the released adapter, with members and others that are public: a demonstration.

    `area` is that under the ROC, of half of the records, with a 95% interval; `attack` was chosen on the other half.
    `blind_p` is how likely a guess from the texts alone would do as well as it does; `reading` is the conclusion.
    """

    attack: Short
    members: int = Field(ge=1)
    others: int = Field(ge=1)
    area: float = Field(ge=0, le=1)
    low: float
    high: float
    blind_p: float = Field(ge=0, le=1)
    reading: Annotated[str, Field(max_length=1000)]


class Evaluation(Frozen):
    """Quality of the released adapter on data whose holder declares it public (protocol.md §10.2).

    `measure` is what every metric is a value of (accuracy, perplexity); `examples` counts the data; `verdict` is the
    conclusion in words.
    """

    data_sha256: Hash
    data_is_public: Literal[True]
    description: Annotated[str, Field(min_length=1, max_length=1000)]
    measure: Short = "score"
    higher_is_better: bool = True
    examples: int | None = Field(default=None, ge=1)
    verdict: Annotated[str, Field(max_length=1000)] = ""
    metrics: tuple[Metric, ...] = Field(min_length=1, max_length=100)
    exposure: ExposureCheck | None = Field(default=None, exclude_if=lambda check: check is None)


class ReleaseCertificate(Statement):
    """All that the coordinator states about a release; every part is checked again by `secagg verify`."""

    version: Literal[1] = 1
    session: SignedDescriptor
    ctx: Hash
    uploads: tuple[SignedUpload, ...]
    excluded: tuple[Excluded, ...]
    candidate: SignedCandidate
    candidate_endorsements: tuple[SignedEndorsement, ...]
    final: SignedFinalSet
    final_endorsements: tuple[SignedEndorsement, ...]
    share_sums: tuple[SignedShareSum, ...]
    degree_check: Literal["unchecked"] = "unchecked"
    committee_note: Short
    security_bits: int
    security_note: Annotated[str, Field(max_length=1000)]
    error_max: int
    error_bound: int
    privacy_note: Annotated[str, Field(max_length=2000)]
    timeline: tuple[TimelineEvent, ...]
    software: dict[str, str]
    files: dict[str, Hash]
    evaluation: Evaluation | None = None
    released_at: Seconds

    @classmethod
    def purpose(cls) -> str:
        """Domain of the signature."""
        return "release"


SignedRelease = Signed[ReleaseCertificate]


@dataclass(frozen=True, slots=True)
class ReleaseParts:
    """What the coordinator has when the sum is open."""

    session: SignedDescriptor
    uploads: tuple[SignedUpload, ...]
    candidate: SignedCandidate
    settlement: Settlement
    final_endorsements: tuple[SignedEndorsement, ...]
    opened: OpenedSum
    total: Accumulator
    start: bytes | None
    timeline: tuple[TimelineEvent, ...]
    released_at: int


def adapter_file(descriptor: Descriptor, parts: ReleaseParts) -> bytes:
    """`adapter_model.safetensors`: what the plan's encoding makes of the mean vector, float32, by PEFT key."""
    final = parts.settlement.final.statement
    plan = plan_of(descriptor, parts.start)
    return save_adapter(plan, mean_change(descriptor, final, parts.opened.opening), len(final.members))


def names(descriptor: Descriptor) -> tuple[str, ...]:
    """The files of a release of this session, but for the certificate."""
    return FILES if descriptor.previous is None else (*FILES, START)


def plan_of(descriptor: Descriptor, start: bytes | None) -> Plan:
    """The plan as this round sees it; `start`: the adapter of the round before. Raises HashMismatch, EncodingError."""
    check_start(descriptor, start)
    return descriptor.plan if start is None else resumed(descriptor.plan, load_tensors(start, START))


def save_adapter(plan: Plan, mean: NDArray[np.float32], contributors: int) -> bytes:
    """Decode and serialise; the bytes depend on nothing but the plan, the mean vector [L] and how many made it."""
    decoded = encoding_of(plan).decode(plan, mean, contributors)
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in decoded.items()}
    return save(tensors, metadata={"format": "pt"})


def opening_file(parts: ReleaseParts) -> bytes:
    """`opening.safetensors`: ciphertext_sum uint8 [blocks, block_bytes], key_sum int64 [N], share_<index> uint8."""
    tensors: dict[str, NDArray[Any]] = {
        "ciphertext_sum": np.stack([np.frombuffer(block, np.uint8) for block in parts.total.blocks()]),
        "key_sum": parts.opened.key_sum.astype(np.int64),
    }
    for share in parts.opened.used:
        index = share.signed.statement.index
        tensors[f"share_{index:03d}"] = np.frombuffer(share.share, np.uint8)
    return save(tensors)


def load_tensors(raw: bytes, name: str) -> dict[str, NDArray[Any]]:
    """Parse a safetensors file from outside. Raises MalformedError."""
    try:
        return load(raw)
    except Exception as error:
        raise MalformedError(f"{name} is not a safetensors file: {type(error).__name__}") from error


def adapter_config_file(plan: Plan) -> bytes:
    """`adapter_config.json`: the plan's, at the rank that its encoding releases."""
    config = encoding_of(plan).adapter_config(plan)
    return json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def excluded_members(descriptor: Descriptor, parts: ReleaseParts) -> tuple[Excluded, ...]:
    """Every roster member that is not in U, with the reason."""
    final = {member.client for member in parts.settlement.final.statement.members}
    uploaded = {upload.statement.client for upload in parts.uploads}
    accused = complaints_by_client(answer.statement for answer in parts.settlement.answers)
    reasons = list[Excluded]()
    for fingerprint, identity in sorted(descriptor.clients.items()):
        if fingerprint in final:
            continue
        if fingerprint in accused:
            why = ", ".join(
                f"{descriptor.holder(holder)[1].title}: {reason}" for holder, reason in accused[fingerprint].items()
            )
            reason = f"complaints of key-holders ({why})"
        elif fingerprint in uploaded:
            reason = "uploaded after the set was fixed"
        else:
            reason = "no upload before the set was fixed"
        reasons.append(Excluded(client=fingerprint, title=identity.title, reason=reason[:300]))
    return tuple(reasons)


def committee_note(descriptor: Descriptor) -> str:
    """What the committee's size assumes, in words."""
    m, t, f = len(descriptor.committee), descriptor.threshold, descriptor.corrupt_keyholders
    if f == 0:
        return f"{t} of {m} key-holders; every key-holder is assumed honest (f=0)"
    return f"{t} of {m} key-holders; holds with up to {f} corrupt"


def privacy_note(uploads: tuple[SignedUpload, ...], rounds: int) -> str:
    """The guarantee in words, by the weakest of the members' statements; it is that of all rounds together."""
    return guarantee_in_words([upload.statement.privacy for upload in uploads], rounds)


def draft_certificate(parts: ReleaseParts, software: dict[str, str]) -> ReleaseCertificate:
    """Everything that the certificate states, but for the hashes of the files."""
    descriptor = parts.session.descriptor.statement
    final = parts.settlement.final.statement
    chosen = {member.client for member in final.members}
    candidates = {member.client for member in parts.candidate.statement.members}
    uploads = sorted(
        (upload for upload in parts.uploads if upload.statement.client in candidates),
        key=lambda upload: upload.statement.client,
    )
    kept = tuple(upload for upload in uploads if upload.statement.client in chosen)
    parameters = descriptor.parameters
    return ReleaseCertificate(
        session=parts.session,
        ctx=descriptor.ctx,
        uploads=tuple(uploads),
        excluded=excluded_members(descriptor, parts),
        candidate=parts.candidate,
        candidate_endorsements=parts.settlement.answers,
        final=parts.settlement.final,
        final_endorsements=parts.final_endorsements,
        share_sums=tuple(share.signed for share in parts.opened.used),
        committee_note=committee_note(descriptor),
        security_bits=parameters.security_bits,
        security_note=parameters.security_note,
        error_max=int(parts.opened.opening.error_max),
        error_bound=parameters.error_bound(len(final.members)),
        privacy_note=privacy_note(kept, descriptor.rounds),
        timeline=parts.timeline,
        software=software,
        files={},
        released_at=parts.released_at,
    )


def build_release(
    parts: ReleaseParts, signer: Signer, software: dict[str, str], render: Callable[[ReleaseCertificate], bytes]
) -> dict[str, bytes]:
    """Every file of the release by name; `render` makes report.html from the certificate's content.

    Depends on nothing but its arguments: called again with the same records it gives the same bytes.
    """
    descriptor = parts.session.descriptor.statement
    draft = draft_certificate(parts, software)
    contents = {
        ADAPTER: adapter_file(descriptor, parts),
        ADAPTER_CONFIG: adapter_config_file(descriptor.plan),
        MODEL_CARD: model_card(draft),
        OPENING: opening_file(parts),
        REPORT: render(draft),
    }
    if parts.start is not None:
        contents[START] = parts.start
    return _sign_files(draft, signer, contents)


def annotate_release(
    content: Mapping[str, bytes],
    signer: Signer,
    evaluation: Evaluation,
    render: Callable[[ReleaseCertificate], bytes],
) -> dict[str, bytes]:
    """The same release with an evaluation on public data attached, model card and report made anew, signed again.

    Call it on a release that was just verified. Raises SignatureInvalid when `signer` is not its coordinator.
    """
    signed = parse_certificate(content[CERTIFICATE])
    certificate = signed.verify(signer.identity)
    draft = certificate.model_copy(update={"evaluation": evaluation})
    listed = names(certificate.session.descriptor.statement)
    contents = {name: content[name] for name in listed if name not in (MODEL_CARD, REPORT)}
    contents[MODEL_CARD] = model_card(draft)
    contents[REPORT] = render(draft)
    return _sign_files(draft, signer, contents)


def _sign_files(draft: ReleaseCertificate, signer: Signer, contents: dict[str, bytes]) -> dict[str, bytes]:
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(contents.items())}
    signed = signer.sign(draft.model_copy(update={"files": hashes}))
    return {**contents, CERTIFICATE: certificate_file(signed)}


def model_card(certificate: ReleaseCertificate) -> bytes:
    """`README.md`, a model card with the front matter that model hubs read."""
    descriptor = certificate.session.descriptor.statement
    plan = descriptor.plan
    pipeline = PIPELINES.get(plan.task.kind)
    what = f"A LoRA adapter ({plan.method})" if plan.adapter_config.get("peft_type") == "LORA" else "Trained weights"
    rounds = "one round" if descriptor.round is None else descriptor.round.title
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
        f"{what} for `{plan.base_model}` ({plan.architecture}), from the updates of "
        f"{len(certificate.final.statement.members)} institutions, summed under encryption in {rounds}.",
        "",
        "## Privacy",
        "",
        certificate.privacy_note,
        "",
        f"Committee: {certificate.committee_note}. Security: {certificate.security_bits} bits (core-SVP). "
        "No single contribution was opened.",
        "",
        *([f"Reserved for an audit: {descriptor.audit.summary}.", ""] if descriptor.audit else []),
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
    ]
    if certificate.evaluation is not None:
        lines += ["## Quality", "", certificate.evaluation.description, ""]
        lines += [f"- {metric.name}: {metric.value:.4g}" for metric in certificate.evaluation.metrics]
        lines.append("")
    return "\n".join(lines).encode()


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


def parse_certificate(raw: bytes) -> SignedRelease:
    """`release.json`, not verified yet. Raises MalformedError that names the file."""
    try:
        return SignedRelease.parse(raw)
    except MalformedError as error:
        raise MalformedError(f"{CERTIFICATE} is no certificate: it was altered or cut off ({error})") from None


def certificate_file(signed: SignedRelease) -> bytes:
    """`release.json`, in its one form."""
    return pretty_bytes(signed)
