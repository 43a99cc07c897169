"""What the benchmarks measure with: least times, the machine's own matrix product as a yardstick, peaks of tensor memory."""

import functools
import time
from collections.abc import Callable, Sequence

import torch

Row = tuple[str, float, float | None]  # what, how much, its upper bound or None


def best(step: Callable[[], object], repeats: int = 5, clock: Callable[[], float] = time.perf_counter) -> float:
    """Least seconds of several calls after one that warms up."""
    step()
    times = []
    for _ in range(repeats):
        began = clock()
        step()
        times.append(clock() - began)
    return min(times)


@functools.cache
def product_seconds(clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of a product of two 2048 x 2048 matrices in float32: what a step's time is compared with on any machine."""
    A = torch.rand(2048, 2048)
    return best(lambda: A @ A, repeats=10, clock=clock)


def peak_tensor_memory(function: Callable[[], object]) -> float:
    """Most bytes of tensors alive at once during a call, beyond those before, as torch's profiler counts them.

    Unlike a process's resident memory it leaves out the work space of libraries, which grows with the cores and differs
    between processors.
    """
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        function()
    alive = peak = 0
    events = profile.profiler.kineto_results.events()
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak


def judge(rows: Sequence[Row]) -> bool:
    """Print what was measured, its upper bound or None, and whether it holds; True if all do."""
    print(f"{'measured':>10} {'at most':>8}  what")
    for what, value, bound in rows:
        verdict = "" if bound is None or value <= bound else "   FAILED"
        print(f"{value:10.3g} {'' if bound is None else format(bound, 'g'):>8}  {what}{verdict}")
    return all(bound is None or value <= bound for _, value, bound in rows)
