"""Fit a picture of one's own: ``python -m seplib fit`` (Sec. 5, image representation and inpainting)."""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from seplib import metrics
from seplib.preconditioning import SepPGD
from seplib.separable import CP
from seplib.setups import CHOICES, image_network
from seplib.training import fit, write_atomic

METHODS = ("seppgd", "sepnn")
# Pillow's modes that hold what their name says; every other one becomes one of these.
_MODES = {"1": "L", "LA": "RGBA", "PA": "RGBA", "La": "RGBA", "RGBa": "RGBA"}


@dataclass(frozen=True)
class Fitted:
    """A fitted picture (Sec. 5).

    Attributes:
        model: the CP network, one copy a channel.
        config: what :func:`load` needs to build it again.
        values: ``(C, H, W)`` output, clipped to [0, 1].
        psnr: dB of the clipped output over the known pixels.
        seconds: of training.
    """

    model: CP
    config: dict[str, Any]
    values: Tensor
    psnr: float
    seconds: float


def read(path: str | Path) -> Tensor:
    """Read a picture as ``(C, H, W)`` in [0, 1], float32: C = 1 for grey, 3 for RGB, 4 with transparency (Sec. 5).

    Raises:
        ValueError: the file is missing, is no image, or is larger than Pillow dares to decode.
    """
    try:
        with Image.open(path) as picture:
            if picture.mode.startswith("I;16"):
                return torch.from_numpy(np.asarray(picture).astype(np.float32) / 65535)[None]
            mode = _MODES.get(picture.mode, picture.mode)
            if mode not in ("L", "RGB", "RGBA"):
                mode = "RGBA" if "transparency" in picture.info else "RGB"
            pixels = np.asarray(picture.convert(mode))
    except FileNotFoundError:
        raise ValueError(f"there is no image file {path}") from None
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path} is too large: {error}") from None
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"{path} is not a readable image (PNG, TIFF, JPEG): {type(error).__name__}") from None
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    return torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float32) / 255)


def read_mask(path: str | Path, values: Tensor) -> Tensor:
    """Read which pixels of a picture are known: ``(H, W)`` booleans, bright pixels of the file are the missing ones.

    Raises:
        ValueError: not readable, another size than the picture, or nothing known or nothing missing (Figs. 10-12).
    """
    missing = read(path)[:3].mean(0) > 0.5
    if missing.shape != values.shape[1:]:
        sizes = [f"{shape[1]} x {shape[0]}" for shape in (missing.shape, values.shape[1:])]
        raise ValueError(f"the mask {path} is {sizes[0]} pixels, the image is {sizes[1]}")
    if missing.all() or not missing.any():
        raise ValueError(f"the mask {path} must have bright (missing) and dark (known) pixels, it has one kind only")
    return ~missing


def required_bytes(shape: tuple[int, int, int], rank: int, width: int, depth: int) -> int:
    """Memory that :func:`fit_picture` needs at its peak, estimated (Sec. A.1.1): 4-byte numbers.

    Seven arrays of the image's size; parameters, their gradient and Adam's two moments; and for each axis of n points the
    layers' values and cotangents and a kernel with its eigenvectors.
    """
    channels, *sizes = shape
    parameters = 2 * (width + (depth - 2) * width**2 + width * rank)
    axes = sum(4 * n * (depth * width + rank) + 6 * n**2 for n in sizes)
    return 4 * channels * (7 * sizes[0] * sizes[1] + 5 * parameters + axes)


def fit_picture(
    values: Tensor,
    method: str = "seppgd",
    *,
    mask: Tensor | None = None,
    rank: int = 500,
    width: int = 500,
    depth: int = 3,
    omega: float = 30.0,
    k: int = 70,
    update_every: int = 10,
    learning_rate: float = 1e-4,
    iterations: int = 1300,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Fitted:
    """Fit a picture of any size with the settings of Sec. A.12 unless told otherwise.

    Args:
        values: ``(C, H, W)`` in [0, 1].
        method: "seppgd" (Definition 1) or "sepnn" (plain gradients).
        mask: ``(H, W)`` booleans, the known pixels; the others are filled in by the network.
        rank: R.
        width: W of the SIREN factors.
        depth: their number of linear layers L.
        omega: their frequency w_0.
        k: modulated eigenvalues, at most the shorter side.
        update_every: iterations between preconditioner updates.
        learning_rate: of Adam.
        iterations: number of updates.
        seed: of the initial weights.
        device: where to compute.

    Raises:
        ValueError: an unknown method, an image smaller than 2 x 2 or k out of range, more memory needed than is free.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    channels, height, across = values.shape
    if min(height, across) < 2:
        raise ValueError(f"an image needs at least 2 x 2 pixels, got {across} x {height}")
    needed, free = required_bytes((channels, height, across), rank, width, depth), psutil.virtual_memory().available
    if torch.device(device).type == "cpu" and needed > free:
        raise ValueError(
            f"an image of {across} x {height} pixels with {channels} channels, rank {rank} and width {width} needs about "
            f"{needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; shrink the image, the rank or the width"
        )
    network = dict(rank=rank, width=width, depth=depth, omega=omega)
    config = {"network": network, "shape": list(values.shape), "seed": seed}
    values = values.to(device)
    model, axes = image_network(values, seed, **CHOICES | network)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True)
    preconditioner = SepPGD(model, axes, k, update_every) if method == "seppgd" else None
    known = None if mask is None else mask.to(device)
    history = fit(model, axes, values, optimizer, preconditioner, iterations, mask=known)
    with torch.no_grad():
        output = model.grid(axes).clamp(0, 1)
    where = torch.ones_like(values[0], dtype=torch.bool) if known is None else known
    psnr = metrics.psnr(output[:, where], values[:, where])
    return Fitted(model, config, output.cpu(), psnr, history.seconds[-1])


def save(fitted: Fitted, picture: Path, network: Path) -> None:
    """Write the output as PNG and the network as NPZ, numbers and a line of JSON only, so that reading runs no code (Sec. 5)."""
    pixels = (fitted.values * 255).round().byte().permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(buffer, "png")
    write_atomic(picture, buffer.getvalue())
    buffer = io.BytesIO()
    arrays = {name: tensor.cpu().numpy() for name, tensor in fitted.model.state_dict().items()}
    np.savez(buffer, config=json.dumps(fitted.config), **arrays)
    write_atomic(network, buffer.getvalue())


def load(path: str | Path) -> tuple[CP, list[Tensor]]:
    """Read back a network that :func:`save` wrote, with the axes of its picture (Sec. 5).

    Raises:
        ValueError: the file is missing or not one of ours.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            config = json.loads(str(stored["config"]))
            state = {name: torch.from_numpy(stored[name]) for name in stored.files if name != "config"}
        values = torch.empty(config["shape"], dtype=next(iter(state.values())).dtype)
        model, axes = image_network(values, config["seed"], **CHOICES | config["network"])
        model.load_state_dict(state)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, StopIteration) as error:
        raise ValueError(f"{path} does not hold a network written by `seplib fit`: {type(error).__name__}") from None
    return model, axes


def check_writable(folder: Path) -> None:
    """Find out before a long training run whether its results can be written.

    Raises:
        ValueError: they cannot (Sec. 5).
    """
    probe = folder / ".seplib-probe"
    try:
        write_atomic(probe, b"")
        probe.unlink()
    except OSError as error:
        raise ValueError(f"cannot write to {folder}: {error.strerror}") from None
