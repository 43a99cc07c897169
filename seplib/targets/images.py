"""Images to fit: the paper's and bundled ones, truncated, noisy, one channel (Sec. A.12, Tables 7 and 8)."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pooch
import torch
from jaxtyping import Float
from PIL import Image, UnidentifiedImageError
from skimage import data as bundled
from skimage.transform import resize
from torch import Tensor

from seplib.reproduce import recipes

# The USC-SIPI volume "misc", and the SHA-256 of each image's decoded pixels (row by row, RGB): one checksum for the
# archive's TIFF and for a lossless copy in SEPLIB_DATA.
_ARCHIVE = "https://sipi.usc.edu/database/download.php?vol=misc&img={}"
_PAPER = {
    "baboon": ("4.2.03", "526f7c8cc1eea030e4417c189920223fb5b3e59317dbca2118f4832f72f97ef2"),
    "peppers": ("4.2.07", "a18d4e9adaa8677dbf9d454680ace6000767e81a349ddbebf988670d1623bb85"),
    "plane": ("4.2.05", "c9ca18e8a90f4c9d045fdb27e034bd7991a7576974920c9ff7ee16cd3cadbd6d"),
}
# scikit-image ships these; each stands in for one of the paper's images where that cannot be had.
_BUNDLED = {"astronaut": "plane", "chelsea": "baboon", "coffee": "peppers"}

IMAGES = (*_PAPER, *_BUNDLED)


@dataclass(frozen=True)
class ImageTarget:
    """An RGB image as a fitting target (Sec. A.12).

    Attributes:
        name: what it shows; another name than asked for if a bundled image stands in.
        values: ``(3, H, W)`` in [0, 1], float32.
        source: where it came from, in words.
    """

    name: str
    values: Float[Tensor, "3 H W"]
    source: str


def image(name: str, size: int = 512) -> ImageTarget:
    """Load one of the paper's images, or a bundled one, as a square (Sec. A.12).

    *Baboon*, *Peppers* and *Plane* are read from ``$SEPLIB_DATA/<name>.png`` or, without it, fetched once from the USC-SIPI
    archive and checked against a checksum of their pixels. Where neither works, an image that scikit-image ships stands
    in, and name and source say so. "astronaut", "chelsea" and "coffee" are always bundled and need no network.

    Args:
        name: one of :data:`IMAGES`.
        size: side length in pixels, 8 to 512. Smaller than the original means antialiased resampling.

    Raises:
        ValueError: no such image, a size out of range, or a file that is not an image.
    """
    if name not in IMAGES:
        raise ValueError(f"image must be one of {', '.join(IMAGES)}, got {name!r}")
    if not 8 <= size <= 512:
        raise ValueError(f"size must be between 8 and 512 pixels, got {size}")
    if name in _BUNDLED:
        return _target(name, getattr(bundled, name)(), size, "bundled with scikit-image")
    folder = os.environ.get("SEPLIB_DATA")
    if folder and (path := Path(folder) / f"{name}.png").exists():
        pixels = read_image(path)
        known = "checksum verified" if _checksum(pixels) == _PAPER[name][1] else "NOT the USC-SIPI pixels"
        return _target(name, pixels, size, f"SEPLIB_DATA, {known}")
    try:
        pixels = _download(name)
    except (OSError, ValueError) as error:
        stand_in = next(own for own, paper in _BUNDLED.items() if paper == name)
        pixels = getattr(bundled, stand_in)()
        source = f"bundled with scikit-image, in place of {name}: {type(error).__name__} on download"
        return _target(stand_in, pixels, size, source)
    return _target(name, pixels, size, "USC-SIPI, checksum verified")


def _target(name: str, pixels: np.ndarray, size: int, source: str) -> ImageTarget:
    recipe = {"make": "image", "name": name, "size": size, "sha256": _checksum(pixels)}
    return ImageTarget(name, recipes.attach(_square(pixels, size), recipe), source)


@recipes.makes("image")
def _again(name: str, size: int, sha256: str) -> Float[Tensor, "3 H W"]:
    """Values of an image as a recipe names them; the file at hand must be the one that the recipe was written for."""
    found = image(name, size).values
    if recipes.of(found)["sha256"] != sha256:
        raise ValueError(f"the image {name!r} at hand is not the one with checksum {sha256[:12]}...; see SEPLIB_DATA")
    return found


def read_image(path: str | Path) -> np.ndarray:
    """Read an image file as RGB bytes ``(H, W, 3)`` (Sec. A.12).

    Raises:
        ValueError: the file is missing, or is not an image.
    """
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB"))
    except FileNotFoundError:
        raise ValueError(f"there is no image file {path}") from None
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{path} is not a readable image (PNG, TIFF, JPEG): {type(error).__name__}") from None


def _download(name: str) -> np.ndarray:
    number, checksum = _PAPER[name]
    path = Path(
        pooch.retrieve(_ARCHIVE.format(number), known_hash=None, fname=f"{name}.tiff", path=pooch.os_cache("seplib"))
    )
    pixels = read_image(path)
    if _checksum(pixels) != checksum:
        path.unlink()
        raise ValueError(f"the download of {name} does not match its checksum")
    return pixels


def _checksum(pixels: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


def _square(pixels: np.ndarray, size: int) -> Float[Tensor, "3 H W"]:
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    values = pixels[top : top + side, left : left + side].astype(np.float64) / 255
    if side != size:
        values = resize(values, (size, size), anti_aliasing=side > size)
    return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1))).float()


@recipes.makes("truncated")
def truncate(values: Tensor, rank: int) -> Float[Tensor, "C H W"]:
    """Best approximation of a given rank to each channel of an image, by its singular value decomposition (Table 8).

    Args:
        values: ``(C, H, W)``.
        rank: 1 to min(H, W).

    Returns:
        In the dtype of the values; not clipped to [0, 1].

    Raises:
        ValueError: a rank out of range.

    >>> torch.linalg.matrix_rank(truncate(torch.rand(3, 8, 8), 2)).tolist()
    [2, 2, 2]
    """
    if not 1 <= rank <= min(values.shape[1:]):
        raise ValueError(f"rank must be between 1 and {min(values.shape[1:])}, got {rank}")
    U, s, V = torch.linalg.svd(values.double(), full_matrices=False)
    return ((U[..., :rank] * s[:, None, :rank]) @ V[:, :rank]).to(values.dtype)


@recipes.makes("channel")
def channel(values: Tensor, index: int) -> Float[Tensor, "1 H W"]:
    """One channel of an image, as an image (Sec. A.12).

    >>> channel(torch.zeros(3, 4, 5), 1).shape
    torch.Size([1, 4, 5])
    """
    return values[index : index + 1].clone()


@recipes.makes("noisy")
def noisy(values: Tensor, deviation: float, seed: int) -> Tensor:
    """An image with Gaussian noise of this standard deviation, not clipped; the same draw at every deviation (Table 7)."""
    if not deviation:
        return values
    generator = torch.Generator().manual_seed(1000 + seed)
    return values + deviation * torch.randn(values.shape, generator=generator, dtype=torch.float64).to(values.dtype)
