"""Fit a picture of one's own: ``python -m seplib fit`` (Sec. 5, image representation and inpainting).

What is not about files of pictures serves volumes too, see :mod:`seplib.solids`.
"""

import io
import json
import math
from collections.abc import Sequence
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
SETTINGS = dict(rank=500, width=500, k=70, iterations=1300)
# Pillow's modes that hold what their name says; every other one becomes one of these.
_MODES = {"1": "L", "LA": "RGBA", "PA": "RGBA", "La": "RGBA", "RGBa": "RGBA"}


@dataclass(frozen=True)
class Fitted:
    """A fitted picture or volume (Sec. 5).

    Attributes:
        model: the CP network, one copy a channel.
        config: what :func:`load` needs to build it again.
        values: ``(C, n_1, ..., n_D)`` output, clipped to [0, 1].
        psnr: dB of the clipped output over the known entries.
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


def required_bytes(shape: Sequence[int], rank: int, width: int, depth: int, k: int = 0) -> int:
    """Memory that :func:`fit_picture` needs at its peak, estimated (Sec. A.1.1): 4-byte numbers.

    Six arrays of an image's size, or three of a volume's, which is streamed, and what its preconditioner keeps; parameters,
    their gradient and Adam's two moments; for each axis of n points the layers' values and cotangents; for one axis at a
    time a kernel with its eigenvectors.
    """
    channels, *sizes = shape
    parameters = len(sizes) * (width + (depth - 2) * width**2 + width * rank)
    axes = sum(4 * n * (depth * width + rank) for n in sizes) + 5 * max(sizes) ** 2
    arrays = 6 if len(sizes) == 2 else 3 + k * sum(1 / n for n in sizes)
    return 4 * channels * (int(arrays * math.prod(sizes)) + 5 * parameters + axes)


def fit_picture(
    values: Tensor,
    method: str = "seppgd",
    *,
    mask: Tensor | None = None,
    rank: int = 500,
    width: int = 500,
    depth: int = 3,
    omega: float = 30.0,
    scale: str | None = "rank",
    k: int = 70,
    update_every: int = 10,
    learning_rate: float = 1e-4,
    iterations: int = 1300,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Fitted:
    """Fit a picture of any size, or a volume, with the settings of Sec. A.12 for images unless told otherwise.

    Args:
        values: ``(C, n_1, ..., n_D)`` in [0, 1]; for D > 2 the training is streamed.
        method: "seppgd" (Definition 1) or "sepnn" (plain gradients).
        mask: ``(H, W)`` booleans, the known pixels; the others are filled in by the network.
        rank: R.
        width: W of the SIREN factors.
        depth: their number of linear layers L.
        omega: their frequency w_0.
        scale: "rank" for the factor 1/sqrt(R), None for none.
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
    channels, *shape = values.shape
    flat = len(shape) == 2
    kind, unit = ("image", "pixels") if flat else ("volume", "voxels")
    sizes = " x ".join(map(str, shape[::-1] if flat else shape))  # a picture's width comes first
    if min(shape) < 2:
        raise ValueError(f"an {kind} needs at least 2 x 2 {unit}, got {sizes}")
    needed, free = required_bytes(values.shape, rank, width, depth, k), psutil.virtual_memory().available
    if torch.device(device).type == "cpu" and needed > free:
        raise ValueError(
            f"a{'n' * flat} {kind} of {sizes} {unit} with {channels} channel{'s' * (channels > 1)}, rank {rank} and width {width} "
            f"needs about {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; shrink the {kind}, the rank or the width"
        )
    network = dict(rank=rank, width=width, depth=depth, omega=omega) | ({} if scale == "rank" else {"scale": scale})
    config = {"network": network, "shape": list(values.shape), "seed": seed}
    values = values.to(device)
    model, axes = image_network(values, seed, **CHOICES | network)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True)
    preconditioner = SepPGD(model, axes, k, update_every) if method == "seppgd" else None
    known = None if mask is None else mask.to(device)
    history = fit(model, axes, values, optimizer, preconditioner, iterations, mask=known, streamed=not flat)
    with torch.no_grad():
        output = model.grid(axes).clamp_(0, 1)
    pair = (output, values) if known is None else (output[:, known], values[:, known])
    psnr = metrics.psnr(*pair)
    return Fitted(model, config, output.cpu(), psnr, history.seconds[-1])


def save(fitted: Fitted, picture: Path, network: Path) -> None:
    """Write the output as PNG and the network as NPZ (Sec. 5)."""
    pixels = (fitted.values * 255).round().byte().permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(buffer, "png")
    write_atomic(picture, buffer.getvalue())
    save_network(fitted, network)


def save_network(fitted: Fitted, path: Path) -> None:
    """Write the network as NPZ, numbers and a line of JSON only, so that reading runs no code (Sec. 5)."""
    buffer = io.BytesIO()
    arrays = {name: tensor.cpu().numpy() for name, tensor in fitted.model.state_dict().items()}
    np.savez(buffer, config=json.dumps(fitted.config), **arrays)
    write_atomic(path, buffer.getvalue())


def load(path: str | Path) -> tuple[CP, list[Tensor]]:
    """Read back a network that :func:`save` wrote, with the axes of its picture or volume (Sec. 5).

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
