"""Surfaces of volumes as pictures and as solids to turn (Fig. 3)."""

import base64
import functools
import hashlib
import html
import json
import math
from collections.abc import Mapping, Sequence
from importlib.resources import files

import numpy as np
from IPython.display import HTML
from jaxtyping import Float
from scipy.ndimage import gaussian_filter, uniform_filter
from skimage.measure import block_reduce, marching_cubes

from seplib.targets.meshes import Mesh, crossings

# The camera: turned to the side and lifted, in degrees.
YAW, PITCH = -20.0, 12.0
_LIGHT = np.array([-0.35, 0.55, 0.76])
_BUTTON = (
    "margin: 0 .4rem .4rem 0; padding: .2rem .7rem; color: #22252b; background: #f5f3ef; border: 1px solid #8a8172; "
    "border-radius: 4px; font-size: .9rem"
)
_SHOWN = 20_000  # triangles of a solid to turn, 240 kB a solid in the page


def isosurface(values: np.ndarray, blur: float = 0.0, pool: int = 1) -> Mesh:
    """Surface at level 1/2 by marching cubes, in voxel units; what touches the border is closed there (Fig. 3).

    Args:
        values: ``(n_1, n_2, n_3)``, occupancies or a network's output.
        blur: standard deviation in voxels of a Gaussian that takes the steps off a volume of zeros and ones.
        pool: voxels along each side that are averaged into one.

    Raises:
        ValueError: no value above 1/2.
    """
    values = gaussian_filter(values.astype(np.float32), blur) if blur else values.astype(np.float32)
    values = block_reduce(values, pool, np.mean) if pool > 1 else values
    if not values.max() > 0.5:
        raise ValueError(f"there is no surface: nothing is above 1/2, the highest value is {values.max():.3g}")
    vertices, faces, *_ = marching_cubes(np.pad(values, 1), 0.5, gradient_direction="ascent")  # facing outward
    return Mesh((vertices.astype(np.float64) - 1 + 0.5) * pool - 0.5, faces.astype(np.int64))


def oriented(mesh: Mesh, up: Sequence[int]) -> Mesh:
    """The mesh with the camera's axes: to the right, upward, towards the viewer along the third axis (Fig. 3)."""
    toward = np.array([0, 0, 1])
    return Mesh(mesh.vertices @ np.stack([np.cross(up, toward), up, toward], 1), mesh.faces)


def picture(mesh: Mesh, box: np.ndarray, height: int) -> Float[np.ndarray, "3 H W"]:
    """A shaded picture, by the same rasteriser that voxelises (Fig. 3).

    Args:
        mesh: with the camera's axes, see :func:`oriented`.
        box: ``(2, 3)`` lowest and highest corner of what must be in view, for all pictures that are compared the same.
        height: in pixels; the width follows.

    Returns:
        Grey on white, in [0, 1].
    """
    corners = np.array([[x, y, z] for x in box[:, 0] for y in box[:, 1] for z in box[:, 2]]) @ _camera()
    low, high = corners.min(0), corners.max(0)
    scale = (2 * height - 1) / (high - low)[1]  # two pixels along each side are averaged into one
    width = math.ceil((high - low)[0] * scale / 2)
    points = (mesh.vertices @ _camera() - low) * scale
    depth = np.full((2 * height, 2 * width), -np.inf)
    seen = np.zeros(depth.shape, np.int64)
    for face, column, row, z in crossings(points, mesh.faces, (2 * width, 2 * height)):
        order = np.argsort(z, kind="stable")  # the last of several writes to a pixel, the nearest, stays
        face, column, row, z = (part[order] for part in (face, column, 2 * height - 1 - row, z))
        nearer = z > depth[row, column]
        depth[row[nearer], column[nearer]], seen[row[nearer], column[nearer]] = z[nearer], face[nearer]
    light = 0.2 + 0.75 * np.maximum(_normals(points, mesh.faces) @ _LIGHT / np.linalg.norm(_LIGHT), 0)
    grey = np.where(np.isfinite(depth), light[seen], 1.0)
    return np.repeat(grey.reshape(height, 2, width, 2).mean((1, 3))[None], 3, axis=0)


