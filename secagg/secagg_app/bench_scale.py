"""`secagg bench scale`: a whole sealed session of a large cohort in one process, every upload a real one.

Each client has a certificate, seals a vector of its own, makes its boxes and signs. Uploads go to files, as they lie at
a coordinator, because together they would not fit memory; there they are read, hashed, checked and added. Key-holders
check every box, answer the degree check and sum their shares. The opened sum is compared with the sum of what the
clients had encoded, value by value: it must be equal. Sessions, sets, endorsements and answers are those of the
protocol; network and disk syncs are left out (`secagg bench upload` has them).
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from secagg.arrival import Arrival
from secagg.contributor import seal_contribution
from secagg.coordinator import OpenedSum, fix_candidate, open_with_shares, settle
from secagg.descriptor import Descriptor
from secagg.errors import ConfigError, HashMismatch, OpeningError
from secagg.evidence import MemberEvidence, ShareAnswer
from secagg.keyholder import KeyHolder
from secagg.merkle import leaf_hash, path, root
from secagg.messages import SetMember, SignedUpload
from secagg.run import certify
from secagg.sets import check_upload
from secagg.warm import warm_up
from secagg_app.bench_machine import machine, memory_mb
from secagg_app.bench_session import HOLDERS, BenchSession, bench_statement, bench_update
from secagg_app.json_option import SCREEN, json_option, write_json
from secagg_host.durable import guard
from secagg_host.tls import MAX_CHUNK_BYTES
from secagg_server.blobs import BOXES, WHOLE, UploadFiles
from secagg_server.publish import accumulate

ROOM = 1.2


@dataclass(slots=True)
class Stage:
    """Seconds of one kind of work: on the clock, and of the processor in this process."""

    wall: float = 0.0
    cpu: float = 0.0

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Count the body."""
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.wall += time.perf_counter() - wall
            self.cpu += time.process_time() - cpu


@dataclass(slots=True)
class ScaleResult:
    """One session. `stages` by name; `checked`: the opened sum was the sum of the encoded vectors, value by value."""

    clients: int
    params: int
    threads: int
    stages: dict[str, Stage] = field(default_factory=dict)
    bytes_each: int = 0
    box_bytes: int = 0
    start_mb: float = 0.0
    peak_mb: float = 0.0
    checked: bool = False
    machine: dict[str, str | int | float] = field(default_factory=dict)

    SERVER = ("check uploads", "add uploads", "open the sum")

    def stage(self, name: str) -> Stage:
        """The stage of that name, begun at zero."""
        return self.stages.setdefault(name, Stage())

    def server(self) -> Stage:
        """All that a coordinator computes."""
        parts = [self.stages[name] for name in self.SERVER]
        return Stage(sum(part.wall for part in parts), sum(part.cpu for part in parts))

    def to_json(self) -> dict[str, Any]:
        """Headline figures first."""
        server = self.server()
        return {
            "clients": self.clients,
            "params": self.params,
            "threads": self.threads,
            "server_seconds": server.wall,
            "server_cpu_seconds": server.cpu,
            "peak_mb": self.peak_mb,
            "sum_is_exact": self.checked,
            "bytes_per_param": (self.bytes_each + HOLDERS * self.box_bytes) / self.params,
            "detail": asdict(self),
        }


class _Recorded:
    """The system's randomness, and the first seed that was drawn: that of the rounding (protocol.md §5)."""

    def __init__(self) -> None:
        self.first = b""

    def __call__(self, size: int, /) -> bytes:
        drawn = os.urandom(size)
        self.first = self.first or drawn
        return drawn


def run_scale(clients: int, params: int, threads: int, folder: Path, say: Callable[[str], None]) -> ScaleResult:
    """One session of so many clients, with its uploads in `folder`; the coordinator has so many threads.

    Raises ConfigError when the disk has too little room, OpeningError when the opened sum is not exact.
    """
    result = ScaleResult(clients, params, threads, machine=machine())
    warm_up(os.urandom)
    now = int(time.time())
    say("certificates, session, approvals")
    with result.stage("certificates and session").timed():
        parties = certify([f"Client {number}" for number in range(clients)], HOLDERS, now)
        session = BenchSession.make(parties, params, now, os.urandom)
        descriptor = session.approved(now).check(approved=True)
    check_room(folder, clients * descriptor.parameters.ciphertext_bytes)
    result.start_mb = memory_mb("VmRSS")
    files = UploadFiles(folder / "uploads")
    say("clients seal")
    uploads, expected = _clients(session, descriptor, files, result)
    say("the coordinator checks uploads")
    with result.stage("check uploads").timed(), ThreadPoolExecutor(result.threads) as pool:
        for done in [pool.submit(check_arrived, descriptor, upload, files) for upload in uploads]:
            done.result()
    opened = _close(session, descriptor, uploads, files, result, now, say)
    result.checked = bool(np.array_equal(opened.opening.sums, expected))
    if not result.checked:
        raise OpeningError("the opened sum is not the sum of the encoded vectors")
    result.peak_mb = memory_mb("VmHWM")
    return result


def check_room(folder: Path, needed: int) -> None:
    """Raise ConfigError unless the disk has room for the uploads."""
    free = shutil.disk_usage(folder).free
    if free < needed * ROOM:
        raise ConfigError(f"{folder}: {free / 1e9:.1f} GB are free, the uploads take {needed / 1e9:.1f}; set --folder")


