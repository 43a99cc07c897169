"""What the preconditioners cost as the grid grows: operations counted, time measured (Table 1, Remark 4, Sec. A.1.1)."""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from scipy import stats
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from seplib import metrics, ntk
from seplib.baselines import IGA, MSK, as_points
from seplib.factors import FactorMLP
from seplib.preconditioning import SepPGD, modulate
from seplib.reproduce.criteria import Comparison, at_least, at_most, below
from seplib.reproduce.plotting import COLOURS, legend, panels
from seplib.reproduce.recipes import choices
from seplib.reproduce.store import stored
from seplib.separable import CP, MLP
from seplib.studies.seppgd.settings import ComplexitySettings

METHODS = ("GD", "MSK", "IGA", "SepPGD")


def _eigh_operations(shape: Sequence[int], *_, **__) -> int:
    """Symmetric eigendecomposition with vectors: about 9 n^3 operations (Golub and Van Loan, Sec. 8.3)."""
    return int(9 * np.prod(shape[:-2], dtype=np.int64) * shape[-1] ** 3)


def operations(call: Callable[[], object]) -> int:
    """Operations of a call: those of its matrix products and eigendecompositions, none of elementwise ones (Table 1).

    >>> operations(lambda: torch.ones(2, 3) @ torch.ones(3, 4))
    48
    """
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten._linalg_eigh: _eigh_operations}) as counter:
        call()
    return counter.get_total_flops()


