import pytest
import torch
from dense import agree

from seplib import MLP, FactorMLP, FourierFeatures
from seplib.pde.jets import JetPass, PointFields, SeparableFields

SMOOTH = ["sine", "cos", "tanh", "erf", "gelu"]


def derivatives(function, X, orders):
    """Derivatives of scalar copies ``function(X) -> (E, N)`` at points, one autograd call an order."""
    X = X.clone().requires_grad_()
    found = []
    for order in orders:
        rows = []
        for value in function(X):
            for axis, times in enumerate(order):
                for _ in range(times):
                    (gradient,) = torch.autograd.grad(value.sum(), X, create_graph=True)
                    value = gradient[:, axis]
            rows.append(value)
        found.append(torch.stack(rows))
    return torch.stack(found, 1)


def gradients(model):
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def placed(model, fields):
    """The flat gradient of a pass in the order of the model's own parameters."""
    offsets = {p.data_ptr(): p for p in model.parameters()}
    base, size = fields.parameter.data_ptr(), fields.parameter.element_size()
    parts = [fields.gradient[(at - base) // size :][: p.numel()] for at, p in offsets.items()]
    return torch.cat(parts)


@pytest.mark.parametrize("parametrization", ["siren", "ntk"])
@pytest.mark.parametrize("activation", SMOOTH)
def test_forward_and_backward_equal_autograd(activation, parametrization, generator):
    options = dict(width=5, activation=activation, omega=2.0, parametrization=parametrization, ensemble=2)
    x = torch.linspace(-1, 1, 6)
    for depth in (1, 2, 4):
        for encoding in (None, FourierFeatures(3, 0.7, generator=generator)):
            factors = [FactorMLP(3, depth=depth, encoding=encoding, generator=generator, **options) for _ in range(2)]
            start = torch.cat([torch.stack(f.start_jet(x)).expand(2, -1, -1, -1) for f in factors])
            slow = torch.cat([torch.stack(f.jet(x), 1) for f in factors])
            cotangent = torch.randn(slow.shape, generator=generator)
            slow.backward(cotangent)
            wanted = [torch.cat([p.grad.flatten() for p in f.parameters()]) for f in factors]
            batch = JetPass(factors)
            plan = batch.plan(start)
            agree(batch.forward(plan), slow.detach())
            batch.backward(plan, cotangent)
            for factor, want in zip(factors, wanted):
                agree(placed(factor, batch), want)


@pytest.mark.parametrize("scale", ["rank", None])
@pytest.mark.parametrize("dims", [2, 3, 4])
def test_fields_of_a_cp_network_equal_autograd(dims, scale, make_cp):
    """All unmixed derivatives and a mixed one, at every grid point, and the gradient of any functional of them."""
    model, axes = make_cp((4,) * dims, scale=scale)
    unit = torch.eye(dims, dtype=torch.long)
    orders = [(0,) * dims, *map(tuple, unit.tolist()), *map(tuple, (2 * unit).tolist()), (1, 2) + (0,) * (dims - 2)]
    X = torch.cartesian_prod(*axes)
    slow = derivatives(model.points, X, orders).unflatten(2, [4] * dims)
    cotangent = torch.randn(slow.shape, generator=torch.Generator().manual_seed(5))
    slow.backward(cotangent)
    wanted = gradients(model)
    fields = SeparableFields(model, axes, orders)
    agree(fields.forward(), slow.detach())
    fields.backward(cotangent)
    agree(placed(model, fields), wanted)
    fields.backward(cotangent)  # written, not added to
    agree(placed(model, fields), wanted)


@pytest.mark.parametrize("chunk", [1, 1 << 16])
def test_fields_of_a_plain_network_equal_autograd(chunk, generator, monkeypatch):
    monkeypatch.setattr("seplib.pde.jets.CHUNK", chunk)
    model = MLP(3, width=5, depth=3, omega=2.0, ensemble=2, generator=generator)
    axes = [torch.linspace(-1, 1, n) for n in (2, 3, 4)]
    orders = [(0, 0, 0), (1, 0, 0), (0, 0, 1), (0, 2, 0), (0, 0, 2)]
    slow = derivatives(model.points, torch.cartesian_prod(*axes), orders).unflatten(2, (2, 3, 4))
    cotangent = torch.randn(slow.shape, generator=generator)
    slow.backward(cotangent)
    wanted = gradients(model)
    fields = PointFields(model, axes, orders)
    agree(fields.forward(), slow.detach())
    fields.backward(cotangent)
    agree(placed(model, fields), wanted)
    fields.backward(cotangent)  # written, not added to
    agree(placed(model, fields), wanted)


def test_the_networks_stay_usable_and_follow_the_flat_parameter(make_cp):
    model, axes = make_cp((4, 4))
    before = model.grid(axes).detach()
    fields = SeparableFields(model, axes, [(0, 0)])
    assert torch.equal(model.grid(axes).detach(), before)
    with torch.no_grad():
        fields.parameter.mul_(1.5)
    agree(fields.forward()[:, 0], model.grid(axes).detach())
    assert not torch.equal(model.grid(axes).detach(), before)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        fields.parameter.zero_()
    model.load_state_dict(state)  # as a checkpoint does
    agree(fields.forward()[:, 0], model.grid(axes).detach())


def test_bad_arguments_are_named(make_cp, generator):
    model, axes = make_cp((4, 4))
    plain = MLP(2, width=5, depth=3, generator=generator)
    with pytest.raises(ValueError, match=r"must have one shape and activation, got weights \[\[\(1, 5, 1\)"):
        JetPass([FactorMLP(3, width=w, depth=2) for w in (5, 6)])
    with pytest.raises(ValueError, match=r"must have one shape and activation"):
        JetPass([FactorMLP(3, width=5, depth=2, omega=w) for w in (5, 6)])
    with pytest.raises(TypeError, match=r"separable fields are those of a CP network, got MLP"):
        SeparableFields(plain, axes, [(0, 0)])
    with pytest.raises(ValueError, match=r"axes that share a pass must have one length, got \[4, 3\]"):
        SeparableFields(model, [axes[0], axes[1][:3]], [(0, 0)])
    with pytest.raises(TypeError, match=r"fields at points are those of a plain MLP, got CP"):
        PointFields(model, axes, [(0, 0)])
    with pytest.raises(ValueError, match=r"hold no mixed derivatives, got orders \[\(1, 1\)\]"):
        PointFields(plain, axes, [(1, 1)])
