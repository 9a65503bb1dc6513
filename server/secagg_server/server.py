"""The coordinator's process: loads sessions, listens, drives them until it is told to stop."""

import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from secagg.certificate import ADAPTER, CERTIFICATE
from secagg.ckks.descriptor import CkksDescriptor, SignedCkksDescriptor, is_ckks
from secagg.descriptor import Descriptor, SignedDescriptor
from secagg.errors import ConfigError, SecaggError, SizeLimitError, TransportError
from secagg.identity import check_issued_by
from secagg.masked.descriptor import MaskedDescriptor, SignedMaskedDescriptor, is_masked
from secagg.policy import check_authority
from secagg.rounds import check_start
from secagg.signing import Signed, parse_model
from secagg.warm import warm_ckks_serving, warm_masked, warm_opening
from secagg_host.durable import FolderLock, guard, make_folder, read_file
from secagg_host.events import EventLog
from secagg_host.identity import PartyFiles, load_identity
from secagg_host.tls import MAX_ANSWER_BYTES, SERVER_OPTIONS, check_refuses_tls12, grpc, server_credentials
from secagg_protos.v1 import secagg_pb2_grpc as services
from secagg_server.authorisation import RoleInterceptor
from secagg_server.blobs import TEMPORARY, UploadFiles
from secagg_server.calls import CALLS_AT_ONCE
from secagg_server.ckks_driver import CkksDriver
from secagg_server.ckks_services import Ckks
from secagg_server.ckks_session import CkksSession
from secagg_server.config import ServerConfig
from secagg_server.database import Store
from secagg_server.directory import Directory
from secagg_server.driver import Driver
from secagg_server.intake import Intake
from secagg_server.masked_driver import MaskedDriver
from secagg_server.masked_services import Masked
from secagg_server.masked_session import MaskedSession
from secagg_server.masked_storage import CkksStore, MaskedStore
from secagg_server.pace import Pace
from secagg_server.plots import warm_plots
from secagg_server.publish import software_versions
from secagg_server.services import Committee, Contribution, Publication, sealed_directory
from secagg_server.session import Checkpoint, Host, ServedSession, no_checkpoint
from secagg_server.storage import SessionStore

TICK_SECONDS = 0.1
GRACE_SECONDS = 2.0
MAX_WORKERS = 256
MAX_SESSION_BYTES = MAX_ANSWER_BYTES // 2
"""The rest is for approvals, and for the sets of so many clients with every key-holder's answers."""


Proposal = Signed[Descriptor] | SignedMaskedDescriptor | SignedCkksDescriptor


def load_session(path: Path, files: PartyFiles) -> Proposal:
    """Read and check a signed session file, of whichever protocol. Raises ConfigError or VerificationError."""
    raw = read_file(path)
    if len(raw) > MAX_SESSION_BYTES:
        raise SizeLimitError(
            f"{path}: has {len(raw)} bytes, and {MAX_SESSION_BYTES} fit a message; embed less in the plan, or have "
            "fewer clients on the roster"
        )
    proposal: Proposal
    try:
        if is_ckks(raw):
            proposal = SignedCkksDescriptor.parse(raw)
            owner = proposal.verify(proposal.statement.coordinator_identity).coordinator_identity
        elif is_masked(raw):
            proposal = SignedMaskedDescriptor.parse(raw)
            owner = proposal.verify(proposal.statement.coordinator_identity).coordinator_identity
        else:
            signed = parse_model(SignedDescriptor, raw)
            owner, proposal = signed.check(approved=False).coordinator_identity, signed.descriptor
    except SecaggError as error:
        raise type(error)(f"{path}: {error}") from error
    if owner.fingerprint != files.identity.fingerprint:
        raise ConfigError(f"{path}: the session belongs to another coordinator than {files.identity.title}")
    return proposal


def release_folders(
    base: Path, descriptors: Sequence[Descriptor | MaskedDescriptor | CkksDescriptor]
) -> dict[str, Path]:
    """Where each session's release goes, by ctx: a folder a series when there are several, and in it one a round."""
    several = len({descriptor.series for descriptor in descriptors}) > 1
    tops = {descriptor.ctx: base / descriptor.series if several else base for descriptor in descriptors}
    return {
        descriptor.ctx: tops[descriptor.ctx] / descriptor.round.folder if descriptor.round else tops[descriptor.ctx]
        for descriptor in descriptors
    }


def start_of(descriptor: Descriptor, folders: Mapping[str, Path]) -> bytes | None:
    """The adapter that the round before released, from its folder.

    Raises ConfigError when that session is not served as well, HashMismatch when its release is another.
    """
    if descriptor.previous is None:
        return None
    folder = folders.get(descriptor.previous.ctx)
    if folder is None or not (folder / ADAPTER).is_file():
        raise ConfigError(
            f"session {descriptor.ctx[:16]} goes on from the release of {descriptor.previous.ctx[:16]}, which is not "
            f"{'here' if folder is None else f'in {folder}'}: keep the session files of all earlier rounds in "
            "`sessions`, and their release folders in `release` (beside another session or series: each series in "
            "a folder of its own there, named by its first session)"
        )
    adapter = read_file(folder / ADAPTER)
    check_start(descriptor, adapter)
    return adapter


