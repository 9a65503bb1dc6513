"""From share sums to a release folder (protocol.md §9, §10).

Everything that depends on the moment is in `ReleaseInputs`, recorded first: from the same inputs and uploads come
the same bytes, however often the server was killed.
"""

import hashlib
import os
import platform
import shutil
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np

from secagg.accumulate import Accumulator
from secagg.arrival import Arrival
from secagg.certificate import CERTIFICATE, OPENING, parse_certificate
from secagg.coordinator import OpenedSum, Settlement, open_with_shares
from secagg.descriptor import Descriptor, SignedDescriptor
from secagg.digits import Sums
from secagg.errors import HashMismatch, MalformedError, NotReady, OpeningError, StorageError, VerificationError
from secagg.evidence import ShareAnswer
from secagg.messages import FinalSet, SignedCandidate
from secagg.release import ReleaseParts, build_release, running_sums
from secagg.releases import EarlierRelease, Progress
from secagg.threads import in_ranges
from secagg_host.durable import fsync_folder, guard, make_folder, read_file, write_atomic
from secagg_host.tls import MAX_CHUNK_BYTES
from secagg_server import report
from secagg_server.blobs import UploadFiles
from secagg_server.session import ServedSession
from secagg_server.storage import ReleaseInputs

PUBLIC_FILE, PUBLIC_FOLDER = 0o644, 0o755
BLOCKS_AT_ONCE = 32
"""1.5 MB, which a core's cache holds."""
PACKAGES = ("secagg", "numpy", "numba", "cryptography", "safetensors")


def accumulate(descriptor: Descriptor, final: FinalSet, files: UploadFiles, threads: int | None = None) -> Accumulator:
    """Sum the members' ciphertexts from their files: memory O(L), whatever the cohort.

    So many threads (one for each processor unless given) each take a range of the blocks of every member.
    """
    total, size = Accumulator(descriptor.parameters), descriptor.parameters.block_bytes

    def work(start: int, stop: int) -> None:
        buffer = np.empty((min(BLOCKS_AT_ONCE, stop - start), size), dtype=np.uint8)
        for member in final.members:
            for first in range(start, stop, len(buffer)):
                rows = buffer[: stop - first]
                files.read_into(member.client, first * size, rows)
                total.add_range(first, rows)

    in_ranges(descriptor.parameters.blocks, threads or os.cpu_count() or 1, work)
    return total


def software_versions() -> dict[str, str]:
    """What made the release: read once, so that a release is not in want of a file for it."""
    return dict(_versions())


@cache
def _versions() -> tuple[tuple[str, str], ...]:
    return (("python", platform.python_version()), *((name, version(name)) for name in PACKAGES))


def choose_inputs(session: ServedSession, opened: OpenedSum) -> ReleaseInputs:
    """Choose which of the answers at hand the release uses, and its time.

    Raises StorageError when the folder of the release before is not as it was written: what is chosen here is fixed
    for good, and what is written down now of a damaged file could not be put right any more.
    """
    store, now = session.store, session.host.clock()
    openings: tuple[str, ...] = ()
    if store.release > 1 and (before := store.release_inputs(store.release - 1)) is not None:
        openings = (*before.openings, _certified_opening(session))
    note = session.note(session.host.signer.identity.title, "opened the sum and released the adapter")
    return ReleaseInputs(
        approvals=tuple(store.approvals()),
        final_endorsements=tuple(store.endorsements("final")),
        shares=tuple(answer.signed.signer for answer in opened.shares),
        timeline=(*store.timeline(), note.model_copy(update={"at": now})),
        software=software_versions(),
        released_at=now,
        openings=openings,
    )


def _opening_before(session: ServedSession) -> bytes:
    """`opening.safetensors` of the release before, from its folder."""
    return read_file(session.folder_of(session.store.release - 1) / OPENING)


def _certified_opening(session: ServedSession) -> str:
    """SHA-256 of `opening.safetensors` of the release before, as its certificate states it, and as the file has it.

    Raises StorageError that names the file which is damaged, missing or of another release.
    """
    number = session.store.release - 1
    folder, sets = session.folder_of(number), session.store.released_sets(number)
    path = folder / CERTIFICATE
    try:
        found = parse_certificate(read_file(path)).verify(session.host.signer.identity)
    except (MalformedError, VerificationError) as error:
        raise StorageError(f"{path}: {error}. Put it back as it was, and the session goes on") from error
    if sets is None or found.final != sets.final:
        raise StorageError(f"{path}: is not that of release {number}. Put it back as it was, and the session goes on")
    digest = hashlib.sha256(_opening_before(session)).hexdigest()
    if digest != found.files.get(OPENING):
        raise StorageError(
            f"{folder / OPENING}: is damaged: it does not have the hash that {CERTIFICATE} beside it states. Put it "
            "back, from a backup or from whoever fetched the release, and the session goes on"
        )
    return digest


