import hashlib
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seplib import targets
from seplib.reproduce import archive, recipes, store

CALLS = []


@store.stored("test kind", tolerance=1e-6)
def compute(*, number, device=None, checkpoint=None, **more):
    CALLS.append(number)
    if number < 0:
        raise FloatingPointError(f"training diverged at {number}")
    return {"twice": 2 * number, "course": np.arange(20.0) * number, "none": None, "text": "a", "flags": [True, False]}


KIND = store.KINDS["test kind"]


@pytest.fixture(autouse=True)
def _no_calls():
    CALLS.clear()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SEPLIB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def only(folder: Path) -> Path:
    (path,) = folder.glob("*.npz")
    return path


def sealed(body: bytes) -> bytes:
    """A file whose checksum is right, whatever it holds."""
    return body + hashlib.sha256(body).hexdigest().encode()


def test_without_a_folder_everything_is_computed():
    assert compute(number=1)["twice"] == compute(number=1)["twice"] == 2
    assert CALLS == [1, 1] and store.used() == [run for run in store.used() if "test-kind" not in run["run"]]


def test_a_run_is_computed_once_and_read_after_that(cache):
    first, again = compute(number=3.5), compute(number=3.5, device=torch.device("cpu"))
    assert CALLS == [3.5] and first["course"].tolist() == again["course"].tolist()
    assert store.difference(first, again) == 0
    assert compute(number=4.0)["twice"] == 8 and CALLS == [3.5, 4.0]
    (record,) = [run for run in store.used() if run["run"] == archive.file_name(store.describe(KIND, {"number": 3.5}))]
    assert record.keys() == {"run", "commit", "device", "threads", "seconds"} and record["threads"] >= 1


def test_what_does_not_describe_a_run_is_not_in_its_name():
    named = store.describe(KIND, {"number": 1, "device": torch.device("meta"), "extra": None})
    assert named == {"kind": "test kind", "numerics": 1, "arguments": {"number": 1}}
    assert "seplib" not in json.dumps(named)


def test_a_divergence_is_a_result(cache):
    for _ in range(2):
        with pytest.raises(FloatingPointError, match="training diverged at -1"):
            compute(number=-1)
    assert CALLS == [-1]


def test_other_numerics_are_another_run(cache, monkeypatch):
    compute(number=1)
    monkeypatch.setitem(vars(KIND), "numerics", 2)
    compute(number=1)
    assert CALLS == [1, 1] and len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("place", [0, 40, 0.3, 0.5, 0.8, -70, -1])
def test_a_flipped_bit_is_noticed_named_and_computed_again(cache, place):
    compute(number=2)
    path = only(cache)
    data = bytearray(path.read_bytes())
    data[int(place * len(data)) if isinstance(place, float) else place] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(archive.DamagedRun, match=rf"{path} is damaged: its {len(data)} bytes do not match"):
        archive.read(path)
    with pytest.warns(UserWarning, match=f"{path} is damaged: .*; it is computed again"):
        assert compute(number=2)["twice"] == 4
    assert CALLS == [2, 2] and archive.read(path).result["twice"] == 4


@pytest.mark.parametrize("size", [0, 10, 64, -1, -400])
def test_a_truncated_file_is_noticed_and_computed_again(cache, size):
    compute(number=2)
    path = only(cache)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.warns(UserWarning, match="is damaged: .*; it is computed again"):
        compute(number=2)
    assert CALLS == [2, 2]


class Planted:
    def __reduce__(self):
        return os.system, ("touch planted",)


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, data in members.items():
            file.writestr(name.replace("_", "."), data)
        file.comment = b"0" * 64
    return buffer.getvalue()[:-64]


def planted_array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Planted()], dtype=object), allow_pickle=True)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "body",
    [
        pickle.dumps(Planted()),
        b"",
        b"PK\x05\x06" + b"\0" * 18,
        zipped(run_json=b"{"),
        zipped(run_json=b"[1]"),
        zipped(run_json=b'{"format": "other"}'),
        zipped(other_json=b"{}"),
        zipped(run_json=b'{"format": "seplib run 1", "result": {"array": 0}}'),
    ],
    ids=["pickle", "empty", "no members", "half JSON", "list", "other format", "no run.json", "no array"],
)
def test_a_foreign_file_is_refused_whatever_its_checksum(cache, body):
    compute(number=2)
    path = only(cache)
    path.write_bytes(sealed(body))
    with pytest.raises(archive.DamagedRun, match=rf"{path} is not a stored run: "):
        store.check(path)
    with pytest.warns(UserWarning, match="is not a stored run: .*; it is computed again"):
        compute(number=2)
    assert not Path("planted").exists()


def test_nothing_in_a_file_is_unpickled(cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    compute(number=2)
    path = only(cache)
    content = json.loads(zipfile.ZipFile(path).read("run.json"))
    members = {"run_json": json.dumps(content).encode(), "0_npy": planted_array()}
    path.write_bytes(sealed(zipped(**members)))
    with pytest.raises(archive.DamagedRun, match="Object arrays cannot be loaded"):
        archive.read(path)
    assert not Path("planted").exists()


def test_a_file_under_another_runs_name_is_refused(cache):
    compute(number=2)
    path = only(cache)
    other = path.with_name(archive.file_name(store.describe(KIND, {"number": 5})))
    path.rename(other)
    with pytest.raises(archive.DamagedRun, match=f"{other} holds another run, {path.name}"):
        store.check(other)
    with pytest.warns(UserWarning, match="holds another run"):
        assert compute(number=5)["twice"] == 10


def test_an_audit_reads_its_folder_and_computes_nothing(cache, monkeypatch):
    compute(number=2)
    monkeypatch.setenv("SEPLIB_AUDIT", str(cache))
    monkeypatch.setenv("SEPLIB_CACHE", str(cache / "elsewhere"))
    assert compute(number=2)["twice"] == 4
    with pytest.raises(
        store.MissingRun, match=rf'{cache} holds no run test-kind-.*\.npz: kind test kind, {{"number": 3}}'
    ):
        compute(number=3)
    path = only(cache)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(archive.DamagedRun, match="is damaged"):
        compute(number=2)
    assert CALLS == [2] and not (cache / "elsewhere").exists()


def test_a_run_of_other_numerics_or_unknown_kind_is_named(cache, monkeypatch):
    compute(number=2)
    path = only(cache)
    monkeypatch.setitem(vars(KIND), "numerics", 2)
    with pytest.raises(archive.DamagedRun, match=f"{path}: a test kind run of numerics 1, but the library's are 2"):
        store.check(path)
    monkeypatch.delitem(store.KINDS, "test kind")
    with pytest.raises(archive.DamagedRun, match=f"{path}: kind must be one of .*, got 'test kind'"):
        store.check(path)


def test_a_full_disk_loses_no_result(cache, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archive, "write_atomic", full)
    with pytest.warns(UserWarning, match="the run is finished but could not be stored: .*No space left on device"):
        assert compute(number=2)["twice"] == 4
    assert not list(cache.glob("*"))


WRITER = """
import sys, numpy as np
from pathlib import Path
from seplib.reproduce import archive
description = {"kind": "test kind", "numerics": 1, "arguments": {"number": 9}}
run = archive.StoredRun(description, {"array": np.random.default_rng(0).normal(size=400_000)}, {})
path = Path(sys.argv[1]) / archive.file_name(description)
print("ready", flush=True)
while True:
    archive.write(path, run)
"""


def writer(folder):
    root = Path(__file__).parents[1]
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(folder)], cwd=root, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def test_two_that_write_the_same_run_never_leave_half_a_file(tmp_path):
    two = [writer(tmp_path) for _ in range(2)]
    try:
        while not list(tmp_path.glob("*.npz")):
            time.sleep(0.01)
        for _ in range(20):
            assert archive.read(only(tmp_path)).result["array"].shape == (400_000,)
    finally:
        for process in two:
            assert process.poll() is None, "writing on"
            process.kill()
            process.communicate()


