"""Theorem 1 as a program: certificates checked again by other code, limits, and what a polynomial cannot do."""

import dataclasses
import importlib.util
import itertools
import math
import pathlib

import dense
import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given

from seplib import CP, TT, Tucker, activations, approximation
from seplib.approximation import expansions, interpolation, rates, univariate
from seplib.approximation.expansions import FORMS
from seplib.reproduce.criteria import held
from seplib.studies.approximation import figures, gallery
from seplib.studies.approximation.settings import RateSettings

BOX = [(-1.0, 1.0), (0.0, 3.0)]
BOX_3 = [(-1.0, 1.0), (0.0, 1.0), (-2.0, 0.0)]


def bell(x, y):
    return torch.exp(-(x**2)) / (1 + x * y + y**2)


def bell_3(x, y, z):
    return torch.exp(-(x**2)) / (1 + x * y + y**2) + z * x


@pytest.fixture(scope="module", params=FORMS)
def built(request):
    """A network in three dimensions and its expansion, built once a form."""
    return approximation.approximate(bell_3, BOX_3, 1e-3, request.param)


def network_value(model, x: list[float]) -> float:
    """The network at one point by Theorem 1's formula, with plain numpy: W_2 sigma(W_1 x + b) and sums over the ranks."""
    factors = []
    for factor, t in zip(model.factors, x):
        W1, W2 = (w.detach()[0].numpy() for w in factor.weights)
        assert len(factor.biases) == 1, "the class of Theorem 1 has no output bias"
        factors.append(W2 @ np.tanh(W1[:, 0] * t + factor.biases[0].detach()[0].numpy()) / math.sqrt(len(W1)))
    if isinstance(model, CP):
        return model.scale * sum(math.prod(f[r] for f in factors) for r in range(len(factors[0])))
    if isinstance(model, TT):
        full, product = (1, *model.ranks, 1), np.eye(1)
        for d, f in enumerate(factors):
            product = product @ f.reshape(full[d], full[d + 1])
        return product.item()
    core = model.core.detach()[0].numpy()
    return sum(core[i] * math.prod(f[j] for f, j in zip(factors, i)) for i in np.ndindex(*core.shape))


def test_the_network_is_of_the_theorems_class_and_close_to_f(built):
    model, certificate = built
    assert type(model) is {"CP": CP, "TT": TT, "Tucker": Tucker}[certificate.form]
    assert certificate.parameters == sum(p.numel() for p in model.parameters())
    assert certificate.ranks == expansions.ranks(model)
    assert all(p.dtype == torch.float64 for p in model.parameters())
    rng = np.random.default_rng(3)
    X = [[rng.uniform(a, b) for a, b in BOX_3] for _ in range(40)] + list(itertools.product(*BOX_3))
    errors = [abs(network_value(model, x) - bell_3(*map(torch.tensor, x)).item()) for x in X]
    assert max(errors) < 1e-3
    assert max(errors) < 1.5 * certificate.error, "the certificate's maximum is over far more points"


