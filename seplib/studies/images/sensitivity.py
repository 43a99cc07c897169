"""One setting of the image experiment varied at a time: runs, gains, criteria, figure (Secs. A.1.4 and A.1.5, Tables 2-7)."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler
from torch import Tensor

from seplib import ntk
from seplib.reproduce import claims
from seplib.reproduce.criteria import DECIBELS, Case, above, all_of, at_least, at_most
from seplib.reproduce.plotting import COLOURS, panels
from seplib.studies.images.fitting import ImageRun, fit_image
from seplib.studies.images.settings import ImageSettings
from seplib.studies.images.setups import prepare, run_arguments
from seplib.studies.images.studies import SensitivitySettings
from seplib.studies.seppgd import spectra
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


def gains(frame: pd.DataFrame) -> pd.DataFrame:
    """What each preconditioned cell gains over the plain network beside it, in dB (Tables 2-7).

    Returns:
        One row for each SepPGD cell: ``table``, ``varied``, ``value``, ``row``, ``ours``, after the last iterations; ``best``, of
        the best iteration over the best; ``paper``; ``difference``, ours minus the paper's; ``spread`` over seeds of ``ours``,
        NaN where there is one.
    """
    where = ["table", "varied", "value"]
    plain = frame[frame.row == "SepNN"][[*where, "PSNR", "best PSNR", "spread", "paper"]]
    found = frame[frame.row != "SepNN"].merge(plain, on=where, suffixes=(None, " plain"))
    found["ours"] = found["PSNR"] - found["PSNR plain"]
    found["best"] = found["best PSNR"] - found["best PSNR plain"]
    found["paper"] = found["paper"] - found["paper plain"]
    found["difference"] = found["ours"] - found["paper"]
    found["spread"] = np.hypot(found["spread"], found["spread plain"])
    return found[[*where, "row", "ours", "best", "paper", "difference", "spread"]]


def compare(frame: pd.DataFrame) -> pd.DataFrame:
    """Every cell beside the paper's, with a verdict of its own (Tables 2-7).

    Returns:
        One row a cell: ``paper``, ``ours``, ``spread`` and ``difference`` of the PSNR in dB, and for the preconditioned cells the
        ``gain`` over the plain network with the ``paper's gain`` and a ``verdict``: "sign and size" (at most 1.5 dB apart, as the
        criteria ask on average), "sign", "neither"; empty where the paper prints nothing.
    """
    where = ["table", "varied", "value", "row"]
    found = frame[[*where, "paper", "PSNR", "spread"]].rename(columns={"PSNR": "ours"})
    found["difference"] = found.ours - found.paper
    gain = (
        gains(frame)
        .drop(columns=["best", "spread"])
        .rename(columns={"ours": "gain", "paper": "paper's gain", "difference": "apart"})
    )
    found = found.merge(gain, on=where, how="left")
    sign = found["gain"] * found["paper's gain"] > 0
    verdict = np.where(sign, np.where(found.apart.abs() <= 1.5, "sign and size", "sign"), "neither")
    found["verdict"] = np.where(found.apart.notna(), verdict, "")
    return found.drop(columns="apart")


def summary(compared: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """The gains in one line for each row of Tables 2 to 7.

    Args:
        compared: of :func:`compare`.
        found: of :func:`gains`.

    Returns:
        By ``table``, ``varied`` and ``row``: how many ``cells`` and how many of them have either verdict; ``least`` and
        ``largest`` gain, the same between best iterations, and the paper's, all in dB.
    """
    rows = []
    for (table, varied, row), part in found.groupby(["table", "varied", "row"], sort=False):
        verdicts = compared[(compared.table == table) & (compared.varied == varied) & (compared.row == row)].verdict
        rows.append(
            {"table": table, "varied": _short(varied), "row": row, "cells": len(part)}
            | {verdict: (verdicts == verdict).sum() for verdict in ("sign and size", "sign", "neither")}
            | {"least": part.ours.min(), "largest": part.ours.max()}
            | {"best least": part.best.min(), "best largest": part.best.max()}
            | {"paper least": part.paper.min(), "paper largest": part.paper.max()}
        )
    return pd.DataFrame(rows)


def _short(varied: str) -> str:
    return varied.split(" between")[0].split(" standard")[0]


def totals(frame: pd.DataFrame, compared: pd.DataFrame, fall: float = 0.5) -> dict[str, int]:
    """Counts over all of Tables 2 to 7, a run that stands in several cells counted once.

    Args:
        frame: of :func:`seplib.studies.images.sensitivity.run_cells`.
        compared: of :func:`compare`.
        fall: in dB.

    Returns:
        Number of ``runs``, and of those that have ``fallen``, ended this far below their best; number of ``gains``, with the
        paper's ``sign``, with its ``size`` too.
    """
    runs = frame.drop_duplicates("run")
    verdicts = compared.verdict[runs.index]
    return {
        "runs": len(runs),
        "fallen": int((runs["best PSNR"] - runs.PSNR > fall).sum()),
        "gains": int((verdicts != "").sum()),
        "sign": int(verdicts.isin(["sign", "sign and size"]).sum()),
        "size": int((verdicts == "sign and size").sum()),
    }


def page(compared: pd.DataFrame, table: str) -> Styler:
    """One table of :func:`compare` to look at, in dB (Tables 2-7)."""
    part = compared[compared.table == table].drop(columns=["table", "difference"] + ["varied"] * (table != "table-3"))
    return part.style.format(precision=2, na_rep="–").hide(axis="index")


def cases(table: str, frame: pd.DataFrame) -> dict[str, Case]:
    """The cases of the claim about one table, by the criteria of the claim list (Tables 2-7).

    Where the paper prints nothing, as for most settings of the ``smoke`` profile, a gain is expected to be positive and
    there is no difference to count.

    Args:
        table: such as ``"table-2"``.
        frame: all cells, of :func:`seplib.studies.images.sensitivity.run_cells`.
    """
    part = frame[frame.table == table]
    found = gains(part)
    # Few cells ran with several seeds; their spread stands for that of the others.
    spread = gains(frame).spread.max()
    expected = np.sign(found.paper).where(found.paper.notna(), 1.0)
    if table == "table-4":
        psnr = part[part.row == "SepPGD"].PSNR
        held = {"spread over the periods at most 1 dB": at_most(psnr.max() - psnr.min(), 1, DECIBELS, spread)}
        ours = zip(found.value, found.ours)
        held |= {f"period {value}: gain at least 4 dB": at_least(gain, 4, DECIBELS, spread) for value, gain in ours}
    else:
        names = found.row + ", " + found.varied + " " + found.value
        held = {
            f"{name}: gain of the paper's sign": above(gain * sign, 0, DECIBELS, spread)
            for name, gain, sign in zip(names, found.ours, expected)
        }
    apart = found.difference.abs().dropna()
    if table in ("table-2", "table-3", "table-6") and len(apart):
        several = spread / len(apart) ** 0.5
        held["gains differ by at most 1.5 dB on average"] = at_most(apart.mean(), 1.5, DECIBELS, several)
    if table == "table-2":
        curve = found.pivot(index="value", columns="row", values="ours")
        sixty = curve[curve.index.astype(int) >= 60]
        lead = sixty["SepPGD g1"] - sixty["SepPGD g2"]
        held |= {f"k = {k}: g1 above g2": above(difference, 0, DECIBELS, spread) for k, difference in lead.items()}
    if table == "table-5":
        for row, cells in part.groupby("row"):
            held[f"{row}: order of the activations"] = _same_order(cells)
    return held


def _same_order(part: pd.DataFrame) -> Case:
    """Whether every two cells that the paper prints with different numbers come in its order."""
    spread = 2**0.5 * part.spread.max()  # of a difference
    pairs = itertools.combinations(part.dropna(subset="paper").itertuples(), 2)
    leads = [(a.PSNR - b.PSNR) * np.sign(a.paper - b.paper) for a, b in pairs if a.paper != b.paper]
    return all_of(*(at_least(lead, 0, DECIBELS, spread) for lead in leads)) if leads else True


def numbers(part: pd.DataFrame, column: str) -> dict[str, float | None]:
    """One column of a table's cells by row, setting and value, None where there is no number (Tables 2-7)."""
    names = part.row + ", " + part.varied + " " + part.value
    return {name: None if np.isnan(value) else float(value) for name, value in zip(names, part[column])}


