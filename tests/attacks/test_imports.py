"""What loading the library costs: torch, and little beside it."""

import subprocess
import sys
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


@pytest.mark.parametrize(
    "name", [name for name in seplib.__all__ if name.islower() and name not in ("fit", "load", "save")]
)
def test_every_module_is_there_when_it_is_asked_for(name):
    assert getattr(seplib, name).__name__ == f"seplib.{name}" and name in dir(seplib)


def test_a_name_that_is_not_there_is_named():
    with pytest.raises(AttributeError, match=r"^module 'seplib' has no attribute 'nothing'$"):
        seplib.nothing  # noqa: B018


def test_the_command_answers_without_what_it_does_not_need():
    code = "import sys; sys.argv = ['seplib', '--help']\nfrom seplib.__main__ import app\napp(standalone_mode=False)"
    found = loaded(code)
    assert "torch" in found and not found & (set(HEAVY) - {"PIL", "psutil"})