def _clients(
    session: BenchSession, descriptor: Descriptor, files: UploadFiles, result: ScaleResult
) -> tuple[list[SignedUpload], NDArray[np.uint64]]:
    """Every client seals its own vector; returns their statements, and the exact sum of what they encoded."""
    statement, signed = bench_statement(session.plan), list[SignedUpload]()
    expected = np.zeros(result.params, dtype=np.uint64)
    for number, signer in enumerate(session.parties.clients.values()):
        update, random = bench_update(result.params, number), _Recorded()
        with result.stage("clients seal").timed():
            upload = seal_contribution(descriptor, signer, update, statement, random)
        expected += descriptor.quantiser.encode(update, lambda _, seed=random.first: seed).values
        for suffix, content in ((WHOLE, upload.ciphertext.data), (BOXES, b"".join(upload.boxes))):
            place = files.folder / f"{upload.signed.signer}{suffix}"
            with guard(place):
                place.write_bytes(content)
        signed.append(upload.signed)
        result.bytes_each, result.box_bytes = upload.ciphertext.nbytes, len(upload.boxes[0])
    return signed, expected


def check_arrived(descriptor: Descriptor, signed: SignedUpload, files: UploadFiles) -> None:
    """What a coordinator checks of an upload before it signs a receipt: signature, boxes, hashes, residues."""
    upload = check_upload(descriptor, signed, signed.signer)
    if root(files.boxes(signed.signer, len(descriptor.committee))).hex() != upload.boxes_root:
        raise HashMismatch("the boxes do not have the root that the client signed")
    arrival = Arrival(descriptor.parameters)
    for piece in files.blocks(signed.signer, MAX_CHUNK_BYTES):
        arrival.feed(piece)
    arrival.check(upload.ciphertext_root)


def _close(
    session: BenchSession,
    descriptor: Descriptor,
    uploads: Sequence[SignedUpload],
    files: UploadFiles,
    result: ScaleResult,
    now: int,
    say: Callable[[str], None],
) -> OpenedSum:
    """Sets, endorsements, degree check, share sums of all key-holders, the sum of the uploads, the opening."""
    by_client = {upload.signer: upload for upload in uploads}
    holders = session.committee.holders

    def shown(holder: KeyHolder, members: Sequence[SetMember]) -> Iterator[MemberEvidence]:
        index, _ = descriptor.holder(holder.signer.identity.fingerprint)
        for member in members:
            boxes = files.boxes(member.client, len(descriptor.committee))
            leaves = [leaf_hash(box) for box in boxes]
            yield MemberEvidence(by_client[member.client], boxes[index - 1], path(leaves, index - 1))

    say("key-holders check the boxes, answer the degree check and sum their shares")
    with result.stage("key-holders, all together").timed():
        candidate = fix_candidate(session.parties.coordinator, descriptor, uploads, now)
        answers = [
            holder.endorse_candidate(descriptor, candidate, shown(holder, candidate.statement.members), (), now)
            for holder in holders
        ]
        degree = [
            holder.answer_degree_check(descriptor, candidate, answers, shown(holder, candidate.statement.members), now)
            for holder in holders
        ]
        settled = settle(session.parties.coordinator, descriptor, candidate, answers, degree)
        endorsed = [
            holder.endorse_final(descriptor, candidate, settled.final, settled.answers, settled.degree_answers, (), now)
            for holder in holders
        ]
        members = settled.final.statement.members
        shares: list[ShareAnswer] = [
            holder.sum_shares(descriptor, settled.final, endorsed, shown(holder, members), now) for holder in holders
        ]
    say("the coordinator adds the uploads and opens the sum")
    with result.stage("add uploads").timed():
        total = accumulate(descriptor, settled.final.statement, files, result.threads)
    with result.stage("open the sum").timed():
        return open_with_shares(descriptor, settled.final.statement, shares, total)


def print_result(result: ScaleResult, console: Console) -> None:
    """The table for people."""
    table = Table("", "seconds", "of the processor", "ms a client", title=(
        f"{result.clients:,} clients, {result.params:,} values each, {result.bytes_each / 1e6:.2f} MB an upload"
    ))  # fmt: skip
    for name, stage in [*result.stages.items(), ("coordinator, all together", result.server())]:
        table.add_row(name, f"{stage.wall:.2f}", f"{stage.cpu:.2f}", f"{stage.cpu / result.clients * 1e3:.2f}")
    console.print(table)
    console.print(
        f"the opened sum is exact; memory of the process {result.start_mb:.0f} MB before the first upload, "
        f"{result.peak_mb:.0f} MB at its peak (clients, key-holders and coordinator together)"
    )


@click.command("scale", epilog="Example: secagg bench scale --clients 10000 --params 100000 --json scale.json")
@click.option("--clients", type=click.IntRange(3), default=1000, show_default=True, help="Uploads in the session.")
@click.option("--params", type=click.IntRange(1), default=1_000_000, show_default=True, help="Values in a vector.")
@click.option("--folder", type=click.Path(file_okay=False, exists=True, path_type=Path), default=None,
              help="Where the uploads lie for the time: about 3.9 bytes a value and client.")  # fmt: skip
@click.option("--threads", type=click.IntRange(1), default=os.cpu_count() or 1, show_default=True,
              help="Of the coordinator; clients and key-holders have one.")  # fmt: skip
@json_option
def scale(clients: int, params: int, folder: Path | None, threads: int, json_file: Path | None) -> None:
    """A sealed session of a large cohort in one process: every client seals, the sum is opened and compared."""
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="secagg-scale-", dir=folder) as name:
        result = run_scale(clients, params, threads, Path(name), lambda text: console.print(f"{text} ..."))
    print_result(result, Console(stderr=json_file == SCREEN))
    if json_file is not None:
        write_json(json_file, result.to_json())
