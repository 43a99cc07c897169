"""The universal approximation theorem as a program: a separable network within eps of f, with its certificate (Theorem 1).

The program goes the way the proof goes. First a separable expansion g with ``|f - g| < eps / 2`` (:mod:`seplib.expansions`
in the place of the Stone-Weierstrass theorem). Then each univariate factor of g is fitted by a two-layer network of the
theorem's class to the tolerance delta that the error bound asks for; with the hidden layer fixed this is a linear least
squares problem. All in float64 on the CPU.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from seplib import activations, expansions
from seplib.activations import Activation
from seplib.expansions import Interval, Model
from seplib.factors import FactorMLP
from seplib.separable import CP, TT

# A part of the features lies outside the interval, so that the fit is as good at its ends as inside.
_MARGIN = 1.1
# Slope of the features times their spacing: smaller is smoother and worse conditioned.
_OVERLAP = 0.35
# Period of the sines over the interval's length: a Fourier series on a longer interval needs no periodic f.
_PERIOD = 1.3
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
        bound: ``terms D M^(D-1) delta``, the proof's bound on |expansion - network|.
        sharp: the same telescoping sum with every factor's own maximum and error in place of M and delta.
        gap: largest |expansion - network| measured.
        expansion_error: largest |f - expansion| measured.
        error_grid, error_random: largest |f - network| on the grid and at the random points.
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
        """Largest measured |f - network|, the left side of Theorem 1."""
        return max(self.error_grid, self.error_random)

    @property
    def bound_holds(self) -> bool:
        """Whether the measured gap keeps to the proof's bound (Sec. A.5); rounding of the sums is granted 1e-13."""
        return self.gap <= self.bound + 1e-13

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
) -> tuple[Model, Certificate]:
    """Separable network with sup error below eps, built the way the proof goes (Theorem 1).

    Args:
        f: continuous, vectorised: of D arguments ``(N,)`` or of one argument ``(N, D)``, float64 tensors.
        domain: D >= 2 intervals (a, b), the box on which f is approximated.
        eps: the accuracy, in the supremum norm.
        form: "CP", "TT" or "Tucker".
        activation: one of :data:`seplib.activations.NAMES` or an :class:`seplib.activations.Activation`; with a polynomial
            one the theorem fails, and so does this function, saying how far it got.
        max_rank, max_width, max_degree: limits; reaching one is an error.
        seed: of the random points f is sampled at.

    Returns:
        A :class:`seplib.CP` (without scale), :class:`seplib.TT` or :class:`seplib.Tucker` network in float64 whose factors
        are ``W_2 sigma(W_1 x + b)``, and its :class:`Certificate`.

    Raises:
        ValueError: eps not positive, form or domain wrong, f not finite on the box, or eps out of reach within the
            limits or in float64; the message says how far it got.

    >>> model, certificate = approximate(lambda x, y: torch.cos(x * y), [(-1, 1), (-1, 1)], 1e-3)
    >>> certificate.error < 1e-3, certificate.bound_holds
    (True, True)
    """
    if not eps > 0 or not math.isfinite(eps):
        raise ValueError(f"eps must be positive and finite, got {eps}")
    ask = expansions.evaluator(f, domain)
    g = expand(f, domain, eps / 2, form, max_rank=max_rank, max_degree=max_degree, seed=seed)
    width, model = 16, None
    while True:
        model = fit_factors(g, activation, width)
        M, delta = _largest(g, model)
        bound = _terms(g) * len(domain) * M ** (len(domain) - 1) * delta
        if bound < eps / 2:
            break
        if 2 * width > max_width:
            raise ValueError(
                f"eps = {eps:g} is out of reach with {activations.get(activation).name}: {_names(g)} and width {width} give "
                f"factor errors of {delta:.1e}, so an error bound of {bound:.1e} where {eps / 2:g} is needed"
            )
        width *= 2
    certificate = certify(ask, domain, g, model, eps, seed=seed)
    if not certificate.error < eps:
        raise ValueError(
            f"eps = {eps:g} is out of reach: the network's error is {certificate.error:.1e} at points that the expansion "
            f"was not checked at; is f continuous?"
        )
    return model, certificate