def check_not_left_over(ctx: str, store: Store, uploads: UploadFiles, release: Path) -> None:
    """Refuse to take a session on as new beside what an earlier state of this coordinator left of it.

    Uploads there have receipts that its database no longer knows: another upload in their place would break its word
    (protocol.md §7.2). Raises ConfigError.
    """
    if store.has_session(ctx):
        return
    what = "restore `coordinator.sqlite` in the state folder from a backup, and nothing is lost; or, to begin anew, "
    if uploads.any_stored():
        raise ConfigError(
            f"{uploads.folder} holds uploads of session {ctx[:16]}, which the database does not know: {what}create "
            "another session: receipts were given in this one"
        )
    if any(ctx.encode() in read_file(path) for path in certificates_in(release)):
        raise ConfigError(
            f"{release} holds a release of session {ctx[:16]}, which the database does not know: {what}move the "
            "folder away and create another session"
        )


def certificates_in(release: Path) -> list[Path]:
    """The certificates in a session's release folder, of one release or several."""
    with guard(release):
        return [path for path in (release / CERTIFICATE, *release.glob(f"release-*/{CERTIFICATE}")) if path.is_file()]


def _check_sealed(
    path: Path, config: ServerConfig, descriptor: Descriptor, store: Store, files: PartyFiles, host: Host
) -> None:
    """What the operator set fits the session; a new one has certificates of the authority only."""
    if config.close_at_uploads is not None and config.close_at_uploads < descriptor.n_min:
        raise ConfigError(f"close_at_uploads is below n_min = {descriptor.n_min} of {path}")
    if not store.has_session(descriptor.ctx):
        check_authority(descriptor, files.authority, host.clock())


def _check_masked(
    path: Path, config: ServerConfig, descriptor: MaskedDescriptor, store: Store, files: PartyFiles, host: Host
) -> None:
    """The same for a masked session."""
    if config.close_at_uploads is not None:
        raise ConfigError(
            f"close_at_uploads is for sealed and ckks sessions, and {path} is masked, with rounds of its own: remove it"
        )
    if not store.has_session(descriptor.ctx):
        for identity in (descriptor.coordinator_identity, *descriptor.clients):
            check_issued_by(identity, files.authority, host.clock())


def _check_ckks(
    path: Path, config: ServerConfig, descriptor: CkksDescriptor, store: Store, files: PartyFiles, host: Host
) -> None:
    """The same for a ckks session."""
    if config.close_at_uploads is not None and config.close_at_uploads < descriptor.n_min:
        raise ConfigError(f"close_at_uploads is below n_min = {descriptor.n_min} of {path}")
    if not store.has_session(descriptor.ctx):
        for identity in (descriptor.coordinator_identity, descriptor.holder, *descriptor.clients.values()):
            check_issued_by(identity, files.authority, host.clock())


@dataclass(frozen=True, slots=True)
class Coordinator:
    """All that a running server holds. Nothing in it can open anything alone."""

    sessions: dict[str, ServedSession]
    masked: dict[str, MaskedSession]
    ckks: dict[str, CkksSession]
    intakes: dict[str, Intake]
    drivers: tuple[Driver | MaskedDriver | CkksDriver, ...]
    store: Store
    host: Host

    @classmethod
    def load(cls, config: ServerConfig, files: PartyFiles, host: Host) -> "Coordinator":
        """Open the state and take on the configured sessions. Raises ConfigError, StorageError, VerificationError."""
        store = Store(config.state / "coordinator.sqlite")
        proposals = [(path, load_session(path, files)) for path in config.sessions]
        folders = release_folders(config.release, [proposal.statement for _, proposal in proposals])
        sessions, masked, ckks = dict[str, ServedSession](), dict[str, MaskedSession](), dict[str, CkksSession]()
        for path, proposal in proposals:
            ctx = proposal.statement.ctx
            uploads = UploadFiles(config.state / "uploads" / ctx)
            uploads.erase((TEMPORARY,))  # nothing is being written yet: a process that was killed left it
            check_not_left_over(ctx, store, uploads, folders[ctx])
            if isinstance(proposal.statement, CkksDescriptor):
                _check_ckks(path, config, proposal.statement, store, files, host)
                kept, at = CkksStore.of(store, proposal), config.close_at_uploads
                ckks[ctx] = CkksSession(proposal, kept, uploads, folders[ctx], host, at)
            elif isinstance(proposal.statement, MaskedDescriptor):
                _check_masked(path, config, proposal.statement, store, files, host)
                masked[ctx] = MaskedSession(proposal, MaskedStore.of(store, proposal), uploads, folders[ctx], host)
            else:
                _check_sealed(path, config, proposal.statement, store, files, host)
                start = start_of(proposal.statement, folders)
                stored = SessionStore.of(store, proposal)
                sessions[ctx] = ServedSession(
                    proposal, stored, uploads, folders[ctx], host, config.close_at_uploads, start
                )
        drivers: list[Driver | MaskedDriver | CkksDriver] = [Driver(session) for session in sessions.values()]
        drivers += [MaskedDriver(session) for session in masked.values()]
        drivers += [CkksDriver(session) for session in ckks.values()]
        intakes = {ctx: Intake(session) for ctx, session in sessions.items()}
        return cls(sessions, masked, ckks, intakes, tuple(drivers), store, host)

    def warm(self) -> None:
        """Have everything compiled and loaded that the sessions will call, before anybody waits for it."""
        software_versions()
        warm_plots()
        if self.sessions:
            warm_opening(os.urandom)
        if self.masked:
            warm_masked(os.urandom)
        if self.ckks:
            warm_ckks_serving()

    def advance(self, pace: Pace | None = None) -> None:
        """Let every session take the steps that it can take now; with a `pace`, those that are due a look.

        A session that fails keeps no other one up: its driver raises nothing. How long the steps of one take is not
        another's time: each driver reads the clock itself.
        """
        for driver in self.drivers:
            store = driver.session.store
            if pace is None or pace.due(store.ctx, store.recorded):
                driver.advance()


