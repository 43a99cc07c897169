"""Fit a volume of one's own: an array in a file, or the inside of a mesh (Sec. 5, surface representation)."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import torch
from jaxtyping import Float
from torch import Tensor

from seplib import metrics
from seplib.own import pictures
from seplib.reproduce import profiles
from seplib.targets.files import check_input, write_all
from seplib.targets.meshes import MESHES, place, read_mesh, voxelise

_RUN = profiles.get("paper").surface.run
# As in the surface experiment, but for the learning rate: with 0.005 a training may end in one of its collapses.
SETTINGS = dict(rank=_RUN.rank, width=_RUN.width, k=_RUN.k, iterations=_RUN.iterations)
SETTINGS |= dict(omega=_RUN.omega, scale=_RUN.scale, learning_rate=1e-3)


@dataclass(frozen=True)
class Own:
    """What is fitted, and the way back to its own units (Sec. 5).

    Attributes:
        name: of the file, without its ending.
        values: ``(1, n_1, ..., n_D)`` in [0, 1], float32.
        low: value of the file that became 0.
        high: value of the file that became 1.
        occupancy: whether there are no values between.
        dtype: that the output needs to tell the values of the file apart, float32 or float64.
        origin: for a mesh, the point in its units where the first voxel's centre lies.
        side: for a mesh, the side of a voxel in its units.
    """

    name: str
    values: Float[Tensor, "1 ..."]
    low: float = 0.0
    high: float = 1.0
    occupancy: bool = True
    dtype: type[np.floating] = np.float32
    origin: np.ndarray | None = None
    side: float | None = None

    def quality(self, fitted: pictures.Fitted) -> str:
        """How good the fit is, in words: IoU for an occupancy, PSNR with the range of the data as its peak for others (Sec. 5)."""
        if self.occupancy:
            return f"IoU {metrics.iou(fitted.values, self.values):.4f}"
        return f"PSNR {fitted.psnr:.2f} dB"


def is_volume(path: Path) -> bool:
    """Whether a file is an array or a mesh by its ending, not a picture (Sec. 5)."""
    return path.name.lower().endswith((".npy", *MESHES))


def read(path: Path, resolution: int = 256) -> Own:
    """Read an array, scaled to [0, 1], or a mesh as the occupancy of a grid of cubes (Sec. 5).

    Args:
        path: ``.npy`` with two or three axes, or one of :data:`seplib.targets.meshes.MESHES`.
        resolution: for a mesh, voxels along its longest side.

    Raises:
        ValueError: no such file, not readable, not real numbers, not finite, of one value only, too small or too large.
    """
    if path.name.lower().endswith(".npy"):
        return _array(path)
    if resolution < 8:
        raise ValueError(f"resolution must be at least 8 voxels, got {resolution}")
    if resolution > 10_000:
        raise ValueError(f"resolution must be at most 10000 voxels, got {resolution}")
    mesh = read_mesh(path)
    with np.errstate(over="ignore"):
        extent = np.ptp(mesh.vertices, axis=0)
    if not np.isfinite(extent).all():
        raise ValueError(f"{path} is too large to measure: its coordinates reach {np.abs(mesh.vertices).max():g}")
    # One voxel stays free on either side; a side shorter than two voxels would leave nothing to fit.
    sizes = np.maximum(4, np.ceil(extent / max(extent.max(), 1e-300) * (resolution - 3)).astype(int) + 3)
    placed = place(mesh, sizes.tolist())
    values = voxelise(mesh, sizes.tolist())
    if not values.any():
        grid = " x ".join(map(str, sizes))
        raise ValueError(f"{path} holds nothing: no voxel centre of the {grid} grid lies inside; is the mesh open?")
    side = extent.max() / np.ptp(placed.vertices, axis=0).max()
    name = path.name[: -len(next(ending for ending in MESHES if path.name.lower().endswith(ending)))]
    origin = mesh.vertices.min(0) - side * placed.vertices.min(0)
    return Own(name, values[None].float(), origin=origin, side=side)


def _array(path: Path) -> Own:
    check_input(path, "array")
    try:
        with np.errstate(all="raise"):  # a shape may overflow
            array = np.lib.format.open_memmap(path, mode="r")  # reads nothing but .npy, and no objects
    except Exception as error:  # whatever a damaged file provokes
        raise ValueError(f"{path} is not a readable array of numbers (.npy): {type(error).__name__}") from None
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{path} must hold real numbers, got {array.dtype}")
    shape = " x ".join(map(str, array.shape))
    if array.ndim not in (2, 3) or min(array.shape) < 2:
        raise ValueError(f"{path} must have two or three axes of at least 2 points, got {shape or 'a single number'}")
    needed, free = 24 * array.size, psutil.virtual_memory().available
    if needed > free:
        raise ValueError(f"{path}, {shape}, needs about {needed / 1e9:.1f} GB to read, {free / 1e9:.1f} GB are free")
    low, high = float(array.min()), float(array.max())
    if not np.isfinite([low, high]).all():
        raise ValueError(f"{path} holds values that are not finite")
    if low == high:
        raise ValueError(f"{path} holds one value only, {low:g}")
    half = high / 2 - low / 2  # the range itself may be too large for a double
    if not half:
        raise ValueError(f"{path} holds values that are too close to tell apart, from {low:g} to {high:g}")
    values = array.astype(np.float64, order="C")  # so that low and high become 0 and 1, whatever the type
    values /= 2
    values -= low / 2
    values /= half
    occupancy = bool(((values == 0) | (values == 1)).all())
    dtype = np.float32 if np.result_type(array.dtype, np.float32) == np.float32 else np.float64
    return Own(path.name[:-4], torch.from_numpy(values.astype(np.float32))[None], low, high, occupancy, dtype)


def outputs(own: Own, folder: Path) -> list[Path]:
    """Where :func:`save` writes: network, output, for a mesh its surface (Sec. 5)."""
    endings = (".npz", ".npy") if own.side is None else (".npz", ".npy", ".ply")
    return [folder / f"{own.name}-fit{ending}" for ending in endings]


def save(own: Own, fitted: pictures.Fitted, folder: Path) -> list[Path]:
    """Write the network as NPZ, the output as NPY in the units of the file, for a mesh its surface as PLY too, if it has one (Sec. 5).

    Returns:
        The files, NAME-fit with their endings.

    Raises:
        ValueError: one of them could not be written; it says where the network is.
    """
    values = fitted.values[0].numpy()

    def array() -> bytes:
        part = values.astype(own.dtype) * own.dtype(own.high / 2 - own.low / 2)
        buffer = io.BytesIO()
        np.save(buffer, own.dtype(own.low) + part + part)
        return buffer.getvalue()

    def surface() -> bytes:
        import trimesh  # half a second that few need

        from seplib.studies.surface.rendering import isosurface

        found = isosurface(values)
        moved = found.vertices * own.side + own.origin
        return trimesh.Trimesh(moved, found.faces, process=False).export(file_type="ply")

    results = zip(outputs(own, folder), (lambda: pictures.network_bytes(fitted), array, surface))
    return write_all([pair for pair in results if pair[1] is not surface or (values > 0.5).any()])
