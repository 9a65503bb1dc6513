"""How client-level noise describes itself to an accountant (protocol.md §14.6)."""

from typing import Literal

from pydantic import Field

from secagg.plan import Frozen


class ClientStatement(Frozen):
    """The client-level guarantee of one upload, as its client signs it; what it spends follows from the descriptor.

    What is hidden is one client's whole change, against a change of zero; who takes part is public, and no sampling is
    counted. `releases` are those of the whole series that hold a vector of this client: one a session.
    """

    mechanism: Literal["distributed-discrete-gaussian"] = "distributed-discrete-gaussian"
    unit: Literal["client"] = "client"
    adjacency: Literal["zero-out-one"] = "zero-out-one"
    sampler: Literal["none"] = "none"
    noise_multiplier: float = Field(gt=0)
    colluders: int = Field(ge=0)
    delta: float = Field(gt=0, lt=1)
    releases: int = Field(ge=1)
