"""Meshes: the voxeliser against solids whose inside is known, and every way a file can be wrong."""

import gzip
import math

import numpy as np
import psutil
import pytest
import torch
import trimesh
from hypothesis import given
from hypothesis import strategies as st

from seplib.metrics import slope
from seplib.targets import meshes
from seplib.targets.meshes import Mesh, crossings, occupancy, place, read_mesh, voxelise


def mesh_of(solid: trimesh.Trimesh) -> Mesh:
    return Mesh(np.array(solid.vertices, dtype=float), np.array(solid.faces))


def box(low, high) -> Mesh:
    return mesh_of(trimesh.creation.box(bounds=[low, high]))


def sphere(radius: float, centre) -> Mesh:
    solid = trimesh.creation.icosphere(subdivisions=4, radius=radius)
    return Mesh(solid.vertices + centre, np.array(solid.faces))


def joined(*parts: Mesh) -> Mesh:
    shifts = np.cumsum([0, *(len(part.vertices) for part in parts[:-1])])
    faces = [part.faces + shift for part, shift in zip(parts, shifts)]
    return Mesh(np.concatenate([part.vertices for part in parts]), np.concatenate(faces))


def centres(sizes) -> np.ndarray:
    return np.stack(np.meshgrid(*map(np.arange, sizes), indexing="ij"), -1)


def inside_convex(solid: Mesh, sizes) -> np.ndarray:
    """The slow, obvious answer for a convex solid: behind the plane of every triangle, facing outward."""
    a, b, c = np.moveaxis(solid.vertices[solid.faces], 1, 0)
    normals = np.cross(b - a, c - a)
    normals *= np.sign(((a - solid.vertices.mean(0)) * normals).sum(1))[:, None]
    return (np.einsum("xyzd,fd->xyzf", centres(sizes), normals) < (a * normals).sum(1)).all(-1)


# Against analytic solids ----------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, 5)), min_size=3, max_size=3),
    st.sampled_from([0.0, 0.25, 0.5]),
)
def test_a_box_is_exact_also_when_its_faces_pass_through_voxel_centres(sides, shift):
    """Half-open: with faces on centres, the lower belongs to the box and the upper does not."""
    low = np.array([start for start, _ in sides]) + shift
    high = low + [length for _, length in sides]
    at = centres((9, 10, 11))
    expected = ((low <= at) & (at < high)).all(-1)
    assert np.array_equal(occupancy(box(low, high), (9, 10, 11)).numpy(), expected)


def test_rays_through_vertices_edges_and_along_faces():
    """An octahedron whose vertices, edges and equator lie on rays."""
    for centre in ((8.0, 8.0, 8.0), (8.0, 8.5, 8.0), (7.5, 7.5, 7.5)):
        corners = np.array([[0, 0, 6], [0, 0, -6], [6, 0, 0], [-6, 0, 0], [0, 6, 0], [0, -6, 0]]) + centre
        faces = [[pole, a, b] for pole in (0, 1) for a in (2, 3) for b in (4, 5)]
        found = occupancy(Mesh(corners, np.array(faces)), (17, 17, 17)).numpy()
        distance = np.abs(centres((17, 17, 17)) - centre).sum(-1)
        assert found[distance < 6 - 1e-9].all() and not found[distance > 6 + 1e-9].any()


def test_the_volume_of_a_sphere_converges():
    """The error of counting falls faster than the voxel's side; the mesh's own volume is what is counted."""
    sizes, errors = (12, 24, 48, 96), []
    for n in sizes:
        solid = sphere(0.4 * n, (n - 1) / 2 + np.array([0.11, 0.23, 0.37]))
        exact = trimesh.Trimesh(solid.vertices, solid.faces).volume
        errors.append(abs(occupancy(solid, (n, n, n)).sum().item() / exact - 1))
    assert slope(sizes, np.array([errors]))[0] < -1.2
    assert errors[-1] < 2e-4


def test_a_torus_keeps_its_hole():
    solid = trimesh.creation.torus(12, 5, major_sections=400, minor_sections=200)
    found = occupancy(Mesh(np.array(solid.vertices) + np.array([20, 20, 8]), solid.faces), (41, 41, 17)).numpy()
    x, y, z = np.moveaxis(centres((41, 41, 17)) - [20, 20, 8], -1, 0)
    distance = np.hypot(np.hypot(x, y) - 12, z)
    assert found[distance < 4.99].all() and not found[distance > 5].any()


def test_a_rotated_box_is_what_lies_behind_its_six_planes():
    rotation = trimesh.transformations.rotation_matrix(0.7, [1, 2, 3])[:3, :3]
    solid = box((-6, -4, -3), (6, 4, 3))
    solid = Mesh(solid.vertices @ rotation.T + 10.03, solid.faces)
    assert np.array_equal(occupancy(solid, (21, 22, 20)).numpy(), inside_convex(solid, (21, 22, 20)))


