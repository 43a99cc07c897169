"""Univariate networks of Theorem 1's class ``W_2 sigma(W_1 x + b)``, fitted to given series by least squares (Sec. A.5)."""

import itertools

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from seplib import activations
from seplib.activations import Activation
from seplib.approximation import expansions
from seplib.approximation.expansions import Model
from seplib.factors import FactorMLP
from seplib.separable import CP, TT

# A part of the neurons turns outside the interval, so that the fit is as good at its ends as inside.
_MARGIN = 1.1
# Slope of the neurons times the spacing of their centres: smaller is smoother and worse conditioned.
_OVERLAP = 0.35
# Period of the sines over the interval's length: a Fourier series on a longer interval needs no periodic f.
_PERIOD = 1.3


def fit_factors(g: Model, activation: str | Activation, width: int) -> Model:
    """Replace every univariate factor of an expansion by a network ``W_2 sigma(W_1 x + b)`` (Theorem 1, step 2).

    The hidden layer is laid out beforehand, one for all outputs of a factor; the output weights solve a linear least
    squares problem at about four nodes a neuron, by a rank-revealing QR decomposition. The layout is the better of two: even, or
    refined from 16 neurons on, each doubling placing half of the new ones where the error was.

    Args:
        g: expansion with :class:`seplib.approximation.expansions.ChebyshevFactor` factors.
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
                features, wanted = (
                    sigma.value(t[:, None] * slopes + offsets),
                    series(expansions.place(t, series.interval))[0],
                )
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
    slopes = _OVERLAP * torch.gradient(torch.arange(len(centres), dtype=centres.dtype), spacing=(centres,))[0]
    return slopes, -slopes * centres