def expand(
    f: Callable,
    domain: Sequence[Interval],
    eps: float,
    form: str = "CP",
    *,
    max_rank: int = 1500,
    max_degree: int = 16_384,
    seed: int = 0,
) -> Model:
    """Separable Chebyshev expansion with measured sup error below eps and ranks as small as found (Theorem 1, step 1).

    An accurate Tucker expansion is interpolated, then cut to the form's ranks, the cut's tolerance halved until the error
    at random points and on a coarse grid keeps to eps.

    Args:
        f, domain, form, max_rank, max_degree, seed: as for :func:`approximate`.
        eps: bound on the measured error.

    Raises:
        ValueError: as for :func:`approximate`.
    """
    check = _Check(f, domain, seed)
    tolerance, best, anchors = eps / 2, math.inf, check.X[:0]
    while True:
        full = expansions.interpolate(f, domain, tolerance, anchors=anchors, max_degree=max_degree, seed=seed)
        error, worst = check.error(full)
        best = min(best, error)
        if error < 0.8 * eps:
            break
        # Either the fibres missed a feature of f, or they were cut too early.
        anchors, tolerance = torch.cat([anchors, worst[None]]), tolerance / 1.5
        if len(anchors) > 40:
            raise ValueError(f"eps = {eps:g} is out of reach: the Chebyshev expansion stays at an error of {best:.1e}")
    tolerance = eps * 2
    while True:
        g = expansions.compress(full, form, tolerance)
        error, _ = check.error(g)
        if max(ranks(g)) > max_rank:
            raise ValueError(
                f"eps = {eps:g} is out of reach with ranks up to {max_rank}: {_names(g)} are needed for an error of {error:.1e}"
            )
        if error < 0.95 * eps:
            return g
        tolerance /= 1.5


def fit_factors(g: Model, activation: str | Activation, width: int) -> Model:
    """Replace every univariate factor of an expansion by a network ``W_2 sigma(W_1 x + b)`` (Theorem 1, step 2).

    The hidden layer is laid out beforehand, one for all outputs of a factor; the output weights solve a linear least
    squares problem at about four nodes a neuron, by a rank-revealing QR decomposition. The layout is the better of two: even, or
    refined from 16 neurons on, each doubling placing half of the new ones where the error was.

    Args:
        g: expansion with :class:`seplib.expansions.ChebyshevFactor` factors.
        activation: name or object.
        width: W >= 4.

    Returns:
        Model of the same form; its factors are ``FactorMLP(..., depth=2, parametrization="ntk")``, whose output layer has
        no bias and whose 1/sqrt(W) is taken up by W_2. Cost: about ``12 D W^3``.

    Raises:
        ValueError: a width below 4.
    """
    if width < 4:
        raise ValueError(f"width must be at least 4, got {width}")
    sigma = activations.get(activation)
    factors = []
    for series in g.factors:
        a, b = series.interval
        slopes, offsets, weights = _least_squares(series, sigma, width)
        factor = FactorMLP(
            series.rank, width=width, depth=2, activation=sigma, parametrization="ntk", dtype=torch.float64
        )
        with torch.no_grad():
            factor.weights[0][0, :, 0] = 2 * slopes / (b - a)
            factor.biases[0][0] = offsets - slopes * (a + b) / (b - a)
            factor.weights[1][0] = weights.T * width**0.5
        factors.append(factor)
    if isinstance(g, CP):
        return CP(factors, scale=None)
    return TT(factors, g.ranks) if isinstance(g, TT) else expansions.tucker(factors, g.core)


