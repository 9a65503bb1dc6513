"""server.toml: what the coordinator's operator decides."""

from pydantic import Field

from secagg.plan import Frozen
from secagg_host.config import Address, LocalPath
from secagg_server.session import DEGREE_CHECK_SECONDS


class ServerConfig(Frozen):
    """Paths are relative to the file's folder.

    `release` is the folder that is written when the session is released; with several sessions, each gets a folder
    named by its ctx below it, and all rounds of one series share that of the first. A session of several rounds puts
    each into `round-1`, `round-2`, ...: `sessions` then holds all rounds so far. A session of several releases puts
    each into `release-1`, `release-2`, ...

    `close_at_uploads`, at least n_min and not with masked sessions, closes a session, or each release but the last of
    several, before its deadline as soon as it has so many uploads that are in no release yet; without it a release of
    several closes at n_min. `degree_check_seconds` is how long a key-holder that has not answered the degree check is
    waited for, once enough have endorsed the set; a release without t + 1 answers says `unchecked` (protocol.md §8.4).
    """

    listen: Address
    identity: LocalPath
    state: LocalPath
    release: LocalPath
    sessions: tuple[LocalPath, ...] = Field(min_length=1, max_length=1000)
    close_at_uploads: int | None = Field(default=None, ge=2)
    degree_check_seconds: int = Field(default=DEGREE_CHECK_SECONDS, ge=0, le=86_400)
