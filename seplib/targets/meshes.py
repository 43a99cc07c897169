"""Triangle meshes: read, placed on a grid, voxelised by looking along the axes (Sec. A.12)."""

import gzip
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from seplib.targets.files import check_input

MESHES = (".ply", ".ply.gz", ".obj", ".stl")
# Triangles are rasterised in portions of about this many pairs of a triangle and a ray: 100 MB of work arrays.
_PORTION = 1 << 20


@dataclass(frozen=True)
class Mesh:
    """Triangles in space (Sec. A.12).

    Attributes:
        vertices: ``(V, 3)`` finite coordinates.
        faces: ``(F, 3)`` indices of vertices.

    Raises:
        ValueError: no triangle, a coordinate that is not finite, an index without a vertex.
    """

    vertices: Float[np.ndarray, "V 3"]
    faces: Integer[np.ndarray, "F 3"]

    def __post_init__(self):
        if not len(self.faces):
            raise ValueError("the mesh is empty: it has no triangles")
        if bad := int((~np.isfinite(self.vertices)).any(1).sum()):
            raise ValueError(f"the mesh has {bad} vertices with coordinates that are not finite")
        if self.faces.min() < 0 or self.faces.max() >= len(self.vertices):
            wrong = self.faces.max() if self.faces.min() >= 0 else self.faces.min()
            raise ValueError(f"a triangle names vertex {wrong}, but there are {len(self.vertices)}")


def read_mesh(path: str | Path) -> Mesh:
    """Read a triangle mesh: PLY, OBJ or STL, text or binary, PLY also compressed (Sec. A.12).

    Raises:
        ValueError: another ending, no such file, not readable, or whatever :class:`seplib.targets.meshes.Mesh` refuses.
    """
    path = Path(path)
    kind = next((ending for ending in MESHES if path.name.lower().endswith(ending)), None)
    if kind is None:
        raise ValueError(f"a mesh file ends in one of {', '.join(MESHES)}, got {path.name}")
    check_input(path, "mesh")
    try:
        import trimesh  # half a second that few need

        loaded = trimesh.load(io.BytesIO(_content(path)), file_type=kind.split(".")[1], process=False, force="mesh")
        return Mesh(
            np.asarray(loaded.vertices, dtype=np.float64).reshape(-1, 3), np.asarray(loaded.faces).reshape(-1, 3)
        )
    except Exception as error:  # whatever a damaged file provokes in the reader
        reason = str(error) if isinstance(error, ValueError) and "mesh" in str(error) else type(error).__name__
        raise ValueError(f"{path} is not a readable mesh: {reason}") from None


def _content(path: Path) -> bytes:
    """What the file holds, unpacked; a small file can unpack to more than there is memory."""
    limit = psutil.virtual_memory().available // 4
    with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"the mesh takes more than {limit / 1e9:.1f} GB, a quarter of the memory that is free")
    return data


def required_bytes(sizes: Sequence[int], faces: int = 0) -> int:
    """Memory that :func:`seplib.targets.meshes.occupancy` needs at its peak, estimated (Sec. A.12): four arrays of a byte a voxel, and the triangles."""
    return 4 * int(np.prod(sizes, dtype=np.int64)) + 200 * faces + 100 * _PORTION


def place(mesh: Mesh, sizes: Sequence[int], margin: float = 1.0, turn: bool = False) -> Mesh:
    """The mesh in voxel units, centred in the grid and as large as fits, voxels being cubes (Sec. A.12).

    Args:
        mesh: in any units.
        sizes: ``(n_1, n_2, n_3)``; voxel centres lie at 0, 1, ..., n - 1.
        margin: voxels left free on every side.
        turn: rotate by right angles so that the longest side comes to lie along the longest axis, and so on.

    Raises:
        ValueError: an unfit grid, a mesh without extent.
    """
    check_sizes(sizes)
    low, high = mesh.vertices.min(0), mesh.vertices.max(0)
    if not (high > low).any():
        raise ValueError("the mesh has no extent: all its vertices are one point")
    order = np.arange(3)
    if turn:
        order[np.argsort(sizes, kind="stable")] = np.argsort(high - low, kind="stable")
    centred = (mesh.vertices - (low + high) / 2)[:, order]
    if np.linalg.det(np.eye(3)[order]) < 0:
        centred[:, 0] *= -1  # an odd permutation mirrors; with one axis reversed it is a rotation
    room = np.array(sizes) - 1 - 2 * margin
    scale = np.min(room / np.maximum((high - low)[order], np.finfo(float).tiny))
    return Mesh(centred * scale + (np.array(sizes) - 1) / 2, mesh.faces)


def voxelise(mesh: Mesh, sizes: Sequence[int], margin: float = 1.0, turn: bool = False) -> Bool[Tensor, "n1 n2 n3"]:
    """Occupancy of a mesh on a grid: :func:`seplib.targets.meshes.place`, then :func:`seplib.targets.meshes.occupancy` (Sec. A.12).

    >>> corners = np.array([[0., 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    >>> tetrahedron = Mesh(corners, np.array([[0, 1, 2], [0, 1, 3], [0, 2, 3], [1, 2, 3]]))
    >>> voxelise(tetrahedron, (7, 7, 7))[1, 1].int().tolist()
    [0, 1, 1, 1, 1, 0, 0]
    """
    return occupancy(place(mesh, sizes, margin, turn), sizes)


