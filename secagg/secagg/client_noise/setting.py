"""What a session says of client-level noise, and the grid that follows from it (protocol.md §14.1 to §14.3, §14.6)."""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Self

from pydantic import Field

from secagg.client_noise import concentrated
from secagg.codec import Group, Quantiser
from secagg.errors import ParameterError
from secagg.plan import Frozen

OVERFLOW_LOG2 = -60
"""log2 of the probability with which any value of a client's vector leaves the range."""
FAILURE = 2.0**-59
"""Most that one client's upload differs from the ideal mechanism: overflow, and rounding that never fits (§14.5)."""
DELTA_KEPT = 0.999
"""The part of delta that the noise may use; the rest pays for FAILURE."""
MAX_RATIO = 1.0
_LN2 = Fraction(6931471806, 10**10)
_VARIANCE_UNIT = 256


class ClientNoise(Frozen):
    """Noise with a whole client as the unit of privacy; in the descriptor, so in ctx.

    `clip` bounds the L2 norm of a client's vector, each value counted in units of its part's clip (1: as large as one
    value at its own clip). `noise_multiplier` z is the deviation of the noise of `n_min - colluders` clients, over the
    sensitivity. `colluders` clients may tell their noise, or add none. `accept_noise_over_signal` allows a session
    whose noise is larger than what it hides.
    """

    clip: float = Field(ge=1e-6, le=1e6)
    noise_multiplier: float = Field(ge=1e-3, le=1000)
    colluders: int = Field(ge=0, le=1_000_000, default=1)
    delta: float = Field(ge=1e-15, lt=1e-2)
    accept_noise_over_signal: bool = False


class EvenQuantiser(Quantiser):
    """A quantiser of which 0 is a level: the largest value is 2^bits - 2, and 0 is encoded as half of it (§14.2)."""

    __slots__ = ()

    @property
    def levels(self) -> int:
        """Largest encoded value."""
        return (1 << self.bits) - 2


