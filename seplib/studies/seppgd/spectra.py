"""Spectra of preconditioned kernels: what Sec. 4 and Sec. A.1.2 say of the condition number, put to the test."""

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from seplib import dynamics, ntk
from seplib.baselines import MSK, as_points
from seplib.factors import FactorMLP
from seplib.preconditioning import Preconditioner, SepPGD, modulate
from seplib.reproduce.criteria import Comparison, at_most
from seplib.reproduce.plotting import COLOURS, legend, panels
from seplib.ridge import features
from seplib.separable import CP
from seplib.studies.seppgd.settings import SpectrumSettings
from seplib.targets import f3
from seplib.training import fit

UNIT_ROUNDOFF = 2.0**-53
# A kernel whose smallest singular value is below this share of the largest is drawn again.
SINGULAR = 1e-11
ACTIVATIONS = ("sine", "relu", "tanh", "gelu")


def preconditioned_eigenvalues(K: Tensor, S: Tensor) -> Float[Tensor, " N"]:
    """Eigenvalues of ``K S``, falling: real and not negative although ``K S`` is not symmetric (Sec. 4).

    With ``S = L L^T`` positive definite, ``K S`` is similar to the symmetric ``L^T K L``.

    >>> preconditioned_eigenvalues(torch.diag(torch.tensor([8., 1.])), torch.diag(torch.tensor([0.25, 1.])))
    tensor([2., 1.])
    """
    L = torch.linalg.cholesky(S)
    return torch.linalg.eigvalsh(L.mT @ K @ L).flip(0)


class Conditioning(NamedTuple):
    """Condition numbers before and after preconditioning and what double precision knows of them (Sec. A.1.2).

    Attributes:
        plain: ``cond(K)``.
        preconditioned: ``cond(K S)``.
        error: bound, to first order, for the relative error of their quotient; 0 where it is 1 by an identity.
    """

    plain: float
    preconditioned: float
    error: float

    @property
    def ratio(self) -> float:
        """``cond(K S) / cond(K)`` (Sec. A.1.2)."""
        return self.preconditioned / self.plain


def conditioning(phi: Tensor, S: Tensor, rounding: float, damping: float) -> Conditioning:
    """``cond(K)`` and ``cond(K S)`` of ``K = phi phi^T``, from singular values, with their error (Sec. A.1.2).

    The singular values of ``L^T phi``, ``S = L L^T``, resolve condition numbers up to about 1e24 in float64, where the
    eigenvalues of K itself would end at 1e16. By Weyl's inequality each is off by ``rounding |L| |phi|`` at most, and by
    Ostrowski's theorem the error of S, at most ``4 sqrt(N) rounding damping`` relative to S itself, changes each eigenvalue
    of ``K S`` by that share; the proof is Proposition "What double precision decides" of the chapter. A multiple of the
    identity, as S is for k = 1, changes no condition number, and the quotient is 1 without an error.

    Args:
        phi: ``(N, P)`` features with ``P >= N``.
        S: ``(N, N)`` positive definite.
        rounding: relative error of ``phi``, see :func:`feature_rounding`.
        damping: largest ``lambda_1 / lambda_k`` of the kernels that S was made from.
    """
    plain = torch.linalg.svdvals(phi)
    before = ((plain[0] / plain[-1]) ** 2).item()
    if torch.equal(S, S[0, 0] * torch.eye(len(S)).to(S)):
        return Conditioning(before, before, 0.0)
    L = torch.linalg.cholesky(S)
    values = torch.linalg.svdvals(L.mT @ phi)
    reach = torch.linalg.matrix_norm(L, 2) * plain[0]
    lost = 1 + plain[0] / plain[-1] + reach / values[0] + reach / values[-1] + 4 * len(S) ** 0.5 * damping
    return Conditioning(before, ((values[0] / values[-1]) ** 2).item(), (2 * rounding * lost).item())


