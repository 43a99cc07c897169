"""Training runs that survive: cached under what determines them, resumed where they were cut (Sec. A.12).

A run is a pure function of its settings, its data and the library's numerics. With ``$SEPLIB_CACHE`` set, each finished
run is stored there under a hash of those; a run that was killed goes on from its last checkpoint. Without it nothing is
stored, so that the ``smoke`` profile and the tests always compute.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from seplib import claims, metrics
from seplib.caching import checkpoint_path, stored
from seplib.profiles.images import ImageSettings
from seplib.profiles.surfaces import SurfaceSettings
from seplib.setups import CHOICES, DESCENT, prepare
from seplib.targets import ImageTarget
from seplib.training import Callback, History, State, fit

# Version of the numbers, not of the code: raise it when a change makes any run end differently. tests/test_runs.py holds
# a small golden run that notices a forgotten raise.
NUMERICS = 1

METHODS = ("SepNN", "SepPGD")


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


Study = dict[tuple[str, str], list[ImageRun]]


def image_study(targets: Sequence[ImageTarget], settings: ImageSettings, seed: int, device: torch.device) -> Study:
    """Every image with every method and every seed, each run cached (Figs. 3 and 7-9).

    Args:
        targets: the images.
        settings: of the profile.
        seed: the first of each image's ``settings.seeds`` seeds.
        device: where to compute.

    Returns:
        The runs by (image, method), one for each seed. Seed by seed, so that an interrupted study holds whole seeds.
    """
    study: Study = {(target.name, method): [] for target in targets for method in METHODS}
    for step in range(max(settings.seeds)):
        for target, seeds in zip(targets, settings.seeds):
            for method in METHODS if step < seeds else ():
                study[target.name, method].append(fit_image(target.values, method, settings, seed + step, device))
    return study


def image_table(targets: Sequence[ImageTarget], study: Study, steps: dict[str, float]) -> pd.DataFrame:
    """Quality at the last update by image and method: mean and standard deviation over seeds (Figs. 3 and 7-9).

    The columns: last and best PSNR in dB, SSIM, the mean squared error's share above a quarter cycle a pixel (half the
    Nyquist frequency) in 1e-6, and seconds of training at the pace of :func:`step_seconds`.
    """
    rows = []
    for target in targets:
        for method in METHODS:
            runs = study[target.name, method]
            last = np.array([run.psnr[-1] for run in runs])
            images = [torch.from_numpy(run.image) for run in runs]
            rows.append(
                {
                    "image": target.name,
                    "method": method,
                    "PSNR": last.mean(),
                    "PSNR std": last.std(ddof=1) if len(runs) > 1 else np.nan,
                    "best PSNR": np.mean([run.psnr.max() for run in runs]),
                    "SSIM": np.mean([metrics.ssim(image.clamp(0, 1), target.values) for image in images]),
                    "high-frequency error": 1e6 * np.mean([_high(image, target.values) for image in images]),
                    "seconds": steps[method] * (len(runs[0].psnr) - 1),
                }
            )
    return pd.DataFrame(rows)


def _high(image: torch.Tensor, target: torch.Tensor) -> float:
    frequency, energy = metrics.error_spectrum(image, target)
    return energy[frequency >= 0.25].sum().item()


def image_gains(targets: Sequence[ImageTarget], study: Study) -> dict[str, np.ndarray]:
    """PSNR of SepPGD minus that of SepNN after the last update, seed by seed, in dB (Figs. 3 and 7-9)."""
    pairs = {t.name: zip(study[t.name, "SepNN"], study[t.name, "SepPGD"]) for t in targets}
    return {name: np.array([ours.psnr[-1] - plain.psnr[-1] for plain, ours in pair]) for name, pair in pairs.items()}


def error_left(table: pd.DataFrame) -> dict[str, float]:
    """Share of SepNN's mean squared error on the first image that SepPGD leaves, in all and at high frequency (Fig. 3)."""
    plain, ours = (table[table.method == method].iloc[0] for method in METHODS)
    return {
        "all": 10 ** ((plain.PSNR - ours.PSNR) / 10),
        "high": ours["high-frequency error"] / plain["high-frequency error"],
    }


def image_cases(table: pd.DataFrame, gains: dict[str, np.ndarray]) -> dict[str, bool]:
    """The cases of the claim ``fig-3-image``: mean gains, and the error at high frequency (Fig. 3).

    The first image takes the place of *Plane*, where the criterion asks for 4 dB.
    """
    high = table.pivot(index="image", columns="method", values="high-frequency error")
    first = next(iter(gains))
    cases = {f"{first}: gain at least 4 dB": gains[first].mean() >= 4}
    for name, gain in gains.items():
        cases[f"{name}: gain positive"] = gain.mean() > 0
        cases[f"{name}: less error at high frequency"] = high.loc[name, "SepPGD"] < high.loc[name, "SepNN"]
    return {name: bool(holds) for name, holds in cases.items()}


