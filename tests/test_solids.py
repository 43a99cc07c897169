"""Volumes of one's own: arrays and meshes from files, the way back to their units, and every way a file can be wrong."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
import trimesh

from seplib import metrics
from seplib.own import pictures, solids

SMALL = dict(rank=16, width=24, k=4, iterations=60, omega=5.0, scale=None, learning_rate=3e-3)


@pytest.fixture
def ball(tmp_path) -> Path:
    """A ball of radius 2 about (10, 20, 30), compressed to three quarters along the last axis."""
    solid = trimesh.creation.icosphere(subdivisions=3, radius=2.0)
    solid.apply_scale([1, 1, 0.75])
    solid.apply_translation([10, 20, 30])
    solid.export(tmp_path / "ball.ply")
    return tmp_path / "ball.ply"


@pytest.mark.parametrize("method", pictures.METHODS)
def test_an_array_is_fitted_saved_in_its_units_and_loaded(method, tmp_path):
    x = np.linspace(-1, 1, 12)
    array = 40 + 25 * np.cos(3 * x)[:, None, None] * np.sin(2 * x)[:, None] * np.cos(x)
    np.save(tmp_path / "field.npy", array)
    own = solids.read(tmp_path / "field.npy")
    assert not own.occupancy and own.values.shape == (1, 12, 12, 12) and own.values.dtype == torch.float32
    assert own.values.min() == 0 and own.values.max() == 1
    fitted = pictures.fit_picture(own.values, method, **SMALL)
    paths = solids.save(own, fitted, tmp_path)
    assert [path.name for path in paths] == ["field-fit.npz", "field-fit.npy"]
    written = np.load(paths[1])
    assert written.shape == array.shape
    error = np.square(written - array).mean() / np.ptp(array) ** 2
    assert fitted.psnr == pytest.approx(-10 * np.log10(error), abs=1e-3) and fitted.psnr > 25
    assert own.quality(fitted) == f"PSNR {fitted.psnr:.2f} dB"
    model, axes = pictures.load(paths[0])
    with torch.no_grad():
        assert torch.equal(model.grid(axes).clamp(0, 1), fitted.values)


def test_a_matrix_and_an_occupancy(tmp_path):
    np.save(tmp_path / "matrix.npy", np.arange(30, dtype=np.int16).reshape(5, 6))
    own = solids.read(tmp_path / "matrix.npy")
    assert own.values.shape == (1, 5, 6) and not own.occupancy and (own.low, own.high) == (0, 29)
    mask = np.zeros((8, 9, 10), bool)
    mask[2:6, 2:6, 2:6] = True
    np.save(tmp_path / "mask.npy", mask)
    own = solids.read(tmp_path / "mask.npy")
    fitted = pictures.fit_picture(own.values, **SMALL)
    assert own.occupancy and own.quality(fitted) == f"IoU {metrics.iou(fitted.values, own.values):.4f}"


def test_a_mesh_comes_back_where_it_was(ball, tmp_path):
    own = solids.read(ball, 24)
    assert own.values.shape == (1, 24, 24, 19) and own.name == "ball"
    exact = pictures.Fitted(pictures.fit_picture(own.values, **SMALL).model, {}, own.values, 0.0, 0.0)
    paths = solids.save(own, exact, tmp_path / "out")
    assert [path.name for path in paths] == ["ball-fit.npz", "ball-fit.npy", "ball-fit.ply"]
    found = trimesh.load(paths[2])
    assert np.abs(found.bounds - [[8, 18, 28.5], [12, 22, 31.5]]).max() < own.side
    assert found.volume == pytest.approx(4 / 3 * np.pi * 2**3 * 0.75, rel=0.05), "and faces outward"
    assert np.array_equal(np.load(paths[1]), own.values[0].numpy())


def test_the_memory_of_a_volume_is_the_memory_used():
    script = """
import re, torch
from pathlib import Path
from seplib.own import pictures

torch.set_num_threads(1)

def peak():  # of this process alone: getrusage would count what its parent held when it was forked
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

