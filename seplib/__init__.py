"""Separable neural networks: approximation theory, neural tangent kernel, preconditioned gradient descent.

A compact companion library to the paper of that title (ICLR 2026). The modules at this level are the library's core; ``approximation``,
``pde`` and ``targets`` build on it. ``studies`` holds the paper's experiments, ``reproduce`` turns them into results that anyone can
check, ``own`` serves the command for data of one's own. Every public docstring of the library names the equation, theorem or section
that it belongs to.
"""

import importlib
from types import ModuleType

from seplib.baselines import IGA, MSK
from seplib.checkpoints import load, save
from seplib.factors import FactorMLP, FourierFeatures
from seplib.preconditioning import SepPGD
from seplib.separable import CP, MLP, TT, Tucker
from seplib.training import fit

__all__ = [
    "CP",
    "IGA",
    "MLP",
    "MSK",
    "TT",
    "FactorMLP",
    "FourierFeatures",
    "SepPGD",
    "Tucker",
    "activations",
    "approximation",
    "baselines",
    "claims",
    "dynamics",
    "fit",
    "limits",
    "load",
    "ntk",
    "pde",
    "preconditioning",
    "ridge",
    "save",
    "targets",
    "tensorops",
]


def __getattr__(name: str) -> ModuleType:
    """Load a module when it is first asked for: some bring SciPy, pandas or scikit-image along, the networks need torch and NumPy alone."""
    if name in __all__:
        place = "reproduce.claims" if name == "claims" else name
        try:
            return importlib.import_module(f"{__name__}.{place}")
        except ModuleNotFoundError as error:
            extras = "pip install 'seplib[data,reproduce]'"
            raise ModuleNotFoundError(f"seplib.{name} needs {error.name}: {extras}", name=error.name) from error
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
