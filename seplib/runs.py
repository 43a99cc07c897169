"""Training runs that survive: cached under what determines them, resumed where they were cut (Sec. A.12).

A run is a pure function of its settings, its data and the library's numerics. With ``$SEPLIB_CACHE`` set, each finished
run is stored there under a hash of those; a run that was killed goes on from its last checkpoint. Without it nothing is
stored, so that the ``smoke`` profile and the tests always compute.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import joblib
import numpy as np
import pandas as pd
import torch

from seplib import claims, metrics
from seplib.cache import cached
from seplib.factors import FactorMLP, FourierFeatures
from seplib.preconditioning import SepPGD
from seplib.profiles.images import ImageSettings
from seplib.separable import CP
from seplib.targets import ImageTarget
from seplib.training import Callback, History, State, fit

# Version of the numbers, not of the code: raise it when a change makes any run end differently. tests/test_runs.py holds
# a small golden run that notices a forgotten raise.
NUMERICS = 1

METHODS = ("SepNN", "SepPGD")
# What an image's network can be told beyond Sec. A.12, with what it is when nothing is said.
CHOICES = dict(activation="sine", parametrization="siren", scale="rank", low=-1.0, features=0, frequency=0.0, last=1.0)
ADAM = dict(eps=1e-8, amsgrad=False)


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
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    return cached(_fit_image, *_arguments(target, method, settings, seed, device, mask, reference))


def step_seconds(
    target: torch.Tensor, settings: ImageSettings, seed: int, device: torch.device, rounds: int = 3
) -> dict[str, float]:
    """Seconds of one iteration by method, preconditioner updates included (Fig. 2(b), time axis).

    Stored runs may come from different days and loads, so time is measured here and now: short runs of the methods in
    turn, the median over the rounds. What the image shows does not enter.

    Args:
        target: ``(3, H, W)``.
        settings: of the profile; two update periods are timed behind a first one that warms up.
        seed: of the initial weights.
        device: where to compute.
        rounds: number of turns.
    """
    period = settings.update_every
    short = dataclasses.replace(settings, iterations=3 * period)
    times: dict[str, list[float]] = {method: [] for method in METHODS}
    for _ in range(rounds):
        for method in METHODS:
            run = _train_image(*_arguments(target, method, short, seed, device), checkpoints=None)
            times[method].append((run.history.seconds[3 * period] - run.history.seconds[period]) / (2 * period))
    return {method: float(np.median(seconds)) for method, seconds in times.items()}


def _arguments(target, method, settings, seed, device, mask=None, reference=None) -> tuple:
    """What determines a run, and with it the key of a stored one."""
    network = dict(rank=settings.rank, width=settings.width, depth=settings.depth, omega=settings.omega)
    descent = dict(learning_rate=settings.learning_rate, iterations=settings.iterations)
    modulation = dict(k=settings.k, update_every=settings.update_every) if method == "SepPGD" else None
    # A choice that Sec. A.12 does not vary enters where it differs from the default: a new one leaves stored runs valid.
    network |= {name: value for name, default in CHOICES.items() if (value := getattr(settings, name)) != default}
    descent |= {name: value for name, default in ADAM.items() if (value := getattr(settings, name)) != default}
    data = {"mask": mask, "reference": reference}
    descent |= {name: tensor.numpy() for name, tensor in data.items() if tensor is not None}
    if modulation and settings.g != "flat":
        modulation["g"] = settings.g
    return target.numpy(), network, descent, modulation, seed, device.type, NUMERICS


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
    """The CP network and the axes that an image is fitted with, one copy a channel (Sec. A.12).

    Args:
        values: ``(C, H, W)``; its dtype and device are theirs.
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


def _fit_image(target, network, descent, modulation, seed, device, numerics, checkpoints):
    return _train_image(target, network, descent, modulation, seed, device, numerics, checkpoints)


def _train_image(target, network, descent, modulation, seed, device, numerics, checkpoints) -> ImageRun:
    values = torch.from_numpy(target).to(device)
    model, axes = image_network(values, seed, **CHOICES | network)
    adam = {name: descent.get(name, default) for name, default in ADAM.items()}
    optimizer = torch.optim.Adam(model.parameters(), lr=descent["learning_rate"], **adam, fused=True)
    preconditioner = SepPGD(model, axes, **modulation) if modulation else None
    known = torch.from_numpy(descent["mask"]).to(device) if "mask" in descent else None
    callbacks = []
    if "reference" in descent:
        callbacks.append(_judge(torch.from_numpy(descent["reference"]).to(device), known, descent["iterations"]))
    checkpoint = None
    if checkpoints is not None:
        key = joblib.hash((target, network, descent, modulation, seed, device, numerics))
        checkpoint = checkpoints / f"{key}.pt"
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


def _judge(reference: torch.Tensor, known: torch.Tensor | None, last: int) -> Callback:
    """A callback that compares with the reference on the pixels that the training does not see, or on all."""
    where = torch.ones_like(reference[0], dtype=torch.bool) if known is None else ~known

    def judge(state: State) -> dict[str, float] | None:
        if state.iteration % 10 and state.iteration != last:
            return None
        return {"judged": metrics.psnr(state.prediction[:, where], reference[:, where])}

    return judge
