"""Time and memory of the tangent kernels: against the Jacobian's product, over n, W and R, and a spectrum on 512 x 512 points.

Prints one table for each question and exits with 1 if a stated bound fails. Each case runs in a process of its own, so that its peak
memory is its own. One thread, and times are processor time: the wall's time on an idle machine, and still the work done on a busy one.
"""

import json
import math
import resource
import subprocess
import sys
import time

import numpy as np
import torch
from measuring import product_seconds

from seplib import CP, FactorMLP, ntk
from seplib.studies.ntk.exactness import by_jacobian

KERNELS = {"empirical": ntk.empirical, "Jacobian": by_jacobian}
OPERATORS = {"exact": ntk.grid, "pseudo": ntk.pseudo_grid}
LIMIT_GIGABYTES = 2.0


def network(width: int, rank: int, depth: int = 3) -> CP:
    generator = torch.Generator().manual_seed(0)
    return CP([FactorMLP(rank, width=width, depth=depth, generator=generator) for _ in range(2)])


def fastest(function, repeats: int) -> float:
    times = []
    for _ in range(repeats):
        began = time.process_time()
        function()
        times.append(time.process_time() - began)
    return min(times)


def case(kind: str, **sizes) -> dict:
    """Run one case: seconds and, beyond what the process held before, peak memory in GB."""
    if kind == "spectrum":
        model, axes = network(sizes["width"], sizes["width"]), [torch.linspace(-1, 1, sizes["side"])] * 2
        operator = OPERATORS[sizes["kernel"]](model, axes)
        run, repeats = (lambda: operator.eigsh(sizes["k"])), 1
    elif kind == "product":
        model, axes = network(sizes["width"], sizes["rank"]), [torch.linspace(-1, 1, sizes["side"])] * 2
        operator, v = OPERATORS[sizes["kernel"]](model, axes), torch.ones(1, sizes["side"] ** 2)
        run, repeats = (lambda: operator.matvec(v)), 5
    else:
        model, X = network(sizes["width"], sizes["rank"]), torch.rand(sizes["points"], 2) * 2 - 1
        run, repeats = (lambda: KERNELS[sizes["kernel"]](model, X)), 5 if sizes["kernel"] == "empirical" else 1
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = fastest(run, repeats)
    gigabytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    return {"seconds": seconds, "gigabytes": gigabytes}


def measure(kind: str, **sizes) -> dict:
    """The same in a fresh process."""
    command = [sys.executable, __file__, json.dumps({"kind": kind, **sizes})]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def exponent(sizes, results) -> float:
    return np.polyfit(np.log(sizes), [math.log(r["seconds"]) for r in results], 1)[0]


def main() -> bool:
    held = True
    print("One thread, float32, SIREN factors with three layers\n")

    print("Kernel at n points, W = R = 256: layer by layer against the Jacobian's product")
    for points in (64, 256):
        fast, slow = (measure("points", kernel=name, points=points, width=256, rank=256) for name in KERNELS)
        ratio, memory = slow["seconds"] / fast["seconds"], slow["gigabytes"] / max(fast["gigabytes"], 1e-3)
        print(f"  n = {points:4d}: {fast['seconds']:.4f} s, {ratio:.0f} times faster, {memory:.0f} times less memory")
        held &= ratio > 5

    print("\nExponents of the time, one size varied")
    points, product = dict(kernel="empirical"), dict(kernel="exact")
    sweeps = {
        "kernel at points, in n": ("points", "points", (512, 1024, 2048), points | dict(width=128, rank=64), 2.4),
        "kernel at points, in W": ("points", "width", (512, 1024, 2048), points | dict(points=256, rank=64), 2.3),
        "kernel at points, in R": ("points", "rank", (1024, 2048, 4096), points | dict(points=512, width=64), 1.4),
        "grid product, in n per axis": ("product", "side", (256, 512, 1024), product | dict(width=64, rank=256), 2.4),
        "grid product, in R": ("product", "rank", (256, 512, 1024), product | dict(side=512, width=64), 1.4),
    }
    for label, (kind, name, values, fixed, bound) in sweeps.items():
        slope = exponent(values, [measure(kind, **{name: value}, **fixed) for value in values])
        print(f"  {label}: {slope:.2f} (bound {bound})")
        held &= slope <= bound

    print(f"\nTop 50 eigenvalues on a 512 x 512 grid, W = R = 500 (bound: {LIMIT_GIGABYTES} GB)")
    for name in OPERATORS:
        result = measure("spectrum", kernel=name, side=512, width=500, k=50)
        products = result["seconds"] / product_seconds(time.process_time)
        print(
            f"  {name}: {result['seconds']:.0f} s or {products:.0f} products of two 2048 x 2048 matrices, {result['gigabytes']:.2f} GB"
        )
        held &= result["gigabytes"] < LIMIT_GIGABYTES
    print("\nall bounds hold" if held else "\nA BOUND FAILED")
    return held


if __name__ == "__main__":
    torch.set_num_threads(1)
    if len(sys.argv) > 1:
        print(json.dumps(case(**json.loads(sys.argv[1]))))
    else:
        sys.exit(0 if main() else 1)