@dataclass(frozen=True, slots=True)
class Listener:
    """A started gRPC server and where it listens."""

    server: grpc.Server
    host: str
    port: int


def listen(coordinator: Coordinator, address: str, files: PartyFiles) -> Listener:
    """Start the gRPC services. Raises TransportError when the address cannot be used."""
    parties = sum(len(s.descriptor.roster) + len(s.descriptor.committee) for s in coordinator.sessions.values())
    parties += sum(len(s.descriptor.roster) for s in coordinator.masked.values())
    parties += sum(len(s.descriptor.roster) + 1 for s in coordinator.ckks.values())
    server = grpc.server(
        ThreadPoolExecutor(min(MAX_WORKERS, 16 + CALLS_AT_ONCE * parties), thread_name_prefix="rpc"),
        interceptors=[RoleInterceptor(coordinator.host.events)],
        options=SERVER_OPTIONS,
    )
    directory = sealed_directory(coordinator.sessions)
    contribution = Contribution(directory, coordinator.intakes)
    services.add_ContributionServiceServicer_to_server(contribution, server)  # type: ignore[no-untyped-call]
    services.add_CommitteeServiceServicer_to_server(Committee(directory), server)  # type: ignore[no-untyped-call]
    masked, ckks = Masked(Directory("masked", coordinator.masked)), Ckks(Directory("ckks", coordinator.ckks))
    publication = Publication(directory, {**coordinator.masked, **coordinator.ckks})
    services.add_CkksServiceServicer_to_server(ckks, server)  # type: ignore[no-untyped-call]
    services.add_MaskedServiceServicer_to_server(masked, server)  # type: ignore[no-untyped-call]
    services.add_PublicationServiceServicer_to_server(publication, server)  # type: ignore[no-untyped-call]
    try:
        port = server.add_secure_port(address, server_credentials(files))
    except RuntimeError as error:
        raise TransportError(f"{address}: cannot listen there: the port is in use, or not ours; {error}") from error
    server.start()
    host = address.rpartition(":")[0].strip("[]")
    return Listener(server, {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port)  # noqa: S104


def serve(
    config: ServerConfig,
    events: EventLog,
    *,
    stop: threading.Event,
    clock: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
    checkpoint: Checkpoint = no_checkpoint,
) -> None:
    """Run until `stop` is set. Raises SecaggError when it cannot start."""
    files = load_identity(config.identity)
    with ExitStack() as stack:
        stack.enter_context(FolderLock(make_folder(config.state)))
        host = Host(files.signer, lambda: int(clock()), events, checkpoint, config.degree_check_seconds, monotonic)
        coordinator = Coordinator.load(config, files, host)
        stack.callback(coordinator.store.close)
        coordinator.warm()
        listener = listen(coordinator, config.listen, files)
        stack.callback(lambda: listener.server.stop(GRACE_SECONDS).wait())
        check_refuses_tls12(listener.host, listener.port, config.identity)
        events.emit(
            "listening",
            address=f"{listener.host}:{listener.port}",
            sessions=[*coordinator.sessions, *coordinator.masked, *coordinator.ckks],
        )
        pace = Pace()
        while not stop.is_set():
            coordinator.advance(pace)
            stop.wait(TICK_SECONDS)
    events.emit("stopped")


def raise_file_limit() -> None:
    """Let this process open as many files as the machine allows it; many systems begin with 1024.

    Every connection is one, whoever opened it: a stranger without a certificate too, until its handshake has failed.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # where it is not to be had, what there was before stays
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def run(
    config: ServerConfig,
    stream: TextIO | None,
    *,
    as_json: bool,
    monotonic: Callable[[], float] = time.monotonic,
    checkpoint: Checkpoint = no_checkpoint,
) -> None:
    """Serve until SIGTERM or SIGINT; show events on `stream` and keep them in the state folder."""
    raise_file_limit()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    events = EventLog(make_folder(config.state) / "events.jsonl", stream, as_json=as_json)
    try:
        serve(config, events, stop=stop, monotonic=monotonic, checkpoint=checkpoint)
    finally:
        events.close()
