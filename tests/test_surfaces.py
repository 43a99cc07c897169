"""The surface experiment: targets, training, IoU, resuming, criterion, pictures."""

import base64
import dataclasses
import gzip
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pooch
import pytest
import torch
import trimesh

from seplib import metrics, targets, tensorops
from seplib.reproduce import profiles, store
from seplib.reproduce.criteria import held
from seplib.studies.surface import rendering, surfaces
from seplib.targets import solids
from seplib.training import History

CPU = torch.device("cpu")
STUDY = profiles.get("smoke").surface
SMALL = dataclasses.replace(STUDY.run, sizes=(12, 16, 11), rank=6, width=10, k=3, iterations=30, every=8, omega=5.0)


@pytest.fixture
def column():
    return targets.surface("column", SMALL.sizes)


# Targets -----------------------------------------------------------------------------------------------------------------


def test_the_bundled_solid_needs_no_file(column):
    assert column.name == "column" and column.values.shape == SMALL.sizes and column.values.dtype == torch.bool
    assert column.source == "made here by a formula" and 0.1 < column.values.double().mean() < 0.5
    larger = targets.surface("column", tuple(3 * n for n in SMALL.sizes)).values
    assert larger.double().mean() == pytest.approx(column.values.double().mean().item(), abs=0.05)


