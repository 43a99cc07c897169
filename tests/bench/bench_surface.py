"""Speed and memory of the surface experiment at full size; exits with 1 if a stated bound fails.

Run with `make bench` or `python tests/bench/bench_surface.py`. Ratios compare within one run: voxelising a mesh of about a
million triangles against reading every voxel once, SepPGD's training step against SepNN's. Memory is counted in tensors, which is
the same on every machine.
"""

import sys
from dataclasses import replace

import numpy as np
import torch
import trimesh
from measuring import best, judge, peak_tensor_memory

from seplib import targets
from seplib.reproduce import profiles
from seplib.studies.surface import surfaces
from seplib.targets.meshes import Mesh, place, voxelise

RUN = profiles.get("paper").surface.run


def textured(detail: int) -> Mesh:
    """A bumpy ball of ``20 4^detail`` triangles."""
    ball = trimesh.creation.icosphere(subdivisions=detail)
    bumps = 1 + 0.05 * np.sin(40 * ball.vertices).prod(1, keepdims=True)
    return Mesh(np.asarray(ball.vertices) * bumps * [0.6, 1.0, 0.5], np.array(ball.faces))


def voxeliser():
    mesh = textured(8)
    seconds = best(lambda: voxelise(mesh, RUN.sizes), repeats=3)
    volume = np.zeros(RUN.sizes, np.uint8)
    passes = best(lambda: np.bitwise_xor.accumulate(volume, axis=2, out=volume))
    return f"{len(mesh.faces)} triangles onto {RUN.sizes} / a pass over the voxels; {seconds:.2f} s", seconds / passes


def steps():
    solid = targets.surface("column", RUN.sizes)
    pace = surfaces.paces(solid, replace(profiles.get("paper").surface, run=RUN), 0, torch.device("cpu"))
    what = ", ".join(f"{method} {seconds:.3f} s" for method, seconds in pace.items())
    return f"training step at {RUN.sizes}, SepPGD / SepNN; {what}", pace["SepPGD"] / pace["SepNN"]


def memory():
    values = targets.surface("column", RUN.sizes).values
    short = replace(RUN, iterations=12, every=10)
    peak = peak_tensor_memory(lambda: surfaces.fit_surface(values, "SepPGD", short, 0, torch.device("cpu")))
    return "tensors of a SepPGD run beyond the volume in float32, GB", peak / 1e9 - 4e-9 * values.numel()


def main():
    place(textured(2), RUN.sizes)  # loads what is loaded once
    return int(not judge([(*voxeliser(), 400), (*steps(), 2), (*memory(), 2)]))


if __name__ == "__main__":
    sys.exit(main())
