"""Separable and plain physics-informed networks, with and without SepPGD (Sec. A.12, Figs. 4, 13, 14)."""

import dataclasses
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from seplib import pde
from seplib.factors import FactorMLP
from seplib.pde.loss import LOSSES, PhysicsLoss
from seplib.preconditioning import SepPGD
from seplib.reproduce.recipes import choices
from seplib.reproduce.store import stored
from seplib.separable import CP, MLP
from seplib.studies.pde.settings import EquationSettings
from seplib.training import State, descend

METHODS = ("PINN", "SPINN", "SPINN (SepPGD)")
# Name to the equation, given the resolution of a reference solution, and to its claim.
EQUATIONS: dict[str, Callable[[int], pde.Equation]] = {
    "diffusion": pde.diffusion,
    "Klein-Gordon": lambda _: pde.KLEIN_GORDON,
    "Helmholtz": lambda _: pde.HELMHOLTZ,
}
CLAIMS = {"diffusion": "fig-4", "Klein-Gordon": "fig-13", "Helmholtz": "fig-14"}


@dataclass(frozen=True)
class Case:
    """All that determines a run beside seed and device (Sec. A.12).

    Attributes:
        equation: a name in :data:`EQUATIONS`.
        method: one of :data:`METHODS`.
        omega, learning_rate: w_0 and the rate of Adam.
        weights: of the losses in the order of :data:`seplib.pde.loss.LOSSES`.
        ks: modulated eigenvalues for data, initial and boundary loss; None where SepPGD is not used.
        update_every: updates between two preconditioners; 0 for those at initialisation, kept throughout.
        points, test, copies, rank, width, depth, iterations, judge_every, resolution: see
            :class:`seplib.studies.pde.settings.EquationSettings`.
    """

    equation: str
    method: str
    omega: float
    learning_rate: float
    weights: tuple[float, float, float, float]
    points: int
    test: int
    copies: int
    rank: int
    width: int
    depth: int
    iterations: int
    ks: tuple[int, int, int]
    judge_every: int
    resolution: int
    update_every: int = 0


@dataclass(frozen=True)
class PdeRun:
    """Result of a run (Figs. 4, 13, 14).

    Attributes:
        iterations: ``(T,)``, after how many updates the test error was taken.
        errors: ``(T, E)``, mean square error on the test grid by copy.
        solution: ``(n, ..., n)``, the first copy's output on the test grid after the last update.
        parts: loss to its value after the last update, mean over the copies.
        shares: loss to its share of the sum of the four gradients' norms, at each power of ten and at the end.
        seconds: of training.
    """

    iterations: np.ndarray
    errors: np.ndarray
    solution: np.ndarray
    parts: dict[str, float]
    shares: pd.DataFrame
    seconds: float


def case(settings: EquationSettings, equation: str, method: str, **choice: Any) -> Case:
    """A run at the settings of a profile, all losses with weight 1 (Sec. A.12).

    Args:
        settings: of the profile.
        equation: a name in :data:`EQUATIONS`.
        method: one of :data:`METHODS`.
        choice: at least ``omega`` and ``learning_rate``; whatever else of :class:`Case` differs.

    Raises:
        ValueError: an unknown equation or method.
    """
    for what, name, known in (("equation", equation, EQUATIONS), ("method", method, METHODS)):
        if name not in known:
            raise ValueError(f"{what} must be one of {', '.join(known)}, got {name!r}")
    shared = {f.name: getattr(settings, f.name) for f in dataclasses.fields(Case) if hasattr(settings, f.name)}
    return Case(**{**shared, "equation": equation, "method": method, "weights": (1.0,) * len(LOSSES), **choice})


def fit_equation(run: Case, seed: int, device: torch.device) -> PdeRun:
    """Train the copies of a network to solve an equation, in one batched pass (Sec. A.12). Stored, and resumed where it was cut.

    Args:
        run: what to train.
        seed: of the initial weights of all copies, the same for both separable methods.
        device: where to compute.

    Raises:
        FloatingPointError: the training diverged.
    """
    return _train(run=choices(run), seed=seed, device=device)


def network(run: Case, seed: int, device: torch.device | str) -> CP | MLP:
    """The network of a run at its initial weights, SIREN throughout (Sec. A.12)."""
    dims = len(EQUATIONS[run.equation](run.resolution).domain)
    generator = torch.Generator().manual_seed(seed)
    shape = dict(width=run.width, depth=run.depth, omega=run.omega, ensemble=run.copies)
    place = dict(generator=generator, dtype=torch.float32, device=device)
    if run.method == "PINN":
        return MLP(dims, **shape, **place)
    return CP([FactorMLP(run.rank, **shape, **place) for _ in range(dims)])


def loss(run: Case, model: torch.nn.Module, device: torch.device | str) -> PhysicsLoss:
    """The loss of a run, with SepPGD if its method has it (Sec. A.12)."""
    equation = EQUATIONS[run.equation](run.resolution)
    axes = equation.axes(run.points, torch.float32, device)
    preconditioners = {}
    if run.method == "SPINN (SepPGD)":
        every = run.update_every or run.iterations + 1
        preconditioners = {name: SepPGD(model, axes, k, every) for name, k in zip(LOSSES[1:], run.ks)}
    target = _solution(equation, run.points).to(device)
    return PhysicsLoss(equation, model, axes, target, dict(zip(LOSSES, run.weights)), preconditioners)


