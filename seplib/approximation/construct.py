"""The universal approximation theorem as a program: a separable network within eps of f, with its certificate (Theorem 1).

The program goes the way the proof goes. First a separable expansion g with ``|f - g| < eps / 2`` (:mod:`seplib.approximation.interpolation`
in the place of the Stone-Weierstrass theorem). Then each univariate factor of g is fitted by a two-layer network of the
theorem's class to the tolerance delta that the error bound asks for; with the hidden layer fixed this is a linear least
squares problem. All in float64; these steps are LAPACK's, on the CPU, and what they give is measured on any device.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seplib import activations
from seplib.activations import Activation
from seplib.approximation import expansions
from seplib.approximation.expansions import Interval, Model, ranks
from seplib.approximation.interpolation import evaluator, expand, name, random_points
from seplib.approximation.univariate import fit_factors
from seplib.separable import CP, TT

ROUNDING = 1e-13  # what the sums of a network in float64 may be off by, granted to the bound of the proof
_BLOCK = 1 << 14


@dataclass(frozen=True)
class Certificate:
    """What was built and what was measured, quantity by quantity of the proof (Theorem 1, Sec. A.5).

    Attributes:
        form: "CP", "TT" or "Tucker".
        activation: its name.
        eps: the accuracy asked for.
        degrees: polynomial degree of the expansion in each dimension.
        ranks: (R,) for CP, (R_1, ..., R_{D-1}) for TT, (R_1, ..., R_D) for Tucker.
        width: hidden width W of every factor network.
        parameters: number of weights and biases, core included.
        M: largest absolute value of any factor of expansion or network.
        delta: largest error of any factor network.
        terms: what multiplies ``D M^(D-1) delta`` in the bound: R, or the product of the ranks, for Tucker times the core's
            largest entry.
        bound: ``terms D M^(D-1) delta``, the proof's bound on ``|expansion - network|``.
        sharp: the same telescoping sum with every factor's own maximum and error in place of M and delta.
        gap: largest ``|expansion - network|`` measured.
        expansion_error: largest ``|f - expansion|`` measured.
        error_grid, error_random: largest ``|f - network|`` on the grid and at the random points.
        grid: points per axis of that grid, finer than any grid f was sampled on.
        random: number of random points.
    """

    form: str
    activation: str
    eps: float
    degrees: tuple[int, ...]
    ranks: tuple[int, ...]
    width: int
    parameters: int
    M: float
    delta: float
    terms: float
    bound: float
    sharp: float
    gap: float
    expansion_error: float
    error_grid: float
    error_random: float
    grid: tuple[int, ...]
    random: int

    @property
    def error(self) -> float:
        """Largest measured ``|f - network|``, the left side of Theorem 1."""
        return max(self.error_grid, self.error_random)

    @property
    def bound_holds(self) -> bool:
        """Whether the measured gap keeps to the proof's bound (Sec. A.5), but for :data:`ROUNDING`."""
        return self.gap <= self.bound + ROUNDING

    @property
    def closed(self) -> bool:
        """Whether expansion error plus bound stay below eps, as in the proof's last line (Sec. A.5)."""
        return self.expansion_error + self.bound < self.eps


