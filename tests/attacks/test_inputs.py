"""Attacks on ``seplib fit`` through the files it reads: every one is read for what it says, or refused in one line."""

import gzip
import io
import os
import pickle
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
import trimesh
from PIL import Image

from seplib.own import pictures, solids
from seplib.targets import meshes

GREY = np.arange(48, dtype=np.uint8).reshape(6, 8)


def png(width: int, height: int, bits: int = 8, colour: int = 0, data: bytes = b"") -> bytes:
    """A PNG that may declare what it does not hold."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def header(description: str) -> bytes:
    """The head of a .npy file with any description, and 8 bytes of data."""
    text = description.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(8)


def image(array, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, options.pop("format", "tiff"), **options)
    return buffer.getvalue()


def array(values, **options) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, **options)
    return buffer.getvalue()


def zipped() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=GREY)
    return buffer.getvalue()


class Evil:
    def __reduce__(self):
        return (pytest.fail, ("code was run",))


PLY = "ply\nformat {} 1.0\nelement vertex {}\nproperty float x\nproperty float y\nproperty float z\nelement face 1\nproperty list uchar int vertex_indices\nend_header\n"
GIF = dict(format="gif", save_all=True, append_images=[Image.fromarray(GREY.T.reshape(6, 8))])

# What lies in the file, and what is said of it.
FILES = {
    "empty.png": (b"", "{} is empty"),
    "empty.npy": (b"", "{} is empty"),
    "empty.ply": (b"", "{} is empty"),
    "text.png": (b"hello", "{} is not a readable image (PNG, TIFF, JPEG): UnidentifiedImageError"),
    "cut.png": (image(GREY, format="png")[:-30], "{} is not a readable image (PNG, TIFF, JPEG): OSError"),
    "declared.png": (png(5000, 5000), "{} is not a readable image (PNG, TIFF, JPEG): OSError"),
    "vast.png": (
        png(2**31 - 1, 2**31 - 1),
        "{} is too large: Image size (4611686014132420609 pixels) exceeds limit of 178956970 pixels, could be decompression bomb DOS attack.",
    ),
    "below.tif": (
        image(np.array([[-1, 2], [0, 0.5]], np.float32)),
        "{} holds float32 numbers from -1 to 2, where an image has 0 to 1; save them as an array (.npy), which may hold any range",
    ),
    "nan.tif": (
        image(np.array([[np.nan, 1], [0, 0.5]], np.float32)),
        "{} holds float32 numbers that are not finite, where an image has 0 to 1; save them as an array (.npy), which may hold any range",
    ),
    "long.tif": (
        image(np.array([[-5, 70000], [0, 1]], np.int32)),
        "{} holds int32 numbers from -5 to 70000, where an image has 0 to 1; save them as an array (.npy), which may hold any range",
    ),
    "film.gif": (image(GREY, **GIF), "{} holds 2 pictures; save the one to fit in a file of its own"),
    "line.png": (image(GREY[:1], format="png"), "an image needs at least 2 x 2 pixels, got 8 x 1"),
    "text.npy": (b"hello", "{} is not a readable array of numbers (.npy): ValueError"),
    "zip.npy": (zipped(), "{} is not a readable array of numbers (.npy): ValueError"),
    "pickle.npy": (pickle.dumps(Evil()), "{} is not a readable array of numbers (.npy): ValueError"),
    "objects.npy": (
        array(np.array([[Evil(), 1], [2, 3]], dtype=object), allow_pickle=True),
        "{} is not a readable array of numbers (.npy): ValueError",
    ),
    "cut.npy": (array(GREY)[:-1], "{} is not a readable array of numbers (.npy): ValueError"),
    "declared.npy": (
        header("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000)}"),
        "{} is not a readable array of numbers (.npy): ValueError",
    ),
    "overflow.npy": (
        header("{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999999, 99999999999999, 99999999)}"),
        "{} is not a readable array of numbers (.npy): FloatingPointError",
    ),
    "negative.npy": (
        header("{'descr': '<f8', 'fortran_order': False, 'shape': (-2, 3)}"),
        "{} is not a readable array of numbers (.npy): ValueError",
    ),
    "code.npy": (header("__import__('os').abort()"), "{} is not a readable array of numbers (.npy): ValueError"),
    "complex.npy": (array(np.zeros((4, 4), complex)), "{} must hold real numbers, got complex128"),
    "words.npy": (array(np.array([["a", "b"]] * 2)), "{} must hold real numbers, got <U1"),
    "days.npy": (array(np.zeros((4, 4), "M8[D]")), "{} must hold real numbers, got datetime64[D]"),
    "records.npy": (array(np.zeros((4, 4), [("a", "<f4")])), "{} must hold real numbers, got [('a', '<f4')]"),
    "nan.npy": (array(np.array([[1, np.nan], [2, 3]])), "{} holds values that are not finite"),
    "inf.npy": (array(np.array([[1, np.inf], [2, 3]])), "{} holds values that are not finite"),
    "flat.npy": (array(np.full((4, 4), 2.5)), "{} holds one value only, 2.5"),
    "close.npy": (
        array(np.array([[0, 5e-324]] * 2)),
        "{} holds values that are too close to tell apart, from 0 to 4.94066e-324",
    ),
    "number.npy": (array(1.0), "{} must have two or three axes of at least 2 points, got a single number"),
    "none.npy": (array(np.zeros((0, 5))), "{} must have two or three axes of at least 2 points, got 0 x 5"),
    "four.npy": (array(np.zeros((2, 2, 2, 2))), "{} must have two or three axes of at least 2 points, got 2 x 2 x 2 x 2"),
    "text.ply": (b"hello", "{} is not a readable mesh: ValueError"),
    "text.ply.gz": (b"hello", "{} is not a readable mesh: BadGzipFile"),
    "cut.ply.gz": (gzip.compress(bytes(1000))[:-20], "{} is not a readable mesh: EOFError"),
    "points.obj": (b"v 0 0 0\nv 1 0 0\nv 0 1 0\n", "{} is not a readable mesh: the mesh is empty: it has no triangles"),
    "nan.obj": (
        b"v nan 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n",
        "{} is not a readable mesh: the mesh has 1 vertices with coordinates that are not finite",
    ),
    "declared.ply": (PLY.format("binary_little_endian", 10**12).encode() + bytes(99), "{} is not a readable mesh: ValueError"),
    "vast.obj": (
        b"v 1e308 0 0\nv -1e308 0 0\nv 0 1e308 0\nf 1 2 3\n",
        "{} is too large to measure: its coordinates reach 1e+308",
    ),
    "point.obj": (b"v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n", "the mesh has no extent: all its vertices are one point"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_what_cannot_be_fitted_is_refused_in_one_line(name, seplib, tmp_path):
    content, line = FILES[name]
    path = tmp_path / "in" / name
    path.parent.mkdir()
    path.write_bytes(content)
    out = tmp_path / "out"
    assert seplib("fit", path, "--output", out) == (1, "", f"seplib: error: {line.format(path)}\n")
    assert path.read_bytes() == content and not list(out.glob("*"))


PLACES = {
    "folder": (lambda path: path.mkdir(), "{} is a folder, not a file"),
    "pipe": (os.mkfifo, "{} is not a regular file"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "{} is not a regular file"),
    "loop": (lambda path: path.symlink_to(path), "cannot read {}: Too many levels of symbolic links"),
    "dangling": (lambda path: path.symlink_to(path.with_name("gone")), "there is no {kind} file {}"),
    "nothing": (lambda path: None, "there is no {kind} file {}"),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", ["image", "array", "mesh"])
def test_what_is_no_file_is_refused_before_it_is_opened(kind, place, seplib, tmp_path):
    path = tmp_path / f"x{dict(image='.png', array='.npy', mesh='.stl')[kind]}"
    make, line = PLACES[place]
    make(path)
    assert seplib("fit", path) == (1, "", f"seplib: error: {line.format(path, kind=kind)}\n")


@pytest.mark.parametrize(
    ("path", "line"),
    [("x" * 300 + ".png", "cannot read {}: File name too long"), (f"{__file__}/x.png", "cannot read {}: Not a directory")],
)  # fmt: skip
def test_paths_that_lead_nowhere(path, line, seplib):
    assert seplib("fit", path) == (1, "", f"seplib: error: {line.format(path)}\n")


def test_a_mask_is_checked_as_well(seplib, tmp_path):
    (tmp_path / "x.png").write_bytes(image(GREY, format="png"))
    assert seplib("fit", tmp_path / "x.png", "--inpaint", tmp_path) == (
        1, "", f"seplib: error: {tmp_path} is a folder, not a file\n",
    )  # fmt: skip


def test_a_small_file_that_unpacks_to_more_than_there_is_room_for(tmp_path, monkeypatch):
    memory = psutil.virtual_memory()._replace(available=10**6)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    (tmp_path / "bomb.ply.gz").write_bytes(gzip.compress(bytes(10**7)))
    with pytest.raises(
        ValueError, match=r"bomb.ply.gz is not a readable mesh: the mesh takes more than 0.0 GB, a quarter"
    ):
        meshes.read_mesh(tmp_path / "bomb.ply.gz")


# Read for what they say -----------------------------------------------------------------------------------------------


def read(tmp_path, name, content) -> torch.Tensor:
    (tmp_path / name).write_bytes(content)
    return pictures.read(tmp_path / name)


def test_floats_between_black_and_white_are_read_as_they_are(tmp_path):
    values = np.random.default_rng(0).random((6, 8), np.float32)
    assert np.array_equal(read(tmp_path, "x.tif", image(values))[0], values)


def test_sixteen_bits_in_every_file_that_has_them(tmp_path):
    values = np.array([[0, 1, 32768, 65535]] * 2, np.uint16)
    for name, content in {
        "x.tif": image(values),
        "x.png": png(4, 2, 16, 0, b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)),
        "x.pgm": b"P5 4 2 65535\n" + values.astype(">u2").tobytes(),
    }.items():
        assert torch.allclose(read(tmp_path, name, content)[0] * 65535, torch.from_numpy(values).float()), name


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_its_camera_says(orientation, tmp_path):
    """The numpy transposition of each EXIF orientation, written out."""
    shown = {
        1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud,
        5: np.transpose, 6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).T, 8: np.rot90,
    }[orientation](GREY)  # fmt: skip
    exif = Image.Exif()
    exif[0x112] = orientation
    found = read(tmp_path, "x.png", image(GREY, format="png", exif=exif))
    assert np.array_equal((found[0] * 255).round().byte(), shown)


def test_transparency_in_every_form_is_a_channel(tmp_path):
    rgb = np.stack([GREY] * 3, -1)
    assert len(read(tmp_path, "key.png", image(rgb, format="png", transparency=(0, 0, 0)))) == 4
    assert len(read(tmp_path, "grey.png", image(GREY, format="png", transparency=3))) == 4
    palette = Image.fromarray(rgb).quantize(8)
    palette.save(tmp_path / "palette.png", transparency=2)
    assert len(pictures.read(tmp_path / "palette.png")) == 4


def test_a_camera_file_with_previews_is_one_picture(tmp_path):
    first, second = (Image.fromarray(np.full((16, 16, 3), value, np.uint8)) for value in (200, 10))
    first.save(tmp_path / "x.mpo", save_all=True, append_images=[second])
    assert pictures.read(tmp_path / "x.mpo").mean() == pytest.approx(200 / 255, abs=0.01)


def test_a_damaged_orientation_does_not_hide_the_picture(tmp_path):
    found = read(tmp_path, "x.png", image(GREY, format="png", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"))
    assert found.shape == (1, 6, 8)


ARRAYS = {
    "float16, all of it": np.linspace(-65504, 65504, 48).astype(np.float16),
    "float32, all of it": np.linspace(-1, 1, 48).astype(np.float32) * np.float32(3.4e38),
    "the largest doubles": np.linspace(-1, 1, 48) * 1.7e308,
    "big-endian": np.linspace(-3, 7, 48).astype(">f4"),
    "big-endian integers": np.arange(-20, 28).astype(">i2"),
    "column by column": np.asfortranarray(np.linspace(0, 1, 48).reshape(6, 8)),
    "truths": np.arange(48) % 3 == 0,
    "the largest integers": np.linspace(0, 2**64 - 2**12, 48).astype(np.uint64),
    "long doubles": np.linspace(-1, 1, 48).astype(np.longdouble),
    "small steps on a large number": 1e9 + np.linspace(0, 1, 48),
    "tiny": np.linspace(0, 1e-300, 48),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_any_range_of_any_type_is_scaled_and_comes_back_in_its_units(name, tmp_path):
    values = ARRAYS[name].reshape(6, 8)
    np.save(tmp_path / "x.npy", values)
    own = solids.read(tmp_path / "x.npy")
    exact = values.astype(np.longdouble)
    scaled = (exact - exact.min()) / (exact.max() - exact.min())
    assert own.values.dtype == torch.float32 and np.abs(own.values[0].numpy() - scaled).max() < 1e-7
    assert own.values.min() == 0 and own.values.max() == 1
    model = pictures.fit_picture(own.values, rank=2, width=2, k=1, iterations=1).model
    paths = solids.save(own, pictures.Fitted(model, {}, own.values, 0.0, 0.0), tmp_path / "out")
    written = np.load(paths[1]).astype(np.longdouble)
    assert np.abs(written - exact).max() <= 1e-6 * (exact.max() - exact.min())


def test_a_network_is_read_whole_or_not_at_all(tmp_path):
    """No flipped bit gives another network, whichever it is."""
    fitted = pictures.fit_picture(torch.rand(1, 6, 8), rank=2, width=2, k=1, iterations=1)
    pictures.save(fitted, tmp_path / "x.png", tmp_path / "x.npz")
    good = (tmp_path / "x.npz").read_bytes()
    states = [pictures.load(tmp_path / "x.npz")[0].state_dict()]
    refused = 0
    for place in np.random.default_rng(0).integers(0, 8 * len(good), 200):
        spoilt = bytearray(good)
        spoilt[place // 8] ^= 1 << int(place) % 8
        (tmp_path / "x.npz").write_bytes(spoilt)
        try:
            states.append(pictures.load(tmp_path / "x.npz")[0].state_dict())
        except ValueError as error:
            refused += 1
            assert re.search(r"x\.npz (is damaged: its checksum is wrong|does not hold a network .*: \w+)$", str(error))
    assert refused > 100  # the others fell on what an archive does not need, such as times
    assert all(torch.equal(state[name], states[0][name]) for state in states for name in states[0])
    content = dict(np.load(io.BytesIO(good)))
    name = next(name for name in content if name not in ("config", "sha256"))
    np.savez(tmp_path / "x.npz", **content | {name: content[name] + 1})
    with pytest.raises(ValueError, match=r"x\.npz is damaged: its checksum is wrong$"):
        pictures.load(tmp_path / "x.npz")


def test_an_open_mesh_and_a_folded_one_are_read(tmp_path):
    """Not closed, faces twice, faces without area: a solid all the same, or nothing, and never a traceback."""
    box = trimesh.creation.box()
    trimesh.Trimesh(box.vertices, [*box.faces, *box.faces, [0, 0, 0]], process=False).export(tmp_path / "x.ply")
    with pytest.raises(ValueError, match=r"x.ply holds nothing: no voxel centre of the 16 x 16 x 16 grid lies inside"):
        solids.read(tmp_path / "x.ply", 16)
    trimesh.Trimesh(box.vertices, [*box.faces, [0, 0, 0]], process=False).export(tmp_path / "y.ply")
    assert solids.read(tmp_path / "y.ply", 16).values.any()


def test_names_that_are_no_text(seplib, tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png"))
    try:
        path.write_bytes(b"hello")
    except OSError:
        pytest.skip("this file system takes no such name")
    status, _, err = seplib("fit", path)
    assert status == 1 and err.endswith("is not a readable image (PNG, TIFF, JPEG): UnidentifiedImageError\n")
