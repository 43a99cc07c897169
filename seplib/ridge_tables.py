"""What kernel ridge regression comes to: exact solutions, the criterion of Fig. 2(a), the figures (Figs. 2(a) and 5)."""

import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from seplib import ntk
from seplib.claims import Comparison, all_of, at_most, timed
from seplib.kernel_pgd import MSK, as_points
from seplib.plotting import band, legend, panels
from seplib.preconditioning import SepPGD
from seplib.profiles.preconditioning import RidgeSettings
from seplib.regression import CASES, KRR_METHODS, RidgeRun, ridge_data, ridge_network
from seplib.ridge import ridge_weights


def closed_forms(settings: RidgeSettings, seed: int, device: torch.device) -> pd.DataFrame:
    """Test MSE of the exact minimisers of Eq. (15), where every method's descent would end (Sec. 4, consistency).

    Returns:
        One row a solution: "SepNN" for S = I, "SepNN (SepPGD)" and "SepNN (MSK)" with their S, "MLP" for S = I; one column
        a case of :data:`CASES`. Computed in float64.
    """
    rows = {}
    data = ridge_data(settings, seed, device, torch.float64)
    X, new = as_points(data.axes), as_points(data.test_axes)
    for method in ("SepNN", "SepNN (SepPGD)", "SepNN (MSK)", "MLP"):
        network = ridge_network(method, settings, seed, device, torch.float64)
        K, cross, S = ntk.empirical(network, X)[0], ntk.empirical(network, X, new)[0], None
        if method.endswith("(SepPGD)"):
            S = SepPGD(network, data.axes, settings.k_seppgd).operator().dense()[0]
        elif method.endswith("(MSK)"):
            msk = MSK(network, X, settings.k_msk)
            msk.update()
            S = msk.preconditioners[0].dense()[0]
        values = ridge_weights(K, data.target.flatten(1), settings.weight_decay, S) @ cross
        rows[method] = (values - data.test_target.flatten(1)).square().mean(1).tolist()
    return pd.DataFrame(rows, index=CASES).T.rename_axis("solution").reset_index()


def best_on_the_way(run: RidgeRun) -> dict[str, float]:
    """Smallest test MSE that a run passes, case by case (Figs. 2(a) and 5)."""
    return dict(zip(CASES, run.test.min(0).tolist()))


def ridge_table(
    study: dict[str, list[RidgeRun]], settings: RidgeSettings, iterations: int | None = None, once: bool = False
) -> pd.DataFrame:
    """Criterion of Fig. 2(a), case by case, for a time budget of so many plain SepNN iterations.

    Args:
        study: of :func:`seplib.regression.ridge_study`.
        settings: of the profile.
        iterations: the budget in plain SepNN iterations, ``settings.iterations`` if None.
        once: charge a preconditioner once, not every ``settings.update_every`` iterations.

    Returns:
        One row a case: median time ratio of SepPGD to SepNN (to reach SepNN's best test MSE in the budget; infinite where
        SepPGD does not), the median test MSE of every method at the end of the budget, and both parts of the criterion.
    """
    plain, every = study["SepNN"], None if once else settings.update_every
    budget = (iterations or settings.iterations) * statistics.median(run.step for run in plain)
    rows = []
    for c, case in enumerate(CASES):
        ours, theirs = [], []
        for run, other in zip(study["SepNN (SepPGD)"], plain):
            inside = other.seconds() <= budget
            best = other.test[inside, c].min()
            theirs.append(other.seconds()[inside][other.test[inside, c].argmin()])
            reached = np.flatnonzero((run.test[:, c] <= best) & (run.seconds(every) <= budget))
            ours.append(run.seconds(every)[reached[0]] if len(reached) else np.inf)
        ratio = float(np.median(ours) / np.median(theirs))
        final = {m: float(np.median([_at(run, c, budget, every) for run in runs])) for m, runs in study.items()}
        spread = float(np.std([_at(run, c, budget, every) for run in study["SepNN (SepPGD)"]]))
        best = {f"best {m}": float(np.median([run.test[:, c].min() for run in runs])) for m, runs in study.items()}
        row = {"time ratio": ratio, "spread": spread} | final
        halves = {half: bool(held) for half, held in _halves(row).items()}
        rows.append({"case": case, "time ratio": ratio} | halves | row | best)
    return pd.DataFrame(rows)


