"""Activation functions with their first two derivatives (Theorem 2, Table 5).

Periodic activations carry the frequency ``omega`` of SIREN inside, ``sin(omega z)``; the derivatives are with respect to
``z``. The others have no frequency and ignore it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Activation:
    """A scalar nonlinearity sigma with sigma' and sigma'' (Theorem 2).

    Attributes:
        name: its name in :data:`NAMES`.
        value: z -> sigma(z), element by element.
        slope: z -> sigma'(z); at a kink the value that torch's own backward uses.
        curvature: z -> sigma''(z), almost everywhere.
    """

    name: str
    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    curvature: Callable[[Tensor], Tensor]


def _sine(omega: float) -> Activation:
    return Activation(
        "sine",
        lambda z: torch.sin(omega * z),
        lambda z: omega * torch.cos(omega * z),
        lambda z: -(omega**2) * torch.sin(omega * z),
    )


def _cos(omega: float) -> Activation:
    return Activation(
        "cos",
        lambda z: torch.cos(omega * z),
        lambda z: -omega * torch.sin(omega * z),
        lambda z: -(omega**2) * torch.cos(omega * z),
    )


def _leaky(name: str, negative: float) -> Activation:
    return Activation(
        name,
        lambda z: F.leaky_relu(z, negative),
        lambda z: torch.where(z > 0, 1.0, negative).to(z.dtype),
        torch.zeros_like,
    )


def _tanh(_: float) -> Activation:
    def curvature(z: Tensor) -> Tensor:
        t = torch.tanh(z)
        return -2 * t * (1 - t * t)

    return Activation("tanh", torch.tanh, lambda z: 1 - torch.tanh(z) ** 2, curvature)


def _density(z: Tensor) -> Tensor:
    return torch.exp(-z * z / 2) / math.sqrt(2 * math.pi)


def _erf(_: float) -> Activation:
    slope = 2 / math.sqrt(math.pi)
    return Activation(
        "erf",
        torch.erf,
        lambda z: slope * torch.exp(-z * z),
        lambda z: -2 * slope * z * torch.exp(-z * z),
    )


def _gelu(_: float) -> Activation:
    return Activation(
        "gelu",
        F.gelu,
        lambda z: torch.special.ndtr(z) + z * _density(z),
        lambda z: (2 - z * z) * _density(z),
    )


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
    """Look up an activation by name (Theorem 2, Table 5).

    Args:
        name: one of :data:`NAMES`, or an activation of one's own, which is handed back as it is. ``"leaky_relu"`` has
            slope 0.01 on the left, torch's default.
        omega: frequency of ``"sine"`` and ``"cos"``; the others have none.

    Raises:
        ValueError: no such activation.

    >>> get("sine", omega=30.0).slope(torch.zeros(1))
    tensor([30.])
    """
    if isinstance(name, Activation):
        return name
    if name not in _BUILDERS:
        raise ValueError(f"activation must be one of {', '.join(NAMES)}, got {name!r}")
    return _BUILDERS[name](omega)
