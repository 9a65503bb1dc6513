"""Which session a call is about: named by its ctx, or the one that the caller can only mean (protocol.md §11.2)."""

from collections.abc import Collection, Mapping
from typing import Generic, Protocol, TypeVar

from secagg.errors import MalformedError, RoleViolation, UnknownSession
from secagg.identity import Identity
from secagg_host.tls import grpc
from secagg_server.authorisation import peer_identity


class Admitting(Protocol):
    """A served session, of whichever protocol, in so far as it lets parties in."""

    @property
    def ctx(self) -> str:
        """The session's name."""

    @property
    def running(self) -> bool:
        """Whether it has not ended."""

    def admit(self, peer: Identity) -> None:
        """Raise RoleViolation unless `peer` belongs to it."""


S = TypeVar("S", bound=Admitting)


class Directory(Generic[S]):
    """The sessions of one protocol that this coordinator serves, by ctx; `joined` are those that may go unnamed."""

    def __init__(self, protocol: str, sessions: Mapping[str, S], joined: Collection[str] | None = None) -> None:
        self._protocol, self._sessions = protocol, sessions
        self._joined = [session for ctx, session in sessions.items() if joined is None or ctx in joined]

    def find(self, ctx: str, peer: Identity) -> S:
        """A session that `peer` belongs to; the empty ctx means the only one, or of its own the only one that runs.

        Raises UnknownSession or RoleViolation.
        """
        session = self._sessions.get(ctx) if ctx else self._unnamed(peer)
        if session is None:
            raise UnknownSession(
                f"no {self._protocol} session {ctx[:16] or 'to join'} at this coordinator: is the policy for its "
                "protocol?"
            )
        session.admit(peer)
        return session

    def of(self, ctx: bytes, context: grpc.ServicerContext) -> tuple[S, Identity]:
        """The session of a request, and its caller."""
        if len(ctx) not in (0, 32):
            raise MalformedError(f"ctx has {len(ctx)} bytes, not 32")
        peer = peer_identity(context)
        return self.find(ctx.hex(), peer), peer

    def _unnamed(self, peer: Identity) -> S | None:
        if len(self._joined) <= 1:
            return self._joined[0] if self._joined else None
        own = [session for session in self._joined if _belongs(peer, session)]
        going_on = [session for session in own if session.running]
        if len(going_on) == 1 or (len(own) == 1 and not going_on):
            return (going_on or own)[0]
        if not own:
            return None
        named = ", ".join(session.ctx for session in going_on or own)
        raise UnknownSession(
            f"{len(going_on or own)} {self._protocol} sessions with {peer.title} are served here: put the one that is "
            f"meant, `session = ...`, into the configuration. They are {named}"
        )


def _belongs(peer: Identity, session: Admitting) -> bool:
    try:
        session.admit(peer)
    except RoleViolation:
        return False
    return True
