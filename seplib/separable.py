"""Separable neural networks and their non-separable baseline (Eqs. (1)-(3)).

Every model offers the same two verbs: ``grid(axes)`` evaluates on the Cartesian product of D coordinate axes,
``points(X)`` at scattered points.
"""

import itertools
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seplib import tensorops
from seplib.factors import EnsembleMLP


class CP(nn.Module):
    """CP separable network, ``f(x) = s sum_r prod_d f_d(x_d)_r``, Eq. (2).

    Args:
        factors: D >= 2 factor networks of one rank and one ensemble size; any module with ``rank`` and ``ensemble``
            that maps ``(n,)`` to ``(E, n, R)``.
        scale: ``"rank"`` for the factor s = 1/sqrt(R) of Lemma 1 and Definition 1, None for s = 1 as in Eq. (2).

    Raises:
        ValueError: fewer than two factors, unequal ranks or ensembles, an unknown scale.

    >>> from seplib import FactorMLP
    >>> model = CP([FactorMLP(4, width=8, depth=2) for _ in range(2)])
    >>> model.grid([torch.linspace(-1, 1, 3), torch.linspace(-1, 1, 5)]).shape
    torch.Size([1, 3, 5])
    """

    def __init__(self, factors: Sequence[nn.Module], scale: str | None = "rank"):
        super().__init__()
        _check_family(factors, [factors[0].rank] * len(factors) if factors else [], "one CP rank")
        if scale not in ("rank", None):
            raise ValueError(f'scale must be "rank" or None, got {scale!r}')
        self.factors = nn.ModuleList(factors)
        self.scale = factors[0].rank ** -0.5 if scale == "rank" else 1.0

    def grid(self, axes: Sequence[Tensor] | Tensor) -> Tensor:
        """Values on the grid ``axes[0] x ... x axes[D-1]`` (Definition 1).

        The factors are asked ``n_1 + ... + n_D`` times, not ``n_1 ... n_D`` times (Sec. A.1.1). Backward gives each
        factor the matrix M_d of Eq. (8), streamed: nothing of size ``n^D R`` is formed in either direction.

        Args:
            axes: D tensors ``(n_d,)``.

        Returns:
            ``(E, n_1, ..., n_D)``. Cost: ``2 E R n_1 ... n_D`` beside the factors' forward passes.

        Raises:
            ValueError: the number or shape of the axes is wrong.
        """
        return _CPProduct.apply(*self.matrices(axes))

    def matrices(self, axes: Sequence[Tensor] | Tensor) -> list[Float[Tensor, "E n R"]]:
        """Factor matrices on the axes, whose CP product is the grid's values, Eq. (2); the scale is in the first.

        Raises:
            ValueError: the number or shape of the axes is wrong.
        """
        check_axes(axes, len(self.factors))
        first, *rest = (f(x) for f, x in zip(self.factors, axes))
        return [self.scale * first, *rest]  # scaling n_1 R numbers, not n_1 ... n_D

    def points(self, X: Tensor) -> Float[Tensor, "E N"]:
        """Values at scattered points, Eq. (2): ``(N, D)`` to ``(E, N)``. Cost: D factor passes over N points.

        Raises:
            ValueError: ``X`` is not ``(N, D)``.
        """
        check_points(X, len(self.factors))
        return self.combine([f(x) for f, x in zip(self.factors, X.unbind(1))])

    def combine(self, values: Sequence[Tensor]) -> Float[Tensor, "E N"]:
        """Outputs from the factors' values at N points, D tensors ``(E, N, R)``: the linear combination of Eq. (2)."""
        return self.scale * math.prod(values).sum(-1)


