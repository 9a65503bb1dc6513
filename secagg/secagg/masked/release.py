"""Making a masked release: adapter, what opens the sum once more, and the signed certificate (protocol.md §12.9)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from secagg.certificate import (
    ADAPTER,
    ADAPTER_CONFIG,
    CERTIFICATE,
    FILES,
    MODEL_CARD,
    OPENING,
    REPORT,
    Evaluation,
    Excluded,
    TimelineEvent,
)
from secagg.client_noise.session import privacy_note
from secagg.masked.certificate import SECURITY_BITS, SECURITY_NOTE, MaskedCertificate, SignedMaskedRelease
from secagg.masked.closing import MaskedSum, UnmaskRound
from secagg.masked.descriptor import MaskedDescriptor, SignedMaskedDescriptor
from secagg.masked.messages import Directory, SignedMaskedUpload, SignedSetEndorsement, SignedSharing, SignedSurvivorSet
from secagg.masked.parameters import Graph
from secagg.masked.recovered import Recovered
from secagg.masked.run import masked_mean
from secagg.model_card import model_card
from secagg.release import adapter_config_file, save_adapter, sign_files
from secagg.signing import Signer

Render = Callable[[MaskedCertificate], bytes]


@dataclass(frozen=True, slots=True)
class MaskedParts:
    """What the coordinator has when the sum is open. `total` is that of the masked vectors, uint32 [L + guards]."""

    session: SignedMaskedDescriptor
    directory: Directory
    sharings: tuple[SignedSharing, ...]
    uploads: tuple[SignedMaskedUpload, ...]
    final: SignedSurvivorSet
    endorsements: tuple[SignedSetEndorsement, ...]
    recovered: Recovered
    total: NDArray[np.uint32]
    opened: MaskedSum
    timeline: tuple[TimelineEvent, ...]
    released_at: int

    @classmethod
    def of(
        cls, session: SignedMaskedDescriptor, unmasking: UnmaskRound, timeline: tuple[TimelineEvent, ...], now: int
    ) -> "MaskedParts":
        """From a round that has all its shares. Raises what `UnmaskRound.open` raises."""
        recovered = unmasking.recover()
        opened = unmasking.open_with(recovered)
        return cls(
            session=session,
            directory=unmasking.directory,
            sharings=tuple(unmasking.sharings[number].signed for number in sorted(unmasking.sharings)),
            uploads=tuple(unmasking.uploads[number].signed for number in sorted(unmasking.uploads)),
            final=unmasking.chosen,
            endorsements=tuple(unmasking.endorsements[number] for number in sorted(unmasking.endorsements)),
            recovered=recovered,
            total=unmasking.total.values,
            opened=opened,
            timeline=timeline,
            released_at=now,
        )


def opening_file(parts: MaskedParts) -> bytes:
    """`opening.safetensors`: what anyone needs to open the sum once more (protocol.md §12.9.2).

    masked_sum uint32 [L + guards]; seeds uint8 [|U|, 32]; gone int64 [g], their keys uint8 [g, 32]; pairs int64 [p, 2].
    """
    found = parts.recovered
    gone = sorted(found.keys)
    tensors: dict[str, NDArray[Any]] = {
        "masked_sum": parts.total,
        "seeds": _rows([found.seeds[number].value for number in parts.final.statement.members]),
        "gone": np.array(gone, dtype=np.int64),
        "keys": _rows([found.keys[number].value for number in gone]),
        "pairs": np.array(found.pairs, dtype=np.int64).reshape(-1, 2),
    }
    return save(tensors)


def _rows(secrets: list[bytes]) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(secrets), np.uint8).reshape(len(secrets), 32)


def adapter_file(descriptor: MaskedDescriptor, opened: MaskedSum) -> bytes:
    """`adapter_model.safetensors`: what the plan's encoding makes of the mean vector."""
    return save_adapter(descriptor.plan, masked_mean(descriptor, opened), len(opened.members))


def excluded_members(
    descriptor: MaskedDescriptor, directory: Directory, sharings: tuple[SignedSharing, ...], chosen: tuple[int, ...]
) -> tuple[Excluded, ...]:
    """Every roster member that is not in U, with how far it came."""
    advertised = {descriptor.number_of(signed.signer) for signed in directory}
    shared = {descriptor.number_of(signed.signer) for signed in sharings}
    reasons = list[Excluded]()
    for number, identity in enumerate(descriptor.clients):
        if number in chosen:
            continue
        if number in shared:
            reason = "no masked vector before the set was fixed; its masks were taken out of the sum"
        elif number in advertised:
            reason = "advertised its keys and did not share them"
        else:
            reason = "did not advertise its keys before the deadline"
        reasons.append(Excluded(client=identity.fingerprint, title=identity.title, reason=reason))
    return tuple(reasons)


def masking_note(graph: Graph) -> str:
    """What the graph's numbers assume, in words (protocol.md §12.8)."""
    kind = "complete graph" if graph.complete else f"{graph.holders} holders of each"
    sums = "" if graph.most_sums == 1 else f"; a lying coordinator could open up to {graph.most_sums} partial sums"
    return (
        f"{kind}, {graph.threshold} holders give a secret back; holds with up to {graph.corrupt} of {graph.clients} "
        f"clients corrupt{sums}"
    )


def draft_certificate(parts: MaskedParts, software: dict[str, str]) -> MaskedCertificate:
    """Everything that the certificate states, but for the hashes of the files."""
    descriptor = parts.session.statement
    return MaskedCertificate(
        session=parts.session,
        ctx=descriptor.ctx,
        advertisements=parts.directory,
        sharings=parts.sharings,
        uploads=parts.uploads,
        excluded=excluded_members(descriptor, parts.directory, parts.sharings, parts.final.statement.members),
        final=parts.final,
        endorsements=parts.endorsements,
        masking_note=masking_note(descriptor.graph),
        security_bits=SECURITY_BITS,
        security_note=SECURITY_NOTE,
        privacy_note=privacy_note(descriptor, [upload.statement.privacy for upload in parts.uploads]),
        timeline=parts.timeline,
        software=software,
        files={},
        released_at=parts.released_at,
    )


def build_masked_release(
    parts: MaskedParts, signer: Signer, software: dict[str, str], render: Render
) -> dict[str, bytes]:
    """Every file of the release by name; the same arguments give the same bytes."""
    descriptor = parts.session.statement
    draft = draft_certificate(parts, software)
    contents = {
        ADAPTER: adapter_file(descriptor, parts.opened),
        ADAPTER_CONFIG: adapter_config_file(descriptor.plan),
        MODEL_CARD: masked_card(draft),
        OPENING: opening_file(parts),
        REPORT: render(draft),
    }
    return sign_files(draft, signer, contents)


def masked_card(certificate: MaskedCertificate) -> bytes:
    """The model card of a masked release."""
    return model_card(certificate, "under masks that cancel, in one round")


def annotate_masked(
    content: Mapping[str, bytes], signer: Signer, evaluation: Evaluation, render: Render
) -> dict[str, bytes]:
    """The same release with an evaluation on public data attached, and signed again.

    Call it on a release that was just verified. Raises SignatureInvalid when `signer` is not its coordinator.
    """
    certificate = SignedMaskedRelease.parse(content[CERTIFICATE]).verify(signer.identity)
    draft = certificate.model_copy(update={"evaluation": evaluation})
    contents = {name: content[name] for name in FILES if name not in (MODEL_CARD, REPORT)}
    contents |= {MODEL_CARD: masked_card(draft), REPORT: render(draft)}
    return sign_files(draft, signer, contents)
