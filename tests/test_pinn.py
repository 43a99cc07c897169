import dataclasses
import math

import pytest
import torch
from dense import agree, jacobian, kronecker_sum, modulation, pseudo_ntk
from test_jets import derivatives, gradients, placed

from seplib import MLP, TT, FactorMLP, SepPGD, pde, tensorops
from seplib.pde.loss import LOSSES, GramResidual, PhysicsLoss
from seplib.pde.reference import DIFFUSIVITY

ONE = dict.fromkeys(LOSSES, 1.0)
WEIGHTS = dict(residual=0.3, data=1.7, initial=0.9, boundary=0.4)
EQUATIONS = [pde.diffusion(), pde.KLEIN_GORDON, pde.HELMHOLTZ]
names = [equation.name for equation in EQUATIONS]
N = 4


def rising(t, x, y):
    """An exact solution of the diffusion equation, r^2 / (1 - 8 a t), on a box where its start and boundary are its own."""
    return (x**2 + y**2) / (1 - 8 * DIFFUSIVITY * t)


def jets(columns, axes):
    """Value, first and second derivative of the factors ``columns[d][r]``, ``(D, 1, 3, n, R)``, by autograd."""
    result = []
    for functions, axis in zip(columns, axes):
        x = axis.clone().requires_grad_()
        rows = []
        for function in functions:
            value = function(x) + 0 * x**3
            (first,) = torch.autograd.grad(value.sum(), x, create_graph=True)
            (second,) = torch.autograd.grad(first.sum(), x)
            rows.append(torch.stack([value, first, second]).detach())
        result.append(torch.stack(rows, -1))
    return torch.stack(result)[:, None]


ONES, SAME = torch.ones_like, lambda x: x
SINE = lambda m: lambda x: torch.sin(m * math.pi * x)  # noqa: E731
COS2, SIN2 = (lambda t: torch.cos(2 * t)), (lambda t: torch.sin(2 * t))
SCALED, SQUARE = (lambda t: 1 / (1 - 8 * DIFFUSIVITY * t)), (lambda x: x**2)
EXACT = {
    "diffusion": [[SCALED, SCALED], [SQUARE, ONES], [ONES, SQUARE]],
    "Klein-Gordon": [[COS2, COS2, SIN2], [SAME, ONES, SAME], [ONES, SAME, SAME]],
    "Helmholtz": [[SINE(4)], [SINE(4)], [SINE(3)]],
}


@pytest.mark.parametrize("equation", EQUATIONS, ids=names)
def test_exact_solutions_satisfy_their_equation(equation):
    axes = equation.axes(10)
    factors = jets(EXACT[equation.name], axes)
    orders = torch.tensor(equation.orders).T
    picks = [jet.index_select(1, order).flatten(0, 1) for jet, order in zip(factors, orders)]
    fields = tensorops.cp_product(picks)[None]
    exact = rising(*pde.mesh(axes)) if equation.name == "diffusion" else equation.values(axes)
    agree(fields[0, 0], exact)
    residual = equation.operator(fields, axes) - equation.sources(axes)
    assert residual.abs().max() <= 1e-12 * max(fields.abs().max().item(), 1)
    if equation.rest is None:
        square, cotangent = GramResidual(equation, axes)(factors)
        scale = equation.sources(axes).square().sum()
        assert abs(square) <= 1e-12 * scale and cotangent.abs().max() <= 1e-12 * scale


def test_the_diffusion_is_fed_with_its_reference():
    equation = pde.diffusion(20)
    axes = equation.axes(5)
    values = equation.values(axes)
    assert values.dtype == torch.float64
    assert torch.equal(values, torch.from_numpy(pde.diffusion_reference(*(x.numpy() for x in axes), resolution=20)))


@pytest.fixture
def made(make_cp, generator):
    """A network on an equation's grid, with a target that is not its solution."""

    def make(equation, kind="cp", n=N):
        dims = len(equation.domain)
        model = make_cp((2,) * dims)[0]
        if kind == "mlp":
            model = MLP(dims, width=5, depth=3, omega=2.0, ensemble=2, generator=generator)
        return model, equation.axes(n), torch.randn((n,) * dims, generator=generator)

    return make


