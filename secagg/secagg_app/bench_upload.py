"""`secagg bench upload`: many uploads at once over gRPC, beside plain gRPC streaming of the same bytes.

The coordinator is `secagg server run` in a process of its own, with mutual TLS, its state on disk, and every upload
hashed, checked, synced to disk and receipted. All clients send from one other process, a thread and a connection each,
through the calls that `secagg client run` makes. The yardsticks are servers that only count bytes (`bench_plain`), with
the same TLS, connections and chunks. They take turns, so that what slows the machine slows them all.
"""

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from secagg.contributor import SealedUpload, seal_contribution
from secagg.errors import ProcessFailed
from secagg.messages import Enrolment, SignedReceipt
from secagg.signing import Signed
from secagg_app.bench_machine import machine, memory_mb
from secagg_app.bench_plain import MESSAGE, RAW, STORED
from secagg_app.bench_session import BenchSession, PartyFolders, bench_statement, bench_update
from secagg_app.json_option import SCREEN, json_option, write_json
from secagg_client.calls import CommitteeCalls, ContributionCalls, chunks_of
from secagg_host.durable import write_atomic
from secagg_host.identity import PartyFiles
from secagg_host.tls import channel, grpc
from secagg_protos.v1 import secagg_pb2 as pb

WAIT_SECONDS = 60.0
WORKERS = 256
MEGABYTE = 1e6


@dataclass(frozen=True, slots=True)
class UploadResult:
    """Megabytes a second over all streams together, by round; `peak_mb` is the coordinator's resident memory.

    `cpu_ms_each`: processor time of the server's process for one upload.
    """

    clients: int
    params: int
    bytes_each: int
    secagg: tuple[float, ...]
    plain: tuple[float, ...]
    messages: tuple[float, ...]
    stored: tuple[float, ...]
    disk: tuple[float, ...]
    cpu_ms_each: dict[str, float]
    idle_mb: float
    peak_mb: float
    machine: dict[str, str | int | float]

    def to_json(self) -> dict[str, Any]:
        """Headline medians first."""
        return {
            "upload_mb_per_second": statistics.median(self.secagg),
            "plain_mb_per_second": statistics.median(self.plain),
            "plain_messages_mb_per_second": statistics.median(self.messages),
            "disk_mb_per_second": statistics.median(self.disk),
            "upload_over_plain": self.over(self.plain),
            "plain_stored_mb_per_second": statistics.median(self.stored),
            "upload_over_plain_stored": self.over(self.stored),
            "upload_over_plain_messages": self.over(self.messages),
            "coordinator_cpu_ms_per_upload": self.cpu_ms_each["secagg"],
            "plain_cpu_ms_per_upload": self.cpu_ms_each["plain"],
            "coordinator_peak_mb": self.peak_mb,
            "detail": asdict(self),
        }

    def over(self, yardstick: Sequence[float]) -> float:
        """Median ratio over pairs of one round."""
        return statistics.median(a / b for a, b in zip(self.secagg, yardstick, strict=True))


