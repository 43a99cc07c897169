"""Training runs that survive: cached under what determines them, resumed where they were cut (Sec. A.12).

A run is a pure function of its settings, its data and the library's numerics. With ``$SEPLIB_CACHE`` set, each finished
run is stored there under a hash of those; a run that was killed goes on from its last checkpoint. Without it nothing is
stored, so that the ``smoke`` profile and the tests always compute.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seplib import claims, metrics
from seplib.caching import checkpoint_path, stored
from seplib.profiles.images import ImageSettings
from seplib.profiles.surfaces import SurfaceSettings
from seplib.setups import METHODS, prepare, run_arguments
from seplib.training import Callback, History, State, fit


@dataclass(frozen=True)
class ImageRun:
    """Result of fitting one image with one method (Figs. 3 and 7-9).

    Attributes:
        history: loss and seconds after each update.
        image: ``(3, H, W)`` reconstruction after the last update, float32, not clipped to [0, 1].
        psnr: dB over all channels after each update, computed from the unclipped output.
        provenance: where and when the run was computed, which may be an earlier day than the notebook's.
    """

    history: History
    image: np.ndarray
    psnr: np.ndarray
    provenance: dict[str, Any]


def fit_image(
    target: Tensor,
    method: str,
    settings: ImageSettings,
    seed: int,
    device: torch.device,
    mask: Tensor | None = None,
    reference: Tensor | None = None,
) -> ImageRun:
    """Fit an RGB image channel by channel, the three channels in one batched pass (Sec. A.12).

    Args:
        target: ``(3, H, W)`` in [0, 1].
        method: "SepNN" for plain gradients, "SepPGD" for Definition 1, "(MSK)" with the kernel of all pixels; the same network always
            from the same initial weights. An "MLP" has no use for the rank, the scale and Fourier features.
        settings: of the profile; its ``images``, ``size`` and ``seeds`` do not enter the run.
        seed: of the initial weights.
        device: where to compute.
        mask: ``(H, W)`` booleans, the known pixels (Figs. 10-12); None for all.
        reference: ``(3, H, W)`` to judge the output by, every ten updates and at the end: on the unknown pixels, without a mask on all. The PSNRs
            are the history's metric "judged".

    Raises:
        ValueError: an unknown method; whatever :func:`seplib.training.fit` and :class:`seplib.SepPGD` refuse.
    """
    return stored(_fit_image, run_arguments(target, method, settings, seed, device, mask, reference))


def step_seconds(
    target: Tensor,
    settings: ImageSettings | SurfaceSettings,
    seed: int,
    device: torch.device,
    rounds: int = 3,
    train: Callable | None = None,
) -> dict[str, float]:
    """Mean seconds of one iteration by method, from :func:`update_seconds` (Fig. 7, time axis)."""
    paces = update_seconds(target, dict.fromkeys(METHODS, settings), seed, device, rounds, train)
    return {method: float(pace.mean()) for method, pace in paces.items()}


def update_seconds(
    target: Tensor,
    settings: Mapping[str, ImageSettings | SurfaceSettings],
    seed: int,
    device: torch.device,
    rounds: int = 3,
    train: Callable | None = None,
) -> dict[str, np.ndarray]:
    """Seconds of each iteration of an update period, the one that renews the preconditioner first (Fig. 2(b), time axis).

    Stored runs may come from different days and loads, so time is measured here and now: short runs of the methods in
    turn, the mean over turns and periods, so that a load falls on all of them alike. What the data show does not enter.

    Args:
        target: ``(3, H, W)``, or what else ``train`` takes.
        settings: of each method; two update periods are timed behind a first one that warms up.
        seed: of the initial weights.
        device: where to compute.
        rounds: number of turns.
        train: makes a run with a ``history`` from :func:`seplib.setups.run_arguments`, never stored; that of an image if None.

    Returns:
        Method to ``(update_every,)``.
    """
    train = train or _train_image
    times: dict[str, list[np.ndarray]] = {method: [] for method in settings}
    for _ in range(rounds):
        for method, own in settings.items():
            short = dataclasses.replace(own, iterations=3 * own.update_every)
            run = train(*run_arguments(target, method, short, seed, device), checkpoints=None)
            times[method] += list(np.diff(run.history.seconds).reshape(3, -1)[1:])
    return {method: np.mean(periods, axis=0) for method, periods in times.items()}


def _fit_image(target, network, descent, modulation, seed, device, numerics, checkpoints):
    return _train_image(target, network, descent, modulation, seed, device, numerics, checkpoints)


def _train_image(
    target, network, descent, modulation, seed, device, numerics, checkpoints, callbacks: Sequence[Callback] = ()
) -> ImageRun:
    """Train from what :func:`seplib.setups.run_arguments` gives, nothing stored (Sec. A.12)."""
    values = torch.from_numpy(target).to(device)
    model, axes, optimizer, preconditioner = prepare(values, network, descent, modulation, seed)
    known = torch.from_numpy(descent["mask"]).to(device) if "mask" in descent else None
    callbacks = list(callbacks)
    if "decay" in descent:
        callbacks.append(_decay(descent["learning_rate"], descent["decay"], descent["iterations"]))
    if "restart" in descent:
        callbacks.append(_restart(descent["restart"]))
    if "reference" in descent:
        callbacks.append(_judge(torch.from_numpy(descent["reference"]).to(device), known, descent["iterations"]))
    checkpoint = checkpoint_path(checkpoints, (target, network, descent, modulation, seed, device, numerics))
    history = fit(
        model,
        axes,
        values,
        optimizer,
        preconditioner,
        iterations=descent["iterations"],
        callbacks=callbacks,
        checkpoint=checkpoint,
        mask=known,
    )
    with torch.no_grad():
        result = model.grid(axes).cpu().numpy()
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    fitted = target.size if known is None else len(target) * int(known.sum())
    mse = 2 * np.array(history.loss).sum(1) / fitted
    return ImageRun(history, result, -10 * np.log10(mse), claims.provenance(device))


def _decay(rate: float, share: float, last: int) -> Callback:
    """A callback that lets the rate fall to zero over the last updates; a function of the iteration, so it resumes."""

    def decay(state: State) -> None:
        for group in state.optimizer.param_groups:
            group["lr"] = rate * min(1, (1 - state.iteration / last) / share)

    return decay


def _restart(after: int) -> Callback:
    """A callback that lets Adam forget its moments; a checkpoint is written behind it, so a resumed run has forgotten too."""

    def restart(state: State) -> None:
        if state.iteration == after:
            state.optimizer.state.clear()

    return restart


def _judge(reference: Tensor, known: Tensor | None, last: int) -> Callback:
    """A callback that compares with the reference on the pixels that the training does not see, or on all."""
    where = torch.ones_like(reference[0], dtype=torch.bool) if known is None else ~known

    def judge(state: State) -> dict[str, float] | None:
        if state.iteration % 10 and state.iteration != last:
            return None
        return {"judged": metrics.psnr(state.prediction[:, where], reference[:, where])}

    return judge
