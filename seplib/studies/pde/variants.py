"""When SepPGD gains on differential equations: one thing changed at a time (Sec. A.12)."""

from typing import Any

import numpy as np
import pandas as pd
import torch

from seplib.studies.pde.comparison import OURS, PLAIN, reach
from seplib.studies.pde.fitting import chosen, final, fit_equation
from seplib.studies.pde.settings import EquationSettings


def variants(residual: float, ks: tuple[int, int, int]) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """What could decide whether SepPGD gains: name to the changes of the plain and of the preconditioned run (Sec. A.12).

    Args:
        residual: the chosen weight of the residual loss.
        ks: modulated eigenvalues of the study.
    """
    alone, light = dict(weights=(0.0, 1.0, 0.0, 0.0)), dict(weights=(residual / 100, 1.0, 1.0, 1.0))
    return {
        "as in the study": ({}, {}),
        "weights 3, 2, 2 in place of SepPGD": ({}, dict(method=PLAIN, weights=(residual, 3.0, 2.0, 2.0))),
        "residual 100 times lighter": (light, light),
        "data loss alone": (alone, alone),
        "data loss alone, new preconditioner every 10 updates": (alone, alone | dict(update_every=10)),
        "new preconditioner every 10 updates": ({}, dict(update_every=10)),
        "twice as many modulated eigenvalues": ({}, dict(ks=tuple(2 * k for k in ks))),
        "the printed learning rate": (dict(flag="printed"), dict(flag="printed")),
    }


def compare_variants(trials: pd.DataFrame, settings: EquationSettings, seed: int, device: torch.device) -> pd.DataFrame:
    """When SepPGD gains and when it does not (Sec. A.12), all seeds, ``settings.compared`` updates.

    Args:
        trials: of :func:`seplib.studies.pde.fitting.search`.
        settings: of the profile.
        seed: of the initial weights.
        device: where to compute.

    Returns:
        One row an equation and variant: ``plain`` and ``preconditioned``, the median test errors at the end; ``error``, their
        ratio (below 1: SepPGD gains), geometric mean over the seeds; ``updates``, the ratio of the updates until plain's last
        error is reached, medians over the seeds; ``residual``, that loss's share of the plain run's gradient at the end.
    """
    rows = []
    for name in settings.equations:
        weight = trials[(trials.equation == name) & trials.chosen].residual.iloc[0]
        for variant, changes in variants(float(weight), settings.ks).items():
            pair = []
            for method, change in zip((PLAIN, OURS), changes):
                change = {"method": method, "iterations": settings.compared} | change
                pair.append(fit_equation(chosen(trials, settings, name, **change), seed, device))
            errors = [final(run.errors) for run in pair]
            needed = [np.median(reach(run, errors[0])) for run in pair]
            rows.append(
                {
                    "equation": name, "variant": variant, "plain": np.median(errors[0]), "preconditioned": np.median(errors[1]),
                    "error": np.exp(np.log(errors[1] / errors[0]).mean()), "updates": needed[1] / needed[0],
                    "residual": pair[0].shares.residual.iloc[-1],
                }
            )  # fmt: skip
    return pd.DataFrame(rows)
