import itertools

import numpy as np
import pytest
import torch

from seplib import pde
from seplib.pde import reference

GRID = np.linspace(-0.9, 0.9, 10)  # nodes of every resolution below


def solution(resolution):
    return pde.diffusion_reference(np.linspace(0.1, 1, 4), GRID, GRID, resolution=resolution)


def test_the_reference_converges_with_second_order():
    found = [solution(n) for n in (20, 40, 80, 160)]
    gaps = [np.linalg.norm(fine - coarse) for coarse, fine in itertools.pairwise(found)]
    slopes = np.log2(np.divide(gaps[:-1], gaps[1:]))
    assert slopes[-1] == pytest.approx(2, abs=0.25), slopes
    assert np.abs(found[3] - found[2]).max() < 3e-4


def test_the_solver_finds_barenblatts_solution():
    """The one closed form of the equation with compact support, as a check that owes nothing to the solver itself."""

    def exact(t, x, y):
        tau = reference.DIFFUSIVITY / 2 * (t + 1)
        return tau**-0.5 * np.maximum(0.17 - (x**2 + y**2) / (16 * tau**0.5), 0)

    errors = []
    for n in (20, 40, 80):
        nodes, states = reference.solve(lambda x, y: exact(0, x, y), (0.5, 1.0), n)
        truth = exact(1.0, nodes[:, None], nodes)
        errors.append(np.linalg.norm(states[1] - truth) / np.linalg.norm(truth))
    assert exact(1.0, 0.95, 0.0) == 0 < exact(1.0, 0.0, 0.0)  # the support stays inside
    assert np.log2(errors[0] / errors[2]) / 2 > 1.2, errors  # the front, a kink, costs some of the second order
    assert errors[2] < 3e-3


def test_start_boundary_and_decay():
    t, x = [0.0, 0.3, 1.0], np.linspace(-1, 1, 9)
    u = pde.diffusion_reference(t, x, x, resolution=40)
    assert u.shape == (3, 9, 9) and u.dtype == np.float64
    inner = np.ix_(range(1, 8), range(1, 8))
    assert np.allclose(u[0][inner], reference.bumps(x[:, None], x)[inner], atol=1e-3)
    assert not u[:, [0, -1]].any() and not u[:, :, [0, -1]].any()
    assert u.max() <= 0.41 and u.min() > -1e-3
    assert (np.diff(u.max((1, 2))) < 0).all()


def test_any_order_of_points_and_tensors():
    t, x, y = [0.5, 0.0, 0.5], [0.3, -0.2], [0.1, 0.0, -0.7]
    mixed = pde.diffusion_reference(t, x, y, resolution=20)
    straight = pde.diffusion_reference([0.0, 0.5], sorted(x), sorted(y), resolution=20)
    assert np.array_equal(mixed, straight[[1, 0, 1]][:, [1, 0]][:, :, [2, 1, 0]])
    tensor = pde.diffusion_reference(*(torch.tensor(c) for c in (t, x, y)), resolution=20)
    assert isinstance(tensor, torch.Tensor) and np.array_equal(tensor.numpy(), mixed)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"finite and one-dimensional, got shapes \[\(1,\), \(2, 1\), \(1,\)\]"):
        pde.diffusion_reference([0.0], [[0.0], [0.1]], [0.0])
    with pytest.raises(ValueError, match=r"t >= 0 and for x and y in \[-1, 1\]"):
        pde.diffusion_reference([0.0], [0.0], [1.5])
    with pytest.raises(ValueError, match=r"resolution must be at least 4, got 3"):
        pde.diffusion_reference([0.0], [0.0], [0.5], resolution=3)


def test_a_solver_that_gives_up_says_so():
    with pytest.raises(RuntimeError, match=r"the stiff integrator gave up"), np.errstate(all="ignore"):
        reference.solve(lambda x, y: -10 - 0 * x * y, (1.0,), 8)  # diffusion backwards in time
