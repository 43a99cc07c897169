"""Experiments on training in function space and on spectra (Theorem 3, Eq. (5), Fig. 1(c), (d))."""

import math

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from seplib import dynamics, limits, ntk
from seplib.reproduce.store import stored
from seplib.separable import MLP
from seplib.studies.ntk.exactness import network, square, stack
from seplib.studies.ntk.settings import NtkTrainingSettings


def drifts(settings: NtkTrainingSettings, seed: int, device: torch.device) -> dict[str, np.ndarray]:
    """Training for a fixed time at W = R: what changes and what moves, each ``(seeds, sizes)`` (Theorem 3, Fig. 1(c)).

    Keys: "drift" of the kernel, "loss" left over from the initial one, "moved" and its "bound".
    """
    common = dict(side=settings.side, activation=settings.activation, step=settings.step, seed=seed)
    common |= dict(iterations=settings.iterations, seeds=settings.seeds, device=device)
    columns = [_drift(size=size, **common) for size in settings.sizes]
    return {name: np.stack([column[name] for column in columns], 1) for name in columns[0]}


def smooth_target(axes: list[Tensor]) -> Tensor:
    """Target of Fig. 1(c)'s training, ``sin(pi x_1) cos(pi x_2)``; the paper names none."""
    return torch.sin(math.pi * axes[0])[:, None] * torch.cos(math.pi * axes[1])


@stored("kernel drift", tolerance=1e-5)
def _drift(*, size, side, activation, step, iterations, seeds, seed, device) -> dict[str, np.ndarray]:
    axes, X = square(side, device)
    shape = dict(activation=activation, dtype=X.dtype, device=device)
    model = stack([network(size, size, seed=one, **shape) for one in range(seed, seed + seeds)])
    before = ntk.empirical(model, X)
    run = dynamics.descend(model, axes, smooth_target(axes), step, iterations)
    loss = run.residuals[[0, -1]].square().sum(2)
    drift = dynamics.drift(before, ntk.empirical(model, X))
    found = {"drift": drift, "loss": loss[1] / loss[0], "moved": run.moved, "bound": run.bound()}
    return {name: values.cpu().numpy() for name, values in found.items()}


def decay(settings: NtkTrainingSettings, seed: int, device: torch.device) -> list[dynamics.ModeDecay]:
    """Decay of the top modes of a wide network's residual, one entry a seed (Eq. (5)).

    The target is the network's own initial output plus its top eigenvectors with one amplitude and random signs, so that
    each of them can be seen fall; their root mean square is ``settings.amplitude``.
    """
    common = dict(side=settings.decay_side, activation=settings.decay_activation, omega=settings.decay_omega)
    common |= dict(size=settings.decay_size, modes=settings.modes, amplitude=settings.amplitude)
    common |= dict(fraction=settings.decay_step, device=device)
    runs = [_decay(seed=one, **common) for one in range(seed, seed + settings.decay_seeds)]
    return [dynamics.ModeDecay(*(torch.from_numpy(array) for array in run)) for run in runs]


@stored("mode decay", tolerance=1e-2, load=tuple)
def _decay(*, side, activation, omega, size, modes, amplitude, fraction, seed, device) -> tuple[np.ndarray, ...]:
    axes, X = (part for part in square(side, device))
    shape = dict(activation=activation, omega=omega, seed=seed, device=device)
    model = network(size, size, dtype=torch.float32, **shape)
    K = ntk.empirical(model, X.float()).double()
    values, vectors = torch.linalg.eigh(K)
    signs = torch.randint(2, (modes,), generator=torch.Generator().manual_seed(seed)).to(device) * 2.0 - 1
    start = amplitude * math.sqrt(len(X) / modes) * vectors[0, :, -modes:] @ signs.double()
    axes = [x.float() for x in axes]
    with torch.no_grad():
        target = model.grid(axes) + start.reshape(1, side, side).float()
    step = fraction / values[0, -1].item()
    iterations = math.ceil(math.log(10) / (step * values[0, -modes].item())) + 1
    run = dynamics.descend(model, axes, target, step, iterations)
    result = dynamics.mode_decay(K, run.times.double(), run.residuals.double(), modes)
    return tuple(part.cpu().numpy() for part in (result.rates, result.times, result.measured, result.predicted))


def spectra(settings: NtkTrainingSettings, seed: int, device: torch.device) -> dict[str, np.ndarray]:
    """Spectra of initial NTKs over seeds, ``(seeds, N)`` in descending order (Fig. 1(d)).

    Keys: "SepNN" with the activation of Fig. 1, "MLP" of the same width, and SepNNs with other activations. The limit's
    spectrum is "limit", ``(1, N)``.
    """
    _, X = square(settings.side, device)
    size, seeds = settings.spectrum_size, range(seed, seed + settings.seeds)
    shape = dict(activation=settings.activation, dtype=X.dtype, device=device)
    plain = dict(width=size, depth=2, parametrization="ntk", **shape)
    models = {
        "SepNN": [network(size, size, seed=one, **shape) for one in seeds],
        "MLP": [MLP(2, generator=torch.Generator().manual_seed(one), **plain) for one in seeds],
    }
    for activation, omega in settings.others:
        label = f"{activation}, omega = {omega:g}" if activation in ("sine", "cos") else activation
        other = shape | dict(activation=activation, omega=omega)
        models[label] = [network(size, size, seed=one, **other) for one in seeds]
    found = {name: ntk.empirical(stack(some), X) for name, some in models.items()}
    found["limit"] = limits.deterministic(settings.activation, X)[None]
    return {name: torch.linalg.eigvalsh(K).flip(-1).cpu().numpy() for name, K in found.items()}


def spectrum_table(spectra: dict[str, np.ndarray]) -> pd.DataFrame:
    """Ratios and effective ranks of spectra, with their range over seeds (Fig. 1(d))."""
    rows = []
    for name, values in spectra.items():
        ratio = values[:, 0] / np.median(values, 1)
        rank = dynamics.effective_rank(torch.from_numpy(values)).numpy()
        rows.append(
            {
                "network": name,
                "largest / median": ratio.mean(),
                "smallest ratio": ratio.min(),
                "largest ratio": ratio.max(),
                "effective rank": rank.mean(),
            }
        )
    return pd.DataFrame(rows)
