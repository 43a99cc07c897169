"""Attacks by the surroundings: a project that is read-only, a home that is, odd paths, no language, no git, a half-made environment."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import papermill
import pytest
from checkouts import ROOT, bare, copied, ended, make, needs_ready_venv
from PIL import Image

from seplib.reproduce import comparing

RULES = comparing.Rules.read(ROOT / "tests" / "expected" / "smoke.toml")
BOOK = ("notebooks", "book", "results/paper", "_config.yml", "CHANGELOG.md", "tests/expected")
INDEX = "_build/html/index.html"
TOOLS = ("bash", "sh", "env", "find", "sort", "xargs", "cksum", "make", "rm", "mkdir", "touch", "cat", "true", "ls")


@pytest.fixture
def poor(tmp_path) -> dict[str, str]:
    """Neither git nor a language, a home that one may not write to."""
    tools, home = tmp_path / "tools", tmp_path / "home"
    tools.mkdir()
    home.mkdir(mode=0o555)
    for name in TOOLS:
        (tools / name).symlink_to(shutil.which(name))
    (tools / "python3").symlink_to(sys.executable)
    return dict(LANG="C", HOME=str(home), PATH=str(tools))


@pytest.fixture
def locked():
    """Take the right to write away from a folder and all below it, until the test ends."""
    taken = []

    def lock(folder: Path) -> Path:
        for path in [folder, *folder.rglob("*")]:
            if not path.is_symlink():
                taken.append((path, path.stat().st_mode))
                path.chmod(path.stat().st_mode & 0o555)
        return folder

    yield lock
    for path, mode in taken:
        path.chmod(mode)


# A project that cannot be written -------------------------------------------------------------------------------------


@pytest.mark.slow
@needs_ready_venv
@pytest.mark.parametrize("target", ["figures", "book", "notebooks", "test", "compare", "expected"])
def test_make_says_in_one_line_that_a_checkout_is_read_only(target, tmp_path, locked, unprivileged):
    folder = locked(copied(tmp_path / "ours", "notebooks/ntk_exact.ipynb"))
    ((status, text),) = ended(make(folder, target, before=unprivileged))
    lines = [line for line in text.splitlines() if not line.startswith("make")]
    assert status == 2
    assert lines == [f"cannot write to {folder}: copy the project to a folder of your own"]


@pytest.mark.slow
def test_a_read_only_library_is_enough_for_ones_own_pictures(tmp_path, locked, unprivileged, poor):
    """Nor is the home one to write to: a picture is fitted all the same, and nothing else is said."""
    folder = locked(copied(tmp_path / "ours"))
    own = tmp_path / "own"
    own.mkdir()
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(own / "cat.png")
    command = [
        *unprivileged,
        sys.executable,
        "-m",
        "seplib",
        "fit",
        "cat.png",
        "--rank",
        "4",
        "--width",
        "6",
        "--iterations",
        "3",
    ]
    done = subprocess.run(
        command, cwd=own, env={**bare(), **poor, "PYTHONPATH": str(folder)}, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert {path.name for path in own.iterdir()} == {"cat.png", "cat-fit.png", "cat-fit.npz"}


# Another folder -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_notebook_executed_from_another_folder_shows_the_same(tmp_path, monkeypatch):
    """Copied to a folder with nothing else in it and executed there: what it shows is what is expected, and it writes nothing."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    shown, elsewhere = tmp_path / "shown", tmp_path / "some where else"
    shown.mkdir()
    elsewhere.mkdir()
    shutil.copy(ROOT / "notebooks" / "ntk_exact.ipynb", elsewhere)
    monkeypatch.chdir(elsewhere)
    papermill.execute_notebook(
        "ntk_exact.ipynb", str(shown / "ntk_exact.ipynb"), kernel_name="python3", progress_bar=False
    )
    expected = comparing.differences(ROOT / "tests" / "expected" / "smoke", shown, RULES)
    assert [line for line in expected if line.startswith("ntk_exact.ipynb")] == []
    assert comparing.read(shown / "ntk_exact.ipynb"), "it shows nothing"
    assert [path.name for path in elsewhere.iterdir()] == ["ntk_exact.ipynb"]


# The whole book -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@needs_ready_venv
def test_the_book_is_built_in_surroundings_that_lack_everything(tmp_path, unprivileged, poor):
    """Spaces and an accent in the path, LANG=C, a home that is read-only, no git, and another make that wants the same."""
    folder = copied(tmp_path / "my projects" / "sép nn", *BOOK)
    runs = [make(folder, INDEX, before=unprivileged, **poor) for _ in range(2)]
    assert sorted(ended(*runs)) == [(0, ""), (0, "waiting for another make in this folder\n")]
    built, pages = folder / "_build" / "html", [*folder.glob("book/*.md"), *folder.glob("notebooks/*.ipynb")]
    missing = [page.stem for page in pages if not list(built.rglob(f"{page.stem}.html"))]
    assert len(pages) > 20 and not missing
    assert "Klein–Gordon" in (built / "pdes.html").read_text(encoding="utf-8")


