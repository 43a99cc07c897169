"""Functions to approximate, and what the approximation notebooks tabulate about them (Theorem 1, Sec. A.1.2)."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.linalg
import torch
from torch import Tensor

from seplib import activations, approximation, metrics
from seplib.activations import Activation
from seplib.approximation import Certificate, compression, expansions, interpolation, univariate
from seplib.approximation.expansions import FORMS, Interval, Model
from seplib.factors import FactorMLP
from seplib.reproduce.criteria import Comparison, above, all_of, at_most, below
from seplib.reproduce.recipes import choices
from seplib.reproduce.store import stored
from seplib.separable import CP, MLP
from seplib.studies.approximation.settings import RateSettings
from seplib.training import fit


@dataclass(frozen=True)
class Function:
    """A continuous function on the box [-1, 1]^D, a target of Theorem 1.

    Attributes:
        name: its key in :data:`FUNCTIONS`.
        dims: D.
        formula: in TeX.
        analytic: whether it is analytic on the box.
        f: of D tensors, vectorised.
    """

    name: str
    dims: int
    formula: str
    analytic: bool
    f: Callable[..., Tensor]

    @property
    def domain(self) -> list[Interval]:
        """The box (Theorem 1)."""
        return [(-1.0, 1.0)] * self.dims


def _sum(*x: Tensor) -> Tensor:
    return sum(torch.sin((d + 1) * t) for d, t in enumerate(x))


FUNCTIONS = {
    function.name: function
    for function in (
        Function("cosine", 2, r"\cos(3xy)", True, lambda x, y: torch.cos(3 * x * y)),
        Function("wave", 2, r"\sin(10(x+y^2))", True, lambda x, y: torch.sin(10 * (x + y * y))),
        Function("front", 2, r"(\tanh(9-9x-9y)+1)/9", True, lambda x, y: (torch.tanh(9 - 9 * x - 9 * y) + 1) / 9),
        Function(
            "crease", 2, r"|x-\tfrac14|\sin 2y+e^{xy}", False,
            lambda x, y: (x - 0.25).abs() * torch.sin(2 * y) + torch.exp(x * y),
        ),
        Function("cone", 2, r"\sqrt{x^2+y^2}", False, torch.hypot),
        Function("bump-3", 3, r"1/(1+x^2+y^2+z^2)", True, lambda x, y, z: 1 / (1 + x * x + y * y + z * z)),
        Function("ridge-3", 3, r"\tanh(x+y+z)", True, lambda x, y, z: torch.tanh(x + y + z)),
        Function(
            "creases-3", 3, r"|x-\tfrac13|\,y+z\,|y+\tfrac14|", False,
            lambda x, y, z: (x - 1 / 3).abs() * y + z * (y + 0.25).abs(),
        ),
        Function("ridge-4", 4, r"\exp(-\tfrac14(\sum x_d)^2)", True, lambda *x: torch.exp(-(sum(x) ** 2) / 4)),
        Function("wave-4", 4, r"\cos(\pi\sum x_d)", True, lambda *x: torch.cos(torch.pi * sum(x))),
        Function("sum-6", 6, r"\sum_d\sin(d\,x_d)", True, _sum),
    )
}  # fmt: skip


def survey(
    names: Sequence[str],
    eps: Sequence[float],
    eps_analytic: Sequence[float],
    seed: int,
    device: torch.device | str = "cpu",
) -> list[tuple]:
    """Approximate every function in every form at every accuracy (Theorem 1).

    Args:
        names: keys of :data:`FUNCTIONS`.
        eps: accuracies for all of them.
        eps_analytic: further accuracies for the analytic ones.
        seed: of the random points.
        device: see :func:`seplib.approximation.construct.approximate`.

    Returns:
        (name, :class:`seplib.approximation.construct.Certificate`) pairs.
    """
    found = []
    for name, form in itertools.product(names, FORMS):
        function = FUNCTIONS[name]
        for accuracy in (*eps, *(eps_analytic if function.analytic else ())):
            _, certificate = approximation.approximate(
                function.f, function.domain, accuracy, form, seed=seed, device=device
            )
            found.append((name, certificate))
    return found


def closure_table(pair: Sequence[str], eps: float, device: torch.device | str = "cpu") -> pd.DataFrame:
    """Ranks of two expansions, their sum and product in every form, and the two's largest error (Theorem 1, Sec. A.5)."""
    f, rows = [FUNCTIONS[name] for name in pair], []
    X = interpolation.random_points(f[0].domain, 1000, torch.Generator().manual_seed(0)).to(device)
    for form in FORMS:
        g, h = (interpolation.expand(part.f, part.domain, eps, form) for part in f)
        models = {"g": g, "h": h, "g + h": expansions.add(g, h), "g h": expansions.multiply(g, h)}
        G, H, total, product = (model.to(device).points(X).detach() for model in models.values())
        error = torch.maximum((total - G - H).abs(), (product - G * H).abs()).max().item()
        shown = {name: " ".join(map(str, expansions.ranks(model))) for name, model in models.items()}
        rows.append({"form": form, **shown, "largest error": error})
    return pd.DataFrame(rows)