def feature_rounding(model: CP, X: Tensor, phi: Tensor) -> float:
    """Relative error of a network's features in double precision, in the spectral norm (Sec. A.1.2).

    Rounding in a layer of width W has the effect of a relative change of its weights by ``(W + 3) u`` at most, u = 2^-53.
    How far such a change reaches is measured: all weights are moved by 2^-26 of their size, signs at random. Another N u is
    for the singular values and products that follow.

    Args:
        model: the network, float64.
        X: ``(N, D)`` points.
        phi: ``(N, P)``, its features there.
    """
    generator, step = torch.Generator().manual_seed(0), 2.0**-26
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for weight in moved.parameters():
            weight *= 1 + step * (2 * torch.randint(2, weight.shape, generator=generator).to(weight) - 1)
    change = torch.linalg.matrix_norm(features(moved, X) - phi, 2) / (step * torch.linalg.matrix_norm(phi, 2))
    width = max(max(weight.shape[1:]) for factor in model.factors for weight in factor.weights)
    return UNIT_ROUNDOFF * (len(X) + (width + 3) * change.item())


def compare(ratio: pd.Series, error: pd.Series, bound: float | pd.Series = 1.0) -> pd.Series:
    """Which ratios of condition numbers are "above" a bound, which "not above", which "undecided" (Sec. A.1.2).

    Undecided is what lies within its relative error of the bound, counted in logarithms.

    >>> list(compare(pd.Series([1.2, 1.0, 1.001, 0.5]), pd.Series([0.1, 0.0, 0.1, 0.1])))
    ['above', 'not above', 'undecided', 'not above']
    """
    distance = np.log(ratio / bound)
    return pd.Series(
        np.select([distance > error, distance <= -error], ["above", "not above"], "undecided"), ratio.index
    )


def top_ratio(eigenvalues: np.ndarray, k: int) -> float:
    """lambda_1 / lambda_k, by which g_1 lowers the largest eigenvalue (Sec. A.1.4).

    Args:
        eigenvalues: ``(..., n)``, falling; the mean is over all axes but the last.
        k: number of modulated eigenvalues.

    >>> top_ratio(np.array([[8.0, 4.0, 2.0], [8.0, 2.0, 1.0]]), k=2)
    3.0
    """
    return float((eigenvalues[..., 0] / eigenvalues[..., k - 1]).mean())


def random_instances(
    count: int, seed: int, omegas: Sequence[float] = (1.0, 3.0, 30.0), smallest_k: int = 2
) -> pd.DataFrame:
    """Condition numbers before and after preconditioning on random small networks, in float64 (Sec. A.1.2).

    Dimensions, grid sizes, width, rank, depth, activation, its frequency, parametrization and k are drawn at random; a
    kernel that is singular to working precision is drawn again, since it has no condition number.

    Args:
        count: number of instances.
        seed: of the draw.
        omegas: frequencies to draw from, for the periodic activations.
        smallest_k: k is drawn from here to the shortest axis; k = 1 leaves S~ = D I and with it the condition number.

    Returns:
        One row an instance: the draw, ``cond K``, for SepPGD and MSK ``cond K S``, its ratio to cond K and the ratio's relative
        error in double precision, the condition number of S~, and the effective rank of the spectra of K and K S~.
    """
    generator = torch.Generator().manual_seed(seed)

    def pick(options):
        return options[int(torch.randint(len(options), (1,), generator=generator))]

    rows = []
    while len(rows) < count:
        dims = pick((2, 2, 3))
        sizes = [pick(range(3, 9) if dims == 2 else range(2, 5)) for _ in range(dims)]
        draw = {
            "D": dims, "sizes": "x".join(map(str, sizes)), "width": pick((8, 16, 32, 64)), "rank": pick((4, 8, 16, 32)),
            "depth": pick((2, 3)), "activation": pick(ACTIVATIONS), "parametrization": pick(("ntk", "torch", "siren")),
            "omega": pick(omegas), "k": pick(range(smallest_k, min(sizes) + 1)),
        }  # fmt: skip
        network = {key: draw[key] for key in ("width", "depth", "activation", "parametrization", "omega")}
        model = CP([FactorMLP(draw["rank"], **network, generator=generator, dtype=torch.float64) for _ in range(dims)])
        axes = [2 * torch.rand(n, generator=generator, dtype=torch.float64) - 1 for n in sizes]
        X = as_points(axes)
        phi = features(model, X)
        singular = torch.linalg.svdvals(phi)
        if phi.shape[1] < phi.shape[0] or singular[-1] < SINGULAR * singular[0]:
            continue
        K = phi @ phi.T
        ours = SepPGD(model, axes, draw["k"])
        S, rounding = ours.operator().dense()[0], feature_rounding(model, X, phi)
        found = conditioning(phi, S, rounding, _damping(ours.preconditioners))
        theirs = modulate(K[None], draw["k"])
        msk = conditioning(phi, theirs.dense()[0], rounding, _damping([theirs]))
        ranks = [
            dynamics.effective_rank(preconditioned_eigenvalues(K, matrix)[None]).item()
            for matrix in (torch.eye(len(K)).to(K), S)
        ]
        values = torch.linalg.eigvalsh(S)
        rows.append(
            draw
            | {"cond K": found.plain, "cond KS": found.preconditioned, "ratio": found.ratio, "error": found.error}
            | {"cond KS (MSK)": msk.preconditioned, "ratio (MSK)": msk.ratio, "error (MSK)": msk.error}
            | {"cond S": (values[-1] / values[0]).item(), "effective rank K": ranks[0], "effective rank KS": ranks[1]}
        )
    return pd.DataFrame(rows)


