"""A solid fitted as an occupancy volume, SepNN against SepPGD, judged by IoU (Sec. A.12, Fig. 3)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from seplib import claims, metrics, tensorops
from seplib.profiles.surfaces import SurfaceSettings
from seplib.runs import METHODS, checkpoint_path, determinants, prepare, stored
from seplib.training import Callback, History, State, fit


@dataclass(frozen=True)
class SurfaceRun:
    """Result of fitting one volume with one method (Fig. 3).

    Attributes:
        history: loss and seconds after each update; the metric "IoU" after every ``every`` updates and the last.
        factors: D matrices ``(n_d, R)`` after the last update, whose CP product is the network's output on the grid.
        provenance: where and when the run was computed, which may be an earlier day than the notebook's.
    """

    history: History
    factors: list[np.ndarray]
    provenance: dict[str, Any]

    def values(self, step: int = 1) -> Float[Tensor, "n1 n2 n3"]:
        """The network's output on the grid, or on every ``step``-th point of each axis (Fig. 3)."""
        return tensorops.cp_product([torch.from_numpy(f[None, ::step]) for f in self.factors])[0]


def fit_surface(
    volume: Bool[Tensor, "n1 n2 n3"], method: str, settings: SurfaceSettings, seed: int, device: torch.device
) -> SurfaceRun:
    """Fit an occupancy volume, streamed: nothing of its size times R is formed (Sec. A.12). Cached, see :mod:`seplib.runs`.

    Args:
        volume: whether each voxel is inside; the networks are fitted to 0 and 1.
        method: "SepNN" for plain gradients, "SepPGD" for Definition 1; both from the same initial weights.
        settings: of the profile.
        seed: of the initial weights.
        device: where to compute.

    Raises:
        ValueError: an unknown method; whatever :func:`seplib.training.fit` and :class:`seplib.SepPGD` refuse.
    """
    return stored(_fit_surface, _determinants(volume, method, settings, seed, device))


def _determinants(volume, method, settings, seed, device) -> tuple:
    target, network, descent, *rest = determinants(volume, method, settings, seed, device)
    return target, network, descent | {"every": settings.every}, *rest


# joblib drops a function's stored results when the function's own source changes, so this one only hands on.
def _fit_surface(target, network, descent, modulation, seed, device, numerics, checkpoints):
    return _train_surface(target, network, descent, modulation, seed, device, numerics, checkpoints)


def _train_surface(target, network, descent, modulation, seed, device, numerics, checkpoints) -> SurfaceRun:
    volume = torch.from_numpy(target).to(device)
    values = volume[None].float()
    model, axes, optimizer, preconditioner = prepare(values, network, descent, modulation, seed)
    checkpoint = checkpoint_path(checkpoints, (target, network, descent, modulation, seed, device, numerics))
    last = descent["iterations"]
    callbacks = [judge(volume, axes, descent["every"], last)]
    history = fit(
        model, axes, values, optimizer, preconditioner, last, callbacks, checkpoint, checkpoint_every=50, streamed=True
    )
    factors = [f[0].cpu().numpy() for f in model.scaled_factors(axes)]
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    return SurfaceRun(history, factors, claims.provenance(device))
