"""Tables 2 to 7 from their runs: gains, verdicts cell by cell, criteria, a figure (Secs. A.1.4 and A.1.5)."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from seplib.claims import DECIBELS, Case, above, all_of, at_least, at_most
from seplib.plotting import COLOURS, panels


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
        frame: of :func:`seplib.sensitivity.run_cells`.
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
        frame: all cells, of :func:`seplib.sensitivity.run_cells`.
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
