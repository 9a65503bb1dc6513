"""`keyholder.toml`."""

from pydantic import Field

from secagg.plan import Frozen, Hash
from secagg_host.config import Address, LocalPath


class KeyHolderConfig(Frozen):
    """Where the coordinator is, and where this key-holder's identity, state and policy are.

    `session` names the session when the coordinator runs several with this key-holder. `patience_minutes` is how
    long the coordinator may be out of reach at a stretch.
    """

    coordinator: Address
    identity: LocalPath
    state: LocalPath
    policy: LocalPath
    session: Hash | None = None
    patience_minutes: float = Field(gt=0, default=60.0)
