"""The algebra of separable expansions: closure in every form, against sums and products of plain numbers."""

import itertools
import math

import dense
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from seplib import CP, TT, FactorMLP, Tucker
from seplib.approximation import compression, expansions, interpolation
from seplib.approximation.expansions import FORMS, ChebyshevFactor

BOX = [(-1.0, 2.0), (0.0, 1.0), (-3.0, -1.0), (0.5, 4.0)]


def random_expansion(form: str, ranks: list[int], seed: int):
    """Expansion in len(ranks) dimensions with random series; CP takes the first rank, TT the first D - 1."""
    generator = torch.Generator().manual_seed(seed)
    D = len(ranks)
    full = (1, *ranks[: D - 1], 1)
    outputs = {"CP": ranks[:1] * D, "TT": [a * b for a, b in itertools.pairwise(full)], "Tucker": ranks}[form]
    factors = [
        ChebyshevFactor(torch.randn(3, r, dtype=torch.float64, generator=generator), interval)
        for r, interval in zip(outputs, BOX)
    ]
    if form == "CP":
        return CP(factors, scale=None)
    return TT(factors, ranks[: D - 1]) if form == "TT" else Tucker(factors, ranks, generator=generator)


def value(g, x: list[float]) -> float:
    """An expansion at one point, sum by sum, with numpy's Chebyshev series."""
    factors = []
    for series, t in zip(g.factors, x):
        a, b = series.interval
        factors.append(np.polynomial.chebyshev.chebval((2 * t - a - b) / (b - a), series.coefficients.numpy()))
    if isinstance(g, CP):
        return sum(math.prod(f[r] for f in factors) for r in range(len(factors[0])))
    if isinstance(g, TT):
        full, product = (1, *g.ranks, 1), np.eye(1)
        for d, f in enumerate(factors):
            product = product @ f.reshape(full[d], full[d + 1])
        return product.item()
    core = g.core.detach()[0].numpy()
    return sum(core[index] * math.prod(f[i] for f, i in zip(factors, index)) for index in np.ndindex(*core.shape))


def points(D: int, seed: int = 0) -> torch.Tensor:
    return interpolation.random_points(BOX[:D], 5, torch.Generator().manual_seed(seed))


cases = st.tuples(
    st.sampled_from(FORMS),
    st.integers(2, 4).flatmap(lambda D: st.tuples(*[st.lists(st.integers(1, 3), min_size=D, max_size=D)] * 2)),
    st.integers(0, 1000),
)


@given(cases, st.floats(-3, 3))
@settings(max_examples=25)
def test_sums_products_and_multiples_keep_the_form(case, number):
    form, (first, second), seed = case
    g, h = random_expansion(form, first, seed), random_expansion(form, second, seed + 1)
    X = points(len(first))
    G, H = ([value(e, x.tolist()) for x in X] for e in (g, h))
    results = {
        "sum": (expansions.add(g, h), np.add(G, H), np.add),
        "product": (expansions.multiply(g, h), np.multiply(G, H), np.multiply),
    }
    for name, (combined, wanted, on_ranks) in results.items():
        assert type(combined) is type(g), name
        assert expansions.ranks(combined) == tuple(on_ranks(expansions.ranks(g), expansions.ranks(h))), name
        size = max(1.0, np.abs(G).max()) * max(1.0, np.abs(H).max())
        assert np.abs(combined.points(X)[0].detach().numpy() - wanted).max() < 1e-12 * size, name
    multiple = expansions.scale(g, number).points(X)[0].detach().numpy()
    assert np.abs(multiple - number * np.array(G)).max() < 1e-12 * max(1.0, np.abs(G).max())


@pytest.mark.parametrize("form", FORMS)
def test_the_algebra_is_distributive_and_has_a_unit(form):
    f, g, h = (random_expansion(form, ranks, seed) for seed, ranks in enumerate(([2, 3, 1], [1, 2, 2], [3, 1, 2])))
    X = points(3)
    left = expansions.multiply(f, expansions.add(g, h))
    right = expansions.add(expansions.multiply(f, g), expansions.multiply(f, h))
    dense.agree(left.points(X).detach(), right.points(X).detach(), 1e-12)
    unit = expansions.constant(1.0, BOX[:3], form)
    dense.agree(expansions.multiply(unit, f).points(X).detach(), f.points(X).detach(), 1e-12)
    axes = [torch.linspace(a, b, n, dtype=torch.float64) for (a, b), n in zip(BOX, (2, 3, 4))]
    dense.agree(left.grid(axes).detach(), right.grid(axes).detach(), 1e-12)