class TT(nn.Module):
    """Tensor-train separable network, ``f(x) = G_1(x_1) G_2(x_2) ... G_D(x_D)`` with matrix-valued factors, Eq. (3).

    Args:
        factors: D >= 2 factor networks of one ensemble size; the d-th has ``R_{d-1} R_d`` outputs, read row by row as a
            ``R_{d-1} x R_d`` matrix, with ``R_0 = R_D = 1``.
        ranks: the inner ranks ``(R_1, ..., R_{D-1})``.

    Raises:
        ValueError: fewer than two factors, unequal ensembles, ranks that do not fit the factors.

    >>> from seplib import FactorMLP
    >>> model = TT([FactorMLP(r, width=8, depth=2) for r in (2, 6, 3)], ranks=(2, 3))
    >>> model.points(torch.zeros(5, 3)).shape
    torch.Size([1, 5])
    """

    def __init__(self, factors: Sequence[nn.Module], ranks: Sequence[int]):
        super().__init__()
        full = (1, *ranks, 1)
        _check_family(factors, [a * b for a, b in itertools.pairwise(full)], f"TT ranks {tuple(ranks)}")
        self.factors = nn.ModuleList(factors)
        self.ranks = tuple(ranks)

    def grid(self, axes: Sequence[Tensor] | Tensor) -> Tensor:
        """Values on the grid, ``(E, n_1, ..., n_D)``, contracted from left to right (Eq. (3)).

        Raises:
            ValueError: the number or shape of the axes is wrong.
        """
        check_axes(axes, len(self.factors))
        cores = self._cores([f(x) for f, x in zip(self.factors, axes)])
        product = cores[0][:, :, 0]
        for core in cores[1:]:
            product = torch.einsum("eNr,enrs->eNns", product, core).flatten(1, 2)
        return product[..., 0].unflatten(1, [x.numel() for x in axes])

    def points(self, X: Tensor) -> Float[Tensor, "E N"]:
        """Values at scattered points, Eq. (3): ``(N, D)`` to ``(E, N)``.

        Raises:
            ValueError: ``X`` is not ``(N, D)``.
        """
        check_points(X, len(self.factors))
        return self.combine([f(x) for f, x in zip(self.factors, X.unbind(1))])

    def combine(self, values: Sequence[Tensor]) -> Float[Tensor, "E N"]:
        """Outputs from the factors' values at N points, D tensors ``(E, N, R_{d-1} R_d)``: the train of Eq. (3)."""
        product, *cores = self._cores(values)
        for core in cores:
            product = product @ core
        return product[..., 0, 0]

    def _cores(self, values: Sequence[Tensor]) -> list[Float[Tensor, "E n r s"]]:
        full = (1, *self.ranks, 1)
        return [value.unflatten(-1, full[d : d + 2]) for d, value in enumerate(values)]


