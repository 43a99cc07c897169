"""Attacks on the runner and on ``make figures``: two at once, killed anywhere, in surroundings that lack everything."""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
import torch
from checkouts import ROOT, copied, make, needs_ready_venv, notebook

from seplib import CP, FactorMLP, checkpoints, fit
from seplib.reproduce import runner

REPORT = """
from seplib import claims
report = claims.Report("good", profile=profile, device="cpu", seed=seed)
report.record("table-6", cases={"a": True}, paper={}, measured={"seed": float(seed)})
"""


@pytest.fixture
def project(tmp_path) -> Path:
    notebook(tmp_path / "notebooks" / "good.ipynb", REPORT, parameters="rate = 0.5\nfast = True\nlabel = 'a'")
    return tmp_path


def seeds(results: Path) -> tuple[int, float]:
    """The seed of the published notebook and the one that was recorded."""
    published = nbformat.read(results / "good.ipynb", as_version=4)
    record = json.loads((results / "good" / "record.json").read_text())
    return published.metadata.papermill.parameters.get("seed", 0), record["claims"][0]["measured"]["seed"]


# Parameters -----------------------------------------------------------------------------------------------------------

REFUSED = {
    ("-p", "seed=--5"): "parameter seed must be a whole number, got '--5'",
    ("-p", "seed=1.5"): "parameter seed must be a whole number, got '1.5'",
    ("-p", "seed="): "parameter seed must be a whole number, got ''",
    ("-p", "seed=-1"): "seed must be between 0 and 2^63 - 1, got -1",
    ("-p", f"seed={2**70}"): f"seed must be between 0 and 2^63 - 1, got {2**70}",
    ("-p", "profile=paper"): "parameter profile is set by the option --profile, got 'paper'",
    ("-p", "device=bogus"): "parameter device is set by the option --device, got 'bogus'",
    ("-p", "rate=fast"): "parameter rate must be a number, got 'fast'",
    ("-p", "fast=1"): "parameter fast must be true or false, got '1'",
    ("-p", "seed=1", "-p", "seed=2"): "parameter seed is given twice, as '1' and '2'",
    ("-p", "sead=3"): "parameter must be one of profile, device, seed, rate, fast, label for notebook good, got 'sead'",
    ("-p", "seed"): "parameter must read NAME=VALUE, got 'seed'",
    ("--threads", "0"): "threads must be at least 1, got 0",
}


@pytest.mark.parametrize("arguments", REFUSED, ids=" ".join)
def test_parameters_are_checked_before_the_start(arguments, seplib, project, monkeypatch):
    monkeypatch.chdir(project)
    monkeypatch.setattr(runner, "_papermill", lambda *_: pytest.fail("started"))
    assert seplib("run", "good", *arguments) == (1, "", f"seplib: error: {REFUSED[arguments]}\n")
    assert not (project / "results").exists()


@pytest.mark.parametrize(
    ("parameters", "line"),
    [
        ({"seed": True}, "parameter seed must be a whole number, got True"),
        ({"seed": 1.0}, "parameter seed must be a whole number, got 1.0"),
        ({"label": 3}, "parameter label must be text, got 3"),
    ],
)
def test_values_from_python_have_the_type_of_the_notebook(parameters, line, project, exactly):
    with pytest.raises(ValueError, match=exactly(line)):
        runner.execute("good", parameters=parameters, root=project)


def test_what_is_checked_is_what_the_notebook_gets(project, monkeypatch):
    given = {}
    monkeypatch.setattr(runner, "_papermill", lambda source, draft, values: (given.update(values), trained(draft))[1])
    runner.execute("good", parameters=runner.parsed(["seed=7", "rate=3", "fast=False", "label=1"]), root=project)
    assert given == {"profile": "smoke", "device": "auto", "seed": 7, "rate": 3.0, "fast": False, "label": "1"}
    runner.execute("good", parameters={"rate": 3}, root=project)
    assert given["rate"] == 3


@pytest.mark.parametrize("name", ["../good", "good.ipynb", "", ".", "/etc/passwd"])
def test_a_name_leads_nowhere_else(name, seplib, project, monkeypatch):
    monkeypatch.chdir(project / "notebooks")
    line = f"seplib: error: notebook must be one of none: there is no folder notebooks/ in {project / 'notebooks'}, got {name!r}\n"
    assert seplib("run", name) == (1, "", line)
    monkeypatch.chdir(project)
    assert seplib("run", name)[2] == f"seplib: error: notebook must be one of good, got {name!r}\n"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"cells": 3}'])
def test_a_notebook_that_is_none(content, seplib, project, monkeypatch):
    monkeypatch.chdir(project)
    (project / "notebooks" / "good.ipynb").write_bytes(content)
    status, out, err = seplib("run", "good")
    assert (status, out) == (1, "")
    assert re.fullmatch(r"seplib: error: notebooks/good\.ipynb is not a readable notebook: \w+\n", err)


# Publishing -----------------------------------------------------------------------------------------------------------


def trained(draft: Path, seed: int = 0, seconds: float = 0.0) -> None:
    """In the place of papermill: train a little with checkpoints, record it, leave an executed notebook."""
    axes = [torch.linspace(-1, 1, 6)] * 2
    factors = [FactorMLP(3, width=4, depth=2, generator=torch.Generator().manual_seed(seed + d)) for d in range(2)]
    cache = draft.parents[3] / f"{seed}.pt"
    history = fit(CP(factors), axes, torch.ones(6, 6), iterations=40, checkpoint=cache, checkpoint_every=5)
    time.sleep(seconds)
    for name in ("record.json", "table.csv"):
        data = json.dumps({"seed": seed, "loss": history.loss}).encode()
        checkpoints.write_atomic(draft.parent / "records" / name, data)
    whole = nbformat.v4.new_notebook(metadata={"papermill": {"parameters": {"seed": seed}}})
    whole.cells = [nbformat.v4.new_raw_cell(json.dumps(history.loss))]
    nbformat.write(whole, draft)


def published(results: Path) -> tuple:
    """All that is there, which must belong together."""
    record = json.loads((results / "good" / "record.json").read_text())
    assert json.loads((results / "good" / "table.csv").read_text()) == record
    shown = json.loads((results / "good.ipynb").read_text())
    assert shown["metadata"]["papermill"]["parameters"]["seed"] == record["seed"]
    assert json.loads("".join(shown["cells"][0]["source"])) == record["loss"]
    return record["seed"], record["loss"]


class Killed(BaseException):
    """Ends a run at once; nothing of it is to clean up behind it."""


@pytest.mark.parametrize("step", range(1, 5))
def test_a_run_killed_while_it_publishes_is_published_by_the_next(step, project, monkeypatch):
    """Killed before each of the renames: what is whole is published first, even if the next run fails."""
    results = project / "results" / "smoke"
    monkeypatch.setattr(runner, "_papermill", lambda source, draft, values: trained(draft, seed=1))
    runner.execute("good", root=project)
    monkeypatch.setattr(runner, "_papermill", lambda source, draft, values: trained(draft, seed=2))
    rename, count = Path.replace, iter(range(1, 9))

    def interrupted(self, target):
        if (
            target.suffix != ".pt"
            and self.name in ("good.ipynb", "good", "records", runner._READY)
            and next(count) == step
        ):
            raise Killed
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", interrupted)
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(Killed):
            runner.execute("good", root=project)
    assert not (results / "good.ipynb").exists() or published(results)[0] == 1

    def fail(*_):
        raise runner.NotebookError("a cell failed")

    monkeypatch.setattr(runner, "_papermill", fail)
    with pytest.raises(runner.NotebookError, match=r"^a cell failed$"):
        runner.execute("good", root=project)
    assert published(results)[0] == 2
    assert {path.name for path in results.iterdir()} == {"good", "good.ipynb"}


def lives(project: Path, seed: int) -> int:
    """A run of the runner in a child process."""
    child = os.fork()
    if child:
        return child
    status = 1
    with contextlib.suppress(BaseException):
        runner._papermill = lambda source, draft, values: trained(draft, seed=seed)
        runner.execute("good", root=project)
        status = 0
    os._exit(status)


def test_twenty_runs_killed_at_random_leave_nothing_mixed_and_the_same_numbers(project):
    results = project / "results" / "smoke"
    began = time.monotonic()
    assert os.waitpid(lives(project, 3), 0)[1] == 0
    life, whole = time.monotonic() - began, published(results)
    delays = random.Random(0)
    for _ in range(20):
        child = lives(project, 3)
        time.sleep(delays.uniform(0, 1.1 * life))
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) in (0, -signal.SIGKILL)
        if (results / "good.ipynb").exists():
            assert published(results) == whole
    assert os.waitpid(lives(project, 3), 0)[1] == 0
    assert published(results) == whole
    assert {path.name for path in results.iterdir()} == {"good", "good.ipynb"}


def test_runs_at_once_do_not_meet(project):
    """Four at a time, over and over: whoever comes last, notebook and records are of one run."""
    for _ in range(3):
        children = [lives(project, seed) for seed in range(4)]
        assert all(os.waitpid(child, 0)[1] == 0 for child in children)
        published(project / "results" / "smoke")
    assert not list((project / "results" / "smoke").glob("*.part"))


def test_the_folder_of_a_run_that_lives_is_left_alone(project, monkeypatch):
    results = project / "results" / "smoke"
    (results / ".good.dead.part" / "records").mkdir(parents=True)
    with runner._own_folder(results, "good") as mine:
        assert [path.name for path in results.iterdir()] == [mine.name]
        with runner._own_folder(results, "good") as other:
            assert mine.exists() and other.exists() and mine != other
        assert mine.exists() and not other.exists()
    assert not list(results.iterdir())


