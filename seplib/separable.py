"""Separable neural networks and their non-separable baseline (Eqs. (1)-(3)).

Every model offers the same two verbs: ``grid(axes)`` evaluates on the Cartesian product of D coordinate axes,
``points(X)`` at scattered points; ``model(X)`` is ``model.points(X)``.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seplib import tensorops
from seplib.factors import Data, EnsembleMLP, Network, as_input


class Separable(Network):
    """What CP, TT and Tucker networks share: factor networks, asked axis by axis (Eqs. (2) and (3)).

    A factor is a :class:`seplib.FactorMLP`, or any module with ``rank`` and ``ensemble`` that maps ``(n,)`` to
    ``(E, n, R)``. Inputs are tensors of the parameters' dtype and device, or NumPy arrays.

    Raises:
        TypeError, ValueError: factors without rank or ensemble, fewer than two, unequal ensembles, dtypes or devices,
            ranks that do not fit, an unknown scale.
    """

    def __init__(self, factors: Sequence[nn.Module], outputs: Sequence[int] | None, wanted: str):
        super().__init__()
        if len(factors) < 2:
            raise ValueError(f"a separable network needs at least 2 factors, got {len(factors)}")
        if foreign := [type(f).__name__ for f in factors if not (hasattr(f, "rank") and hasattr(f, "ensemble"))]:
            raise TypeError(f"a factor network needs the numbers rank and ensemble, {foreign[0]} lacks them")
        if len({f.ensemble for f in factors}) > 1:
            raise ValueError(f"the factors share one ensemble size, got {[f.ensemble for f in factors]}")
        if [f.rank for f in factors] != (outputs or [factors[0].rank] * len(factors)):
            raise ValueError(f"factors with {[f.rank for f in factors]} outputs do not fit {wanted}")
        kinds = [f"{like.dtype} on {like.device}" for f in factors if (like := some_parameter(f)) is not None]
        if len(set(kinds)) > 1:
            raise ValueError(f"the factors share one dtype and device, got {', '.join(kinds)}")
        self.factors = nn.ModuleList(factors)

    @property
    def ensemble(self) -> int:
        """Number of independent copies, E."""
        return self.factors[0].ensemble

    def points(self, X: Data) -> Float[Tensor, "E N"]:
        """Values at scattered points, Eqs. (2) and (3): ``(N, D)`` to ``(E, N)``. Cost: D factor passes over N points.

        Raises:
            ValueError: ``X`` is not ``(N, D)``, or has another dtype or device.
        """
        X = check_points(X, len(self.factors), self)
        return self.combine([f(x) for f, x in zip(self.factors, X.unbind(1))])

    def _values(self, axes: Sequence[Data] | Data) -> list[Tensor]:
        return [f(x) for f, x in zip(self.factors, check_axes(axes, len(self.factors), self))]


class CP(Separable):
    """CP separable network, ``f(x) = s sum_r prod_d f_d(x_d)_r``, Eq. (2).

    Args:
        factors: D >= 2 factor networks of one rank and one ensemble size, see :class:`Separable`.
        scale: ``"rank"`` for the factor s = 1/sqrt(R) of Lemma 1 and Definition 1, None for s = 1 as in Eq. (2).

    >>> from seplib import FactorMLP
    >>> model = CP([FactorMLP(4, width=8, depth=2) for _ in range(2)])
    >>> model.grid([torch.linspace(-1, 1, 3), torch.linspace(-1, 1, 5)]).shape
    torch.Size([1, 3, 5])
    """

    def __init__(self, factors: Sequence[nn.Module], scale: str | None = "rank"):
        super().__init__(factors, None, "one CP rank")
        if scale not in ("rank", None):
            raise ValueError(f'scale must be "rank" or None, got {scale!r}')
        self.scale = factors[0].rank ** -0.5 if scale == "rank" else 1.0

    def traits(self) -> dict[str, Any]:
        """The scale s (Eq. (2))."""
        return {"scale": self.scale}

    def grid(self, axes: Sequence[Data] | Data) -> Tensor:
        """Values on the grid ``axes[0] x ... x axes[D-1]`` (Definition 1).

        The factors are asked ``n_1 + ... + n_D`` times, not ``n_1 ... n_D`` times (Sec. A.1.1). Backward gives each
        factor the matrix M_d of Eq. (8), streamed: nothing of size ``n^D R`` is formed in either direction.

        D axes ``(n_d,)`` make ``(E, n_1, ..., n_D)``. Cost: ``2 E R n_1 ... n_D`` beside the factors' forward passes.

        Raises:
            ValueError: the number, shape, dtype or device of the axes is wrong.
        """
        return cp_tensor(*self.matrices(axes))

    def matrices(self, axes: Sequence[Data] | Data) -> list[Float[Tensor, "E n R"]]:
        """Factor matrices on the axes, whose CP product is the grid's values, Eq. (2); the scale is in the first."""
        first, *rest = self._values(axes)
        return [self.scale * first, *rest]  # scaling n_1 R numbers, not n_1 ... n_D

    def combine(self, values: Sequence[Tensor]) -> Float[Tensor, "E N"]:
        """Outputs from the factors' values at N points, D tensors ``(E, N, R)``: the linear combination of Eq. (2)."""
        return self.scale * math.prod(values).sum(-1)


