"""Fit a volume of one's own: an array in a file, or the inside of a mesh (Sec. 5, surface representation)."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import torch
import trimesh
from jaxtyping import Float
from torch import Tensor

from seplib import metrics, pictures, profiles
from seplib.checkpoints import write_atomic
from seplib.meshes import MESHES, place, read_mesh, voxelise
from seplib.rendering import isosurface

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
        origin: for a mesh, the point in its units where the first voxel's centre lies.
        side: for a mesh, the side of a voxel in its units.
    """

    name: str
    values: Float[Tensor, "1 ..."]
    low: float = 0.0
    high: float = 1.0
    occupancy: bool = True
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
        path: ``.npy`` with two or three axes, or one of :data:`seplib.meshes.MESHES`.
        resolution: for a mesh, voxels along its longest side.

    Raises:
        ValueError: no such file, not readable, not real numbers, not finite, of one value only, too small or too large.
    """
    if path.name.lower().endswith(".npy"):
        return _array(path)
    if resolution < 8:
        raise ValueError(f"resolution must be at least 8 voxels, got {resolution}")
    mesh = read_mesh(path)
    extent = np.ptp(mesh.vertices, axis=0)
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
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise ValueError(f"there is no array file {path}") from None
    except (OSError, ValueError, EOFError) as error:
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
    values = ((array - low) / (high - low)).astype(np.float32)  # in doubles, so that low and high become 0 and 1
    occupancy = bool(((values == 0) | (values == 1)).all())
    return Own(path.name[:-4], torch.from_numpy(values)[None], low, high, occupancy)


def save(own: Own, fitted: pictures.Fitted, folder: Path) -> list[Path]:
    """Write the output as NPY in the units of the file, the network as NPZ, for a mesh its surface as PLY too, if it has one (Sec. 5).

    Returns:
        The files, NAME-fit with their endings.
    """
    values = fitted.values[0].numpy()
    solid = own.side is not None and bool((values > 0.5).any())
    paths = [folder / f"{own.name}-fit{ending}" for ending in (".ply", ".npy", ".npz")[not solid :]]
    if solid:
        found = isosurface(values)
        surface = trimesh.Trimesh(found.vertices * own.side + own.origin, found.faces, process=False)
        write_atomic(paths[0], surface.export(file_type="ply"))
    buffer = io.BytesIO()
    np.save(buffer, values * np.float32(own.high - own.low) + np.float32(own.low))
    write_atomic(paths[-2], buffer.getvalue())
    pictures.save_network(fitted, paths[-1])
    return paths
