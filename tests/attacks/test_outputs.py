"""Attacks on what ``seplib fit`` writes and on its settings: known before the start, or nothing of the training is lost."""

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from seplib import training
from seplib.own import pictures
from seplib.targets import files

ROOT = Path(__file__).parents[2]
SIZES = ("--rank", 4, "--width", 6, "--iterations", 3, "--k", 2)


@pytest.fixture
def cat(tmp_path) -> Path:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)).save(tmp_path / "cat.png")
    return tmp_path / "cat.png"


# Before the start -----------------------------------------------------------------------------------------------------

SETTINGS = {
    ("--seed", 2**70): "seed must be between 0 and 2^63 - 1, got 1180591620717411303424",
    ("--seed", -1): "seed must be between 0 and 2^63 - 1, got -1",
    ("--k", 0): "k must be between 1 and the shortest axis, 8 points, got 0",
    ("--k", 10**30): f"k must be between 1 and the shortest axis, 8 points, got {10**30}",
    ("--iterations", 0): "iterations must be at least 1, got 0",
    ("--rank", -3): "rank must be at least 1, got -3",
    ("--width", 0): "width must be at least 1, got 0",
    ("--method", "sgd"): "method must be one of seppgd, sepnn, got 'sgd'",
    ("--device", "tpu"): None,
}


@pytest.mark.parametrize("arguments", SETTINGS, ids=lambda a: " ".join(map(str, a)))
def test_settings_are_checked_before_the_start(arguments, seplib, cat, tmp_path):
    status, out, err = seplib("fit", cat, "--output", tmp_path / "out", *arguments)
    line = SETTINGS[arguments]
    assert (status, out) == (1, "") and err.count("\n") == 1 and err.startswith("seplib: error: ")
    assert line is None or err == f"seplib: error: {line}\n"
    assert not list((tmp_path / "out").glob("*"))


def test_more_than_any_machine_has_is_refused(seplib, cat):
    status, _, err = seplib("fit", cat, "--rank", 10**12)
    assert status == 1 and err.startswith(
        "seplib: error: cannot write to .: about "
    ) and " GB are needed, " in err  # fmt: skip


@pytest.mark.parametrize("resolution", [7, 10**30])
def test_resolutions_that_make_no_grid(resolution, seplib, tmp_path):
    (tmp_path / "x.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    words = "at least 8" if resolution == 7 else "at most 10000"
    line = f"seplib: error: resolution must be {words} voxels, got {resolution}\n"
    assert seplib("fit", tmp_path / "x.obj", "--resolution", resolution) == (1, "", line)


def test_a_folder_that_cannot_be_is_named_before_the_start(seplib, cat, monkeypatch):
    monkeypatch.setattr(pictures, "fit_picture", lambda *_, **__: pytest.fail("started"))
    for folder, reason in ((cat, "File exists"), (cat / "deep", "Not a directory")):
        line = f"seplib: error: cannot write to {folder}: {reason}\n"
        assert seplib("fit", cat, "--output", folder) == (1, "", line)


def test_a_result_in_whose_place_a_folder_lies_is_named_before_the_start(seplib, cat, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "fit_picture", lambda *_, **__: pytest.fail("started"))
    (tmp_path / "cat-fit.npz").mkdir()
    line = f"seplib: error: cannot write {tmp_path / 'cat-fit.npz'}: it is a folder\n"
    assert seplib("fit", cat, "--output", tmp_path) == (1, "", line)


def test_too_little_room_is_said_before_the_start(seplib, cat, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "fit_picture", lambda *_, **__: pytest.fail("started"))
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 10**6))
    line = f"seplib: error: cannot write to {tmp_path}: about 0.012 GB are needed, 0.001 GB are free\n"
    assert seplib("fit", cat, "--output", tmp_path) == (1, "", line)
    assert list(tmp_path.iterdir()) == [cat]


def test_the_room_asked_for_is_the_room_used(seplib, cat, tmp_path):
    assert seplib("fit", cat, "--output", tmp_path / "out", *SIZES)[0] == 0
    used = sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    assert used < pictures.stored_bytes((3, 8, 9), 4, 6)
    assert 1.20e7 < pictures.stored_bytes((3, 8, 9), 500, 500) < 1.22e7


# After the training ---------------------------------------------------------------------------------------------------


@pytest.fixture
def refuse(monkeypatch):
    """Some paths cannot be written any more, once the training is done."""

    def refused(*parts: str):
        write = files.write_atomic

        def full(path: Path, data: bytes) -> None:
            if data and any(part in str(path) for part in parts):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            write(path, data)

        monkeypatch.setattr(files, "write_atomic", full)

    return refused


def test_a_full_disk_keeps_the_network_elsewhere_and_says_where(seplib, cat, tmp_path, refuse, monkeypatch):
    spare, out = tmp_path / "spare", tmp_path / "out"
    spare.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(spare))
    refuse("/out/")
    status, shown, err = seplib("fit", cat, "--output", out, *SIZES)
    (kept,) = spare.rglob("*.npz")
    assert (status, shown) == (1, "") and not list(out.iterdir())
    assert err == (
        f"seplib: error: cannot write {out / 'cat-fit.npz'}: No space left on device; what was trained is in {kept}\n"
    )
    assert pictures.load(kept)[0].factors[0].rank == 4