def test_the_certificate_is_what_other_code_measures(built):
    """M, delta, both bounds and the gap once more, from a rebuilt expansion and factors sampled elsewhere."""
    model, c = built
    g = interpolation.expand(bell_3, BOX_3, 5e-4, c.form)
    with torch.no_grad():
        pairs = []
        for series, factor, (a, b) in zip(g.factors, model.factors, BOX_3):
            x = torch.linspace(a, b, 3001, dtype=torch.float64)
            pairs.append((series(x)[0], factor(x)[0]))
        X = interpolation.random_points(BOX_3, 100_000, torch.Generator().manual_seed(1))
        wanted, network, series = bell_3(*X.T), model.points(X)[0], g.points(X)[0]
        axes = [torch.linspace(a, b, n) for (a, b), n in zip(BOX_3, c.grid)]
        on_grid = (bell_3(*torch.meshgrid(*axes, indexing="ij")) - model.grid(axes)[0]).abs().max().item()
    gap = (series - network).abs().max().item()
    assert c.error_random == pytest.approx((wanted - network).abs().max().item(), rel=1e-6)
    assert c.error_grid == pytest.approx(on_grid, rel=1e-6)
    assert (wanted - series).abs().max().item() <= c.expansion_error * 1.001
    M = max(max(s.abs().max().item(), n.abs().max().item()) for s, n in pairs)
    delta = max((s - n).abs().max().item() for s, n in pairs)
    assert pytest.approx(M, rel=1e-4) == c.M
    assert delta <= c.delta * 1.001 and delta > 0.8 * c.delta
    entries = math.prod(c.ranks) * (g.core.abs().max().item() if c.form == "Tucker" else 1)
    assert c.bound == pytest.approx(entries * 3 * c.M**2 * c.delta, rel=1e-12)
    assert gap <= c.gap * 1.001
    assert c.gap <= c.sharp * 1.001 <= c.bound * 1.01
    assert c.bound_holds and c.closed and c.error < c.eps
    sizes, faults = (
        [m.amax(0) for m in part] for part in zip(*((torch.maximum(s.abs(), n.abs()), (s - n).abs()) for s, n in pairs))
    )
    total = 0.0
    for d in range(3):
        f = [faults[i] if i == d else sizes[i] for i in range(3)]
        if c.form == "CP":
            total += sum(f[0][r] * f[1][r] * f[2][r] for r in range(c.ranks[0])).item()
        elif c.form == "TT":
            for r, s in np.ndindex(*c.ranks):
                total += (f[0][r] * f[1][r * c.ranks[1] + s] * f[2][s]).item()
        else:
            for r in np.ndindex(*c.ranks):
                total += (g.core[0][r].abs() * f[0][r[0]] * f[1][r[1]] * f[2][r[2]]).item()
    assert total == pytest.approx(c.sharp, rel=0.1)


def test_the_grid_is_finer_than_the_construction(built):
    _, c = built
    assert all(points > 2 * (degree + 1) for points, degree in zip(c.grid, c.degrees))
    assert c.random == 100_000


def test_a_certificate_judges_by_all_that_was_measured(built):
    _, c = built
    assert c.expansion_error < c.eps / 2 and c.bound < c.eps / 2
    assert dataclasses.replace(c, error_grid=7.0).error == dataclasses.replace(c, error_random=7.0).error == 7.0
    assert not dataclasses.replace(c, gap=1.01 * c.bound).bound_holds
    assert not dataclasses.replace(c, bound=c.eps).closed
    assert not dataclasses.replace(c, expansion_error=c.eps).closed


def test_the_benchmark_fails_when_a_certificate_does(built, monkeypatch, capsys):
    path = pathlib.Path(__file__).parent / "bench" / "bench_approximation.py"
    spec = importlib.util.spec_from_file_location("bench_approximation", path)
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    model, c = built
    good = dataclasses.replace(c, error_grid=0.0, error_random=0.0)
    monkeypatch.setattr(bench, "product_seconds", lambda: 1.0)
    for change, code in [
        ({}, 0),
        (dict(error_random=1e-4), 1),
        (dict(gap=2 * c.bound), 1),
        (dict(expansion_error=c.eps), 1),
    ]:
        answer = model, dataclasses.replace(good, **change)
        monkeypatch.setattr(bench.approximation, "approximate", lambda *_, answer=answer: answer)
        assert bench.main() == code, change
    assert "FAILED" in capsys.readouterr().out


@given(st.lists(st.tuples(st.floats(-2, 2), st.floats(-2, 2)), min_size=2, max_size=6))
def test_the_generalized_product_inequality(pairs):
    """|prod a - prod b| <= sum over d of |a_d - b_d| prod_{j<d} |a_j| prod_{j>d} |b_j| <= D M^(D-1) delta."""
    a, b = zip(*pairs)
    left = abs(math.prod(a) - math.prod(b))
    D = len(a)
    middle = sum(abs(a[d] - b[d]) * math.prod(map(abs, a[:d])) * math.prod(map(abs, b[d + 1 :])) for d in range(D))
    M, delta = max(map(abs, a + b)), max(abs(x - y) for x, y in pairs)
    assert left <= middle + 1e-12 and middle <= D * M ** (D - 1) * delta + 1e-12