def occupancy(mesh: Mesh, sizes: Sequence[int]) -> Bool[Tensor, "n1 n2 n3"]:
    """Which voxel centres lie inside a mesh given in voxel units (Sec. A.12).

    From each centre one looks along the six directions of the axes and counts the triangles that are met: an odd number
    speaks for inside. For a closed mesh all six agree, whichever way its triangles face, and shells inside of shells are
    hollow. A hole in the mesh misleads the rays that pass through it; so a centre is inside if more than three of
    the six say so. A centre on the surface belongs to the solid where the solid lies on its upper side.

    Args:
        mesh: voxel centres lie at the integers 0 to n - 1; what is outside of that still counts for the rays.
        sizes: ``(n_1, n_2, n_3)``.

    Raises:
        ValueError: an unfit grid, or one too large for the memory that is free.
    """
    check_sizes(sizes)
    needed, free = required_bytes(sizes, len(mesh.faces)), psutil.virtual_memory().available
    if needed > free:
        raise ValueError(
            f"a grid of {' x '.join(map(str, sizes))} voxels needs about {needed / 1e9:.1f} GB to voxelise, "
            f"{free / 1e9:.1f} GB are free"
        )
    votes = np.zeros(tuple(sizes), np.uint8)
    for axis in range(3):
        others = [d for d in range(3) if d != axis]
        shape = (*(sizes[d] for d in others), sizes[axis] + 1)
        parity = np.zeros(shape, np.uint8)  # of the triangles met so far on the way up the axis
        for _, row, column_, depth in crossings(mesh.vertices[:, [*others, axis]], mesh.faces, shape[:2]):
            at = np.clip(np.ceil(depth), 0, sizes[axis]).astype(np.int64)
            np.bitwise_xor.at(parity, (row, column_, at), 1)
        np.bitwise_xor.accumulate(parity, axis=2, out=parity)
        # Behind the last voxel stands the parity of the whole ray. If it is odd, the ray has come through a hole, and the
        # two directions contradict each other: one vote of two.
        votes += np.moveaxis(np.where(parity[..., -1:], 1, 2 * parity[..., :-1]).astype(np.uint8), 2, axis)
    return torch.from_numpy(votes > 3)


def crossings(
    vertices: np.ndarray, faces: np.ndarray, shape: Sequence[int]
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Where rays along the third axis, through the integer points of the first two, meet triangles (Sec. A.12, Fig. 3).

    Scanline rasterisation. An edge is cut at a row from its lower end to its upper, the lower row included and the upper
    not; so two triangles with a common edge compute the same point, bit for bit, and no ray slips between them or
    is counted twice, wherever it meets edges and vertices.

    Args:
        vertices: ``(V, 3)``.
        faces: ``(F, 3)``.
        shape: number of rows and columns; what lies outside is left out.

    Yields:
        Portions of the face, row, column and third coordinate of each crossing. Cost: proportional to the triangles and
        the crossings.
    """
    corners = vertices[faces]
    low = np.clip(np.ceil(corners[..., :2].min(1)), 0, shape)
    high = np.clip(np.ceil(corners[..., :2].max(1)), 0, shape)
    pairs = np.cumsum(np.prod(np.maximum(high - low, 0), axis=1) + 1)
    starts = np.unique(np.searchsorted(pairs, np.arange(0, pairs[-1], _PORTION)))
    for start, stop in zip(starts, [*starts[1:], len(faces)]):
        face, row = _ranges(low[start:stop, 0], high[start:stop, 0])
        face += start
        ends = np.empty((2, len(face), 2))  # of each cut: columns and depths of its two ends
        found = np.zeros(len(face), np.int64)
        for a, b in ((0, 1), (1, 2), (2, 0)):
            p, q = corners[face, a], corners[face, b]
            cut = np.flatnonzero((p[:, 0] <= row) != (q[:, 0] <= row))
            p, q = p[cut], q[cut]
            p, q = np.where((p[:, 0] > q[:, 0])[:, None], q, p), np.where((p[:, 0] > q[:, 0])[:, None], p, q)
            share = (row[cut] - p[:, 0]) / (q[:, 0] - p[:, 0])
            ends[found[cut], cut] = p[:, 1:] + share[:, None] * (q[:, 1:] - p[:, 1:])
            found[cut] += 1
        first = ends[..., 0].argmin(0)
        left, right = (np.take_along_axis(ends, at[None, :, None], 0)[0] for at in (first, 1 - first))
        cut, columns = _ranges(*(np.clip(np.ceil(end[:, 0]), 0, shape[1]) for end in (left, right)))
        left, right = left[cut], right[cut]
        share = (columns - left[:, 0]) / (right[:, 0] - left[:, 0])
        yield face[cut], row[cut], columns, left[:, 1] + share * (right[:, 1] - left[:, 1])


def _ranges(start: np.ndarray, stop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All integers of all ranges ``start[i], ..., stop[i] - 1``, each with its i."""
    counts = np.maximum(stop - start, 0).astype(np.int64)
    index = np.repeat(np.arange(len(counts)), counts)
    return index, np.arange(len(index)) - np.repeat(np.cumsum(counts) - counts - start.astype(np.int64), counts)


def check_sizes(sizes: Sequence[int]) -> None:
    """Refuse what is not the shape of a volume (Sec. A.12).

    Raises:
        ValueError: not three sizes of at least 4.
    """
    if len(sizes) != 3 or min(sizes) < 4:
        raise ValueError(f"a grid has three sizes of at least 4 voxels, got {' x '.join(map(str, sizes))}")
