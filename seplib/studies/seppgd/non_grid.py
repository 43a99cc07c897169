"""The experiment at scattered points (Sec. A.2, Table 9)."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
import torch

from seplib.baselines import MSK
from seplib.factors import FactorMLP
from seplib.preconditioning import SepPGD
from seplib.reproduce import claims
from seplib.reproduce.criteria import Comparison, all_of, at_most, below
from seplib.reproduce.recipes import choices
from seplib.reproduce.store import stored
from seplib.separable import CP
from seplib.studies.seppgd.kernel_ridge import FUNCTIONS
from seplib.studies.seppgd.settings import ScatteredSettings
from seplib.training import State, fit

METHODS = ("SepNN", "SepNN (MSK)", "SepNN (SepPGD)")


@dataclass(frozen=True)
class ScatteredRun:
    """One seed's fit of f1, f2, f3 at scattered points (Table 9).

    Attributes:
        iterations: ``(T,)``; test: ``(T, 3)`` test MSE; train: ``(T, 3)`` training MSE.
        zero: ``(3,)`` test MSE of the function that is zero everywhere.
    """

    iterations: np.ndarray
    test: np.ndarray
    train: np.ndarray
    zero: np.ndarray


def scattered_run(method: str, settings: ScatteredSettings, seed: int, device: torch.device) -> ScatteredRun:
    """Train a CP network on f1, f2 and f3 at random points, the three side by side (Sec. A.2, Table 9).

    Raises:
        ValueError: an unknown method.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    return _train_scattered(method=method, settings=choices(settings, ("seeds",)), seed=seed, device=device)


@stored("scattered", tolerance=1e-2, dump=asdict, load=lambda found: ScatteredRun(**found))
def _train_scattered(*, method: str, settings: dict, seed: int, device: torch.device) -> ScatteredRun:
    settings = ScatteredSettings(**settings, seeds=1)
    generator = torch.Generator().manual_seed(1000 + seed)
    X, new = (
        (2 * torch.rand(n, 2, generator=generator, dtype=torch.float64) - 1) for n in (settings.points, settings.tested)
    )
    target, test_target = (
        torch.stack([f(*P.unbind(1)) for f in FUNCTIONS.values()]).float().to(device) for P in (X, new)
    )
    X, new = X.float().to(device), new.float().to(device)
    generator = torch.Generator().manual_seed(seed)
    network = dict(
        width=settings.width, depth=settings.depth, omega=settings.omega, ensemble=len(FUNCTIONS), dtype=X.dtype
    )
    model = CP([FactorMLP(settings.rank, **network, generator=generator, device=device) for _ in range(2)])
    preconditioner = {
        "SepNN": lambda: None,
        "SepNN (MSK)": lambda: MSK(model, X, settings.k_msk, settings.update_every),
        "SepNN (SepPGD)": lambda: SepPGD(model, X, settings.k_seppgd, settings.update_every),
    }[method]()
    seen = []

    def measure(state: State) -> None:
        if state.iteration % settings.every == 0:
            with torch.no_grad():
                test = (model.points(new) - test_target).square().mean(1)
            seen.append((state.iteration, test.tolist(), state.residual.square().mean(1).tolist()))

    optimizer = torch.optim.Adam(model.parameters(), settings.learning_rate, fused=True)
    fit(model, X, target, optimizer, preconditioner, settings.iterations, [measure])
    steps, test, train = (np.array(column) for column in zip(*seen))
    return ScatteredRun(steps, test, train, test_target.square().mean(1).cpu().double().numpy())


def scattered_study(settings: ScatteredSettings, seed: int, device: torch.device) -> dict[str, list[ScatteredRun]]:
    """All methods and seeds of Table 9: method to one run a seed."""
    seeds = range(seed, seed + settings.seeds)
    return {method: [scattered_run(method, settings, s, device) for s in seeds] for method in METHODS}


def scattered_table(
    study: dict[str, list[ScatteredRun]], at: Sequence[int] | None = None, part: str = "test"
) -> pd.DataFrame:
    """Mean and spread over seeds of the MSE (Table 9), one row a method and iteration.

    Args:
        study: of :func:`scattered_study`.
        at: iterations to show, each one that was measured; the last if None.
        part: "test" or "train".
    """
    rows = []
    for method, runs in study.items():
        for iteration in at or [int(runs[0].iterations[-1])]:
            index = int(np.flatnonzero(runs[0].iterations == iteration)[0])
            values = np.array([getattr(run, part)[index] for run in runs])
            row = {"method": method, "iteration": iteration}
            for f, name in enumerate(FUNCTIONS):
                row |= {name: values[:, f].mean(), f"{name} spread": values[:, f].std(ddof=1) if len(runs) > 1 else 0.0}
            rows.append(row)
    return pd.DataFrame(rows)


def cases(table: pd.DataFrame) -> dict[str, Comparison]:
    """The cases of the claim ``table-9``, from :func:`scattered_table` with the methods as its index (Table 9)."""
    held = {}
    for name in FUNCTIONS:
        (plain, _), *others = (table.loc[method, [name, f"{name} spread"]] for method in METHODS)
        held[f"{name}: MSK and SepPGD below SepNN"] = all_of(*(below(mean, plain, spread=std) for mean, std in others))
        (msk, _), (ours, spread) = others
        held[f"{name}: SepPGD within 25% of MSK"] = at_most(ours, 1.25 * msk, spread=spread)
    return held


def numbers(table: pd.DataFrame, what: str = "") -> dict[str, float]:
    """Errors, or their " spread", of the same table by method and function, for the scorecard (Table 9)."""
    return {f"{method}: {name}": table.loc[method, name + what] for method in METHODS for name in FUNCTIONS}


def printed() -> dict[str, float]:
    """What the paper prints for the same methods and functions (Table 9)."""
    rows = dict(zip(METHODS, ("SepNN", "MSK", "SepPGD")))
    return {f"{m}: {name}": claims.printed("table-9", rows[m], name) for m in METHODS for name in FUNCTIONS}
