"""Experiments on the limits of wide networks' kernels (Theorem 2, Corollary 1, Fig. 1(a), (b))."""

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from seplib import dynamics, limits, ntk
from seplib.reproduce.store import stored
from seplib.studies.ntk.exactness import network, square, stack
from seplib.studies.ntk.settings import NtkLimitsSettings

# Largest array of an ensemble, in elements: what is drawn and held at a time.
_BATCH = 1 << 22


def seed_differences(
    settings: NtkLimitsSettings, seed: int, device: torch.device, rank: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Distances of the initial NTK to its limit and between adjacent seeds, relative, by size (Fig. 1(a), (b)).

    Args:
        settings: of the profile.
        seed: the first of the seeds.
        device: where to compute.
        rank: fixed rank, as in Fig. 1(a); None for a rank equal to the width, as in Fig. 1(b).

    Returns:
        ``(seeds, sizes)`` to the limit kernel of Theorem 2 and ``(seeds - 1, sizes)`` between adjacent seeds.
    """
    common = dict(side=settings.side, activation=settings.activation, seeds=settings.seeds, seed=seed)
    columns = [_seed_difference(width=size, rank=rank or size, device=device, **common) for size in settings.sizes]
    to_limit, adjacent = zip(*columns)
    return np.stack(to_limit, 1), np.stack(adjacent, 1)


@stored("seed difference", tolerance=1e-6, load=tuple)
def _seed_difference(*, width, rank, side, activation, seeds, seed, device) -> tuple[np.ndarray, np.ndarray]:
    _, X = square(side, device)
    shape = dict(activation=activation, dtype=X.dtype, device=device)
    model = stack([network(width, rank, seed=one, **shape) for one in range(seed, seed + seeds)])
    kernels = ntk.empirical(model, X)
    limit = limits.deterministic(activation, X)
    pairs = torch.linalg.matrix_norm(kernels[1:] - kernels[:-1]) / torch.linalg.matrix_norm(kernels[:-1])
    return dynamics.drift(limit, kernels).cpu().numpy(), pairs.cpu().numpy()


def kernels(
    width: int, rank: int, X: Tensor, copies: int, activation: str, seed: int
) -> Iterator[Float[Tensor, "E N N"]]:
    """NTKs at points X of many independent networks, batch by batch (Corollary 1)."""
    generator = torch.Generator().manual_seed(seed)
    batch = max(1, min(copies, _BATCH // (width * max(rank, len(X)))))
    for first in range(0, copies, batch):
        shape = dict(ensemble=min(batch, copies - first), dtype=X.dtype, device=X.device)
        model = network(width, rank, dims=X.shape[1], activation=activation, seed=generator, **shape)
        yield ntk.empirical(model, X)


def spreads(settings: NtkLimitsSettings, seed: int, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    """Root mean square distances of the initial NTK to its mean, relative to the mean's norm (Corollary 1, Fig. 1(a)).

    Returns:
        By width at the fixed rank, and by rank at the fixed width. The mean is the limit of Theorem 2, at any size.
    """
    common = dict(side=settings.side, activation=settings.activation, copies=settings.copies, device=device)
    widths = [_spread(width=w, rank=settings.rank, seed=seed + i, **common) for i, w in enumerate(settings.widths)]
    ranks = [
        _spread(width=settings.rank_width, rank=r, seed=seed + 100 + i, **common) for i, r in enumerate(settings.ranks)
    ]
    return np.array(widths), np.array(ranks)


@stored("kernel spread", tolerance=1e-6)
def _spread(*, width, rank, side, activation, copies, seed, device) -> float:
    _, X = square(side, device)
    mean = limits.deterministic(activation, X)
    total = sum((K - mean).square().sum() for K in kernels(width, rank, X, copies, activation, seed))
    return math.sqrt(total.item() / copies) / mean.norm().item()


def predicted_spread(settings: NtkLimitsSettings, rank: int) -> float:
    """What :func:`spreads` tends to as the width grows, from the closed form of the variance (Corollary 1)."""
    _, X = square(settings.side)
    mean, variance = limits.random_moments(settings.activation, X, rank)
    return (variance.sum().sqrt() / mean.norm()).item()


def random_entries(settings: NtkLimitsSettings, seed: int, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    """Entries of wide networks' NTKs and of draws of the random limit kernel, each ``(samples, entries)`` (Corollary 1).

    Three points give six entries of the symmetric kernel.
    """
    common = dict(activation=settings.activation, rank=settings.test_rank, samples=settings.samples, seed=seed)
    return _random_entries(width=settings.test_width, **common, device=device)


# Three points without a symmetry or a coordinate in common.
TEST_POINTS = ((-0.8, 0.3), (0.1, -0.6), (0.7, 0.9))


@stored("random kernel entries", tolerance=1e-6, load=tuple)
def _random_entries(*, width, activation, rank, samples, seed, device) -> tuple[np.ndarray, np.ndarray]:
    X = torch.tensor(TEST_POINTS, dtype=torch.float64, device=device)
    wide = torch.cat(list(kernels(width, rank, X, samples, activation, seed)))
    draws = limits.sample_random(activation, X, rank, samples, torch.Generator().manual_seed(seed + 1))
    i, j = torch.triu_indices(len(X), len(X), device=device)
    return wide[:, i, j].cpu().numpy(), draws[:, i, j].cpu().numpy()


def compare_random(settings: NtkLimitsSettings, wide: np.ndarray, draws: np.ndarray) -> pd.DataFrame:
    """Moments and two-sample tests of the entries from :func:`random_entries` (Corollary 1).

    Columns: deviations of the networks' mean and variance from the closed form in standard errors, and the p-values of the
    Kolmogorov-Smirnov test against the limit's draws, as they are and corrected for the number of entries (Holm).
    """
    X = torch.tensor(TEST_POINTS, dtype=torch.float64)
    i, j = np.triu_indices(len(X))
    mean, variance = (m.numpy()[i, j] for m in limits.random_moments(settings.activation, X, settings.test_rank))
    count, squares = len(wide), (wide - mean) ** 2
    p = np.array([stats.ks_2samp(a, b).pvalue for a, b in zip(wide.T, draws.T)])
    order = p.argsort()
    holm = np.empty_like(p)
    holm[order] = np.minimum(np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p)))), 1)
    return pd.DataFrame(
        {
            "entry": [f"({a + 1}, {b + 1})" for a, b in zip(i, j)],
            "mean": mean,
            "mean, in errors": (wide.mean(0) - mean) / (wide.std(0, ddof=1) / math.sqrt(count)),
            "variance": variance,
            "variance, in errors": (squares.mean(0) - variance) / (squares.std(0, ddof=1) / math.sqrt(count)),
            "p": p,
            "p (Holm)": holm,
        }
    )
