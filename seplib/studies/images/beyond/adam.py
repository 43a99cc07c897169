"""SepPGD on images and Adam, whose learning rate alone Sec. A.12 states: memory, rate, and a preconditioner that changes."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from seplib.reproduce.plotting import COLOURS, band, legend, panels
from seplib.studies.images import representation
from seplib.studies.images.fitting import METHODS, ImageRun, fit_image
from seplib.studies.images.representation import Study
from seplib.studies.images.settings import ImageSettings
from seplib.studies.images.studies import OptimizerSettings
from seplib.targets import ImageTarget


def memories(
    targets: Sequence[ImageTarget], study: OptimizerSettings, seed: int, device: torch.device
) -> dict[float, Study]:
    """The study of :func:`seplib.studies.images.representation.study` with Adam's usual memory and with the short one, by beta_2 (Fig. 3)."""
    return {
        beta2: representation.study(targets, replace(study.run, beta2=beta2), seed, device)
        for beta2 in (study.run.beta2, study.short)
    }


def memory_table(targets: Sequence[ImageTarget], runs: dict[float, Study]) -> pd.DataFrame:
    """PSNR after the last update in dB, mean over seeds (Fig. 3).

    Args:
        targets: the images.
        runs: of :func:`memories`.

    Returns:
        One row an image and memory: ``image``, ``beta2``, a column a method, ``gain`` of SepPGD over SepNN and its standard
        deviation over seeds, ``spread``, NaN for one seed.
    """
    gains = {beta2: representation.gains(targets, study) for beta2, study in runs.items()}
    rows = []
    for target in targets:
        for beta2, study in runs.items():
            gain = gains[beta2][target.name]
            rows.append(
                {"image": target.name, "beta2": beta2}
                | {method: np.mean([run.psnr[-1] for run in study[target.name, method]]) for method in METHODS}
                | {"gain": gain.mean(), "spread": gain.std(ddof=1) if len(gain) > 1 else np.nan}
            )
    return pd.DataFrame(rows)


def _ends(target: Tensor, settings: ImageSettings, seed: int, device: torch.device) -> dict[str, float]:
    """PSNR after the last update of SepNN and of SepPGD with a preconditioner renewed as usual and with its first one alone."""
    once = replace(settings, update_every=settings.iterations)
    kinds = {"SepNN": ("SepNN", settings), "SepPGD": ("SepPGD", settings), "SepPGD, once": ("SepPGD", once)}
    return {name: fit_image(target, *kind, seed, device).psnr[-1] for name, kind in kinds.items()}


def once_table(
    targets: Sequence[ImageTarget], study: OptimizerSettings, seed: int, device: torch.device
) -> pd.DataFrame:
    """The preconditioner of the initial kernels for the whole run, against one that is renewed, one seed (Table 4).

    Returns:
        One row an image and memory: ``image``, ``beta2``; PSNR after the last update in dB of SepNN, of SepPGD renewed every
        ``study.run.update_every`` iterations, and of SepPGD with a preconditioner computed once.
    """
    return pd.DataFrame(
        {"image": target.name, "beta2": beta2} | _ends(target.values, replace(study.run, beta2=beta2), seed, device)
        for target in targets
        for beta2 in (study.run.beta2, study.short)
    )


def rate_table(target: Tensor, study: OptimizerSettings, seed: int, device: torch.device) -> pd.DataFrame:
    """PSNR after the last update in dB by learning rate and memory, one seed (Sec. A.12).

    Returns:
        One row a rate and memory: ``rate``, ``beta2``, and the columns of :func:`once_table`.
    """
    return pd.DataFrame(
        {"rate": rate, "beta2": beta2}
        | _ends(target, replace(study.run, learning_rate=rate, beta2=beta2), seed, device)
        for rate in study.rates
        for beta2 in (study.run.beta2, study.short)
    )


