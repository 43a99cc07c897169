import pytest
import torch
from dense import agree, cp_value, grid_points

from seplib import CP, MLP, TT, FactorMLP, Tucker

SIZES = [(5, 4), (4, 3, 5), (3, 2, 4, 2)]


def factors(ranks, generator):
    return [FactorMLP(r, width=5, depth=2, omega=2.0, ensemble=2, generator=generator) for r in ranks]


@pytest.mark.parametrize("scale", ["rank", None])
@pytest.mark.parametrize("sizes", SIZES)
def test_cp_on_grids_and_points_is_eq_2(sizes, scale, make_cp):
    model, axes = make_cp(sizes, scale=scale)
    X = grid_points(axes)
    slow = cp_value(model, X).detach()
    agree(model.grid(axes).detach().flatten(1), slow)
    agree(model.points(X).detach(), slow)
    assert model.grid(axes).shape == (2, *sizes)


@pytest.mark.parametrize("sizes", SIZES)
def test_cp_gradient_equals_autograd_through_points(sizes, make_cp):
    model, axes = make_cp(sizes)
    weight = torch.randn(2, *sizes, generator=torch.Generator().manual_seed(1))
    (model.grid(axes) * weight).sum().backward()
    fast = [p.grad.clone() for p in model.parameters()]
    slow = torch.autograd.grad((cp_value(model, grid_points(axes)) * weight.flatten(1)).sum(), list(model.parameters()))
    for a, b in zip(fast, slow):
        agree(a, b)


def test_tt_is_a_product_of_matrices(generator):
    ranks = (2, 3, 2)
    model = TT(factors([2, 6, 6, 2], generator), ranks)
    axes = [torch.rand(n, generator=generator) for n in (3, 2, 4, 2)]
    X = grid_points(axes)
    values = [f(X[:, d].contiguous()) for d, f in enumerate(model.factors)]
    slow = torch.zeros(2, len(X))
    for a in range(2):
        for b in range(3):
            for c in range(2):
                term = values[0][..., a] * values[1][..., a * 3 + b] * values[2][..., b * 2 + c] * values[3][..., c]
                slow = slow + term
    agree(model.points(X).detach(), slow.detach())
    agree(model.grid(axes).detach().flatten(1), slow.detach())


def test_tucker_contracts_its_core(generator):
    model = Tucker(factors([2, 3, 2], generator), (2, 3, 2), generator=generator)
    axes = [torch.rand(n, generator=generator) for n in (3, 2, 4)]
    X = grid_points(axes)
    F = [f(X[:, d].contiguous()) for d, f in enumerate(model.factors)]
    slow = torch.zeros(2, len(X))
    for a in range(2):
        for b in range(3):
            for c in range(2):
                slow = slow + model.core[:, a, b, c, None] * F[0][..., a] * F[1][..., b] * F[2][..., c]
    agree(model.points(X).detach(), slow.detach())
    agree(model.grid(axes).detach().flatten(1), slow.detach())
    assert model.core.requires_grad and dict(model.named_parameters())["core"] is model.core


def test_mlp_baseline_answers_grids_point_by_point(generator):
    model = MLP(3, width=6, depth=3, omega=2.0, ensemble=2, generator=generator)
    axes = [torch.rand(n, generator=generator) for n in (3, 2, 4)]
    X = grid_points(axes)
    agree(model.grid(axes).detach().flatten(1), model.points(X).detach())
    one = model.points(X[5:6]).detach()
    agree(one, model.points(X)[:, 5:6].detach())


def test_a_separable_network_asks_n_times_d_inputs(make_cp, monkeypatch):
    model, axes = make_cp((5, 4, 6))
    asked = []
    original = FactorMLP.apply_layers
    monkeypatch.setattr(FactorMLP, "apply_layers", lambda self, h: asked.append(h.shape[-2]) or original(self, h))
    model.grid(axes)
    assert asked == [5, 4, 6]


def test_everything_follows_the_parameters_dtype(make_cp):
    model, axes = make_cp((4, 3))
    model, axes = model.float(), [x.float() for x in axes]
    assert model.grid(axes).dtype == model.points(torch.zeros(2, 2, dtype=torch.float32)).dtype == torch.float32


def test_bad_arguments_are_named(generator):
    with pytest.raises(ValueError, match=r"at least 2 factors, got 1"):
        CP(factors([3], generator))
    with pytest.raises(ValueError, match=r"factors with \[3, 4\] outputs do not fit one CP rank"):
        CP(factors([3, 4], generator))
    with pytest.raises(ValueError, match=r"share one ensemble size, got \[2, 1\]"):
        CP([*factors([3], generator), FactorMLP(3, width=4, depth=2)])
    with pytest.raises(ValueError, match=r'scale must be "rank" or None, got \'sqrt\''):
        CP(factors([3, 3], generator), scale="sqrt")
    with pytest.raises(ValueError, match=r"outputs do not fit TT ranks \(3,\)"):
        TT(factors([3, 4], generator), (3,))
    with pytest.raises(ValueError, match=r"outputs do not fit Tucker ranks \(3, 5\)"):
        Tucker(factors([3, 4], generator), (3, 5))
    model = CP(factors([3, 3], generator))
    with pytest.raises(ValueError, match=r"takes 2 axes of shape \(n_d,\), got 3 of shapes"):
        model.grid([torch.zeros(2)] * 3)
    with pytest.raises(ValueError, match=r"takes 2 axes of shape \(n_d,\), got 2 of shapes \[\(2, 1\), \(2,\)\]"):
        model.grid([torch.zeros(2, 1), torch.zeros(2)])
    with pytest.raises(ValueError, match=r"points of shape \(N, 2\), got \(5, 3\)"):
        model.points(torch.zeros(5, 3))
