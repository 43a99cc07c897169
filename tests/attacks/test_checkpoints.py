"""Attacks on checkpoints and on the writing of files: same numbers or one clear line, and nothing lost."""

import copy
import errno
import hashlib
import os
import random
import re
import signal
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from seplib import IGA, MSK, SepPGD, checkpoints, fit

METHODS = {
    "plain": lambda model, axes: None,
    "SepPGD": lambda model, axes: SepPGD(model, axes, k=2, update_every=4),
    "MSK": lambda model, axes: MSK(model, axes, k=2, update_every=4),
    "IGA": lambda model, axes: IGA(model, axes, batches=2, k=2, generator=torch.Generator().manual_seed(0)),
}


class Stop(Exception):
    pass


@pytest.fixture
def run(make_cp, tmp_path):
    """Train the same small network from the same weights, and hand back all that came of it."""
    start, axes = make_cp((6, 5))
    target = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(5))

    def train(method="SepPGD", stop=None, iterations=9, lr=1e-2, data=target, factor=1.0, path=tmp_path / "run.pt"):
        def callback(state):
            if state.iteration == stop:
                raise Stop
            return {"twice": 2.0 * state.iteration}

        model = copy.deepcopy(start)
        with torch.no_grad():
            next(model.parameters()).mul_(factor)
        optimizer = torch.optim.Adam(model.parameters(), lr)
        history = fit(
            model, axes, data, optimizer, METHODS[method](model, axes), iterations, [callback],
            checkpoint=path, checkpoint_every=3,
        )  # fmt: skip
        return history.loss, history.metrics, [p.tolist() for p in model.parameters()]

    return train


def cut(run, tmp_path, method="SepPGD") -> Path:
    with pytest.raises(Stop):
        run(method, stop=5)
    return tmp_path / "run.pt"


def altered(path: Path, change) -> None:
    """Change what a checkpoint holds and seal it anew, as only a foe or a defect would."""
    head, _, body = path.read_bytes().partition(b"\n")
    state = checkpoints.unpacked(body)
    change(state)
    body = checkpoints.packed(state)
    path.write_bytes(head[:-64] + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)


def first(state: dict) -> str:
    return next(name for name in state["model"] if "weights" in name)


# A damaged file: kept aside, said, and the run starts over to the same numbers -----------------------------------------

