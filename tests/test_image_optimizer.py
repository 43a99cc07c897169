"""What Adam's settings do to the gain: which runs are compared, and how."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from seplib import training
from seplib.reproduce import profiles
from seplib.studies.images import fitting, setups
from seplib.studies.images.beyond import adam
from seplib.studies.images.fitting import fit_image
from seplib.targets import ImageTarget

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def small():
    study = profiles.get("smoke").image_optimizer
    run = dataclasses.replace(study.run, size=12, seeds=(2, 1), rank=4, width=6, k=3, iterations=30)
    return dataclasses.replace(study, run=run, restarts=(10, 20))


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(0)
    draw = [torch.rand(3, 12, 12, generator=generator, dtype=torch.float32) for _ in range(2)]
    return [ImageTarget(name, values, "drawn") for name, values in zip(("one", "two"), draw)]


def last(values, method, settings, seed=0):
    return fit_image(values, method, settings, seed, CPU).psnr[-1]


def test_a_restart_is_a_new_optimizer_on_the_weights_of_that_moment(small, images):
    values = images[0].values
    for method in ("SepNN", "SepPGD"):
        settings = dataclasses.replace(small.run, restart=10)
        found = fit_image(values, method, settings, 0, CPU)
        arguments = setups.run_arguments(values, method, small.run, 0, CPU)
        model, axes, optimizer, preconditioner = setups.prepare(
            values, arguments["network"], arguments["descent"], arguments.get("modulation"), 0
        )
        training.fit(model, axes, values, optimizer, preconditioner, iterations=10)
        fresh = torch.optim.Adam(model.parameters(), small.run.learning_rate, fused=True)
        history = training.fit(model, axes, values, fresh, preconditioner, iterations=20)
        expected = -10 * np.log10(2 * np.array(history.loss).sum(1) / values.numel())
        assert np.allclose(found.psnr[10:], expected, atol=1e-3)
        assert not np.allclose(found.psnr[12:], fit_image(values, method, small.run, 0, CPU).psnr[12:], atol=1e-3)


def test_a_restarted_run_that_is_cut_ends_with_the_same_numbers(small, images, tmp_path, monkeypatch):
    settings = dataclasses.replace(small.run, iterations=120, restart=100)
    whole = fit_image(images[0].values, "SepNN", settings, 0, CPU)
    monkeypatch.setenv("SEPLIB_CACHE", str(tmp_path))
    restart = fitting._restart

    def cut(after):
        def callback(state):
            restart(after)(state)
            if state.iteration == 110:
                raise KeyboardInterrupt

        return callback

    monkeypatch.setattr(fitting, "_restart", cut)
    with pytest.raises(KeyboardInterrupt):
        fit_image(images[0].values, "SepNN", settings, 0, CPU)
    monkeypatch.setattr(fitting, "_restart", restart)
    assert list((tmp_path / "unfinished").iterdir())
    assert np.array_equal(fit_image(images[0].values, "SepNN", settings, 0, CPU).psnr, whole.psnr)


def test_the_table_of_memories_has_both_on_every_image(small, images):
    table = adam.memory_table(images, adam.memories(images, small, 0, CPU))
    assert list(zip(table.image, table.beta2)) == [("one", 0.999), ("one", 0.95), ("two", 0.999), ("two", 0.95)]
    forgetful = dataclasses.replace(small.run, beta2=0.95)
    gains = [
        last(images[0].values, "SepPGD", forgetful, seed) - last(images[0].values, "SepNN", forgetful, seed)
        for seed in (0, 1)
    ]
    row = table.iloc[1]
    assert row.gain == pytest.approx(np.mean(gains)) and row.spread == pytest.approx(np.std(gains, ddof=1))
    assert np.isnan(table.spread[3])
    assert table.SepNN[2] == last(images[1].values, "SepNN", small.run)


def test_every_rate_meets_both_memories(small, images):
    table = adam.rate_table(images[0].values, small, 0, CPU)
    assert list(zip(table.rate, table.beta2)) == [(r, b) for r in small.rates for b in (0.999, 0.95)]
    changed = dataclasses.replace(small.run, learning_rate=small.rates[1], beta2=0.95)
    row = table.iloc[-1]
    assert row.SepNN == last(images[0].values, "SepNN", changed)
    assert row.SepPGD == last(images[0].values, "SepPGD", changed)
    assert row["SepPGD, once"] == last(images[0].values, "SepPGD", dataclasses.replace(changed, update_every=30))


def test_each_method_is_tuned_for_itself():
    columns = {"rate": [1e-4, 1e-4, 2e-4, 4e-4], "beta2": [0.999, 0.95, 0.999, 0.95]}
    columns |= {"SepNN": [20.0, 25.0, 24.0, 23.0], "SepPGD": [27.0, 26.0, 28.0, 25.0]}
    best = adam.tuned(pd.DataFrame(columns))
    assert best.to_numpy().tolist() == [["SepNN", 1e-4, 0.95, 25.0], ["SepPGD", 2e-4, 0.999, 28.0]]


def test_a_restart_stands_between_both_memories(small, images):
    values = images[0].values
    table = adam.restart_table(values, small, 0, CPU).set_index("Adam")
    changes = {"usual memory": {}, "restart after 10": {"restart": 10}, "restart after 20": {"restart": 20}}
    changes["short memory"] = {"beta2": 0.95}
    assert list(table.index) == list(changes)
    for name, change in changes.items():
        for method in ("SepNN", "SepPGD"):
            assert table.loc[name, method] == last(values, method, dataclasses.replace(small.run, **change))


def test_a_period_as_long_as_the_run_leaves_it_with_the_first_preconditioner(small, images):
    values = images[0].values
    study = dataclasses.replace(small, periods=(10, 30))
    found = adam.renewals(values, study, 0, CPU)
    arguments = setups.run_arguments(values, "SepPGD", small.run, 0, CPU)
    model, axes, optimizer, preconditioner = setups.prepare(
        values, arguments["network"], arguments["descent"], arguments.get("modulation"), 0
    )
    first = {}

    def constant(residual, iteration):
        if not first:
            preconditioner(residual, 0)
            first["S"] = preconditioner.operator()
        return (first["S"].dense() @ residual.flatten(1)[..., None])[..., 0].view_as(residual)

    history = training.fit(model, axes, values, optimizer, constant, iterations=30)
    expected = -10 * np.log10(2 * np.array(history.loss).sum(1) / values.numel())
    assert np.allclose(found[30].psnr, expected, atol=1e-2)
    assert not np.allclose(found[10].psnr, expected, atol=1e-2)


def test_the_table_of_renewals_has_what_follows_them():
    psnr = np.linspace(10, 20, 61)
    psnr[23] = 11.0  # within ten updates behind the renewal at 20
    psnr[55] = 2.0  # not within ten behind 40
    run = fitting.ImageRun(training.History(), psnr, np.zeros(0))
    table = adam.renewal_table({20: run, 60: run}).set_index("period")
    assert table.preconditioners.tolist() == [3, 1] and np.isnan(table.fall[60])
    assert table.fall[20] == pytest.approx(psnr[20] - 11.0) and table.best[20] == 20
    assert table.quarter[20] == psnr[15]


def test_once_stands_beside_renewed_for_every_image_and_memory(small, images):
    table = adam.once_table(images, small, 0, CPU)
    assert list(zip(table.image, table.beta2)) == [("one", 0.999), ("one", 0.95), ("two", 0.999), ("two", 0.95)]
    changed = dataclasses.replace(small.run, beta2=0.95)
    row = table.iloc[3]
    assert row.SepNN == last(images[1].values, "SepNN", changed)
    assert row.SepPGD == last(images[1].values, "SepPGD", changed)
    assert row["SepPGD, once"] == last(images[1].values, "SepPGD", dataclasses.replace(changed, update_every=30))
