"""What a training run is made of: network, axes, optimizer, preconditioner (Sec. A.12)."""

import torch

from seplib.factors import FactorMLP, FourierFeatures
from seplib.preconditioning import SepPGD
from seplib.separable import CP

# What an image's network can be told beyond Sec. A.12, with what it is when nothing is said.
CHOICES = dict(activation="sine", parametrization="siren", scale="rank", low=-1.0, features=0, frequency=0.0, last=1.0)
DESCENT = dict(eps=1e-8, amsgrad=False, decay=0.0)


def image_network(
    values: torch.Tensor,
    seed: int,
    *,
    scale: str | None,
    low: float,
    features: int,
    frequency: float,
    last: float,
    **factor,
) -> tuple[CP, list[torch.Tensor]]:
    """The CP network and the axes that an image or a volume is fitted with, one copy a channel (Sec. A.12).

    Args:
        values: ``(C, n_1, ..., n_D)``; its dtype and device are theirs.
        seed: of the initial weights.
        scale: of :class:`seplib.CP`.
        low: the axes run from here to 1.
        features: number of Fourier features, none if 0.
        frequency: their scale.
        last: factor on the initial weights of the last layer.
        factor: for :class:`seplib.FactorMLP`.
    """
    place = dict(generator=torch.Generator().manual_seed(seed), dtype=values.dtype, device=values.device)
    factors = []
    for _ in values.shape[1:]:
        encoding = FourierFeatures(features, frequency, **place) if features else None
        network = FactorMLP(**factor, encoding=encoding, ensemble=len(values), **place)
        with torch.no_grad():
            network.weights[-1].mul_(last)
        factors.append(network)
    axes = [torch.linspace(low, 1, n, dtype=values.dtype, device=values.device) for n in values.shape[1:]]
    return CP(factors, scale), axes


def prepare(
    values: torch.Tensor, network: dict, descent: dict, modulation: dict | None, seed: int
) -> tuple[CP, list[torch.Tensor], torch.optim.Adam, SepPGD | None]:
    """Network, axes, optimizer and preconditioner of a run from its :func:`seplib.runs.image_arguments` (Sec. A.12).

    Args:
        values: ``(E, n_1, ..., n_D)``.
        network: rank, width, depth, omega, and what differs from :data:`CHOICES`.
        descent: learning rate, and what differs from :data:`DESCENT`.
        modulation: of :class:`seplib.SepPGD`, None for plain descent.
        seed: of the initial weights.
    """
    model, axes = image_network(values, seed, **CHOICES | network)
    descent = DESCENT | descent
    adam = dict(eps=descent["eps"], amsgrad=descent["amsgrad"], fused=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=descent["learning_rate"], **adam)
    return model, axes, optimizer, SepPGD(model, axes, **modulation) if modulation else None