def test_networks_add_and_multiply_too_with_their_own_scale():
    def network(seed):
        generator = torch.Generator().manual_seed(seed)
        kwargs = dict(width=5, depth=2, dtype=torch.float64, generator=generator)
        return CP([FactorMLP(3, **kwargs) for _ in range(2)])  # scale 1/sqrt(3)

    g, h, X = network(0), network(1), points(2)
    dense.agree(expansions.add(g, h).points(X).detach(), (g.points(X) + h.points(X)).detach(), 1e-12)
    dense.agree(expansions.multiply(g, h).points(X).detach(), (g.points(X) * h.points(X)).detach(), 1e-12)


def test_expansions_of_different_kinds_do_not_mix():
    g = random_expansion("CP", [2, 2], 0)
    with pytest.raises(ValueError, match="share form and dimensions, got CP in 2 dimensions and TT in 2 dimensions"):
        expansions.add(g, random_expansion("TT", [2, 2], 0))
    with pytest.raises(ValueError, match="CP in 2 dimensions and CP in 3 dimensions"):
        expansions.multiply(g, random_expansion("CP", [2, 2, 2], 0))
    with pytest.raises(ValueError, match="form must be one of CP, TT, Tucker, got 'PARAFAC'"):
        expansions.constant(1.0, BOX, "PARAFAC")


def test_series_agree_with_numpys_and_at_their_nodes():
    series = ChebyshevFactor(
        torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), (1.0, 4.0)
    )
    t = np.linspace(-1, 1, 9)
    wanted = torch.from_numpy(np.polynomial.chebyshev.chebval(t, series.coefficients.numpy())).T
    dense.agree(series(expansions.place(torch.from_numpy(t), (1.0, 4.0)))[0], wanted.contiguous(), 1e-13)
    x = expansions.place(expansions.nodes(11), (1.0, 4.0))
    dense.agree(expansions.at_nodes(series, 11), series(x)[0], 1e-13)
    assert torch.allclose(
        expansions.maxima(torch.eye(5, dtype=torch.float64)), torch.ones(5, dtype=torch.float64), rtol=2e-2
    )


# From a function to an expansion ------------------------------------------------------------------------------------


def f3(x, y, z):
    return torch.exp(x * y) / (3 + z) + torch.sin(x + 2 * z)


@pytest.mark.parametrize("form", FORMS)
def test_interpolation_and_compression_lose_nothing_of_a_smooth_function(form):
    domain = [(-1.0, 0.5), (0.0, 2.0), (-1.0, 1.0)]
    g = compression.compress(interpolation.interpolate(f3, domain, 1e-11), form, 1e-11)
    X = interpolation.random_points(domain, 500, torch.Generator().manual_seed(5))
    assert (g.points(X)[0].detach() - f3(*X.T)).abs().max() < 1e-9


def test_at_two_dimensions_the_cut_is_the_best_one():
    """Eckart and Young: the error's norm in the coefficients is that of the singular values left out."""
    full = interpolation.interpolate(lambda x, y: torch.exp(x * y), [(-1.0, 1.0)] * 2, 1e-12)
    left, right = (c.coefficients for c in full.factors)
    matrix = left @ full.core.detach()[0] @ right.T
    singular = torch.linalg.svdvals(matrix)
    for form in FORMS:
        g = compression.compress(full, form, 0.0, max_rank=3)
        left, right = (c.coefficients for c in g.factors)
        cut = left @ g.core.detach()[0] @ right.T if form == "Tucker" else left @ right.T
        assert expansions.ranks(g)[0] == 3
        assert (cut - matrix).norm().item() == pytest.approx(singular[3:].norm().item(), rel=1e-6)


def coefficients(g) -> torch.Tensor:
    """Coefficients of an expansion of three variables, all of them."""
    a, b, c = (f.coefficients for f in g.factors)
    if isinstance(g, CP):
        return torch.einsum("ir,jr,kr->ijk", a, b, c)
    if isinstance(g, TT):
        return torch.einsum("ir,jrs,ks->ijk", a, b.unflatten(1, g.ranks), c)
    return torch.einsum("rst,ir,js,kt->ijk", g.core.detach()[0], a, b, c)


