"""server.toml: what the coordinator's operator decides."""

from typing import Annotated

from pydantic import AfterValidator, Field

from secagg.plan import Frozen
from secagg_host.config import LocalPath

ADDRESS_PATTERN = r"^(\[[0-9A-Fa-f:.]+\]|[^:\[\]]+):[0-9]{1,5}$"


MAX_PORT = 65_535


def _check_port(address: str) -> str:
    """gRPC would take the port modulo 2^16, and listen where nobody looks."""
    if int(address.rpartition(":")[2]) > MAX_PORT:
        raise ValueError(f"the port of {address} is above {MAX_PORT}")
    return address


class ServerConfig(Frozen):
    """Paths are relative to the file's folder.

    `release` is the folder that is written when the session is released; with several sessions, each gets a
    folder named by its ctx below it. `close_at_uploads` closes a session before its deadline as soon as it has so
    many uploads.
    """

    listen: Annotated[str, Field(pattern=ADDRESS_PATTERN), AfterValidator(_check_port)]
    identity: LocalPath
    state: LocalPath
    release: LocalPath
    sessions: tuple[LocalPath, ...] = Field(min_length=1, max_length=1000)
    close_at_uploads: int | None = Field(default=None, ge=2)
