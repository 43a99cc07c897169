"""The library's verbs on the pretend GPU: what comes back lies where the input lay, with the CPU's numbers."""

import dataclasses

import pytest
import torch
from torch import Tensor

import seplib
from seplib import (
    CP,
    IGA,
    MLP,
    MSK,
    TT,
    FactorMLP,
    FourierFeatures,
    Tucker,
    dynamics,
    fit,
    limits,
    metrics,
    ntk,
    preconditioning,
    ridge,
)
from seplib.approximation import approximate, expansions
from seplib.approximation.interpolation import expand
from seplib.own import pictures
from seplib.studies.images.beyond import denoising
from seplib.studies.ntk import exactness
from seplib.studies.seppgd import complexity, equivalence

GENERATOR = dict(width=6, depth=3, omega=3.0)


def cp(d, dims=2, **kwargs):
    generator = torch.Generator().manual_seed(1)
    return CP([FactorMLP(4, **GENERATOR | kwargs, generator=generator, device=d) for _ in range(dims)])


def mlp(d):
    return MLP(2, **GENERATOR, generator=torch.Generator().manual_seed(2), device=d)


def draw(d, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3)).to(d)


def axes(d, *sizes):
    return [torch.linspace(-1, 1, n).to(d) for n in sizes]


def trained(d, make):
    """Loss of a short run, and the output."""
    model, where = cp(d), axes(d, 6, 5)
    history = fit(model, where, draw(d, 1, 6, 5), torch.optim.Adam(model.parameters(), 1e-2), make(model, where), 12)
    return torch.tensor(history.loss), model.grid(where)


VERBS = {
    "Fourier features": lambda d: cp(d, encoding=FourierFeatures(3, 2.0, generator=torch.Generator().manual_seed(0), device=d)).grid(axes(d, 5, 4)),
    "Tucker": lambda d: Tucker(cp(d).factors, (4, 4), torch.Generator().manual_seed(0)).points(draw(d, 7, 2)),
    "TT": lambda d: TT(cp(d).factors, (4,)).grid(axes(d, 5, 4)),
    "kernel": lambda d: ntk.empirical(cp(d), draw(d, 7, 2), draw(d, 5, 2)),
    "kernel of an MLP": lambda d: ntk.empirical(mlp(d), draw(d, 7, 2)),
    "kernel by Jacobians": lambda d: exactness.by_jacobian(cp(d), draw(d, 7, 2)),
    "kernel on a grid": lambda d: (ntk.grid(cp(d), axes(d, 5, 6)).dense(), ntk.grid(cp(d), axes(d, 5, 6)).eigsh(3)),
    "blocks": lambda d: ntk.blocks(cp(d).factors[0], draw(d, 5)),
    "limit kernel": lambda d: [limits.deterministic(name, draw(d, 5, 2)) for name in ("relu", "erf", "sine", "gelu")],
    "limit on a grid": lambda d: limits.grid("tanh", axes(d, 5, 4)).matvec(draw(d, 20)),
    "random limit": lambda d: limits.sample_random("tanh", draw(d, 5, 2), 3, 4, torch.Generator().manual_seed(0)),
    "moments": lambda d: limits.random_moments("tanh", draw(d, 5, 2), 3),
    "modulation": lambda d: preconditioning.modulate(ntk.pseudo(cp(d).factors[0], axes(d, 9)[0]), 2, solver="lanczos").dense(),
    "cotangents": lambda d: preconditioning.cotangents(
        cp(d).matrices(axes(d, 6, 5)), draw(d, 1, 6, 5), [preconditioning.modulate(torch.eye(n, device=d)[None], 2) for n in (6, 5)]
    ),
    "MSK": lambda d: trained(d, lambda model, where: MSK(model, where, 5, 4)),
    "IGA": lambda d: trained(d, lambda model, where: IGA(model, where, 3, 4, 4, generator=torch.Generator().manual_seed(0))),
    "S~ as an operator": lambda d: seplib.SepPGD(cp(d), axes(d, 6, 5), 2).operator().dense(),
    "S~ at points": lambda d: seplib.SepPGD(cp(d), draw(d, 9, 2), 2).operator().dense(),
    "decay": lambda d: dataclasses.astuple(
        dynamics.mode_decay(torch.eye(3).to(d)[None], axes(d, 4)[0], draw(d, 4, 1, 3), 2)
    ),
    "features": lambda d: ridge.features(mlp(d), draw(d, 4, 2)),
    "ridge": lambda d: ridge.ridge_weights(2 * torch.eye(4, device=d), draw(d, 2, 4), 0.1, torch.eye(4, device=d)),
    "metrics": lambda d: [
        metrics.psnr(draw(d, 9), draw(d, 9) + 1), metrics.ssim(draw(d, 3, 8, 8), draw(d, 3, 8, 8).abs()),
        metrics.iou(draw(d, 9), draw(d, 9) - 0.3),
        metrics.eckart_young(draw(d, 2, 4, 5), 2), *metrics.error_spectrum(draw(d, 3, 8, 8), draw(d, 3, 8, 8) * 0),
    ],
    "smoothing": lambda d: denoising.smooth(draw(d, 3, 8, 8), draw(d, 3, 8, 8) + 0.3, 0.2),
    "expansion": lambda d: expansions.add(*[expand(lambda x, y: torch.cos(x * y), [(-1, 1)] * 2, 1e-3)] * 2).to(d).points(draw(d, 9, 2)),
    "equivalence": lambda d: equivalence.gradient_difference((4, 3), device=d) < 1e-12,
    "operations": lambda d: complexity.operations(lambda: draw(d, 3, 4) @ draw(d, 4, 5)),
}  # fmt: skip