def _least_squares(series, sigma: Activation, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden slopes and offsets on [-1, 1] and output weights (W, R): the best of even and refined layouts."""
    widths = [width]
    while widths[0] >= 32:
        widths.insert(0, (widths[0] + 1) // 2)
    refined = None
    for size, larger in itertools.zip_longest(widths, widths[1:]):
        fits = []
        for centres in (torch.linspace(-_MARGIN, _MARGIN, size, dtype=torch.float64), refined):
            if centres is not None:
                t = _fit_nodes(centres)
                slopes, offsets = hidden_layer(sigma.name, centres)
                features, wanted = sigma.value(t[:, None] * slopes + offsets), series(expansions.place(t, series.interval))[0]
                weights = scipy.linalg.lstsq(
                    features.numpy(), wanted.numpy(), cond=1e-15, lapack_driver="gelsy", check_finite=False
                )[0]
                weights = torch.from_numpy(weights)
                errors = (features @ weights - wanted).abs().amax(1)
                fits.append((errors.max().item(), centres, t, errors, (slopes, offsets, weights)))
        _, centres, t, errors, layers = min(fits, key=lambda fit: fit[0])
        if larger is not None:
            refined = _refine(centres, t, errors, larger)
    return layers


def _fit_nodes(centres: Tensor) -> Tensor:
    """Three points between neighbouring centres, and as many Chebyshev nodes as centres for the ends of [-1, 1]."""
    between = centres[:-1, None] + centres.diff()[:, None] * torch.tensor([1 / 6, 1 / 2, 5 / 6], dtype=centres.dtype)
    inside = between[between.abs() <= 1]
    return torch.cat([inside, expansions.nodes(len(centres))]).sort().values


def _refine(centres: Tensor, t: Tensor, errors: Tensor, size: int) -> Tensor:
    """More centres: half spread as before, half where the errors at t are large."""
    cell = torch.bucketize(t, centres).clamp(1, len(centres) - 1) - 1
    need = torch.zeros(len(centres) - 1, dtype=t.dtype).scatter_reduce(0, cell, errors, "amax").sqrt()
    mass = 1 + (size - len(centres)) * need / need.sum().clamp_min(torch.finfo(t.dtype).tiny)
    total = torch.cat([mass.new_zeros(1), mass.cumsum(0)])
    even = np.linspace(0, total[-1].item(), size)
    return torch.from_numpy(np.interp(even, total.numpy(), centres.numpy()))


def hidden_layer(activation: str, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Weights W_1 and biases b of a hidden layer on [-1, 1], laid out for the activation (Theorem 1, step 2).

    Sine and cosine: a Fourier series with a period longer than the interval, whatever the centres. ReLU and leaky ReLU:
    knots at the centres, a linear function and a constant. Everything else: neuron j turns at centre j, its slope in
    proportion to the density of the centres there.

    Args:
        activation: its name.
        centres: ``(W,)``, ascending, W >= 4, a little beyond [-1, 1] on both sides.

    >>> hidden_layer("tanh", torch.tensor([-1.5, -0.5, 0.5, 1.5]))[0]
    tensor([0.3500, 0.3500, 0.3500, 0.3500])
    """
    if activation in ("sine", "cos"):
        orders = torch.arange(len(centres), dtype=centres.dtype)
        return (orders // 2) * torch.pi / _PERIOD, (orders + (activation == "sine")) % 2 * torch.pi / 2
    if activation in ("relu", "leaky_relu"):
        # A knot left of the interval makes a linear function, weight 0 and bias 1 a constant.
        slopes = torch.ones_like(centres)
        slopes[-1] = 0
        return slopes, torch.where(slopes == 0, 1.0, -centres)
    slopes = _OVERLAP / torch.gradient(torch.arange(len(centres), dtype=centres.dtype), spacing=(centres,))[0] ** -1
    return slopes, -slopes * centres


def certify(f: Callable, domain: Sequence[Interval], g: Model, model: Model, eps: float, *, seed: int = 0) -> Certificate:
    """Measure every quantity of the proof for an expansion g and a network of the same form (Theorem 1, Sec. A.5).

    Args:
        f, domain, eps, seed: as for :func:`approximate`.
        g: expansion with :class:`seplib.expansions.ChebyshevFactor` factors.
        model: network of the same form and ranks.
    """
    ask, D = expansions.evaluator(f, domain), len(domain)
    M, delta = _largest(g, model)
    terms = _terms(g)
    degrees = tuple(len(c.coefficients) - 1 for c in g.factors)
    axes = _finer_axes(domain, degrees)
    gap, expansion_error, error_grid = _grid_errors(ask, axes, g, model)
    generator = torch.Generator().manual_seed(seed + 1)
    X = _random_points(domain, 100_000, generator)
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


def ranks(model: Model) -> tuple[int, ...]:
    """Ranks as Eqs. (2) and (3) have them: (R,) for CP, D - 1 for TT, D for Tucker."""
    if isinstance(model, CP):
        return (model.factors[0].rank,)
    return tuple(model.ranks) if isinstance(model, TT) else tuple(model.core.shape[1:])


def _terms(g: Model) -> float:
    """What multiplies D M^(D-1) delta in the proof's bound."""
    count = float(math.prod(ranks(g)))
    return count if isinstance(g, (CP, TT)) else count * g.core.detach().abs().max().item()


def _names(g: Model) -> str:
    return f"{type(g).__name__} rank{'s' if len(ranks(g)) > 1 else ''} {', '.join(map(str, ranks(g)))}"


def _profiles(g: Model, model: Model) -> list[tuple[Tensor, Tensor]]:
    """For each dimension: the factor's maxima (network or expansion, the larger) and the network's errors, output by output."""
    profiles = []
    with torch.no_grad():
        for series, factor in zip(g.factors, model.factors):
            # Denser than the nodes of the fit, and not the same ones.
            n = 8 * max(len(series.coefficients), factor.weights[0].shape[1]) + 1001
            x, exact = expansions.place(expansions.nodes(n), series.interval), expansions.at_nodes(series, n)
            fitted = torch.cat([factor(part)[0] for part in x.split(_BLOCK)])
            maxima = torch.maximum(exact.abs().amax(0), fitted.abs().amax(0))
            profiles.append((maxima, (exact - fitted).abs().amax(0)))
    return profiles


def _largest(g: Model, model: Model) -> tuple[float, float]:
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


def _random_points(domain: Sequence[Interval], count: int, generator: torch.Generator) -> Tensor:
    low, high = torch.tensor(domain, dtype=torch.float64).T
    return low + (high - low) * torch.rand(count, len(domain), dtype=torch.float64, generator=generator)


class _Check:
    """Values of f at random points and on a coarse grid with ends and middles, to compare expansions with."""

    def __init__(self, f: Callable, domain: Sequence[Interval], seed: int):
        ask = expansions.evaluator(f, domain)
        side = max(3, int(20_000 ** (1 / len(domain))) // 2 * 2 + 1)
        self.axes = [torch.linspace(a, b, side, dtype=torch.float64) for a, b in domain]
        self.X = _random_points(domain, 4_000, torch.Generator().manual_seed(seed))
        self.places = torch.cat([torch.cartesian_prod(*self.axes), self.X])
        self.wanted = ask(self.places)

    def error(self, g: Model) -> tuple[float, Tensor]:
        """Largest error, and the point where it is."""
        with torch.no_grad():
            errors = (torch.cat([g.grid(self.axes).flatten(), g.points(self.X)[0]]) - self.wanted).abs()
        return errors.max().item(), self.places[errors.argmax()]


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
    largest = torch.zeros(3, dtype=torch.float64)
    for rows in first.split(step):
        wanted = ask(torch.cartesian_prod(rows, *rest)).reshape(len(rows), *(len(x) for x in rest))
        with torch.no_grad():
            series, network = (m.grid([rows, *rest])[0] for m in (g, model))
        errors = [(network - series), (wanted - series), (wanted - network)]
        largest = torch.maximum(largest, torch.stack([e.abs().max() for e in errors]))
    return tuple(largest.tolist())