class Tucker(nn.Module):
    """Tucker separable network, ``f(x) = C x_1 f_1(x_1) ... x_D f_D(x_D)`` with a trained core C, Eq. (3).

    Args:
        factors: D >= 2 factor networks of one ensemble size, the d-th with ``R_d`` outputs.
        ranks: ``(R_1, ..., R_D)``.
        generator: source of the core's initial values, N(0, 1/(R_1 ... R_D)); torch's default generator if None.

    Raises:
        ValueError: fewer than two factors, unequal ensembles, ranks that do not fit the factors.

    >>> from seplib import FactorMLP
    >>> model = Tucker([FactorMLP(r, width=8, depth=2) for r in (2, 3)], ranks=(2, 3))
    >>> model.grid([torch.zeros(4), torch.zeros(5)]).shape
    torch.Size([1, 4, 5])
    """

    def __init__(self, factors: Sequence[nn.Module], ranks: Sequence[int], generator: torch.Generator | None = None):
        super().__init__()
        _check_family(factors, list(ranks), f"Tucker ranks {tuple(ranks)}")
        self.factors = nn.ModuleList(factors)
        weight = next(itertools.chain(factors[0].parameters(), factors[0].buffers()))
        shape = (factors[0].ensemble, *ranks)
        core = torch.randn(shape, dtype=torch.float64, generator=generator, device=generator and generator.device)
        self.core = nn.Parameter((core / math.prod(ranks) ** 0.5).to(weight.device, weight.dtype))

    def grid(self, axes: Sequence[Tensor] | Tensor) -> Tensor:
        """Values on the grid, ``(E, n_1, ..., n_D)``, one mode product after the other (Eq. (3)).

        Raises:
            ValueError: the number or shape of the axes is wrong.
        """
        check_axes(axes, len(self.factors))
        product = self.core
        for d, (factor, x) in enumerate(zip(self.factors, axes)):
            product = tensorops.mode_product(product, factor(x), d)
        return product

    def points(self, X: Tensor) -> Float[Tensor, "E N"]:
        """Values at scattered points, Eq. (3): ``(N, D)`` to ``(E, N)``.

        Raises:
            ValueError: ``X`` is not ``(N, D)``.
        """
        check_points(X, len(self.factors))
        return self.combine([f(x) for f, x in zip(self.factors, X.unbind(1))])

    def combine(self, values: Sequence[Tensor]) -> Float[Tensor, "E N"]:
        """Outputs from the factors' values at N points, D tensors ``(E, N, R_d)``: the core contracted as in Eq. (3)."""
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

    def __init__(self, dims: int, **kwargs):
        super().__init__(dims, 1, **kwargs)

    def points(self, X: Tensor) -> Float[Tensor, "E N"]:
        """Values at scattered points: ``(N, D)`` to ``(E, N)`` (Sec. A.12). Cost: ``2 E N P`` for P weights.

        Raises:
            ValueError: ``X`` is not ``(N, D)``.
        """
        check_points(X, self.weights[0].shape[-1])
        return self.apply_layers(X)[..., 0]

    def grid(self, axes: Sequence[Tensor] | Tensor) -> Tensor:
        """Values on a grid, ``(E, n_1, ..., n_D)``: all ``n_1 ... n_D`` points are asked one by one (Sec. A.1.1).

        Raises:
            ValueError: the number or shape of the axes is wrong.
        """
        check_axes(axes, self.weights[0].shape[-1])
        X = torch.cartesian_prod(*axes)
        return self.points(X).unflatten(1, [x.numel() for x in axes])


class _CPProduct(torch.autograd.Function):
    """Tensor of CP factors whose backward is the streamed MTTKRP instead of autograd's recorded products."""

    @staticmethod
    def forward(ctx, *factors: Tensor) -> Tensor:
        ctx.save_for_backward(*factors)
        return tensorops.cp_product(factors)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, cotangent: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensorops.mttkrp(cotangent, ctx.saved_tensors))


def _check_family(factors: Sequence[nn.Module], outputs: Sequence[int], wanted: str) -> None:
    if len(factors) < 2:
        raise ValueError(f"a separable network needs at least 2 factors, got {len(factors)}")
    if len({f.ensemble for f in factors}) > 1:
        raise ValueError(f"the factors share one ensemble size, got {[f.ensemble for f in factors]}")
    if [f.rank for f in factors] != list(outputs):
        raise ValueError(f"factors with {[f.rank for f in factors]} outputs do not fit {wanted}")


def check_axes(axes: Sequence[Tensor] | Tensor, dims: int) -> None:
    """Refuse anything but D one-dimensional coordinate tensors (Definition 1).

    Raises:
        ValueError: the number or shape of the axes is wrong, or they are scattered points.
    """
    if isinstance(axes, Tensor):  # its rows would pass for axes
        raise ValueError(
            f"a grid is a list of {dims} axes of shape (n_d,), got one tensor {tuple(axes.shape)}: points?"
        )
    if len(axes) != dims or any(x.ndim != 1 for x in axes):
        shapes = [tuple(x.shape) for x in axes]
        raise ValueError(f"this model takes {dims} axes of shape (n_d,), got {len(axes)} of shapes {shapes}")


def check_points(X: Tensor, dims: int) -> None:
    """Refuse anything but an ``(N, D)`` tensor of points (Eq. (2)).

    Raises:
        ValueError: another shape.
    """
    if X.ndim != 2 or X.shape[1] != dims:
        raise ValueError(f"this model takes points of shape (N, {dims}), got {tuple(X.shape)}")
