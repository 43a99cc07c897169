"""Noise on the target: when to stop, or what to smooth, both by Morozov's rule (Sec. A.1.5, Table 7)."""

from itertools import groupby

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from scipy.optimize import brentq
from skimage.restoration import denoise_tv_chambolle
from torch import Tensor

from seplib import metrics
from seplib.reproduce.plotting import COLOURS, legend, panels
from seplib.studies.images.fitting import METHODS, ImageRun, fit_image
from seplib.studies.images.studies import NoiseSettings
from seplib.targets import noisy


def runs(target: Tensor, study: NoiseSettings, seed: int, device: torch.device) -> dict[tuple[float, str], ImageRun]:
    """Table 7's runs by noise and method: trained on the noisy image, judged by the clean one every ten updates."""
    return {
        (noise, method): fit_image(
            noisy(target, noise, seed), method, study.run, seed, device, reference=target
        )
        for noise in study.noises
        for method in METHODS
    }  # fmt: skip


def judged_at(run: ImageRun) -> np.ndarray:
    """The updates behind which a run was judged by its reference: every tenth, and the last (Table 7)."""
    last = len(run.psnr) - 1
    return np.unique(np.append(np.arange(0, last, 10), last))


def stop(run: ImageRun, noise: float) -> int:
    """Morozov's stopping rule: the first judged update whose mean squared training error is below the noise's variance.

    It needs the noise's size but no clean image (Table 7). Returns the index in the run's metric "judged", the last one if the error never falls that far.
    """
    reached = 10 ** (-run.psnr[judged_at(run)] / 10) <= noise**2
    return int(reached.argmax()) if reached.any() else len(reached) - 1


def smooth(image: Tensor, observed: Tensor, noise: float) -> Tensor:
    """Lower an image's total variation as far as the noise allows (Sec. A.1.5 leaves regularization to later work).

    The weight of Chambolle's method is Morozov's: the result's mean squared distance from the noisy image is the noise's
    variance. Nothing clean is needed. An image that is already that far away, underfitted, stays as it is.

    Args:
        image: ``(C, H, W)``, a network's output or the noisy image itself.
        observed: ``(C, H, W)``, the noisy image.
        noise: standard deviation.

    Raises:
        ValueError: noise so large that even an image with hardly any variation is not that far away.
    """

    def lowered(weight: float) -> Tensor:
        return torch.from_numpy(denoise_tv_chambolle(image.cpu().numpy(), weight, channel_axis=0)).to(observed)

    def excess(weight: float) -> float:
        return ((lowered(weight) if weight else image) - observed).square().mean().item() - noise**2

    if excess(0) >= 0:
        return image
    if excess(1) <= 0:
        raise ValueError(f"noise {noise} is as large as what the image itself varies by, {observed.std():.2g}")
    return lowered(brentq(excess, 0, 1, xtol=1e-3))


def table(found: dict[tuple[float, str], ImageRun], target: Tensor, seed: int) -> pd.DataFrame:
    """What stopping and total variation do against noise, PSNR against the clean image in dB (Table 7).

    Args:
        found: of :func:`runs`.
        target: ``(3, H, W)``, the clean image.
        seed: of the noise.

    Returns:
        One row a run: after the ``last`` update, at the ``best``, where :func:`stop` would have ``stopped`` it, and ``after``
        how many updates; ``with TV``, the last output through :func:`smooth`. A row without a network has the noisy image.
    """
    rows = []
    for noise, pairs in groupby(found.items(), key=lambda item: item[0][0]):
        observed = noisy(target, noise, seed)
        for (_, method), run in pairs:
            judged, at = np.array(run.history.metrics["judged"]), stop(run, noise)
            lowered = smooth(torch.from_numpy(run.image), observed, noise)
            rows.append(
                {
                    "noise": noise, "method": method, "last": judged[-1], "best": judged.max(), "stopped": judged[at],
                    "after": judged_at(run)[at], "with TV": metrics.psnr(lowered, target),
                }
            )  # fmt: skip
        alone = {"last": observed, "with TV": smooth(observed, observed, noise)}
        rows.append({"noise": noise, "method": "no network"} | {k: metrics.psnr(x, target) for k, x in alone.items()})
    return pd.DataFrame(rows)


def draw(found: dict[tuple[float, str], ImageRun]) -> Figure:
    """PSNR against the clean image over the updates, the stopping rule's choice as a dot (Table 7)."""
    noises = sorted({noise for noise, _ in found})
    figure, row = panels(1, len(noises), 3.4)
    for axes, level in zip(row[0], noises):
        for (noise, method), run in found.items():
            if noise == level:
                judged, at, stopped = run.history.metrics["judged"], judged_at(run), stop(run, noise)
                axes.plot(at, judged, color=COLOURS[method], label=method)
                axes.plot(at[stopped], judged[stopped], "o", color=COLOURS[method])
        axes.set(title=f"noise {level:g}", xlabel="iteration")
    row[0, 0].set_ylabel("PSNR in dB, clean image")
    legend(figure)
    return figure
