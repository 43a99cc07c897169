"""Speed and memory of a SepPGD step against plain gradient descent; exits with 1 if a stated bound fails.

Run with `make bench` or `python tests/bench/bench_preconditioning.py`. Times are the least of several repeats, with one
thread for each core; one step in ten renews the preconditioner.
"""

import sys
import time
from functools import partial

import torch
from measuring import best, judge, peak_tensor_memory

from seplib import CP, FactorMLP, SepPGD, ntk
from seplib.preconditioning import modulate
from seplib.streaming import FullResidual, StreamedResidual

SURFACE = dict(sizes=(304, 512, 262), rank=200, width=256, k=20, ensemble=1)
IMAGE = dict(sizes=(512, 512), rank=500, width=500, k=70, ensemble=3)


def problem(sizes, rank, width, k, ensemble):
    generator = torch.Generator().manual_seed(0)
    factors = [FactorMLP(rank, width=width, depth=3, ensemble=ensemble, generator=generator) for _ in sizes]
    model, axes = CP(factors), [torch.linspace(-1, 1, n) for n in sizes]
    target = torch.empty(ensemble, *sizes)
    for row in target.flatten(0, 1):
        row.bernoulli_(0.5, generator=generator)  # row by row: no temporary array of the data's size
    return model, axes, target, torch.optim.Adam(model.parameters(), lr=1e-4, fused=True), k


def einsum_step(model, axes, target, optimizer):
    """The step as one writes it first: einsum, a loss, autograd."""
    letters = "abc"[: len(axes)]
    formula = ",".join(f"e{letter}r" for letter in letters) + f"->e{letters}"

    def step():
        optimizer.zero_grad()
        prediction = model.scale * torch.einsum(formula, *[f(x) for f, x in zip(model.factors, axes)])
        ((prediction - target).square().sum() / 2).backward()
        optimizer.step()

    return step


def library_step(kind, model, axes, target, optimizer, preconditioner, renew=False):
    data = kind(model, axes, target, preconditioner)
    iteration = iter(range(1, 1 << 30))

    def step():
        optimizer.zero_grad()
        data.forward()
        data.loss()
        # Always or never a multiple of the update period, so that each kind of step has its own time.
        data.backward(10 * next(iteration) + (not renew))
        optimizer.step()

    return step


def surface():
    model, axes, target, optimizer, k = problem(**SURFACE)
    preconditioner = SepPGD(model, axes, k=k)
    plain = best(einsum_step(model, axes, target, optimizer), repeats=3)

    parts = StreamedResidual, model, axes, target, optimizer, preconditioner
    total = 0.9 * best(library_step(*parts)) + 0.1 * best(library_step(*parts, renew=True), repeats=3)
    return f"SepPGD step / plain with autograd and einsum, 304x512x262; {total:.3f} s and {plain:.3f} s", total / plain


def image():
    model, axes, target, optimizer, k = problem(**IMAGE)
    preconditioner = SepPGD(model, axes, k=k)
    plain = best(library_step(FullResidual, model, axes, target, optimizer, None))
    parts = FullResidual, model, axes, target, optimizer, preconditioner
    total = 0.9 * best(library_step(*parts)) + 0.1 * best(library_step(*parts, renew=True), repeats=3)
    return f"SepPGD step / plain SepNN step, 512x512x3; {total:.3f} s and {plain:.3f} s", total / plain


def eigenpairs():
    """The two ways to MSK's preconditioner on a 30 x 30 grid: the top 25 pairs alone, or all of them.

    One thread and processor time: the cores that LAPACK finds would decide, not the method.
    """
    model, axes, _, _, _ = problem(sizes=(30, 30), rank=100, width=200, k=5, ensemble=1)
    K = ntk.empirical(model, torch.cartesian_prod(*axes))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    ways = (partial(modulate, K, 25, solver=solver) for solver in ("lanczos", "full"))
    lanczos, full = (best(way, clock=time.process_time) for way in ways)
    torch.set_num_threads(threads)
    return f"25 eigenpairs by Lanczos / all 900 of a kernel; {lanczos:.3f} s and {full:.3f} s", lanczos / full


def memory():
    """Peak of streamed steps beyond the data, as a share of the data."""
    model, axes, target, optimizer, k = problem(**SURFACE)

    def steps():
        data = StreamedResidual(model, axes, target, SepPGD(model, axes, k=k))
        for iteration in (0, 1, 10):  # the first and the last renew the preconditioners
            data.forward()
            data.loss()
            data.backward(iteration)
            optimizer.step()

    share = peak_tensor_memory(steps) / (target.numel() * target.element_size())
    return "peak of the tensors beyond the data, 304x512x262, as a share of the data", share


def main():
    return int(not judge([(*surface(), 0.6), (*image(), 1.8), (*eigenpairs(), 0.5), (*memory(), 0.5)]))


if __name__ == "__main__":
    sys.exit(main())