def _halves(row: Mapping[str, Any]) -> dict[str, Comparison]:
    """Both halves of the criterion from a row of :func:`ridge_table`: time to SepNN's error, and the others' errors at the end."""
    ours, rivals = "SepNN (SepPGD)", [m for m in KRR_METHODS if m in row and m not in ("SepNN", "SepNN (SepPGD)")]
    return {
        "twice as fast": timed(at_most(row["time ratio"], 0.5)),
        "not behind": timed(all_of(*(at_most(row[ours], row[m], spread=row["spread"]) for m in rivals))),
    }


def cases(table: pd.DataFrame) -> dict[str, Comparison]:
    """The cases of the claim ``fig-2a``: both halves of the criterion, from :func:`ridge_table` (Fig. 2(a))."""
    return {row["case"]: all_of(*_halves(row).values()) for row in table.to_dict("records")}


def numbers(table: pd.DataFrame) -> dict[str, float | str]:
    """Time ratios and final errors of :func:`ridge_table` by case and method, for the scorecard (Fig. 2(a))."""
    rows = [row for _, row in table.iterrows()]
    ratios = {f"{r['case']}: time ratio": r["time ratio"] for r in rows}
    ends = {f"{row['case']}: final {method}": row[method] for row in rows for method in KRR_METHODS}
    return {name: ratio if np.isfinite(ratio) else "not reached" for name, ratio in ratios.items()} | ends


def budget_table(study: dict[str, list[RidgeRun]], settings: RidgeSettings, stops: Sequence[int]) -> pd.DataFrame:
    """How the criterion of Fig. 2(a) depends on the time budget: in how many of the six cases each half of it holds.

    Args:
        study: of :func:`seplib.regression.ridge_study`.
        settings: of the profile.
        stops: budgets in plain SepNN iterations.
    """
    rows = []
    for once, stop in itertools.product((False, True), stops):
        table = ridge_table(study, settings, stop, once)
        rows.append(
            {"charged": "once" if once else f"every {settings.update_every} iterations", "budget": stop}
            | {half: int(table[half].sum()) for half in ("twice as fast", "not behind")}
            | {"both": int((table["twice as fast"] & table["not behind"]).sum())}
        )
    return pd.DataFrame(rows)


def _at(run: RidgeRun, case: int, budget: float, every: int | None) -> float:
    """Test MSE at the last measurement inside the budget."""
    inside = np.flatnonzero(run.seconds(every) <= budget)
    return float(run.test[inside[-1] if len(inside) else 0, case])


def draw_ridge(study: dict[str, list[RidgeRun]], settings: RidgeSettings, over: str = "seconds") -> Figure:
    """Test MSE of every method in the six cases, over time or over iterations (Figs. 2(a) and 5).

    Args:
        study: of :func:`seplib.regression.ridge_study`.
        settings: of the profile.
        over: "seconds", with the updates of Sec. A.12 counted and the budget marked, or "iterations".
    """
    figure, grid = panels(2, 3, 5.4)
    budget = settings.iterations * statistics.median(run.step for run in study["SepNN"])
    for c, axes in enumerate(grid.flat):
        for method, runs in study.items():
            iterations = runs[0].iterations
            seconds = np.median([r.seconds(settings.update_every if ")" in method else None) for r in runs], axis=0)
            band(axes, seconds if over == "seconds" else iterations, np.array([r.test[:, c] for r in runs]), method)
        axes.set(title=CASES[c], yscale="log", xscale="log", xlabel=over)
        if over == "seconds":
            axes.axvline(budget, color="#111111", linewidth=0.8, linestyle=":")
    for axes in grid[:, 0]:
        axes.set_ylabel("test MSE")
    legend(figure, 3)
    return figure
