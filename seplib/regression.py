"""The kernel ridge regression experiment on grids (Sec. A.12, Figs. 2(a) and 5)."""

from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from torch import Tensor

from seplib import clock
from seplib.factors import FactorMLP
from seplib.kernel_pgd import MSK, as_points
from seplib.preconditioning import SepPGD
from seplib.profiles.preconditioning import RidgeSettings
from seplib.recipes import choices
from seplib.ridge import Linearised
from seplib.separable import CP, MLP
from seplib.store import stored
from seplib.targets import f1, f2, f3
from seplib.training import State, fit

FUNCTIONS = {"f1": f1, "f2": f2, "f3": f3}
CASES = (*FUNCTIONS, *(f"{name}, noisy" for name in FUNCTIONS))
KRR_METHODS = ("MLP", "MLP (MSK)", "SepNN", "SepNN (MSK)", "SepNN (SepPGD)")


@dataclass(frozen=True)
class RidgeData:
    """Training and test grid with random coordinates, the same for all six cases (Sec. A.12).

    Attributes:
        axes, test_axes: two sorted tensors ``(n,)``, uniform on [-1, 1].
        target: ``(6, n, n)``, the cases of :data:`CASES`; test_target: ``(6, n, n)``, without noise.
    """

    axes: list[Tensor]
    test_axes: list[Tensor]
    target: Tensor
    test_target: Tensor


