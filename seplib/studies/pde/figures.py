"""Figures of the notebook on differential equations (Figs. 4, 13, 14)."""

import textwrap
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from seplib.reproduce.plotting import COLOURS, band, legend, panels, plain_ticks
from seplib.studies.pde.comparison import Study, exact
from seplib.studies.pde.fitting import METHODS
from seplib.studies.pde.settings import EquationSettings


def convergence(runs: Study, seconds: Mapping[tuple[str, str], float], settings: EquationSettings) -> Figure:
    """Test error over updates (top) and over training time (bottom), one column an equation (Figs. 4, 13, 14).

    Args:
        runs: of :func:`seplib.studies.pde.comparison.study`.
        seconds: an update, by (equation, method).
        settings: of the profile.
    """
    names = settings.equations
    figure, grid = panels(2, len(names), 5.2, sharey="col")
    for column, name in zip(grid.T, names):
        column[0].set_title(name)
        for method in METHODS:
            run = runs[name, method]
            band(column[0], run.iterations, run.errors.T, method, linewidth=1.0)
            band(column[1], seconds[name, method] * run.iterations[1:], run.errors.T[:, 1:], method, linewidth=1.0)
        column[0].set(xlabel="update", yscale="log")
        column[1].set(xlabel="seconds", xscale="log")
        plain_ticks(column[1].xaxis)
    for row in grid:
        row[0].set_ylabel("test MSE")
    legend(figure)
    return figure


def slices(runs: Study, settings: EquationSettings) -> Figure:
    """The solution and each method's error on a plane through the box, first seed, one row an equation (Figs. 4, 13, 14).

    The plane is that of the first coordinate's point nearest to two thirds of its range. Errors share one scale a row.
    """
    names, at = settings.equations, round(2 * (settings.test - 1) / 3)
    figure, grid = panels(len(names), 1 + len(METHODS), 2.0 * len(names))
    for row, name in zip(grid, names):
        truth = exact(name, settings).numpy()[at]
        limit = np.abs(truth).max()
        shown = row[0].imshow(truth, cmap="RdBu_r", vmin=-limit, vmax=limit)
        figure.colorbar(shown, ax=row[0], shrink=0.8)
        row[0].set_title(f"{name},\nsolution")
        errors = {method: np.abs(runs[name, method].solution[at] - truth) for method in METHODS}
        for axes, (method, error) in zip(row[1:], errors.items()):
            shown = axes.imshow(error, cmap="magma", vmin=0, vmax=max(error.max() for error in errors.values()))
            axes.set_title(f"{method},\nerror")
        figure.colorbar(shown, ax=row[-1], shrink=0.8)
        for axes in row:
            axes.set(xticks=[], yticks=[])
            axes.grid(False)
    return figure


def reference(errors: pd.DataFrame) -> Figure:
    """Distance of the diffusion's reference solution from itself at twice the resolution (Fig. 4).

    Args:
        errors: of :func:`seplib.studies.pde.comparison.reference_errors`.
    """
    figure, ((axes,),) = panels(1, 1, 3.4)
    axes.loglog(errors.resolution, errors["largest"], "o-", label="largest difference")
    axes.loglog(errors.resolution, errors["relative L2"], "s-", label="relative L2 difference")
    end = errors["relative L2"].iloc[-1] * errors.resolution.iloc[-1] ** 2
    axes.loglog(
        errors.resolution, end / errors.resolution**2, "--", color=COLOURS["limit"], linewidth=1, label="order 2"
    )
    axes.axhline(1e-4, color=COLOURS["PINN"], linewidth=0.8)
    axes.set(xlabel="intervals along x and y")
    axes.set_xticks(errors.resolution, errors.resolution)
    axes.set_xticks([], minor=True)
    axes.legend()
    return figure


def gains(table: pd.DataFrame) -> Figure:
    """Test error with SepPGD over that without, by variant and equation (Sec. A.12).

    Args:
        table: of :func:`seplib.studies.pde.variants.compare_variants`.
    """
    variants, names = list(dict.fromkeys(table.variant)), list(dict.fromkeys(table.equation))
    figure, ((axes,),) = panels(1, 1, 0.5 * len(variants) + 1.0)
    for index, name in enumerate(names):
        rows = table[table.equation == name].set_index("variant").loc[variants]
        axes.plot(rows.error, np.arange(len(variants)) + 0.2 * (index - 1), "o", label=name)
    axes.axvline(1, color=COLOURS["limit"], linewidth=1)
    labels = [textwrap.fill(variant, 28) for variant in variants]
    axes.set(xscale="log", xlabel="test MSE with SepPGD / without", yticks=range(len(variants)), yticklabels=labels)
    plain_ticks(axes.xaxis)
    axes.invert_yaxis()
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(names))
    return figure
