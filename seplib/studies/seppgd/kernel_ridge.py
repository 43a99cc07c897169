"""Kernel ridge regression on grids: runs, tables, criteria, figures (Sec. A.12, Figs. 2(a) and 5)."""

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from seplib import metrics, ntk
from seplib.baselines import MSK, as_points
from seplib.factors import FactorMLP
from seplib.preconditioning import SepPGD
from seplib.reproduce.criteria import Comparison, all_of, at_most, timed
from seplib.reproduce.plotting import band, legend, panels
from seplib.reproduce.recipes import choices
from seplib.reproduce.store import stored
from seplib.ridge import Linearised, ridge_weights
from seplib.separable import CP, MLP
from seplib.studies.seppgd.settings import RidgeSettings
from seplib.targets import f1, f2, f3
from seplib.training import State, fit

FUNCTIONS = {"f1": f1, "f2": f2, "f3": f3}
CASES = (*FUNCTIONS, *(f"{name}, noisy" for name in FUNCTIONS))
KRR_METHODS = ("MLP", "MLP (MSK)", "SepNN", "SepNN (MSK)", "SepNN (SepPGD)")


@dataclass(frozen=True)
class RidgeData:
    """Training and test grid with random coordinates, the same for all six cases (Sec. A.12).

    Attributes:
        axes, test_axes: two sorted tensors ``(n,)``, uniform on [-1, 1].
        target: ``(6, n, n)``, the cases of :data:`CASES`; test_target: ``(6, n, n)``, without noise.
    """

    axes: list[Tensor]
    test_axes: list[Tensor]
    target: Tensor
    test_target: Tensor


