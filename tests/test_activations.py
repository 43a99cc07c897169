import pytest
import torch
from dense import agree

from seplib import activations


@pytest.mark.parametrize("name", activations.NAMES)
@pytest.mark.parametrize("omega", [1.0, 30.0])
def test_derivatives_equal_autograd(name, omega):
    f = activations.get(name, omega)
    z = torch.linspace(-2.03, 1.97, 41).requires_grad_()
    (first,) = torch.autograd.grad(f.value(z).sum(), z, create_graph=True)
    agree(f.slope(z).detach(), first.detach())
    if name in ("relu", "leaky_relu"):
        assert not f.curvature(z).any() and not f.third(z).any()
    else:
        (second,) = torch.autograd.grad(first.sum(), z, create_graph=True)
        agree(f.curvature(z).detach(), second.detach())
        agree(f.third(z).detach(), torch.autograd.grad(second.sum(), z)[0])


@pytest.mark.parametrize("name", activations.NAMES)
def test_all_derivatives_at_once_are_those_one_by_one(name):
    f, z = activations.get(name, 3.0), torch.linspace(-2.03, 1.97, 41)
    parts = f.derivatives(z)
    for part, alone in zip(parts, (f.value, f.slope, f.curvature, f.third)):
        assert torch.allclose(part, alone(z), rtol=1e-12, atol=1e-12)
    assert len(parts) == 4 and torch.equal(z, torch.linspace(-2.03, 1.97, 41))


@pytest.mark.parametrize("name", ["relu", "leaky_relu"])
def test_kink_follows_torch(name):
    z = torch.zeros(1, requires_grad=True)
    f = activations.get(name)
    (slope,) = torch.autograd.grad(f.value(z).sum(), z)
    assert torch.equal(f.slope(z), slope)


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"activation must be one of sine, cos, relu.*, got 'swish'"):
        activations.get("swish")
