"""Separable neural networks: approximation theory, neural tangent kernel, preconditioned gradient descent.

A compact companion library to the paper of that title (ICLR 2026): one module for each concept. Every public docstring
names the equation, theorem or section that it belongs to.
"""

from seplib import (
    activations,
    approximation,
    claims,
    dynamics,
    expansions,
    kan,
    kernel_pgd,
    limits,
    ntk,
    pde,
    preconditioning,
    ridge,
    targets,
    tensorops,
)
from seplib.factors import FactorMLP, FourierFeatures
from seplib.kernel_pgd import IGA, MSK
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
    "claims",
    "dynamics",
    "expansions",
    "fit",
    "kan",
    "kernel_pgd",
    "limits",
    "ntk",
    "pde",
    "preconditioning",
    "ridge",
    "targets",
    "tensorops",
]
