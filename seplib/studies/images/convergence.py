"""Small images fitted by five methods, error against time (Sec. A.12, Figs. 2(b) and 6)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from seplib.reproduce.criteria import Comparison, above
from seplib.reproduce.plotting import COLOURS, legend, panels
from seplib.studies.images.fitting import ImageRun, fit_image, update_seconds
from seplib.studies.images.settings import ConvergenceSettings, ImageSettings
from seplib.studies.images.setups import SMALL_METHODS
from seplib.targets import ImageTarget, noisy

Runs = dict[tuple[str, str], ImageRun]


def study(targets: Sequence[ImageTarget], settings: ConvergenceSettings, seed: int, device: torch.device) -> Runs:
    """Every image, clean and noisy, with every method, each run cached (Figs. 2(b) and 6).

    Args:
        targets: the images.
        settings: of the profile.
        seed: of the initial weights and the noise.
        device: where to compute.

    Returns:
        The runs by (case, method); the noisy case of "plane" is called "plane, noisy". Noisy runs are judged by the clean image.
    """
    runs = {}
    for target in targets:
        spoiled = noisy(target.values, settings.noise, seed)
        cases = {target.name: (target.values, None), f"{target.name}, noisy": (spoiled, target.values)}
        for case, (values, reference) in cases.items():
            for method, own in _settings(settings).items():
                runs[case, method] = fit_image(values, method, own, seed, device, reference=reference)
    return runs


def clock(
    target: ImageTarget, settings: ConvergenceSettings, seed: int, device: torch.device, rounds: int = 3
) -> dict[str, np.ndarray]:
    """Seconds after 0, 1, 2, ... iterations of each method, preconditioner updates where they fall (Fig. 2(b), time axis).

    The pace is that of :func:`seplib.studies.images.fitting.update_seconds`, measured side by side, whenever the runs themselves were made.
    """
    paces = update_seconds(target.values, _settings(settings), seed, device, rounds)
    return {m: np.cumsum([0.0, *np.resize(pace, settings.iterations[m])]) for m, pace in paces.items()}


def ticks(settings: ConvergenceSettings) -> dict[str, np.ndarray]:
    """A clock that strikes once an iteration, whatever it costs, to put in place of :func:`clock` (Figs. 2(b) and 6)."""
    return {method: np.arange(settings.iterations[method] + 1.0) for method in SMALL_METHODS}


def _settings(settings: ConvergenceSettings) -> dict[str, ImageSettings]:
    """Each method's own k and number of iterations."""
    ks = {method: settings.k_msk if "MSK" in method else settings.run.k for method in SMALL_METHODS}
    return {m: replace(settings.run, k=ks[m], iterations=settings.iterations[m]) for m in SMALL_METHODS}


def budget(seconds: Mapping[str, np.ndarray], iterations: int) -> float:
    """The common time: that of so many SepPGD iterations, or less if a method's run ends before (Figs. 2(b) and 6).

    Args:
        seconds: of :func:`clock`.
        iterations: of SepPGD.

    Raises:
        ValueError: SepPGD's own run is shorter.
    """
    if not 0 < iterations < len(seconds["SepPGD"]):
        raise ValueError(
            f"the budget must be 1 to {len(seconds['SepPGD']) - 1} iterations, SepPGD's run, got {iterations}"
        )
    return float(min(seconds["SepPGD"][iterations], *(times[-1] for times in seconds.values())))


def table(runs: Runs, seconds: Mapping[str, np.ndarray], time: float) -> pd.DataFrame:
    """Where every method stands at a time (Figs. 2(b) and 6).

    Args:
        runs: of :func:`study`.
        seconds: of :func:`clock`.
        time: in seconds.

    Returns:
        One row for each case and method: ``updates`` made, ``MSE`` of the training target, and ``clean MSE`` against the image
        without noise, which noisy runs measure every ten updates. Runs that end before that time are left out.
    """
    rows = []
    for (case, method), run in runs.items():
        if seconds[method][-1] < time:
            continue
        updates = _updates(seconds[method], time)
        psnr = run.psnr[updates]
        clean = run.history.metrics["judged"][updates // 10] if "judged" in run.history.metrics else psnr
        errors = {"MSE": _mse(psnr), "clean MSE": _mse(clean)}
        rows.append({"case": case, "method": method, "updates": updates} | errors)
    return pd.DataFrame(rows)


def margin(found: pd.DataFrame) -> pd.Series:
    """The lowest MSE of the other methods over SepPGD's, by case, from :func:`table` (Figs. 2(b) and 6)."""
    errors = found.pivot(index="case", columns="method", values="MSE").loc[found.case.unique()]
    return errors.drop(columns="SepPGD").min(axis=1) / errors["SepPGD"]


def cases(found: pd.DataFrame) -> dict[str, Comparison]:
    """The cases of the claim ``fig-2b``: whether SepPGD has the lowest MSE of all, from :func:`table` (Figs. 2(b) and 6)."""
    return {f"{case}: SepPGD lowest": above(ratio, 1) for case, ratio in margin(found).items()}


def leads(runs: Runs, seconds: Mapping[str, np.ndarray], times: Sequence[float], unit: str = "seconds") -> pd.DataFrame:
    """In how many cases each method has the lowest MSE at several times; NaN for runs that end before (Figs. 2(b) and 6).

    Args:
        runs: of :func:`study`.
        seconds: of :func:`clock` or :func:`ticks`.
        times: one row for each.
        unit: what they count, the name of the first column.
    """
    rows = []
    for time in times:
        found = table(runs, seconds, time)
        best = found.loc[found.groupby("case").MSE.idxmin(), "method"]
        rows.append({unit: time} | {method: (best == method).sum() for method in found.method.unique()})
    return pd.DataFrame(rows, columns=[unit, *SMALL_METHODS])


def draw(runs: Runs, seconds: Mapping[str, np.ndarray], unit: str, mark: float) -> Figure:
    """MSE of every method in every case, clean images above, noisy ones below (Figs. 2(b) and 6).

    Args:
        runs: of :func:`study`.
        seconds: of :func:`clock` or :func:`ticks`.
        unit: what they count.
        mark: where to draw a dotted line.
    """
    names = list(dict.fromkeys(case for case, _ in runs))
    images = len(names) // 2
    figure, grid = panels(2, images, 5.4, sharex=True, sharey="col")
    for axes, case in zip(grid.T.flat, names):
        for method in SMALL_METHODS:
            errors = _mse(runs[case, method].psnr)
            axes.plot(
                seconds[method][1:],
                errors[1:],
                drawstyle="steps-post",
                label=method,
                color=COLOURS[method],
                linewidth=1.2,
            )
        axes.set(title=case, xscale="log", yscale="log")
        axes.axvline(mark, color="#111111", linewidth=0.8, linestyle=":")
    for axes in grid[-1]:
        axes.set_xlabel(unit)
    for axes in grid[:, 0]:
        axes.set_ylabel("MSE")
    legend(figure, 3)
    return figure


def _updates(seconds: np.ndarray, time: float) -> int:
    return int(np.searchsorted(seconds, time, side="right")) - 1


def _mse(psnr: np.ndarray | float) -> np.ndarray | float:
    return 10 ** (-np.asarray(psnr) / 10)
