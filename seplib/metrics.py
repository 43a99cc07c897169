"""What is measured of a run: PSNR, SSIM, error spectra, IoU of Sec. 5; slopes over sizes; time as the device has it."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


def psnr(prediction: Tensor, target: Tensor, peak: float = 1.0) -> float:
    """Peak signal-to-noise ratio ``10 log10(peak^2 / MSE)`` in dB over all entries, channels included (Table 2).

    >>> round(psnr(torch.full((2, 2), 0.1), torch.zeros(2, 2)), 4)
    20.0
    """
    parts = zip(prediction.flatten().split(1 << 20), target.flatten().split(1 << 20))  # a volume in doubles is large
    mse = sum((a.double() - b.double()).square().sum().item() for a, b in parts) / prediction.numel()
    return math.inf if mse == 0 else 10 * math.log10(peak**2 / mse)


def ssim(prediction: Tensor, target: Tensor) -> float:
    """Structural similarity of two images with values in [0, 1], channels first, ``(C, H, W)`` (Sec. 5)."""
    from skimage.metrics import structural_similarity  # a second that few need

    a, b = (t.detach().double().cpu().numpy() for t in (prediction, target))
    return float(structural_similarity(a, b, channel_axis=0, data_range=1.0))


def error_spectrum(prediction: Tensor, target: Tensor) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Energy of an image error by spatial frequency, radially summed (Sec. 5, spectral bias).

    Images are ``(C, H, W)``. Returns frequencies in cycles per pixel (centres of rings up to the corner sqrt(1/2)) and
    the energy in each ring; the energies add up to the mean squared error (Parseval).

    >>> f, e = error_spectrum(torch.ones(1, 8, 8), torch.zeros(1, 8, 8))
    >>> round(e.sum().item(), 6)
    1.0
    """
    error = (prediction - target).double()
    height, width = error.shape[-2:]
    power = (torch.fft.fft2(error).abs() / (height * width)).square().mean(0)
    fy = torch.fft.fftfreq(height, dtype=power.dtype, device=power.device)[:, None]
    fx = torch.fft.fftfreq(width, dtype=power.dtype, device=power.device)
    radius = torch.sqrt(fy**2 + fx**2)
    bins = min(height, width) // 2
    index = (radius * math.sqrt(2) * bins).long().clamp_max(bins - 1)
    energy = torch.zeros(bins, dtype=power.dtype, device=power.device).index_add_(0, index.flatten(), power.flatten())
    centres = (torch.arange(bins, dtype=power.dtype, device=power.device) + 0.5) / (math.sqrt(2) * bins)
    return centres, energy


def iou(prediction: Tensor, target: Tensor, threshold: float = 0.5) -> float:
    """Intersection over union of two occupancy volumes after thresholding (Sec. 5, surfaces).

    Two empty volumes agree perfectly: 1.

    >>> iou(torch.tensor([0.9, 0.1, 0.7]), torch.tensor([1., 1., 0.]))
    0.3333333333333333
    """
    a, b = prediction > threshold, target > threshold
    union = (a | b).sum().item()
    return (a & b).sum().item() / union if union else 1.0


def slope(x: Sequence[float], runs: np.ndarray, level: float = 0.95) -> tuple[float, float, float]:
    """Log-log slope over sizes with its confidence interval over seeds (Theorems 2 and 3; Fig. 1).

    A line is fitted to each seed's ``(seeds, sizes)`` positive values; the interval is Student's for the mean of the
    seeds' slopes.

    >>> mean, low, high = slope([1, 2, 4], np.array([[1, 1 / 2, 1 / 4], [2, 1, 1 / 2]]))
    >>> round(mean, 6)
    -1.0
    """
    from scipy import stats  # half a second that few need

    slopes = np.polyfit(np.log(x), np.log(np.atleast_2d(runs)).T, 1)[0]
    half = 0.0
    if len(slopes) > 1:
        half = stats.t.ppf((1 + level) / 2, len(slopes) - 1) * slopes.std(ddof=1) / len(slopes) ** 0.5
    return float(slopes.mean()), float(slopes.mean() - half), float(slopes.mean() + half)


def eckart_young(target: Tensor, rank: int) -> float:
    """Smallest relative error ``||Z - Y|| / ||Y||`` that any Z of a given rank can have, channel by channel (Table 8).

    By Eckart and Young the singular values of ``(E, n_1, n_2)`` behind the rank give it; a bivariate CP network of that
    rank cannot do better.

    >>> eckart_young(torch.diag(torch.tensor([4., 3., 0.]))[None], 1)
    0.6
    """
    squares = torch.linalg.svdvals(target.double()).square()
    return math.sqrt(squares[:, rank:].sum().item() / squares.sum().item())


def now(device: torch.device) -> Any:
    """A moment for :func:`between`: when the work handed to the device so far is done. Waits for nothing (Sec. A.1.1).

    The CPU works at once, so there it is the time; elsewhere an event among the device's work.
    """
    if device.type in ("cpu", "meta"):
        return time.perf_counter()
    with torch.accelerator.device_index(device.index):
        event = torch.get_device_module(device).Event(enable_timing=True)
        event.record()
    return event


def between(start: Any, end: Any) -> float:
    """Seconds between two moments of one device, for both of which the host has waited by now (Sec. A.1.1).

    >>> start, end = now(torch.device("cpu")), now(torch.device("cpu"))
    >>> 0 <= between(start, end) < 1
    True
    """
    return end - start if isinstance(end, float) else start.elapsed_time(end) / 1e3


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """Time of a call whose work is done on a device (Sec. A.1.1)."""
    start = now(device)
    call()
    end = now(device)
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()
    return between(start, end)
