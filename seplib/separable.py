"""Separable neural networks and their non-separable baseline (Eqs. (1)-(3)).

Every model offers the same two verbs: ``grid(axes)`` evaluates on the Cartesian product of D coordinate axes,
``points(X)`` at scattered points.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seplib import tensorops
from seplib.factors import EnsembleMLP, FactorMLP


class CP(nn.Module):
    """CP separable network, ``f(x) = s sum_r prod_d f_d(x_d)_r``, Eq. (2).

    Args:
        factors: D >= 2 factor networks of one rank and one ensemble size.
        scale: ``"rank"`` for the factor s = 1/sqrt(R) of Lemma 1 and Definition 1, None for s = 1 as in Eq. (2).

    Raises:
        ValueError: fewer than two factors, unequal ranks or ensembles, an unknown scale.

    >>> model = CP([FactorMLP(4, width=8, depth=2) for _ in range(2)])
    >>> model.grid([torch.linspace(-1, 1, 3), torch.linspace(-1, 1, 5)]).shape
    torch.Size([1, 3, 5])
    """

    def __init__(self, factors: Sequence[FactorMLP], scale: str | None = "rank"):
        super().__init__()
        if len(factors) < 2:
            raise ValueError(f"a separable network needs at least 2 factors, got {len(factors)}")
        if len({(f.ensemble, f.rank) for f in factors}) > 1:
            pairs = [(f.ensemble, f.rank) for f in factors]
            raise ValueError(f"the factors of a CP network share one ensemble size and one rank, got (E, R) = {pairs}")
        if scale not in ("rank", None):
            raise ValueError(f'scale must be "rank" or None, got {scale!r}')
        self.factors = nn.ModuleList(factors)
        self.scale = factors[0].rank ** -0.5 if scale == "rank" else 1.0

    def grid(self, axes: Sequence[Tensor]) -> Tensor:
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
        check_axes(axes, len(self.factors))
        first, *rest = (f(x) for f, x in zip(self.factors, axes))
        return _CPProduct.apply(self.scale * first, *rest)  # scaling n_1 R numbers, not n_1 ... n_D

    def points(self, X: Tensor) -> Float[Tensor, "E N"]:
        """Values at scattered points, Eq. (2): ``(N, D)`` to ``(E, N)``. Cost: D factor passes over N points.

        Raises:
            ValueError: ``X`` is not ``(N, D)``.
        """
        check_points(X, len(self.factors))
        product = self.factors[0](X[:, 0])
        for d, factor in enumerate(self.factors[1:], 1):
            product = product * factor(X[:, d])
        return self.scale * product.sum(-1)


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

    def grid(self, axes: Sequence[Tensor]) -> Tensor:
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


def check_axes(axes: Sequence[Tensor], dims: int) -> None:
    """Refuse anything but D one-dimensional coordinate tensors (Definition 1).

    Raises:
        ValueError: the number or shape of the axes is wrong.
    """
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