def flat(found) -> list:
    return [part for item in found for part in flat(item)] if isinstance(found, list | tuple) else [found]


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_answers_on_its_device_with_the_cpus_numbers(verb, device):
    here, there = (flat(VERBS[verb](place)) for place in (torch.device("cpu"), device))
    for a, b in zip(here, there, strict=True):
        if isinstance(a, Tensor) and verb not in ("MSK", "IGA"):
            assert b.device == device
        assert torch.allclose(*(torch.as_tensor(x).detach().cpu().double() for x in (a, b)), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("form", ["CP", "TT", "Tucker"])
def test_a_certificate_is_measured_where_it_is_asked_for(form, device, waits):
    f, domain, places = lambda x, y, z: torch.tanh(x + y * z), [(-1, 1)] * 3, set()

    def asked(*x):
        places.add(x[0].device.type)
        return f(*x)

    here = approximate(f, domain, 1e-2, form)[1]
    model, there = approximate(asked, domain, 1e-2, form, device=device)
    assert all(p.device == device for p in model.parameters()) and places == {"cpu", "pretend"}
    for key, value in dataclasses.asdict(here).items():
        assert getattr(there, key) == (pytest.approx(value, rel=1e-9) if isinstance(value, float) else value), key


@pytest.mark.parametrize(("shape", "mask"), [((3, 9, 8), False), ((1, 9, 8), True), ((1, 6, 5, 7), False)])
def test_a_picture_of_ones_own(shape, mask, device, tmp_path):
    """An image, an image to fill in, a volume: fitted, written and read back."""
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(*shape, generator=generator)
    known = torch.rand(*shape[1:], generator=generator) < 0.8 if mask else None
    small = dict(rank=4, width=6, k=2, iterations=11)
    here, there = (pictures.fit_picture(values, mask=known, device=place, **small) for place in ("cpu", device))
    assert there.values.device.type == "cpu" and there.psnr == pytest.approx(here.psnr, rel=1e-9)
    assert torch.allclose(here.values, there.values, rtol=1e-9)
    (tmp_path / "network.npz").write_bytes(pictures.network_bytes(there))
    model, where = pictures.load(tmp_path / "network.npz")
    assert torch.allclose(model.grid(where).detach().clamp(0, 1), there.values, rtol=1e-9)