def test_what_stands_in_says_so(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr(pooch, "retrieve", offline)
    solid = targets.surface("thai-statue", (12, 16, 11))
    message = "made here by a formula, in place of thai-statue (OSError), stanford-dragon (not in SEPLIB_DATA)"
    assert (solid.name, solid.source) == ("column", message)
    trimesh.creation.box(extents=[3, 2, 1]).export(tmp_path / "x.ply")
    (tmp_path / "stanford-dragon.ply.gz").write_bytes(gzip.compress((tmp_path / "x.ply").read_bytes()))
    monkeypatch.setenv("SEPLIB_DATA", str(tmp_path))
    solid = targets.surface("thai-statue", (12, 16, 11))
    assert solid.name == "stanford-dragon" and solid.up == (-1, 0, 0)
    assert solid.source == "SEPLIB_DATA, NOT the Stanford file, in place of thai-statue (OSError)"
    extents = [np.ptp(where) + 1 for where in np.nonzero(solid.values.numpy())]
    assert list(np.argsort(extents)) == [2, 0, 1], "turned so that its long side fits the long axis"


def test_the_dragons_checksum_is_that_of_its_content(tmp_path, monkeypatch):
    data = trimesh.creation.box().export(file_type="ply")
    (tmp_path / "stanford-dragon.ply.gz").write_bytes(gzip.compress(data, compresslevel=1))
    monkeypatch.setenv("SEPLIB_DATA", str(tmp_path))
    monkeypatch.setitem(solids._STANFORD, "stanford-dragon", (None, hashlib.sha256(data).hexdigest()))
    assert targets.surface("stanford-dragon", (12, 16, 11)).source == "SEPLIB_DATA, checksum verified"


def test_a_stored_volume_is_found_and_a_damaged_one_made_anew(tmp_path, monkeypatch):
    data = trimesh.creation.icosphere().export(file_type="ply")
    (tmp_path / "stanford-dragon.ply.gz").write_bytes(gzip.compress(data))
    monkeypatch.setenv("SEPLIB_DATA", str(tmp_path))
    whole = targets.surface("stanford-dragon", (12, 16, 11)).values
    monkeypatch.setenv("SEPLIB_CACHE", str(tmp_path / "cache"))
    assert torch.equal(targets.surface("stanford-dragon", (12, 16, 11)).values, whole)
    (stored,) = (tmp_path / "cache").iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(solids, "voxelise", lambda *_, **__: pytest.fail("computed again"))
        assert torch.equal(targets.surface("stanford-dragon", (12, 16, 11)).values, whole)
    whole_file = stored.read_bytes()
    for damaged in (whole_file[:-100], whole_file[:90] + bytes([whole_file[90] ^ 1]) + whole_file[91:], b""):
        stored.write_bytes(damaged)
        with pytest.warns(UserWarning, match=f"{stored} is damaged: .*; it is computed again"):
            assert torch.equal(targets.surface("stanford-dragon", (12, 16, 11)).values, whole)
    assert targets.surface("stanford-dragon", (10, 16, 11)).values.shape == (10, 16, 11)
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_bad_requests_are_named():
    with pytest.raises(ValueError, match="surface must be one of thai-statue, stanford-dragon, column, got 'bunny'"):
        targets.surface("bunny", (8, 8, 8))
    with pytest.raises(ValueError, match="a grid has three sizes of at least 4 voxels, got 8 x 8 x 2"):
        targets.surface("column", (8, 8, 2))


# Training and IoU --------------------------------------------------------------------------------------------------------


def test_iou_by_slabs_is_that_of_the_whole(monkeypatch, generator):
    factors = [torch.randn(1, n, 3, generator=generator) for n in (9, 7, 8)]
    volume = torch.rand(9, 7, 8, generator=generator) < 0.4
    whole = metrics.iou(tensorops.cp_product(factors)[0], volume)
    for slab in (1 << 20, 4, 30):
        monkeypatch.setattr(tensorops, "SLAB", slab)
        assert surfaces.iou(factors, volume) == whole
    assert 0.05 < whole < 0.95
    empty = torch.zeros(9, 7, 8, dtype=torch.bool)
    assert surfaces.iou([torch.zeros(1, n, 2) for n in (9, 7, 8)], empty) == 1.0


@pytest.mark.parametrize("method", surfaces.METHODS)
def test_a_run_is_judged_on_its_output(method, column):
    run = surfaces.fit_surface(column.values, method, SMALL, 0, CPU)
    assert len(run.history.loss) == 31 and len(run.iou) == 5, "after 0, 8, 16, 24 and 30 updates"
    # The factors are kept in half precision: a voxel at the threshold may fall to the other side.
    assert run.iou[-1] == pytest.approx(metrics.iou(run.values(), column.values), abs=5e-3)
    assert run.iou[0] < run.iou[-1]
    loss = (run.values() - column.values.float()).double().square().sum().item() / 2
    assert run.history.loss[-1][0] == pytest.approx(loss, rel=2e-3)


def test_golden_run(column):
    """As in tests/test_runs.py: if these change on purpose, raise the numerics."""
    assert store.KINDS["surface"].numerics == 1
    golden = {"SepNN": 0.7765, "SepPGD": 0.7804}
    found = {method: surfaces.fit_surface(column.values, method, SMALL, 3, CPU).iou[-1] for method in golden}
    assert found == pytest.approx(golden, abs=0.003)


def test_a_finished_run_is_read_from_the_cache_unless_something_changed(column, tmp_path, monkeypatch):
    monkeypatch.setenv("SEPLIB_CACHE", str(tmp_path))
    first = surfaces.fit_surface(column.values, "SepPGD", SMALL, 0, CPU)

    class Computed(Exception):
        pass

    def computed(*_):
        raise Computed

    monkeypatch.setattr(store, "_compute", computed)
    again = surfaces.fit_surface(column.values, "SepPGD", SMALL, 0, CPU)
    assert again.history == first.history and all(map(np.array_equal, again.factors, first.factors))
    changed = column.values.clone()
    changed[0, 0, 0] = ~changed[0, 0, 0]
    for values, method, settings, seed in (
        (changed, "SepPGD", SMALL, 0),
        (column.values, "SepNN", SMALL, 0),
        (column.values, "SepPGD", dataclasses.replace(SMALL, every=7), 0),
        (column.values, "SepPGD", dataclasses.replace(SMALL, scale="rank"), 0),
        (column.values, "SepPGD", SMALL, 1),
    ):
        with pytest.raises(Computed):
            surfaces.fit_surface(values, method, settings, seed, CPU)
    with pytest.raises(ValueError, match="method must be one of SepNN, SepPGD, got 'MSK'"):
        surfaces.fit_surface(column.values, "MSK", SMALL, 0, CPU)


SCRIPT = """
import dataclasses, torch
from seplib import targets
from seplib.reproduce import profiles
from seplib.studies.surface import surfaces
torch.set_num_threads(1)
settings = dataclasses.replace(profiles.get("smoke").surface.run, sizes=(20, 32, 18), iterations=700)
run = surfaces.fit_surface(targets.surface("column", settings.sizes).values, "SepPGD", settings, 0, torch.device("cpu"))
print(run.history.metrics, [factor.tobytes().hex() for factor in run.factors])
"""


def test_a_killed_run_resumes_to_the_same_numbers(tmp_path):
    def start(cache):
        environment = {**os.environ, "SEPLIB_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
        root = Path(__file__).parents[1]
        return subprocess.Popen(
            [sys.executable, "-c", SCRIPT], env=environment, cwd=root, stdout=subprocess.PIPE, text=True
        )

    whole = start(tmp_path / "whole")
    killed = start(tmp_path / "killed")
    deadline = time.monotonic() + 120
    while not list((tmp_path / "killed").glob("unfinished/*.pt")):
        assert killed.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL and list((tmp_path / "killed").glob("unfinished/*.pt"))
    resumed = start(tmp_path / "killed")
    assert resumed.communicate(timeout=120)[0] == whole.communicate(timeout=120)[0] != ""
    assert not list((tmp_path / "killed").glob("unfinished/*.pt"))


# Study -------------------------------------------------------------------------------------------------------------------


def test_the_search_tries_every_pair_with_plain_gradients(column, monkeypatch):
    asked = []

    def fake(volume, method, settings, seed, device):
        asked.append((method, settings.omega, settings.scale, settings.sizes))
        iou = [0.0, 0.2, settings.omega / 100, 0.9 if settings.scale else 0.1]
        return surfaces.SurfaceRun(History(metrics={"IoU": iou}), [])

    monkeypatch.setattr(surfaces, "fit_surface", fake)
    found = surfaces.search(column, STUDY, 0, CPU)
    assert asked == [("SepNN", w, s, STUDY.search_sizes) for w in STUDY.omegas for s in STUDY.scales]
    assert found["second half"][0] == pytest.approx((STUDY.omegas[0] / 100 + 0.9) / 2)
    assert found["last"][1] == 0.1 and found["best"][1] == 0.2


def test_table_and_criterion_follow_the_runs():
    def run(*iou):
        history = History(loss=[[0.0]] * 26, metrics={"IoU": list(iou)})
        return surfaces.SurfaceRun(history, [])

    full, small = (30, 50, 20), (6, 10, 4)
    runs = {
        (full, "SepNN"): [run(0, 0.5, 0.7, 0.6)],
        (full, "SepPGD"): [run(0, 0.4, 0.65, 0.8)],
        (small, "SepNN"): [run(0, 0.5, 0.7, 0.8), run(0, 0.5, 0.7, 0.9)],
        (small, "SepPGD"): [run(0, 0.5, 0.6, 0.7), run(0, 0.5, 0.7, 0.8)],
    }
    table = surfaces.table(runs, {"SepNN": 0.5, "SepPGD": 2.0}, 10).set_index(["grid", "method"])
    ours, plain = table.loc["30 x 50 x 20", "SepPGD"], table.loc["30 x 50 x 20", "SepNN"]
    assert (ours.IoU, ours.best, ours["updates to SepNN's IoU"], ours["seconds to SepNN's IoU"]) == (0.8, 0.8, 20, 40)
    assert (plain.IoU, plain.best, plain.seconds, plain["updates to SepNN's IoU"]) == (0.6, 0.7, 12.5, 20)
    assert table.loc["6 x 10 x 4", "SepNN"].spread == pytest.approx(0.1 / 2**0.5)
    assert np.isnan(table.loc["6 x 10 x 4", "SepPGD"]["updates to SepNN's IoU"]) and np.isnan(plain.spread)
    assert held(surfaces.cases(runs)) == {"IoU above SepNN's after 25 updates": True}
    (case,) = surfaces.cases(runs).values()
    assert case.distance == pytest.approx(1 / 3) and case.spread == pytest.approx(0.1), (
        "of both methods' seeds together"
    )
    one = {key: fits[:1] for key, fits in runs.items()}
    assert next(iter(surfaces.cases(one).values())).spread is None
    assert surfaces.share_above(runs) == pytest.approx(1 / 3)
    runs[full, "SepPGD"] = [run(0, 0.9, 0.9, 0.6)]
    assert held(surfaces.cases(runs)) == {"IoU above SepNN's after 25 updates": False}


# Pictures ----------------------------------------------------------------------------------------------------------------


def test_an_isosurface_faces_outward_and_encloses_what_is_inside():
    at = np.stack(np.meshgrid(*[np.arange(21)] * 3, indexing="ij"), -1) - 10.0
    values = 0.5 + (7 - np.linalg.norm(at, axis=-1))
    mesh = rendering.isosurface(values)
    assert np.abs(np.linalg.norm(mesh.vertices - 10, axis=1) - 7).max() < 0.05
    a, b, c = np.moveaxis(mesh.vertices[mesh.faces] - 10, 1, 0)
    assert (a * np.cross(b, c)).sum() / 6 == pytest.approx(4 / 3 * np.pi * 7**3, rel=0.02)
    pooled = rendering.isosurface(np.kron(values.clip(0, 1), np.ones((2, 2, 2))), pool=2)
    assert pooled.vertices.mean(0) == pytest.approx([20.5] * 3, abs=0.01), "pooled voxels keep their place"
    closed = rendering.isosurface(np.ones((4, 4, 4)))
    assert closed.vertices.min() >= -1 and closed.vertices.max() <= 4
    with pytest.raises(ValueError, match=r"there is no surface: nothing is above 1/2, the highest value is 0\.25"):
        rendering.isosurface(np.full((4, 4, 4), 0.25), blur=1.0)


def test_a_picture_shows_what_is_nearest(monkeypatch):
    monkeypatch.setattr(rendering, "YAW", 0.0)
    monkeypatch.setattr(rendering, "PITCH", 0.0)
    at = np.stack(np.meshgrid(*[np.arange(31)] * 3, indexing="ij"), -1)
    ball = 0.5 + 8 - np.linalg.norm(at - np.array([10, 10, 10]), axis=-1)
    mesh = rendering.oriented(rendering.isosurface(ball), (0, 1, 0))
    image = rendering.picture(mesh, np.array([[0, 0, 0], [30.0, 30, 30]]), 60)
    assert image.shape == (3, 60, 60)
    rows, columns = np.nonzero(image[0] < 0.99)
    assert (rows.mean(), columns.mean()) == (pytest.approx(40, abs=1.5), pytest.approx(20, abs=1.5)), "low and left"
    inside = image[0][rows, columns]
    top = image[0, int(rows.min()) + 4, 20]
    assert top > image[0, int(rows.max()) - 4, 20] + 0.2, "lit from above"
    assert inside.min() >= 0.19 and inside.max() <= 1


def test_up_is_up_and_nothing_is_mirrored():
    mesh = rendering.isosurface(np.pad(np.ones((2, 3, 4)), 2))
    for up in ((0, 1, 0), (-1, 0, 0), (1, 0, 0)):
        turned = rendering.oriented(mesh, up)
        a, b, c = np.moveaxis(turned.vertices[turned.faces], 1, 0)
        assert (a * np.cross(b, c)).sum() > 0
        assert turned.vertices[:, 1] == pytest.approx(mesh.vertices @ np.array(up))


def test_details_are_where_two_pictures_differ():
    one = np.zeros((3, 40, 50))
    two = one.copy()
    two[:, 6:10, 30:34] = 1
    two[:, 25:30, 8:12] = 0.5
    assert rendering.differing(one, two, 8) == [pytest.approx((4, 28), abs=3), pytest.approx((23, 6), abs=3)]


def test_solids_to_turn_are_small_and_whole(column):
    volume = targets.surface("column", (60, 100, 50)).values.numpy()
    page = rendering.solids({"data": volume, "a < b": volume}, (0, 1, 0), 0.8).data
    assert "a &lt; b" in page and "http" not in page and "ROOT" not in page
    content = json.loads(re.search(r'<script type="application/json">(.*?)</script>', page)[1])
    for mesh in content["meshes"].values():
        vertices, faces = (
            np.frombuffer(base64.b64decode(mesh[name]), "<u2").reshape(-1, 3) for name in ("vertices", "faces")
        )
        assert 2_000 < len(faces) <= rendering._SHOWN and faces.max() == len(vertices) - 1
        assert vertices[:, 1].max() == 65535 and vertices[:, 1].min() == 0, "the longest side fills the range"
    assert len(page) < 900_000