def test_the_bound_holds_for_bad_fits_too_and_falls_in_proportion_to_delta():
    g = interpolation.expand(bell, BOX, 1e-6, "CP")
    shares = []
    for width in (8, 16, 32):
        c = approximation.certify(bell, BOX, g, univariate.fit_factors(g, "tanh", width), 1e-3)
        assert c.bound_holds and c.gap <= c.sharp * 1.001
        shares.append(c.bound / (c.delta * c.M))
    assert shares == pytest.approx([2 * expansions.ranks(g)[0]] * 3)


@pytest.mark.parametrize("activation", activations.NAMES)
def test_every_activation_gets_below_a_hundredth(activation):
    model, c = approximation.approximate(bell, BOX, 1e-2, "CP", activation)
    assert c.error < 1e-2 and c.bound_holds and c.bound < c.eps / 2 and c.activation == activation
    assert model.factors[0].activation.name == activation


@pytest.mark.parametrize("eps", [0.05, 0.03, 0.02])
def test_the_networks_keep_to_their_half(eps):
    """ReLU's bound falls by four with each doubling, so that one of three accuracies lies between bound and its double."""
    _, c = approximation.approximate(bell, BOX, eps, "CP", "relu")
    assert c.bound < eps / 2


def test_relu_falls_with_the_square_of_the_width():
    """Piecewise linear factors: error ~ W^-2 until the knots move; a wrong feature layout would stall."""
    g = interpolation.expand(bell, BOX, 1e-4, "CP")
    curve = gallery.width_curve(g, "relu", (16, 64))
    assert math.log(curve.delta[0] / curve.delta[1], 4) > 1.6


def test_neurons_move_to_where_the_factor_is_steep():
    """tanh(30 x) on [-1, 1]: an even layout leaves errors of 1e-2 (tanh) and 6e-2 (ReLU) at this width."""
    g = interpolation.expand(lambda x, y: torch.tanh(30 * x) * y, [(-1.0, 1.0)] * 2, 1e-6, "CP")
    assert gallery.width_curve(g, "tanh", (64,)).delta[0] < 1e-3
    assert gallery.width_curve(g, "relu", (64,)).delta[0] < 2e-2


def test_least_squares_go_down_to_rounding():
    g = interpolation.expand(bell, BOX, 1e-6, "CP")
    assert gallery.width_curve(g, "tanh", (128,)).delta[0] < 1e-10


def test_a_polynomial_activation_stalls_where_tanh_goes_on():
    g = interpolation.expand(bell, BOX, 1e-6, "CP")
    square = gallery.width_curve(g, gallery.power(2), (16, 32, 64))
    assert square.delta.min() > 1e-3
    assert square.slope.iloc[-1] > -0.05
    assert gallery.width_curve(g, "tanh", (16, 32, 64)).slope.iloc[-1] < -1
    with pytest.raises(ValueError, match=r"out of reach with z\^2: CP rank \d+ and width 64 give factor errors of \d"):
        approximation.approximate(bell, BOX, 1e-3, "CP", gallery.power(2), max_width=64)


def test_a_polynomial_activation_reproduces_polynomials_of_its_degree():
    g = interpolation.expand(lambda x, y: x * x * y + y, [(-1.0, 1.0)] * 2, 1e-10, "CP")
    assert gallery.width_curve(g, gallery.power(2), (8,)).delta[0] < 1e-10


