"""Eq. (15): the linearised network against explicit features, descent against the closed-form ridge solution."""

import itertools

import pytest
import torch
from dense import agree, grid_points, jacobian, kronecker_sum, modulation, pseudo_ntk

from seplib import MLP, MSK, TT, FactorMLP, SepPGD, fit, ntk
from seplib.ridge import Linearised, ridge_weights


def random(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def flat(parameters, copies):
    parameters = list(parameters)
    return torch.stack([torch.cat([p[e].flatten() for p in parameters]) for e in range(copies)])


@pytest.fixture(params=["cp2", "cp3", "mlp"])
def network(request, make_cp, generator):
    kwargs = dict(ensemble=1, activation="tanh", parametrization="ntk")
    if request.param == "mlp":
        _, axes = make_cp((5, 4))
        return MLP(2, width=6, depth=3, generator=generator, **kwargs), axes
    return make_cp((5, 4) if request.param == "cp2" else (4, 3, 5), **kwargs)


def test_linearised_network_is_the_inner_product_with_the_gradient(network):
    model, axes = network
    X = grid_points(axes)
    features = jacobian(model.points(X), list(model.parameters()))
    linear = Linearised(model, copies=2)
    assert linear.points(X).abs().max() == 0
    for i, p in enumerate(linear.parameters()):
        p.data = random(*p.shape, seed=i)
    expected = flat(linear.parameters(), 2) @ features.T
    agree(linear.points(X).detach(), expected)
    agree(linear.grid(axes).detach().flatten(1), expected)
    R = random(2, len(X))
    for output in (linear.points(X), linear.grid(axes).flatten(1)):
        linear.zero_grad()
        output.backward(R)
        agree(flat([p.grad for p in linear.parameters()], 2), R @ features)


def test_kept_forward_passes_follow_the_inputs(network):
    model, axes = network
    linear = Linearised(model)
    for p in linear.parameters():
        p.data = random(*p.shape)
    X = grid_points(axes)
    first = linear.points(X).detach()
    agree(linear.points(X).detach(), first)
    X *= 0.5  # in place: the same tensor object with other values
    changed = linear.points(X).detach()
    agree(changed, Linearised_like(linear, model).points(X.clone()).detach())
    assert (changed - first).abs().max() > 1e-3


def Linearised_like(linear, model):
    other = Linearised(model)
    other.load_state_dict(linear.state_dict())
    return other


def ridge_by_features(features, y, gamma, S):
    """The minimiser of Eq. (15) from its normal equations, with the n x P features written out."""
    P = features.shape[1]
    return torch.linalg.solve(features.T @ S @ features + gamma * torch.eye(P), features.T @ S @ y)


@pytest.mark.parametrize("gamma", [1e-3, 1.0])
@pytest.mark.parametrize("preconditioned", [False, True])
def test_closed_form_equals_the_normal_equations(gamma, preconditioned, make_cp):
    model, axes = make_cp((4, 3), ensemble=1)
    X = grid_points(axes)
    features = jacobian(model.points(X), list(model.parameters()))
    S = torch.eye(12)
    if preconditioned:
        S = kronecker_sum([modulation(pseudo_ntk(f, x), 2, "flat")[0] for f, x in zip(model.factors, axes)])
    y = random(2, 12)
    alpha = ridge_weights(ntk.empirical(model, X)[0], y, gamma, S if preconditioned else None)
    new = random(7, 2).tanh()
    slow = torch.stack([ridge_by_features(features, target, gamma, S) for target in y])
    agree(alpha @ ntk.empirical(model, X, new)[0], slow @ jacobian(model.points(new), list(model.parameters())).T, 1e-8)


@pytest.mark.parametrize("method", ["plain", "SepPGD", "MSK"])
def test_descent_with_weight_decay_ends_in_the_preconditioned_ridge_solution(method, make_cp):
    model, axes = make_cp((4, 3), ensemble=1)
    X, y = grid_points(axes), random(4, 3)
    K = ntk.empirical(model, X)[0]
    gamma = 0.1 * torch.linalg.eigvalsh(K)[-1].item()  # large, so that a few hundred steps converge
    preconditioner = {"plain": None, "SepPGD": SepPGD(model, axes, k=2), "MSK": MSK(model, axes, k=3)}[method]
    S = {
        "plain": torch.eye(12),
        "SepPGD": kronecker_sum([modulation(pseudo_ntk(f, x), 2, "flat")[0] for f, x in zip(model.factors, axes)]),
        "MSK": modulation(K[None], 3, "flat")[0],
    }[method]
    linear = Linearised(model)
    step = 1.0 / (torch.linalg.eigvals(K @ S).real.max().item() + gamma)
    optimizer = torch.optim.SGD(linear.parameters(), step, weight_decay=gamma)
    fit(linear, axes, y, optimizer, preconditioner, iterations=400)
    alpha = ridge_weights(K, y.reshape(1, -1), gamma, S)
    agree(linear.grid(axes).detach().flatten(1), alpha @ K, 1e-8)


def test_without_a_ridge_every_preconditioner_ends_in_the_least_norm_interpolant(make_cp):
    """Consistency: K > 0 and gamma = 0 give K(x, X) K^{-1} y for any S > 0; with a ridge the solutions differ."""
    model, axes = make_cp((4, 3), ensemble=1)
    X, new, y = grid_points(axes), random(6, 2).tanh(), random(1, 12)
    K, cross = ntk.empirical(model, X)[0], ntk.empirical(model, X, new)[0]
    S = kronecker_sum([modulation(pseudo_ntk(f, x), 2, "flat")[0] for f, x in zip(model.factors, axes)])
    assert torch.linalg.eigvalsh(K).min() > 0
    plain, preconditioned = (ridge_weights(K, y, 0.0, matrix) @ cross for matrix in (None, S))
    agree(preconditioned, plain, 1e-4)
    gaps = []
    for gamma in (1e-9, 2e-9, 4e-9):
        gaps.append((ridge_weights(K, y, gamma, S) - ridge_weights(K, y, gamma)).norm())
    for small, large in itertools.pairwise(gaps):  # the gap is linear in the ridge
        assert (large / small).item() == pytest.approx(2, rel=0.1)


def test_bad_arguments_are_named(make_cp):
    model, axes = make_cp((4, 3), ensemble=2)
    with pytest.raises(ValueError, match=r"one copy for at least one target, got 2 and 1"):
        Linearised(model)
    with pytest.raises(ValueError, match=r"one copy for at least one target, got 1 and 0"):
        Linearised(make_cp((4, 3), ensemble=1)[0], copies=0)
    with pytest.raises(TypeError, match=r"only a CP network or an MLP is linearised here, got TT"):
        Linearised(TT([FactorMLP(2, width=4, depth=2) for _ in range(2)], ranks=(2,)))
    linear = Linearised(make_cp((4, 3), ensemble=1)[0])
    with pytest.raises(ValueError, match=r"takes 2 axes"):
        linear.grid(axes[:1])
    with pytest.raises(ValueError, match=r"points of shape \(N, 2\), got \(5, 3\)"):
        linear.points(torch.zeros(5, 3))
    with pytest.raises(ValueError, match=r"gamma must not be negative, got -1"):
        ridge_weights(torch.eye(2), torch.ones(1, 2), -1.0)
    with pytest.raises(ValueError, match=r"targets must be \(E, 2\) for this kernel, got \(1, 3\)"):
        ridge_weights(torch.eye(2), torch.ones(1, 3), 1.0)