def _camera() -> np.ndarray:
    """Matrix that takes rows of coordinates to the camera's."""
    yaw, pitch = np.radians([YAW, PITCH])
    turn = [[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]]
    lift = [[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]]
    return (np.array(lift) @ np.array(turn)).T


def _normals(points: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """A normal for each face, the mean of its vertices', each the mean of its faces' by area."""
    corners = points[faces]
    flat = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    at = np.stack([np.bincount(faces.ravel(), np.repeat(flat[:, d], 3), len(points)) for d in range(3)], 1)
    smooth = (at / np.maximum(np.linalg.norm(at, axis=1, keepdims=True), 1e-30))[faces].sum(1)
    return smooth / np.maximum(np.linalg.norm(smooth, axis=1, keepdims=True), 1e-30)


def differing(one: np.ndarray, two: np.ndarray, side: int, count: int = 2) -> list[tuple[int, int]]:
    """Top left corners of the squares in which two pictures differ most, not overlapping (Fig. 3).

    Args:
        one: ``(3, H, W)``.
        two: of the same shape.
        side: of a square in pixels.
        count: number of squares.
    """
    gap = uniform_filter(np.abs(one - two).mean(0), side)
    half, found = side // 2, []
    gap[:half], gap[-half:], gap[:, :half], gap[:, -half:] = -1, -1, -1, -1  # squares stay inside
    for _ in range(count):
        row, column = np.unravel_index(gap.argmax(), gap.shape)
        found.append((int(row) - half, int(column) - half))
        gap[max(0, row - side) : row + side, max(0, column - side) : column + side] = -1
    return found


def solids(volumes: Mapping[str, np.ndarray], up: Sequence[int], blur: float) -> HTML:
    """Solids to turn, one of them shown at a time, in a page that needs no other file (Fig. 3).

    Args:
        volumes: label to ``(n_1, n_2, n_3)``; averaged over cubes of voxels until few triangles are left.
        up: direction that is upward.
        blur: as for :func:`isosurface`.
    """
    meshes = {label: oriented(_coarse(values, blur), up) for label, values in volumes.items()}
    points = np.concatenate([mesh.vertices for mesh in meshes.values()])
    centre, half = (points.min(0) + points.max(0)) / 2, np.ptp(points, axis=0).max() / 2
    content = {"yaw": np.radians(YAW), "pitch": np.radians(PITCH), "meshes": {}}
    for label, mesh in meshes.items():
        scaled = np.round(((mesh.vertices - centre) / half + 1) * 32767.5).clip(0, 65535)
        parts = {"vertices": scaled.astype("<u2"), "faces": mesh.faces.astype("<u2")}
        content["meshes"][label] = {name: base64.b64encode(part.tobytes()).decode() for name, part in parts.items()}
    data = json.dumps(content)
    name = f"solid-{hashlib.sha256(data.encode()).hexdigest()[:8]}"
    buttons = "".join(
        f'<button type="button" value="{html.escape(label)}" style="{_BUTTON}">{html.escape(label)}</button>'
        for label in volumes
    )
    return HTML(
        f'<div id="{name}" class="solid" style="max-width: 32rem"><div role="group" aria-label="Which solid">{buttons}</div>'
        f'<canvas tabindex="0" role="img" aria-label="A solid to turn" aria-describedby="{name}-keys" '
        'style="width: 100%; aspect-ratio: 1; touch-action: pan-y; cursor: grab"></canvas>'
        f'<p id="{name}-keys"><small>Drag or use the arrow keys to turn, + and − or two fingers to zoom (the wheel too, after a '
        f'click), 0 to start over.</small></p><script type="application/json">{data}</script>'
        f"<script>{_viewer().replace('ROOT', name)}</script></div>"
    )


@functools.cache
def _viewer() -> str:
    return (files("seplib.studies.surface") / "viewer.js").read_text()


def _coarse(values: np.ndarray, blur: float) -> Mesh:
    inside = values > 0.5
    steps = sum(int(np.count_nonzero(np.diff(inside, axis=axis))) for axis in range(3))
    pool = max(1, int((steps / _SHOWN) ** 0.5))  # there are about one to two triangles a face between voxels
    while len((mesh := isosurface(values, blur if pool == 1 else 0, pool)).faces) > _SHOWN:
        pool += 1
    return mesh
