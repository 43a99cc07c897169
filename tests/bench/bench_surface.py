"""Speed and memory of the surface experiment at full size; exits with 1 if a stated bound fails.

Run with `make bench` or `python tests/bench/bench_surface.py`. Ratios compare within one run: voxelising a mesh of about a
million triangles against reading every voxel once, SepPGD's training step against SepNN's.
"""

import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import torch
import trimesh

from seplib import profiles, runs, surfaces, targets
from seplib.meshes import Mesh, place, voxelise

RUN = profiles.get("paper").surface.run


def best(step, repeats=3):
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    return min(times)


def textured(detail: int) -> Mesh:
    """A bumpy ball of ``20 4^detail`` triangles."""
    ball = trimesh.creation.icosphere(subdivisions=detail)
    bumps = 1 + 0.05 * np.sin(40 * ball.vertices).prod(1, keepdims=True)
    return Mesh(np.asarray(ball.vertices) * bumps * [0.6, 1.0, 0.5], np.array(ball.faces))


def voxeliser():
    mesh = textured(8)
    seconds = best(lambda: voxelise(mesh, RUN.sizes))
    volume = np.zeros(RUN.sizes, np.uint8)
    passes = best(lambda: np.bitwise_xor.accumulate(volume, axis=2, out=volume))
    return seconds / passes, f"{len(mesh.faces)} triangles onto {RUN.sizes}: {seconds:.2f} s, in passes over the voxels"


def steps():
    values = targets.surface("column", RUN.sizes).values
    pace = runs.step_seconds(values, RUN, 0, torch.device("cpu"), rounds=1, train=surfaces._paced)
    what = ", ".join(f"{method} {seconds:.3f} s" for method, seconds in pace.items())
    return pace["SepPGD"] / pace["SepNN"], f"training step at {RUN.sizes}: {what}"


def resident(field: str) -> int:
    """Bytes of this process's memory, by a field of Linux's /proc/self/status."""
    with open("/proc/self/status") as lines:  # noqa: PTH123
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def memory():
    """Peak of a whole run beyond the volume in float32, in GB; in a process of its own."""
    values = targets.surface("column", RUN.sizes).values
    before = resident("VmRSS")
    surfaces.fit_surface(values, "SepPGD", replace(RUN, iterations=12, every=10), 0, torch.device("cpu"))
    print((resident("VmHWM") - before - 4 * values.numel()) / 1e9)


def main():
    if sys.argv[1:] == ["memory"]:
        memory()
        return 0
    place(textured(2), RUN.sizes)  # loads what is loaded once
    measured = [(*voxeliser(), 400.0), (*steps(), 2.0)]
    extra = subprocess.run([sys.executable, __file__, "memory"], capture_output=True, text=True, check=True).stdout
    measured.append((float(extra), "GB of memory beyond the data in a SepPGD run at full size", 2.0))
    print(f"{'ratio':>8} {'bound':>6}  what")
    for ratio, what, bound in measured:
        print(f"{ratio:8.2f} {bound:6.1f}  {what}{'' if ratio <= bound else '   FAILED'}")
    return int(any(ratio > bound for ratio, _, bound in measured))


if __name__ == "__main__":
    sys.exit(main())