def faces(equation, values):
    """Initial and boundary entries of ``(E, n, n, n)``, gathered one by one, an edge once for each face."""
    initial, boundary = [], []
    for d, name in enumerate(equation.domain):
        if name == "t":
            initial.append(values.movedim(d + 1, 1)[:, 0].flatten(1))
        else:
            boundary += [values.movedim(d + 1, 1)[:, end].flatten(1) for end in (0, -1)]
    return [torch.cat(parts, 1) if parts else values.new_zeros(len(values), 1) for parts in (initial, boundary)]


@pytest.mark.parametrize("kind", ["cp", "mlp"])
@pytest.mark.parametrize("equation", EQUATIONS, ids=names)
def test_losses_and_gradient_equal_autograd(equation, kind, made):
    model, axes, target = made(equation, kind)
    X = torch.cartesian_prod(*axes)
    fields = derivatives(model.points, X, equation.orders).unflatten(2, target.shape)
    residual = equation.operator(fields, axes) - equation.sources(axes)
    error = fields[:, 0] - target
    squares = [part.flatten(1).square().mean(1) for part in (residual, error, *faces(equation, error))]
    total = sum(WEIGHTS[name] * square for name, square in zip(LOSSES, squares))
    total.sum().backward()
    wanted = gradients(model)
    step = PhysicsLoss(equation, model, axes, target, WEIGHTS)
    step.forward()
    agree(step.loss(), total.detach())
    agree(torch.stack(list(step.parts().values())), torch.stack(squares).detach())
    agree(step.prediction(), fields[:, 0].detach())
    step.backward(0)
    assert step.parameter.grad is step.fields.gradient
    agree(placed(model, step.fields), wanted)


HEAT = pde.Equation(
    "forced heat",
    {"t": (0, 1), "x": (-1, 2)},
    lambda t, x: t * x,
    {"t": 1.0, "xx": -0.3},
    source=lambda t, x: torch.sin(3 * t * x),
)
FOUR = pde.Equation(
    "in four variables",
    dict.fromkeys("txyz", (0, 1)),
    lambda t, x, y, z: t + x * y * z,
    {"tt": 1.0, "xy": 2.0, "zz": -1.0, "": 0.5},
)


@pytest.mark.parametrize("equation", [HEAT, pde.HELMHOLTZ, FOUR], ids=lambda e: e.name)
def test_gram_matrices_give_the_same_loss_and_gradient(equation, made, monkeypatch):
    model, axes, target = made(equation)
    found = []
    for gram in (False, True):
        monkeypatch.setattr(PhysicsLoss, "_gram_is_cheaper", lambda self, model: gram)  # noqa: B023
        step = PhysicsLoss(equation, model, axes, target, WEIGHTS)
        step.forward()
        step.backward(0)
        assert step.fields.orders.shape[1] == (1 if gram else len(equation.fields))
        found.append((step.loss(), step.parts()["residual"], placed(model, step.fields), step.gradient_norms(0)))
    for fast, slow in zip(found[1][:3], found[0][:3]):
        agree(fast, slow)
    assert found[1][3] == pytest.approx(found[0][3], rel=1e-10)


def test_gram_matrices_are_used_where_they_cost_less(made):
    for equation, n, used in ((pde.HELMHOLTZ, 4, False), (pde.HELMHOLTZ, 8, True), (pde.KLEIN_GORDON, 8, False)):
        model, axes, target = made(equation, n=n)
        assert (PhysicsLoss(equation, model, axes, target, ONE)._gram is not None) == used