@pytest.mark.parametrize("form", FORMS)
def test_six_dimensions_without_a_six_dimensional_grid(form):
    asked = []

    def counted(*x):
        asked.append(len(x[0]))
        return gallery.FUNCTIONS["sum-6"].f(*x)

    g = interpolation.expand(counted, [(-1.0, 1.0)] * 6, 1e-4, form)
    assert sum(asked) < 100_000 < 11**6
    wanted = {"CP": 32, "TT": 2, "Tucker": 2}[form]
    assert max(expansions.ranks(g)) <= wanted


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(eps=0.0), "eps must be positive and finite, got 0.0"),
        (dict(eps=-1e-3), "eps must be positive and finite, got -0.001"),
        (dict(eps=math.nan), "eps must be positive and finite, got nan"),
        (dict(form="HOSVD"), "form must be one of CP, TT, Tucker, got 'HOSVD'"),
        (dict(activation="swish"), "activation must be one of sine, .* got 'swish'"),
        (dict(domain=[(0.0, 1.0)]), "the domain must have at least 2 intervals, got 1"),
        (dict(f=lambda x, y: torch.exp(1j * x * y)), "f must have real values, got torch.complex128"),
        (dict(f=lambda x, y: torch.log(x - 5)), r"f must be finite on the box, but f\(.*\) is not"),
        (dict(max_rank=1), "ranks up to 1: CP rank 2 are needed"),
        (dict(max_width=16, eps=1e-4), "out of reach with tanh: CP rank [3-6] and width 16 give factor errors of"),
        (dict(max_width=12, eps=1e-4), "CP rank [3-6] and width 12 give factor errors of"),
        (dict(eps=1e-15), "an error of 5e-16 is out of reach in float64, where f alone is rounded by"),
        (dict(f=lambda x, y: (x > 0.1) * y, max_degree=256), r"degree above 256 in dimension 1: .* still lose"),
        (
            dict(f=lambda x, y: bell(x, y) + ((x - 0.1234).abs() < 5e-5)),
            r"an error of 0\.005 is out of reach: the Chebyshev expansion stays at an error of 1\.0e\+00",
        ),
    ],
)
def test_errors_name_the_value_and_how_far_it_got(change, message):
    arguments = dict(f=bell, domain=BOX, eps=1e-2) | change
    with pytest.raises(ValueError, match=message):
        approximation.approximate(**arguments)


def test_the_certificate_finds_what_the_expansion_was_not_checked_at():
    x = interpolation.random_points(BOX, 100_000, torch.Generator().manual_seed(1))[7, 0]
    with pytest.raises(ValueError, match=r"error is \d\.\de\+00 at points that the expansion was not checked at"):
        approximation.approximate(lambda a, b: bell(a, b) + (a == x), BOX, 1e-2)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", [0.0, 7.5])
def test_constants_have_rank_one(form, value):
    _, c = approximation.approximate(lambda x, y: 0 * x + value, BOX, 1e-2, form)
    assert c.error < 1e-2 and set(c.ranks) == {1}


def test_the_largest_width_is_kept():
    _, c = approximation.approximate(lambda x, y: x + y, BOX, 0.5, max_width=10)
    assert c.width <= 10


@pytest.mark.parametrize("f", [lambda X: X[:, 0] * X[:, 1], lambda X, by=1.0: torch.nn.Parameter(by * X).prod(1)])
def test_one_argument_functions_are_taken_as_points(f):
    model, _ = approximation.approximate(f, [(0.0, 1.0)] * 2, 1e-2)
    assert abs(model.points(torch.tensor([[0.5, 0.5]], dtype=torch.float64)).item() - 0.25) < 1e-2


