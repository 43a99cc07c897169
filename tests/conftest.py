"""Shared fixtures: float64 models from a visible seed, and nothing that reaches the network or a user's cache."""

import os

import pytest
import torch
from hypothesis import settings

from seplib import CP, FactorMLP

# Scripts, not tests: benchmarks, and generators of fixtures that need packages of their own.
collect_ignore_glob = ["bench/*", "fixtures/*", "*conftest.py"]

settings.register_profile("seplib", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("seplib")


@pytest.fixture(autouse=True)
def _isolated(monkeypatch):
    """No stored runs, no data folder, no results folder, float64 by default, one thread a test process."""
    for name in ("SEPLIB_CACHE", "SEPLIB_DATA", "SEPLIB_RESULTS"):
        monkeypatch.delenv(name, raising=False)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(20260101)


@pytest.fixture
def make_cp(generator):
    """Small CP networks with smooth factors, away from any symmetry."""

    def make(sizes, *, rank=4, width=6, depth=3, ensemble=2, scale="rank", **kwargs):
        kwargs = {"omega": 3.0, **kwargs}
        factors = [
            FactorMLP(rank, width=width, depth=depth, ensemble=ensemble, generator=generator, **kwargs) for _ in sizes
        ]
        axes = [torch.rand(n, generator=generator).sort().values * 2 - 1 for n in sizes]
        return CP(factors, scale), axes

    return make