@pytest.mark.parametrize("equation", EQUATIONS[1:], ids=names[1:])
def test_preconditioned_losses_equal_the_dense_oracle(equation, made):
    """J^T S~ e for the grid and for each face, with S~ the Kronecker sum over the axes of the grid or of the face."""
    model, axes, target = made(equation)
    ks = dict(data=3, initial=2, boundary=2)
    S = {k: [modulation(pseudo_ntk(f, x), k, "flat") for f, x in zip(model.factors, axes)] for k in (2, 3)}
    error = (model.grid(axes) - target).detach()
    J = [jacobian(values, list(model.parameters())) for values in model.grid(axes)]
    cells = torch.arange(target.numel()).view(target.shape)
    seen = {"data": [(cells, range(3))], "initial": [], "boundary": []}
    for d, name in enumerate(equation.domain):
        across = [e for e in range(3) if e != d]
        for end in (0, -1) if name != "t" else (0,):
            seen["initial" if name == "t" else "boundary"].append((cells.select(d, end), across))
    wanted = 0
    for name, parts in seen.items():
        count = sum(part.numel() for part, _ in parts)
        for part, across in parts:
            for e in range(2):
                dense = kronecker_sum([S[ks[name]][d][e] for d in across])
                where = part.flatten()
                wanted += 2 * WEIGHTS[name] / count * J[e][where].T @ dense @ error[e].flatten()[where]
    methods = {name: SepPGD(model, axes, k) for name, k in ks.items() if seen[name]}
    step = PhysicsLoss(equation, model, axes, target, {**WEIGHTS, "residual": 0.0}, methods)
    step.forward()
    step.backward(0)
    agree(placed(model, step.fields), wanted)
    # The residual's part is added as it is.
    plain = PhysicsLoss(equation, model, axes, target, {"residual": 0.3})
    plain.forward()
    plain.backward(0)
    residual = placed(model, plain.fields)  # before the next pass takes the parameters over
    both = PhysicsLoss(equation, model, axes, target, WEIGHTS, methods)
    both.forward()
    both.backward(0)
    agree(placed(model, both.fields), wanted + residual)


def test_the_gradient_norms_belong_to_the_parts(made):
    equation = pde.KLEIN_GORDON
    model, axes, target = made(equation)
    methods = {"data": SepPGD(model, axes, 2)}
    step = PhysicsLoss(equation, model, axes, target, WEIGHTS, methods)
    step.forward()
    norms = step.gradient_norms(0)
    for name in LOSSES:
        alone = PhysicsLoss(
            equation, model, axes, target, {name: WEIGHTS[name]}, {k: v for k, v in methods.items() if k == name}
        )
        alone.forward()
        alone.backward(0)
        assert norms[name] == pytest.approx(alone.fields.gradient.norm().item(), rel=1e-10)


def test_preconditioners_are_part_of_the_state(made):
    """A step that resumes with other weights goes on with the preconditioners of the first ones."""
    model, axes, target = made(pde.HELMHOLTZ)

    def fresh():
        return PhysicsLoss(pde.HELMHOLTZ, model, axes, target, ONE, {"data": SepPGD(model, axes, 2, 100)})

    def gradient(step, iteration):
        step.forward()
        step.backward(iteration)
        return step.fields.gradient.clone()

    kept = fresh()
    gradient(kept, 0)
    with torch.no_grad():
        kept.parameter.mul_(1.3)
    wanted = gradient(kept, 7)
    assert not torch.equal(gradient(fresh(), 7), wanted)
    resumed = fresh()
    resumed.load_state_dict(kept.state_dict())
    agree(gradient(resumed, 7), wanted)


def test_bad_arguments_are_named(made):
    equation = pde.HELMHOLTZ
    model, axes, target = made(equation)
    with pytest.raises(ValueError, match=r"a loss must be one of residual, data, initial, boundary, got energy"):
        PhysicsLoss(equation, model, axes, target, {"energy": 1.0})
    with pytest.raises(ValueError, match=r"SepPGD preconditions data, initial and boundary loss, not the residual"):
        PhysicsLoss(equation, model, axes, target, ONE, {"residual": SepPGD(model, axes, 2)})
    with pytest.raises(ValueError, match=r"the target must be \(4, 4, 4\), got \(4, 4\)"):
        PhysicsLoss(equation, model, axes, target[0], ONE)
    with pytest.raises(ValueError, match=r"the target holds NaN or infinite values"):
        PhysicsLoss(equation, model, axes, target / 0, ONE)
    with pytest.raises(ValueError, match=r"this model takes 3 axes of shape \(n_d,\), got 2"):
        PhysicsLoss(equation, model, axes[:2], target, ONE)
    with pytest.raises(TypeError, match=r"fields at points are those of a plain MLP, got TT"):
        PhysicsLoss(equation, TT([FactorMLP(1, width=3, depth=2) for _ in range(3)], (1, 1)), axes, target, ONE)
    with pytest.raises(ValueError, match=r"Gram matrices serve linear equations with constant coefficients, not Klein"):
        GramResidual(pde.KLEIN_GORDON, axes)
    with pytest.raises(ValueError, match=r"a derivative takes each of x, y, z at most twice, got 'xt'"):
        dataclasses.replace(equation, linear={"xt": 1.0})
    with pytest.raises(ValueError, match=r"at most twice, got 'xxx'"):
        dataclasses.replace(equation, needs=("xxx",))
