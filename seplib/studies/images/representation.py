"""Images fitted by plain and by preconditioned descent: the study, its numbers and its criterion (Figs. 3 and 7-9)."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from seplib import metrics
from seplib.reproduce.criteria import DECIBELS, Comparison, above, at_least, below
from seplib.studies.images.fitting import METHODS, ImageRun, fit_image
from seplib.studies.images.settings import ImageSettings
from seplib.targets import ImageTarget

Study = dict[tuple[str, str], list[ImageRun]]


def study(targets: Sequence[ImageTarget], settings: ImageSettings, seed: int, device: torch.device) -> Study:
    """Every image with every method and every seed, each run cached (Figs. 3 and 7-9).

    Args:
        targets: the images.
        settings: of the profile.
        seed: the first of each image's ``settings.seeds`` seeds.
        device: where to compute.

    Returns:
        The runs by (image, method), one for each seed. Seed by seed, so that an interrupted study holds whole seeds.
    """
    study: Study = {(target.name, method): [] for target in targets for method in METHODS}
    for step in range(max(settings.seeds)):
        for target, seeds in zip(targets, settings.seeds):
            for method in METHODS if step < seeds else ():
                study[target.name, method].append(fit_image(target.values, method, settings, seed + step, device))
    return study


def table(targets: Sequence[ImageTarget], study: Study, steps: dict[str, float]) -> pd.DataFrame:
    """Quality at the last update by image and method: mean and standard deviation over seeds (Figs. 3 and 7-9).

    The columns: last and best PSNR in dB, SSIM, the mean squared error's share above a quarter of a cycle per pixel (half the
    Nyquist frequency) in 1e-6, and seconds of training at the pace of :func:`seplib.studies.images.fitting.step_seconds`.
    """
    rows = []
    for target in targets:
        for method in METHODS:
            runs = study[target.name, method]
            last = np.array([run.psnr[-1] for run in runs])
            images = [torch.from_numpy(run.image) for run in runs]
            rows.append(
                {
                    "image": target.name,
                    "method": method,
                    "PSNR": last.mean(),
                    "PSNR std": last.std(ddof=1) if len(runs) > 1 else np.nan,
                    "best PSNR": np.mean([run.psnr.max() for run in runs]),
                    "SSIM": np.mean([metrics.ssim(image.clamp(0, 1), target.values) for image in images]),
                    "high-frequency error": 1e6 * np.mean([_high(image, target.values) for image in images]),
                    "seconds": steps[method] * (len(runs[0].psnr) - 1),
                }
            )
    return pd.DataFrame(rows)


def _high(image: Tensor, target: Tensor) -> float:
    frequency, energy = metrics.error_spectrum(image, target)
    return energy[frequency >= 0.25].sum().item()


def gains(targets: Sequence[ImageTarget], study: Study) -> dict[str, np.ndarray]:
    """PSNR of SepPGD minus that of SepNN after the last update, seed by seed, in dB (Figs. 3 and 7-9)."""
    pairs = {t.name: zip(study[t.name, "SepNN"], study[t.name, "SepPGD"]) for t in targets}
    return {name: np.array([ours.psnr[-1] - plain.psnr[-1] for plain, ours in pair]) for name, pair in pairs.items()}


def error_left(table: pd.DataFrame) -> dict[str, float]:
    """Share of SepNN's mean squared error on the first image that SepPGD leaves, in all and at high frequency (Fig. 3)."""
    plain, ours = (table[table.method == method].iloc[0] for method in METHODS)
    return {
        "all": 10 ** ((plain.PSNR - ours.PSNR) / 10),
        "high": ours["high-frequency error"] / plain["high-frequency error"],
    }


def cases(table: pd.DataFrame, gains: dict[str, np.ndarray]) -> dict[str, Comparison]:
    """The cases of the claim ``fig-3-image``: mean gains, and the error at high frequency (Fig. 3).

    The first image takes the place of *Plane*, where the criterion asks for 4 dB.
    """
    high = table.pivot(index="image", columns="method", values="high-frequency error")
    first = next(iter(gains))
    spread = {name: gain.std(ddof=1) if len(gain) > 1 else None for name, gain in gains.items()}
    cases = {f"{first}: gain at least 4 dB": at_least(gains[first].mean(), 4, DECIBELS, spread[first])}
    for name, gain in gains.items():
        cases[f"{name}: gain positive"] = above(gain.mean(), 0, DECIBELS, spread[name])
        cases[f"{name}: less error at high frequency"] = below(high.loc[name, "SepPGD"], high.loc[name, "SepNN"])
    return cases