def certificates_table(found: Sequence[tuple[str, Certificate]]) -> pd.DataFrame:
    """Certificates as a table, one row each (Theorem 1)."""
    rows = []
    for name, c in found:
        rows.append(
            {
                "function": name, "D": len(c.degrees), "form": c.form, "eps": c.eps, "ranks": " ".join(map(str, c.ranks)),
                "degree": max(c.degrees), "width": c.width, "parameters": c.parameters, "M": c.M, "delta": c.delta,
                "expansion error": c.expansion_error, "gap": c.gap, "sharp": c.sharp, "bound": c.bound,
                "error on the grid": c.error_grid, "error at random points": c.error_random, "error": c.error,
                "below eps": c.error < c.eps, "bound holds": c.bound_holds, "closed": c.closed,
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


@stored("certificates", tolerance=1e-2)
def certificates(
    names: Sequence[str], eps: Sequence[float], eps_analytic: Sequence[float], seed: int, device: torch.device
) -> pd.DataFrame:
    """:func:`certificates_table` of a :func:`survey` (Theorem 1). Stored."""
    return certificates_table(survey(names, eps, eps_analytic, seed, device))


def certificate_cases(table: pd.DataFrame, form: str) -> dict[str, Comparison]:
    """The cases of a claim ``thm-1-*``: error below eps and the bound kept, by function and eps (Theorem 1)."""
    rows = table[table.form == form]
    return {
        f"{row.function}, eps {row.eps:g}": all_of(
            below(row.error, row.eps), at_most(row.gap, row.bound + approximation.ROUNDING)
        )
        for row in rows.itertuples()
    }


def certificate_checks(table: pd.DataFrame, where: str) -> dict[str, Comparison]:
    """What all certificates of a table have in common: error below eps, the bound kept, the proof closed (Theorem 1).

    Args:
        table: of :func:`certificates_table`.
        where: what the table covers, for the names.
    """
    most = {
        "error below eps": table.error / table.eps,
        "expansion error + bound below eps": (table["expansion error"] + table.bound) / table.eps,
    }
    checks = {f"{name}, {where}": below(ratio.max(), 1) for name, ratio in most.items()}
    return checks | {f"bound holds, {where}": at_most((table.gap / (table.bound + approximation.ROUNDING)).max(), 1)}


def width_curve(
    g: Model, activation: str | Activation, widths: Sequence[int], device: torch.device | str = "cpu"
) -> pd.DataFrame:
    """Largest factor error delta over the width, the second step of Theorem 1, with the slope of its last octave.

    Args:
        g: expansion, from :func:`seplib.approximation.interpolation.expand`.
        activation: name or object.
        widths: ascending, each twice the one before.
        device: where the errors are measured.

    Returns:
        Columns ``activation``, ``width``, ``delta``, ``slope``: of log delta in log width from the width before to this one.
    """
    networks = (univariate.fit_factors(g, activation, width).to(device) for width in widths)
    errors = [approximation.factor_errors(g, network)[1] for network in networks]
    slopes = np.diff(np.log(errors), prepend=np.nan) / np.diff(np.log(widths), prepend=np.nan)
    name = activations.get(activation).name
    return pd.DataFrame({"activation": name, "width": widths, "delta": errors, "slope": slopes})


@stored("activation widths", tolerance=1e-2)
def activation_study(
    eps: float,
    widths: Sequence[int],
    polynomial_widths: Sequence[int],
    degrees=(2, 3, 5),
    device: torch.device | str = "cpu",
) -> pd.DataFrame:
    """Curves of :func:`width_curve` on the function "cosine" for every activation and some powers (Theorem 1). Stored.

    Args:
        eps: accuracy of the CP expansion whose factors are fitted.
        widths: for :data:`seplib.activations.NAMES`.
        polynomial_widths: for z^p.
        degrees: values of p.
        device: where the errors are measured.
    """
    target = FUNCTIONS["cosine"]
    g = interpolation.expand(target.f, target.domain, eps, "CP")
    curves = [width_curve(g, name, widths, device) for name in activations.NAMES]
    curves += [width_curve(g, power(p), polynomial_widths, device) for p in degrees]
    return pd.concat(curves, ignore_index=True)


def activation_cases(curves: pd.DataFrame, floor: float = 1e-10) -> dict[str, Comparison]:
    """The cases of the claim ``thm-1-activation``: a power stalls over the last octave, the others fall (Theorem 1).

    Args:
        curves: from :func:`activation_study`.
        floor: below it a curve has arrived at float64's rounding; its last octave is the last one that starts above.
    """
    cases = {}
    for name, curve in curves.groupby("activation", sort=False):
        slope = curve.slope[curve.delta.shift() > floor].iloc[-1]
        what, compare = ("stalls", above) if name.startswith("z^") else ("falls", at_most)
        cases[f"{name}: {what}"] = compare(slope, -0.05, scale=1)
    return cases


def power(degree: int) -> Activation:
    """The polynomial activation z^p, which Theorem 1 excludes and with which it fails.

    >>> power(3).slope(torch.tensor([2.0]))
    tensor([12.])
    """
    return Activation(
        f"z^{degree}",
        *(lambda z, j=j: math.perm(degree, j) * z ** max(degree - j, 0) for j in range(4)),
    )


def rank_curve(function: Function, form: str, ranks: Sequence[int], tolerance: float = 1e-12) -> pd.DataFrame:
    """Sup error of the best expansions found with all ranks cut at R (Sec. A.1.2).

    Args:
        function: the target.
        form: "CP", "TT" or "Tucker".
        ranks: values of R.
        tolerance: of the expansion that is cut.

    Returns:
        Columns ``form``, ``R``, ``error``, ``outputs`` (of all factors together).
    """
    centre = torch.zeros(1, function.dims, dtype=torch.float64)
    full = interpolation.interpolate(function.f, function.domain, tolerance, anchors=centre)
    check = interpolation.Check(function.f, function.domain, seed=0)
    rows = []
    for rank in ranks:
        g = compression.compress(full, form, 0.0, max_rank=rank)
        rows.append({"form": form, "R": rank, "error": check.error(g)[0], "outputs": sum(c.rank for c in g.factors)})
    return pd.DataFrame(rows)


def form_curves(name: str, ranks: Sequence[int]) -> pd.DataFrame:
    """:func:`rank_curve` for the three forms one below the other (Eqs. (2) and (3))."""
    return pd.concat([rank_curve(FUNCTIONS[name], form, ranks) for form in FORMS], ignore_index=True)


def ridge_network(
    function: Function, width: int, activation: str = "tanh", seed: int = 0, device: torch.device | str = "cpu"
) -> tuple[MLP, float]:
    """A two-layer MLP without separable structure, fitted the same way, to compare parameter counts with (Theorem 1).

    Random directions and offsets, output weights by least squares at random points, eight for each neuron.

    Args:
        function: the target.
        width: W.
        activation: name.
        seed: of directions and points.
        device: where its error is measured.

    Returns:
        The network, ``W (D + 2)`` parameters (an output bias that stays zero left out), and its largest error at random
        points.
    """
    generator = torch.Generator().manual_seed(seed)
    sigma = activations.get(activation)
    D, f = function.dims, interpolation.evaluator(function.f, function.domain)
    directions = torch.randn(width, D, generator=generator, dtype=torch.float64)
    directions *= 2.0 / directions.norm(dim=1, keepdim=True)
    offsets = 2.0 * D**0.5 * (2 * torch.rand(width, generator=generator, dtype=torch.float64) - 1)
    X = interpolation.random_points(function.domain, 8 * width, generator)
    # Corners and faces are rare among random points of a box: half of the points are pushed outwards.
    X[::2] = torch.sin(X[::2] * torch.pi / 2)
    features = sigma.value(X @ directions.T + offsets)
    weights = scipy.linalg.lstsq(features.numpy(), f(X).numpy(), cond=1e-15, lapack_driver="gelsy")[0]
    model = MLP(D, width=width, depth=2, activation=activation, parametrization="torch", dtype=torch.float64)
    with torch.no_grad():
        model.weights[0][0], model.biases[0][0] = directions, offsets
        model.weights[1][0, 0], model.biases[1][0] = torch.from_numpy(weights), 0.0
        model, X = model.to(device), interpolation.random_points(function.domain, 20_000, generator).to(device)
        return model, (model.points(X)[0] - f(X)).abs().max().item()


@stored("ridge networks", tolerance=1e-2)
def parameter_table(
    names: Sequence[str], widths: Sequence[int], seed: int, device: torch.device | str = "cpu"
) -> pd.DataFrame:
    """Errors and parameter counts of :func:`ridge_network` for several functions and widths (Theorem 1). Stored."""
    rows = []
    for name, width in itertools.product(names, widths):
        _, error = ridge_network(FUNCTIONS[name], width, seed=seed, device=device)
        rows.append(
            {"function": name, "width": width, "parameters": width * (FUNCTIONS[name].dims + 2), "error": error}
        )
    return pd.DataFrame(rows)


def trained_curve(name: str, settings: RateSettings, seed: int, device: torch.device) -> pd.DataFrame:
    """Trained CP networks beside the best approximation of their rank, on a grid (Sec. A.1.2; Eckart and Young).

    SIREN factors of width 64 and three layers (w_0 = 5), Adam with a step that falls from 3e-3 by the cosine rule; the
    seeds are the ensemble axis and train at once.

    Args:
        name: key of :data:`FUNCTIONS`, D = 2.
        settings: of the profile.
        seed: of the initial weights.
        device: where to compute.

    Returns:
        Columns ``R``, ``seed``, ``error`` (relative, Euclidean), ``floor``. Stored.
    """
    return _train_ranks(name, choices(settings, ("ranks",)), seed, device)


@stored("trained ranks", tolerance=0.05)
def _train_ranks(name: str, settings: dict, seed: int, device: torch.device) -> pd.DataFrame:
    settings, function, rows = RateSettings(**settings, ranks=()), FUNCTIONS[name], []
    axes = [torch.linspace(-1, 1, settings.size, device=device)] * 2
    target = function.f(*torch.meshgrid(*axes, indexing="ij")).expand(settings.seeds, -1, -1)
    for rank in settings.trained_ranks:
        generator = torch.Generator().manual_seed(seed)
        network = dict(width=64, depth=3, omega=5.0, ensemble=settings.seeds, generator=generator, device=device)
        model = CP([FactorMLP(rank, **network) for _ in range(2)])
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.iterations)
        fit(
            model, axes, target, optimizer, iterations=settings.iterations,
            callbacks=[lambda state, step=schedule.step: step() if state.iteration else None],
        )  # fmt: skip
        with torch.no_grad():
            errors = (model.grid(axes) - target).flatten(1).norm(dim=1) / target.flatten(1).norm(dim=1)
        floor = metrics.eckart_young(target[:1], rank)
        rows += [{"R": rank, "seed": seed + i, "error": e, "floor": floor} for i, e in enumerate(errors.tolist())]
    return pd.DataFrame(rows)
