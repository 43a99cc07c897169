"""Networks of one rank on images of growing rank (Table 8)."""

import itertools
import math

import pandas as pd
import torch
from matplotlib.figure import Figure

from seplib import metrics
from seplib.reproduce import claims
from seplib.reproduce.criteria import Comparison, all_of, at_least, below
from seplib.reproduce.plotting import COLOURS, panels
from seplib.studies.images.fitting import METHODS, fit_image
from seplib.studies.images.settings import ImageRankSettings
from seplib.targets import ImageTarget, truncate


def root_mean_square_error(psnr: float) -> float:
    """What a PSNR in dB means on [0, 1] (Table 8).

    >>> root_mean_square_error(20.0)
    0.1
    """
    return 10 ** (-psnr / 20)


def readings(image: ImageTarget) -> pd.DataFrame:
    """Two readings of Table 8's numbers beside Table 3, whose runs of rank 100 are those of its last column.

    Args:
        image: whose root mean square turns one reading into the other.

    Returns:
        One row a method: the PSNR that Table 3 prints, what it is as a root mean squared error and as a relative error on this
        image; what Table 8 prints at full rank; and the PSNR that its first column would be as a mean squared error.
    """
    size = image.values.double().square().mean().sqrt().item()
    rows = []
    for method in METHODS:
        psnr = claims.printed("table-3", method, "100", varied="rank R")
        error = root_mean_square_error(psnr)
        last = claims.printed("table-8", method, "500")
        first = -10 * math.log10(claims.printed("table-8", method, "100"))
        rows.append(
            {
                "method": method, "Table 3, PSNR": psnr, "RMSE": error, "relative error": error / size, "Table 8": last,
                "Table 8 as MSE, PSNR": first,
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def study(target: ImageTarget, settings: ImageRankSettings, seed: int, device: torch.device) -> pd.DataFrame:
    """Error of networks of one rank on images of growing rank, beside the best possible error (Table 8).

    Args:
        target: the image; its SVD is cut to each of the settings' ranks.
        settings: of the profile.
        seed: of the initial weights.
        device: where to compute.

    Returns:
        One row a data rank and method: relative error ``||Z - Y|| / ||Y||`` after the last iteration, and that of the best one,
        the root of the mean squared error on [0, 1], PSNR in dB, the Eckart-Young floor of the relative error, the seconds of
        training.
    """
    rows = []
    for rank in settings.data_ranks:
        values = truncate(target.values, rank)
        floor = metrics.eckart_young(values, settings.run.rank)
        size = values.double().square().mean().sqrt().item()
        for method in METHODS:
            run = fit_image(values, method, settings.run, seed, device)
            error = root_mean_square_error(run.psnr[-1])
            rows.append(
                {
                    "data rank": rank,
                    "method": method,
                    "relative error": error / size,
                    "best": root_mean_square_error(run.psnr.max()) / size,
                    "floor": floor,
                    "RMSE": error,
                    "PSNR": run.psnr[-1],
                    "seconds": run.history.seconds[-1],
                }
            )
    return pd.DataFrame(rows)


def cases(table: pd.DataFrame) -> dict[str, Comparison]:
    """The cases of the claim ``table-8``: trend in the data rank for each method, order of the methods at each rank (Table 8)."""
    curves = table.pivot(index="data rank", columns="method", values="relative error")
    steps = {method: itertools.pairwise(curves[method]) for method in METHODS}
    held = {f"{m}: error grows with the rank": all_of(*(at_least(b, a) for a, b in steps[m])) for m in METHODS}
    return held | {f"rank {rank}: SepPGD lower": below(row.SepPGD, row.SepNN) for rank, row in curves.iterrows()}


def errors(table: pd.DataFrame) -> dict[str, float]:
    """Relative errors of :func:`study` by "method, rank" (Table 8)."""
    return dict(zip(_rank_names(table), table["relative error"]))


def printed(table: pd.DataFrame) -> dict[str, float | None]:
    """What the paper prints for the same methods and ranks, None where it prints nothing (Table 8)."""
    found = [claims.printed_or_nan("table-8", *at) for at in zip(table.method, table["data rank"].astype(str))]
    return {name: None if math.isnan(value) else value for name, value in zip(_rank_names(table), found)}


def _rank_names(table: pd.DataFrame) -> pd.Series:
    return table.method + ", rank " + table["data rank"].astype(str)


def draw(table: pd.DataFrame) -> Figure:
    """Relative error over the rank of the image, with the floor and, where it prints them, the paper's numbers (Table 8)."""
    figure, ((axes,),) = panels(1, 1, 3.6)
    for method, part in table.groupby("method", sort=False):
        axes.plot(part["data rank"], part["relative error"], "o-", color=COLOURS[method], label=method)
        numbers = [printed(part[i : i + 1]).popitem()[1] for i in range(len(part))]
        if None not in numbers:
            axes.plot(part["data rank"], numbers, "x:", color=COLOURS[method], label=f"{method}, paper", alpha=0.6)
    axes.plot(part["data rank"], part.floor, "--", color="#111111", label="floor")
    axes.set(xlabel="rank of the image", ylabel="relative error", ylim=(0, None))
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure
