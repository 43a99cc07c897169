import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from seplib.reproduce import profiles, runner

ROOT = Path(__file__).parents[1]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with one good and one failing notebook."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "notebooks").mkdir()
    head = nbformat.v4.new_code_cell('profile = "smoke"\ndevice = "auto"\nseed = 0')
    head.metadata["tags"] = ["parameters"]
    report = "from seplib import claims\nr = claims.Report('good', profile=profile, device='cpu', seed=seed)"
    record = "print(r.record('table-6', cases={'a': True}, paper={}, measured={'seed': float(seed)}))"
    for name, cells in {"good": [report, record], "bad": ["x = 1", "1 / 0", "print('never')"]}.items():
        notebook = nbformat.v4.new_notebook(cells=[head, *map(nbformat.v4.new_code_cell, cells)])
        notebook.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "Python 3"}
        nbformat.write(notebook, tmp_path / "notebooks" / f"{name}.ipynb")
    return tmp_path


def test_a_notebook_runs_with_its_parameters(project):
    path = runner.execute("good", parameters={"seed": 5}, root=project, threads=1)
    assert path == project / "results" / "smoke" / "good.ipynb"
    notebook = nbformat.read(path, as_version=4)
    assert notebook.cells[-1].outputs[0].text == "reproduced\n"
    assert set(notebook.metadata.papermill) == {"parameters", "duration", "version"}
    assert not any("papermill" in cell.metadata for cell in notebook.cells)
    record = json.loads((project / "results" / "smoke" / "good" / "record.json").read_text())
    assert record["claims"][0]["measured"] == {"seed": 5.0}
    assert {p.name for p in (project / "results" / "smoke").iterdir()} == {"good", "good.ipynb"}


def test_a_failing_notebook_is_named_and_left_to_look_at(project):
    (project / "results" / "smoke" / "bad").mkdir(parents=True)
    with pytest.raises(runner.NotebookError) as caught:
        runner.execute("bad", root=project)
    assert str(caught.value) == (
        "notebook bad, cell 3 (1 / 0): ZeroDivisionError: division by zero; "
        "executed so far: results/smoke/bad.failed.ipynb"
    )
    left = nbformat.read(project / "results" / "smoke" / "bad.failed.ipynb", as_version=4)
    assert any(cell.get("execution_count") for cell in left.cells)
    assert not (project / "results" / "smoke" / "bad.ipynb").exists()
    assert not list((project / "results" / "smoke").glob(".*"))


def test_smoke_never_reads_the_cache_and_paper_does(project, monkeypatch):
    monkeypatch.setenv("SEPLIB_CACHE", "/somewhere")
    monkeypatch.setenv("SEPLIB_DATA", "data")
    monkeypatch.chdir(project)
    smoke = runner._settings(project, "smoke", project, 2)
    paper = runner._settings(project, "paper", project, None)
    assert smoke["SEPLIB_CACHE"] is None and paper["SEPLIB_CACHE"] == "/somewhere"
    assert smoke["OMP_NUM_THREADS"] == "2" and "OMP_NUM_THREADS" not in paper
    assert smoke["SEPLIB_DATA"] == str(project / "data")


def test_the_environment_is_put_back(project, monkeypatch):
    monkeypatch.delenv("SEPLIB_RESULTS", raising=False)
    before = dict(os.environ)
    with pytest.raises(runner.NotebookError):
        runner.execute("bad", root=project, threads=1)
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["run", "nope"], "notebook must be one of bad, good, got 'nope'"),
        (["run", "good", "--profile", "big"], "profile must be one of smoke, paper, got 'big'"),
        (
            ["run", "good", "--device", "tpu"],
            "device must be one of auto, cpu, cuda, cuda:1, mps, xpu or whatever else torch finds, got 'tpu'",
        ),
        (
            ["run", "good", "-p", "sead=3"],
            "parameter must be one of profile, device, seed for notebook good, got 'sead'",
        ),
        (["run", "good", "-p", "seed"], "parameter must read NAME=VALUE, got 'seed'"),
        (["collect", "--profile", "big"], "profile must be one of smoke, paper, got 'big'"),
        (["run", "bad"], "notebook bad, cell 3 (1 / 0): ZeroDivisionError: division by zero"),
    ],
)
def test_the_command_line_answers_mistakes_with_one_line(project, arguments, line):
    done = subprocess.run(
        [sys.executable, "-m", "seplib", *arguments], cwd=project, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"seplib: error: {line}") and "Traceback" not in done.stderr


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for name in ("cuda", "cuda:1", "xpu", "cpu:1"):
        with pytest.raises(
            ValueError, match=f"device '{name}' was asked for, but torch finds none here; use 'cpu' or 'auto'"
        ):
            profiles.resolve_device(name)
    with pytest.raises(ValueError, match=r"device must be one of auto, .*, got 'meta'"):
        profiles.resolve_device("meta")
    assert profiles.resolve_device("auto").type == "cpu"


def test_a_device_with_a_number_becomes_the_current_one(monkeypatch):
    chosen = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.accelerator.set_device_index", chosen.append)
    assert str(profiles.resolve_device("auto")) == str(profiles.resolve_device("cuda")) == "cuda" and not chosen
    assert str(profiles.resolve_device("cuda:1")) == "cuda:1" and chosen == [1]
    with pytest.raises(ValueError, match="device 'cuda:2' was asked for, but torch finds none here"):
        profiles.resolve_device("cuda:2")
