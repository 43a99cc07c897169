"""What the runs on differential equations say: times to an error, the claims' cases, when SepPGD gains (Figs. 4, 13, 14)."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from seplib.pde import diffusion_reference
from seplib.reproduce.criteria import Comparison, at_most, below, timed
from seplib.reproduce.store import stored
from seplib.studies.pde.fitting import EQUATIONS, METHODS, PdeRun, chosen, final, fit_equation, loss, network
from seplib.studies.pde.settings import EquationSettings
from seplib.training import descend

PINN, PLAIN, OURS = METHODS
RATIO = "time to plain SPINN's final error, SepPGD / plain"
Study = dict[tuple[str, str], PdeRun]


def study(trials: pd.DataFrame, settings: EquationSettings, seed: int, device: torch.device) -> Study:
    """Every equation with every method at what the search chose, each run stored (Figs. 4, 13, 14).

    Args:
        trials: of :func:`seplib.studies.pde.fitting.search`.
        settings: of the profile.
        seed: of the initial weights.
        device: where to compute.

    Returns:
        The runs by (equation, method), all seeds of one in one run.
    """
    return {
        (name, method): fit_equation(chosen(trials, settings, name, method), seed, device)
        for method in (PLAIN, OURS, PINN)
        for name in settings.equations
    }


def step_seconds(
    trials: pd.DataFrame, settings: EquationSettings, seed: int, device: torch.device, rounds: int = 3
) -> dict[tuple[str, str], float]:
    """Seconds of one update of one copy by (equation, method), the time axis of Figs. 4, 13 and 14.

    Stored runs may come from different days and loads, so time is measured here and now: short runs of the methods in turn,
    the median over the rounds. The preconditioners, made once and before the first update, are left out.

    Args:
        trials: as for :func:`study`, as are the next three.
        settings: see there.
        seed: see there.
        device: see there.
        rounds: number of turns.
    """
    result = {}
    for name in settings.equations:
        prepared, times = {}, {method: [] for method in METHODS}
        for method in METHODS:
            run = chosen(trials, settings, name, method, copies=1)
            model = network(run, seed, device)
            step = loss(run, model, device)
            optimizer = torch.optim.Adam([step.parameter], lr=run.learning_rate, fused=True)
            prepared[method] = step, model, optimizer, 5 if method == PINN else 20
        for _ in range(rounds):
            for method, (step, model, optimizer, updates) in prepared.items():
                seconds = descend(step, model, optimizer, iterations=updates).seconds
                times[method].append((seconds[-1] - seconds[2]) / (updates - 2))
        result |= {(name, method): float(np.median(seconds)) for method, seconds in times.items()}
    return result


def reach(run: PdeRun, level: Any) -> np.ndarray:
    """Updates until the test error is first at most ``level``, ``(E,)``; infinite where it never is (Figs. 4, 13, 14).

    Args:
        run: any.
        level: one number, or one a copy.
    """
    below = run.errors <= level
    return np.where(below.any(0), run.iterations[below.argmax(0)], np.inf)


def compare(runs: Study, seconds: Mapping[tuple[str, str], float], settings: EquationSettings) -> pd.DataFrame:
    """Errors and times by equation and method (Figs. 4, 13, 14).

    Returns:
        One row a pair. ``MSE``, its least and largest value over the seeds and ``relative L2`` of the median at the end (see
        :func:`seplib.studies.pde.fitting.final`); ``ms`` an update and copy, ``minutes`` of the whole training of one copy; ``updates`` and
        ``seconds``, medians over the seeds, until the error is first that of plain SPINN at its end.
    """
    rows = []
    for name in settings.equations:
        level = final(runs[name, PLAIN].errors)
        size = exact(name, settings).square().mean().item()
        for method in METHODS:
            run, pace = runs[name, method], seconds[name, method]
            errors, updates = final(run.errors), np.median(reach(run, level))
            rows.append(
                {
                    "equation": name, "method": method, "MSE": np.median(errors), "least": errors.min(), "largest": errors.max(),
                    "relative L2": np.sqrt(np.median(errors) / size), "ms": 1e3 * pace,
                    "minutes": pace * run.iterations[-1] / 60, "updates": updates, "seconds": updates * pace,
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def exact(name: str, settings: EquationSettings) -> Tensor:
    """The solution on the test grid, in float64 (Figs. 4, 13, 14)."""
    equation = EQUATIONS[name](settings.resolution)
    return equation.values(equation.axes(settings.test, torch.float64))


def time_ratios(slow: PdeRun, fast: PdeRun, paces: tuple[float, float]) -> np.ndarray:
    """Time of one run over that of another until each error that the other reaches, infinite for never (Figs. 4, 13, 14).

    Args:
        slow: the other run.
        fast: the one run.
        paces: seconds an update of ``slow`` and of ``fast``.

    Returns:
        One number an error: all new minima of the median over the seeds, below its start; times are medians over the seeds.
        Empty where ``slow`` never falls below its start.
    """
    course = np.median(slow.errors, 1)
    minima = np.unique(np.minimum.accumulate(course)[1:])
    levels = minima[minima < course[0]]
    times = np.array(
        [[np.median(reach(run, level)) * pace for run, pace in zip((slow, fast), paces)] for level in levels]
    ).reshape(-1, 2)
    reached = np.isfinite(times[:, 0])
    return times[reached, 1] / times[reached, 0]


def sooner(ratios: np.ndarray) -> float:
    """Share of the errors, from :func:`time_ratios`, that are reached in less time; 1 if there are none (Figs. 4, 13, 14)."""
    return float((ratios < 1).mean()) if len(ratios) else 1.0


def time_ratio(runs: Study, seconds: Mapping[tuple[str, str], float], name: str, level: np.ndarray) -> float:
    """Time of SPINN with SepPGD over that of plain SPINN until an error is reached, medians over the seeds (Figs. 4, 13, 14).

    Args:
        runs: of :func:`study`.
        seconds: an update, by (equation, method).
        name: of the equation.
        level: ``(E,)``, the error of each seed.
    """
    ours, plain = (np.median(reach(runs[name, method], level)) * seconds[name, method] for method in (OURS, PLAIN))
    return float(ours / plain)


def ratio_spread(runs: Study, seconds: Mapping[tuple[str, str], float], name: str) -> float | None:
    """Standard deviation over the seeds of the time ratio to plain SPINN's final error, each seed for itself (Figs. 4, 13, 14).

    None with one seed, or where a seed never arrives.
    """
    level = final(runs[name, PLAIN].errors)
    ours, plain = (reach(runs[name, method], level) * seconds[name, method] for method in (OURS, PLAIN))
    arrived = np.isfinite(ours) & np.isfinite(plain)
    return float((ours / plain).std(ddof=1)) if len(ours) > 1 and arrived.all() else None


def cases(runs: Study, seconds: Mapping[tuple[str, str], float], name: str) -> dict[str, Comparison]:
    """The cases of an equation's claim (Figs. 4, 13, 14).

    Args:
        runs: of :func:`study`.
        seconds: an update, by (equation, method).
        name: of the equation.
    """
    ratio = time_ratio(runs, seconds, name, final(runs[name, PLAIN].errors))
    ratios = _against_pinn(runs, seconds, name)
    return {
        "SepPGD reaches plain SPINN's final error in at most 0.8 of its time": timed(
            at_most(ratio, 0.8, spread=ratio_spread(runs, seconds, name))
        ),
        "SPINN reaches every error of PINN sooner": timed(below(ratios.max(initial=0.0), 1)),
    }


def _against_pinn(runs: Study, seconds: Mapping[tuple[str, str], float], name: str) -> np.ndarray:
    return time_ratios(runs[name, PINN], runs[name, PLAIN], (seconds[name, PINN], seconds[name, PLAIN]))


def numbers(runs: Study, seconds: Mapping[tuple[str, str], float], name: str) -> dict[str, float | str]:
    """What was measured of an equation's claim, "never" for an infinite time (Figs. 4, 13, 14).

    Args:
        runs: of :func:`study`.
        seconds: an update, by (equation, method).
        name: of the equation.
    """
    plain = runs[name, PLAIN].errors
    found: dict[str, float] = {
        RATIO: time_ratio(runs, seconds, name, final(plain)),
        "the same to its error after the last update": time_ratio(runs, seconds, name, plain[-1]),
        "share of PINN's errors that SPINN reaches sooner": sooner(_against_pinn(runs, seconds, name)),
    }
    found |= {f"final test MSE, {method}": float(np.median(final(runs[name, method].errors))) for method in METHODS}
    return {what: value if np.isfinite(value) else "never" for what, value in found.items()}


def spread(runs: Study, name: str) -> dict[str, float]:
    """Standard deviation of the final test error over the seeds, by method (Figs. 4, 13, 14)."""
    errors = {method: final(runs[name, method].errors) for method in METHODS}
    return {f"final test MSE, {method}": float(e.std(ddof=1)) for method, e in errors.items() if len(e) > 1}


def findings(
    runs: Study,
    seconds: Mapping[tuple[str, str], float],
    trials: pd.DataFrame,
    pairs: pd.DataFrame,
    settings: EquationSettings,
) -> dict[str, str]:
    """The numbers that the book quotes, as text, such as ``helmholtz_ratio`` or ``helmholtz_data_loss_alone`` (Figs. 4, 13, 14).

    Args:
        runs: of :func:`study`.
        seconds: of :func:`step_seconds`.
        trials: of :func:`seplib.studies.pde.fitting.search`.
        pairs: of :func:`seplib.studies.pde.variants.compare_variants`.
        settings: of the profile.
    """
    found = {}
    for name in settings.equations:
        key, row = name.lower().replace("-", "_"), trials[(trials.equation == name) & trials.chosen].iloc[0]
        measured = numbers(runs, seconds, name)
        ratio, share = measured[RATIO], measured["share of PINN's errors that SPINN reaches sooner"]
        found |= {f"{key}_omega": f"{row.omega:g}", f"{key}_rate": f"{row.learning_rate:g}"}
        found |= {f"{key}_residual": f"{row.residual:g}"}
        found |= {
            f"{key}_ratio": ratio if isinstance(ratio, str) else f"{ratio:.2f}",
            f"{key}_sooner": f"{100 * share:.0f}%",
        }
        for method, short in zip(METHODS, ("pinn", "plain", "ours")):
            found[f"{key}_{short}"] = f"{measured[f'final test MSE, {method}']:.1e}"
            found[f"{key}_{short}_ms"] = f"{1e3 * seconds[name, method]:.1f}"
        for variant, rows in pairs[pairs.equation == name].groupby("variant"):
            slug = f"{key}_{re.sub(r'[^a-z0-9]+', '_', variant.lower())}"
            found[slug] = f"{rows.error.iloc[0]:.2g}"
            found[f"{slug}_plain"] = f"{rows.plain.iloc[0]:.1e}"
            found[f"{slug}_ours"] = f"{rows.preconditioned.iloc[0]:.1e}"
            found[f"{slug}_updates"] = f"{rows.updates.iloc[0]:.2f}" if np.isfinite(rows.updates.iloc[0]) else "never"
            found[f"{slug}_share"] = f"{100 * rows.residual.iloc[0]:.0f}%"
    return found


def reference_errors(settings: EquationSettings) -> pd.DataFrame:
    """How the diffusion's reference solution converges, on training and test grid together (Fig. 4).

    Returns:
        One row a ``resolution``, up to the one in use: the ``largest`` difference from the solution at twice the resolution, the
        ``relative L2`` difference, and the ``order``, the slope of the latter since the row before.
    """
    resolutions = tuple(2 * settings.resolution // share for share in (16, 8, 4, 2, 1))
    return _measure_reference(resolutions, (settings.points, settings.test))


@stored("diffusion reference", tolerance=1e-3)  # of differences between grids, which the integrator's own errors reach
def _measure_reference(resolutions: Sequence[int], sizes: Sequence[int]) -> pd.DataFrame:
    times, places = (np.unique(np.concatenate([np.linspace(low, 1, n) for n in sizes])) for low in (0, -1))
    found = [diffusion_reference(times, places, places, resolution) for resolution in resolutions]
    rows = []
    for resolution, coarse, fine in zip(resolutions, found, found[1:]):
        gap, size = coarse - fine, np.linalg.norm(fine)
        order = np.log2(rows[-1]["relative L2"] * size / np.linalg.norm(gap)) if rows else np.nan
        rows.append(
            {
                "resolution": resolution, "largest": np.abs(gap).max(), "relative L2": np.linalg.norm(gap) / size, "order": order,
            }
        )  # fmt: skip
    return pd.DataFrame(rows)
