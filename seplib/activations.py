"""Activation functions with their first three derivatives and their Gaussian expectations (Theorem 2, Table 5).

Periodic activations carry the frequency ``omega`` of SIREN inside, ``sin(omega z)``; the derivatives are with respect
to ``z``. The others have no frequency and ignore it.

The Gaussian expectations are those of centred normal pairs (u, v) with variances a, b, covariance q and determinant
``det = a b - q^2``. The determinant is an argument of its own, since for the pairs of Theorem 2 it is ``(x - x')^2``,
free of the cancellation in ``a b - q^2``.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

# (a, b, q, det) -> E[g(u) g(v)]
Expectation = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Activation:
    """A scalar nonlinearity sigma with its derivatives (Theorem 2).

    Attributes:
        name: its name in :data:`NAMES`.
        value, slope, curvature, third: z -> sigma(z) and its derivatives, element by element; at a kink what torch's
            own backward uses. A backward pass through a second derivative needs the third.
        covariance, slope_covariance: ``E[sigma(u) sigma(v)]`` and ``E[sigma'(u) sigma'(v)]`` in closed form; None where
            there is none and a quadrature takes its place.
        lipschitz: smallest Lipschitz constants of sigma and of sigma'; infinite where there is none, as at a kink.
        strip: distance of the real axis to the nearest singularity of sigma in the complex plane.
        together: z -> all four of value, slope, curvature and third, where that is cheaper than one by one.
        source: name and frequency that :func:`get` made it from, as which it is pickled; None for one of one's own.
    """

    name: str
    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    curvature: Callable[[Tensor], Tensor]
    third: Callable[[Tensor], Tensor]
    covariance: Expectation | None = None
    slope_covariance: Expectation | None = None
    lipschitz: tuple[float, float] = (math.inf, math.inf)
    strip: float = math.inf
    together: Callable[[Tensor], tuple[Tensor, Tensor, Tensor, Tensor]] | None = None
    source: tuple[str, float] | None = field(default=None, init=False)

    def __reduce_ex__(self, protocol: int) -> tuple[Any, ...]:
        return (get, self.source) if self.source else super().__reduce_ex__(protocol)

    def derivatives(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Sigma and its first three derivatives, sharing work where they can (Sec. A.12, PINNs)."""
        if self.together is not None:
            return self.together(z)
        return self.value(z), self.slope(z), self.curvature(z), self.third(z)


def _waves(omega: float, sign: int, factor: float) -> Expectation:
    """``factor/2 (exp(-omega^2 E(u-v)^2/2) + sign exp(-omega^2 E(u+v)^2/2))``: cosines for +, sines for -."""

    def expectation(a: Tensor, b: Tensor, q: Tensor, det: Tensor) -> Tensor:
        apart, together = (torch.exp(-(omega**2) / 2 * (a + b + s * q)) for s in (-2, 2))
        return factor / 2 * (apart + sign * together)

    return expectation