def test_a_picture_that_cannot_be_written_leaves_its_network(seplib, cat, tmp_path, refuse):
    refuse("fit.png")
    out = tmp_path / "out"
    status, _, err = seplib("fit", cat, "--output", out, *SIZES)
    assert status == 1 and err == (
        f"seplib: error: cannot write {out / 'cat-fit.png'}: No space left on device; "
        f"what was trained is in {out / 'cat-fit.npz'}\n"
    )
    assert [path.name for path in out.iterdir()] == ["cat-fit.npz"]
    pictures.load(out / "cat-fit.npz")


def test_nowhere_left(seplib, cat, tmp_path, refuse):
    places = [Path(tempfile.gettempdir()), Path.home(), Path.cwd()]
    before = [set(place.glob("seplib-*")) for place in places]
    refuse("cat-fit")
    err = seplib("fit", cat, "--output", tmp_path, *SIZES)[2]
    assert err.endswith("cat-fit.npz: No space left on device; what was trained could be kept nowhere else\n")
    assert [set(place.glob("seplib-*")) for place in places] == before, "no empty folder is left behind"


def test_a_disk_that_fills_while_writing_leaves_no_half_file(seplib, cat, tmp_path, full_disk):
    with full_disk(500):
        status, _, err = seplib("fit", cat, "--output", tmp_path / "out", *SIZES)
    assert status == 1 and "cat-fit.npz: File too large; what was trained could be kept nowhere else" in err
    assert not list((tmp_path / "out").iterdir())


def test_what_was_there_stays_until_the_new_is_whole(seplib, cat, tmp_path, refuse):
    out = tmp_path / "out"
    assert seplib("fit", cat, "--output", out, *SIZES)[0] == 0
    before = {path: path.read_bytes() for path in out.iterdir()}
    refuse("/out/")
    assert seplib("fit", cat, "--output", out, *SIZES, "--seed", 1)[0] == 1
    assert {path: path.read_bytes() for path in out.iterdir()} == before


# A training that fails ------------------------------------------------------------------------------------------------


def test_a_training_that_diverges_is_one_line(seplib, cat, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "SETTINGS", pictures.SETTINGS | {"learning_rate": 1e30})
    status, out, err = seplib("fit", cat, "--output", tmp_path / "out", *SIZES)
    assert (status, out) == (1, "") and not list((tmp_path / "out").iterdir())
    head, tail = err.split(" after 1 updates; ")
    assert head.startswith("seplib: error: training diverged: the loss is [")
    assert tail == "try fewer iterations, a smaller k, another seed or the method sepnn\n"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
    ids=["GPU", "CPU", "numpy"],
)
def test_memory_that_runs_out_is_one_line(error, seplib, cat, monkeypatch):
    def fit(*arguments, **options):
        *rest, callbacks = arguments

        def fail(state):
            if state.iteration == 2:
                raise error

        return training.fit(*rest, [*callbacks, fail], **options)

    monkeypatch.setattr(pictures, "fit", fit)
    line = (
        "seplib: error: the memory of cpu ran out after 2 of 3 updates, about 0.0 GB were expected; "
        "shrink the image, the rank or the width\n"
    )
    assert seplib("fit", cat, *SIZES) == (1, "", line)


def test_a_defect_stays_a_traceback(seplib, cat, monkeypatch):
    """What nobody foresaw must not look like a mistake of the user's."""
    monkeypatch.setattr(pictures, "fit", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("shapes")))
    with pytest.raises(RuntimeError, match=r"^shapes$"):
        seplib("fit", cat, *SIZES)


# Without the rights of root -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_one_may_not_read_or_write_is_named(cat, tmp_path, unprivileged):
    """Commands in processes that file permissions bind: a folder, a picture and a whole project that are locked."""
    locked, secret, checkout = tmp_path / "locked", tmp_path / "secret.png", tmp_path / "checkout"
    locked.mkdir(mode=0o555)
    shutil.copy(cat, secret)
    secret.chmod(0)
    shutil.copytree(ROOT / "notebooks", checkout / "notebooks")
    checkout.chmod(0o555)
    for arguments, line in (
        (["fit", cat, "--output", locked], f"cannot write to {locked}: Permission denied"),
        (["fit", secret, "--output", tmp_path], f"cannot read {secret}: Permission denied"),
        (["run", "seppgd_equivalence"], f"[Errno 13] Permission denied: '{checkout / 'results'}'"),
    ):
        command = [*unprivileged, sys.executable, "-m", "seplib", *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (1, "", f"seplib: error: {line}\n")
    checkout.chmod(0o755)
    assert not list(locked.iterdir()) and [path.name for path in checkout.iterdir()] == ["notebooks"]
