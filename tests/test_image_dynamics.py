"""Adam's edge of stability against dense matrices; spikes, and the study around them."""

import dataclasses

import dense
import numpy as np
import pytest
import torch
from outputs import output

from seplib import SepPGD, fit, metrics, ntk
from seplib.reproduce import profiles
from seplib.studies.images import fitting, setups
from seplib.studies.images.beyond import inside, stability
from seplib.studies.images.fitting import fit_image

CPU = torch.device("cpu")


@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("preconditioned", [False, True])
def test_stability_is_the_largest_eigenvalue_of_the_dense_step(make_cp, amsgrad, preconditioned):
    model, axes = make_cp((5, 4), rank=3, width=5)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2, betas=(0.8, 0.9), eps=1e-3, amsgrad=amsgrad)
    preconditioner = SepPGD(model, axes, k=3, update_every=2) if preconditioned else None
    target = torch.randn(2, 5, 4)
    fit(model, axes, target, optimizer, preconditioner, iterations=3)
    found = stability.stability(model, axes, optimizer, preconditioner, products=500)

    squares = torch.cat(
        [optimizer.state[p]["max_exp_avg_sq" if amsgrad else "exp_avg_sq"].flatten() for p in model.parameters()]
    )
    denominators = (squares / (1 - 0.9**3)).sqrt() + 1e-3
    for copy in range(2):
        S = preconditioner.operator().dense()[copy] if preconditioned else torch.eye(20)
        J = dense.jacobian(model.grid(axes)[copy], list(model.parameters()))
        eigenvalues = torch.linalg.eigvals(S @ (J / denominators) @ J.T).real
        assert abs(found[copy] / (eigenvalues.max() * 1e-2 * 0.2 / 3.6) - 1) < 1e-6


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_beyond_its_limit_descent_with_averaged_gradients_grows(momentum):
    def largest(share):
        x, m = 1.0, 0.0
        sharpness = share * (2 + 2 * momentum) / (1 - momentum)
        for _ in range(4000):
            m = momentum * m + (1 - momentum) * sharpness * x
            x -= m
        return abs(x)

    assert largest(0.99) < 1e-6 and largest(1.01) > 1e6


def test_stability_needs_a_step(make_cp):
    model, axes = make_cp((4, 4))
    with pytest.raises(ValueError, match="denominators are not known before its first step"):
        stability.stability(model, axes, torch.optim.Adam(model.parameters()))


@pytest.fixture(scope="module")
def small():
    study = profiles.get("smoke").image_dynamics
    run = dataclasses.replace(study.run, size=12, rank=4, width=6, k=3, iterations=40)
    return dataclasses.replace(study, run=run, every=20, products=5, ks=(2, 3))


@pytest.fixture(scope="module")
def values():
    return torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float32)


def test_a_course_is_the_run_it_looks_into(small, values):
    found = inside.courses(values, small, 0, CPU)
    run = fit_image(values, "SepPGD", small.run, 0, CPU)
    one = found["SepPGD"]
    assert np.array_equal(one.psnr, run.psnr) and one.moments.tolist() == [20, 40]
    energy = metrics.error_spectrum(output(values, "SepPGD", small.run, 0), values)[1].numpy()
    assert np.allclose(one.energy[-1], energy, rtol=1e-4)
    assert one.eigenvalues.shape == (2, 2, 3, 12) and (np.diff(one.eigenvalues) <= 0).all()
    assert (np.diff(one.inside) >= -1e-6).all() and np.allclose(one.inside[..., -1], 1)
    table = inside.course_table(found, small.run).set_index("run")
    assert table.PSNR["SepPGD"] == run.psnr[-1] and list(table.index) == list(small.variants)


def test_the_share_inside_is_that_of_the_leading_eigenvectors(small, values):
    seen = {}

    def keep(state):
        seen["model"], seen["axes"], seen["residual"] = state.model, state.axes, state.residual

    fitting.train_image(**setups.run_arguments(values, "SepNN", small.run, 0, CPU), callbacks=[keep])
    one = inside.courses(values, small, 0, CPU)["SepNN"]
    V = [
        torch.linalg.eigh(ntk.pseudo(f, x).double())[1][:, :, -3:] for f, x in zip(seen["model"].factors, seen["axes"])
    ]
    residual = seen["residual"].double()
    share = (V[0] @ V[0].mT @ residual @ V[1] @ V[1].mT).square().sum((1, 2)) / residual.square().sum((1, 2))
    assert np.allclose(one.inside[-1][:, 2], share, atol=1e-3)


