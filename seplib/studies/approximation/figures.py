"""Figures of the approximation notebooks (Theorem 1, Sec. A.1.2)."""

import base64
import io
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from IPython.display import HTML
from matplotlib.figure import Figure

from seplib.approximation import compression, interpolation, rates
from seplib.reproduce.plotting import COLOURS, legend, panels, plain_ticks
from seplib.studies.approximation.gallery import Function

_FORMS = {"CP": "#0072B2", "TT": "#D55E00", "Tucker": "#009E73"}


def certificates(table: pd.DataFrame) -> Figure:
    """Measured gap between expansion and network under both bounds and eps, case by case (Theorem 1, Sec. A.5)."""
    figure, row = panels(1, 3, 3.8, sharey=True)
    for axes, (form, colour) in zip(row[0], _FORMS.items()):
        cases = table[table.form == form].reset_index()
        axes.semilogy(cases.index, cases.eps / 2, "_", color="#111111", markersize=7, label="eps / 2")
        axes.semilogy(cases.index, cases.bound, "v", color=colour, markersize=4, label="proof's bound")
        axes.semilogy(cases.index, cases.sharp, "d", color=colour, markersize=3, alpha=0.6, label="term by term")
        axes.semilogy(cases.index, cases.gap, "o", color=colour, markersize=3, mfc="white", label="measured")
        axes.vlines(cases.index, cases.gap, cases.bound, color=colour, alpha=0.25, linewidth=1)
        axes.set(title=form, xlabel="case (function, eps)", xticks=[])
    row[0, 0].set_ylabel("|expansion − network|")
    legend(figure)
    return figure


