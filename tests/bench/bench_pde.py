"""Speed of a physics-informed step (Sec. A.12) against one left to autograd: python tests/bench/bench_pde.py.

Exit status 1 if a stated bound does not hold. On a shared machine the ratios, not the milliseconds, mean something.
"""

import statistics
import sys
import time
from collections.abc import Callable

import torch
from measuring import judge, product_seconds

from seplib import CP, MLP, FactorMLP, SepPGD, pde
from seplib.pde.loss import LOSSES, PhysicsLoss
from seplib.training import descend

R, W, L = 64, 64, 4
WEIGHTS = dict.fromkeys(LOSSES, 1.0)
ROUNDS = 5


def networks(equation: pde.Equation, n: int) -> tuple[CP, list[torch.Tensor], torch.Tensor]:
    model = CP([FactorMLP(R, width=W, depth=L, omega=3.0) for _ in equation.domain])
    return model, equation.axes(n), equation.values(equation.axes(n, torch.float64)).float()


def ours(
    equation: pde.Equation, n: int, preconditioned: bool = False, plain_network: bool = False
) -> Callable[[int], float]:
    """Milliseconds a step over a number of them, from the training loop's own record."""
    model, axes, target = networks(equation, n)
    if plain_network:
        model = MLP(len(axes), width=W, depth=L, omega=3.0)
    ks = dict(data=5, initial=2, boundary=2) if preconditioned else {}
    methods = {name: SepPGD(model, axes, k, update_every=10**9) for name, k in ks.items()}
    step = PhysicsLoss(equation, model, axes, target, WEIGHTS, methods)
    optimizer = torch.optim.Adam([step.parameter], lr=1e-4, fused=True)

    def run(steps: int) -> float:
        seconds = descend(step, model, optimizer, iterations=steps + 2).seconds
        return 1e3 * (seconds[-1] - seconds[2]) / steps

    return run


def eager(equation: pde.Equation, n: int) -> Callable[[int], float]:
    """The same step as one writes it first: forward-mode derivatives factor by factor, and autograd through all of it."""
    model, axes, target = networks(equation, n)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    source = equation.sources(axes)

    def jet(factor: FactorMLP, x: torch.Tensor) -> list[torch.Tensor]:
        one = torch.ones_like(x)
        value, first = torch.func.jvp(factor, (x,), (one,))
        second = torch.func.jvp(lambda x: torch.func.jvp(factor, (x,), (one,))[1], (x,), (one,))[1]
        return [value[0], first[0], second[0]]

    def loss() -> torch.Tensor:
        jets = [jet(f, x) for f, x in zip(model.factors, axes)]
        fields = torch.stack(
            [
                torch.einsum("ir,jr,kr->ijk", *(jet[o] for jet, o in zip(jets, order))) * model.scale
                for order in equation.orders
            ]
        )[None]
        residual = equation.operator(fields, axes)[0] - source
        error = fields[0, 0] - target
        faces = [error.select(axis, end).square().mean() for axis in range(3) for end in (0, -1)]
        return residual.square().mean() + error.square().mean() + sum(faces) / len(faces)

    def run(steps: int) -> float:
        began = time.perf_counter()
        for _ in range(steps):
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
        return 1e3 * (time.perf_counter() - began) / steps

    return run


def main() -> int:
    """Print the table; 1 if a bound fails."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    steps = {
        ("eager", 16): (eager(pde.HELMHOLTZ, 16), 10),
        ("plain", 16): (ours(pde.HELMHOLTZ, 16), 40),
        ("SepPGD", 16): (ours(pde.HELMHOLTZ, 16, preconditioned=True), 40),
        ("nonlinear", 16): (ours(pde.KLEIN_GORDON, 16), 40),
        ("PINN", 16): (ours(pde.HELMHOLTZ, 16, plain_network=True), 2),
        ("plain", 64): (ours(pde.HELMHOLTZ, 64), 10),
        ("nonlinear", 64): (ours(pde.KLEIN_GORDON, 64), 5),
    }
    times: dict[tuple[str, int], list[float]] = {key: [] for key in steps}
    for _ in range(ROUNDS):  # in turn, so that a noisy minute falls on all of them
        for key, (run, count) in steps.items():
            times[key].append(run(count))
    best = {key: min(found) for key, found in times.items()}
    ratio = {key: statistics.median(a / b for a, b in zip(found, times["plain", 16])) for key, found in times.items()}
    print(f"Helmholtz unless nonlinear (Klein-Gordon), R = {R}, W = {W}, {L} layers, float32, {threads} threads")
    for (name, n), found in times.items():
        print(f"{name:10s} {n}^3: {min(found):8.2f} ms at best, {statistics.median(found):8.2f} ms median")
    rows = [
        ("plain step / eager step, 16^3", 1 / ratio["eager", 16], 0.15),
        ("step with SepPGD / plain step, 16^3", ratio["SepPGD", 16], 1.7),
        ("plain step at 64^3 / product of two 2048 x 2048 matrices", best["plain", 64] / 1e3 / product_seconds(), None),
        ("Klein-Gordon at 64^3 / Helmholtz with Gram matrices", best["nonlinear", 64] / best["plain", 64], None),
        ("PINN step / SPINN step, 16^3", ratio["PINN", 16], None),
    ]
    return int(not judge(rows))


if __name__ == "__main__":
    sys.exit(main())