@pytest.mark.parametrize("form", FORMS)
@given(st.integers(0, 1000), st.floats(0.05, 3))
@settings(max_examples=25)
def test_a_cut_keeps_to_its_tolerance(form, seed, tolerance):
    """With orthonormal series the norm of the coefficients is the core's; Tucker is cut once, the others twice."""
    generator = torch.Generator().manual_seed(seed)
    core = torch.randn(1, 6, 5, 4, dtype=torch.float64, generator=generator)
    series = [torch.linalg.qr(torch.randn(8, n, dtype=torch.float64, generator=generator))[0] for n in core.shape[1:]]
    g = expansions.tucker([ChebyshevFactor(c, i) for c, i in zip(series, BOX)], core)
    error = (coefficients(compression.compress(g, form, tolerance)) - coefficients(g)).norm().item()
    assert error <= tolerance * (1 if form == "Tucker" else math.sqrt(2)) + 1e-12


def test_the_degree_follows_the_function():
    g = interpolation.interpolate(lambda x, y: x**5 * (1 + y), [(-1.0, 1.0), (2.0, 3.0)], 1e-12)
    assert [len(c.coefficients) for c in g.factors] == [6, 2]
    assert expansions.ranks(g) == (1, 1)


@pytest.mark.parametrize("form", ["CP", "Tucker"])
def test_terms_are_balanced(form):
    g = interpolation.expand(lambda x, y, z: 100 * torch.cos(x * y) * torch.exp(z + x), [(-1.0, 1.0)] * 3, 1e-3, form)
    sizes = torch.stack([expansions.maxima(c.coefficients)[:1] for c in g.factors]).flatten()
    assert sizes.max() / sizes.min() < 1.05


def test_compress_refuses_an_unknown_form():
    g = interpolation.interpolate(lambda x, y: x + y, [(0.0, 1.0)] * 2, 1e-3)
    with pytest.raises(ValueError, match="form must be one of CP, TT, Tucker, got 'HT'"):
        compression.compress(g, "HT", 0.1)


@pytest.mark.parametrize(
    ("f", "domain", "message"),
    [
        (lambda x: x[:, 0], [(0.0, 1.0)], "at least 2 intervals, got 1"),
        (lambda x, y: x + y, [(0.0, 1.0), (1.0, 1.0)], r"finite a < b, got \(1.0, 1.0\)"),
        (lambda x, y: x + y, [(0.0, 1.0), (0.0, math.inf)], r"finite a < b, got \(0.0, inf\)"),
        (lambda x, y: 1 / (x * y - x * y), [(0.0, 1.0)] * 2, r"f must be finite on the box, but f\("),
        (lambda x, y: x.sum(), [(0.0, 1.0)] * 2, r"f must map \d+ points to \d+ values, got shape \(\)"),
    ],
)
def test_bad_functions_and_boxes_are_named(f, domain, message):
    with pytest.raises(ValueError, match=message):
        interpolation.interpolate(f, domain, 1e-3)


def test_limits_say_how_far_it_got(monkeypatch):
    kink = lambda x, y: (x - 0.3).abs() + y  # noqa: E731
    with pytest.raises(ValueError, match=r"degree above 64 in dimension 1: cut at \d+, .* still lose \d\.\de-0\d"):
        interpolation.interpolate(kink, [(-1.0, 1.0)] * 2, 1e-4, max_degree=64)
    with pytest.raises(ValueError, match=r"degree above 3 in dimension 1: cut at 1, "):
        interpolation.interpolate(lambda x, y: torch.cos(x * y), [(-1.0, 1.0)] * 2, 1e-6, max_degree=3)
    with pytest.raises(ValueError, match=r"ranks up to 2: CP rank [3-9] are needed"):
        interpolation.expand(lambda x, y: torch.exp(-4 * (x - y) ** 2), [(-1.0, 1.0)] * 2, 1e-3, "CP", max_rank=2)
    with pytest.raises(ValueError, match="eps must be positive and finite, got 0"):
        interpolation.expand(kink, [(-1.0, 1.0)] * 2, 0, "CP")
    with pytest.raises(ValueError, match="form must be one of"):
        interpolation.expand(kink, [(-1.0, 1.0)] * 2, 1.0, "cp")
    monkeypatch.setattr(interpolation, "CORE", 3)
    with pytest.raises(
        ValueError, match=r"f has multilinear ranks \(2, 2\) at this accuracy, a core of more than 3 entries"
    ):
        interpolation.interpolate(lambda x, y: x + y, [(-1.0, 1.0)] * 2, 1e-3)