def _sine(omega: float) -> Activation:
    def together(z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        phase = omega * z
        value, slope = torch.sin(phase), torch.cos(phase).mul_(omega)
        return value, slope, -(omega**2) * value, -(omega**2) * slope

    return Activation(
        "sine",
        lambda z: torch.sin(omega * z),
        lambda z: omega * torch.cos(omega * z),
        lambda z: -(omega**2) * torch.sin(omega * z),
        lambda z: -(omega**3) * torch.cos(omega * z),
        _waves(omega, -1, 1.0),
        _waves(omega, 1, omega**2),
        (omega, omega**2),
        together=together,
    )


def _cos(omega: float) -> Activation:
    return Activation(
        "cos",
        lambda z: torch.cos(omega * z),
        lambda z: -omega * torch.sin(omega * z),
        lambda z: -(omega**2) * torch.cos(omega * z),
        lambda z: omega**3 * torch.sin(omega * z),
        _waves(omega, 1, 1.0),
        _waves(omega, -1, omega**2),
        (omega, omega**2),
    )


def _wedge(q: Tensor, det: Tensor) -> Tensor:
    """``2 pi E[relu(u) relu(v)]``, the arc-cosine kernel of Cho and Saul (2009)."""
    return det.sqrt() + (math.pi - _angle(q, det)) * q


def _angle(q: Tensor, det: Tensor) -> Tensor:
    return torch.atan2(det.sqrt(), q)  # accurate at angle 0, unlike the arc cosine of the correlation


def _leaky(name: str, negative: float) -> Activation:
    # sigma(z) = relu(z) - negative relu(-z), and (u, -v) has covariance -q.
    same, mixed = (1 + negative**2) / (2 * math.pi), 2 * negative / (2 * math.pi)
    return Activation(
        name,
        lambda z: F.leaky_relu(z, negative),
        lambda z: torch.where(z > 0, 1.0, negative).to(z.dtype),
        torch.zeros_like,
        torch.zeros_like,
        lambda a, b, q, det: same * _wedge(q, det) - mixed * _wedge(-q, det),
        lambda a, b, q, det: same * (math.pi - _angle(q, det)) + mixed * _angle(q, det),
        (1.0, math.inf),
    )


def _tanh(_: float) -> Activation:
    def slope(z: Tensor) -> Tensor:
        return 1 - torch.tanh(z) ** 2

    def curvature(z: Tensor) -> Tensor:
        t = torch.tanh(z)
        return -2 * t * (1 - t * t)

    def third(z: Tensor) -> Tensor:
        square = torch.tanh(z) ** 2
        return (1 - square) * (6 * square - 2)

    constants = 1.0, 4 / math.sqrt(27)
    return Activation("tanh", torch.tanh, slope, curvature, third, None, None, constants, strip=math.pi / 2)


def _density(z: Tensor) -> Tensor:
    return torch.exp(-z * z / 2) / math.sqrt(2 * math.pi)


def _erf(_: float) -> Activation:
    slope = 2 / math.sqrt(math.pi)
    return Activation(
        "erf",
        torch.erf,
        lambda z: slope * torch.exp(-z * z),
        lambda z: -2 * slope * z * torch.exp(-z * z),
        lambda z: slope * (4 * z * z - 2) * torch.exp(-z * z),
        lambda a, b, q, det: 2 / math.pi * torch.atan2(2 * q, torch.sqrt(1 + 2 * a + 2 * b + 4 * det)),
        lambda a, b, q, det: slope**2 * torch.rsqrt(1 + 2 * a + 2 * b + 4 * det),
        (slope, slope * math.sqrt(2 / math.e)),
    )


def _gelu(_: float) -> Activation:
    # gelu(z) = z Phi(z): Stein's identity removes the factors u, v, and each density tilts the pair to another normal.
    def covariance(a: Tensor, b: Tensor, q: Tensor, det: Tensor) -> Tensor:
        volume = 1 + a + b + det  # (1 + a)(1 + b) - q^2
        tilted = a * b + q * q * (1 / (1 + a) + 1 / (1 + b) - 1)
        return q * _quadrant(q, volume) + tilted / (2 * math.pi * volume.sqrt())

    def slope_covariance(a: Tensor, b: Tensor, q: Tensor, det: Tensor) -> Tensor:
        volume = 1 + a + b + det
        tilted = q * (1 / (1 + a) + 1 / (1 + b) + 1 / volume)
        return _quadrant(q, volume) + tilted / (2 * math.pi * volume.sqrt())

    return Activation(
        "gelu",
        F.gelu,
        lambda z: torch.special.ndtr(z) + z * _density(z),
        lambda z: (2 - z * z) * _density(z),
        lambda z: z * (z * z - 4) * _density(z),
        covariance,
        slope_covariance,
        ((1 + math.erf(1)) / 2 + math.exp(-1) / math.sqrt(math.pi), 2 / math.sqrt(2 * math.pi)),
    )


def _quadrant(q: Tensor, volume: Tensor) -> Tensor:
    """``E[Phi(u) Phi(v)]``."""
    return 0.25 + torch.atan2(q, volume.sqrt()) / (2 * math.pi)


_BUILDERS: dict[str, Callable[[float], Activation]] = {
    "sine": _sine,
    "cos": _cos,
    "relu": lambda _: _leaky("relu", 0.0),
    "leaky_relu": lambda _: _leaky("leaky_relu", 0.01),
    "tanh": _tanh,
    "erf": _erf,
    "gelu": _gelu,
}

NAMES = tuple(_BUILDERS)


def get(name: str | Activation, omega: float = 1.0) -> Activation:
    """Activation by name, one of :data:`NAMES`, or one's own, which is handed back as it is (Theorem 2, Table 5).

    Omega is the frequency of ``"sine"`` and ``"cos"``; ``"leaky_relu"`` has slope 0.01 on the left, torch's default.
    ValueError: no such activation.

    >>> get("sine", omega=30.0).slope(torch.zeros(1))
    tensor([30.])
    """
    if isinstance(name, Activation):
        return name
    if name not in _BUILDERS:
        raise ValueError(f"activation must be one of {', '.join(NAMES)}, got {name!r}")
    found = _BUILDERS[name](omega)
    object.__setattr__(found, "source", (name, omega))  # not an argument: a copy with other functions has no source
    return found