def tuned(rates: pd.DataFrame) -> pd.DataFrame:
    """Each method at the rate and memory that suit it best, of those in :func:`rate_table` (Sec. A.12).

    Returns:
        One row a method: ``rate``, ``beta2``, ``PSNR`` in dB.
    """
    rows = []
    for method in rates.columns[2:]:
        best = rates.loc[rates[method].idxmax()]
        rows.append({"method": method, "rate": best.rate, "beta2": best.beta2, "PSNR": best[method]})
    return pd.DataFrame(rows)


def restart_table(target: Tensor, study: OptimizerSettings, seed: int, device: torch.device) -> pd.DataFrame:
    """What it changes to make Adam forget once, with its usual memory otherwise, one seed (Sec. A.12).

    Returns:
        By what is done to ``Adam``: nothing, a restart after each of the study's numbers of updates, the short memory. PSNR
        after the last update by method, in dB.
    """
    changes: dict[str, dict] = {"usual memory": {}}
    changes |= {f"restart after {after}": {"restart": after} for after in study.restarts}
    changes |= {"short memory": {"beta2": study.short}}
    rows = []
    for name, change in changes.items():
        settings = replace(study.run, **change)
        last = {method: fit_image(target, method, settings, seed, device).psnr[-1] for method in METHODS}
        rows.append({"Adam": name} | last)
    return pd.DataFrame(rows)


def renewals(target: Tensor, study: OptimizerSettings, seed: int, device: torch.device) -> dict[int, ImageRun]:
    """SepPGD by the period of its preconditioner, Adam as usual, one seed (Table 4)."""
    return {
        period: fit_image(target, "SepPGD", replace(study.run, update_every=period), seed, device)
        for period in study.periods
    }


def renewal_table(runs: dict[int, ImageRun]) -> pd.DataFrame:
    """What a new preconditioner does to a run that is used to another (Table 4).

    Args:
        runs: of :func:`renewals`.

    Returns:
        One row a period: number of ``preconditioners``; PSNR after a ``quarter`` of the updates, after the last and the
        ``best``; ``fall``, the most that is lost in the ten updates behind a renewal, NaN where there is none; all in dB.
    """
    rows = []
    for period, run in runs.items():
        at = range(period, len(run.psnr) - 1, period)
        falls = [run.psnr[t] - run.psnr[t + 1 : t + 11].min() for t in at]
        rows.append(
            {"period": period, "preconditioners": 1 + len(at), "quarter": run.psnr[(len(run.psnr) - 1) // 4]}
            | {"PSNR": run.psnr[-1], "best": run.psnr.max(), "fall": max(falls, default=np.nan)}
        )
    return pd.DataFrame(rows)


def draw(targets: Sequence[ImageTarget], runs: dict[float, Study]) -> Figure:
    """PSNR over the updates, one panel an image; solid the usual memory, dashed the short one (Fig. 3)."""
    figure, row = panels(1, len(targets), 3.4)
    for axes, target in zip(row[0], targets):
        for (beta2, study), style in zip(runs.items(), ("-", "--")):
            for method in METHODS:
                psnr = np.stack([run.psnr for run in study[target.name, method]])
                label = f"{method}, $\\beta_2 = {beta2:g}$"
                band(axes, np.arange(psnr.shape[1]), psnr, label, color=COLOURS[method], linestyle=style, linewidth=1.0)
        axes.set(title=target.name, xlabel="iteration")
    row[0, 0].set_ylabel("PSNR in dB")
    legend(figure, 2)
    return figure


def draw_renewals(runs: dict[int, ImageRun]) -> Figure:
    """PSNR over the updates, one line a period, the darker the longer (Table 4)."""
    figure, ((axes,),) = panels(1, 1, 3.6)
    for (period, run), shade in zip(runs.items(), np.linspace(0.25, 1, len(runs))):
        label = f"every {period}" if period < len(run.psnr) - 1 else "once"
        axes.plot(run.psnr, color=COLOURS["SepPGD"], alpha=shade, linewidth=1.2, label=label)
    axes.set(xlabel="iteration", ylabel="PSNR in dB")
    axes.legend(title="preconditioner")
    return figure
