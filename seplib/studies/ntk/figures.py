"""Pictures of the kernel notebooks, one function a figure (Sec. 3, Fig. 1)."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from seplib.dynamics import ModeDecay
from seplib.reproduce import plotting

_EXACT, _OTHER = plotting.COLOURS["SepNN"], plotting.COLOURS["SepPGD"]


def _sizes(axes: Axes, label: str, title: str) -> None:
    axes.set(xscale="log", yscale="log", xlabel=label, title=title)
    axes.set_xscale("log", base=2)


def _guide(axes: Axes, x: Sequence[float], start: float, exponent: float, label: str) -> None:
    x = np.asarray(x, dtype=float)
    axes.plot(x, start * (x / x[0]) ** exponent, ":", color=plotting.COLOURS["limit"], linewidth=1, label=label)


def seed_differences(
    sizes: Sequence[int], fixed: np.ndarray, joint: np.ndarray, to_limit: np.ndarray, rank: int, predicted: float
) -> Figure:
    """Difference of the initial NTK between adjacent seeds at fixed rank and at R = W, Fig. 1(a) and (b).

    Args:
        sizes: W.
        fixed: ``(seeds - 1, sizes)`` relative differences at the fixed rank.
        joint: the same at R = W.
        to_limit: ``(seeds, sizes)`` relative distances to the limit kernel of Theorem 2 at R = W.
        rank: the fixed R.
        predicted: difference that Corollary 1's variance predicts for two seeds at that rank.
    """
    figure, ((left, right),) = plotting.panels(1, 2, 3.6, sharey=True)
    plotting.band(left, sizes, fixed, "adjacent seeds", color=_EXACT)
    left.axhline(predicted, color=plotting.COLOURS["limit"], linestyle="--", linewidth=1, label="random limit")
    _sizes(left, "width W", f"(a) fixed rank R = {rank}")
    left.set_ylabel("relative difference")
    plotting.band(right, sizes, joint, "adjacent seeds", color=_EXACT)
    plotting.band(right, sizes, to_limit, "to the limit kernel", color=_OTHER)
    _guide(right, sizes, joint[:, 0].mean(), -0.5, "slope −1/2")
    _sizes(right, "width = rank", "(b) R = W")
    for axes in (left, right):
        axes.legend()
    return figure


def spreads(
    widths: Sequence[int],
    by_width: np.ndarray,
    ranks: Sequence[int],
    by_rank: np.ndarray,
    predicted: np.ndarray,
    rank: int,
) -> Figure:
    """Spread of the initial NTK over many networks, by width and by rank (Corollary 1).

    Args:
        widths: W.
        by_width: the spread at fixed rank.
        ranks: R.
        by_rank: the spread at fixed width.
        predicted: the limit's spread for each R.
        rank: the fixed R.
    """
    figure, ((left, right),) = plotting.panels(1, 2, 3.6)
    left.plot(widths, by_width, "o-", color=_EXACT, label="networks")
    constant = predicted[0] * (ranks[0] / rank) ** 0.5
    left.axhline(constant, color=plotting.COLOURS["limit"], linestyle="--", linewidth=1, label="limit, closed form")
    _sizes(left, "width W", f"fixed rank R = {rank}")
    left.set(ylabel="spread relative to the mean", ylim=(constant / 2, constant * 3))
    right.plot(ranks, by_rank, "o-", color=_EXACT, label="networks")
    right.plot(ranks, predicted, "--", color=plotting.COLOURS["limit"], linewidth=1, label="limit, closed form")
    _sizes(right, "rank R", "fixed width")
    for axes in (left, right):
        axes.legend()
    return figure


def quantiles(wide: np.ndarray, draws: np.ndarray, names: Sequence[str]) -> Figure:
    """Quantiles of the entries of wide networks' NTKs against those of draws of the random limit (Corollary 1).

    Args:
        wide: ``(samples, entries)``.
        draws: ``(samples, entries)``.
        names: of the entries.
    """
    levels = np.linspace(0.002, 0.998, 250)
    figure, panels = plotting.panels(2, (len(names) + 1) // 2, 4.8)
    for axes, a, b, name in zip(panels.flat, wide.T, draws.T, names):
        x, y = np.quantile(b, levels), np.quantile(a, levels)
        axes.plot([x[0], x[-1]], [x[0], x[-1]], color=plotting.COLOURS["limit"], linewidth=1)
        axes.plot(x, y, ".", markersize=3, color=_EXACT)
        axes.set(title=f"entry {name}")
    figure.supxlabel("quantiles of the random limit", fontsize="medium")
    figure.supylabel("quantiles of wide networks", fontsize="medium")
    return figure


def drift(sizes: Sequence[int], runs: Mapping[str, np.ndarray]) -> Figure:
    """Change of the NTK in training and distance that the parameters move, by W = R: Fig. 1(c).

    Args:
        sizes: W = R.
        runs: "drift", "moved" and "bound", each ``(seeds, sizes)``.
    """
    figure, ((left, right),) = plotting.panels(1, 2, 3.6)
    plotting.band(left, sizes, runs["drift"], "measured", color=_EXACT)
    _guide(left, sizes, runs["drift"][:, 0].mean(), -0.5, "slope −1/2")
    _guide(left, sizes, runs["drift"][:, 0].mean(), -1.0, "slope −1")
    left.get_lines()[-1].set_linestyle("--")
    _sizes(left, "width = rank", "(c) kernel after 100 steps")
    left.set_ylabel("relative change")
    plotting.band(right, sizes, runs["moved"], "distance moved", color=_EXACT)
    plotting.band(right, sizes, runs["bound"], "bound by the loss", color=_OTHER)
    right.set(xlabel="width = rank", title="all parameters together", ylim=(0, None))
    right.set_xscale("log", base=2)
    for axes in (left, right):
        axes.legend()
    return figure


def modes(decay: ModeDecay, member: int = 0) -> Figure:
    """Residual in the kernel's top eigenvectors over time, predicted by Eq. (5) and measured.

    Args:
        decay: a run's modes.
        member: which copy of the ensemble.
    """
    times, count = decay.times.numpy(), decay.rates.shape[1]
    measured, predicted = (part[:, member].numpy() for part in (decay.measured, decay.predicted))
    chosen = sorted({0, 1, count // 4, count // 2, count - 1})
    colours = plt.get_cmap("viridis")(np.linspace(0.05, 0.85, len(chosen)))
    figure, ((left, right),) = plotting.panels(1, 2, 3.6)
    for mode, colour in zip(chosen, colours):
        seen = predicted[:, mode] > 0.03
        left.plot(times[seen], predicted[seen, mode], color=colour, linewidth=3.5, alpha=0.35)
        left.plot(times[seen], measured[seen, mode], color=colour, linewidth=1.2, label=f"mode {mode + 1}")
    left.set(yscale="log", xlabel="time", ylabel="amplitude / initial", title="measured on predicted (pale)")
    left.legend()
    deviation = decay.deviation()[member].numpy()
    right.bar(np.arange(1, count + 1), 100 * deviation, color=_EXACT)
    right.axhline(5, color=plotting.COLOURS["limit"], linestyle="--", linewidth=1)
    right.set(xlabel="mode", ylabel="largest deviation, %", title="until fallen tenfold")
    return figure


def spectra(found: Mapping[str, np.ndarray], left: Sequence[str], right: Sequence[str]) -> Figure:
    """Spectra of initial NTKs relative to their largest eigenvalue, Fig. 1(d).

    Args:
        found: ``(seeds, N)`` eigenvalues by name.
        left: which of them in the left panel.
        right: which in the right one.
    """
    figure, (panels,) = plotting.panels(1, 2, 4.4, sharey=True)
    for axes, names in zip(panels, (left, right)):
        colours = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(names)))
        for name, colour in zip(names, colours):
            values = np.maximum(found[name] / found[name][:, :1], 1e-14)
            style = dict(color=plotting.COLOURS.get(name, colour), linestyle="--" if name == "limit" else "-")
            plotting.band(axes, list(range(1, values.shape[1] + 1)), values, name, **style)
        axes.set(yscale="log", xlabel="index", ylim=(1e-13, 2))
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    panels[0].set_ylabel("eigenvalue / largest")
    return figure


def pseudo(widths: Sequence[int], errors: Mapping[str, np.ndarray], spectra: Mapping[str, np.ndarray]) -> Figure:
    """Error of the pseudo-NTK by width, and spectra of both kernels on a full grid, Eq. (10).

    Args:
        widths: W.
        errors: ``(seeds, widths)`` relative errors by name.
        spectra: ``(k,)`` largest eigenvalues, "exact" and "pseudo".
    """
    figure, ((left, right),) = plotting.panels(1, 2, 3.6)
    for (name, runs), colour in zip(errors.items(), (_EXACT, _OTHER)):
        plotting.band(left, widths, runs, name, color=colour)
    start = next(iter(errors.values()))[:, 0].mean()
    _guide(left, widths, start, -0.5, "slope −1/2")
    _guide(left, widths, start, 0.5, "slope +1/2, as printed")
    left.get_lines()[-1].set_linestyle("--")
    _sizes(left, "width W", "error of the pseudo-NTK")
    left.set_ylabel("relative error")
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
    for (name, values), style in zip(spectra.items(), ("-", "--")):
        right.plot(np.arange(1, len(values) + 1), values, style, label=name, color=_EXACT if style == "-" else _OTHER)
    right.set(yscale="log", xlabel="index", title="largest eigenvalues, full grid")
    right.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
    return figure