def parameters(table: pd.DataFrame, mlp: pd.DataFrame) -> Figure:
    """Parameters over the error reached, three forms and the two-layer MLP, one panel a function (Theorem 1)."""
    names = list(mlp.function.unique())
    rows = -(-len(names) // 2)
    figure, grid = panels(rows, min(2, len(names)), 0.6 + 2.4 * rows, sharey=True)
    for axes, name in zip(grid.flat, names):
        for form, colour in _FORMS.items():
            cases = table[(table.function == name) & (table.form == form)]
            axes.loglog(cases.error, cases.parameters, "o-", color=colour, label=form, markersize=4)
        cases = mlp[mlp.function == name]
        axes.loglog(cases.error, cases.parameters, "s--", color=COLOURS["MLP"], label="MLP", markersize=4)
        axes.invert_xaxis()
        axes.set(title=name, xlabel="largest error")
    for axes in grid.flat[len(names) :]:
        axes.set_axis_off()
    for row in grid:
        row[0].set_ylabel("parameters")
    legend(figure)
    return figure


def widths(curves: pd.DataFrame) -> Figure:
    """Largest factor error over the width for every activation, powers dashed (Theorem 1)."""
    figure, ((axes,),) = panels(1, 1, 4.0)
    for index, (name, curve) in enumerate(curves.groupby("activation", sort=False)):
        polynomial = name.startswith("z^")
        colour = "#9aa3ad" if polynomial else plt.get_cmap("tab10")(index)
        style = dict(linestyle="--" if polynomial else "-", marker="osD^v<>"[index % 7], markersize=4)
        # Pairs of curves coincide: sine and cosine, ReLU and leaky ReLU.
        axes.loglog(
            curve.width, curve.delta, color=colour, label=f"${name}$" if polynomial else name, mfc="none", **style
        )
    axes.set(xlabel="width W", ylabel="largest factor error $\\delta$")
    plain_ticks(axes.xaxis)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def ranks(function: Function, curve: pd.DataFrame, largest: float) -> Figure:
    """Sup error over the CP rank for D = 2 under the bound for analytic functions (Sec. A.1.2).

    Args:
        function: D = 2, analytic in x inside the Bernstein ellipse of parameter ``largest`` for every y.
        curve: from :func:`seplib.studies.approximation.gallery.rank_curve`.
        largest: rho of that ellipse.
    """
    figure, ((axes,),) = panels(1, 1, 3.4)
    axes.semilogy(curve.R, curve.error, "o-", color=_FORMS["CP"], label="measured")
    bounds = [rates.best_analytic_bound(function.f, rank, largest) for rank in curve.R]
    axes.semilogy(curve.R, bounds, "--", color="#111111", label="bound")
    axes.set(xlabel="rank R", ylabel="largest error", title=f"${function.formula}$")
    axes.legend()
    return figure


def kinks(curve: pd.DataFrame, order: int, variation: float) -> Figure:
    """Sup error over the CP rank for a function with a kink, under the bound for bounded variation (Sec. A.1.2)."""
    figure, ((axes,),) = panels(1, 1, 3.4)
    axes.loglog(curve.R, curve.error, "o-", color=_FORMS["CP"], label="measured")
    axes.loglog(
        curve.R, [rates.sobolev_bound(variation, order, rank) for rank in curve.R], "--", color="#111111", label="bound"
    )
    axes.set(xlabel="rank R", ylabel="largest error")
    plain_ticks(axes.xaxis)
    axes.legend()
    return figure


def forms(curves: dict[str, pd.DataFrame], bounds: dict[str, Sequence[tuple[int, float]]]) -> Figure:
    """Sup error over the rank for the three forms, one panel a function, with bounds (R, error) for CP (Eqs. (2) and (3))."""
    figure, row = panels(1, len(curves), 3.4, sharey=True)
    for axes, (name, curve) in zip(row[0], curves.items()):
        for form, part in curve.groupby("form", sort=False):
            axes.loglog(part.R, part.error.clip(lower=1e-14), "o-", color=_FORMS[form], label=form, markersize=4)
        if name in bounds:
            axes.loglog(*zip(*bounds[name]), "--", color=_FORMS["CP"], label="bound for CP")
        axes.set(title=name, xlabel="largest rank")
        plain_ticks(axes.xaxis)
    row[0, 0].set_ylabel("largest error")
    legend(figure)
    return figure


def trained(curves: dict[str, pd.DataFrame]) -> Figure:
    """Relative error of trained CP networks over the rank, above the Eckart-Young floor (Sec. A.1.2)."""
    figure, row = panels(1, len(curves), 3.4, sharey=True)
    for axes, (name, curve) in zip(row[0], curves.items()):
        floor = curve.groupby("R").floor.first().clip(lower=1e-8)
        axes.semilogy(floor.index, floor, "--", color="#111111", label="best of rank R")
        axes.semilogy(curve.R, curve.error, "o", color=COLOURS["SepNN"], markersize=4, label="trained")
        axes.set(title=name, xlabel="rank R")
    row[0, 0].set_ylabel("relative error")
    legend(figure)
    return figure


def rank_slider(function: Function, ranks: Sequence[int], size: int = 97) -> HTML:
    """A slider over the rank: best expansion of that rank and its error, as pictures inside the page (Eq. (2)).

    The frames are drawn beforehand and the few words of script stand in the page, so that it works without network.
    """
    full = interpolation.interpolate(function.f, function.domain, 1e-9)
    axes = [torch.linspace(-1, 1, size, dtype=torch.float64)] * 2
    wanted = function.f(*torch.meshgrid(*axes, indexing="ij"))
    frames = []
    for rank in ranks:
        with torch.no_grad():
            values = compression.compress(full, "CP", 0.0, max_rank=rank).grid(axes)[0]
        error = (values - wanted).abs()
        figure, (row,) = panels(1, 2, 3.1)
        show = dict(origin="lower", extent=(-1, 1, -1, 1))
        row[0].imshow(values.T.numpy(), vmin=wanted.min().item(), vmax=wanted.max().item(), cmap="viridis", **show)
        row[0].set_title(f"rank {rank}")
        picture = row[1].imshow(np.log10(error.T.numpy() + 1e-9), vmin=-8, vmax=0, cmap="magma", **show)
        row[1].set_title(f"log10 of the error, largest {error.max():.0e}")
        figure.colorbar(picture, ax=row[1])
        for part in row:
            part.grid(False)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="jpeg", dpi=100, pil_kwargs={"quality": 80, "optimize": True})
        frames.append(base64.b64encode(buffer.getvalue()).decode())
    images = "".join(
        f'<img alt="expansion of rank {rank} and its error" style="display:{"block" if i == 0 else "none"};max-width:100%" '
        f'src="data:image/jpeg;base64,{data}">'
        for i, (rank, data) in enumerate(zip(ranks, frames))
    )
    script = (
        "const f=this.closest('figure');f.querySelectorAll('img').forEach("
        "(e,i)=>e.style.display=i==this.value?'block':'none')"
    )
    return HTML(
        f'<figure style="margin:0"><label>rank R: {ranks[0]} to {ranks[-1]} '
        f'<input type="range" min="0" max="{len(ranks) - 1}" value="0" step="1" style="width:60%" '
        f'aria-label="rank R" oninput="{script}"></label>{images}</figure>'
    )