DAMAGE = {
    "empty": (lambda data: b"", "it does not begin as a checkpoint"),
    "cut short": (lambda data: data[:-200], "its checksum is wrong"),
    "cut in its first line": (lambda data: data[:10], "it does not begin as a checkpoint"),
    "something else": (lambda data: b"my thesis", "it does not begin as a checkpoint"),
    "something behind": (lambda data: data + b"\0", "its checksum is wrong"),
    "a flipped bit of the checksum": (lambda data: data[:40] + bytes([data[40] ^ 1]) + data[41:], "its checksum is wrong"),
    "a byte that is no text": (lambda data: data[:40] + b"\xff" + data[41:], "its checksum is wrong"),
    "zeros of a file system after a crash": (lambda data: bytes(len(data)), "it does not begin as a checkpoint"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_kept_aside_and_the_run_starts_over(damage, run, tmp_path):
    whole = run(path=None)
    path = cut(run, tmp_path)
    change, reason = DAMAGE[damage]
    path.write_bytes(spoilt := change(path.read_bytes()))
    line = f"checkpoint {path} is damaged ({reason}); kept as run.pt.damaged, starting over"
    with pytest.warns(UserWarning, match=f"^{re.escape(line)}$"):
        assert run() == whole
    assert (tmp_path / "run.pt.damaged").read_bytes() == spoilt


def test_no_flipped_bit_goes_unnoticed(run, tmp_path):
    """Any bit of the file: the run never goes on from it."""
    whole, path = run(path=None), cut(run, tmp_path)
    good = path.read_bytes()
    for place in random.Random(0).sample(range(8 * len(good)), 25):
        spoilt = bytearray(good)
        spoilt[place // 8] ^= 1 << place % 8
        path.write_bytes(spoilt)
        with pytest.warns(UserWarning, match=r"is damaged \(it.*\); kept as run\.pt\.damaged, starting over$"):
            assert run() == whole


ALTERED = {
    "a tensor of a wrong shape": (
        lambda s: s["model"].update({first(s): s["model"][first(s)][..., :-1]}),
        "RuntimeError: Error(s) in loading state_dict for CP:",
    ),
    "a tensor that is missing": (
        lambda s: s["model"].pop(first(s)),
        "RuntimeError: Error(s) in loading state_dict for CP:",
    ),
    "moments of a wrong shape": (
        lambda s: s["optimizer"]["state"][0].update(exp_avg=torch.zeros(3, 7)),
        "ValueError: the optimizer's exp_avg has the shape (3, 7), its parameter (2, 6, 1)",
    ),
    "an optimizer without its groups": (lambda s: s["optimizer"].pop("param_groups"), "KeyError: 'param_groups'"),
    "an optimizer of other groups": (
        lambda s: s["optimizer"]["param_groups"].clear(),
        "ValueError: loaded state dict has a different number of parameter groups",
    ),
    "a preconditioner too few": (
        lambda s: s["preconditioner"]["preconditioners"].pop(),
        "ValueError: 2 preconditioners are needed, the state holds 1",
    ),
    "a preconditioner of a wrong shape": (
        lambda s: s["preconditioner"].update(preconditioners=[(torch.zeros(2, 6, 1), torch.zeros(2, 1))] * 2),
        "ValueError: a preconditioner of 6 points and k = 2 cannot have (2, 6, 1) and (2, 1)",
    ),
    "no preconditioner": (lambda s: s.update(preconditioner={}), "KeyError: 'preconditioners'"),
    "an empty history": (lambda s: s["history"]["loss"].clear(), "ValueError: its history has gaps"),
    "a history with a gap": (lambda s: s["history"]["seconds"].pop(), "ValueError: its history has gaps"),
    "a history of infinities": (
        lambda s: s["history"]["loss"][0].__setitem__(0, float("inf")),
        "ValueError: its history is not one of losses",
    ),
    "a metric of words": (
        lambda s: s["history"]["metrics"].update(twice=["a"]),
        "ValueError: its metric 'twice' is not one of numbers",
    ),
    "no history": (lambda s: s.pop("history"), "KeyError: 'history'"),
}


@pytest.mark.parametrize("change", ALTERED)
def test_what_does_not_fit_is_not_taken_by_halves(change, run, tmp_path):
    whole, path = run(path=None), cut(run, tmp_path)
    alter, reason = ALTERED[change]
    altered(path, alter)
    with pytest.warns(UserWarning, match=rf"is damaged \({re.escape(reason)}.*\); kept as run\.pt\.damaged"):
        assert run() == whole


@pytest.mark.parametrize("method", METHODS)
def test_every_state_survives_being_taken_back(method, run, tmp_path):
    """A state that fits in all but its last part leaves no trace of the rest."""
    whole, path = run(method, path=None), cut(run, tmp_path, method)
    altered(path, lambda s: s["optimizer"]["param_groups"].clear())
    with pytest.warns(UserWarning, match="different number of parameter groups"):
        assert run(method) == whole
    path.unlink()
    cut(run, tmp_path, method)
    assert run(method) == whole


# An intact file that is not this run's: one line, and it stays --------------------------------------------------------

OTHERS = {
    "other settings": (dict(lr=1e-3), "belongs to another run: its lr is 0.01, not 0.001; name another file, or delete it"),
    "another method": (dict(method="MSK"), "belongs to another run: its preconditioner is SepPGD, not MSK; name another file, or delete it"),
    "other data": (dict(data=torch.ones(2, 6, 5)), "belongs to another run: its data are others; name another file, or delete it"),
    "another seed": (dict(factor=-1.0), "belongs to another run: its initial weights are others; name another file, or delete it"),
    "fewer updates": (dict(iterations=2), "holds 3 updates, more than the 2 asked for"),
}  # fmt: skip


@pytest.mark.parametrize("other", OTHERS)
def test_a_checkpoint_of_another_run_is_refused_and_left_alone(other, run, tmp_path):
    path = cut(run, tmp_path)
    before = path.read_bytes()
    arguments, line = OTHERS[other]
    with pytest.raises(ValueError, match=f"^{re.escape(f'checkpoint {path} {line}')}$"):
        run(**arguments)
    assert path.read_bytes() == before and [entry.name for entry in tmp_path.iterdir()] == ["run.pt"]


def test_data_that_differ_in_their_last_bits_are_the_same(run, tmp_path):
    cut(run, tmp_path)
    target = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(5))
    run(data=target * (1 + 1e-9))


@pytest.mark.parametrize("kind", ["folder", "pipe", "loop"])
def test_what_is_no_file_is_refused(kind, run, tmp_path):
    path = tmp_path / "run.pt"
    {"folder": path.mkdir, "pipe": lambda: os.mkfifo(path), "loop": lambda: path.symlink_to(path)}[kind]()
    with pytest.raises(ValueError, match=rf"^checkpoint {re.escape(str(path))} is not a regular file$"):
        run()


def test_a_checkpoint_is_numbers_and_text(run, tmp_path):
    """No pickle, and no object array that would be one."""
    body = cut(run, tmp_path).read_bytes().partition(b"\n")[2]
    archive = tmp_path / "body.npz"
    archive.write_bytes(body)
    with np.load(archive, allow_pickle=False) as stored:
        assert all(stored[name].dtype.kind in "fiuU" for name in stored.files)
    with zipfile.ZipFile(archive) as names:
        assert all(name.endswith(".npy") for name in names.namelist())


def test_a_planted_object_runs_no_code(run, tmp_path):
    class Evil:
        def __reduce__(self):
            return (pytest.fail, ("code was run",))

    whole, path = run(path=None), cut(run, tmp_path)
    np.savez(tmp_path / "evil.npz", tree=np.array([Evil()], dtype=object))
    body = (tmp_path / "evil.npz").read_bytes()
    head = path.read_bytes().partition(b"\n")[0]
    path.write_bytes(head[:-64] + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
    with pytest.warns(UserWarning, match="Object arrays cannot be loaded when allow_pickle=False"):
        assert run() == whole


# kill -9 --------------------------------------------------------------------------------------------------------------


def test_a_run_killed_at_twenty_moments_ends_with_the_same_numbers(run, tmp_path):
    """Each life of the run is a child that is killed somewhere; what it leaves must always be enough, never wrong."""
    began = time.monotonic()
    whole = run(iterations=60, path=None)
    life = time.monotonic() - began
    delays = random.Random(0)
    for _ in range(20):
        child = os.fork()
        if not child:
            try:
                run(iterations=60)
            except BaseException:
                os._exit(1)
            os._exit(0)
        time.sleep(delays.uniform(0, life))
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) in (0, -signal.SIGKILL)
    assert run(iterations=60) == whole


# Writing --------------------------------------------------------------------------------------------------------------


def test_a_full_disk_leaves_the_old_file_and_names_it(tmp_path, full_disk):
    path = tmp_path / "a file"
    checkpoints.write_atomic(path, b"old")
    with full_disk(1000), pytest.raises(OSError, match=rf"^\[Errno \d+\] File too large: '{re.escape(str(path))}'$"):
        checkpoints.write_atomic(path, bytes(5000))
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("make", "code", "words"),
    [
        (lambda path: path.mkdir(), errno.EISDIR, "Is a directory"),
        (lambda path: path.symlink_to(path.parent / "none" / "x"), None, ""),
        (lambda path: path.parent.joinpath("run").write_text(""), None, ""),
    ],
)
def test_a_path_that_cannot_be_written_is_named(make, code, words, tmp_path):
    path = tmp_path / "target"
    make(path)
    before = sorted(tmp_path.iterdir())
    if code:
        with pytest.raises(OSError, match=rf"^\[Errno {code}\] {words}: '{re.escape(str(path))}'$"):
            checkpoints.write_atomic(path, b"new")
        assert sorted(tmp_path.iterdir()) == before
    else:
        checkpoints.write_atomic(path, b"new")
        assert path.read_bytes() == b"new"


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match=r"\[Errno \d+\] .*: '.*file/deep/x'$"):
        checkpoints.write_atomic(tmp_path / "file" / "deep" / "x", b"")
    assert (tmp_path / "file").read_text() == "mine"


def test_the_longest_name_that_a_folder_takes(tmp_path):
    checkpoints.write_atomic(tmp_path / ("x" * 255), b"1")
    assert [len(path.name) for path in tmp_path.iterdir()] == [255]


def test_many_writers_leave_one_whole_file(tmp_path):
    path = tmp_path / "shared"
    contents = [bytes([letter]) * 200_000 for letter in range(6)]
    threads = [
        threading.Thread(target=lambda data=data: [checkpoints.write_atomic(path, data) for _ in range(10)])
        for data in contents
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if path.exists():
            assert path.read_bytes() in contents
    for thread in threads:
        thread.join()
    assert list(tmp_path.iterdir()) == [path]


def test_a_checkpoint_that_cannot_be_saved_ends_the_run_with_its_path(run, tmp_path, full_disk):
    with full_disk(100), pytest.raises(OSError, match=r"File too large: '.*run\.pt'$"):
        run()
    assert not list(tmp_path.iterdir())


def test_a_clock_set_back_changes_nothing(run, monkeypatch):
    """Times come from a clock that only goes on: a history's seconds never fall."""
    day = iter(range(10**6, 0, -1000))
    monkeypatch.setattr(time, "time", lambda: next(day))
    assert run() == run(path=None)
