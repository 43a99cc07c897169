"""Lemma 2 and its extensions checked number by number: separable gradients against explicit Kronecker products (Lemma 2)."""

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from seplib.approximation.kan import AdditiveFactor, KANLayer
from seplib.baselines import as_points
from seplib.factors import FactorMLP
from seplib.preconditioning import SepPGD
from seplib.separable import CP
from seplib.streaming import FullResidual, StreamedResidual

# (what, sizes of the grid or number of scattered points and D)
GRIDS = ((6, 6), (7, 5), (5, 4, 3), (4, 4, 4), (3, 4, 2, 3))


def gradient_difference(
    sizes: Sequence[int], *, scale: str | None = "rank", g: str = "flat", scattered: bool = False, streamed: bool = False,
    seed: int = 0, device: torch.device | str = "cpu",
) -> float:  # fmt: skip
    """Relative distance of SepPGD's parameter gradient from ``grad f(X)^T S~ r`` written out (Lemma 2).

    The slow side evaluates the network point by point, one backward pass a point, and forms ``S~`` as a matrix.

    Args:
        sizes: ``(n_1, ..., n_D)``; for scattered points D numbers whose product is the number of points.
        scale: of the CP network, ``"rank"`` or None.
        g: modulation, ``"flat"`` or ``"sqrt"``.
        scattered: random points in place of the grid, ``S~ = sum_d S_d``.
        streamed: take the fast side from the streamed step.
        seed: of network and data.
        device: where to compute.

    >>> gradient_difference((4, 3)) < 1e-12
    True
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = dict(generator=generator, dtype=torch.float64)
    model = CP([FactorMLP(5, width=8, depth=3, omega=3.0, device=device, **drawn) for _ in sizes], scale)
    axes: list[Tensor] | Tensor = [2 * torch.rand(n, **drawn).to(device) - 1 for n in sizes]
    X = as_points(axes)
    if scattered:
        axes = X = 2 * torch.rand(X.shape, **drawn).to(device) - 1
    target = torch.randn(len(X), **drawn).to(device)
    target = target[None] if scattered else target.reshape(1, *sizes)
    method = SepPGD(model, axes, k=2, g=g)
    step = (StreamedResidual if streamed else FullResidual)(model, axes, target, method)
    step.forward()
    step.backward(0)
    fast = torch.cat([p.grad.flatten() for p in model.parameters()])

    rows = [torch.autograd.grad(value, list(model.parameters()), retain_graph=True) for value in model.points(X)[0]]
    jacobian = torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])
    S = method.operator().dense()[0]
    residual = (model.points(X).detach() - target.flatten(1))[0]
    slow = jacobian.T @ (S @ residual)
    return ((fast - slow).norm() / slow.norm()).item()


def equivalence_table(seed: int = 0, device: torch.device | str = "cpu") -> pd.DataFrame:
    """:func:`gradient_difference` for D = 2, 3, 4, both scalings, both modulations, on and off grids (Lemma 2)."""
    rows = []
    for sizes in GRIDS:
        for scale in ("rank", None):
            for g in ("flat", "sqrt"):
                case = dict(scale=scale, g=g, seed=seed, device=device)
                row = {
                    "D": len(sizes),
                    "sizes": "x".join(map(str, sizes)),
                    "scale": "1/sqrt(R)" if scale else "1",
                    "g": g,
                }
                rows.append(
                    row
                    | {
                        "grid": gradient_difference(sizes, **case),
                        "streamed": gradient_difference(sizes, **case, streamed=True),
                    }
                    | {"scattered": gradient_difference(sizes, **case, scattered=True)}
                )
    return pd.DataFrame(rows)


def worst(table: pd.DataFrame, kinds: Sequence[str]) -> float:
    """Largest difference in some columns of :func:`equivalence_table` (Lemma 2)."""
    return float(table[list(kinds)].to_numpy().max())


def kan_difference(inputs: int, outputs: int, seed: int = 0, device: torch.device | str = "cpu") -> float:
    """Largest distance between a spline KAN layer and the CP network of rank D that it is (Sec. A.1.3).

    >>> kan_difference(3, 2) < 1e-12
    True
    """
    generator = torch.Generator().manual_seed(seed)
    layer = KANLayer(inputs, outputs, generator=generator, dtype=torch.float64, device=device)
    model = CP([AdditiveFactor(layer, j) for j in range(inputs)], scale=None)
    X = 2 * torch.rand(200, inputs, generator=generator, dtype=torch.float64).to(device) - 1
    axes = [x[:4].contiguous() for x in X.unbind(1)]
    points = (model.points(X) - layer(X).mT).abs().max()
    grid = (model.grid(axes).flatten(1) - layer(torch.cartesian_prod(*axes)).mT).abs().max()
    return max(points.item(), grid.item())
