"""Solids as occupancy volumes: what the surface experiment is fitted to (Sec. A.12, Fig. 3)."""

import gzip
import hashlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pooch
import torch
from jaxtyping import Bool
from torch import Tensor

from seplib.reproduce import recipes
from seplib.reproduce.store import stored
from seplib.targets.meshes import check_sizes, read_mesh, voxelise

# Address and SHA-256: of the Stanford repository's archive; of the uncompressed PLY, which lies in an archive with others.
_STANFORD = {
    "thai-statue": (
        "https://graphics.stanford.edu/data/3Dscanrep/xyzrgb/xyzrgb_statuette.ply.gz",
        "1d867b6540c02935caa777bd6746429a62d4a5d23f11c9bfdfebbaa90c05ca8b",
    ),
    "stanford-dragon": (None, "fea87ff48f2aba22fb53e7b67c3ff3f7b8c2a3b3a0653af62c48bba67c6d5744"),
}
SURFACES = (*_STANFORD, "column")
# Where the files' second axis comes to lie on a grid like the paper's, its second axis the longest and its third the shortest.
_UP = {"thai-statue": (0, 1, 0), "stanford-dragon": (-1, 0, 0)}


@dataclass(frozen=True)
class VolumeTarget:
    """A solid as a fitting target (Sec. A.12).

    Attributes:
        name: what it shows; another name than asked for if something stands in.
        values: ``(n_1, n_2, n_3)``, whether each voxel's centre lies inside.
        source: where it came from, in words.
        up: the direction that is upward on a grid like the paper's.
    """

    name: str
    values: Bool[Tensor, "n1 n2 n3"]
    source: str
    up: tuple[int, int, int] = (0, 1, 0)


def surface(name: str, sizes: Sequence[int]) -> VolumeTarget:
    """A solid of the surface experiment on a grid of given sizes (Sec. A.12, Fig. 3).

    The *Thai statue* is read from ``$SEPLIB_DATA/thai-statue.ply.gz`` or fetched once from the Stanford repository, 106 MB
    whose checksum is known. Where neither works, the *Stanford dragon* of ``$SEPLIB_DATA/stanford-dragon.ply.gz`` stands
    in, and without that the "column", a twisted and fluted solid made here; name and source say so. A
    voxelised mesh is stored, see :mod:`seplib.reproduce.store`.

    Args:
        name: one of :data:`SURFACES`.
        sizes: ``(n_1, n_2, n_3)``.

    Raises:
        ValueError: no such solid, an unfit grid, a file that is not a mesh.
    """
    if name not in SURFACES:
        raise ValueError(f"surface must be one of {', '.join(SURFACES)}, got {name!r}")
    check_sizes(sizes)
    if name == "column":
        return VolumeTarget(name, column(sizes), "made here by a formula")
    reasons = []
    for candidate in SURFACES[SURFACES.index(name) : -1]:
        try:
            path, source = _find(candidate)
        except (OSError, ValueError) as error:
            reasons.append(f"{candidate} ({error if isinstance(error, FileNotFoundError) else type(error).__name__})")
            continue
        instead = f", in place of {', '.join(reasons)}" if reasons else ""
        return VolumeTarget(candidate, _solid(candidate, sizes, _checksum(path)), source + instead, _UP[candidate])
    return VolumeTarget("column", column(sizes), f"made here by a formula, in place of {', '.join(reasons)}")


@recipes.makes("column")
def column(sizes: Sequence[int]) -> Bool[Tensor, "n1 n2 n3"]:
    """A twisted, fluted column along the second axis: the solid that needs no file (Sec. A.12).

    >>> column((16, 24, 16)).sum().item()
    1636
    """
    x, y, z = (torch.linspace(-1, 1, n, dtype=torch.float64) for n in sizes)
    radius, angle = torch.hypot(x[:, None], z), torch.atan2(z, x[:, None])
    volume = torch.zeros(tuple(sizes), dtype=torch.bool)
    for level, height in enumerate(y.tolist()):  # level by level: nothing of the volume's size but the volume
        if abs(height) < 0.95:
            relief = 0.07 * torch.cos(8 * angle + 9 * height) + 0.025 * torch.cos(24 * angle - 22 * height)
            volume[:, level] = radius < 0.62 + 0.16 * math.cos(7 * height) - 0.1 * height + relief
    return volume


def _find(name: str) -> tuple[Path, str]:
    """File of a Stanford mesh and its source in words."""
    address, checksum = _STANFORD[name]
    folder = os.environ.get("SEPLIB_DATA")
    if folder and (path := Path(folder) / f"{name}.ply.gz").exists():
        data = path.read_bytes()
        digests = {hashlib.sha256(data).hexdigest(), hashlib.sha256(gzip.decompress(data)).hexdigest()}
        return path, f"SEPLIB_DATA, {'checksum verified' if checksum in digests else 'NOT the Stanford file'}"
    if address is None:
        raise FileNotFoundError("not in SEPLIB_DATA")
    pooch.get_logger().setLevel("WARNING")  # where it downloads to is nobody's result
    path = pooch.retrieve(address, known_hash=checksum, fname=f"{name}.ply.gz", path=pooch.os_cache("seplib"))
    return Path(path), "Stanford 3D Scanning Repository, checksum verified"


def _checksum(path: Path) -> str:
    return hashlib.sha256(gzip.decompress(path.read_bytes())).hexdigest()


@recipes.makes("solid")
def _solid(name: str, sizes: Sequence[int], sha256: str) -> Bool[Tensor, "n1 n2 n3"]:
    return _voxels(name=name, sizes=list(sizes), sha256=sha256)


@stored(
    "solid",
    tolerance=0.0,
    dump=lambda volume: {"sizes": list(volume.shape), "bits": np.packbits(volume.numpy())},
    load=lambda found: torch.from_numpy(
        np.unpackbits(found["bits"], count=math.prod(found["sizes"])).astype(bool).reshape(found["sizes"])
    ),
)
def _voxels(*, name: str, sizes: list[int], sha256: str) -> Bool[Tensor, "n1 n2 n3"]:
    path, _ = _find(name)
    if _checksum(path) != sha256:
        raise ValueError(f"the mesh {name!r} at hand is not the one with checksum {sha256[:12]}...; see SEPLIB_DATA")
    return voxelise(read_mesh(path), sizes, turn=True)
