"""Partial differential equations of the experiments: residuals, solutions, losses (Sec. A.12, Figs. 4, 13, 14)."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from seplib.pde.reference import DIFFUSIVITY, RESOLUTION, diffusion_reference
from seplib.separable import check_axes

# (derivatives by name, coordinates) -> values; the coordinates broadcast against the grid.
Expression = Callable[..., Tensor]


@dataclass(frozen=True)
class Equation:
    """A partial differential equation ``sum_j c_j d_j u + N(u) = q`` on a box (Sec. A.12, PINNs).

    A derivative is named by the coordinates it is taken in: "" is u itself, "xx" its second derivative along x.

    Attributes:
        name: for tables and figures.
        domain: coordinate to its range, in order. A coordinate called "t" is time: it has an initial face, the others have
            two boundary faces each.
        solution: ``solution(*coordinates)``; what data, initial and boundary losses compare with, and what tests judge by.
        linear: derivative to its constant coefficient c_j.
        rest: ``rest(d, *coordinates)``, all that is not linear with constant coefficients; ``d["xx"]`` is a derivative.
        needs: the derivatives that ``rest`` asks for.
        source: ``source(*coordinates)``, the q; zero if None.

    Raises:
        ValueError: an unknown coordinate in a derivative, or more than two in one direction.
    """

    name: str
    domain: Mapping[str, tuple[float, float]]
    solution: Expression
    linear: Mapping[str, float] = field(default_factory=dict)
    rest: Expression | None = None
    needs: Sequence[str] = ()
    source: Expression | None = None

    def __post_init__(self):
        for name in (*self.linear, *self.needs):
            if any(c not in self.domain for c in name) or any(n > 2 for n in self.order(name)):
                known = ", ".join(self.domain)
                raise ValueError(f"a derivative takes each of {known} at most twice, got {name!r}")

    @property
    def fields(self) -> tuple[str, ...]:
        """The derivatives in use, u itself first."""
        return tuple(dict.fromkeys(["", *self.linear, *self.needs]))

    @property
    def orders(self) -> list[tuple[int, ...]]:
        """How often each of :attr:`fields` is differentiated along each axis."""
        return [self.order(name) for name in self.fields]

    def axes(self, n: int, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> list[Tensor]:
        """The grid: n equidistant points along each axis, end points included (Sec. A.12)."""
        return [torch.linspace(low, high, n, dtype=dtype, device=device) for low, high in self.domain.values()]

    def operator(self, fields: Tensor, axes: Sequence[Tensor]) -> Tensor:
        """``sum_j c_j d_j u + N(u)`` on a grid (Sec. A.12).

        Args:
            fields: ``(E, F, n_1, ..., n_D)`` in the order of :attr:`fields`.
            axes: D tensors ``(n_d,)``.

        Returns:
            ``(E, n_1, ..., n_D)``.
        """
        result = (self._coefficients(fields) @ fields.flatten(2)).view_as(fields[:, 0])
        return result if self.rest is None else result + self._rest(fields, axes)

    def pull_back(self, cotangent: Tensor, fields: Tensor, axes: Sequence[Tensor]) -> Tensor:
        """What :meth:`operator` sends back to the fields, ``(E, F, n_1, ..., n_D)``; autograd is asked for ``rest`` alone.

        Args:
            cotangent: ``(E, n_1, ..., n_D)``.
            fields: as for :meth:`operator`.
            axes: likewise.
        """
        coefficients = self._coefficients(fields).view(-1, *[1] * len(axes))
        result = cotangent[:, None] * coefficients
        if self.rest is not None:
            with torch.enable_grad():
                leaf = fields.detach().requires_grad_()
                result += torch.autograd.grad(self._rest(leaf, axes), leaf, cotangent)[0]
        return result

    def sources(self, axes: Sequence[Tensor]) -> Tensor:
        """The source q on a grid, ``(n_1, ..., n_D)``."""
        shape = [x.numel() for x in axes]
        return axes[0].new_zeros(shape) if self.source is None else self.source(*mesh(axes)).expand(shape)

    def _coefficients(self, fields: Tensor) -> Tensor:
        return _vector(tuple(self.linear.get(name, 0.0) for name in self.fields), fields.dtype, fields.device)

    def _rest(self, fields: Tensor, axes: Sequence[Tensor]) -> Tensor:
        return self.rest(dict(zip(self.fields, fields.unbind(1))), *mesh(axes))

    def values(self, axes: Sequence[Tensor]) -> Tensor:
        """The solution on a grid, ``(n_1, ..., n_D)``."""
        check_axes(axes, len(self.domain))
        return self.solution(*mesh(axes)).expand([x.numel() for x in axes])

    def order(self, name: str) -> tuple[int, ...]:
        """How often a derivative is taken along each axis: "xx" to (0, 2, 0)."""
        return tuple(name.count(c) for c in self.domain)


@functools.cache
def _vector(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Made once: numbers that are copied to a GPU in every step make the host wait in every step."""
    return torch.tensor(values, dtype=dtype, device=device)


