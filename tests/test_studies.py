"""The studies behind the notebooks: counts, exponents, spectra and the criteria they decide."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from dense import agree, grid_points, jacobian, kronecker_sum, modulation, pseudo_ntk

from seplib import CP, MLP, FactorMLP, preconditioning
from seplib.reproduce import profiles
from seplib.reproduce.criteria import held
from seplib.ridge import features
from seplib.studies.seppgd import complexity, equivalence, kernel_ridge, non_grid, spectra
from seplib.studies.seppgd.kernel_ridge import CASES, RidgeRun
from seplib.studies.seppgd.settings import ComplexitySettings, RidgeSettings, ScatteredSettings

CPU = torch.device("cpu")


# --- spectra ----------------------------------------------------------------------------------------------------------


def test_features_are_the_jacobian(make_cp):
    model, _ = make_cp((3, 3), ensemble=1)
    X = torch.randn(6, 2, generator=torch.Generator().manual_seed(0)).tanh()
    agree(features(model, X), jacobian(model.points(X), list(model.parameters())))


def test_a_kronecker_sum_can_be_worsened():
    """The counterexample in its purest form: the damped directions were not the large ones of the whole kernel."""
    K1, K2 = torch.diag(torch.tensor([1e-2, 1e-4, 1e-4])), torch.eye(3)
    S1 = preconditioning.modulate(K1[None], 2).dense()[0]
    K = torch.kron(K1, torch.eye(3)) + torch.kron(torch.eye(3), K2)
    S = torch.kron(S1, torch.eye(3)) + torch.eye(9)
    values = spectra.preconditioned_eigenvalues(K, S)
    before, after = torch.linalg.cond(K).item(), (values[0] / values[-1]).item()
    assert before < 1.02 and 1.9 < after < 2  # almost the factor D that is possible


# --- complexity -------------------------------------------------------------------------------------------------------


def test_operations_of_known_products():
    A = torch.ones(2, 5, 5)
    assert complexity.operations(lambda: torch.linalg.eigh(A)) == 2 * 9 * 125
    model, axes = CP([FactorMLP(7, width=4, depth=2) for _ in range(2)]), [torch.zeros(5), torch.zeros(6)]
    # the last layers of two factors and the grid; the first layers are outer products, which are not counted
    assert complexity.operations(lambda: model.grid(axes)) == 2 * (5 + 6) * 4 * 7 + 2 * 5 * 6 * 7


def test_queries_are_counted_and_the_network_left_as_it_was():
    model, axes = MLP(2, width=4, depth=2), [torch.zeros(5), torch.zeros(6)]
    with complexity.queries(model) as count:
        model.grid(axes)
    assert sum(count) == 30
    model.grid(axes)
    assert sum(count) == 30


def test_exponents_are_slopes():
    n = np.array([4, 8, 16, 32])
    frame = pd.DataFrame({"D": 2, "n": n, "method": "MSK", "part": "step", "operations": 3.0 * n**2.5})
    row = complexity.exponents(frame).iloc[0]
    assert (row.exponent, row.low, row.high) == pytest.approx((2.5, 2.5, 2.5))


def test_every_part_of_every_method_is_measured():
    settings = ComplexitySettings(
        sizes={2: (4, 6, 8)}, epoch_sizes={2: (4, 6, 8)}, rank=3, width=4, k=2, batches=2, repeats=1
    )
    with torch.random.fork_rng():
        costs = complexity.measure(settings, 0, CPU)
    slopes = complexity.exponents(costs).set_index(["method", "part"]).exponent
    assert slopes["SepPGD", "application"] == pytest.approx(2)
    assert slopes["GD", "networks"] == pytest.approx(1)
    assert slopes["MLP", "epoch"] == pytest.approx(2)
    epochs = costs[costs.part == "epoch"].set_index(["method", "n"]).queries
    assert epochs["SepNN", 8] == 16 and epochs["MLP", 8] == 64
    assert {"construction", "application", "step"} <= set(costs[costs.method == "IGA"].part)


def slopes_of(**exponents) -> pd.DataFrame:
    """Exponents that fulfil Table 1 to the letter, D = 2, but for those given."""
    known = {"SepPGD_construction": 3, "MSK_construction": 6, "MSK_application": 2, "IGA_application": 2}
    known |= {"GD_networks": 1, "SepPGD_application": 1, "SepNN_epoch": 1, "MLP_epoch": 2} | exponents
    rows = [(2, *name.split("_"), float(value)) for name, value in known.items()]
    return pd.DataFrame(rows, columns=["D", "method", "part", "exponent"])


def test_the_cases_of_table_1_follow_the_exponents():
    assert all(complexity.preconditioner_cases(slopes_of()).values())
    for change, case in {
        "SepPGD_construction": "SepPGD's construction grows as n^3 at most",
        "MSK_construction": "MSK's construction grows faster, by n^D at least",
        "MSK_application": "MSK applies in n^D",
        "IGA_application": "IGA applies in n^D",
        "GD_networks": "SepPGD's networks take n",
        "SepPGD_application": "SepPGD applies to the residual in n",
    }.items():
        held = complexity.preconditioner_cases(slopes_of(**{change: 3.5 if change != "MSK_construction" else 4.0}))
        assert not held[f"D = 2: {case}"]
    assert complexity.numbers(slopes_of(), [("MSK", "application")], " (x)") == {
        "MSK, application (x), D = 2: exponent": 2.0
    }


def test_the_cases_of_a_1_1_follow_queries_and_exponents():
    rows = [(2, n, m, "epoch", q) for n in (4, 8) for m, q in (("SepNN", 2 * n), ("MLP", n * n))]
    costs = pd.DataFrame(rows, columns=["D", "n", "method", "part", "queries"])
    assert all(complexity.query_cases(costs, slopes_of()).values())
    assert not complexity.query_cases(costs, slopes_of(SepNN_epoch=1.6))[
        "D = 2: fewer operations an epoch, by a growing factor"
    ]
    costs.loc[0, "queries"] += 1
    assert not complexity.query_cases(costs, slopes_of())["D = 2: n D queries, the MLP n^D"]


def test_largest_grid_fits_and_the_next_does_not():
    for memory in (1e6, 11e9):
        for dims in (2, 3):
            n = complexity.largest_grid(memory, dims)
            assert 12 * n ** (2 * dims) <= memory < 12 * (n + 1) ** (2 * dims)


# --- the criterion of Fig. 2(a) ---------------------------------------------------------------------------------------


def synthetic(step, construction, rate, floor=1e-4, iterations=100):
    t = np.arange(0, iterations + 1, 10)
    test = np.repeat((floor + np.exp(-rate * t))[:, None], 6, axis=1)
    return RidgeRun(t, test, test, step, construction)


def ridge_settings(**changes):
    base = vars(profiles.get("smoke").kernel_ridge) | dict(iterations=100, update_every=10)
    return RidgeSettings(**(base | changes))


def test_criterion_holds_for_a_method_that_is_really_faster():
    study = {
        "MLP": [synthetic(10.0, 0, 0.1)], "MLP (MSK)": [synthetic(10.0, 5, 0.2)], "SepNN": [synthetic(1.0, 0, 0.05)],
        "SepNN (MSK)": [synthetic(1.0, 50.0, 0.2)], "SepNN (SepPGD)": [synthetic(1.1, 0.1, 0.2)],
    }  # fmt: skip
    table = kernel_ridge.ridge_table(study, ridge_settings())
    assert list(table.case) == list(CASES)
    assert table["twice as fast"].all() and table["not behind"].all()
    # SepNN ends at exp(-5); exp(-0.2 t) is there at t = 30: 30 steps and 3 preconditioners, against 100 steps
    assert table["time ratio"].iloc[0] == pytest.approx((30 * 1.1 + 3 * 0.1) / 100)


def test_criterion_fails_for_a_method_that_never_gets_there_or_is_overtaken():
    study = {
        "MLP": [synthetic(0.1, 0, 0.5)], "MLP (MSK)": [synthetic(10.0, 5, 0.2)], "SepNN": [synthetic(1.0, 0, 0.05)],
        "SepNN (MSK)": [synthetic(1.0, 50.0, 0.2)], "SepNN (SepPGD)": [synthetic(1.0, 0.1, 0.2, floor=0.1)],
    }  # fmt: skip
    table = kernel_ridge.ridge_table(study, ridge_settings())
    assert not table["twice as fast"].any() and math.isinf(table["time ratio"].iloc[0])
    assert not table["not behind"].any()


def test_budgets_are_counted_case_by_case():
    fast, slow = synthetic(1.0, 0.1, 0.2), synthetic(1.0, 0, 0.05)
    study = {"MLP": [slow], "MLP (MSK)": [slow], "SepNN": [slow], "SepNN (MSK)": [slow], "SepNN (SepPGD)": [fast]}
    table = kernel_ridge.budget_table(study, ridge_settings(), (40, 100))
    assert list(table.budget) == [40, 100, 40, 100] and (table["both"] == 6).all()
    assert list(table.charged) == ["every 10 iterations"] * 2 + ["once"] * 2


def test_exact_solutions_depend_on_the_preconditioner():
    table = kernel_ridge.closed_forms(ridge_settings(points=5, rank=4, width=6, k_msk=5), 0, CPU).set_index("solution")
    assert list(table.columns) == list(CASES) and np.isfinite(table.to_numpy()).all()
    assert (table.loc["SepNN"] != table.loc["SepNN (SepPGD)"]).all()


def test_updates_are_charged_as_often_as_they_happen():
    run = synthetic(1.0, 7.0, 0.1)
    assert run.seconds()[-1] == 107
    assert run.seconds(update_every=10)[:3].tolist() == [7, 17, 34]


def test_ridge_runs_repeat_and_their_errors_fall():
    settings = ridge_settings(points=6, rank=4, width=6, k_msk=6, iterations=40, mlp_iterations=40)
    for method in kernel_ridge.KRR_METHODS:
        run = kernel_ridge.ridge_run(method, settings, 1, CPU)
        again = kernel_ridge.ridge_run(method, settings, 1, CPU)
        assert np.array_equal(run.test, again.test) and run.test.shape == (5, 6)
        assert run.train[-1].sum() < run.train[0].sum()
    with pytest.raises(ValueError, match=r"method must be one of MLP, .*, got 'GD'"):
        kernel_ridge.ridge_run("GD", settings, 0, CPU)


@pytest.mark.parametrize("method", kernel_ridge.KRR_METHODS)
def test_a_ridge_run_is_adam_on_the_problem_written_out(method):
    """Eq. (15) with its feature matrix: decay, preconditioner, k and test grid of each method show in the errors."""
    changes = dict(points=6, rank=4, width=6, k_msk=6, k_seppgd=3, iterations=20, mlp_iterations=20)
    settings = ridge_settings(**changes, learning_rate=1e-2, weight_decay=10.0)
    run = kernel_ridge.ridge_run(method, settings, 1, CPU)
    data = kernel_ridge.ridge_data(settings, 1, CPU, torch.float64)
    network = kernel_ridge.ridge_network(method, settings, 1, CPU, torch.float64)
    phi, new = (
        jacobian(network.points(grid_points(axes)), list(network.parameters())) for axes in (data.axes, data.test_axes)
    )
    S = torch.eye(36)
    if method.endswith("(MSK)"):
        S = modulation((phi @ phi.T)[None], 6, "flat")[0]
    elif method.endswith("(SepPGD)"):
        S = kronecker_sum([modulation(pseudo_ntk(f, x), 3, "flat")[0] for f, x in zip(network.factors, data.axes)])
    theta = torch.zeros(6, phi.shape[1], requires_grad=True)
    optimizer = torch.optim.Adam([theta], 1e-2, weight_decay=10.0)
    for _ in range(20):
        theta.grad = (theta.detach() @ phi.T - data.target.flatten(1)) @ S @ phi
        optimizer.step()
    for ours, features_, target in ((run.train, phi, data.target), (run.test, new, data.test_target)):
        slow = (theta.detach() @ features_.T - target.flatten(1)).square().mean(1)
        assert ours[-1] == pytest.approx(slow.numpy(), rel=1e-2)


def test_noise_is_on_the_training_values_only():
    data = kernel_ridge.ridge_data(ridge_settings(points=30), 0, CPU)
    noise = data.target[3:] - data.target[:3]
    assert noise.std().item() == pytest.approx(0.01, rel=0.1)
    assert torch.equal(data.test_target[3:], data.test_target[:3])
    x, y = data.axes[0][4], data.axes[1][7]
    assert data.target[2, 4, 7].item() == pytest.approx((math.tanh(9 - 9 * x - 9 * y) + 1) / 9, abs=1e-6)


def test_scattered_runs_repeat_and_are_tabulated():
    base = vars(profiles.get("smoke").non_grid)
    settings = ScatteredSettings(**(base | dict(points=40, tested=50, rank=4, width=6, iterations=20)))
    runs = {m: [non_grid.scattered_run(m, settings, s, CPU) for s in (0, 1)] for m in non_grid.METHODS}
    again = non_grid.scattered_run("SepNN (SepPGD)", settings, 0, CPU)
    assert np.array_equal(again.test, runs["SepNN (SepPGD)"][0].test)
    table = non_grid.scattered_table(runs, [0, 20])
    assert len(table) == 6 and table.f1[1] == pytest.approx(np.mean([r.test[-1, 0] for r in runs["SepNN"]]))
    with pytest.raises(ValueError, match=r"method must be one of SepNN, .*, got 'IGA'"):
        non_grid.scattered_run("IGA", settings, 0, CPU)


def test_a_scattered_run_starts_from_its_seed_and_is_tested_at_new_points():
    base = vars(profiles.get("smoke").non_grid)
    settings = ScatteredSettings(**(base | dict(points=40, tested=50, rank=4, width=6, iterations=10)))
    run = non_grid.scattered_run("SepNN", settings, 3, CPU)
    generator = torch.Generator().manual_seed(1003)
    X, new = (2 * torch.rand(n, 2, generator=generator) - 1 for n in (40, 50))
    generator = torch.Generator().manual_seed(3)
    model = CP([FactorMLP(4, width=6, depth=3, omega=30.0, ensemble=3, generator=generator) for _ in range(2)])
    for ours, P in ((run.train, X), (run.test, new)):
        values = torch.stack([f(*P.unbind(1)) for f in kernel_ridge.FUNCTIONS.values()])
        slow = (model.points(P) - values).square().mean(1)
        assert ours[0] == pytest.approx(slow.detach().numpy(), rel=1e-4)


# --- equivalence ------------------------------------------------------------------------------------------------------


def test_the_equivalence_check_notices_a_wrong_sign(monkeypatch):
    assert equivalence.gradient_difference((4, 3)) < 1e-12
    original = preconditioning.Preconditioner.correction
    monkeypatch.setattr(preconditioning.Preconditioner, "correction", lambda *args: -original(*args))
    assert equivalence.gradient_difference((4, 3)) > 1e-3


def test_the_equivalence_check_notices_swapped_axes(monkeypatch):
    current = preconditioning.SepPGD.current
    method = preconditioning.SepPGD
    monkeypatch.setattr(method, "current", lambda self, t: current(self, t)[::-1] if t == 0 else current(self, t))
    assert equivalence.gradient_difference((4, 4)) > 1e-3


# --- the targets of Eqs. (16)-(18) ------------------------------------------------------------------------------------


def test_targets_at_points_where_every_term_counts():
    x, y = torch.tensor(0.4), torch.tensor(0.55)
    assert kernel_ridge.FUNCTIONS["f1"](x, y).item() == pytest.approx(math.exp(-20.25 * (0.01 + 0.0025)) / 3)
    assert kernel_ridge.FUNCTIONS["f2"](x, y).item() == pytest.approx((1.25 + math.cos(2.97)) / (6 + 6 * 0.04))
    assert kernel_ridge.FUNCTIONS["f3"](x, y).item() == pytest.approx((math.tanh(0.45) + 1) / 9)
    x, y = torch.tensor(0.9), torch.tensor(0.2)
    assert kernel_ridge.FUNCTIONS["f3"](x, y).item() == pytest.approx((math.tanh(-0.9) + 1) / 9)


def test_the_cases_of_fig_2a_and_table_9_follow_their_tables():
    table = pd.DataFrame({"case": ["f1", "f2"], "time ratio": [0.4, np.inf], "spread": 0.0})
    table = table.assign(**dict.fromkeys(kernel_ridge.KRR_METHODS, 0.5))
    assert held(kernel_ridge.cases(table)) == {"f1": True, "f2": False}
    assert not kernel_ridge.cases(table.assign(MLP=0.4))["f1"] and kernel_ridge.cases(table.assign(SepNN=0.4))["f1"]
    shown = kernel_ridge.numbers(table)
    assert shown["f1: time ratio"] == 0.4 and shown["f2: time ratio"] == "not reached" and shown["f2: final MLP"] == 0.5
    errors = pd.DataFrame(
        {"f1": [3.0, 2.0, 2.4], "f2": [3.0, 2.0, 2.6], "f3": [2.0, 2.1, 1.0]}, index=non_grid.METHODS
    ).assign(**{f"{f} spread": 0.3 for f in ("f1", "f2", "f3")})
    cases = non_grid.cases(errors)
    assert [name for name, case in cases.items() if case.within_spread] == [
        "f1: SepPGD within 25% of MSK",
        "f2: SepPGD within 25% of MSK",
        "f3: MSK and SepPGD below SepNN",
    ]
    assert [name for name, holds in cases.items() if not holds] == [
        "f2: SepPGD within 25% of MSK",
        "f3: MSK and SepPGD below SepNN",
    ]
    assert non_grid.numbers(errors)["SepNN (MSK): f3"] == 2.1
    assert non_grid.printed()["SepNN (SepPGD): f1"] == 0.015 and len(non_grid.printed()) == 9
