"""Experiments on exact kernels and the pseudo-NTK (Lemmas 1 and 3, Eq. (10)).

Sweeps return plain arrays or tables; the long ones are stored, see :mod:`seplib.reproduce.store`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from seplib import dynamics, ntk
from seplib.factors import FactorMLP
from seplib.reproduce.store import stored
from seplib.separable import CP, MLP, TT, Tucker
from seplib.studies.ntk.settings import NtkExactSettings


def network(
    width: int, rank: int, *, dims: int = 2, activation: str, omega: float = 1.0, seed: int | torch.Generator, **kwargs
) -> CP:
    """CP network of two-layer factors, exactly that of Theorem 2; ``kwargs`` go to :class:`seplib.FactorMLP`."""
    generator = torch.Generator().manual_seed(seed) if isinstance(seed, int) else seed
    shape = dict(width=width, depth=2, activation=activation, omega=omega, parametrization="ntk") | kwargs
    return CP([FactorMLP(rank, generator=generator, **shape) for _ in range(dims)])


def stack(models: Sequence[nn.Module]) -> nn.Module:
    """Join networks of one shape along the ensemble axis, ten seeds in one pass (Fig. 1); the first one is changed."""
    states = [dict(model.named_parameters()) for model in models]
    for path in states[0]:
        owner, _, name = path.rpartition(".")
        joined = nn.Parameter(torch.cat([state[path].detach() for state in states]))
        setattr(models[0].get_submodule(owner), name, joined)
    return models[0]


def square(side: int, device: torch.device | str = "cpu", dims: int = 2) -> tuple[list[Tensor], Tensor]:
    """Axes and points, in float64, of the regular grid on ``[-1, 1]^D`` with ``side`` points per axis (Fig. 1)."""
    axes = [torch.linspace(-1, 1, side, dtype=torch.float64, device=device)] * dims
    return axes, torch.cartesian_prod(*axes)


def by_jacobian(model: nn.Module, X: Tensor) -> Float[Tensor, "E N N"]:
    """NTK by its definition, the product of the Jacobian with its transpose (Lemma 1): slow, for comparison.

    Args:
        model: a network with ``points``.
        X: ``(N, D)``.

    Returns:
        ``(E, N, N)``. Cost: N backward passes, ``2 E N^2 P`` operations and ``E N P`` numbers of memory.
    """
    outputs = model.points(X).sum(0)  # the copies share no parameter
    rows = [torch.autograd.grad(output, list(model.parameters()), retain_graph=True) for output in outputs]
    jacobians = [torch.stack(gradients).flatten(2) for gradients in zip(*rows)]
    return sum(torch.einsum("nep,mep->enm", J, J) for J in jacobians)


def exactness(settings: NtkExactSettings, seed: int, device: torch.device) -> pd.DataFrame:
    """Relative differences between the fast kernels and the Jacobians' product, in float64 (Lemmas 1 and 3).

    One row for each network and set of points; "grid operator" compares its products with the direct kernel's and "Eq. (9)"
    its literal Kronecker form, both for CP networks on grids only.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = dict(width=settings.width, generator=generator, dtype=torch.float64, device=device)
    two_layer = dict(depth=2, parametrization="ntk", activation="tanh")
    deep = dict(depth=settings.depth, omega=3.0)
    R, rows = settings.rank, []
    for dims in (2, 3, 4):
        for name, layers in (("two-layer, tanh", two_layer), (f"{settings.depth} layers, sine", deep)):
            model = CP([FactorMLP(R, **layers, **shape) for _ in range(dims)])
            rows.append(_compare(f"CP, {name}", model, dims, settings, generator))
            rows.append(_compare(f"CP, {name}", model, dims, settings, generator, grid=True))
    tt = TT([FactorMLP(r, **deep, **shape) for r in (R, R * R, R)], (R, R))
    tucker = Tucker([FactorMLP(R, **deep, **shape) for _ in range(3)], (R, R, R), generator)
    for name, model in (("TT", tt), ("Tucker", tucker), ("MLP", MLP(3, **deep, **shape))):
        rows.append(_compare(f"{name}, {settings.depth} layers, sine", model, 3, settings, generator))
    return pd.DataFrame(rows)