def mesh(axes: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Coordinates that broadcast against a grid, the d-th ``(1, .., n_d, .., 1)`` (Sec. A.1.1)."""
    return tuple(x.reshape([-1 if e == d else 1 for e in range(len(axes))]) for d, x in enumerate(axes))


def _diffusion_rest(d: Mapping[str, Tensor], *_: Tensor) -> Tensor:
    return -DIFFUSIVITY * (d["x"] ** 2 + d["y"] ** 2 + d[""] * (d["xx"] + d["yy"]))


def _on_reference(t: Tensor, x: Tensor, y: Tensor, resolution: int) -> Tensor:
    axes = [c.detach().cpu().double().flatten().numpy() for c in (t, x, y)]
    return torch.from_numpy(diffusion_reference(*axes, resolution=resolution)).to(t)


def diffusion(resolution: int = RESOLUTION) -> Equation:
    """Nonlinear diffusion, ``u_t = a (u_x^2 + u u_xx + u_y^2 + u u_yy)`` with three bumps at the start (Fig. 4).

    Args:
        resolution: of the reference solution, see :func:`seplib.pde.reference.diffusion_reference`; there is no closed form.
    """
    return Equation(
        name="diffusion",
        domain={"t": (0.0, 1.0), "x": (-1.0, 1.0), "y": (-1.0, 1.0)},
        solution=functools.partial(_on_reference, resolution=resolution),
        linear={"t": 1.0},
        rest=_diffusion_rest,
        needs=("x", "y", "xx", "yy"),
    )


def _wave(t: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return (x + y) * torch.cos(2 * t) + x * y * torch.sin(2 * t)


KLEIN_GORDON = Equation(  # Fig. 13: u_tt - u_xx - u_yy + u^2 = q
    name="Klein-Gordon",
    domain={"t": (0.0, 10.0), "x": (-1.0, 1.0), "y": (-1.0, 1.0)},
    solution=_wave,
    linear={"tt": 1.0, "xx": -1.0, "yy": -1.0},
    rest=lambda d, *_: d[""] ** 2,
    source=lambda t, x, y: _wave(t, x, y) ** 2 - 4 * _wave(t, x, y),
)


def _standing(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    return torch.sin(4 * math.pi * x) * torch.sin(4 * math.pi * y) * torch.sin(3 * math.pi * z)


HELMHOLTZ = Equation(  # Fig. 14: u_xx + u_yy + u_zz + u = q
    name="Helmholtz",
    domain={"x": (-1.0, 1.0), "y": (-1.0, 1.0), "z": (-1.0, 1.0)},
    solution=_standing,
    linear={"xx": 1.0, "yy": 1.0, "zz": 1.0, "": 1.0},
    source=lambda x, y, z: (1 - 41 * math.pi**2) * _standing(x, y, z),
)