def test_a_falling_rate_ends_at_zero_and_changes_nothing_before(small, values):
    constant = fit_image(values, "SepNN", small.run, 0, CPU)
    falling = fit_image(values, "SepNN", dataclasses.replace(small.run, decay=0.25), 0, CPU)
    assert np.array_equal(constant.psnr[:31], falling.psnr[:31])
    assert abs(np.diff(falling.psnr)[-1]) < 0.3 * abs(np.diff(constant.psnr)[-1])


def test_spikes_are_single_losses_behind_the_first_tenth():
    psnr = np.array([5.0, 1.0, *np.linspace(5, 10, 28)])
    psnr[20] -= 2
    assert inside.spikes(psnr).tolist() == [19]  # the first update's loss is of no interest


def test_the_table_of_courses_measures_the_spikes():
    psnr = np.linspace(5, 10, 201)
    psnr[[51, 53, 61]] -= [2, 3, 1]  # losses in the updates 50, 52 and 60, counted from 0
    psnr[110:120] -= 1  # one loss, and ten updates below what was reached
    eigenvalues = np.array([[[[8.0, 4, 2]], [[8, 2, 1]]], [[[6, 6, 3]], [[6, 6, 2]]]])  # looks, axes, channels
    one = stability.Course(
        psnr, np.array([100, 200]), np.array([[0.2, 0.3], [0.9, 0.8]]), eigenvalues, *(np.zeros(0) for _ in range(3))
    )
    settings = dataclasses.replace(profiles.get("smoke").image_dynamics.run, k=2, update_every=10)
    row = inside.course_table({"SepPGD": one}, settings).iloc[0]
    assert (row["first ratio"], row["last ratio"]) == (3, 1)
    assert (row.spikes, row.gap, row["at renewal"], row.below) == (4, 8, 0.5, 13)
    assert row.largest == pytest.approx(3 - 5 / 200) and row.pace == pytest.approx(2.5)
    assert (row.stability, row["stability max"]) == (0.9, 0.9)
    smooth = dataclasses.replace(one, psnr=np.linspace(5, 10, 201))
    row = inside.course_table({"SepNN": smooth}, settings).iloc[0]
    assert (row.spikes, row.largest, row.below) == (0, 0, 0) and np.isnan(row.gap)


def test_what_modulating_gains_stands_beside_its_reasons(small, values):
    found = inside.courses(values, small, 0, CPU)
    table = inside.modulated(found, values, small, 0, CPU).set_index("k")
    one, plain = found["SepNN"], fit_image(values, "SepNN", small.run, 0, CPU).psnr[-1]
    for k in small.ks:
        share = sum(one.inside[-1][c, k - 1] for c in range(3)) / 3
        assert table.inside[k] == pytest.approx(100 * share) and table.worth[k] == pytest.approx(
            -10 * np.log10(1 - share)
        )
        ratios = [one.eigenvalues[0, d, c, 0] / one.eigenvalues[0, d, c, k - 1] for d in range(2) for c in range(3)]
        assert table.ratio[k] == pytest.approx(np.mean(ratios)) and table.ratio[k] > 1
        run = fit_image(values, "SepPGD", dataclasses.replace(small.run, k=k), 0, CPU)
        assert table.gain[k] == run.psnr[-1] - plain and np.isnan(table.paper[k])


def test_roots_of_eigenvalues_stand_beside_their_unit(small, values):
    found = inside.courses(values, small, 0, CPU)
    table = inside.roots(found, values, small, 0, CPU).set_index("k")
    plain = fit_image(values, "SepNN", small.run, 0, CPU).psnr[-1]
    assert tuple(table.index) == small.ks
    for k in small.ks:
        last = np.mean([found["SepNN"].eigenvalues[0, d, c, k - 1] for d in range(2) for c in range(3)])
        assert table["last"][k] == pytest.approx(last) and table.below[k] == pytest.approx(last / last**0.5)
        for name, g in (("g1", "flat"), ("g2", "sqrt"), ("g2 in units of lambda_k", "geometric")):
            run = fit_image(values, "SepPGD", dataclasses.replace(small.run, k=k, g=g), 0, CPU)
            assert table[name][k] == run.psnr[-1] - plain


def test_the_paper_s_gain_is_that_of_table_2():
    assert inside._printed_gain(30) == pytest.approx(26.79 - 26.48)
    assert inside._printed_gain(30, "SepPGD g2") == pytest.approx(26.92 - 26.48)
    assert np.isnan(inside._printed_gain(31))
