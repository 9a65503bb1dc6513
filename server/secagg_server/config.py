"""server.toml: what the coordinator's operator decides."""

from typing import Annotated

from pydantic import Field

from secagg.plan import Frozen
from secagg_host.config import LocalPath

ADDRESS_PATTERN = r"^(\[[0-9A-Fa-f:.]+\]|[^:\[\]]+):[0-9]{1,5}$"


class ServerConfig(Frozen):
    """Paths are relative to the file's folder.

    `release` is the folder that is written when the session is released; with several sessions, each gets a
    folder named by its ctx below it. `close_at_uploads` closes a session before its deadline as soon as it has so
    many uploads.
    """

    listen: Annotated[str, Field(pattern=ADDRESS_PATTERN)]
    identity: LocalPath
    state: LocalPath
    release: LocalPath
    sessions: tuple[LocalPath, ...] = Field(min_length=1, max_length=1000)
    close_at_uploads: int | None = Field(default=None, ge=2)
