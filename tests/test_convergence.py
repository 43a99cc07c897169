"""Five methods over time: the clock, the budget, the criterion."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from outputs import output

from seplib import targets
from seplib.reproduce import archive, profiles, store
from seplib.studies.images import convergence, fitting, setups
from seplib.training import History

CPU = torch.device("cpu")
SMALL = profiles.get("smoke").image_convergence
TINY = dataclasses.replace(
    SMALL,
    run=dataclasses.replace(
        SMALL.run, images=("astronaut",), size=12, rank=12, width=24, k=3, iterations=10, update_every=5
    ),
    k_msk=6,
    iterations=dict.fromkeys(setups.SMALL_METHODS, 15) | {"MLP": 20},
)


def fake(*courses):
    """Runs with given errors after 0, 1, 2, ... updates, by method, in one case."""
    found = {}
    for method, errors in zip(("SepPGD", "SepNN", "MLP"), courses):
        psnr = -10 * np.log10(np.array(errors))
        found["plane", method] = fitting.ImageRun(History(), psnr, np.zeros((3, 1, 1)))
    return found


@pytest.fixture
def study():
    image = targets.image("astronaut", 12)
    return image, convergence.study([image], TINY, 3, CPU)


def test_every_method_lowers_the_loss_and_is_judged_by_the_clean_image(study):
    image, found = study
    assert list(dict.fromkeys(case for case, _ in found)) == ["astronaut", "astronaut, noisy"]
    for (case, method), run in found.items():
        assert len(run.psnr) == TINY.iterations[method] + 1
        assert run.psnr[-1] > run.psnr[0] + 1, (case, method)
        if "noisy" in case:
            spoiled = targets.noisy(image.values, TINY.noise, 3)
            last = output(spoiled, method, convergence._settings(TINY)[method], 3)
            error = (last - image.values).double().square().mean().item()
            assert run.history.metrics["judged"][-1] == pytest.approx(-10 * np.log10(error), abs=1e-3)
    plain, msk = (found["astronaut", method] for method in ("MLP", "MLP (MSK)"))
    assert plain.psnr[0] == msk.psnr[0] and plain.psnr[1] != msk.psnr[1], "same weights, another direction"
    starts = {found["astronaut", method].psnr[0] for method in ("SepNN", "SepNN (MSK)", "SepPGD")}
    assert len(starts) == 1 and plain.psnr[0] not in starts


def test_msk_gets_its_own_k(study, monkeypatch):
    image, found = study
    asked = {}

    def fit(target, method, settings, *_, **__):
        asked[method] = settings
        return found["astronaut", method]

    monkeypatch.setattr(convergence, "fit_image", fit)
    convergence.study([image], TINY, 3, CPU)
    assert {m: s.k for m, s in asked.items()} == {"MLP": 3, "MLP (MSK)": 6, "SepNN": 3, "SepNN (MSK)": 6, "SepPGD": 3}
    assert {m: s.iterations for m, s in asked.items()} == TINY.iterations


def test_the_clock_repeats_the_pace_of_a_period(monkeypatch):
    monkeypatch.setattr(convergence, "update_seconds", lambda target, settings, *_: dict.fromkeys(settings, PACE))
    seconds = convergence.clock(targets.image("astronaut", 12), TINY, 0, CPU)
    assert {m: len(s) - 1 for m, s in seconds.items()} == TINY.iterations
    assert seconds["MLP"][:8].tolist() == [0, 5, 6, 7, 8, 9, 14, 15]


PACE = np.array([5.0, 1, 1, 1, 1])


def test_the_pace_is_the_mean_over_periods_without_the_first(monkeypatch):
    turns = iter([[9, 9, 5, 1, 7, 1], [9, 9, 3, 1, 5, 1]])

    def train(*_, **__):
        return History(seconds=np.cumsum([0.5, *next(turns)]).tolist()), None

    monkeypatch.setattr(fitting, "train_image", train)
    settings = {"SepPGD": dataclasses.replace(TINY.run, update_every=2)}
    paces = fitting.update_seconds(targets.image("astronaut", 12).values, settings, 0, CPU, rounds=2)
    assert {method: pace.tolist() for method, pace in paces.items()} == {"SepPGD": [5, 1]}


def test_no_two_methods_share_a_stored_run():
    values = targets.image("astronaut", 12).values
    asked = [setups.run_arguments(values, method, TINY.run, 0, CPU) for method in setups.SMALL_METHODS]
    keys = {archive.file_name(store.describe(store.KINDS["image"], arguments)) for arguments in asked}
    assert len(keys) == 5


def test_the_budget_is_common_to_all():
    seconds = {"SepPGD": np.arange(11) * 2.0, "SepNN": np.arange(21) * 1.0, "MLP": np.arange(4) * 10.0}
    assert convergence.budget(seconds, 8) == 16
    assert convergence.budget(seconds | {"MLP": np.arange(4) * 3.0}, 8) == 9, "the MLP's run ends first"
    for iterations in (0, 11):
        with pytest.raises(ValueError, match=f"the budget must be 1 to 10 iterations, SepPGD's run, got {iterations}"):
            convergence.budget(seconds, iterations)


def test_the_table_reads_every_run_at_the_same_time():
    seconds = {
        "SepPGD": np.array([0, 5.0, 6.0, 11.0]),
        "SepNN": np.array([0, 1.0, 2.0, 3.0]),
        "MLP": np.array([0, 8.0]),
    }
    found = fake([1, 0.1, 0.01, 0.001], [1, 0.5, 0.4, 0.3], [1, 0.2])
    at = {time: convergence.table(found, seconds, time).set_index("method") for time in (0.0, 2.9, 6.0, 7.0)}
    assert at[2.9].updates.to_dict() == {"SepPGD": 0, "SepNN": 2, "MLP": 0}
    assert at[6.0].updates.to_dict() == {"SepPGD": 2, "MLP": 0}, "SepNN's run has ended"
    assert at[2.9].MSE["SepNN"] == pytest.approx(0.4) and at[6.0].MSE["SepPGD"] == pytest.approx(0.01)
    assert (at[0.0].MSE == 1).all() and at[7.0]["clean MSE"].equals(at[7.0].MSE)
    leads = convergence.leads(found, seconds, [2.9, 6.0], "iterations").set_index("iterations")
    assert leads.SepNN[2.9] == 1 and np.isnan(leads.SepNN[6.0]) and leads.SepPGD[6.0] == 1 and leads.MLP[6.0] == 0


def test_noisy_runs_carry_both_errors(study):
    _, found = study
    rows = convergence.table(found, convergence.ticks(TINY), 12).set_index(["case", "method"])
    run = found["astronaut, noisy", "MLP"]
    assert rows["clean MSE"]["astronaut, noisy", "MLP"] == pytest.approx(10 ** (-run.history.metrics["judged"][1] / 10))
    assert rows.MSE["astronaut, noisy", "MLP"] == pytest.approx(10 ** (-run.psnr[12] / 10))
    assert (rows.updates == 12).all()


def test_the_criterion():
    def held(ours, *others):
        rows = [("plane", "SepPGD", ours)] + [("plane", name, other) for name, other in zip("abcd", others)]
        frame = pd.DataFrame([*rows, ("late", "SepPGD", 1.0), ("late", "a", 2.0)], columns=["case", "method", "MSE"])
        (first, holds), (second, other) = convergence.cases(frame).items()
        assert first == "plane: SepPGD lowest" and second == "late: SepPGD lowest" and other
        return holds

    assert held(1.0, 2.0, 3.0, 4.0, 1.1)
    assert not held(1.0, 2.0, 3.0, 0.9, 4.0), "one better method is enough"
    assert not held(1.0, 1.0, 2.0, 2.0, 2.0), "a tie is not the lowest"


def test_the_figure_has_a_panel_a_case_and_a_line_a_method(study):
    _, found = study
    figure = convergence.draw(found, convergence.ticks(TINY), "iterations", 10)
    assert [axes.get_title() for axes in figure.axes] == ["astronaut", "astronaut, noisy"]
    assert [line.get_label() for line in figure.axes[0].lines][:5] == list(setups.SMALL_METHODS)
    assert figure.axes[0].lines[0].get_ydata()[-1] == pytest.approx(10 ** (-found["astronaut", "MLP"].psnr[-1] / 10))
