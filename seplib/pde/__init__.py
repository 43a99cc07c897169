"""Equations solved by separable networks: the equations, their references, derivatives by jets, losses (Sec. A.12, Figs. 4, 13, 14)."""

from seplib.pde.equations import HELMHOLTZ, KLEIN_GORDON, Equation, diffusion, mesh
from seplib.pde.jets import PointFields
from seplib.pde.loss import LOSSES, PhysicsLoss
from seplib.pde.reference import diffusion_reference

__all__ = [
    "HELMHOLTZ",
    "KLEIN_GORDON",
    "LOSSES",
    "Equation",
    "PhysicsLoss",
    "PointFields",
    "diffusion",
    "diffusion_reference",
    "mesh",
]