@dataclass(frozen=True, slots=True)
class NoiseGrid:
    """The numbers that every party computes alike from the descriptor.

    Args:
        noise: the setting.
        quantiser: that of the session without noise: its parts and their clips.
        honest: clients whose noise is counted, n_min - colluders.
        n_min, n_max: of the session.
        scale: S, levels from 0 to a part's clip; the largest that leaves room for the noise.

    Make it with `make`, which checks everything.
    """

    noise: ClientNoise
    quantiser: Quantiser
    honest: int
    n_min: int
    n_max: int
    scale: int

    @classmethod
    def make(cls, noise: ClientNoise, quantiser: Quantiser, n_min: int, n_max: int) -> Self:
        """The grid with the finest scale.

        Raises:
            ParameterError: no honest client is left, or signal and noise do not fit the bits.
        """
        honest = n_min - noise.colluders
        if honest < 1:
            raise ParameterError(
                f"n_min is {n_min} and {noise.colluders} clients may collude: nobody is left whose noise counts"
            )
        low, high = 0, (1 << (quantiser.bits - 1)) - 1
        while low < high:
            middle = (low + high + 1) // 2
            if cls(noise, quantiser, honest, n_min, n_max, middle).fits:
                low = middle
            else:
                high = middle - 1
        if not low:
            raise ParameterError(
                f"client noise with multiplier {noise.noise_multiplier:g} and clip {noise.clip:g} does not fit "
                f"{quantiser.bits} bits with probability 1 - 2^{OVERFLOW_LOG2}: take more bits, a smaller clip or "
                "multiplier, or a larger n_min"
            )
        return cls(noise, quantiser, honest, n_min, n_max, low)

    @property
    def length(self) -> int:
        """L, values in the vector."""
        return self.quantiser.length

    @property
    def half(self) -> int:
        """The level of 0, and the room on either side of it."""
        return (1 << (self.quantiser.bits - 1)) - 1

    @property
    def clip(self) -> int:
        """L2 clip of the vector before it is rounded, in levels, rounded up."""
        return math.ceil(Fraction(self.noise.clip) * self.scale)

    @property
    def bound(self) -> int:
        """D2 squared: the largest squared L2 norm of a rounded vector, in levels (§14.3; beta = exp(-1/2))."""
        root = math.isqrt(self.length - 1) + 1
        return self.clip**2 + -(-self.length // 4) + self.clip + -(-root // 2)

    @property
    def variance(self) -> Fraction:
        """Of the noise that one client adds to one value, in levels squared; a multiple of 1/256, rounded up."""
        exact = Fraction(self.noise.noise_multiplier) ** 2 * self.bound / self.honest
        return Fraction(math.ceil(exact * _VARIANCE_UNIT), _VARIANCE_UNIT)

    @property
    def reach(self) -> int:
        """Largest noise of any of a client's L values but with probability 2^-60: P(|X| > k) <= 2 exp(-(k+1)^2/2v)."""
        logarithm = _LN2 * (1 - OVERFLOW_LOG2 + self.length.bit_length())
        return math.isqrt(math.ceil(2 * self.variance * logarithm))

    @property
    def fits(self) -> bool:
        """Whether rounded signal and noise stay in range; the rounding moves a value by less than one level."""
        return self.scale + 1 + self.reach <= self.half

    @property
    def noisy_quantiser(self) -> EvenQuantiser:
        """The mapping in force: the same parts, with clips as wide as signal and noise together."""
        parts = self.quantiser.parts
        widened = tuple(Group(part.offset, part.size, part.clip * (self.half / self.scale)) for part in parts)
        return EvenQuantiser(widened, self.quantiser.bits)

    @property
    def rho(self) -> float:
        """zCDP of one release, for one client whose change is replaced by zero (§14.6)."""
        return concentrated.rho(self.bound, self.variance, self.honest, self.length)

    def epsilon(self, releases: int) -> float:
        """Of all releases together, at `noise.delta`.

        Raises:
            ParameterError: the noise is so small that what delta keeps back does not pay for overflow.
        """
        spent = concentrated.epsilon(releases * self.rho, DELTA_KEPT * self.noise.delta)
        slack = (1 - DELTA_KEPT) * self.noise.delta
        if math.log1p(math.exp(-spent)) + spent + math.log(releases * self.n_max * FAILURE) > math.log(slack):
            raise ParameterError(
                f"client noise with multiplier {self.noise.noise_multiplier:g} spends an epsilon of {spent:.3g}: that "
                "protects nobody, and is not accounted. Take a larger multiplier, or leave client_noise out"
            )
        return spent

    def guarantee_in_words(self, releases: int) -> str:
        """For the certificate, the model card and whoever decides; of all releases together."""
        return (
            "Client-level: were the whole change of one member zero, the probability of any release would differ by at "
            f"most a factor exp({self.epsilon(releases):.4g}), but for probability {self.noise.delta:.3g} "
            f"(discrete Gaussian noise of each member, of which that of {self.honest} counts; no sampling). It assumes "
            f"that of any {self.n_min} members at most {self.noise.colluders} tell or leave out their noise. Who is a "
            "member is public."
        )

    def noise_over_signal(self, clients: int) -> float:
        """L2 norm of the noise in the mean of `clients`, rounding included, over the largest norm of the mean."""
        variance = float(self.variance) + 0.25
        signal = self.scale * min(self.noise.clip, math.sqrt(self.length))
        return math.sqrt(self.length * variance / clients) / signal

    def check_ratio(self) -> None:
        """Raise ParameterError for more noise than signal at n_min clients, unless the session accepts that."""
        if self.noise_over_signal(self.n_min) > MAX_RATIO and not self.noise.accept_noise_over_signal:
            raise ParameterError(
                f"{self.ratio_in_words}: the release would be mostly noise. Train fewer values, take more clients or a "
                "smaller noise_multiplier, or set accept_noise_over_signal = true in [client_noise]"
            )

    @property
    def ratio_in_words(self) -> str:
        """For whoever is about to start."""
        return (
            f"client-level noise is {self.noise_over_signal(self.n_min):.3g} times the largest signal in a mean of "
            f"{self.n_min} clients, over {self.length} values"
        )