def draw(found: pd.DataFrame) -> Figure:
    """Gains over the varied setting, one panel for each, of the last and between best iterations, beside the paper's (Tables 2-7)."""
    groups = list(found.groupby(["table", "varied"], sort=False))
    figure, grid = panels(-(-len(groups) // 2), 2, 1.1 + 1.2 * len(groups))
    for axes, ((table, varied), group) in zip(grid.flat, groups):
        for colour, (row, part) in zip(("SepPGD", "MSK"), group.groupby("row", sort=False)):
            values = [value.replace("fourier features", "Fourier") for value in part.value]
            axes.plot(values, part.ours, "o-", color=COLOURS[colour], markersize=4, label=row)
            axes.plot(values, part.best, "o", color=COLOURS[colour], markersize=6, markerfacecolor="none", alpha=0.7)
            axes.plot(values, part.paper, "x:", color=COLOURS[colour], alpha=0.7)
        axes.axhline(0, color="#9aa3ad", linewidth=0.8)
        axes.set(title=f"{table.replace('-', ' ').capitalize()}: {_short(varied)}")
        if table == "table-5":
            plt.setp(axes.get_xticklabels(), rotation=35, ha="right", rotation_mode="anchor")
        if group.row.nunique() > 1:
            axes.legend()
    for axes in grid.flat[len(groups) :]:
        axes.set_axis_off()
    for row in grid:
        row[0].set_ylabel("gain in dB")
    return figure