def test_killed_while_writing_leaves_no_half_file(tmp_path):
    for moment in (0.0, 0.05, 0.11, 0.23):
        process = writer(tmp_path)
        time.sleep(moment)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        for path in tmp_path.glob("*.npz"):
            assert archive.read(path).result["array"].shape == (400_000,)


def test_a_run_is_replayed_from_its_own_description(cache):
    compute(number=2)
    found = archive.read(only(cache))
    assert store.difference(found.result, store.replay(found)) == 0 and CALLS == [2, 2]


numbers = st.one_of(st.integers(-(2**53), 2**53), st.floats(allow_nan=True), st.booleans(), st.none(), st.text())
arrays = st.builds(
    lambda shape, kind: np.asarray(np.arange(np.prod(shape, dtype=int)).reshape(shape) % 7, dtype=kind),
    st.lists(st.integers(0, 4), max_size=3).map(tuple),
    st.sampled_from(["float64", "float32", "float16", "int64", "uint8", "bool"]),
)
trees = st.recursive(
    st.one_of(numbers, arrays, st.lists(st.floats(allow_nan=False), min_size=9, max_size=12)),
    lambda inner: st.one_of(st.lists(inner, max_size=12), st.dictionaries(st.text(), inner, max_size=4)),
    max_leaves=12,
)


@given(trees)
def test_what_is_written_is_read(tmp_path_factory, tree):
    path = tmp_path_factory.mktemp("store") / archive.file_name({"kind": "a", "numerics": 1, "arguments": {}})
    archive.write(path, archive.StoredRun({"kind": "a", "numerics": 1, "arguments": {}}, tree, {}))
    same(tree, archive.read(path).result)