def test_a_shell_inside_a_shell_is_hollow():
    nested = joined(box((1, 1, 1), (12, 12, 12)), box((4, 4, 4), (8, 8, 8)))
    assert occupancy(nested, (14, 14, 14)).sum() == 11**3 - 4**3


@given(st.integers(0, 2**32 - 1))
def test_the_order_and_orientation_of_triangles_do_not_matter(seed):
    generator = np.random.default_rng(seed)
    solid = sphere(6, generator.uniform(7, 9, 3))
    faces = generator.permutation(solid.faces)
    faces = generator.permuted(faces, axis=1)
    assert torch.equal(occupancy(solid, (16, 16, 16)), occupancy(Mesh(solid.vertices, faces), (16, 16, 16)))


def test_a_hole_does_not_leak():
    solid = sphere(10, (12.1, 12.2, 12.3))
    whole = occupancy(solid, (25, 25, 25))
    towards = solid.vertices[solid.faces].mean(1) - 12.2
    pierced = Mesh(solid.vertices, solid.faces[(towards[:, 0] < 9.6) | (np.abs(towards[:, 1:]).max(1) > 1.6)])
    assert len(pierced.faces) < len(solid.faces) - 20
    found = occupancy(pierced, (25, 25, 25))
    assert torch.equal(found[:22], whole[:22]), "only the cap itself, whose surface is gone, may change"
    assert not torch.equal(found, whole)


def test_which_holes_leave_a_majority():
    """Walls of a box taken away: each axis gives its vote twice, halves it, or turns it round."""
    whole = box((2, 2, 2), (9, 9, 9))
    wall = {}  # (axis, side) of each triangle
    for index, corners in enumerate(whole.vertices[whole.faces]):
        axis = int(np.flatnonzero(np.ptp(corners, axis=0) == 0)[0])
        wall[index] = (axis, int(corners[0, axis] > 5))

    def without(*gone):
        kept = [index for index, place in wall.items() if place not in gone]
        return occupancy(Mesh(whole.vertices, whole.faces[kept]), (12, 12, 12)).sum().item()

    assert without() == 7**3
    for side in (0, 1):
        assert without((0, side), (2, side)) == 7**3, "1 + 2 + 1 votes of six"
        assert without((0, side), (2, 0), (2, 1)) == 0, "1 + 2 + 0: no majority"
    assert without((1, 0), (1, 1)) == 7**3, "2 + 0 + 2"


@pytest.mark.parametrize("part", [1, 3, 7])
def test_every_ray_meets_an_even_number_of_triangles_of_a_closed_mesh(part):
    """Octahedra of any shape, with cuts that fall on rays exactly or but for rounding (the chapter on surfaces)."""
    faces = [[pole, a, b] for pole in (0, 1) for a in (2, 3) for b in (4, 5)]
    faces = np.array([np.roll(face[:: (-1) ** index], index) for index, face in enumerate(faces)])
    generator = np.random.default_rng(part)
    for _ in range(300):
        met = np.zeros((25, 25), int)
        corners = generator.integers(0, 25 * part, (6, 3)) / part
        for _, row, column, _ in crossings(corners, faces, (25, 25)):
            np.add.at(met, (row, column), 1)
        assert not (met % 2).any()


def test_portions_do_not_matter(monkeypatch):
    solid = sphere(9, (10, 11, 12))
    whole = occupancy(solid, (24, 23, 22))
    monkeypatch.setattr(meshes, "_PORTION", 50)
    assert torch.equal(occupancy(solid, (24, 23, 22)), whole)


def test_crossings_name_their_face_and_lie_on_it():
    solid = sphere(5, (6.1, 6.2, 6.3))
    for face, row, column, depth in crossings(solid.vertices, solid.faces, (13, 13)):
        a, b, c = np.moveaxis(solid.vertices[solid.faces[face]], 1, 0)
        at = np.stack([row, column, depth], 1)
        assert np.abs(((at - a) * np.cross(b - a, c - a)).sum(1)).max() < 1e-9
        assert set(np.unique(row)) <= set(range(13)) and len(row) > 100


def test_what_lies_outside_the_grid_still_closes_the_solid():
    assert occupancy(box((-50, -50, -50), (50, 3.5, 50)), (6, 7, 8)).numpy().sum() == 6 * 4 * 8


# Placing -----------------------------------------------------------------------------------------------------------------


def test_placing_centres_fills_and_keeps_the_proportions():
    solid = Mesh(np.array([[0, 0, 0], [2.0, 0, 0], [0, 1, 0], [0, 0, 1]]), np.array([[0, 1, 2]]))
    placed = place(solid, (33, 20, 20), margin=1)
    extent = np.ptp(placed.vertices, axis=0)
    assert extent == pytest.approx([30, 15, 15])
    assert (placed.vertices.min(0) + placed.vertices.max(0)) / 2 == pytest.approx([16, 9.5, 9.5])