@dataclass(frozen=True)
class RidgeRun:
    """One method's descent on the six cases of a seed (Figs. 2(a) and 5).

    Attributes:
        iterations: ``(T,)`` at which the errors were measured.
        test: ``(T, 6)`` test MSE; train: ``(T, 6)`` training MSE.
        step, construction: seconds of one iteration on one case and of one preconditioner, by :func:`ridge_clock`.
    """

    iterations: np.ndarray
    test: np.ndarray
    train: np.ndarray
    step: float = 0.0
    construction: float = 0.0

    def seconds(self, update_every: int | None = None) -> np.ndarray:
        """Time at each measurement, the preconditioner computed once or, as Sec. A.12 has it, every so many iterations.

        In kernel ridge regression both give the same iterates, since the kernel is that of the initial weights.
        """
        updates = 1 if update_every is None else np.maximum(1, -(-self.iterations // update_every))
        return self.iterations * self.step + updates * self.construction


def ridge_data(settings: RidgeSettings, seed: int, device: torch.device, dtype: torch.dtype | None = None) -> RidgeData:
    """Draw the data of one seed (Sec. A.12): ``points x points`` grids in [-1, 1]^2, noise on the training values."""
    generator = torch.Generator().manual_seed(1000 + seed)

    def axis() -> Tensor:
        return 2 * torch.rand(settings.points, generator=generator, dtype=torch.float64).sort().values - 1

    axes, test_axes = [axis(), axis()], [axis(), axis()]
    values, test = (
        torch.stack([f(*torch.meshgrid(*grid, indexing="ij")) for f in FUNCTIONS.values()])
        for grid in (axes, test_axes)
    )
    noisy = values + settings.noise * torch.randn(values.shape, generator=generator, dtype=torch.float64)
    move = dict(device=device, dtype=dtype or torch.float32)
    return RidgeData(
        [x.to(**move) for x in axes],
        [x.to(**move) for x in test_axes],
        torch.cat([values, noisy]).to(**move),
        torch.cat([test, test]).to(**move),
    )


def ridge_network(
    method: str, settings: RidgeSettings, seed: int, device: torch.device, dtype: torch.dtype = torch.float32
) -> CP | MLP:
    """The ReLU network whose gradient at initialisation is the feature map of Eq. (15) (Sec. A.12).

    Raises:
        ValueError: an unknown method.
    """
    if method not in KRR_METHODS:
        raise ValueError(f"method must be one of {', '.join(KRR_METHODS)}, got {method!r}")
    common = dict(
        width=settings.width, depth=settings.depth, activation="relu", parametrization="torch",
        generator=torch.Generator().manual_seed(seed), device=device, dtype=dtype,
    )  # fmt: skip
    if method.startswith("MLP"):
        return MLP(2, **common)
    return CP([FactorMLP(settings.rank, **common) for _ in range(2)])


def ridge_run(method: str, settings: RidgeSettings, seed: int, device: torch.device) -> RidgeRun:
    """Kernel ridge regression by Adam with weight decay, Eq. (15), on the six cases at once (Figs. 2(a) and 5).

    The six cases share network and grid, so their coefficients train side by side along the ensemble axis. Time is not taken
    here but by :func:`ridge_clock`, one case alone, since six at once would blur what a step costs.

    Raises:
        ValueError: an unknown method.
    """
    return _train_ridge(method=method, settings=choices(settings, ("seeds", "timed")), seed=seed, device=device)


@stored("ridge", tolerance=1e-3, dump=asdict, load=lambda found: RidgeRun(**found))
def _train_ridge(*, method: str, settings: dict, seed: int, device: torch.device) -> RidgeRun:
    settings = RidgeSettings(**settings, seeds=1, timed=1)
    data, network = ridge_data(settings, seed, device), ridge_network(method, settings, seed, device)
    separable = isinstance(network, CP)
    inputs, test_inputs, target, test_target = _inputs(data, network)
    preconditioner = _preconditioner(method, network, inputs, settings)
    iterations = settings.iterations if separable else settings.mlp_iterations
    seen: list[tuple[int, list[float], list[float]]] = []
    linear = Linearised(network, copies=len(target))

    def measure(state: State) -> None:
        if state.iteration % settings.every == 0 or state.iteration == iterations:
            with torch.no_grad():
                values = linear.grid(test_inputs) if separable else linear.points(test_inputs)
            test = (values - test_target).flatten(1).square().mean(1)
            seen.append((state.iteration, test.tolist(), state.residual.flatten(1).square().mean(1).tolist()))

    fit(linear, inputs, target, _adam(linear, settings), preconditioner, iterations, [measure])
    steps, test, train = (np.array(column) for column in zip(*seen))
    return RidgeRun(steps, test, train)


def _inputs(data: RidgeData, network: CP | MLP):
    """Training inputs, test inputs, training values and test values in the form that the network takes best."""
    if isinstance(network, CP):
        return data.axes, data.test_axes, data.target, data.test_target
    return as_points(data.axes), as_points(data.test_axes), data.target.flatten(1), data.test_target.flatten(1)


def _preconditioner(method: str, network: CP | MLP, inputs, settings: RidgeSettings) -> MSK | SepPGD | None:
    once = 10**9  # the kernel stays that of the initial weights
    if method.endswith("(MSK)"):
        return MSK(network, inputs, settings.k_msk, once)
    return SepPGD(network, inputs, settings.k_seppgd, once) if method.endswith("(SepPGD)") else None


def ridge_clock(settings: RidgeSettings, seed: int, device: torch.device) -> dict[str, tuple[float, float]]:
    """Seconds of one iteration and of one preconditioner, for one case alone (Figs. 2(a) and 5).

    The methods take turns, a few iterations each, so that what else runs on the machine slows all of them; the least time of
    each counts.

    Returns:
        Method to (step, construction).
    """
    return _time_ridge(settings=choices(settings, ("seeds",)), seed=seed, device=device)


@stored("ridge clock", tolerance=None, load=lambda found: {method: tuple(pair) for method, pair in found.items()})
def _time_ridge(*, settings: dict, seed: int, device: torch.device) -> dict[str, tuple[float, float]]:
    settings = RidgeSettings(**settings, seeds=1)
    data, runs = ridge_data(settings, seed, device), {}
    for method in KRR_METHODS:
        network = ridge_network(method, settings, seed, device)
        inputs, _, target, _ = _inputs(data, network)
        linear = Linearised(network)
        preconditioner = _preconditioner(method, network, inputs, settings)
        runs[method] = (linear, inputs, target[:1], _adam(linear, settings), preconditioner)
    steps = dict.fromkeys(KRR_METHODS, np.inf)
    constructions = {method: 0.0 if run[4] is None else np.inf for method, run in runs.items()}
    for _ in range(settings.timed):
        for method, run in runs.items():
            history = fit(*run, iterations=6)
            steps[method] = min(steps[method], *np.diff(history.seconds[1:]))
            if run[4] is not None:
                constructions[method] = min(constructions[method], metrics.seconds(run[4].update, device))
    return {method: (float(steps[method]), float(constructions[method])) for method in KRR_METHODS}


def _adam(model: torch.nn.Module, settings: RidgeSettings) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), settings.learning_rate, weight_decay=settings.weight_decay, fused=True)


def ridge_study(settings: RidgeSettings, seed: int, device: torch.device) -> dict[str, list[RidgeRun]]:
    """All methods and seeds (Figs. 2(a) and 5): method to one run a seed."""
    seeds, clock = range(seed, seed + settings.seeds), ridge_clock(settings, seed, device)
    return {
        method: [
            replace(ridge_run(method, settings, s, device), step=clock[method][0], construction=clock[method][1])
            for s in seeds
        ]
        for method in KRR_METHODS
    }


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
        study: of :func:`seplib.studies.seppgd.kernel_ridge.ridge_study`.
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
        study: of :func:`seplib.studies.seppgd.kernel_ridge.ridge_study`.
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
        study: of :func:`seplib.studies.seppgd.kernel_ridge.ridge_study`.
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