BUILD = """import sys
from pathlib import Path
index = Path("_build/html/index.html")
index.parent.mkdir(parents=True, exist_ok=True)
with Path("builds").open("a") as log:
    log.write("built\\n")
if Path("fail").exists():
    sys.exit(1)
index.write_text("a book")
"""
CHANGES = {
    "nothing": (lambda folder: None, 0),
    "only a time": (lambda folder: os.utime(folder / "book" / "page.md", (4 * 10**9, 4 * 10**9)), 0),
    "a page, under a clock set back": (
        lambda folder: [(folder / "book" / "page.md").write_text("new"), os.utime(folder / "book" / "page.md", (1, 1))], 1,
    ),
    "a result that is gone": (lambda folder: (folder / "results" / "paper" / "a table.csv").unlink(), 1),
    "a result of another name": (
        lambda folder: (folder / "results" / "paper" / "a table.csv").rename(folder / "results" / "paper" / "b.csv"), 1,
    ),
    "a book that is gone": (lambda folder: (folder / "_build" / "html" / "index.html").unlink(), 1),
    "a build that fails": (
        lambda folder: [(folder / "fail").touch(), (folder / "book" / "page.md").write_text("new"), ended(make(folder, INDEX))], 2,
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_the_book_is_built_again_when_what_it_shows_is_not_what_it_was(change, tmp_path):
    """By content, whatever the clock says; a stand-in counts how often it is asked to build."""
    folder = copied(tmp_path / "my projects", "_config.yml", "CHANGELOG.md")
    for path, text in {
        "book/build.py": BUILD,
        "book/page.md": "old",
        "notebooks/a b.ipynb": "",
        "results/paper/a table.csv": "1",
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    assert ended(make(folder, INDEX)) == [(0, "")]
    act, builds = CHANGES[change]
    act(folder)
    (folder / "fail").unlink(missing_ok=True)
    for _ in range(2):
        assert ended(make(folder, INDEX)) == [(0, "")]
    assert len((folder / "builds").read_text().splitlines()) == 1 + builds


# An environment that is half there ------------------------------------------------------------------------------------

PYTHON = """#!/bin/bash
# In the place of python: sets up what is no environment, and writes down that it was asked to.
case "$1 $2" in
  "-m venv") echo venv >>log; [[ "$*" = *--clear* ]] && rm -rf .venv; mkdir -p .venv/bin; cp "$0" .venv/bin/python ;;
  "-m pip") [ "$3" = --version ] && exec test ! -e .venv/half; echo pip >>log; sleep 0.2; test ! -e offline ;;
  *) exec REAL "$@" ;;
esac
"""


@pytest.fixture
def clone(tmp_path) -> Path:
    """A checkout without an environment, and a python that makes one in no time."""
    folder = copied(tmp_path / "a clone")
    (folder / ".venv").unlink()
    (folder / "python").write_text(PYTHON.replace("REAL", f"'{sys.executable}'"))
    (folder / "python").chmod(0o755)
    return folder


def set_up(clone: Path, makes: int = 1) -> list[int]:
    """Status of as many makes at once."""
    runs = [make(clone, ".venv/.ready", "PYTHON=./python") for _ in range(makes)]
    return [status for status, _ in ended(*runs)]


@pytest.mark.slow
def test_two_makes_on_a_fresh_clone_set_it_up_once(clone):
    assert set_up(clone, 3) == [0, 0, 0]
    assert (clone / "log").read_text().split() == ["venv", "pip", "pip"]


@pytest.mark.slow
def test_a_set_up_that_failed_is_taken_up_by_the_next_make(clone):
    (clone / "offline").touch()
    assert set_up(clone) == [2] and not (clone / ".venv" / ".ready").exists()
    (clone / "offline").unlink()
    assert set_up(clone) == [0] and (clone / ".venv" / ".ready").exists()
    assert (clone / "log").read_text().split() == ["venv", "pip", "pip", "pip"]


@pytest.mark.slow
@pytest.mark.parametrize("half", ["without pip", "its python gone"])
def test_an_environment_whose_making_was_killed_is_made_anew(half, clone):
    """It has a folder and perhaps a python, but nothing that could install the rest."""
    (clone / ".venv" / "bin").mkdir(parents=True)
    if half == "without pip":
        shutil.copy(clone / "python", clone / ".venv" / "bin" / "python")
        (clone / ".venv" / "half").touch()
    else:
        (clone / ".venv" / "bin" / "python").symlink_to("/nowhere/python")
    assert set_up(clone) == [0] and (clone / ".venv" / ".ready").exists()
    assert (clone / "log").read_text().split() == ["venv", "pip", "pip"]
