"""Fit a picture of one's own: ``python -m seplib fit`` (Sec. 5, image representation and inpainting).

What is not about files of pictures serves volumes too, see :mod:`seplib.own.solids`.
"""

import hashlib
import io
import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image, ImageOps
from torch import Tensor

from seplib import metrics
from seplib.preconditioning import SepPGD
from seplib.reproduce import profiles
from seplib.separable import CP
from seplib.studies.images.setups import CHOICES, image_network
from seplib.targets.files import check_input, write_all
from seplib.training import State, fit

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

    It is turned as its camera says. 16 bits are kept for grey, colours have 8.

    Raises:
        ValueError: the file is missing, is no image or holds several, is larger than Pillow dares to decode, or has floats or 32-bit
            integers that are not brightnesses.
    """
    check_input(Path(path), "image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a size at half of what is refused, a camera's notes that are damaged
            with Image.open(path) as opened:
                frames, kind = getattr(opened, "n_frames", 1), opened.format
                picture = ImageOps.exif_transpose(opened)
                picture.load()
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path} is too large: {error}") from None
    except Exception as error:  # whatever a damaged file provokes in a decoder
        raise ValueError(f"{path} is not a readable image (PNG, TIFF, JPEG): {type(error).__name__}") from None
    if frames > 1 and kind != "MPO":  # a camera's MPO holds previews
        raise ValueError(f"{path} holds {frames} pictures; save the one to fit in a file of its own")
    if picture.mode.startswith("I;16"):
        return torch.from_numpy(np.asarray(picture).astype(np.float32) / 65535)[None]
    if picture.mode in ("I", "F"):
        # Pillow scales a PNG's or PNM's integers to 16 bits; elsewhere nothing says what white is.
        return _brightness(path, np.asarray(picture), 65535 if kind in ("PNG", "PPM") and picture.mode == "I" else 1)
    mode = "RGBA" if "transparency" in picture.info else _MODES.get(picture.mode, picture.mode)
    pixels = np.asarray(picture.convert(mode if mode in ("L", "RGB", "RGBA") else "RGB"))
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    return torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float32) / 255)


def _brightness(path: str | Path, values: np.ndarray, white: int) -> Tensor:
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= white):
        found = f"from {low:g} to {high:g}" if np.isfinite([low, high]).all() else "that are not finite"
        raise ValueError(
            f"{path} holds {values.dtype} numbers {found}, where an image has 0 to {white}; "
            "save them as an array (.npy), which may hold any range"
        )
    return torch.from_numpy(values.astype(np.float32) / white)[None]


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
    parameters = _parameters(len(sizes), rank, width, depth)
    axes = sum(4 * n * (depth * width + rank) for n in sizes) + 5 * max(sizes) ** 2
    arrays = 6 if len(sizes) == 2 else 3 + k * sum(1 / n for n in sizes)
    return 4 * channels * (int(arrays * math.prod(sizes)) + 5 * parameters + axes)


def stored_bytes(shape: Sequence[int], rank: int, width: int, depth: int = 3) -> int:
    """Room on the disk that the results of :func:`fit_picture` need at most (Sec. A.1.1): network, output in doubles, surface."""
    channels, *sizes = shape
    surface = 240 * max(sizes) ** 2  # a few triangles for each voxel of six faces
    return 4 * channels * _parameters(len(sizes), rank, width, depth) + 8 * math.prod(shape) + surface + 100_000


def _parameters(dimensions: int, rank: int, width: int, depth: int) -> int:
    return dimensions * (width + (depth - 2) * width**2 + width * rank)


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
        ValueError: an unknown method, an image smaller than 2 x 2, k or the seed out of range, more memory needed than is free.
        FloatingPointError: the loss became NaN or infinite; the message says when, and what to try.
        MemoryError: the memory ran out all the same; likewise.
    """
    profiles.check_seed(seed)
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    channels, *shape = values.shape
    flat = len(shape) == 2
    kind, unit = ("image", "pixels") if flat else ("volume", "voxels")
    sizes = " x ".join(map(str, shape[::-1] if flat else shape))  # a picture's width comes first
    if min(shape) < 2:
        raise ValueError(f"an {kind} needs at least 2 x 2 {unit}, got {sizes}")
    device = torch.device(device)
    needed = required_bytes(values.shape, rank, width, depth, k)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    if needed > free:
        raise ValueError(
            f"a{'n' * flat} {kind} of {sizes} {unit} with {channels} channel{'s' * (channels > 1)}, rank {rank} and width {width} "
            f"needs about {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; shrink the {kind}, the rank or the width"
        )
    network = dict(rank=rank, width=width, depth=depth, omega=omega) | ({} if scale == "rank" else {"scale": scale})
    config = {"network": network, "shape": list(values.shape), "seed": seed}
    reached = 0

    def note(state: State) -> None:
        nonlocal reached
        reached = state.iteration

    try:
        values = values.to(device)
        model, axes = image_network(values, seed, **CHOICES | network)
        optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True)
        preconditioner = SepPGD(model, axes, k, update_every) if method == "seppgd" else None
        known = None if mask is None else mask.to(device)
        history = fit(model, axes, values, optimizer, preconditioner, iterations, [note], mask=known, streamed=not flat)
        with torch.no_grad():
            output = model.grid(axes).clamp_(0, 1)
    except FloatingPointError as error:
        raise FloatingPointError(
            f"{error}; try fewer iterations, a smaller k, another seed or the method sepnn"
        ) from None
    except (RuntimeError, MemoryError) as error:
        if "allocate" not in str(error) and not isinstance(error, MemoryError):
            raise
        raise MemoryError(
            f"the memory of {device.type} ran out after {reached} of {iterations} updates, "
            f"about {needed / 1e9:.1f} GB were expected; shrink the {kind}, the rank or the width"
        ) from None
    pair = (output, values) if known is None else (output[:, known], values[:, known])
    psnr = metrics.psnr(*pair)
    return Fitted(model, config, output.cpu(), psnr, history.seconds[-1])


