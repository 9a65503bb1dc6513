"""Concentrated differential privacy of sums of discrete Gaussians (protocol.md §14.6).

Kairouz, Liu and Steinke 2021 ("The distributed discrete Gaussian mechanism", theorem 1); the conversion is
proposition 12 of Canonne, Kamath and Steinke 2020. The client holds both against dp-accounting.
"""

import math
from fractions import Fraction

ORDERS = (1.05, 1.1, 1.2, 1.3, 1.4, 1.5, 1.75, *(1 + k / 4 for k in range(4, 60)), *range(16, 256), 512, 1024, 4096)
"""Renyi orders at which the conversion is tried; each of them gives a valid epsilon."""


def tau(variance: Fraction, clients: int) -> float:
    """Most that a sum of `clients` discrete Gaussians, each of `variance`, differs from one discrete Gaussian."""
    s = float(variance)
    return 10 * math.fsum(math.exp(-2 * math.pi**2 * s * k / (k + 1)) for k in range(1, clients))


def rho(bound: int, variance: Fraction, clients: int, length: int) -> float:
    """zCDP of a sum of `length` values to which `clients` each add noise of `variance`.

    `bound` is the squared L2 sensitivity, in the same units as the variance.
    """
    ratio = float(bound / (clients * variance))
    gap = tau(variance, clients)
    epsilon = min(math.sqrt(ratio + gap * length / 2), math.sqrt(ratio) + gap * math.sqrt(length))
    return epsilon**2 / 2


def epsilon(rho_: float, delta: float) -> float:
    """(epsilon, delta) of a mechanism of rho-zCDP, the least over ORDERS."""
    found = min(order * rho_ + math.log1p(-1 / order) - math.log(delta * order) / (order - 1) for order in ORDERS)
    return max(0.0, float(found))