def _solution(equation: pde.Equation, n: int) -> Tensor:
    """Evaluated in double precision: the float32 sine of 4 pi x is no zero at x = 1."""
    return equation.values(equation.axes(n, torch.float64)).float()


@stored("equation", tolerance=0.1, dump=dataclasses.asdict, load=lambda found: PdeRun(**found))
def _train(*, run: dict, seed: int, device: torch.device, checkpoint: Path | None = None) -> PdeRun:
    run = Case(**run)
    model = network(run, seed, device)
    step = loss(run, model, device)
    equation = step.equation
    test, truth = equation.axes(run.test, torch.float32, device), _solution(equation, run.test).to(device)
    optimizer = torch.optim.Adam([step.parameter], lr=run.learning_rate, fused=True)

    @torch.no_grad()
    def judge(state: State) -> dict[str, float] | None:
        if state.iteration % run.judge_every and state.iteration != run.iterations:
            return None
        errors = (model.grid(test) - truth).square().flatten(1).mean(1).tolist()
        return {"iteration": state.iteration} | {f"error {copy}": error for copy, error in enumerate(errors)}

    def weigh(state: State) -> dict[str, float] | None:
        if state.iteration not in {1, 10, 100, 1000, run.iterations}:
            return None
        norms = step.gradient_norms(state.iteration)
        return {"shared": state.iteration} | {
            f"share {name}": norm / sum(norms.values()) for name, norm in norms.items()
        }

    history = descend(step, model, optimizer, step, run.iterations, [judge, weigh], checkpoint)
    found = history.metrics
    with torch.no_grad():
        solution = model.grid(test)[0].cpu().numpy()
    return PdeRun(
        np.array(found["iteration"], dtype=int),
        np.stack([found[f"error {copy}"] for copy in range(run.copies)], 1),
        solution,
        {name: part.mean().item() for name, part in step.parts().items()},
        pd.DataFrame({name: found[f"share {name}"] for name in LOSSES}, index=np.array(found["shared"], dtype=int)),
        history.seconds[-1],
    )


def search(settings: EquationSettings, seed: int, device: torch.device) -> pd.DataFrame:
    """What Sec. A.12 leaves open, tried out on one copy of the plain separable network, at full length.

    Returns:
        One row a trial: ``equation``, ``omega``, ``learning_rate``, ``residual`` (that loss's weight), ``test MSE`` at the end
        (see :func:`final`; infinite if the training diverged), relative to the solution's mean square, and two flags:
        ``chosen`` for the best trial of each equation, ``printed`` for the best with the printed, first learning rate.
    """
    rows = []
    grid = itertools.product(settings.equations, settings.omegas, settings.learning_rates, settings.residuals)
    for name, omega, rate, residual in grid:
        choice = dict(omega=omega, learning_rate=rate, weights=(residual, 1.0, 1.0, 1.0))
        try:
            run = fit_equation(case(settings, name, "SPINN", **choice, copies=1), seed, device)
            error = float(final(run.errors)[0])
        except FloatingPointError:
            error = np.inf
        error /= _solution(EQUATIONS[name](settings.resolution), settings.test).square().mean().item()
        rows.append({"equation": name, "omega": omega, "learning_rate": rate, "residual": residual, "test MSE": error})
    table = pd.DataFrame(rows)
    for flag, among in (("chosen", table), ("printed", table[table.learning_rate == settings.learning_rates[0]])):
        table[flag] = table.index.isin(among.groupby("equation")["test MSE"].idxmin())
    return table


def final(errors: np.ndarray) -> np.ndarray:
    """Test error at the end of a run, ``(E,)`` from ``(T, E)``: the median over the last tenth of it (Figs. 4, 13, 14).

    Adam's steps at rate 5e-3 are large enough for single errors to lie ten times above their neighbours.

    >>> final(np.array([[9.0], [1.0], [2.0]])).item()
    2.0
    """
    return np.median(errors[-max(1, len(errors) // 10) :], axis=0)


def chosen(
    table: pd.DataFrame, settings: EquationSettings, equation: str, method: str, flag: str = "chosen", **changes: Any
) -> Case:
    """A run of the study: what the search chose, for all methods alike (Sec. A.12).

    Args:
        table: of :func:`search`.
        settings: of the profile.
        equation: a name in :data:`EQUATIONS`.
        method: one of :data:`METHODS`.
        flag: "chosen" or "printed".
        changes: whatever of :class:`Case` differs.
    """
    row = table[(table.equation == equation) & table[flag]].iloc[0]
    weights = (float(row.residual), 1.0, 1.0, 1.0)
    choice = dict(omega=float(row.omega), learning_rate=float(row.learning_rate), weights=weights)
    return case(settings, equation, method, **{**choice, **changes})