def test_a_file_system_without_locks_is_enough_for_one(project, monkeypatch):
    """Some network drives have none: runs go on, and no folder is taken for that of the dead."""

    def none(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(runner.fcntl, "flock", none)
    monkeypatch.setattr(runner, "_papermill", lambda source, draft, values: trained(draft))
    other = project / "results" / "smoke" / ".good.other.part"
    other.mkdir(parents=True)
    runner.execute("good", root=project)
    assert published(project / "results" / "smoke")[0] == 0 and other.exists()


def test_a_disk_that_is_full_leaves_the_old_results(project, monkeypatch, full_disk):
    monkeypatch.setattr(runner, "_papermill", lambda source, draft, values: trained(draft, seed=1))
    runner.execute("good", root=project)
    results = project / "results" / "smoke"
    before = published(results)
    with full_disk(100), pytest.raises(OSError, match=r"File too large: '.*'$"):
        runner.execute("good", root=project)
    assert published(results) == before and not list(results.glob(".*"))


@pytest.mark.slow
def test_a_python_that_dies_is_one_line(project):
    notebook(project / "notebooks" / "dead.ipynb", "import os; os.kill(os.getpid(), 9)")
    line = (
        "notebook dead: its Python process ended in the middle, as it does when the memory runs out; "
        "executed so far: results/smoke/dead.failed.ipynb"
    )
    with pytest.raises(runner.NotebookError, match=f"^{re.escape(line)}$"):
        runner.execute("dead", root=project)
    assert [path.name for path in (project / "results" / "smoke").iterdir()] == ["dead.failed.ipynb"]


# Whole commands -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_commands_at_once_do_not_mix_their_results(project):
    """The attack that the runner once fell to: seed 0's notebook beside seed 5's record."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "seplib", "run", "good", "-p"]
    runs = [
        subprocess.Popen([*command, f"seed={seed}"], cwd=project, env=environment, stderr=subprocess.DEVNULL)
        for seed in (0, 5)
    ]
    assert [run.wait(180) for run in runs] == [0, 0]
    shown, recorded = seeds(project / "results" / "smoke")
    assert shown == recorded and shown in (0, 5)
    assert {path.name for path in (project / "results" / "smoke").iterdir()} == {"good", "good.ipynb"}


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A copy of the project with one quick notebook, in a path with spaces."""
    folder = copied(tmp_path / "with spaces" / "and ümlaut")
    notebook(folder / "notebooks" / "good.ipynb", REPORT)
    return folder


@pytest.mark.slow
@needs_ready_venv
def test_two_makes_in_surroundings_that_lack_everything(checkout, tmp_path):
    """Spaces in the path, LANG=C, no home, no git, another make at the same time; then a change made under a wrong clock."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "sh", "env", "find", "python3", "make", "rm", "mkdir", "touch", "cat", "true", "ls"):
        (tools / name).symlink_to(shutil.which(name))
    (tools / "python3").unlink()
    (tools / "python3").symlink_to(sys.executable)
    bare = dict(LANG="C", HOME="/dev/null/none", PATH=str(tools))
    runs = [make(checkout, "figures", **bare) for _ in range(2)]
    said = [run.communicate(timeout=300)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], "\n".join(said)
    assert sum("waiting for another make in this folder\n" in text for text in said) == 1
    assert sum("Nothing to be done" in text for text in said) == 1
    results = checkout / "results" / "smoke"
    assert seeds(results) == (0, 0)
    assert json.loads((results / "good" / "record.json").read_text())["provenance"]["commit"] is None

    path = checkout / "notebooks" / "good.ipynb"
    path.write_text(path.read_text().replace("seed = 0", "seed = 4"))
    os.utime(path, (10**9, 10**9))  # long before the results
    os.utime(checkout / "seplib" / "reproduce" / "claims.csv", (4 * 10**9, 4 * 10**9))  # and long after today
    run = make(checkout, "figures", **bare)
    assert run.communicate(timeout=300) and run.returncode == 0
    assert json.loads((results / "good" / "record.json").read_text())["claims"][0]["measured"]["seed"] == 4

    notebook(path, REPORT, "1 / 0")
    run = make(checkout, "figures", **bare)
    text = run.communicate(timeout=300)[0]
    assert (
        run.returncode == 2
        and "seplib: error: notebook good, cell 3 (1 / 0): ZeroDivisionError: division by zero" in text
    )
    assert json.loads((results / "good" / "record.json").read_text())["claims"][0]["measured"]["seed"] == 4, "lost"
    assert (results / "good.failed.ipynb").exists() and (results / "good.ipynb").exists()


@pytest.mark.slow
@needs_ready_venv
@pytest.mark.parametrize("jobs", ["0", "x", "-1"])
def test_jobs_are_a_whole_number(jobs, checkout):
    run = make(checkout, "figures", f"JOBS={jobs}")
    text = run.communicate(timeout=120)[0]
    lines = [line for line in text.splitlines() if not line.startswith("make")]
    assert run.returncode == 2 and lines == [f"seplib: error: JOBS must be a whole number of at least 1, got {jobs}"]


def test_notebooks_name_no_path_so_they_run_from_any_folder():
    """What a notebook reads and writes comes through seplib: it may be executed from wherever it was opened."""
    found = [
        (path.stem, line)
        for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
        for cell in nbformat.read(path, as_version=4).cells
        if cell.cell_type == "code"
        for line in cell.source.splitlines()
        if re.search(r"\bopen\(|\bPath\(|\.\./|getcwd|chdir|read_csv|\bos\.", line)
    ]
    assert not found


def test_no_source_warns_when_it_is_compiled():
    """On this Python and, where there are more on this machine, on those as well."""
    interpreters = {sys.executable} | {
        found for minor in (11, 12, 13, 14) if (found := shutil.which(f"python3.{minor}")) and works(found)
    }
    for interpreter in interpreters:
        code = "import sys, pathlib\nfor p in sys.argv[1:]: compile(pathlib.Path(p).read_text(encoding='utf-8'), p, 'exec')"
        sources = [str(path) for folder in ("seplib", "book", "tests") for path in (ROOT / folder).rglob("*.py")]
        done = subprocess.run([interpreter, "-W", "error", "-c", code, *sources], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def works(interpreter: str) -> bool:
    return subprocess.run([interpreter, "-c", ""], capture_output=True).returncode == 0