def progress_of(session: ServedSession, inputs: ReleaseInputs) -> tuple[Progress | None, Sums | None]:
    """What the certificate says of other releases of the session, and the sums of those before (§8.7, §9.4).

    Raises StorageError or HashMismatch when the folder of the release before is not as it was written.
    """
    store, number = session.store, session.store.release
    if session.descriptor.releases == 1:
        return None, None
    earlier = list[EarlierRelease]()
    for before, digest in enumerate(inputs.openings, 1):
        sets = store.released_sets(before)
        if sets is None:
            raise NotReady(f"the sets of release {before} are not fixed yet")
        earlier.append(EarlierRelease(sets=sets, opening_sha256=digest))
    places = session.places()
    arrivals = tuple(arrival for arrival in store.arrivals() if places.get(arrival.client) == number)
    sums = None
    if earlier:
        raw = _opening_before(session)
        if hashlib.sha256(raw).hexdigest() != inputs.openings[-1]:
            raise HashMismatch(f"{session.folder_of(number - 1) / OPENING} is not as it was written; put it back")
        sums = running_sums(raw)
    return Progress(number=number, arrivals=arrivals, earlier=tuple(earlier)), sums


def open_shares(session: ServedSession, shares: tuple[ShareAnswer, ...]) -> tuple[OpenedSum, Accumulator]:
    """Add the members' uploads and open the sum.

    Raises OpeningError, or StorageError that names the stored upload that is not as its client signed it: where that is
    why the sum does not open, it says nothing of any party, before the release is fixed or after.
    """
    _, settlement = _sets(session)
    final = settlement.final.statement
    try:
        total = accumulate(session.descriptor, final, session.files)
        return open_with_shares(session.descriptor, final, shares, total), total
    except (OpeningError, MalformedError):
        check_stored(session)
        raise


def check_stored(session: ServedSession) -> None:
    """Hold the stored upload of every member of U against the root that its client signed.

    A sum that does not open burns the session for good, so this comes first: a damaged file can be put back. Raises
    StorageError that names the first such file and its client.
    """
    _, settlement = _sets(session)
    for member in settlement.final.statement.members:
        stored, arrival = session.store.upload(member.client), Arrival(session.descriptor.parameters)
        if stored is None:
            raise NotReady(f"the upload of {member.client[:16]} is not here any more")
        for piece in session.files.blocks(member.client, MAX_CHUNK_BYTES):
            arrival.feed(piece)
        try:
            arrival.check(stored.signed.statement.ciphertext_root)
        except (MalformedError, HashMismatch) as error:
            path, title = session.files.path(member.client), session.descriptor.client(member.client).title
            raise StorageError(
                f"{path}: is damaged: it is not what {title} signed. Put it back, from a backup or from that client's "
                "own copy (`ciphertext.bin` in its session's `upload` folder), and the session goes on; it is not burnt"
            ) from error


def release_files(session: ServedSession, inputs: ReleaseInputs) -> dict[str, bytes]:
    """Every file of the release, by name."""
    candidate, settlement = _sets(session)
    store = session.store
    shares, approvals, endorsements = store.shares(), store.approvals(), store.endorsements("final")
    opened, total = open_shares(session, tuple(shares[holder] for holder in inputs.shares))
    progress, before = progress_of(session, inputs)
    uploads = store.complete_uploads()
    if progress is not None:  # others still come while the release is made
        listed = {member.client for member in candidate.statement.members}
        uploads = tuple(upload for upload in uploads if upload.statement.client in listed)
    parts = ReleaseParts(
        session=SignedDescriptor(
            descriptor=session.proposal, approvals=tuple(approvals[holder] for holder in inputs.approvals)
        ),
        uploads=uploads,
        candidate=candidate,
        settlement=settlement,
        final_endorsements=tuple(endorsements[holder] for holder in inputs.final_endorsements),
        opened=opened,
        total=total,
        start=session.start,
        timeline=inputs.timeline,
        released_at=inputs.released_at,
        progress=progress,
        before=before,
    )
    return build_release(parts, session.host.signer, inputs.software, report.render)


def _sets(session: ServedSession) -> tuple[SignedCandidate, Settlement]:
    candidate, settlement = session.store.candidate(), session.store.settlement()
    if candidate is None or settlement is None:
        raise NotReady("the sets of the release are not fixed yet")
    return candidate, settlement


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write the release folder all at once: it is there whole, or not at all.

    A folder that already holds exactly these files is left as it is. Raises StorageError when something else is
    in its place.
    """
    with guard(folder):
        if folder.is_dir() and any(folder.iterdir()):
            _check_same(folder, files)
            return
    temporary = folder.with_name(f".{folder.name}.tmp")
    with guard(temporary):
        shutil.rmtree(temporary, ignore_errors=True)
        make_folder(folder.parent)
        temporary.mkdir(mode=PUBLIC_FOLDER)
    for name, content in files.items():
        write_atomic(temporary / name, content, PUBLIC_FILE)
    with guard(folder):
        fsync_folder(temporary)
        temporary.rename(folder)
        fsync_folder(folder.parent)


def _check_same(folder: Path, files: Mapping[str, bytes]) -> None:
    found = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    if found != dict(files):
        raise StorageError(f"{folder}: holds something else than this release; move it away and the server goes on")
