"""Why the image runs end where they end: spikes, the place of the error, the unit of g_2 (Sec. A.1.4, Fig. 7)."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from seplib.reproduce import claims
from seplib.reproduce.plotting import COLOURS, legend, panels
from seplib.studies.images.beyond.stability import Course, course
from seplib.studies.images.fitting import fit_image
from seplib.studies.images.settings import ImageSettings
from seplib.studies.images.studies import DynamicsSettings
from seplib.studies.seppgd import spectra

# An update that loses this many decibels counts as a spike; the first tenth of a run, where everything moves, does not.
SPIKE = 0.5


def courses(target: Tensor, study: DynamicsSettings, seed: int, device: torch.device) -> dict[str, Course]:
    """The study's variants by name, each looked at from inside (Fig. 7)."""
    return {
        name: course(target, method, replace(study.run, **change), seed, device, study.every, study.products)
        for name, (method, change) in study.variants.items()
    }


def spikes(psnr: np.ndarray) -> np.ndarray:
    """Updates that lose more than :data:`SPIKE` decibels, behind the first tenth of the run, counted from 0 (Fig. 7).

    >>> spikes(np.array([9.0, 1.0, *[10.0] * 20, 7.0, 10.0]))
    array([21])
    """
    lost = -np.diff(psnr) > SPIKE
    lost[: len(psnr) // 10] = False
    return lost.nonzero()[0]


def course_table(found: dict[str, Course], run: ImageSettings) -> pd.DataFrame:
    """How each variant ends, what its spikes cost, and how close to the edge of stability it runs (Fig. 7).

    Args:
        found: of :func:`courses`.
        run: their settings; k and the updates that one preconditioner serves.

    Returns:
        One row a variant: PSNR of the last and of the ``best`` update in dB; median and maximum, over looks in the second half,
        of the least stable channel's :func:`seplib.studies.images.beyond.stability.stability`; number of ``spikes``, the ``largest`` in dB, the
        median ``gap`` in updates between one and the next, the share ``at renewal``, in an update with a new preconditioner;
        ``below``, updates that end more than :data:`SPIKE` under an earlier PSNR; ``pace`` of the last hundred updates in dB;
        lambda_1 / lambda_k of the factors' pseudo-NTKs at the first and the last look, mean over axes and channels.
    """
    rows = []
    for name, one in found.items():
        at, fallen = spikes(one.psnr), np.maximum.accumulate(one.psnr) - one.psnr
        late = one.stability[len(one.moments) // 2 :].max(1)
        rows.append(
            {
                "run": name, "PSNR": one.psnr[-1], "best PSNR": one.psnr.max(), "stability": np.median(late),
                "stability max": late.max(), "spikes": len(at), "largest": (-np.diff(one.psnr))[at].max(initial=0.0),
                "gap": np.median(np.diff(at)) if len(at) > 1 else np.nan,
                "at renewal": (at % run.update_every == 0).mean() if len(at) else np.nan,
                "below": (fallen[len(fallen) // 10 :] > SPIKE).sum(), "pace": one.psnr[-1] - one.psnr[-101:][0],
                "first ratio": spectra.top_ratio(one.eigenvalues[0], run.k),
                "last ratio": spectra.top_ratio(one.eigenvalues[-1], run.k),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def modulated(
    found: dict[str, Course], target: Tensor, study: DynamicsSettings, seed: int, device: torch.device
) -> pd.DataFrame:
    """What modulating k eigenvalues gains, by Table 2's runs with g_1, and two possible reasons (Table 2).

    Returns:
        One row a ``k``: ``inside``, the percentage of SepNN's last error in the first k x k pairs of eigenvectors, and ``worth``,
        what its absence would bring in dB; ``ratio``, lambda_1 / lambda_k of SepNN's factors at the first look, by which g_1
        lowers the largest eigenvalue, mean over axes and channels; ``gain`` over SepNN in dB and ``paper``, the printed gain,
        NaN where there is none.
    """
    one, plain = found["SepNN"], fit_image(target, "SepNN", study.run, seed, device)
    rows = []
    for k in study.ks:
        run = fit_image(target, "SepPGD", replace(study.run, k=k), seed, device)
        share = one.inside[-1][:, k - 1].mean()
        rows.append(
            {
                "k": k, "inside": 100 * share, "worth": -10 * np.log10(1 - share),
                "ratio": spectra.top_ratio(one.eigenvalues[0], k),
                "gain": run.psnr[-1] - plain.psnr[-1], "paper": _printed_gain(k),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def _printed_gain(k: int, row: str = "SepPGD g1") -> float:
    modulated, plain = (claims.printed_or_nan("table-2", method, str(k)) for method in (row, "SepNN"))
    return modulated - plain


def roots(
    found: dict[str, Course], target: Tensor, study: DynamicsSettings, seed: int, device: torch.device
) -> pd.DataFrame:
    """What g_2 gains with the kernel as it is and with lambda_k as its unit, beside g_1 (Table 2).

    Returns:
        One row a ``k``: ``last``, lambda_k of SepNN's factors at the first look, mean over axes and channels, and ``below``, how
        many times smaller g_2 makes it; gains over SepNN in dB with ``g1``, ``g2`` and ``g2 in units of lambda_k``; ``paper``,
        g_2's printed gain, NaN where there is none.
    """
    plain = fit_image(target, "SepNN", study.run, seed, device).psnr[-1]
    rows = []
    for k in study.ks:
        last = found["SepNN"].eigenvalues[0][..., k - 1].mean()
        gains = {
            name: fit_image(target, "SepPGD", replace(study.run, k=k, g=g), seed, device).psnr[-1] - plain
            for name, g in {"g1": "flat", "g2": "sqrt", "g2 in units of lambda_k": "geometric"}.items()
        }
        paper = {"paper": _printed_gain(k, "SepPGD g2")}
        rows.append({"k": k, "last": last, "below": np.sqrt(last)} | gains | paper)
    return pd.DataFrame(rows)


def draw_courses(found: dict[str, Course]) -> Figure:
    """PSNR (top) and Adam's linearised step in units of what it can bear (bottom) over the updates (Fig. 7)."""
    figure, ((top,), (bottom,)) = panels(2, 1, 5.6, sharex=True)
    styles = [("SepNN", "-"), ("SepPGD", "-"), ("MSK", "-"), ("MLP (MSK)", "-"), ("SepNN", "--"), ("SepPGD", "--")]
    for (name, one), (colour, style) in zip(found.items(), styles, strict=True):
        top.plot(one.psnr, style, color=COLOURS[colour], linewidth=1.0, label=name)
        bottom.plot(one.moments, one.stability.max(1), "o" + style, color=COLOURS[colour], markersize=3)
    start = len(next(iter(found.values())).psnr) // 10
    top.set(ylabel="PSNR in dB", ylim=(min(one.psnr[start:].min() for one in found.values()) - 1, None))
    legend(figure, 3)
    bottom.axhline(1, color="#111111", linewidth=0.8)
    bottom.set(xlabel="iteration", ylabel="share of the stable limit", ylim=(0, None))
    return figure


def draw_spike(one: Course, update_every: int, reach: int = 25) -> Figure:
    """The updates around the largest single loss, dotted lines where the preconditioner is new (Fig. 7)."""
    start = len(one.psnr) // 10
    worst = start + int(np.diff(one.psnr)[start:].argmin())
    near = np.arange(max(0, worst - reach), min(len(one.psnr), worst + reach + 1))
    figure, ((axes,),) = panels(1, 1, 2.6)
    axes.plot(near, one.psnr[near], "o-", color=COLOURS["SepPGD"], markersize=3, linewidth=1.0)
    for renewed in near[near % update_every == 0]:
        axes.axvline(renewed, color="#9aa3ad", linewidth=0.8, linestyle=":")
    axes.set(xlabel="iteration", ylabel="PSNR in dB")
    return figure


def draw_spectra(found: dict[str, Course], ks: Sequence[int]) -> Figure:
    """Eigenvalues of the factors' pseudo-NTKs at the first and the last look, relative to the largest (Sec. 4)."""
    figure, row = panels(1, 2, 3.6, sharey=True)
    for axes, name in zip(row[0], ("SepNN", "SepPGD")):
        one = found[name]
        for look, style in ((0, ":"), (-1, "-")):
            for d, colour in enumerate((COLOURS["SepNN"], COLOURS["SepPGD"])):
                values = one.eigenvalues[look, d].mean(0)
                label = f"axis {d + 1}, iteration {one.moments[look]}"
                axes.semilogy(range(1, len(values) + 1), values / values[0], style, color=colour, label=label)
        for k in (min(ks), max(ks)):
            axes.axvline(k, color="#9aa3ad", linewidth=0.8)
        axes.set(title=name, xlabel="index", ylim=(1e-8, 2))
    row[0, 0].set_ylabel(r"$\lambda_i / \lambda_1$")
    legend(figure, 2)
    return figure


def draw_place(found: dict[str, Course], table: pd.DataFrame) -> Figure:
    """Where SepNN's last error lies among the eigenvectors, and what modulating k of them gains, dotted the paper's (Table 2)."""
    figure, ((left, right),) = panels(1, 2, 3.2)
    share = found["SepNN"].inside[-1].mean(0)
    left.plot(range(1, len(share) + 1), share, color=COLOURS["SepNN"])
    left.set(xlabel="k", ylabel="share of the error in the first k × k", ylim=(0, 1))
    right.plot(table.k, table.gain, "o-", color=COLOURS["SepPGD"])
    right.plot(table.k, table.paper, "x:", color=COLOURS["SepPGD"], alpha=0.7)
    right.axhline(0, color="#9aa3ad", linewidth=0.8)
    right.set(xlabel="k", ylabel="gain of SepPGD in dB")
    return figure


def draw_energy(found: dict[str, Course]) -> Figure:
    """Energy of the error by spatial frequency at the first, a middle and the last look (Fig. 3)."""
    figure, row = panels(1, 2, 3.2, sharey=True)
    for axes, name in zip(row[0], ("SepNN", "SepPGD")):
        one = found[name]
        looks = (0, len(one.moments) // 2, len(one.moments) - 1)
        for look, shade in zip(looks, (0.35, 0.6, 1.0)):
            label = f"iteration {one.moments[look]}"
            axes.semilogy(one.frequency, one.energy[look], color=COLOURS[name], alpha=shade, label=label)
        axes.set(title=name, xlabel="cycles per pixel")
        axes.legend()
    row[0, 0].set_ylabel("energy of the error")
    return figure