def save(fitted: Fitted, picture: Path, network: Path) -> list[Path]:
    """Write the network as NPZ and the output as PNG, and return where they are (Sec. 5).

    Raises:
        ValueError: one of them could not be written; it says where the network is.
    """

    def png() -> bytes:
        pixels = (fitted.values * 255).round().byte().permute(1, 2, 0).numpy()
        buffer = io.BytesIO()
        Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(buffer, "png")
        return buffer.getvalue()

    return write_all([(network, lambda: network_bytes(fitted)), (picture, png)])


def network_bytes(fitted: Fitted) -> bytes:
    """The network as NPZ, numbers and a line of JSON only, so that reading runs no code; with a checksum (Sec. 5)."""
    arrays = {name: tensor.cpu().numpy() for name, tensor in fitted.model.state_dict().items()}
    config = json.dumps(fitted.config)
    buffer = io.BytesIO()
    np.savez(buffer, config=config, sha256=_checksum(config, arrays), **arrays)
    return buffer.getvalue()


def _checksum(config: str, arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256(config.encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()


def load(path: str | Path) -> tuple[CP, list[Tensor]]:
    """Read back a network that :func:`save` wrote, with the axes of its picture or volume (Sec. 5).

    Raises:
        ValueError: the file is missing, damaged or not one of ours.
    """
    check_input(Path(path), "network")
    refused = f"{path} does not hold a network written by `seplib fit`"
    try:
        with Path(path).open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            config, checksum = str(stored["config"]), str(stored["sha256"])
            arrays = {name: stored[name] for name in stored.files if name not in ("config", "sha256")}
    except Exception as error:  # whatever a damaged file provokes
        raise ValueError(f"{refused}: {type(error).__name__}") from None
    if checksum != _checksum(config, arrays):
        raise ValueError(f"{path} is damaged: its checksum is wrong")
    try:
        described = json.loads(config)
        state = {name: torch.from_numpy(array) for name, array in arrays.items()}
        precision = next(tensor.dtype for tensor in state.values() if tensor.is_floating_point())
        values = torch.zeros((), dtype=precision).expand(described["shape"])
        model, axes = image_network(values, described["seed"], **CHOICES | described["network"])
        model.load_state_dict(state)
    except (ValueError, KeyError, TypeError, RuntimeError, StopIteration) as error:
        raise ValueError(f"{refused}: {type(error).__name__}") from None
    return model, axes