def _compare(name, model, dims, settings, generator, grid=False) -> dict[str, Any]:
    device = next(model.parameters()).device
    # Unequal numbers of points per axis, the more axes the fewer.
    sizes = [int(settings.points ** (1 / dims)) + d for d in range(dims)]
    draw = [torch.rand(n, dtype=torch.float64, generator=generator).to(device) * 2 - 1 for n in sizes]
    if grid:
        X = torch.cartesian_prod(*draw)
    else:
        X = torch.rand(settings.points, dims, dtype=torch.float64, generator=generator).to(device) * 2 - 1
    direct = by_jacobian(model, X)
    row = dict(network=name, D=dims, points=f"{'x'.join(map(str, sizes))} grid" if grid else f"{len(X)} scattered")
    row["Lemma 1"] = dynamics.drift(direct, ntk.empirical(model, X)).item()
    if grid:
        operator = ntk.grid(model, draw)
        v = torch.randn(len(X), dtype=torch.float64, generator=generator).to(device)
        image = direct[0] @ v
        row["grid operator"] = ((operator.matvec(v) - image).norm() / image.norm()).item()
        row["Eq. (9)"] = dynamics.drift(direct, operator.dense()).item()
    return row


def top_spectra(settings: NtkExactSettings, seed: int, device: torch.device) -> dict[str, np.ndarray]:
    """Largest eigenvalues of an image network's kernel on the full grid, exact and pseudo (Lemma 3, Eq. (10)).

    SIREN factors with three layers as in Sec. A.12. The dense matrix of a 512 x 512 grid would take 550 GB in float64.
    """
    names = dict(side=settings.spectrum_side, size=settings.spectrum_size, k=settings.top)
    return _top_spectra(**names, seed=seed, device=device)


@stored("kernel spectra", tolerance=1e-3)
def _top_spectra(*, side: int, size: int, k: int, seed: int, device: torch.device) -> dict[str, np.ndarray]:
    generator = torch.Generator().manual_seed(seed)
    model = CP([FactorMLP(size, width=size, depth=3, generator=generator, device=device) for _ in range(2)])
    axes = [torch.linspace(-1, 1, side, device=device)] * 2
    operators = {"exact": ntk.grid(model, axes), "pseudo": ntk.pseudo_grid(model, axes)}
    return {name: operator.eigsh(k)[0][0].cpu().numpy() for name, operator in operators.items()}


def pseudo_errors(settings: NtkExactSettings, seed: int, device: torch.device) -> dict[str, np.ndarray]:
    """Relative error of the pseudo-NTK against the exact NTK by width, ``(seeds, widths)``, Eq. (10).

    Once at fixed rank and once with the rank growing like the width.
    """
    common = dict(side=settings.side, activation=settings.activation, seeds=settings.seeds, seed=seed)
    ranks = {f"R = {settings.pseudo_rank}": [settings.pseudo_rank] * len(settings.widths), "R = W": settings.widths}
    return {
        label: np.stack(
            [
                _pseudo_error(width=width, rank=rank, device=device, **common)
                for width, rank in zip(settings.widths, column)
            ],
            axis=1,
        )
        for label, column in ranks.items()
    }


@stored("pseudo kernel", tolerance=1e-6)
def _pseudo_error(*, width, rank, side, activation, seeds, seed, device) -> np.ndarray:
    axes, X = square(side, device)
    shape = dict(activation=activation, dtype=X.dtype, device=device)
    model = stack([network(width, rank, seed=one, **shape) for one in range(seed, seed + seeds)])
    return dynamics.drift(ntk.empirical(model, X), ntk.pseudo_grid(model, axes).dense()).cpu().numpy()