@pytest.mark.parametrize("sizes", [(10, 20, 30), (10, 30, 20), (20, 10, 30), (20, 30, 10), (30, 10, 20), (30, 20, 10)])
def test_turning_puts_long_sides_on_long_axes_without_mirroring(sizes):
    solid = Mesh(np.array([[0, 0, 0], [1.0, 0, 0], [0, 2, 0], [0, 0, 3]]), np.array([[0, 1, 2]]))
    turned = place(solid, sizes, turn=True)
    assert list(np.argsort(np.ptp(turned.vertices, axis=0))) == list(np.argsort(sizes))
    origin, *edges = turned.vertices
    assert np.linalg.det(np.array(edges) - origin) > 0


def test_voxelise_leaves_the_margin():
    volume = voxelise(box((0, 0, 0), (1, 1, 1)), (12, 12, 12), margin=2)
    assert volume.sum() == 7**3 and volume[2:9, 2:9, 2:9].all()


# Files and refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", meshes.MESHES)
@pytest.mark.parametrize("encoding", ["ascii", "binary"])
def test_every_kind_of_file_is_read(ending, encoding, tmp_path):
    solid, path = trimesh.creation.icosphere(subdivisions=2), tmp_path / f"x{ending}"
    kind = ending.split(".")[1]
    options = {"encoding": encoding} if kind == "ply" else {}
    data = solid.export(file_type="stl_ascii" if kind == "stl" and encoding == "ascii" else kind, **options)
    data = data.encode() if isinstance(data, str) else data
    path.write_bytes(gzip.compress(data) if ending.endswith(".gz") else data)
    mesh = read_mesh(path)
    assert mesh.faces.shape == solid.faces.shape and mesh.vertices.dtype == np.float64
    corners = np.asarray(solid.triangles, dtype=float)
    assert np.abs(mesh.vertices[mesh.faces] - corners).max() < 1e-5
    volume = 4 / 3 * math.pi * 9.5**3
    assert voxelise(mesh, (21, 21, 21), margin=0.5).sum().item() == pytest.approx(volume, rel=0.06)


def test_bad_files_are_one_clear_line(tmp_path):
    def said(name, content=None):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name.replace(".", r"\.")) as caught:
            read_mesh(tmp_path / name)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    header = "ply\nformat ascii 1.0\nelement vertex {}\nproperty float x\nproperty float y\nproperty float z\n"
    header += "element face {}\nproperty list uchar int vertex_indices\nend_header\n"
    triangle = header.format(3, 1) + "0 0 0\n1 0 0\n0 {} 0\n3 0 1 {}\n"
    assert "ends in one of .ply, .ply.gz, .obj, .stl, got x.txt" in said("x.txt", b"")
    assert "there is no mesh file" in said("none.ply")
    assert "is not a readable mesh" in said("noise.ply", b"hello")
    assert "is not a readable mesh: EOFError" in said("half.ply.gz", gzip.compress(b"ply" * 99)[:20])
    assert "is not a readable mesh: BadGzipFile" in said("plain.ply.gz", b"ply\n")
    assert "the mesh is empty: it has no triangles" in said("empty.ply", header.format(0, 0).encode())
    assert "the mesh is empty: it has no triangles" in said("points.obj", b"v 0 0 0\nv 1 0 0\n")
    assert "has 1 vertices with coordinates that are not finite" in said("nan.ply", triangle.format("nan", 2).encode())
    assert "is not a readable mesh" in said("index.ply", triangle.format(1, 7).encode())


def test_bad_grids_and_meshes_are_named(monkeypatch):
    solid = box((0, 0, 0), (1, 1, 1))
    for wrong in (8, -1):
        with pytest.raises(ValueError, match=f"a triangle names vertex {wrong}, but there are 8"):
            Mesh(solid.vertices, np.array([[0, 1, 2], [0, 1, wrong]]))
    with pytest.raises(ValueError, match="a grid has three sizes of at least 4 voxels, got 8 x 3 x 8"):
        voxelise(solid, (8, 3, 8))
    with pytest.raises(ValueError, match="a grid has three sizes of at least 4 voxels, got 8 x 8"):
        occupancy(solid, (8, 8))
    with pytest.raises(ValueError, match="the mesh has no extent: all its vertices are one point"):
        voxelise(Mesh(np.ones((3, 3)), np.array([[0, 1, 2]])), (8, 8, 8))
    memory = psutil.virtual_memory()._replace(available=10**9)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    message = "a grid of 2000 x 2000 x 2000 voxels needs about 32.1 GB to voxelise, 1.0 GB are free"
    with pytest.raises(ValueError, match=message):
        voxelise(solid, (2000, 2000, 2000))