class TT(Separable):
    """Tensor-train separable network, ``f(x) = G_1(x_1) G_2(x_2) ... G_D(x_D)`` with matrix-valued factors, Eq. (3).

    Args:
        factors: D >= 2 factor networks of one ensemble size, see :class:`Separable`; the d-th has ``R_{d-1} R_d``
            outputs, read row by row as a ``R_{d-1} x R_d`` matrix, with ``R_0 = R_D = 1``.
        ranks: the inner ranks ``(R_1, ..., R_{D-1})``.

    >>> from seplib import FactorMLP
    >>> model = TT([FactorMLP(r, width=8, depth=2) for r in (2, 6, 3)], ranks=(2, 3))
    >>> model.points(torch.zeros(5, 3)).shape
    torch.Size([1, 5])
    """

    def __init__(self, factors: Sequence[nn.Module], ranks: Sequence[int]):
        full = (1, *ranks, 1)
        super().__init__(factors, [a * b for a, b in itertools.pairwise(full)], f"TT ranks {tuple(ranks)}")
        self.ranks = tuple(ranks)

    def traits(self) -> dict[str, Any]:
        """The inner ranks (Eq. (3))."""
        return {"ranks": list(self.ranks)}

    def grid(self, axes: Sequence[Data] | Data) -> Tensor:
        """Values on the grid, ``(E, n_1, ..., n_D)``, from left to right (Eq. (3)); errors as :meth:`CP.grid`."""
        cores = self._cores(self._values(axes))
        product = cores[0][:, :, 0]
        for core in cores[1:]:
            product = torch.einsum("eNr,enrs->eNns", product, core).flatten(1, 2)
        return product[..., 0].unflatten(1, [core.shape[1] for core in cores])

    def combine(self, values: Sequence[Tensor]) -> Float[Tensor, "E N"]:
        """Outputs from the factors' values at N points, D tensors ``(E, N, R_{d-1} R_d)``: the train of Eq. (3)."""
        product, *cores = self._cores(values)
        for core in cores:
            product = product @ core
        return product[..., 0, 0]

    def _cores(self, values: Sequence[Tensor]) -> list[Float[Tensor, "E n r s"]]:
        full = (1, *self.ranks, 1)
        return [value.unflatten(-1, full[d : d + 2]) for d, value in enumerate(values)]


