"""What a session of any protocol makes of its client-level noise (protocol.md §14)."""

from collections.abc import Sequence
from typing import Protocol

from secagg.client_noise.setting import ClientNoise, NoiseGrid
from secagg.client_noise.statement import ClientStatement
from secagg.codec import Quantiser
from secagg.encodings.base import Encoding
from secagg.errors import MalformedError, PolicyViolation
from secagg.privacy import PrivacyStatement, guarantee_in_words


class NoisySession(Protocol):
    """A descriptor in so far as it says what noise clients add, and how many releases one client is in."""

    @property
    def client_noise(self) -> ClientNoise | None:
        """The setting, if there is any."""

    @property
    def noise_grid(self) -> NoiseGrid | None:
        """The numbers that follow from it."""

    @property
    def rounds(self) -> int:
        """Of its series."""

    @property
    def client_releases(self) -> int:
        """Those that a vector of one client is in, over the whole series (protocol.md §14.6)."""


def make_grid(noise: ClientNoise | None, quantiser: Quantiser, n_min: int, n_max: int) -> NoiseGrid | None:
    """The numbers of a session with that setting, or None without. Raises ParameterError."""
    return None if noise is None else NoiseGrid.make(noise, quantiser, n_min, n_max)


def statement_of(session: NoisySession) -> ClientStatement | None:
    """What each client says of its noise (protocol.md §14.6a), if the session has it."""
    noise = session.client_noise
    if noise is None:
        return None
    return ClientStatement(
        noise_multiplier=noise.noise_multiplier,
        colluders=noise.colluders,
        delta=noise.delta,
        releases=session.client_releases,
    )


def check_setting(session: NoisySession, encoding: Encoding) -> None:
    """Whether a session may be made with its noise (protocol.md §14.5, §14.6, §14.8, §14.9).

    Raises MalformedError for an encoding that counts clients, ParameterError where signal and noise do not fit the
    bits, the release would be mostly noise unasked, or delta does not pay for overflow.
    """
    grid = session.noise_grid
    if grid is None:
        return
    if encoding.equal_weights:
        raise MalformedError(f"{encoding.name} counts clients, which noise makes meaningless: leave it out")
    grid.check_ratio()
    grid.epsilon(session.client_releases)


def check_colluders(noise: ClientNoise | None, assumed_corrupt: int) -> None:
    """Raise PolicyViolation when fewer colluders are allowed for than a party assumes to be corrupt (§14.7)."""
    if noise is not None and noise.colluders < assumed_corrupt:
        raise PolicyViolation(
            f"client-level noise allows for {noise.colluders} colluding clients, {assumed_corrupt} "
            "corrupt ones are assumed here: the noise of the others would be too little"
        )


def privacy_note(session: NoisySession, statements: Sequence[PrivacyStatement]) -> str:
    """The guarantee in words, by the weakest of the members' statements and, with noise, for whole clients too."""
    note, grid = guarantee_in_words(statements, session.rounds), session.noise_grid
    return note if grid is None else f"{note} {grid.guarantee_in_words(session.client_releases)}"


def verified_in_words(session: NoisySession) -> tuple[str, ...]:
    """What a verifier says when every member signed for its noise: nothing in a session without. Epsilon is new."""
    if session.noise_grid is None:
        return ()
    spent = session.noise_grid.epsilon(session.client_releases)
    return (f"every member signed for its share of the client-level noise: epsilon {spent:.4g}, computed anew",)