def seconds(call: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Least time of several calls (Sec. A.1.1)."""
    return min([metrics.seconds(call, device) for _ in range(repeats + 1)][1:])


@contextmanager
def queries(model: torch.nn.Module):
    """Count the inputs that a model's networks are asked for, within a ``with`` block (Sec. A.1.1).

    >>> model = CP([FactorMLP(2, width=3, depth=2) for _ in range(2)])
    >>> with queries(model) as count:
    ...     _ = model.grid([torch.zeros(5), torch.zeros(7)])
    >>> sum(count)
    12
    """
    networks, count = list(model.factors) if isinstance(model, CP) else [model], []
    for network in networks:
        original = network.apply_layers
        network.apply_layers = lambda h, original=original: count.append(h.shape[-2]) or original(h)
    try:
        yield count
    finally:
        for network in networks:
            del network.apply_layers


def measure(settings: ComplexitySettings, seed: int, device: torch.device) -> pd.DataFrame:
    """Cost of every part of every method on n^D grids (Table 1).

    Parts: "construction" of the preconditioner; "application" to the residual; "networks", forward and backward through the
    factor networks; "step", a whole gradient. MSK and IGA decompose their kernels in full, as Table 1 counts them. "epoch", a
    gradient of a CP network and of an MLP, is measured on larger grids, where fixed costs no longer hide the network's.

    Returns:
        One row for each D, n, method and part, with operations and seconds; and ``bytes`` of the kernels decomposed. Stored.
    """
    return _measure(choices(settings), seed, device)


@stored("costs", tolerance=1e-9)  # of operations, queries and bytes; of seconds nothing is expected
def _measure(settings: dict, seed: int, device: torch.device) -> pd.DataFrame:
    settings, rows = ComplexitySettings(**settings), []
    for dims, n in ((dims, n) for dims, sizes in _by_dimension(settings.sizes) for n in sizes):
        model, _, axes, residual, generator = _problem(dims, n, settings, seed, device)
        for method in METHODS:
            for part, call, held in _parts(method, model, axes, residual, settings, generator):
                rows.append(_row(dims, n, method, part, call, settings, device) | {"bytes": held})
    for dims, n in ((dims, n) for dims, sizes in _by_dimension(settings.epoch_sizes) for n in sizes):
        model, mlp, axes, residual, _ = _problem(dims, n, settings, seed, device)
        for name, network in (("SepNN", model), ("MLP", mlp)):
            with queries(network) as count:
                epoch = functools.partial(_epoch, network, axes, residual)
                row = _row(dims, n, name, "epoch", epoch, settings, device)
            # the calls of the count and of the clock, repeats + 2 in all, ask alike
            rows.append(row | {"bytes": 0, "queries": sum(count) // (settings.repeats + 2)})
    return pd.DataFrame(rows)


def _by_dimension(sizes: Mapping[int, Sequence[int]]) -> list[tuple[int, Sequence[int]]]:
    """Pairs of D and n's; a stored run's description has text for keys."""
    return [(int(dims), own) for dims, own in sizes.items()]


def _problem(dims: int, n: int, settings: ComplexitySettings, seed: int, device: torch.device):
    generator = torch.Generator().manual_seed(seed)
    common = dict(width=settings.width, depth=3, generator=generator, device=device)
    model = CP([FactorMLP(settings.rank, **common) for _ in range(dims)])
    axes = [torch.linspace(-1, 1, n, device=device)] * dims
    mlp = MLP(dims, **common)
    return model, mlp, axes, torch.randn(1, *[n] * dims, generator=generator).to(device), generator


def _epoch(network, axes, residual) -> None:
    network.grid(axes).backward(residual)


def _row(dims, n, method, part, call, settings, device) -> dict:
    return {
        "D": dims, "n": n, "method": method, "part": part,
        "operations": operations(call), "seconds": seconds(call, settings.repeats, device),
    }  # fmt: skip


def _parts(method, model: CP, axes: list[Tensor], residual: Tensor, settings: ComplexitySettings, generator):
    def networks() -> None:
        for factor, x in zip(model.factors, axes):
            output = factor(x)
            output.backward(torch.ones_like(output))

    if method == "GD":
        yield "networks", networks, 0
        yield "step", lambda: model.grid(axes).backward(residual), 0
        return
    N = residual.numel()
    if method == "SepPGD":
        ours = SepPGD(model, axes, settings.k)
        construct, held = ours.update, 4 * sum(len(x) ** 2 for x in axes)
        apply = lambda: ours(residual, 1)  # noqa: E731
    elif method == "MSK":
        msk = MSK(model, axes, settings.k, solver="full")
        construct, held, apply = msk.update, 4 * N * N, lambda: msk(residual, 1)
    else:
        iga = IGA(model, axes, settings.batches, settings.k, update_every=10**9, generator=generator)
        batch = iga.batches[0]
        construct = lambda: modulate(ntk.empirical(model, as_points(axes)[batch]), settings.k)  # noqa: E731
        held, apply = 4 * len(batch) ** 2, lambda: iga(residual, 0)
    yield "construction", construct, held
    construct()
    apply()
    yield "application", apply, held
    yield "step", lambda: model.grid(axes).backward(apply()), held


def exponents(frame: pd.DataFrame, cost: str = "operations") -> pd.DataFrame:
    """Slopes of log cost in log n with 95% intervals, by D, method and part (Table 1).

    Args:
        frame: of :func:`measure`.
        cost: "operations" or "seconds".
    """
    rows = []
    for (dims, method, part), group in frame.groupby(["D", "method", "part"], sort=False):
        if len(group) < 3 or (group[cost] <= 0).any():
            continue
        line = stats.linregress(np.log(group.n), np.log(group[cost]))
        half = stats.t.ppf(0.975, len(group) - 2) * line.stderr
        rows.append(
            {
                "D": dims,
                "method": method,
                "part": part,
                "exponent": line.slope,
                "low": line.slope - half,
                "high": line.slope + half,
            }
        )
    return pd.DataFrame(rows)


def preconditioner_cases(counted: pd.DataFrame) -> dict[str, Comparison]:
    """The cases of the claim ``table-1``: exponents of the counted operations, from :func:`exponents` (Table 1)."""
    slope, held = _by_part(counted), {}
    for D in sorted(set(counted.D)):
        ours, theirs = slope[D, "SepPGD", "construction"], slope[D, "MSK", "construction"]
        held[f"D = {D}: SepPGD's construction grows as n^3 at most"] = at_most(ours, 3.05, scale=1)
        held[f"D = {D}: MSK's construction grows faster, by n^D at least"] = at_least(theirs, ours + D, scale=1)
        for what, method, part, exponent in (
            ("MSK applies in n^D", "MSK", "application", D),
            ("IGA applies in n^D", "IGA", "application", D),
            ("SepPGD's networks take n", "GD", "networks", 1),
            ("SepPGD applies to the residual in n", "SepPGD", "application", 1),
        ):
            held[f"D = {D}: {what}"] = below(abs(slope[D, method, part] - exponent), 0.1, scale=1)
    return held


def query_cases(costs: pd.DataFrame, counted: pd.DataFrame) -> dict[str, Comparison]:
    """The cases of the claim ``a-1-1``: queries of an epoch, and how its operations grow (Sec. A.1.1)."""
    slope, held = _by_part(counted), {}
    for D, epochs in costs[costs.part == "epoch"].groupby("D"):
        asked = epochs.pivot(index="n", columns="method", values="queries")
        n = asked.index
        wrong = max((asked["SepNN"] - D * n).abs().max(), (asked["MLP"] - n**D).abs().max())
        held[f"D = {D}: n D queries, the MLP n^D"] = below(wrong, 0.5)  # counts: equal, or apart by one at least
        ours, theirs = slope[D, "SepNN", "epoch"], slope[D, "MLP", "epoch"]
        held[f"D = {D}: fewer operations an epoch, by a growing factor"] = below(ours, theirs - 0.5, scale=1)
    return held


def numbers(frame: pd.DataFrame, wanted: Sequence[tuple[str, str]], what: str = "") -> dict[str, float]:
    """Exponents of some (method, part) pairs from :func:`exponents`, by name, for the scorecard (Table 1)."""
    slope = _by_part(frame)
    pairs = itertools.product(wanted, sorted(set(frame.D)))
    return {f"{method}, {part}{what}, D = {D}: exponent": slope[D, method, part] for (method, part), D in pairs}


def _by_part(frame: pd.DataFrame) -> pd.Series:
    return frame.set_index(["D", "method", "part"]).exponent


def largest_grid(memory: float, dims: int, arrays: int = 3) -> int:
    """Largest n for which MSK's N x N kernel, N = n^D, fits into memory in float32 (Sec. A.12: "runs out of memory").

    Args:
        memory: in bytes.
        dims: D.
        arrays: N x N arrays held at once: the kernel, its eigenvectors and the solver's workspace.

    >>> largest_grid(11e9, 2)
    174
    """
    n = 1
    while 4 * arrays * (n + 1) ** (2 * dims) <= memory:
        n += 1
    return n


def memory_table(gigabytes: Sequence[float] = (11, 80)) -> pd.DataFrame:
    """Where MSK's kernel runs out of memory (Sec. A.12), for some memory sizes; 11 GB is the paper's RTX 2080 Ti."""
    return pd.DataFrame(
        {"memory in GB": size, "D": dims, "largest n": largest_grid(size * 1e9, dims)}
        for size, dims in itertools.product(gigabytes, (2, 3))
    )


def draw(frame: pd.DataFrame, cost: str = "operations") -> Figure:
    """Cost against n, construction and application of each method, D = 2 and 3 (Table 1)."""
    parts = ("construction", "application", "step")
    dims = sorted(frame.D.unique())
    figure, grid = panels(len(dims), len(parts), 0.4 + 2.5 * len(dims))
    for (row, D), (column, part) in itertools.product(enumerate(dims), enumerate(parts)):
        axes = grid[row, column]
        for method in METHODS:
            shown = frame[(frame.D == D) & (frame.part == part) & (frame.method == method)]
            if len(shown):
                colour = COLOURS["SepNN"] if method == "GD" else COLOURS[method]
                axes.loglog(shown.n, shown[cost], "o-", markersize=3, color=colour, label=method)
        sizes = sorted(frame[(frame.D == D) & (frame.part == part)].n.unique())
        axes.set(title=f"{part}, D = {D}", xlabel="n")
        axes.set_xticks(sizes, map(str, sizes))
        axes.set_xticks([], minor=True)
    for axes in grid[:, 0]:
        axes.set_ylabel(cost)
    legend(figure)
    return figure