class Tucker(Separable):
    """Tucker separable network, ``f(x) = C x_1 f_1(x_1) ... x_D f_D(x_D)`` with a trained core C, Eq. (3).

    Args:
        factors: D >= 2 factor networks of one ensemble size, the d-th with ``R_d`` outputs, see :class:`Separable`.
        ranks: ``(R_1, ..., R_D)``.
        generator: source of the core's initial values, N(0, 1/(R_1 ... R_D)); torch's default generator if None.

    >>> from seplib import FactorMLP
    >>> model = Tucker([FactorMLP(r, width=8, depth=2) for r in (2, 3)], ranks=(2, 3))
    >>> model.grid([torch.zeros(4), torch.zeros(5)]).shape
    torch.Size([1, 4, 5])
    """

    def __init__(self, factors: Sequence[nn.Module], ranks: Sequence[int], generator: torch.Generator | None = None):
        super().__init__(factors, list(ranks), f"Tucker ranks {tuple(ranks)}")
        shape = (self.ensemble, *ranks)
        core = torch.randn(shape, dtype=torch.float64, generator=generator, device=generator and generator.device)
        like = some_parameter(self.factors)
        self.core = nn.Parameter(
            (core / math.prod(ranks) ** 0.5).to(torch.get_default_dtype() if like is None else like)
        )

    def traits(self) -> dict[str, Any]:
        """None: the core's shape tells the ranks (Eq. (3))."""
        return {}

    def grid(self, axes: Sequence[Data] | Data) -> Tensor:
        """Values on the grid, ``(E, n_1, ..., n_D)``, mode by mode (Eq. (3)); errors as for :meth:`CP.grid`."""
        product = self.core
        for d, value in enumerate(self._values(axes)):
            product = tensorops.mode_product(product, value, d)
        return product

    def combine(self, values: Sequence[Tensor]) -> Float[Tensor, "E N"]:
        """Outputs from the factors' values at N points, D tensors ``(E, N, R_d)``: contracted as in Eq. (3)."""
        product = self.core[:, None]  # (E, 1, R_1, ..., R_D), the point axis second
        for rows in values:
            product = (product * rows.reshape(*rows.shape, *[1] * (product.ndim - 3))).sum(2)
        return product


class MLP(EnsembleMLP):
    """Non-separable baseline: one MLP from R^D to R (Secs. 5 and A.12), with the verbs of the separable models.

    Args:
        dims: number of inputs D.
        width, depth, activation, omega, parametrization, ensemble, generator, dtype, device: as for
            :class:`seplib.factors.FactorMLP`.

    >>> MLP(2, width=8, depth=3).points(torch.zeros(7, 2)).shape
    torch.Size([1, 7])
    """

    def __init__(self, dims: int, **network):
        super().__init__(dims, 1, **network)

    def points(self, X: Data) -> Float[Tensor, "E N"]:
        """Values at points: ``(N, D)`` to ``(E, N)``, in ``2 E N P`` (Sec. A.12); errors as for :meth:`CP.grid`."""
        return self.apply_layers(check_points(X, self.weights[0].shape[-1], self))[..., 0]

    def grid(self, axes: Sequence[Data] | Data) -> Tensor:
        """Values on a grid, ``(E, n_1, ..., n_D)``: point by point (Sec. A.1.1); errors as for :meth:`CP.grid`."""
        axes = check_axes(axes, self.weights[0].shape[-1], self)
        return self.points(torch.cartesian_prod(*axes)).unflatten(1, [x.numel() for x in axes])


class _CPProduct(torch.autograd.Function):
    """:func:`seplib.tensorops.cp_product` whose backward is the streamed MTTKRP, not autograd's recorded products."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*factors: Tensor) -> Tensor:
        return tensorops.cp_product(factors)

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, cotangent: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensorops.mttkrp(cotangent, ctx.saved_tensors))


cp_tensor = _CPProduct.apply


def some_parameter(network: nn.Module | None) -> Tensor | None:
    """A tensor of the network's dtype and device, None if it has none (Sec. A.12)."""
    return None if network is None else next(itertools.chain(network.parameters(), network.buffers()), None)


def check_axes(axes: Sequence[Data] | Data, dims: int, network: nn.Module | None = None) -> list[Tensor]:
    """D one-dimensional coordinate tensors, and nothing else (Definition 1).

    Raises:
        ValueError: the number or shape of the axes is wrong, or they are scattered points; another dtype or device than
            the network's.
    """
    if isinstance(axes, Data):  # its rows would pass for axes
        raise ValueError(
            f"a grid is a list of {dims} axes of shape (n_d,), got one tensor {tuple(axes.shape)}: points?"
        )
    if len(axes) != dims or any(x.ndim != 1 for x in axes):
        shapes = [tuple(x.shape) for x in axes]
        raise ValueError(f"this model takes {dims} axes of shape (n_d,), got {len(axes)} of shapes {shapes}")
    like = some_parameter(network)
    return [as_input(x, like, "axis") for x in axes]


def check_points(X: Data, dims: int, network: nn.Module | None = None) -> Tensor:
    """An ``(N, D)`` tensor of points, and nothing else (Eq. (2)).

    Raises:
        ValueError: another shape; another dtype or device than the network's.
    """
    if X.ndim != 2 or X.shape[1] != dims:
        raise ValueError(f"this model takes points of shape (N, {dims}), got {tuple(X.shape)}")
    return as_input(X, some_parameter(network), "array of points")
