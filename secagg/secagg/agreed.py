"""What training needs to know of a session, whichever protocol adds up its result (protocol.md §4, §12.2)."""

from typing import TYPE_CHECKING, Protocol

from secagg.plan import Plan

if TYPE_CHECKING:
    from secagg.client_noise.setting import NoiseGrid
    from secagg.descriptor import AuditReserve


class Agreed(Protocol):
    """A descriptor in so far as it says what is trained, and under which name a ledger counts it."""

    @property
    def ctx(self) -> str:
        """The session's name."""

    @property
    def series(self) -> str:
        """The ctx of the first round of its series."""

    @property
    def plan(self) -> Plan:
        """What is trained, and how."""

    @property
    def number(self) -> int:
        """Which round of its series the session is, from 0."""

    @property
    def steps(self) -> range:
        """Which of the plan's steps are taken."""

    @property
    def audit(self) -> "AuditReserve | None":
        """What is set aside for an audit."""

    @property
    def noise_grid(self) -> "NoiseGrid | None":
        """The numbers of its noise for whole clients, if it has any."""
