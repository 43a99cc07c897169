"""What a training run is made of: network, axes, optimizer, preconditioner (Sec. A.12)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from seplib.baselines import MSK
from seplib.factors import FactorMLP, FourierFeatures
from seplib.preconditioning import SepPGD
from seplib.separable import CP, MLP
from seplib.studies.images.settings import ImageSettings
from seplib.studies.surface.settings import SurfaceSettings

METHODS = ("SepNN", "SepPGD")
SMALL_METHODS = ("MLP", "MLP (MSK)", "SepNN", "SepNN (MSK)", "SepPGD")  # all that small images allow
# What an image's network can be told beyond Sec. A.12, with what it is when nothing is said.
CHOICES = dict(
    activation="sine", parametrization="siren", scale="rank", low=-1.0, high=1.0, features=0, frequency=0.0, last=None,
    hidden=None, bias=True,
)  # fmt: skip
# Bound of a uniform initial law from a layer's inputs m and omega: SIREN's, PyTorch's, and the one of its first author's
# LRTFR, which treats every layer as SIREN's first.
LAWS: dict[str, Callable[[int, float], float]] = {
    "siren": lambda m, omega: (6 / m) ** 0.5 / omega,
    "torch": lambda m, omega: m**-0.5,
    "inverse": lambda m, omega: 1 / m,
}
DESCENT = dict(eps=1e-8, amsgrad=False, beta2=0.999, decay=0.0, restart=0)


def run_arguments(
    target: Tensor,
    method: str,
    settings: ImageSettings | SurfaceSettings,
    seed: int,
    device: torch.device,
    mask: Tensor | None = None,
    reference: Tensor | None = None,
) -> dict[str, Any]:
    """What determines a run of an image or a volume, as keyword arguments, and the device to make it on (Sec. A.12).

    Raises:
        ValueError: an unknown method.
    """
    if method not in SMALL_METHODS:
        raise ValueError(f"method must be one of {', '.join(SMALL_METHODS)}, got {method!r}")
    network = dict(rank=settings.rank, width=settings.width, depth=settings.depth, omega=settings.omega)
    if method.startswith("MLP"):
        del network["rank"]
    descent = dict(learning_rate=settings.learning_rate, iterations=settings.iterations)
    modulation = None if method in ("MLP", "SepNN") else dict(k=settings.k, update_every=settings.update_every)
    # A choice that Sec. A.12 does not vary enters where it differs from the default: a new one leaves stored runs valid.
    network |= {
        name: value for name, default in CHOICES.items() if (value := getattr(settings, name, default)) != default
    }
    descent |= {
        name: value for name, default in DESCENT.items() if (value := getattr(settings, name, default)) != default
    }
    if modulation and (g := getattr(settings, "g", "flat")) != "flat":
        modulation["g"] = g
    if method.endswith("(MSK)"):
        modulation["solver"] = "lanczos"  # only MSK is told
    run = dict(target=target, network=network, descent=descent, modulation=modulation, mask=mask, reference=reference)
    return {name: part for name, part in run.items() if part is not None} | dict(seed=seed, device=device)


def image_network(
    values: Tensor,
    seed: int,
    *,
    scale: str | None,
    low: float,
    high: float,
    features: int,
    frequency: float,
    last: str | None,
    hidden: str | None,
    **factor,
) -> tuple[CP | MLP, list[Tensor]]:
    """The CP network, or without a rank the MLP, and the axes that an image or a volume is fitted with, one copy a channel (Sec. A.12).

    Args:
        values: ``(C, n_1, ..., n_D)``; its dtype and device are theirs.
        seed: of the initial weights.
        scale: of :class:`seplib.CP`.
        low: where the axes begin.
        high: where they end.
        features: number of Fourier features, none if 0.
        frequency: their scale.
        last: initial law of the last layer, a name in :data:`LAWS`; None for the parametrization's.
        hidden: likewise, of the layers between the first and the last.
        factor: for :class:`seplib.FactorMLP` or :class:`seplib.MLP`.
    """
    place = dict(generator=torch.Generator().manual_seed(seed), dtype=values.dtype, device=values.device)
    axes = [torch.linspace(low, high, n, dtype=values.dtype, device=values.device) for n in values.shape[1:]]
    networks = []
    for _ in axes if "rank" in factor else ():
        encoding = FourierFeatures(features, frequency, **place) if features else None
        networks.append(FactorMLP(**factor, encoding=encoding, ensemble=len(values), **place))
    model = CP(networks, scale) if networks else MLP(len(axes), **factor, ensemble=len(values), **place)
    with torch.no_grad():
        for network in networks or [model]:
            _, *between, end = network.weights
            for law, weights in ((hidden, between), (last, [end])):
                for weight in weights if law else ():
                    m, omega = weight.shape[-1], factor["omega"]
                    weight.mul_(LAWS[law](m, omega) / LAWS[factor["parametrization"]](m, omega))
    return model, axes


def prepare(
    values: Tensor, network: dict, descent: dict, modulation: dict | None, seed: int
) -> tuple[CP | MLP, list[Tensor], torch.optim.Adam, SepPGD | MSK | None]:
    """Network, axes, optimizer and preconditioner of a run from its :func:`run_arguments` (Sec. A.12).

    Args:
        values: ``(E, n_1, ..., n_D)``.
        network: rank, width, depth, omega, and what differs from :data:`CHOICES`.
        descent: learning rate, and what differs from :data:`DESCENT`.
        modulation: of :class:`seplib.SepPGD` or, where it names a solver, :class:`seplib.MSK`; None for plain descent.
        seed: of the initial weights.
    """
    model, axes = image_network(values, seed, **CHOICES | network)
    descent = DESCENT | descent
    adam = dict(betas=(0.9, descent["beta2"]), eps=descent["eps"], amsgrad=descent["amsgrad"], fused=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=descent["learning_rate"], **adam)
    kind = MSK if modulation and "solver" in modulation else SepPGD
    return model, axes, optimizer, kind(model, axes, **modulation) if modulation else None
