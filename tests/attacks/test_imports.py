"""What loading the library costs: torch, and little beside it."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import seplib

ROOT = Path(__file__).parents[2]
HEAVY = [
    "pandas",
    "skimage",
    "trimesh",
    "pooch",
    "matplotlib",
    "scipy",
    "joblib",
    "papermill",
    "nbformat",
    "IPython",
    "PIL",
    "psutil",
    "snakemake",
]


def loaded(code: str) -> set[str]:
    code += "\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_library_loads_torch_and_little_else():
    """A network is trained in a fresh interpreter, and nothing that serves files, tables or pictures has been read."""
    code = """
import torch, sys
before = set(sys.modules)
import seplib
from seplib import *
assert len({name for name in sys.modules if name not in before}) < 60, len(sys.modules)
"""
    assert not loaded(code.replace("from seplib import *\n", "")) & set(HEAVY)
    train = """
import torch
from seplib import CP, FactorMLP, SepPGD, fit
axes = [torch.linspace(-1, 1, 8)] * 2
model = CP([FactorMLP(4, width=8, depth=2) for _ in axes])
fit(model, axes, torch.ones(8, 8), preconditioner=SepPGD(model, axes, k=2), iterations=2)
"""
    assert not loaded(train) & set(HEAVY)


def test_nothing_but_torch_numpy_and_jaxtyping_is_loaded():
    """Counted by what a fresh interpreter reads for the library beyond what it reads for these."""
    base, ours = (loaded(f"import {names}") for names in ("torch, numpy, jaxtyping, tqdm", "seplib"))
    assert {name.partition(".")[0] for name in ours - base} - sys.stdlib_module_names == {"seplib"}


# What no extra brings is not there: only the five packages that `pip install seplib` asks for, and what they ask for.
BARE = """
import importlib.machinery, sys
find = importlib.machinery.PathFinder.find_spec
def found(name, path=None, target=None):
    return None if name.partition(".")[0] in MISSING else find(name, path, target)
importlib.machinery.PathFinder.find_spec = found
"""
BASE = """
import tempfile, torch, seplib
from seplib import CP, FactorMLP, MSK, SepPGD, approximation, dynamics, fit, limits, metrics, ntk, pde, preconditioning, ridge
axes = [torch.linspace(-1, 1, 9)] * 2
model = CP([FactorMLP(4, width=8, depth=2) for _ in axes])
with tempfile.TemporaryDirectory() as folder:
    fit(model, axes, torch.ones(9, 9), preconditioner=MSK(model, axes, k=2), iterations=2, checkpoint=folder + "/run")
    seplib.save(model, folder + "/model")
    seplib.load(folder + "/model")
pde.diffusion_reference([0.0, 0.1], [0.0], [0.0])
approximation.approximate(lambda x, y: x * y, [(-1, 1)] * 2, 0.1)
try:
    seplib.claims
except ModuleNotFoundError as error:
    print(error)
"""


def missing() -> set[str]:
    """Import names of the packages that the extras bring."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    names = {entry.partition("<")[0].replace("-", "_") for name in ("data", "reproduce") for entry in extras[name]}
    return names - {"pillow", "scikit_image", "ipython"} | {"PIL", "skimage", "IPython"}


def test_the_library_needs_no_extra():
    code = BARE.replace("MISSING", repr(missing())) + BASE
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    line = r"seplib\.claims needs \w+: pip install 'seplib\[data,reproduce\]'\n"
    assert done.returncode == 0 and re.fullmatch(line, done.stdout), done.stdout + done.stderr


def test_the_command_says_which_extra_it_needs():
    code = BARE.replace("MISSING", repr(missing())) + "import runpy; runpy.run_module('seplib', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    line = r"seplib: error: the command needs \w+: pip install 'seplib\[data,reproduce\]'\n"
    assert done.returncode == 1 and re.fullmatch(line, done.stderr), done.stderr


def test_five_packages_are_needed_and_the_rest_are_extras():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["dependencies"] == ["jaxtyping", "numpy", "scipy", "torch", "tqdm"]
    assert set(project["optional-dependencies"]) == {"data", "reproduce", "book", "test"}


def test_one_library_reads_command_lines():
    """Typer, in the library and in what builds the book."""
    sources = [*(ROOT / "seplib").rglob("*.py"), *(ROOT / "book").rglob("*.py")]
    readers = re.compile(r"^\s*(?:import|from) (argparse|click|typer|getopt|optparse|docopt|fire)\b", re.M)
    assert {name for path in sources for name in readers.findall(path.read_text())} == {"typer"}


@pytest.mark.parametrize(
    "name", [name for name in seplib.__all__ if name.islower() and name not in ("fit", "load", "save")]
)
def test_every_module_is_there_when_it_is_asked_for(name):
    place = "reproduce.claims" if name == "claims" else name
    assert getattr(seplib, name).__name__ == f"seplib.{place}" and name in dir(seplib)


def test_a_name_that_is_not_there_is_named():
    with pytest.raises(AttributeError, match=r"^module 'seplib' has no attribute 'nothing'$"):
        seplib.nothing  # noqa: B018


def test_the_command_answers_without_what_it_does_not_need():
    code = "import sys; sys.argv = ['seplib', '--help']\nfrom seplib.__main__ import app\napp(standalone_mode=False)"
    found = loaded(code)
    assert "torch" in found and not found & (set(HEAVY) - {"PIL", "psutil"})
