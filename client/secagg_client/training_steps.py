"""What a client's run asks of training, whichever protocol carries the result. `local_training` is the real one."""

from pathlib import Path
from typing import Protocol

from secagg.agreed import Agreed
from secagg.plan import Plan
from secagg_client.client_state import Trained


class Prepared(Protocol):
    """A training run whose model and data were loaded and checked against the descriptor."""

    def charge(self) -> None:
        """Enter the run in the ledger, durably. Raises PolicyViolation when the data were used up."""

    def train(self) -> Trained:
        """Train. Called once, after `charge`."""


class Training(Protocol):
    """Everything that a client does with model, data and ledger. `LocalTraining` is the real one."""

    def prepare(self, descriptor: Agreed, plan: Plan) -> Prepared:
        """Load model and data, and check them against the plan, which starts where the round before ended.

        Raises ModelError or DataError.
        """

    def mark_sealed(self, descriptor: Agreed, upload_root: str) -> None:
        """This upload is about to leave: never train for this session again. Doing it again changes nothing.

        Raises LedgerError for another upload than the first: only one result of a session may leave.
        """

    def abandon(self, descriptor: Agreed) -> None:
        """The session ended before anything was sealed. Does nothing when no run was begun."""

    def after_release(self, release: Path, descriptor: Agreed) -> None:
        """Measure the release on the institution's own data, for itself."""
