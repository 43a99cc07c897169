"""Fitting images: runs that are stored, and their clock (Sec. A.12, Figs. 3 and 7-12)."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seplib import metrics
from seplib.reproduce.store import stored
from seplib.studies.images.settings import ImageSettings
from seplib.studies.images.setups import METHODS, prepare, run_arguments
from seplib.studies.surface.settings import SurfaceSettings
from seplib.training import Callback, History, State, fit


@dataclass(frozen=True)
class ImageCourse:
    """Course of fitting one image with one method (Fig. 7).

    Attributes:
        history: loss and seconds after each update.
        psnr: dB over all channels after each update, computed from the output as it was, neither clipped nor rounded.
    """

    history: History
    psnr: np.ndarray


@dataclass(frozen=True)
class ImageRun(ImageCourse):
    """Result of fitting one image with one method (Figs. 3 and 7-9).

    Attributes:
        image: ``(3, H, W)`` reconstruction after the last update, clipped to [0, 1] and rounded to the 256 levels of a picture
            file, float32.
    """

    image: np.ndarray


def fit_image(
    target: Tensor,
    method: str,
    settings: ImageSettings,
    seed: int,
    device: torch.device,
    mask: Tensor | None = None,
    reference: Tensor | None = None,
) -> ImageRun:
    """Fit an RGB image channel by channel, the three channels in one batched pass (Sec. A.12). Stored, see :mod:`seplib.reproduce.store`.

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
    return _fit_image(**run_arguments(target, method, settings, seed, device, mask, reference))


def step_seconds(
    target: Tensor, settings: ImageSettings, seed: int, device: torch.device, rounds: int = 3
) -> dict[str, float]:
    """Mean seconds of one iteration by method, from :func:`update_seconds` (Fig. 7, time axis)."""
    paces = update_seconds(target, dict.fromkeys(METHODS, settings), seed, device, rounds)
    return {method: float(pace.mean()) for method, pace in paces.items()}


def update_seconds(
    target: Tensor, settings: Mapping[str, ImageSettings], seed: int, device: torch.device, rounds: int = 3
) -> dict[str, np.ndarray]:
    """Seconds of each iteration of an update period, the one that renews the preconditioner first (Fig. 2(b), time axis).

    Args:
        target: ``(3, H, W)``.
        settings: of each method.
        seed: of the initial weights.
        device: where to compute.
        rounds: number of turns, see :func:`take_turns`.

    Returns:
        Method to ``(update_every,)``.
    """
    runs = turns(settings, lambda method, short: run_arguments(target, method, short, seed, device))
    return _image_clock(target=target, runs=runs, seed=seed, rounds=rounds, device=device)


def turns(
    settings: Mapping[str, ImageSettings | SurfaceSettings], arguments: Callable[..., dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """The short runs of :func:`take_turns`: each method's own arguments for three update periods (Fig. 2(b), time axis).

    Args:
        settings: of each method.
        arguments: from method and settings to those of a run.
    """
    shared = ("target", "seed", "device")
    runs = {}
    for method, own in settings.items():
        short = dataclasses.replace(own, iterations=3 * own.update_every)
        runs[method] = {name: part for name, part in arguments(method, short).items() if name not in shared}
    return runs


def take_turns(train: Callable[..., History], runs: Mapping[str, dict[str, Any]], rounds: int) -> dict[str, np.ndarray]:
    """Seconds of each iteration of an update period, mean over turns and periods (Fig. 2(b), time axis).

    Stored runs may come from different days and loads, so time is measured by short runs of the methods in turn: a load
    falls on all of them alike. What the data show does not enter. Two update periods are timed, after a first one that warms up.

    Args:
        train: makes a run from its arguments and returns its history.
        runs: method to these arguments, three update periods each.
        rounds: number of turns.

    Returns:
        Method to ``(update_every,)``.
    """
    times: dict[str, list[np.ndarray]] = {method: [] for method in runs}
    for _ in range(rounds):
        for method, arguments in runs.items():
            times[method] += list(np.diff(train(**arguments).seconds).reshape(3, -1)[1:])
    return {method: np.mean(periods, axis=0) for method, periods in times.items()}


@stored("image clock", tolerance=None)
def _image_clock(*, target: Tensor, runs: dict, seed: int, rounds: int, device: torch.device) -> dict[str, np.ndarray]:
    def train(**own: Any) -> History:
        return train_image(target, **own, seed=seed, device=device)[0]

    return take_turns(train, runs, rounds)


def _dump(run: ImageRun) -> dict[str, Any]:
    pixels = np.rint(255 * run.image.clip(0, 1)).astype(np.uint8)
    return {"history": dataclasses.asdict(run.history), "image": pixels, "psnr": run.psnr}


def _load(found: dict[str, Any]) -> ImageRun:
    return ImageRun(History(**found["history"]), found["psnr"], found["image"].astype(np.float32) / 255)


@stored("image", tolerance=0.02, dump=_dump, load=_load)
def _fit_image(
    *, target: Tensor, device: torch.device, mask: Tensor | None = None, checkpoint: Path | None = None, **run: Any
) -> ImageRun:
    history, output = train_image(target, device=device, mask=mask, checkpoint=checkpoint, **run)
    return ImageRun(history, psnr_course(history, target, mask), output.cpu().numpy())


def image_course(
    target: Tensor,
    method: str,
    settings: ImageSettings,
    seed: int,
    device: torch.device,
    reference: Tensor | None = None,
) -> ImageCourse:
    """The same training as :func:`fit_image`, of which the course alone is kept: for tables of many runs (Tables 2-7)."""
    history = _image_history(**run_arguments(target, method, settings, seed, device, reference=reference))
    return ImageCourse(history, psnr_course(history, target))


@stored("image history", tolerance=0.02, dump=dataclasses.asdict, load=lambda found: History(**found))
def _image_history(*, target: Tensor, device: torch.device, checkpoint: Path | None = None, **run: Any) -> History:
    return train_image(target, device=device, checkpoint=checkpoint, **run)[0]


def psnr_course(history: History, target: Tensor, mask: Tensor | None = None) -> np.ndarray:
    """PSNR in dB over all channels and fitted pixels after each update, from the loss (Fig. 7).

    >>> psnr_course(History(loss=[[0.5, 0.5, 0.5]]), torch.zeros(3, 10, 10)).item()
    20.0
    """
    fitted = target.numel() if mask is None else len(target) * int(mask.sum())
    return -10 * np.log10(2 * np.array(history.loss).sum(1) / fitted)


def train_image(
    target: Tensor,
    network: dict,
    descent: dict,
    modulation: dict | None = None,
    *,
    seed: int,
    device: torch.device,
    mask: Tensor | None = None,
    reference: Tensor | None = None,
    checkpoint: Path | None = None,
    callbacks: Sequence[Callback] = (),
) -> tuple[History, Tensor]:
    """Train from what :func:`seplib.studies.images.setups.run_arguments` gives, nothing stored; history and output ``(3, H, W)`` (Sec. A.12)."""
    values = target.to(device)
    model, axes, optimizer, preconditioner = prepare(values, network, descent, modulation, seed)
    known = None if mask is None else mask.to(device)
    callbacks = list(callbacks)
    if "decay" in descent:
        callbacks.append(_decay(descent["learning_rate"], descent["decay"], descent["iterations"]))
    if "restart" in descent:
        callbacks.append(_restart(descent["restart"]))
    if reference is not None:
        callbacks.append(_judge(reference.to(device), known, descent["iterations"]))
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
        return history, model.grid(axes)


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
