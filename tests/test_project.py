"""The repository itself: pins that agree, notebooks that were really executed."""

import ast
import re
import tomllib
from importlib.metadata import metadata
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def lock() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text().split()
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in lines), "exact pins only"
    return {normalised(name): version for name, version in (line.split("==") for line in lines)}


def declared() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    everything = [*project["dependencies"], *(d for group in project["optional-dependencies"].values() for d in group)]
    return {normalised(re.match(r"[A-Za-z0-9._-]+", entry).group()) for entry in everything}


def test_every_dependency_is_pinned_and_environment_yml_agrees():
    pins = lock()
    assert declared() <= set(pins)
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    listed = dict(entry.split("==") for entry in conda[-1]["pip"] if "==" in entry)
    assert {normalised(name) for name in listed} == declared()
    assert {normalised(name): version for name, version in listed.items()} == {n: pins[n] for n in declared()}
    assert pins["torch"] == "2.13.0"


def test_every_pin_installs_on_the_oldest_python_the_readme_names():
    """Some packages need a later patch release; `make book` would then stop on a distribution's own Python 3.11."""
    oldest = re.match(
        r">=([0-9.]+)$", tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    )
    refused = []
    for name in lock():
        wanted = metadata(name).get("Requires-Python")
        if wanted and not SpecifierSet(wanted).contains(f"{oldest[1]}.0"):
            refused.append(f"{name} {wanted}")
    assert not refused


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_is_committed_executed_and_clean(path):
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "run every cell once, in order"
    outputs = [output for cell in code for output in cell.outputs]
    assert not any(output.output_type == "error" for output in outputs)
    assert not any(output.get("name") == "stderr" for output in outputs), "a warning was committed"
    tagged = [cell for cell in code if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    names = re.findall(r"^(\w+) =", tagged[0].source, re.M)
    assert names == ["profile", "device", "seed"] and 'profile = "smoke"' in tagged[0].source
    folded = [cell for cell in code if "hide-cell" in cell.metadata.get("tags", [])]
    assert folded == code[1:2] and "claims.Report(" in folded[0].source, "imports and settings are for the machine"
    compared = [
        output
        for cell in code
        if "nbval-ignore-output" not in cell.metadata.get("tags", [])
        for output in cell.outputs
        if output.get("text", "").strip()
    ]
    assert compared, "nbval would compare nothing"
    assert path.stat().st_size < 1_500_000


def test_committed_results_stay_small():
    files = [p for p in (ROOT / "results").rglob("*") if p.is_file() and "smoke" not in p.parts]
    assert all(p.stat().st_size <= 1_500_000 for p in files)
    assert sum(p.stat().st_size for p in files) <= 40_000_000


def test_the_core_imports_nothing_of_the_other_rooms():
    core = sorted((ROOT / "seplib").glob("[!_]*.py"))
    assert len(core) <= 15
    for path in core:
        imported = [
            name
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])
        ]
        rooms = [name for name in imported if name.startswith("seplib.") and (ROOT / name.replace(".", "/")).is_dir()]
        inside = [name for name in imported if name.count(".") > 1 and name.startswith("seplib.")]
        assert rooms + inside == [], f"{path.name} imports {rooms + inside}"
