"""Sec. A.1.3: a spline KAN layer, and the CP and TT networks it equals."""

import numpy as np
import pytest
import torch
from dense import agree
from scipy.interpolate import BSpline

from seplib import CP
from seplib.approximation.kan import AdditiveFactor, KANLayer, spline_basis


@pytest.mark.parametrize("degree", [0, 1, 2, 3, 5])
def test_basis_equals_scipys(degree, generator):
    knots = torch.rand(degree + 9, generator=generator).cumsum(0) - 2
    x = torch.linspace(-3, float(knots[-1]) + 1, 101)
    ours = spline_basis(x, knots, degree)
    for k in range(len(knots) - degree - 1):
        element = BSpline.basis_element(knots[k : k + degree + 2].numpy(), extrapolate=False)(x.numpy())
        agree(ours[:, k], torch.from_numpy(np.nan_to_num(element)))


def test_basis_is_a_partition_of_unity():
    layer = KANLayer(1, 1)
    x = torch.linspace(-1, 0.999, 50)
    agree(spline_basis(x, layer.knots, layer.degree).sum(1), torch.ones(50))


@pytest.mark.parametrize("inputs", [2, 3, 5])
def test_layer_is_its_formula(inputs, generator):
    layer = KANLayer(inputs, 3, generator=generator)
    X = torch.rand(7, inputs, generator=generator) * 2 - 1
    slow = torch.zeros(7, 3)
    for n in range(7):
        for e in range(3):
            for j in range(inputs):
                x = X[n, j]
                spline = BSpline(layer.knots.numpy(), layer.spline[e, j].detach().numpy(), layer.degree)(x.item())
                slow[n, e] += layer.weight[e, j].detach() * (x / (1 + torch.exp(-x)) + float(spline))
    agree(layer(X).detach(), slow)


@pytest.mark.parametrize("inputs", [2, 3, 5])
def test_layer_is_a_cp_network_of_rank_d(inputs, generator):
    layer = KANLayer(inputs, 4, generator=generator)
    model = CP([AdditiveFactor(layer, j) for j in range(inputs)], scale=None)
    X = torch.rand(9, inputs, generator=generator) * 2 - 1
    agree(model.points(X).detach(), layer(X).mT.detach())
    axes = [torch.rand(n, generator=generator) * 2 - 1 for n in range(2, inputs + 2)]
    grid = torch.cartesian_prod(*axes)
    agree(model.grid(axes).detach().flatten(1), layer(grid).mT.detach())


def test_gradients_reach_the_layer_through_the_network(generator):
    layer = KANLayer(3, 2, generator=generator)
    X = torch.rand(9, 3, generator=generator) * 2 - 1
    direct = torch.autograd.grad(layer(X).sin().sum(), list(layer.parameters()))
    model = CP([AdditiveFactor(layer, j) for j in range(3)], scale=None)
    for ours, theirs in zip(torch.autograd.grad(model.points(X).sin().sum(), list(layer.parameters())), direct):
        agree(ours, theirs)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"sizes must be positive, got 0, 1, 5 and degree 3"):
        KANLayer(0, 1)
    with pytest.raises(ValueError, match=r"points of shape \(N, 2\), got \(5, 1\)"):
        KANLayer(2, 1)(torch.zeros(5, 1))
    with pytest.raises(ValueError, match=r"j must be between 0 and the layer's last input 1, got 2"):
        AdditiveFactor(KANLayer(2, 1), 2)
    with pytest.raises(ValueError, match=r"degree 2 needs at least 4 knots and must not be negative, got 3"):
        spline_basis(torch.zeros(1), torch.arange(3.0), 2)
    with pytest.raises(ValueError, match=r"the knots must rise strictly"):
        spline_basis(torch.zeros(1), torch.tensor([0.0, 0.0, 1.0, 2.0]), 1)