def fit_image(
    target: torch.Tensor,
    method: str,
    settings: ImageSettings,
    seed: int,
    device: torch.device,
    mask: torch.Tensor | None = None,
    reference: torch.Tensor | None = None,
) -> ImageRun:
    """Fit an RGB image channel by channel, the three channels in one batched pass (Sec. A.12).

    Args:
        target: ``(3, H, W)`` in [0, 1].
        method: "SepNN" for plain gradients, "SepPGD" for Definition 1; both from the same initial weights.
        settings: of the profile; its ``images``, ``size`` and ``seeds`` do not enter the run.
        seed: of the initial weights.
        device: where to compute.
        mask: ``(H, W)`` booleans, the known pixels (Figs. 10-12); None for all.
        reference: ``(3, H, W)`` to judge the output by, every ten updates and at the end: on the unknown pixels, without a mask on all. The PSNRs
            are the history's metric "judged".

    Raises:
        ValueError: an unknown method; whatever :func:`seplib.training.fit` and :class:`seplib.SepPGD` refuse.
    """
    return stored(_fit_image, image_arguments(target, method, settings, seed, device, mask, reference))


def step_seconds(
    target: torch.Tensor,
    settings: ImageSettings | SurfaceSettings,
    seed: int,
    device: torch.device,
    rounds: int = 3,
    train: Callable | None = None,
) -> dict[str, float]:
    """Seconds of one iteration by method, preconditioner updates included (Fig. 2(b), time axis).

    Stored runs may come from different days and loads, so time is measured here and now: short runs of the methods in
    turn, the median over the rounds. What the data show does not enter.

    Args:
        target: ``(3, H, W)``, or what else ``train`` takes.
        settings: of the profile; two update periods are timed behind a first one that warms up.
        seed: of the initial weights.
        device: where to compute.
        rounds: number of turns.
        train: makes a run with a ``history`` from :func:`image_arguments`, never stored; that of an image if None.
    """
    period, train = settings.update_every, train or _train_image
    short = dataclasses.replace(settings, iterations=3 * period)
    times: dict[str, list[float]] = {method: [] for method in METHODS}
    for _ in range(rounds):
        for method in METHODS:
            run = train(*image_arguments(target, method, short, seed, device), checkpoints=None)
            times[method].append((run.history.seconds[3 * period] - run.history.seconds[period]) / (2 * period))
    return {method: float(np.median(seconds)) for method, seconds in times.items()}


def image_arguments(
    target: torch.Tensor,
    method: str,
    settings: ImageSettings | SurfaceSettings,
    seed: int,
    device: torch.device,
    mask: torch.Tensor | None = None,
    reference: torch.Tensor | None = None,
) -> tuple:
    """What determines a run, and with it the key of a stored one (Sec. A.12).

    Raises:
        ValueError: an unknown method.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    network = dict(rank=settings.rank, width=settings.width, depth=settings.depth, omega=settings.omega)
    descent = dict(learning_rate=settings.learning_rate, iterations=settings.iterations)
    modulation = dict(k=settings.k, update_every=settings.update_every) if method == "SepPGD" else None
    # A choice that Sec. A.12 does not vary enters where it differs from the default: a new one leaves stored runs valid.
    network |= {
        name: value for name, default in CHOICES.items() if (value := getattr(settings, name, default)) != default
    }
    descent |= {
        name: value for name, default in DESCENT.items() if (value := getattr(settings, name, default)) != default
    }
    data = {"mask": mask, "reference": reference}
    descent |= {name: tensor.numpy() for name, tensor in data.items() if tensor is not None}
    if modulation and (g := getattr(settings, "g", "flat")) != "flat":
        modulation["g"] = g
    return target.numpy(), network, descent, modulation, seed, device.type, NUMERICS


# joblib drops a function's stored results when the function's own source changes, so this one only hands on.
def _fit_image(target, network, descent, modulation, seed, device, numerics, checkpoints):
    return _train_image(target, network, descent, modulation, seed, device, numerics, checkpoints)


def _train_image(
    target, network, descent, modulation, seed, device, numerics, checkpoints, callbacks: Sequence[Callback] = ()
) -> ImageRun:
    """Train from what :func:`image_arguments` gives, nothing stored (Sec. A.12)."""
    values = torch.from_numpy(target).to(device)
    model, axes, optimizer, preconditioner = prepare(values, network, descent, modulation, seed)
    known = torch.from_numpy(descent["mask"]).to(device) if "mask" in descent else None
    callbacks = list(callbacks)
    if "decay" in descent:
        callbacks.append(_decay(descent["learning_rate"], descent["decay"], descent["iterations"]))
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


def _judge(reference: torch.Tensor, known: torch.Tensor | None, last: int) -> Callback:
    """A callback that compares with the reference on the pixels that the training does not see, or on all."""
    where = torch.ones_like(reference[0], dtype=torch.bool) if known is None else ~known

    def judge(state: State) -> dict[str, float] | None:
        if state.iteration % 10 and state.iteration != last:
            return None
        return {"judged": metrics.psnr(state.prediction[:, where], reference[:, where])}

    return judge
