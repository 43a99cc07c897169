"""A race on one image (Sec. A.12): python tests/bench/bench_image_race.py [SECONDS].

PSNR after SECONDS (60) of training, same machine, threads and image: SepNN and SepPGD, SIREN networks that take pixels one by
one (ours, and that of the public package siren-pytorch where it is installed), and MSK at the sizes that it can take.
"""

import dataclasses
import os
import sys
import time

import psutil
import torch

from seplib import CP, MLP, SepPGD, fit, metrics, targets
from seplib.baselines import MSK
from seplib.reproduce import profiles
from seplib.studies.images.settings import ImageSettings
from seplib.studies.images.setups import CHOICES, image_network
from seplib.training import State

try:
    from siren_pytorch import SirenNet  # not among our dependencies: pip install siren-pytorch
except ImportError:
    SirenNet = None

LARGE = profiles.get("paper").image_representation
SMALL = profiles.get("paper").image_convergence
MEMORY = psutil.virtual_memory().available / 3  # what a contestant may take; a shared machine stays usable


class TimeUp(Exception):
    """Ends a run whose time is over."""


def adam(network: torch.nn.Module) -> torch.optim.Adam:
    return torch.optim.Adam(network.parameters(), lr=LARGE.learning_rate, fused=True)


def separable(values: torch.Tensor, settings: ImageSettings) -> tuple[CP, list[torch.Tensor]]:
    sizes = dict(rank=settings.rank, width=settings.width, depth=settings.depth, omega=settings.omega)
    return image_network(values, 0, **CHOICES | sizes)


def race(limit: float, network: CP, axes, values: torch.Tensor, preconditioner=None) -> tuple[float, int]:
    """PSNR and number of updates at the last iteration inside the time."""
    found = []

    def watch(state: State) -> None:
        if found and state.seconds > limit:
            raise TimeUp
        found[:] = metrics.psnr(state.prediction, values), state.iteration

    try:
        fit(network, axes, values, adam(network), preconditioner, iterations=10**9, callbacks=[watch])
    except TimeUp:
        return tuple(found)


def race_on_pixels(limit: float, network, values: torch.Tensor, batch: int) -> tuple[float, int]:
    """The same for a network on pixels, with all of them or a random batch in each step."""
    X, Y = torch.cartesian_prod(*[torch.linspace(-1, 1, n) for n in values.shape[1:]]), values.flatten(1)
    optimizer, generator = adam(network), torch.Generator().manual_seed(0)
    elapsed, updates = 0.0, 0
    while elapsed < limit:
        began = time.perf_counter()
        rows = slice(None) if batch == len(X) else torch.randint(len(X), (batch,), generator=generator)
        optimizer.zero_grad()
        ((network.points(X[rows]) - Y[:, rows]).square().sum() / 2).backward()
        optimizer.step()
        elapsed, updates = elapsed + time.perf_counter() - began, updates + 1
    with torch.no_grad():
        result = torch.cat([network.points(part) for part in X.split(1 << 14)], 1)
    return metrics.psnr(result, Y), updates


class PublicSiren(torch.nn.Module):
    """siren-pytorch's network, one for all channels, of the same width, depth and frequency."""

    def __init__(self):
        super().__init__()
        w0 = LARGE.omega
        self.network = SirenNet(2, LARGE.width, 3, num_layers=LARGE.depth - 1, w0=w0, w0_initial=w0)

    def points(self, X: torch.Tensor) -> torch.Tensor:
        return self.network(X).T


def ours() -> MLP:
    sizes = dict(width=LARGE.width, depth=LARGE.depth, omega=LARGE.omega)
    return MLP(2, **sizes, ensemble=3, generator=torch.Generator().manual_seed(0))


def line(name: str, psnr: float, updates: int) -> None:
    print(f"{name:62s} {psnr:7.2f} dB {updates:7d} updates", flush=True)


def pixel_networks(limit: float, values: torch.Tensor) -> None:
    """Networks on pixels: as many a step as memory allows, and batches that leave time for more steps."""
    contestants = {"SIREN MLP, a network a channel": (ours, 3), "siren-pytorch, one network": (PublicSiren, 1)}
    for name, (make, copies) in contestants.items():
        if make is PublicSiren and SirenNet is None:
            print(f"{name:62s} not installed")
            continue
        most = values[0].numel()
        while 24 * copies * most * LARGE.width * (LARGE.depth - 1) > MEMORY:  # six arrays a hidden layer
            most //= 2
        for batch in (most, 1 << 14):
            share = "all " if batch == values[0].numel() else "memory allows " if batch == most else ""
            torch.manual_seed(0)
            line(f"{name}, {share}{batch} pixels a step", *race_on_pixels(limit, make(), values, batch))


def kernels(limit: float, name: str) -> None:
    """MSK beside SepPGD, where the kernel between all pixels fits into memory."""
    sizes = [n for n in (64, 96, 128) if 20 * 3 * n**4 <= MEMORY]  # five arrays of the kernel's size
    print(
        f"\nMSK, R = W = {SMALL.run.rank}; {LARGE.size} x {LARGE.size} would need {12 * LARGE.size**4 / 1e9:.0f} GB for its kernels"
    )
    for size in sorted({64, sizes[-1]}):
        values, settings = targets.image(name, size).values, dataclasses.replace(SMALL.run, size=size)
        network, axes = separable(values, settings)
        line(f"{size} x {size}: SepPGD", *race(limit, network, axes, values, SepPGD(network, axes, settings.k)))
        network, axes = separable(values, settings)
        line(f"{size} x {size}: SepNN (MSK)", *race(limit, network, axes, values, MSK(network, axes, SMALL.k_msk)))


def main(limit: float = 60.0) -> None:
    """Run and print everything."""
    name = "plane" if "SEPLIB_DATA" in os.environ else "astronaut"
    image = targets.image(name, LARGE.size)
    print(
        f"PSNR after {limit:g} s of training, {image.name}, {LARGE.size} x {LARGE.size} x 3, R = W = {LARGE.rank}, depth {LARGE.depth},"
    )
    print(f"Adam with {LARGE.learning_rate:g}, w0 = {LARGE.omega:g}, {torch.get_num_threads()} threads")
    for k in (0, LARGE.k):
        network, axes = separable(image.values, LARGE)
        method = SepPGD(network, axes, k) if k else None
        line("SepPGD" if k else "SepNN", *race(limit, network, axes, image.values, method))
    pixel_networks(limit, image.values)
    kernels(limit, name)


if __name__ == "__main__":
    main(*map(float, sys.argv[1:]))