class _Process:
    """A child that says when it is ready; ended with the block."""

    def __init__(self, *arguments: str) -> None:
        self.child = subprocess.Popen(
            [sys.executable, "-m", *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> "_Process":
        return self

    def line(self) -> str:
        """The next line. Raises ProcessFailed when there is none."""
        line = self.child.stdout.readline() if self.child.stdout is not None else ""
        if not line:
            raise ProcessFailed(f"a server of the benchmark ended with status {self.child.wait()}")
        return line

    def memory(self, key: str) -> float:
        """Megabytes."""
        return memory_mb(key, self.child.pid)

    def cpu_seconds(self) -> float:
        """User and system time so far."""
        fields = Path(f"/proc/{self.child.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def __exit__(self, *_: object) -> None:
        self.child.send_signal(signal.SIGTERM)
        with contextlib.suppress(OSError):
            self.child.communicate(timeout=WAIT_SECONDS)


def all_at_once(tasks: Sequence[Callable[[], object]]) -> float:
    """Seconds from the common start until the last of the tasks, a thread each, is done. Raises what one raised."""
    barrier, failed = threading.Barrier(len(tasks) + 1), list[BaseException]()

    def run(task: Callable[[], object]) -> None:
        barrier.wait()
        try:
            task()
        except BaseException as error:  # noqa: BLE001 - raised again below
            failed.append(error)

    threads = [threading.Thread(target=run, args=(task,)) for task in tasks]
    for thread in threads:
        thread.start()
    barrier.wait()
    start = time.perf_counter()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - start
    if failed:
        raise failed[0]
    return took


@contextlib.contextmanager
def _channels(address: str, parties: Sequence[PartyFiles]) -> Iterator[list[grpc.Channel]]:
    """A connection for each party, already made."""
    with contextlib.ExitStack() as stack:
        lines = [stack.enter_context(channel(address, files)) for files in parties]
        for line in lines:
            grpc.channel_ready_future(line).result(timeout=WAIT_SECONDS)
        yield lines


def _coordinator(folder: Path, parties: PartyFolders, sessions: Sequence[BenchSession]) -> _Process:
    names = [f"session-{number}.json" for number in range(len(sessions))]
    for name, session in zip(names, sessions, strict=True):
        write_atomic(folder / name, session.proposal.model_dump_json().encode())
    config = folder / "server.toml"
    config.write_text(
        f'listen = "127.0.0.1:0"\nidentity = "{parties.coordinator}"\nstate = "state"\nrelease = "release"\n'
        f"sessions = {json.dumps(names)}\n"
    )
    return _Process("secagg_app", "server", "run", "--config", str(config), "--json")


def _address(process: _Process) -> str:
    while (event := json.loads(process.line()))["event"] != "listening":
        pass
    # The pipe would fill: events are read and dropped from here on.
    threading.Thread(target=lambda: all(iter(process.child.stdout.readline, "")), daemon=True).start()  # type: ignore[union-attr]
    return str(event["address"])


def _open(address: str, parties: PartyFolders, session: BenchSession, now: int) -> None:
    """Key-holders approve, and clients enrol, over the network."""
    with _channels(address, parties.holders) as lines:
        for line, holder in zip(lines, session.committee.holders, strict=True):
            CommitteeCalls(line).approve(holder.approve(session.proposal, now))
    ctx = session.proposal.descriptor.statement.ctx
    time.sleep(0.5)  # the coordinator looks ten times a second
    with _channels(address, parties.clients) as lines:
        for line, files in zip(lines, parties.clients, strict=True):
            enrolment = Enrolment(ctx=ctx, client=files.identity.fingerprint)
            ContributionCalls(line).enrol(files.signer.sign(enrolment))


def _upload(calls: ContributionCalls, upload: SealedUpload) -> SignedReceipt:
    """What `secagg client run` does with a spooled upload."""
    offset = calls.begin_upload(upload.signed)
    if not isinstance(offset, int):
        return offset
    content = upload.ciphertext.data.cast("B")
    return calls.upload(upload.signed, upload.boxes, offset, chunks_of(content, offset))


def _secagg_round(address: str, parties: PartyFolders, session: BenchSession, uploads: Sequence[SealedUpload]) -> float:
    """Seconds until every client has its receipt; each is verified afterwards."""
    receipts = dict[str, Signed[Any]]()
    with _channels(address, parties.clients) as lines:

        def task(line: grpc.Channel, upload: SealedUpload) -> None:
            receipts[upload.signed.signer] = _upload(ContributionCalls(line), upload)

        took = all_at_once(
            [
                lambda line=line, upload=upload: task(line, upload)  # type: ignore[misc]
                for line, upload in zip(lines, uploads, strict=True)
            ]
        )
    coordinator = session.parties.coordinator.identity
    for upload in uploads:
        receipt = receipts[upload.signed.signer].verify(coordinator)
        if receipt.upload_root != upload.signed.statement.upload_root:
            raise ProcessFailed("a receipt is for another upload")
    return took


def _plain_round(address: str, parties: PartyFolders, uploads: Sequence[SealedUpload], method: str) -> float:
    """Seconds until every stream's bytes are counted."""
    as_message = method == MESSAGE
    with _channels(address, parties.clients) as lines:

        def task(line: grpc.Channel, upload: SealedUpload) -> None:
            content = upload.ciphertext.data.cast("B")
            chunks = (bytes(chunk) for chunk in chunks_of(content, 0))
            if as_message:
                call = line.stream_unary(method, pb.UploadRequest.SerializeToString, bytes)
                counted = call(iter([pb.UploadRequest(chunk=chunk) for chunk in chunks]), timeout=WAIT_SECONDS)
            else:
                counted = line.stream_unary(method, bytes, bytes)(chunks, timeout=WAIT_SECONDS)
            if int(counted) != len(content):
                raise ProcessFailed(f"{int(counted)} bytes of {len(content)} arrived")

        return all_at_once(
            [
                lambda line=line, upload=upload: task(line, upload)  # type: ignore[misc]
                for line, upload in zip(lines, uploads, strict=True)
            ]
        )


def _disk_round(folder: Path, uploads: Sequence[SealedUpload]) -> float:
    """Seconds to write and sync the same bytes to as many files, at once: what the disk alone allows."""

    def task(number: int, upload: SealedUpload) -> None:
        path = folder / f"disk-{number}"
        with path.open("wb") as file:
            file.write(upload.ciphertext.data)
            file.flush()
            os.fsync(file.fileno())
        path.unlink()

    return all_at_once(
        [lambda number=number, upload=upload: task(number, upload) for number, upload in enumerate(uploads)]  # type: ignore[misc]
    )


def run_uploads(params: int, clients: int, rounds: int, folder: Path) -> UploadResult:
    """Measure `clients` uploads of `params` values at once, `rounds` times, with all files below `folder`."""
    host, now = machine(), int(time.time())
    parties = PartyFolders.make(folder / "parties", clients)
    # One round more than is counted: the first warms everything.
    sessions = [BenchSession.make(parties.parties, params, now, os.urandom) for _ in range(rounds + 1)]
    speeds: dict[str, list[float]] = {"secagg": [], "plain": [], "messages": [], "stored": [], "disk": []}
    spent = dict.fromkeys(("secagg", "plain", "messages", "stored"), 0.0)
    with (
        _coordinator(folder, parties, sessions) as served,
        _Process("secagg_app.bench_plain", str(parties.coordinator), str(WORKERS), str(folder)) as counting,
    ):
        address, plain = _address(served), f"127.0.0.1:{int(counting.line())}"
        idle = served.memory("VmRSS")
        for number, session in enumerate(sessions):
            _open(address, parties, session, now)
            uploads = sealed_by_all(session, now)
            size = sum(upload.ciphertext.nbytes for upload in uploads) / MEGABYTE

            def take(name: str, server: _Process, work: Callable[[], float]) -> None:
                before = server.cpu_seconds()
                speeds[name].append(size / work())  # noqa: B023 - called in this turn of the loop
                if number:  # noqa: B023
                    spent[name] += server.cpu_seconds() - before

            take("plain", counting, lambda: _plain_round(plain, parties, uploads, RAW))  # noqa: B023
            take("secagg", served, lambda: _secagg_round(address, parties, session, uploads))  # noqa: B023
            take("messages", counting, lambda: _plain_round(plain, parties, uploads, MESSAGE))  # noqa: B023
            take("stored", counting, lambda: _plain_round(plain, parties, uploads, STORED))  # noqa: B023
            speeds["disk"].append(size / _disk_round(folder, uploads))
        peak = served.memory("VmHWM")
    return UploadResult(
        clients,
        params,
        uploads[0].ciphertext.nbytes,
        **{name: tuple(values[1:]) for name, values in speeds.items()},
        cpu_ms_each={name: seconds * 1e3 / (rounds * clients) for name, seconds in spent.items()},
        idle_mb=idle,
        peak_mb=peak,
        machine=host,
    )


def sealed_by_all(session: BenchSession, now: int) -> list[SealedUpload]:
    """One real upload of every client."""
    descriptor = session.approved(now).check(approved=True)
    statement = bench_statement(session.plan)
    return [
        seal_contribution(descriptor, signer, bench_update(descriptor.parameters.length, number), statement, os.urandom)
        for number, signer in enumerate(session.parties.clients.values())
    ]


def print_result(result: UploadResult, console: Console) -> None:
    """The table for people."""
    console.print(
        f"{result.clients} uploads at once of {result.bytes_each / MEGABYTE:.2f} MB, {len(result.secagg)} rounds, "
        "medians (min to max)"
    )
    table = Table("", "MB/s, all together", "secagg has so much of it")
    rows = (
        ("secagg: hashed, checked, synced, receipted", result.secagg),
        ("gRPC alone, chunks", result.plain),
        ("gRPC alone, the same messages", result.messages),
        ("gRPC alone, chunks, written and synced", result.stored),
        ("disk alone, written and synced", result.disk),
    )
    for title, speeds in rows:
        shown = f"{statistics.median(speeds):.0f} ({min(speeds):.0f} to {max(speeds):.0f})"
        table.add_row(title, shown, "" if speeds is result.secagg else f"{result.over(speeds):.0%}")
    console.print(table)
    cpu = ", ".join(f"{name} {value:.1f}" for name, value in result.cpu_ms_each.items())
    console.print(f"processor time of the server for one upload, ms: {cpu}")
    console.print(f"coordinator's memory: {result.idle_mb:.0f} MB before, {result.peak_mb:.0f} MB at its peak")


@click.command("upload", epilog="Example: secagg bench upload --clients 30 --json upload.json")
@click.option("--params", type=click.IntRange(1), default=1_000_000, show_default=True, help="Values in a vector.")
@click.option("--clients", type=click.IntRange(2), default=30, show_default=True, help="Uploads at once.")
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True, help="Rounds behind each median.")
@click.option("--folder", type=click.Path(file_okay=False, path_type=Path), help="Where files go for the time; on the "
              "disk that is to be measured.")  # fmt: skip
@json_option
def upload(params: int, clients: int, rounds: int, folder: Path | None, json_file: Path | None) -> None:
    """Uploads of many clients at once, over gRPC on this machine, beside plain streaming of the same bytes."""
    with tempfile.TemporaryDirectory(prefix="secagg-bench-", dir=folder) as name:
        result = run_uploads(params, clients, rounds, Path(name))
    print_result(result, Console(stderr=json_file == SCREEN))
    if json_file is not None:
        write_json(json_file, result.to_json())
