"""Pictures of one's own: reading, fitting, saving, and every way a file can be wrong."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from seplib import metrics
from seplib.own import pictures

SMALL = dict(rank=8, width=12, k=4, iterations=30, learning_rate=1e-3)


@pytest.fixture
def rgb() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (12, 17, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("mode", "ending", "channels"),
    [
        ("RGB", "png", 3),
        ("L", "png", 1),
        ("RGBA", "png", 4),
        ("LA", "png", 4),
        ("1", "png", 1),
        ("P", "gif", 3),
        ("CMYK", "tiff", 3),
    ],
)
def test_every_kind_of_picture_is_read_with_the_channels_it_shows(mode, ending, channels, rgb, tmp_path):
    path = tmp_path / f"x.{ending}"
    Image.fromarray(rgb).convert(mode).save(path)
    values = pictures.read(path)
    assert values.shape == (channels, 12, 17) and values.dtype == torch.float32
    assert values.min() >= 0 and values.max() <= 1
    if mode == "RGB":
        assert torch.equal((values * 255).round().byte().permute(1, 2, 0), torch.from_numpy(rgb))


def test_sixteen_bits_are_kept(tmp_path):
    Image.fromarray(np.array([[0, 1, 32768, 65535]] * 2, dtype=np.uint16)).save(tmp_path / "x.png")
    assert torch.allclose(pictures.read(tmp_path / "x.png")[0, 0] * 65535, torch.tensor([0, 1, 32768, 65535]).float())


@pytest.mark.parametrize("method", pictures.METHODS)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_fit_save_and_load(method, channels, tmp_path):
    values = torch.rand(channels, 12, 17, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    fitted = pictures.fit_picture(values, method, **SMALL)
    pictures.save(fitted, tmp_path / "x.png", tmp_path / "x.npz")
    written = pictures.read(tmp_path / "x.png")
    assert written.shape == values.shape and (written - fitted.values).abs().max() <= 0.5 / 255 + 1e-6
    assert fitted.psnr == metrics.psnr(fitted.values, values) > 5
    model, axes = pictures.load(tmp_path / "x.npz")
    with torch.no_grad():
        assert torch.equal(model.grid(axes).clamp(0, 1), fitted.values)


def test_missing_pixels_do_not_enter(tmp_path):
    values = torch.rand(3, 12, 17, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    missing = np.zeros((12, 17), np.uint8)
    missing[3:6, 4:9] = 255
    Image.fromarray(missing).save(tmp_path / "mask.png")
    mask = pictures.read_mask(tmp_path / "mask.png", values)
    assert mask.sum() == 12 * 17 - 15 and not mask[3, 4]
    one = pictures.fit_picture(values, mask=mask, **SMALL)
    two = pictures.fit_picture(torch.where(mask, values, 0.0), mask=mask, **SMALL)
    assert torch.equal(one.values, two.values)
    assert one.psnr == metrics.psnr(one.values[:, mask], values[:, mask])


def test_the_memory_asked_for_is_the_memory_used():
    """Peak beyond what the imports hold, in a process of its own, on an image of 700 x 900 pixels."""
    script = """
import re, torch
from pathlib import Path
from seplib.own import pictures

torch.set_num_threads(1)

def peak():  # of this process alone: getrusage would count what its parent held when it was forked
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

small = torch.rand(3, 16, 16)
pictures.fit_picture(small, rank=4, width=4, k=2, iterations=2)
before = peak()
pictures.fit_picture(torch.rand(3, 700, 900), rank=64, width=64, k=8, iterations=3)
print(peak() - before)
"""
    if sys.platform != "linux":
        pytest.skip("the peak is read from /proc")
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    estimate = pictures.required_bytes((3, 700, 900), 64, 64, 3)
    assert 0.4 * estimate < int(done.stdout) < 1.3 * estimate


def test_too_large_is_said_before_it_starts(monkeypatch):
    memory = psutil.virtual_memory()._replace(available=10**6)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    message = "an image of 400 x 300 pixels with 3 channels, rank 500 and width 500 needs about 0.1 GB, 0.0 GB are free"
    with pytest.raises(ValueError, match=message):
        pictures.fit_picture(torch.rand(3, 300, 400))


def run(*arguments) -> subprocess.CompletedProcess:
    root = Path(__file__).parents[1]
    command = [sys.executable, "-m", "seplib", "fit", *map(str, arguments)]
    return subprocess.run(command, cwd=root, capture_output=True, text=True)


def test_the_command_line_fits_a_picture(rgb, tmp_path):
    Image.fromarray(rgb).save(tmp_path / "cat.png")
    sizes = ("--rank", 8, "--width", 12, "--iterations", 5)
    done = run(tmp_path / "cat.png", "--output", tmp_path / "out", *sizes)
    assert done.returncode == 0, done.stderr
    assert re.match(r"PSNR \d+\.\d\d dB, \d+ s\n", done.stdout)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"cat-fit.png", "cat-fit.npz"}


def test_bad_input_is_one_line(rgb, tmp_path):
    image, mask, text = tmp_path / "cat.png", tmp_path / "mask.png", tmp_path / "no.png"
    Image.fromarray(rgb).save(image)
    Image.fromarray(np.zeros((12, 16), np.uint8)).save(mask)
    text.write_text("hello")
    (tmp_path / "file").write_text("in the way")
    cases = {
        (text,): f"{text} is not a readable image (PNG, TIFF, JPEG): UnidentifiedImageError",
        (tmp_path / "none.png",): f"there is no image file {tmp_path / 'none.png'}",
        (image, "--inpaint", mask): f"the mask {mask} is 16 x 12 pixels, the image is 17 x 12",
        (image, "--method", "sgd"): "method must be one of seppgd, sepnn, got 'sgd'",
        (image, "--k", 13): "k must be between 1 and the shortest axis, 12 points, got 13",
        (image, "--output", tmp_path / "file"): f"cannot write to {tmp_path / 'file'}: File exists",
    }
    for arguments, message in cases.items():
        done = run(*arguments)
        assert (done.returncode, done.stderr) == (1, f"seplib: error: {message}\n")


def test_files_that_are_not_ours_are_refused(tmp_path):
    values = torch.rand(1, 12, 17)
    for name in ("zeros", "ones"):
        Image.fromarray(np.full((12, 17), 255 * (name == "ones"), np.uint8)).save(tmp_path / f"{name}.png")
        with pytest.raises(ValueError, match=r"must have bright .* and dark .* pixels, it has one kind only"):
            pictures.read_mask(tmp_path / f"{name}.png", values)
    np.savez(tmp_path / "x.npz", config=np.array([{"run": "code"}], dtype=object))
    (tmp_path / "y.npz").write_bytes(b"nothing")
    for name in ("x.npz", "y.npz"):
        with pytest.raises(ValueError, match=f"{name} does not hold a network written by `seplib fit`"):
            pictures.load(tmp_path / name)
    with pytest.raises(ValueError, match=r"there is no network file .*none.npz"):
        pictures.load(tmp_path / "none.npz")
    with pytest.raises(ValueError, match="at least 2 x 2 pixels, got 5 x 1"):
        pictures.fit_picture(torch.rand(3, 1, 5))
