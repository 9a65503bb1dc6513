"""Which times a coordinator signs where there are several releases (protocol.md §8.1a).

A receipt that is dated before a set without its upload proves that the upload was dropped, and one that is dated after
the set that it is in, that the set was dated back. So an honest coordinator's dates are in order, whatever its clock
does: a receipt may be signed a moment after `now` was read, and clocks are set back.
"""

from secagg_server.session import ServedSession


def time_of_receipt(session: ServedSession) -> int:
    """The clock, but not before the last set was fixed. The caller holds the session's lock."""
    return max(session.host.clock(), _fixed_last(session))


def time_of_set(session: ServedSession, now: int) -> int:
    """`now`, but not before any receipt or the set before. The caller holds the session's lock."""
    if session.descriptor.releases == 1:
        return now
    return max(now, _fixed_last(session), *(arrival.received_at for arrival in session.store.arrivals()))


def _fixed_last(session: ServedSession) -> int:
    """When the last of several candidate sets was fixed; before the first, when the session was made."""
    candidate = None if session.descriptor.releases == 1 else session.store.candidate()
    return session.descriptor.created_at if candidate is None else candidate.statement.fixed_at
