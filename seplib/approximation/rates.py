"""How fast the error falls with the rank: explicit bounds, which the paper leaves to future work (Sec. A.1.2).

Cutting the Chebyshev series of f in one variable leaves ``sum_{k<R} a_k(y) T_k(x)``, a separable function of rank R. So the
classical bounds for polynomials in one variable are bounds for the rank.
"""

import math
from collections.abc import Callable

import numpy as np
import torch


def analytic_bound(maximum: float, rho: float, rank: int) -> float:
    """Sup error of rank R for D = 2, f analytic in x inside a Bernstein ellipse (Sec. A.1.2).

    ``2 M rho^-(R-1) / (rho - 1)``, with M the maximum of ``|f(z, y)|`` for z on the ellipse and y in its interval.

    Args:
        maximum: M, as from :func:`ellipse_maximum`.
        rho: sum of the half-axes of the ellipse with foci -1 and 1, above 1.
        rank: R >= 1.

    Raises:
        ValueError: rho not above 1, or a rank below 1.

    >>> analytic_bound(1.0, 2.0, 3)
    0.5
    """
    _check(rho, rank)
    return 2 * maximum * rho ** (1 - rank) / (rho - 1)


def _ellipses(largest: float) -> np.ndarray:
    return 1 + (largest - 1) * np.linspace(0.05, 0.999, 60)


def best_analytic_bound(f: Callable, rank: int, largest: float) -> float:
    """Least :func:`analytic_bound` over ellipses inside the largest one (Sec. A.1.2).

    Args:
        f: of two complex tensors.
        rank: R >= 1.
        largest: rho of an ellipse inside which f is analytic in x for every y in [-1, 1].
    """
    return min(analytic_bound(ellipse_maximum(f, rho), rho, rank) for rho in _ellipses(largest))


def ellipse_maximum(f: Callable, rho: float, points: int = 400) -> float:
    """Maximum of ``|f(z, y)|`` over z on a Bernstein ellipse and y in [-1, 1], on a grid (Sec. A.1.2)."""
    w = rho * torch.exp(2j * torch.pi * torch.arange(points, dtype=torch.float64) / points)
    y = torch.linspace(-1, 1, points // 4 + 1, dtype=torch.float64)
    z = ((w + 1 / w) / 2)[:, None]
    return f(z.expand(-1, len(y)), y.expand(len(w), -1).to(z.dtype)).abs().max().item()


def sobolev_bound(variation: float, order: int, rank: int) -> float:
    """Sup error of rank R for D = 2, f with k derivatives in x, the k-th of bounded variation V (Sec. A.1.2).

    ``2 V / (pi k (R - 1 - k)^k)`` for R - 1 > k, uniformly in y; infinite for smaller ranks.

    Args:
        variation: V, for the worst y.
        order: k >= 1.
        rank: R.

    Raises:
        ValueError: an order below 1.

    >>> round(sobolev_bound(2.0, 1, 12), 4)
    0.1273
    """
    if order < 1:
        raise ValueError(f"order must be at least 1, got {order}")
    if rank - 1 <= order:
        return math.inf
    return 2 * variation / (math.pi * order * (rank - 1 - order) ** order)


def total_degree_bound(maximum: float, rho: float, dims: int, degree: int) -> tuple[int, float]:
    """CP rank and sup error for D dimensions, f analytic in D - 1 variables inside equal ellipses (Sec. A.1.2).

    The coefficients of the multivariate series in those variables are at most ``2^(D-1) M rho^-|k|``. Keeping
    ``|k| <= m`` makes ``R = binom(m + D - 1, D - 1)`` terms and loses at most the sum of the others.

    Args:
        maximum: M over the product of the ellipses.
        rho: above 1.
        dims: D >= 2.
        degree: m >= 0.

    Returns:
        Rank and error bound; the error is ``exp(-c R^(1/(D-1)))`` up to powers of R.

    Raises:
        ValueError: rho not above 1, fewer than 2 dimensions, or a negative degree.

    >>> total_degree_bound(1.0, 2.0, 2, 2)
    (3, 0.5)
    """
    _check(rho, 1)
    if dims < 2 or degree < 0:
        raise ValueError(f"dims must be at least 2 and degree at least 0, got {dims} and {degree}")
    s = dims - 1
    shells = range(degree + 1, degree + 1 + math.ceil(60 / math.log(rho)))  # the rest is below rounding
    tail = math.fsum(math.comb(j + s - 1, s - 1) * rho**-j for j in shells)
    return math.comb(degree + s, s), 2**s * maximum * tail


def best_total_degree_bound(
    maximum: Callable[[float], float], dims: int, degree: int, largest: float
) -> tuple[int, float]:
    """Least :func:`total_degree_bound` over ellipses inside the largest one (Sec. A.1.2).

    Args:
        maximum: of rho, a bound of ``|f|`` over the product of the ellipses.
        dims: D >= 2.
        degree: m >= 0.
        largest: rho of ellipses inside whose product f is analytic.
    """
    return min(total_degree_bound(maximum(rho), rho, dims, degree) for rho in _ellipses(largest))


def _check(rho: float, rank: int) -> None:
    if not rho > 1:
        raise ValueError(f"rho must be above 1, got {rho}")
    if rank < 1:
        raise ValueError(f"rank must be at least 1, got {rank}")
