import math

import pytest
import torch
from dense import agree

from seplib import FactorMLP, FourierFeatures
from seplib.activations import NAMES

X = torch.linspace(-1, 1, 7, dtype=torch.float64)


def by_hand(factor, x, e):
    """One copy, layer by layer, as the class's docstring defines it."""
    h = factor.encode(x)
    for layer in range(factor.depth):
        z = factor.scales[layer] * h @ factor.weights[layer][e].T
        if layer < len(factor.biases):
            z = z + factor.biases[layer][e]
        h = factor.activation.value(z)
    return z


@pytest.mark.parametrize("parametrization", ["siren", "ntk", "torch"])
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_batched_pass_equals_each_copy_alone(parametrization, depth, generator):
    factor = FactorMLP(
        3, width=5, depth=depth, omega=2.0, parametrization=parametrization, ensemble=3, generator=generator
    )
    for e in range(3):
        agree(factor(X)[e].detach(), by_hand(factor, X, e).detach())
    assert not torch.equal(factor(X)[0], factor(X)[1])


def test_ntk_parametrization_is_the_network_of_theorem_2(generator):
    W, R = 64, 3
    factor = FactorMLP(R, width=W, depth=2, activation="tanh", parametrization="ntk", generator=generator)
    (W1, W2), (b,) = factor.weights, factor.biases
    assert [p.shape for p in (W1, W2, b)] == [(1, W, 1), (1, R, W), (1, W)]
    agree(factor(X)[0].detach(), (W2[0] @ torch.tanh(W1[0] * X + b[0][:, None]) / math.sqrt(W)).T.detach())


def test_initial_laws():
    """Moments of the initial entries against their laws, five standard errors wide."""
    W, omega = 400, 30.0
    g = torch.Generator().manual_seed(1)
    siren = FactorMLP(W, width=W, depth=3, omega=omega, generator=g)
    bounds = [1.0, math.sqrt(6 / W) / omega, math.sqrt(6 / W) / omega]
    for weight, bound in zip(siren.weights, bounds):
        assert 0.98 * bound < weight.abs().max() <= bound
        assert abs(weight.var() / (bound**2 / 3) - 1) < 5 * math.sqrt(0.8 / weight.numel())
    for bias, m in zip(siren.biases, [1, W, W]):
        assert 0.9 * m**-0.5 < bias.abs().max() <= m**-0.5
    ntk = FactorMLP(W, width=W, depth=3, parametrization="ntk", generator=g)
    assert ntk.scales == [1.0, W**-0.5, W**-0.5] and len(ntk.biases) == 2
    for entry in (*ntk.weights, *ntk.biases):
        assert abs(entry.var() - 1) < 5 * math.sqrt(2 / entry.numel())


def test_one_seed_is_one_network_in_every_precision():
    make = lambda dtype: FactorMLP(  # noqa: E731
        3, width=5, depth=3, generator=torch.Generator().manual_seed(3), dtype=dtype
    )
    single, double = make(torch.float32), make(torch.float64)
    for a, b in zip(single.parameters(), double.parameters()):
        assert a.dtype == torch.float32 and torch.equal(a, b.float())


@pytest.mark.parametrize("activation", [a for a in NAMES if "relu" not in a])
@pytest.mark.parametrize("parametrization", ["siren", "ntk"])
def test_jet_equals_autograd(activation, parametrization, generator):
    options = dict(width=5, depth=3, activation=activation, omega=2.0, parametrization=parametrization, ensemble=2)
    for encoding in (None, FourierFeatures(3, 0.7, generator=generator)):
        factor = FactorMLP(4, encoding=encoding, generator=generator, **options)
        value, first, second = factor.jet(X)
        agree(value.detach(), factor(X).detach())
        x = X.clone().requires_grad_()
        out = factor(x)
        for e in range(2):
            for r in range(4):
                (d1,) = torch.autograd.grad(out[e, :, r].sum(), x, create_graph=True)
                (d2,) = torch.autograd.grad(d1.sum(), x, retain_graph=True)
                agree(first[e, :, r].detach(), d1.detach())
                agree(second[e, :, r].detach(), d2)


def test_jet_can_be_trained_through(generator):
    factor = FactorMLP(2, width=4, depth=2, omega=2.0, generator=generator)
    factor.jet(X)[2].square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in factor.weights)


def test_fourier_features_are_unit_pairs(generator):
    encoding = FourierFeatures(6, 2.0, generator=generator)
    h = encoding(X)
    assert encoding.outputs == h.shape[1] == 12
    agree(h[:, :6] ** 2 + h[:, 6:] ** 2, torch.ones(7, 6))
    assert not list(encoding.parameters())


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"width must be at least 1, got 0"):
        FactorMLP(3, width=0, depth=2)
    with pytest.raises(ValueError, match=r"parametrization must be one of siren, ntk, torch, got 'mup'"):
        FactorMLP(3, width=4, depth=2, parametrization="mup")
    with pytest.raises(ValueError, match=r"omega must be positive, got -1"):
        FactorMLP(3, width=4, depth=2, omega=-1)
    with pytest.raises(ValueError, match=r"one-dimensional tensor of coordinates \(n,\), got shape \(3, 2\)"):
        FactorMLP(3, width=4, depth=2)(torch.zeros(3, 2))
    with pytest.raises(ValueError, match=r"features and scale must be positive, got 0 and 1"):
        FourierFeatures(0, 1)
