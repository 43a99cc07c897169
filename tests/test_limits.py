"""Theorem 2 and Corollary 1: limit kernels against quadrature, an independent library, and finite networks."""

import json
import math
from pathlib import Path

import dense
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seplib import CP, FactorMLP, activations, limits, ntk

F64 = torch.float64
FROZEN = json.loads(Path(__file__).with_name("fixtures").joinpath("neural_tangents.json").read_text())
ANALYTIC = [name for name in activations.NAMES if "relu" not in name]


def gauss_hermite(activation, x, y, omega, order=160):
    """E over w and b by a product Gauss-Hermite rule: another rule than the library's, and no closed form."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(order)
    weights = torch.from_numpy(weights / weights.sum())
    nodes, sigma = torch.from_numpy(nodes), activations.get(activation, omega)
    z, z2 = (nodes[:, None, None] * t + nodes[:, None] for t in (x, y))
    c, s = (torch.einsum("a,b,abi,abj->ij", weights, weights, f(z), f(z2)) for f in (sigma.value, sigma.slope))
    return c, c + (x[:, None] * y + 1) * s


def networks(activation, dims, *, rank, width, copies, seed=0, omega=1.0):
    generator = torch.Generator().manual_seed(seed)
    shape = dict(width=width, depth=2, parametrization="ntk", ensemble=copies, dtype=F64)
    return CP([FactorMLP(rank, activation=activation, omega=omega, generator=generator, **shape) for _ in range(dims)])


X3 = torch.tensor([[-0.8, 0.3, 0.5], [0.1, -0.6, 0.9], [0.7, 0.4, -0.2], [-0.8, 1.0, 0.5]], dtype=F64)


@pytest.mark.parametrize("activation", ANALYTIC)
def test_c_and_k_against_quadrature_of_another_kind(activation):
    x, y = torch.tensor([-1.0, -0.3, 0.0, 1.2], dtype=F64), torch.tensor([0.5, 1.0, -0.3], dtype=F64)
    c, k = gauss_hermite(activation, x, y, 1.5)
    dense.agree(limits.c(activation, x, y, 1.5), c)
    dense.agree(limits.k(activation, x, y, 1.5), k)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
def test_c_and_k_of_kinked_activations_by_integration_over_the_angle(activation):
    # In polar coordinates a homogeneous sigma leaves an integral over the angle with kinks where the arguments vanish.
    x, y = -0.4, 1.3
    sigma = activations.get(activation)
    kinks = sorted(a % (2 * math.pi) for t in (x, y) for a in (math.atan2(-t, 1), math.atan2(-t, 1) + math.pi))
    nodes, weights = np.polynomial.legendre.leggauss(40)
    c = s = 0.0
    for low, high in zip(kinks, [*kinks[1:], kinks[0] + 2 * math.pi]):
        angle = torch.from_numpy((high - low) / 2 * nodes + (high + low) / 2)
        z, z2 = (torch.cos(angle) * t + torch.sin(angle) for t in (x, y))
        weight = torch.from_numpy(weights) * (high - low) / 2 / (2 * math.pi)
        c += (2 * weight * sigma.value(z) * sigma.value(z2)).sum()  # E r^2 = 2
        s += (weight * sigma.slope(z) * sigma.slope(z2)).sum()
    x, y = (torch.tensor([t], dtype=F64) for t in (x, y))
    dense.agree(limits.c(activation, x, y), c.reshape(1, 1))
    dense.agree(limits.k(activation, x, y), (c + (x * y + 1) * s).reshape(1, 1))


@pytest.mark.parametrize("reach", [0.01, 1.0, 6.0])
def test_the_quadrature_keeps_its_error_for_small_and_large_coordinates(reach):
    # erf has a closed form: run it through the rule for tanh, whose strip is narrower than erf (entire) needs.
    x = torch.tensor([-reach, 0.3 * reach, reach], dtype=F64)
    sigma = activations.get("erf")
    object.__setattr__(sigma, "strip", math.pi / 2)
    c, s = limits._quadrature(sigma, x, x)
    dense.agree(c, limits.c("erf", x, x), 1e-13)
    dense.agree(c + (x[:, None] * x + 1) * s, limits.k("erf", x, x), 1e-13)


@pytest.mark.parametrize("reach", [1.0, 3.0])
def test_tanh_does_not_change_when_the_rule_is_refined(reach, monkeypatch):
    x = torch.tensor([-reach, 0.2, reach], dtype=F64)
    coarse = limits.k("tanh", x, x)
    monkeypatch.setattr(limits, "_NATS", 70.0)
    fine = limits.k("tanh", x, x)
    dense.agree(coarse, fine, 2e-14)


@pytest.mark.parametrize("case", FROZEN, ids=lambda case: f"{case['activation']}-{len(case['X'][0])}")
def test_the_deterministic_limit_against_neural_tangents(case):
    X = torch.tensor(case["X"], dtype=F64)
    frozen = torch.tensor(case["kernel"], dtype=F64)
    dense.agree(limits.deterministic(case["activation"], X, omega=case["omega"]), frozen, 1e-13)


@pytest.mark.parametrize("activation", activations.NAMES)
def test_the_grid_form_is_the_kernel_at_the_grid_points(activation):
    axes = [torch.linspace(-1, 1, n, dtype=F64) for n in (3, 2, 4)]
    X = dense.grid_points(axes)
    K = limits.deterministic(activation, X)
    dense.agree(limits.grid(activation, axes).dense()[0], K)
    dense.agree(limits.deterministic(activation, X[:5], X), K[:5])


@pytest.mark.parametrize("activation", activations.NAMES)
def test_the_mean_over_the_initialization_is_the_limit_at_any_width_and_rank(activation):
    K = ntk.empirical(networks(activation, 3, rank=2, width=3, copies=6000), X3)
    error = K.std(0) / math.sqrt(len(K))
    assert ((K.mean(0) - limits.deterministic(activation, X3)).abs() < 4.5 * error).all()


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_the_distance_to_the_limit_falls_like_the_inverse_square_root(activation):
    limit, sizes = limits.deterministic(activation, X3), [8, 16, 32, 64, 128]
    errors = []
    for size in sizes:
        K = ntk.empirical(networks(activation, 3, rank=size, width=size, copies=40), X3)
        errors.append((K - limit).square().sum((1, 2)).mean().sqrt().item())
    slope = np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    assert -0.65 < slope < -0.4, slope


@pytest.mark.parametrize("dims", [2, 3])
def test_draws_of_the_random_limit_have_the_closed_moments(dims):
    X, rank = X3[:, :dims], 3
    generator = torch.Generator().manual_seed(1)
    draws = limits.sample_random("tanh", X, rank, 40_000, generator)
    mean, variance = limits.random_moments("tanh", X, rank)
    dense.agree(mean, limits.deterministic("tanh", X), 1e-13)
    count = len(draws)
    assert ((draws.mean(0) - mean).abs() < 4.5 * (variance / count).sqrt()).all()
    squares = (draws - mean) ** 2
    assert ((squares.mean(0) - variance).abs() < 4.5 * squares.std(0) / math.sqrt(count)).all()


def test_the_variance_in_a_case_done_by_hand():
    # D = 2 at one point: K = k_1 V_1 + k_2 V_2, V_d = c chi^2_R / R, Var V_d = 2 c^2 / R, independent.
    X = torch.tensor([[0.3, -0.7]], dtype=F64)
    (c1, k1), (c2, k2) = ((limits.c("erf", x, x).item(), limits.k("erf", x, x).item()) for x in X.unbind(1))
    _, variance = limits.random_moments("erf", X, 5)
    assert variance.item() == pytest.approx(2 / 5 * (k1**2 * c2**2 + k2**2 * c1**2), rel=1e-12)


def test_wide_networks_of_fixed_rank_have_the_random_limits_moments():
    # Width 200 leaves a variance of order 1/W beside the 1/R of the limit: 2 % at rank 4.
    K = ntk.empirical(networks("tanh", 3, rank=4, width=200, copies=4000), X3)
    mean, variance = limits.random_moments("tanh", X3, 4)
    squares = (K - mean) ** 2
    error = squares.std(0) / math.sqrt(len(K))
    assert ((squares.mean(0) - variance).abs() < 4.5 * error + 0.04 * variance).all()


def test_the_rank_sets_the_spread():
    _, few = limits.random_moments("sine", X3, 2, omega=2.0)
    _, many = limits.random_moments("sine", X3, 32, omega=2.0)
    dense.agree(few, 16 * many)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(activations.NAMES), st.integers(2, 4))
def test_limits_are_symmetric_positive_and_follow_permutations(seed, activation, dims):
    generator = torch.Generator().manual_seed(seed)
    X = torch.rand(6, dims, dtype=F64, generator=generator) * 3 - 1.5
    K = limits.deterministic(activation, X)
    assert (K - K.T).abs().max() <= 1e-13 * K.max()
    assert torch.linalg.eigvalsh(K).min() >= -1e-12 * K.max()
    order = torch.randperm(6, generator=generator)
    dense.agree(limits.deterministic(activation, X[order]), K[order][:, order])
    dense.agree(limits.deterministic(activation, X.flip(1)), K)  # the factors are alike
    draw = limits.sample_random(activation, X, 2, 3, generator)
    assert torch.linalg.eigvalsh(draw).min() >= -1e-12 * draw.max()


def test_the_generator_decides_the_draws():
    draws = [limits.sample_random("tanh", X3, 2, 3, torch.Generator().manual_seed(s)) for s in (4, 4, 5)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_single_precision_stays_single():
    x = torch.linspace(-1, 1, 5, dtype=torch.float32)
    for activation in activations.NAMES:
        K = limits.k(activation, x, x)
        assert K.dtype == torch.float32
        assert torch.allclose(K.double(), limits.k(activation, x.double(), x.double()), rtol=1e-5, atol=1e-6)


def test_refusals():
    x = torch.zeros(3, dtype=F64)
    with pytest.raises(ValueError, match=r"activation must be one of sine, .* got 'step'"):
        limits.c("step", x, x)
    with pytest.raises(ValueError, match=r"coordinates must be \(n,\) and \(m,\), got \(3, 1\) and \(3,\)"):
        limits.k("tanh", x[:, None], x)
    with pytest.raises(ValueError, match=r"points of shape \(N, 3\), got \(3,\)"):
        limits.deterministic("tanh", x)
    with pytest.raises(ValueError, match=r"points of shape \(N, 3\), got \(4, 2\)"):
        limits.deterministic("tanh", X3, X3[:, :2])
    with pytest.raises(ValueError, match="rank and samples must be at least 1, got 0 and 5"):
        limits.sample_random("tanh", X3, 0, 5)
    with pytest.raises(ValueError, match="rank must be at least 1, got 0"):
        limits.random_moments("tanh", X3, 0)