def approximate(
    f: Callable,
    domain: Sequence[Interval],
    eps: float,
    form: str = "CP",
    activation: str | Activation = "tanh",
    *,
    max_rank: int = 1500,
    max_width: int = 2048,
    max_degree: int = 16_384,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> tuple[Model, Certificate]:
    """Separable network with sup error below eps, built the way the proof goes (Theorem 1).

    Args:
        f: continuous, vectorised: of D arguments ``(N,)`` or of one argument ``(N, D)``, float64 tensors on the CPU and, for
            the certificate, on ``device``.
        domain: D >= 2 intervals (a, b), the box on which f is approximated.
        eps: the accuracy, in the supremum norm.
        form: "CP", "TT" or "Tucker".
        activation: one of :data:`seplib.activations.NAMES` or an :class:`seplib.activations.Activation`; with a polynomial
            one the theorem fails, and so does this function, saying how far it got.
        max_rank: largest rank; needing more is an error, as for the next two.
        max_width: largest width of a factor network, at least 4.
        max_degree: largest degree of the expansion.
        seed: of the random points f is sampled at.
        device: where the network's errors are measured, most of the work, and where it is returned.

    Returns:
        A :class:`seplib.CP` (without scale), :class:`seplib.TT` or :class:`seplib.Tucker` network in float64 whose factors
        are ``W_2 sigma(W_1 x + b)``, and its :class:`Certificate`.

    Raises:
        ValueError: eps not positive, form, activation or domain wrong, f not real and finite on the box, or eps out of
            reach within the limits or in float64; the message says how far it got.

    >>> model, certificate = approximate(lambda x, y: torch.cos(x * y), [(-1, 1), (-1, 1)], 1e-3)
    >>> certificate.error < 1e-3, certificate.bound_holds
    (True, True)
    """
    if not eps > 0 or not math.isfinite(eps):
        raise ValueError(f"eps must be positive and finite, got {eps}")
    sigma, ask = activations.get(activation), evaluator(f, domain)
    g = expand(f, domain, eps / 2, form, max_rank=max_rank, max_degree=max_degree, seed=seed)
    width = min(16, max_width)
    while True:
        model = fit_factors(g, sigma, width).to(device)
        M, delta = factor_errors(g, model)
        bound = _terms(g) * len(domain) * M ** (len(domain) - 1) * delta
        if bound < eps / 2:
            break
        if width >= max_width:
            raise ValueError(
                f"eps = {eps:g} is out of reach with {sigma.name}: {name(g)} and width {width} give "
                f"factor errors of {delta:.1e}, so an error bound of {bound:.1e} where {eps / 2:g} is needed"
            )
        width = min(2 * width, max_width)
    certificate = certify(ask, domain, g.to(device), model, eps, seed=seed)
    if not certificate.error < eps:
        raise ValueError(
            f"eps = {eps:g} is out of reach: the network's error is {certificate.error:.1e} at points that the expansion "
            f"was not checked at; is f continuous?"
        )
    return model, certificate


def certify(
    f: Callable, domain: Sequence[Interval], g: Model, model: Model, eps: float, *, seed: int = 0
) -> Certificate:
    """Measure every quantity of the proof for an expansion g and a network of the same form (Theorem 1, Sec. A.5).

    Args:
        f: as for :func:`approximate`.
        domain: D intervals (a, b).
        g: expansion with :class:`seplib.approximation.expansions.ChebyshevFactor` factors.
        model: network of the same form and ranks, on the same device, where f is asked as well.
        eps: the accuracy that was asked for.
        seed: of the random points, which differ from those of the construction.
    """
    ask, D = evaluator(f, domain), len(domain)
    M, delta = factor_errors(g, model)
    terms = _terms(g)
    degrees = tuple(len(c.coefficients) - 1 for c in g.factors)
    device = model.factors[0].weights[0].device
    axes = [x.to(device) for x in _finer_axes(domain, degrees)]
    gap, expansion_error, error_grid = _grid_errors(ask, axes, g, model)
    generator = torch.Generator().manual_seed(seed + 1)
    X = random_points(domain, 100_000, generator).to(device)
    wanted = ask(X)
    with torch.no_grad():
        network, series = (torch.cat([m.points(x)[0] for x in X.split(_BLOCK)]) for m in (model, g))
    return Certificate(
        form=type(g).__name__,
        activation=model.factors[0].activation.name,
        eps=eps,
        degrees=degrees,
        ranks=ranks(g),
        width=model.factors[0].weights[0].shape[1],
        parameters=sum(p.numel() for p in model.parameters()),
        M=M,
        delta=delta,
        terms=terms,
        bound=terms * D * M ** (D - 1) * delta,
        sharp=_sharp(g, model),
        gap=max(gap, (network - series).abs().max().item()),
        expansion_error=max(expansion_error, (wanted - series).abs().max().item()),
        error_grid=error_grid,
        error_random=(wanted - network).abs().max().item(),
        grid=tuple(len(x) for x in axes),
        random=len(X),
    )


def _terms(g: Model) -> float:
    """What multiplies D M^(D-1) delta in the proof's bound."""
    count = float(math.prod(ranks(g)))
    return count if isinstance(g, (CP, TT)) else count * g.core.detach().abs().max().item()


def _profiles(g: Model, model: Model) -> list[tuple[Tensor, Tensor]]:
    """For each dimension: the factor's maxima (network or expansion, the larger) and the network's errors, output by output."""
    profiles = []
    with torch.no_grad():
        for series, factor in zip(g.factors, model.factors):
            # Denser than the nodes of the fit, and not the same ones.
            n = 8 * max(len(series.coefficients), factor.weights[0].shape[1]) + 1001
            device = factor.weights[0].device
            x = expansions.place(expansions.nodes(n), series.interval).to(device)
            exact = expansions.at_nodes(series, n).to(device)
            fitted = torch.cat([factor(part)[0] for part in x.split(_BLOCK)])
            maxima = torch.maximum(exact.abs().amax(0), fitted.abs().amax(0))
            profiles.append((maxima, (exact - fitted).abs().amax(0)))
    return profiles


def factor_errors(g: Model, model: Model) -> tuple[float, float]:
    """M and delta of Sec. A.5: the largest factor of expansion or network, and the largest error of a factor network.

    Both are measured at Chebyshev nodes much denser than the points of the fit.
    """
    profiles = _profiles(g, model)
    return max(m.max().item() for m, _ in profiles), max(e.max().item() for _, e in profiles)


def _sharp(g: Model, model: Model) -> float:
    """The telescoping sum itself: for each d, errors in place d and maxima elsewhere, contracted as the form contracts."""
    profiles = _profiles(g, model)
    total = 0.0
    for d in range(len(profiles)):
        parts = [errors if other == d else maxima for other, (maxima, errors) in enumerate(profiles)]
        if isinstance(g, CP):
            total += math.prod(parts[1:], start=parts[0]).sum().item()
        elif isinstance(g, TT):
            shapes = itertools.pairwise((1, *g.ranks, 1))
            total += torch.linalg.multi_dot([p.unflatten(0, s) for p, s in zip(parts, shapes)]).item()
        else:
            product = g.core.detach()[0].abs()
            for part in parts:
                product = torch.tensordot(part, product, 1)
            total += product.item()
    return total


def _finer_axes(domain: Sequence[Interval], degrees: Sequence[int]) -> list[Tensor]:
    """Twice as many points per axis as the expansion has nodes, odd so that ends and middles belong to them.

    Above 6e7 points the axes are thinned, last resort of D > 4.
    """
    sizes = [2 * (n + 1) + 1 for n in degrees]
    while math.prod(sizes) > 60_000_000:
        sizes = [max(5, int(0.9 * n) // 2 * 2 + 1) for n in sizes]
    return [torch.linspace(a, b, n, dtype=torch.float64) for (a, b), n in zip(domain, sizes)]


def _grid_errors(ask, axes: list[Tensor], g: Model, model: Model) -> tuple[float, float, float]:
    first, *rest = axes
    step = max(1, 1_000_000 // math.prod(len(x) for x in rest))
    largest = first.new_zeros(3)
    for rows in first.split(step):
        wanted = ask(torch.cartesian_prod(rows, *rest)).reshape(len(rows), *(len(x) for x in rest))
        with torch.no_grad():
            series, network = (m.grid([rows, *rest])[0] for m in (g, model))
        errors = [(network - series), (wanted - series), (wanted - network)]
        largest = torch.maximum(largest, torch.stack([e.abs().max() for e in errors]))
    return tuple(largest.tolist())