def test_a_certificate_is_frozen():
    _, c = approximation.approximate(lambda x, y: x + y, BOX, 0.1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        c.error_grid = 0.0


def test_width_must_be_at_least_four():
    g = expansions.constant(1.0, BOX, "Tucker")
    with pytest.raises(ValueError, match="width must be at least 4, got 3"):
        univariate.fit_factors(g, "tanh", 3)


# Rates --------------------------------------------------------------------------------------------------------------


def test_the_analytic_bound_stands_above_the_error_and_falls_at_its_rate():
    """F = 1/(a - x - y/2) has its pole at x = a - 1/2 at the least: the error falls by that ellipse's rho, no slower."""
    a = 2.0
    f = gallery.Function("pole", 2, "", True, lambda x, y: 1 / (a - x - y / 2))
    rho = a - 0.5 + math.sqrt((a - 0.5) ** 2 - 1)
    curve = gallery.rank_curve(f, "CP", (1, 2, 3, 4, 5))
    bounds = [rates.best_analytic_bound(f.f, R, rho) for R in curve.R]
    assert all(e <= b for e, b in zip(curve.error, bounds))
    assert curve.error.iloc[-1] / curve.error.iloc[-2] < 1 / rho


def test_the_sobolev_bound_stands_above_the_error_of_the_cut_series():
    """The bound is one for the Chebyshev series cut in x: |x - y/3| has a first derivative of variation 2 for every y."""
    x = np.cos(np.pi * (np.arange(4000) + 0.5) / 4000)
    for y in (0.0, 0.7):
        series = np.polynomial.chebyshev.chebfit(x, np.abs(x - y / 3), 300)
        for R in (4, 10, 40):
            cut = np.polynomial.chebyshev.chebval(x, series[:R])
            error = np.abs(cut - np.abs(x - y / 3)).max()
            assert error <= rates.sobolev_bound(2.0, 1, R)
            assert error >= rates.sobolev_bound(2.0, 1, R) / 20


def test_the_best_ellipse_gives_the_least_bound_and_the_error_stays_below():
    """1 / (1 + x^2 + y^2 + z^2) is at most 1 / (1 - 2 b^2) on ellipses with short half-axis b."""

    def maximum(rho):
        return 1 / (1 - (rho - 1 / rho) ** 2 / 2)

    largest = (2**0.5 + 6**0.5) / 2
    curve = gallery.rank_curve(gallery.FUNCTIONS["bump-3"], "CP", (1, 3, 6))
    for degree, error in enumerate(curve.error):
        rank, bound = rates.best_total_degree_bound(maximum, 3, degree, largest)
        assert rank == curve.R[degree] and error <= bound
        for rho in (1.2, 1.5, 1.8):
            assert bound <= 1.05 * rates.total_degree_bound(maximum(rho), rho, 3, degree)[1]


def test_the_total_degree_bound_is_the_sum_of_the_shells():
    rank, bound = rates.total_degree_bound(3.0, 1.5, 4, 5)
    assert rank == sum(1 for k in itertools.product(range(6), repeat=3) if sum(k) <= 5)
    tail = sum(1.5 ** -sum(k) for k in itertools.product(range(80), repeat=3) if 5 < sum(k) < 80)
    assert bound == pytest.approx(8 * 3.0 * tail, rel=1e-6)
    # For D = 2 it is the one-variable bound.
    assert rates.total_degree_bound(1.0, 3.0, 2, 4)[1] == pytest.approx(rates.analytic_bound(1.0, 3.0, 5))


def test_the_best_ellipse_is_the_best():
    """|z y| is largest at the ellipse's end, (rho + 1 / rho) / 2, and y = 1."""
    f = lambda z, y: z * y  # noqa: E731
    assert rates.ellipse_maximum(f, 3.0) == pytest.approx(5 / 3)
    ellipses = np.linspace(1.2, 2.99, 40)
    best = rates.best_analytic_bound(f, 4, 3.0)
    assert best <= 1.01 * min(rates.analytic_bound((rho + 1 / rho) / 2, rho, 4) for rho in ellipses)


def test_rates_refuse_what_they_cannot_bound():
    with pytest.raises(ValueError, match="rho must be above 1, got 1"):
        rates.analytic_bound(1.0, 1.0, 3)
    with pytest.raises(ValueError, match="rank must be at least 1, got 0"):
        rates.analytic_bound(1.0, 2.0, 0)
    with pytest.raises(ValueError, match="order must be at least 1, got 0"):
        rates.sobolev_bound(1.0, 0, 3)
    for dims, degree in ((1, 3), (2, -1)):
        with pytest.raises(ValueError, match=f"at least 2 and degree at least 0, got {dims} and {degree}"):
            rates.total_degree_bound(1.0, 2.0, dims, degree)
    assert rates.sobolev_bound(1.0, 2, 3) == math.inf


def test_a_ridge_network_approximates_with_d_plus_two_parameters_a_neuron():
    model, error = gallery.ridge_network(gallery.FUNCTIONS["cosine"], 128)
    assert error < 1e-2
    assert sum(p.numel() for p in model.parameters()) == 128 * 4 + 1


def test_the_survey_covers_every_case():
    found = gallery.survey(["cosine"], [0.1], [1e-2], seed=0)
    table = gallery.certificates_table(found)
    assert len(table) == 6 and table["below eps"].all()
    assert held(gallery.certificate_cases(table, "TT")) == {"cosine, eps 0.1": True, "cosine, eps 0.01": True}
    broken = table.assign(gap=2 * table.bound)
    assert not any(gallery.certificate_cases(broken, "TT").values())
    assert gallery.certificate_cases(broken, "TT")["cosine, eps 0.1"].distance == pytest.approx(-1)
    assert not any(gallery.certificate_cases(table.assign(error=table.eps), "TT").values())


def test_the_closure_table_adds_and_multiplies_the_ranks():
    table = gallery.closure_table(["cosine", "crease"], 0.1).set_index("form")
    for _, row in table.iterrows():
        g, h, total, product = (np.array(row[name].split(), int) for name in ("g", "h", "g + h", "g h"))
        assert (total == g + h).all() and (product == g * h).all()
    assert (table["largest error"] < 1e-12).all() and list(table.index) == list(FORMS)


def test_dense_agreement_of_grid_and_points(built):
    model, _ = built
    axes = [torch.linspace(a, b, n, dtype=torch.float64) for (a, b), n in zip(BOX_3, (3, 4, 5))]
    wanted = model.points(dense.grid_points(axes)).reshape(1, 3, 4, 5)
    dense.agree(model.grid(axes).detach(), wanted.detach(), 1e-12)


def test_the_slider_carries_its_pictures_and_asks_no_other_host():
    text = figures.rank_slider(gallery.FUNCTIONS["cosine"], (1, 3), size=17).data
    assert text.count("<img") == 2 and text.count("data:image/jpeg;base64,") == 2
    assert 'type="range" min="0" max="1"' in text and "http" not in text


def test_activation_cases_judge_the_last_octave_above_rounding():
    curves = pd.DataFrame(
        {
            "activation": ["tanh"] * 4 + ["z^2"] * 3,
            "width": [8, 16, 32, 64, 8, 16, 32],
            "delta": [1e-2, 1e-6, 1e-11, 2e-11, 0.3, 0.2, 0.2],
            "slope": [np.nan, -13.0, -16.0, 1.0, np.nan, -0.5, 0.0],
        }
    )
    assert held(gallery.activation_cases(curves)) == {"tanh: falls": True, "z^2: stalls": True}
    curves.loc[6, "slope"] = -0.04
    assert gallery.activation_cases(curves)["z^2: stalls"]
    curves.loc[6, "slope"] = -0.06
    curves.loc[2, "slope"] = 0.0
    assert held(gallery.activation_cases(curves)) == {"tanh: falls": False, "z^2: stalls": False}


def test_trained_networks_stand_above_the_floor_of_their_rank():
    small = RateSettings(ranks=(1,), trained_ranks=(1, 3), size=12, iterations=150, seeds=2)
    table = gallery.trained_curve("cosine", small, 5, torch.device("cpu"))
    assert list(zip(table.R, table.seed)) == [(1, 5), (1, 6), (3, 5), (3, 6)]
    assert (table.error > table.floor).all() and table.floor[0] > table.floor[2]
    assert (table.error < 0.9).all()


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "sine", "cos"])
def test_the_layout_holds_constants_and_lines_at_the_smallest_width(activation):
    g = expansions.constant(1.0, BOX, "Tucker")
    assert approximation.factor_errors(g, univariate.fit_factors(g, activation, 4))[1] < 1e-12