def same(one, other):
    """Equal in value, type and dtype, entry by entry."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            same(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for a, b in zip(one, other):
            same(a, b)
    elif isinstance(one, np.ndarray):
        assert one.dtype == other.dtype and one.shape == other.shape and np.array_equal(one, other)
    else:
        assert one == other or (one != one and other != other)


def test_tables_and_pictures_are_read_as_written(tmp_path):
    table = pd.DataFrame({"name": ["a", "b"], "value": [1.5, np.nan], "n": [1, 2]}, index=[10, 20])
    picture = np.random.default_rng(0).integers(0, 256, (3, 20, 30), dtype=np.uint8)
    description = {"kind": "a", "numerics": 1, "arguments": {}}
    path = tmp_path / archive.file_name(description)
    archive.write(path, archive.StoredRun(description, {"table": table, "picture": picture}, {}))
    assert "0.png" in {name.split("/")[-1] for name in zipfile.ZipFile(path).namelist()} | {
        name.replace("1.png", "0.png") for name in zipfile.ZipFile(path).namelist()
    }
    found = archive.read(path).result
    pd.testing.assert_frame_equal(found["table"], table)
    assert np.array_equal(found["picture"], picture) and found["picture"].dtype == np.uint8


def test_the_same_run_is_the_same_file(tmp_path):
    description = {"kind": "a", "numerics": 1, "arguments": {}}
    run = archive.StoredRun(description, {"x": np.arange(10.0)}, {"commit": "c"})
    for name in ("one", "two"):
        archive.write(tmp_path / name / archive.file_name(description), run)
        time.sleep(0.01)
    one, two = (next((tmp_path / name).iterdir()).read_bytes() for name in ("one", "two"))
    assert one == two


def test_a_result_of_another_kind_of_thing_is_refused(tmp_path):
    description = {"kind": "a", "numerics": 1, "arguments": {}}
    with pytest.raises(TypeError, match="a run's result is numbers, text, arrays and tables, got Planted"):
        archive.write(tmp_path / "x", archive.StoredRun(description, {"x": Planted()}, {}))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (np.array([1.0, 4.0]), np.array([1.0, 3.0]), 0.25),
        ({"seconds": 1.0, "x": 2.0}, {"seconds": 9.0, "x": 2.0}, 0.0),
        ({"x": 2.0}, {"y": 2.0}, np.inf),
        ([1.0, "a"], [1.0, "b"], np.inf),
        (np.zeros(2), np.zeros(3), np.inf),
        (np.array([np.nan, 1.0]), np.array([np.nan, 1.0]), 0.0),
        (np.array([np.nan, 1.0]), np.array([0.0, 1.0]), np.inf),
        (np.array([1.0]), np.array([np.nan]), np.inf),
        (pd.DataFrame({"a": [1.0, 2.0]}), pd.DataFrame({"a": [1.0, 1.0]}), 0.5),
        (True, False, np.inf),
        (None, None, 0.0),
        (archive.Diverged("a"), archive.Diverged("b"), 0.0),
        (archive.Diverged("a"), {"x": 1.0}, np.inf),
    ],
)
def test_the_difference_of_two_results(one, other, expected):
    assert store.difference(one, other) == store.difference(other, one) == expected


# Recipes -----------------------------------------------------------------------------------------------------------------


def test_data_are_named_by_how_they_were_made():
    image = targets.image("astronaut", 24).values
    spoiled = targets.noisy(targets.truncate(image, 5), 0.1, 3)
    recipe = recipes.of(spoiled)
    assert recipe["make"] == "noisy" and recipe["deviation"] == 0.1 and recipe["seed"] == 3
    assert recipe["values"]["make"] == "truncated" and recipe["values"]["rank"] == 5
    assert recipe["values"]["values"] == {"make": "image", "name": "astronaut", "size": 24} | {
        "sha256": recipe["values"]["values"]["sha256"]
    }
    assert torch.equal(recipes.rebuild(json.loads(json.dumps(recipe))), spoiled)


def test_the_last_bits_of_made_data_do_not_enter_their_name():
    image = targets.image("astronaut", 24).values
    recipe = recipes.of(targets.truncate(image, 5))
    other = recipes.attach(targets.truncate(image, 5) * (1 + 1e-7), recipe)
    assert recipes.describe(other) == recipe


def test_no_noise_is_the_image_itself():
    image = targets.image("astronaut", 24).values
    assert recipes.of(targets.noisy(image, 0.0, 3)) == recipes.of(image)


def test_data_changed_in_place_forget_their_recipe():
    image = targets.image("astronaut", 24).values
    assert recipes.of(image)["make"] == "image"
    image[0, 0, 0] += 1
    assert recipes.of(image)["make"] == "values" and recipes.of(image.clone()) == recipes.of(image)


def test_data_without_a_recipe_are_named_by_value_dtype_and_shape():
    values = torch.arange(6.0)
    names = [recipes.of(v)["sha256"] for v in (values, values + 1)] + [
        str(recipes.of(v)) for v in (values.view(2, 3), values.float(), values.numpy()[::-1])
    ]
    assert len(set(names)) == 5
    assert recipes.of(values) == recipes.of(values.numpy())


def test_what_cannot_be_described_or_made_again_is_named():
    with pytest.raises(TypeError, match=r"a run is described by numbers, .*, got object"):
        recipes.describe({"x": object()})
    with pytest.raises(ValueError, match=r"data made by 'values' cannot be made again; known are .*noisy"):
        recipes.rebuild({"data": recipes.of(torch.zeros(3))})
    image = {"make": "image", "name": "astronaut", "size": 24, "sha256": "0" * 64}
    with pytest.raises(ValueError, match="the image 'astronaut' at hand is not the one with checksum 000000000000"):
        recipes.rebuild(image)


def test_a_new_choice_with_its_default_leaves_descriptions_as_they_are():
    from dataclasses import dataclass

    @dataclass
    class Settings:
        rank: int
        new: float = 1.0

    assert recipes.choices(Settings(3)) == {"rank": 3}
    assert recipes.choices(Settings(3, 2.0), without=("rank",)) == {"new": 2.0}
