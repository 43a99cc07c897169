"""Readings of what Sec. A.12 leaves open, judged by plain SepNN's printed PSNR (Table 2)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from seplib import metrics
from seplib.studies.images.fitting import fit_image
from seplib.studies.images.settings import ImageSettings


def compare(
    target: Tensor,
    run: ImageSettings,
    readings: Mapping[str, Mapping[str, Any]],
    printed: float,
    seed: int,
    device: torch.device,
) -> pd.DataFrame:
    """Plain SepNN under every reading of what Sec. A.12 leaves open, beside the number that the paper prints.

    Args:
        target: ``(3, H, W)``.
        run: settings that the readings change.
        readings: name to what it changes.
        printed: the paper's PSNR in dB.
        seed: of the initial weights.
        device: where to compute.

    Returns:
        One row a reading: ``PSNR`` of the last iteration, of the ``best`` one and of the last with its output ``clipped`` to
        [0, 1], and ``distance`` of the first from the printed one, all in dB; ``seconds`` of training.
    """
    rows = []
    for name, change in readings.items():
        found = fit_image(target, "SepNN", replace(run, **change), seed, device)
        clipped = metrics.psnr(torch.from_numpy(found.image).clamp(0, 1), target)
        rows.append(
            {
                "reading": name, "PSNR": found.psnr[-1], "best": found.psnr.max(), "clipped": clipped,
                "distance": abs(found.psnr[-1] - printed), "seconds": found.history.seconds[-1],
            }
        )  # fmt: skip
    return pd.DataFrame(rows)