def _damping(preconditioners: Sequence[Preconditioner]) -> float:
    """Largest lambda_1 / lambda_k of the kernels behind some preconditioners with g_1."""
    return max(1 / (1 - p.damping.max().item()) for p in preconditioners)


def violations(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Instances of :func:`random_instances` that SepPGD makes worse, and all that double precision decides (Sec. A.1.2)."""
    outcome = compare(frame.ratio, frame.error)
    return frame[outcome == "above"], frame[outcome != "undecided"]


def statements(wide: pd.DataFrame, narrow: pd.DataFrame) -> dict[str, Comparison]:
    """What else the instances of two draws say, each held against the instance that comes nearest (Sec. A.1.2).

    Instances that double precision does not decide are left out, statement by statement.
    """

    def largest(frame: pd.DataFrame, kind: str = "", bound: float | pd.Series = 1.0) -> Comparison:
        ratio, error = frame[f"ratio{kind}"], frame[f"error{kind}"]
        return at_most((ratio / bound)[compare(ratio, error, bound) != "undecided"].max(), 1)

    return {
        "none worsened by SepPGD": largest(wide),
        "none worsened by MSK": largest(wide, " (MSK)"),
        "cond(KS) <= cond(K) cond(S) always": largest(wide, bound=wide["cond S"]),
        "never worsened by more than the factor D": largest(wide, bound=wide.D),
        "narrow draw, none worsened by SepPGD": largest(narrow),
        "narrow draw, none worsened by MSK": largest(narrow, " (MSK)"),
    }


@dataclass(frozen=True)
class Spectra:
    """Eigenvalues of the kernel and its preconditioned versions at one moment, each falling (Sec. 4).

    Attributes:
        plain, seppgd, msk: ``(N,)`` eigenvalues of K and of K S.
        model: ``(N,)`` values that SepPGD would give if the kernel were the Kronecker sum that Sec. 4 argues with.
    """

    plain: Tensor
    seppgd: Tensor
    msk: Tensor
    model: Tensor


def spectra_over_training(settings: SpectrumSettings, seed: int, device: torch.device) -> dict[int, Spectra]:
    """Spectra at the start and after SepPGD training of f3 by Adam, preconditioners made anew (Sec. 4).

    Returns:
        Iteration to spectra. Computed in float64; the N x N kernels limit it to small grids.
    """
    generator = torch.Generator().manual_seed(seed)
    network = dict(width=settings.width, depth=3, activation="relu", parametrization="torch", generator=generator)
    model = CP([FactorMLP(settings.rank, **network, dtype=torch.float64, device=device) for _ in range(2)])
    axes = [torch.linspace(-1, 1, settings.points, dtype=torch.float64, device=device)] * 2
    result = {0: _spectra(model, axes, settings.k)}
    target = f3(*torch.meshgrid(*axes, indexing="ij"))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    fit(model, axes, target, optimizer, SepPGD(model, axes, settings.k), settings.iterations)
    result[settings.iterations] = _spectra(model, axes, settings.k)
    return result


def _spectra(model: CP, axes: list[Tensor], k: int) -> Spectra:
    K = ntk.empirical(model, as_points(axes))[0]
    ours = SepPGD(model, axes, k)
    msk = MSK(model, axes, k * k)
    msk.update()
    factor_values = [
        torch.linalg.eigvalsh(ntk.pseudo(f, x)[0]).flip(0).clamp_min(0) for f, x in zip(model.factors, axes)
    ]
    shares = [
        torch.where(torch.arange(len(v), device=v.device) < k, v[k - 1] / v, torch.ones_like(v)) for v in factor_values
    ]
    pairs = [sum(torch.meshgrid(*parts, indexing="ij")).flatten() for parts in (factor_values, shares)]
    return Spectra(
        torch.linalg.eigvalsh(K).flip(0),
        preconditioned_eigenvalues(K, ours.operator().dense()[0]),
        preconditioned_eigenvalues(K, msk.preconditioners[0].dense()[0]),
        (pairs[0] * pairs[1]).sort(descending=True).values,
    )


def spectrum_table(spectra: dict[int, Spectra], counts: tuple[int, ...] = (10, 50, 100)) -> pd.DataFrame:
    """How far the top of each spectrum reaches down: ``lambda_1 / lambda_m`` for some m (Sec. 4)."""
    rows = []
    for (iteration, all_three), name in itertools.product(spectra.items(), ("plain", "seppgd", "msk")):
        values = getattr(all_three, name)
        row = {"iteration": iteration, "kernel": {"plain": "K", "seppgd": "K S (SepPGD)", "msk": "K S (MSK)"}[name]}
        rows.append(row | {f"1/{m}": (values[0] / values[m - 1]).item() for m in counts})
    return pd.DataFrame(rows)


def draw_instances(frame: pd.DataFrame) -> Figure:
    """Condition number after against before preconditioning, one dot an instance (Sec. A.1.2)."""
    figure, ((axes,),) = panels(1, 1, 4.0)
    limits = [frame["cond K"].min() / 2, frame["cond K"].max() * 2]
    axes.loglog(frame["cond K"], frame["cond KS (MSK)"], "x", markersize=4, color=COLOURS["MSK"], label="MSK")
    axes.loglog(frame["cond K"], frame["cond KS"], "o", markersize=4, color=COLOURS["SepPGD"], label="SepPGD")
    worse = frame[compare(frame.ratio, frame.error) == "above"]
    axes.loglog(
        worse["cond K"], worse["cond KS"], "o", markersize=10, fillstyle="none", color="#111111", label="violations"
    )
    axes.loglog(limits, limits, color=COLOURS["limit"], linewidth=0.8)
    axes.set(xlabel="cond(K)", ylabel="cond(K S)", xlim=limits)
    axes.legend()
    return figure


def draw_spectra(spectra: dict[int, Spectra]) -> Figure:
    """Eigenvalues relative to the largest, at every moment looked at (Sec. 4)."""
    figure, row = panels(1, len(spectra), 3.6, sharey=True)
    for axes, (iteration, at) in zip(row[0], spectra.items()):
        for name, values, colour in (
            ("K", at.plain, COLOURS["SepNN"]),
            ("K S, SepPGD", at.seppgd, COLOURS["SepPGD"]),
            ("K S, MSK", at.msk, COLOURS["MSK"]),
        ):
            kept = values[values > 1e-10 * values[0]].cpu()
            axes.loglog(range(1, len(kept) + 1), kept / kept[0], color=colour, label=name)
        axes.set(xlabel="index m", title=f"after {iteration} iterations")
    row[0, 0].set_ylabel(r"$\lambda_m / \lambda_1$")
    legend(figure)
    return figure