pictures.fit_picture(torch.rand(1, 16, 16, 16), rank=4, width=4, k=2, iterations=2)
before = peak()
pictures.fit_picture(torch.rand(1, 200, 220, 240), rank=32, width=32, k=8, iterations=3)
print(peak() - before)
"""
    if sys.platform != "linux":
        pytest.skip("the peak is read from /proc")
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    estimate = pictures.required_bytes((1, 200, 220, 240), 32, 32, 3, 8)
    assert 0.5 * estimate < int(done.stdout) < 1.5 * estimate


def run(*arguments) -> subprocess.CompletedProcess:
    root = Path(__file__).parents[1]
    command = [sys.executable, "-m", "seplib", "fit", *map(str, arguments)]
    return subprocess.run(command, cwd=root, capture_output=True, text=True)


def test_the_command_line_fits_a_mesh(ball, tmp_path):
    sizes = ("--rank", 16, "--width", 24, "--iterations", 300, "--resolution", 16)
    done = run(ball, "--output", tmp_path / "out", *sizes)
    assert done.returncode == 0, done.stderr
    assert re.match(r"IoU \d\.\d{4}, \d+ s\n", done.stdout)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"ball-fit.ply", "ball-fit.npy", "ball-fit.npz"}


def test_bad_input_is_one_line(ball, tmp_path):
    arrays = {
        "four": np.zeros((4, 4, 4, 4)),
        "thin": np.zeros((4, 1)),
        "flat": np.full((4, 4, 4), 2.5),
        "nan": np.array([[1, np.nan], [2, 3]]),
        "complex": np.zeros((4, 4, 4), complex),
        "objects": np.array([[{}, 1], [2, 3]], dtype=object),
    }
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    (tmp_path / "text.npy").write_text("hello")
    flat = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]], process=False)
    flat.export(tmp_path / "sheet.ply")
    cases = {
        "four": "must have two or three axes of at least 2 points, got 4 x 4 x 4 x 4",
        "thin": "must have two or three axes of at least 2 points, got 4 x 1",
        "flat": "holds one value only, 2.5",
        "nan": "holds values that are not finite",
        "complex": "must hold real numbers, got complex128",
        "objects": "is not a readable array of numbers (.npy): ValueError",
        "text": "is not a readable array of numbers (.npy): ValueError",
    }
    for name, message in cases.items():
        with pytest.raises(ValueError, match=f"{name}.npy,? {re.escape(message)}$"):
            solids.read(tmp_path / f"{name}.npy")
    with pytest.raises(ValueError, match=r"there is no array file .*none.npy"):
        solids.read(tmp_path / "none.npy")
    with pytest.raises(ValueError, match="resolution must be at least 8 voxels, got 4"):
        solids.read(ball, 4)
    with pytest.raises(
        ValueError, match=r"sheet.ply holds nothing: no voxel centre of the 32 x 32 x 4 grid lies inside"
    ):
        solids.read(tmp_path / "sheet.ply", 32)
    for arguments, message in {
        (ball, "--inpaint", ball): f"only an image can be inpainted, got {ball}",
        (ball, "--resolution", 16, "--k", 14): "k must be between 1 and the shortest axis, 13 points, got 14",
    }.items():
        done = run(*arguments)
        assert (done.returncode, done.stderr) == (1, f"seplib: error: {message}\n")


def test_too_large_is_said_before_it_starts(ball, tmp_path, monkeypatch):
    np.save(tmp_path / "field.npy", np.random.default_rng(0).random((60, 50, 40)))
    own = solids.read(tmp_path / "field.npy")
    memory = psutil.virtual_memory()._replace(available=10**6)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    with pytest.raises(ValueError, match=r"field.npy, 60 x 50 x 40, needs about 0.0 GB to read, 0.0 GB are free"):
        solids.read(tmp_path / "field.npy")
    message = "a volume of 60 x 50 x 40 voxels with 1 channel, rank 500 and width 500 needs about 0.0 GB, 0.0 GB are free; shrink"
    with pytest.raises(ValueError, match=message):
        pictures.fit_picture(own.values)
    with pytest.raises(
        ValueError, match=r"a grid of 64 x 64 x 4\d voxels needs about 0.1 GB to voxelise, 0.0 GB are free"
    ):
        solids.read(ball, 64)


def test_a_mesh_whose_fit_is_empty_leaves_no_surface(ball, tmp_path):
    own = solids.read(ball, 16)
    fitted = pictures.fit_picture(own.values, **SMALL | {"iterations": 1})
    nothing = pictures.Fitted(fitted.model, {}, torch.zeros_like(own.values), 0.0, 0.0)
    assert [path.name for path in solids.save(own, nothing, tmp_path)] == ["ball-fit.npz", "ball-fit.npy"]
