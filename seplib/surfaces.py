"""A solid fitted as an occupancy volume, SepNN against SepPGD, judged by IoU (Sec. A.12, Fig. 3)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from seplib import claims, tensorops
from seplib.caching import checkpoint_path, stored
from seplib.profiles.surfaces import SurfaceSettings
from seplib.runs import image_arguments
from seplib.setups import prepare
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
    return stored(_fit_surface, _arguments(volume, method, settings, seed, device))


def _arguments(volume, method, settings, seed, device) -> tuple:
    target, network, descent, *rest = image_arguments(volume, method, settings, seed, device)
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
    callbacks = [judge(volume, descent["every"], last)]
    history = fit(
        model, axes, values, optimizer, preconditioner, last, callbacks, checkpoint, checkpoint_every=50, streamed=True
    )
    with torch.no_grad():
        factors = [matrix[0].cpu().numpy() for matrix in model.matrices(axes)]
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    return SurfaceRun(history, factors, claims.provenance(device))


def judge(volume: Bool[Tensor, "n1 n2 n3"], every: int, last: int) -> Callback:
    """A callback that measures the metric "IoU" after every ``every`` updates and the last (Fig. 3)."""

    def measure(state: State) -> dict[str, float] | None:
        if state.iteration % every and state.iteration != last:
            return None
        with torch.no_grad():
            return {"IoU": iou(state.model.matrices(state.axes), volume)}

    return measure


def iou(factors: Sequence[Tensor], volume: Bool[Tensor, "n1 n2 n3"]) -> float:
    """Intersection over union of a CP product at threshold 1/2 and a volume, slab by slab (Sec. 5, Fig. 3).

    Args:
        factors: three matrices ``(1, n_d, R)``.
        volume: whether each voxel is inside.

    >>> iou([torch.ones(1, n, 1) for n in (2, 3, 4)], torch.ones(2, 3, 4, dtype=torch.bool))
    1.0
    """
    first, *rest = factors
    step = max(1, 4 * tensorops.SLAB // volume[0].numel())
    both = either = 0
    for rows, inside in zip(first.split(step, dim=1), volume.split(step)):
        found = tensorops.cp_product([rows, *rest])[0] > 0.5
        both += (found & inside).sum().item()
        either += (found | inside).sum().item()
    return both / either if either else 1.0
