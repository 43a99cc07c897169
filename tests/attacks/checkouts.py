"""Copies of the project to ruin, and commands that run in them as they would at a user's."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import nbformat
import psutil
import pytest

ROOT = Path(__file__).parents[2]
# An environment that make set up, so that it does not set up another one in every copy.
needs_ready_venv = pytest.mark.skipif(
    not (Path(sys.prefix) / ".ready").exists(), reason="make would set up an environment of its own"
)


def copied(folder: Path, *names: str) -> Path:
    """A copy of what ``make figures`` needs and of further files and folders, beside the same environment."""
    for name in ("Makefile", "Snakefile", "seplib", "requirements.lock", "pyproject.toml", *names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(ROOT / name, folder / name)
    (folder / ".venv").symlink_to(Path(sys.prefix))
    for name in ("requirements.lock", "pyproject.toml"):
        os.utime(folder / name, (0, 0))  # older than what was set up from them
    return folder


def notebook(path: Path, *cells: str, parameters: str = "") -> None:
    """Write a notebook with the parameters cell that every one has."""
    head = nbformat.v4.new_code_cell(f'profile = "smoke"\ndevice = "auto"\nseed = 0\n{parameters}'.strip())
    head.metadata["tags"] = ["parameters"]
    whole = nbformat.v4.new_notebook(cells=[head, *map(nbformat.v4.new_code_cell, cells)])
    whole.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "Python 3"}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(whole, path)


def bare() -> dict[str, str]:
    """The environment without what this test run has set in it."""
    return {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "LC_", "PYTHON", "SEPLIB"))
    }


def make(
    folder: Path, *arguments: str, before: Sequence[str] = (), stdout: IO | int = subprocess.PIPE, **variables: str
) -> subprocess.Popen:
    """``make ARGUMENTS`` in a folder; what it and its children say comes out in one place."""
    return subprocess.Popen(
        [*before, "make", *arguments], cwd=folder, env={**bare(), **variables}, stdout=stdout,
        stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace",
    )  # fmt: skip


def ended(*runs: subprocess.Popen) -> list[tuple[int, str]]:
    """Status of commands that come to their end, and what they said."""
    said = [run.communicate(timeout=1200)[0] for run in runs]
    return [(run.returncode, text) for run, text in zip(runs, said)]


def processes(folder: Path) -> list[psutil.Process]:
    """What runs in a folder or below it, whoever its parent is by now."""
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found
