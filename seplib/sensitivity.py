"""One setting of the image experiment varied at a time (Secs. A.1.4 and A.1.5, Tables 2-7)."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from seplib import claims, ntk, spectra
from seplib.profiles.image_studies import SensitivitySettings
from seplib.profiles.images import ImageSettings
from seplib.runs import ImageRun, fit_image
from seplib.setups import prepare, run_arguments
from seplib.targets import noisy

# Row of Table 5 to what it changes. Networks without a periodic activation start from PyTorch's own initial law: SIREN's
# divides by a frequency that they do not have.
ACTIVATIONS: dict[str, dict[str, Any]] = {
    "sin": {},
    "cos": {"activation": "cos"},
    "relu": {"activation": "relu", "parametrization": "torch"},
    "leaky relu": {"activation": "leaky_relu", "parametrization": "torch"},
    "fourier features + relu": {"activation": "relu", "parametrization": "torch", "features": True},
    "fourier features + leaky relu": {"activation": "leaky_relu", "parametrization": "torch", "features": True},
}


@dataclass(frozen=True)
class Cell:
    """One number of Tables 2 to 7.

    Attributes:
        table: "table-2" to "table-7".
        varied: the name of what is varied, as in the paper's tables.
        value: its value.
        row: the paper's name of the row.
        method: "SepNN" or "SepPGD".
        settings: of the run.
        noise: standard deviation of the noise on the target; the output is judged by the clean image.
    """

    table: str
    varied: str
    value: str
    row: str
    method: str
    settings: ImageSettings
    noise: float = 0.0


def cells(study: SensitivitySettings) -> Iterator[Cell]:
    """All cells of Tables 2 to 7, in the order of the tables (Secs. A.1.4 and A.1.5)."""
    base = study.run

    def pair(table: str, varied: str, value: Any, settings: ImageSettings, plain: ImageSettings, noise: float = 0.0):
        yield Cell(table, varied, str(value), "SepNN", "SepNN", plain, noise)
        yield Cell(table, varied, str(value), "SepPGD", "SepPGD", settings, noise)

    for k in study.ks:
        yield Cell("table-2", "k", str(k), "SepNN", "SepNN", base)
        yield Cell("table-2", "k", str(k), "SepPGD g1", "SepPGD", replace(base, k=k))
        yield Cell("table-2", "k", str(k), "SepPGD g2", "SepPGD", replace(base, k=k, g="sqrt"))
    for rank in study.ranks:
        yield from pair("table-3", "rank R", rank, *2 * (replace(base, rank=rank),))
    for k in study.ks[: len(study.ks) - 1]:
        yield from pair("table-3", "k", k, replace(base, k=k), base)
    for period in study.periods:
        name = "iterations between preconditioner updates"
        yield from pair("table-4", name, period, replace(base, update_every=period), base)
    for name, change in ACTIVATIONS.items():
        if "features" in change:
            change = change | {"features": study.features, "frequency": study.frequency}
        yield from pair("table-5", "activation", name, *2 * (replace(base, **change),))
    for width in study.widths:
        yield from pair("table-6", "width W", width, *2 * (replace(base, width=width),))
    for noise in study.noises:
        yield from pair("table-7", "noise standard deviation", noise, base, base, noise)


def run_cells(target: Tensor, study: SensitivitySettings, seed: int, device: torch.device) -> pd.DataFrame:
    """Every cell of Tables 2 to 7; a run that serves several cells is made once (Secs. A.1.4 and A.1.5).

    Args:
        target: ``(3, H, W)``, the clean image.
        study: of the profile.
        seed: of the initial weights and the noise.
        device: where to compute.

    Returns:
        One row a cell: ``table``, ``varied``, ``value``, ``row``, ``PSNR`` of the last iteration and ``best PSNR`` in dB
        against the clean image, ``spread`` of the first over seeds (NaN for one), ``paper`` (NaN where it prints nothing),
        ``seconds`` of training, ``run``, a number that cells share if they come from the same run. The headline cells, with
        nothing varied, are means over ``study.run.seeds``.
    """
    runs: dict[tuple, list[ImageRun]] = {}
    rows = []
    for cell in cells(study):
        key = (cell.method, cell.settings, cell.noise)
        if key not in runs:
            headline = cell.settings == study.run and not cell.noise
            runs[key] = [
                fit_image(
                    noisy(target, cell.noise, one), cell.method, cell.settings, one, device,
                    reference=target if cell.noise else None,
                )
                for one in range(seed, seed + (study.run.seeds[0] if headline else 1))
            ]  # fmt: skip
        courses = [np.array(run.history.metrics["judged"]) if cell.noise else run.psnr for run in runs[key]]
        last = np.array([psnr[-1] for psnr in courses])
        rows.append(
            {
                "table": cell.table, "varied": cell.varied, "value": cell.value, "row": cell.row, "PSNR": last.mean(),
                "spread": last.std(ddof=1) if len(last) > 1 else np.nan,
                "best PSNR": np.mean([psnr.max() for psnr in courses]), "paper": claims.printed_or_nan(cell.table, cell.row, cell.value, cell.varied),
                "seconds": np.mean([run.history.seconds[-1] for run in runs[key]]), "run": list(runs).index(key),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def rectified(target: Tensor, study: SensitivitySettings, seed: int, device: torch.device) -> pd.DataFrame:
    """SepPGD with ReLU and up to as many modulated eigenvalues as Table 5 has, beside the sine of Table 2.

    Returns:
        One row an ``activation`` and ``k``: ``ratio``, lambda_1 / lambda_k of the initial factors' pseudo-NTKs, mean over axes and
        channels, by which g_1 lowers the largest eigenvalue; PSNR after the last iteration, of the ``best`` one, and what both
        gain over SepNN, ``gain`` and ``best gain``, all in dB.
    """
    rows = []
    for name, ks in {"relu": study.relu_ks, "sin": study.ks}.items():
        settings = replace(study.run, **ACTIVATIONS[name])
        made = run_arguments(target, "SepNN", settings, seed, device)
        model, axes, _, _ = prepare(target.to(device), made["network"], made["descent"], None, seed)
        kernels = torch.stack([ntk.pseudo(f, x).double() for f, x in zip(model.factors, axes)])
        eigenvalues = torch.linalg.eigvalsh(kernels).flip(-1).cpu().numpy()
        plain = fit_image(target, "SepNN", settings, seed, device).psnr
        for k in ks:
            psnr = fit_image(target, "SepPGD", replace(settings, k=k), seed, device).psnr
            rows.append(
                {"activation": name, "k": k, "ratio": spectra.top_ratio(eigenvalues, k)}
                | {"PSNR": psnr[-1], "best": psnr.max()}
                | {"gain": psnr[-1] - plain[-1], "best gain": psnr.max() - plain.max()}
            )
    return pd.DataFrame(rows)