@dataclass(frozen=True)
class RidgeRun:
    """One method's descent on the six cases of a seed (Figs. 2(a) and 5).

    Attributes:
        iterations: ``(T,)`` at which the errors were measured.
        test: ``(T, 6)`` test MSE; train: ``(T, 6)`` training MSE.
        step, construction: seconds of one iteration on one case and of one preconditioner, by :func:`ridge_clock`.
    """

    iterations: np.ndarray
    test: np.ndarray
    train: np.ndarray
    step: float = 0.0
    construction: float = 0.0

    def seconds(self, update_every: int | None = None) -> np.ndarray:
        """Time at each measurement, the preconditioner computed once or, as Sec. A.12 has it, every so many iterations.

        In kernel ridge regression both give the same iterates, since the kernel is that of the initial weights.
        """
        updates = 1 if update_every is None else np.maximum(1, -(-self.iterations // update_every))
        return self.iterations * self.step + updates * self.construction


def ridge_data(settings: RidgeSettings, seed: int, device: torch.device, dtype: torch.dtype | None = None) -> RidgeData:
    """Draw the data of one seed (Sec. A.12): ``points x points`` grids in [-1, 1]^2, noise on the training values."""
    generator = torch.Generator().manual_seed(1000 + seed)

    def axis() -> Tensor:
        return 2 * torch.rand(settings.points, generator=generator, dtype=torch.float64).sort().values - 1

    axes, test_axes = [axis(), axis()], [axis(), axis()]
    values, test = (
        torch.stack([f(*torch.meshgrid(*grid, indexing="ij")) for f in FUNCTIONS.values()])
        for grid in (axes, test_axes)
    )
    noisy = values + settings.noise * torch.randn(values.shape, generator=generator, dtype=torch.float64)
    move = dict(device=device, dtype=dtype or torch.float32)
    return RidgeData(
        [x.to(**move) for x in axes],
        [x.to(**move) for x in test_axes],
        torch.cat([values, noisy]).to(**move),
        torch.cat([test, test]).to(**move),
    )


def ridge_network(
    method: str, settings: RidgeSettings, seed: int, device: torch.device, dtype: torch.dtype = torch.float32
) -> CP | MLP:
    """The ReLU network whose gradient at initialisation is the feature map of Eq. (15) (Sec. A.12).

    Raises:
        ValueError: an unknown method.
    """
    if method not in KRR_METHODS:
        raise ValueError(f"method must be one of {', '.join(KRR_METHODS)}, got {method!r}")
    common = dict(
        width=settings.width, depth=settings.depth, activation="relu", parametrization="torch",
        generator=torch.Generator().manual_seed(seed), device=device, dtype=dtype,
    )  # fmt: skip
    if method.startswith("MLP"):
        return MLP(2, **common)
    return CP([FactorMLP(settings.rank, **common) for _ in range(2)])


def ridge_run(method: str, settings: RidgeSettings, seed: int, device: torch.device) -> RidgeRun:
    """Kernel ridge regression by Adam with weight decay, Eq. (15), on the six cases at once (Figs. 2(a) and 5).

    The six cases share network and grid, so their coefficients train side by side along the ensemble axis. Time is not taken
    here but by :func:`ridge_clock`, one case alone, since six at once would blur what a step costs.

    Raises:
        ValueError: an unknown method.
    """
    return _train_ridge(method=method, settings=choices(settings, ("seeds", "timed")), seed=seed, device=device)


@stored("ridge", tolerance=1e-3, dump=asdict, load=lambda found: RidgeRun(**found))
def _train_ridge(*, method: str, settings: dict, seed: int, device: torch.device) -> RidgeRun:
    settings = RidgeSettings(**settings, seeds=1, timed=1)
    data, network = ridge_data(settings, seed, device), ridge_network(method, settings, seed, device)
    separable = isinstance(network, CP)
    inputs, test_inputs, target, test_target = _inputs(data, network)
    preconditioner = _preconditioner(method, network, inputs, settings)
    iterations = settings.iterations if separable else settings.mlp_iterations
    seen: list[tuple[int, list[float], list[float]]] = []
    linear = Linearised(network, copies=len(target))

    def measure(state: State) -> None:
        if state.iteration % settings.every == 0 or state.iteration == iterations:
            with torch.no_grad():
                values = linear.grid(test_inputs) if separable else linear.points(test_inputs)
            test = (values - test_target).flatten(1).square().mean(1)
            seen.append((state.iteration, test.tolist(), state.residual.flatten(1).square().mean(1).tolist()))

    fit(linear, inputs, target, _adam(linear, settings), preconditioner, iterations, [measure])
    steps, test, train = (np.array(column) for column in zip(*seen))
    return RidgeRun(steps, test, train)


def _inputs(data: RidgeData, network: CP | MLP):
    """Training inputs, test inputs, training values and test values in the form that the network takes best."""
    if isinstance(network, CP):
        return data.axes, data.test_axes, data.target, data.test_target
    return as_points(data.axes), as_points(data.test_axes), data.target.flatten(1), data.test_target.flatten(1)


def _preconditioner(method: str, network: CP | MLP, inputs, settings: RidgeSettings) -> MSK | SepPGD | None:
    once = 10**9  # the kernel stays that of the initial weights
    if method.endswith("(MSK)"):
        return MSK(network, inputs, settings.k_msk, once)
    return SepPGD(network, inputs, settings.k_seppgd, once) if method.endswith("(SepPGD)") else None


def ridge_clock(settings: RidgeSettings, seed: int, device: torch.device) -> dict[str, tuple[float, float]]:
    """Seconds of one iteration and of one preconditioner, for one case alone (Figs. 2(a) and 5).

    The methods take turns, a few iterations each, so that what else runs on the machine slows all of them; the least time of
    each counts.

    Returns:
        Method to (step, construction).
    """
    return _time_ridge(settings=choices(settings, ("seeds",)), seed=seed, device=device)


@stored("ridge clock", tolerance=None, load=lambda found: {method: tuple(pair) for method, pair in found.items()})
def _time_ridge(*, settings: dict, seed: int, device: torch.device) -> dict[str, tuple[float, float]]:
    settings = RidgeSettings(**settings, seeds=1)
    data, runs = ridge_data(settings, seed, device), {}
    for method in KRR_METHODS:
        network = ridge_network(method, settings, seed, device)
        inputs, _, target, _ = _inputs(data, network)
        linear = Linearised(network)
        preconditioner = _preconditioner(method, network, inputs, settings)
        runs[method] = (linear, inputs, target[:1], _adam(linear, settings), preconditioner)
    steps = dict.fromkeys(KRR_METHODS, np.inf)
    constructions = {method: 0.0 if run[4] is None else np.inf for method, run in runs.items()}
    for _ in range(settings.timed):
        for method, run in runs.items():
            history = fit(*run, iterations=6)
            steps[method] = min(steps[method], *np.diff(history.seconds[1:]))
            if run[4] is not None:
                constructions[method] = min(constructions[method], clock.seconds(run[4].update, device))
    return {method: (float(steps[method]), float(constructions[method])) for method in KRR_METHODS}


def _adam(model: torch.nn.Module, settings: RidgeSettings) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), settings.learning_rate, weight_decay=settings.weight_decay, fused=True)


def ridge_study(settings: RidgeSettings, seed: int, device: torch.device) -> dict[str, list[RidgeRun]]:
    """All methods and seeds (Figs. 2(a) and 5): method to one run a seed."""
    seeds, clock = range(seed, seed + settings.seeds), ridge_clock(settings, seed, device)
    return {
        method: [
            replace(ridge_run(method, settings, s, device), step=clock[method][0], construction=clock[method][1])
            for s in seeds
        ]
        for method in KRR_METHODS
    }
