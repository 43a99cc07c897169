"""Images with missing pixels: trained on the known ones, judged on the others (Sec. A.12, Figs. 10-12)."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from IPython.display import Image
from jaxtyping import Bool
from matplotlib.figure import Figure
from torch import Tensor

from seplib import metrics
from seplib.reproduce import recipes
from seplib.reproduce.criteria import DECIBELS, Comparison, above, at_least
from seplib.reproduce.plotting import band, legend, panels, sheet
from seplib.studies.images.fitting import METHODS, fit_image
from seplib.studies.images.representation import Study
from seplib.studies.images.settings import InpaintingSettings
from seplib.targets import ImageTarget


@recipes.makes("known pixels")
def known_pixels(size: int, missing: float, seed: int) -> Bool[Tensor, "n n"]:
    """Which pixels of a square image are known; exactly the share ``missing`` of them, drawn evenly, is not (Sec. A.12).

    Raises:
        ValueError: a share that leaves nothing known or nothing missing.

    >>> known_pixels(10, 0.3, 0).sum().item()
    70
    """
    count = round(missing * size**2)
    if not 0 < count < size**2:
        raise ValueError(f"missing must leave some of the {size**2} pixels known and some not, got {missing}")
    order = torch.randperm(size**2, generator=torch.Generator().manual_seed(2000 + seed))
    known = torch.ones(size**2, dtype=torch.bool)
    known[order[:count]] = False
    return known.view(size, size)


def study(targets: Sequence[ImageTarget], settings: InpaintingSettings, seed: int, device: torch.device) -> Study:
    """Every image with every method and seed, each run cached (Figs. 10-12). A seed draws the mask and the weights.

    Args:
        targets: the images.
        settings: of the profile.
        seed: the first of each image's seeds.
        device: where to compute.

    Returns:
        The runs by (image, method), one for each seed.
    """
    runs: Study = {(target.name, method): [] for target in targets for method in METHODS}
    for step in range(max(settings.run.seeds)):
        for target, seeds in zip(targets, settings.run.seeds):
            known = known_pixels(target.values.shape[-1], settings.missing, seed + step)
            for method in METHODS if step < seeds else ():
                run = fit_image(target.values, method, settings.run, seed + step, device, known, target.values)
                runs[target.name, method].append(run)
    return runs


def table(targets: Sequence[ImageTarget], runs: Study) -> pd.DataFrame:
    """Quality by image and method, mean and standard deviation over seeds (Figs. 10-12).

    The columns: PSNR in dB on the missing pixels after the last iteration, its spread, that of the best of every tenth
    iteration; PSNR on the known pixels; SSIM of the whole image.
    """
    rows = []
    for target in targets:
        for method in METHODS:
            fits = runs[target.name, method]
            judged = [run.history.metrics["judged"] for run in fits]
            last = np.array([course[-1] for course in judged])
            images = [torch.from_numpy(run.image).clamp(0, 1) for run in fits]
            rows.append(
                {
                    "image": target.name,
                    "method": method,
                    "missing": last.mean(),
                    "spread": last.std(ddof=1) if len(fits) > 1 else np.nan,
                    "best": np.mean([max(course) for course in judged]),
                    "known": np.mean([run.psnr[-1] for run in fits]),
                    "SSIM": np.mean([metrics.ssim(image, target.values) for image in images]),
                }
            )
    return pd.DataFrame(rows)


def cases(found: pd.DataFrame) -> dict[str, Comparison]:
    """The cases of the claim ``fig-10-12``: SepPGD against SepNN on the missing pixels, from :func:`table` (Figs. 10-12)."""
    means = found.pivot(index="image", columns="method", values="missing")
    gain = means["SepPGD"] - means["SepNN"]
    held = {f"{i}: not below SepNN by more than 0.2 dB": at_least(g, -0.2, DECIBELS) for i, g in gain.items()}
    # Two images gain if the second largest gain is positive.
    return held | {"above SepNN on at least two images": above(gain.nlargest(2).iloc[-1], 0, DECIBELS)}


def draw(targets: Sequence[ImageTarget], runs: Study) -> Figure:
    """PSNR on the missing pixels over iterations, one panel an image (Figs. 10-12)."""
    figure, row = panels(1, len(targets), 3.2)
    for axes, target in zip(row[0], targets):
        for method in METHODS:
            courses = np.array([run.history.metrics["judged"] for run in runs[target.name, method]])
            updates = len(runs[target.name, method][0].psnr) - 1
            band(axes, np.linspace(0, updates, courses.shape[1]), courses, method)
        axes.set(title=target.name, xlabel="iteration")
    row[0, 0].set_ylabel("PSNR on missing pixels, dB")
    legend(figure)
    return figure


def pictures(targets: Sequence[ImageTarget], runs: Study, missing: float, seed: int) -> Image:
    """What the networks saw beside both results of the first seed, details magnified, one row an image (Figs. 10-12)."""
    rows = []
    for target in targets:
        known = known_pixels(target.values.shape[-1], missing, seed)
        shown = {f"{target.name}, known pixels": torch.where(known, target.values, 0.0).numpy()}
        for method in METHODS:
            run = runs[target.name, method][0]
            shown[f"{method}, {run.history.metrics['judged'][-1]:.2f} dB"] = run.image
        rows.append(shown)
    return sheet(rows)
