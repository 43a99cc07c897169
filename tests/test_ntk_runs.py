"""The kernel experiments on tiny settings: what the tables say, what is cached, what the tests would notice."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from seplib import CP, FactorMLP, metrics, ntk
from seplib.reproduce import profiles
from seplib.studies.ntk import drift, exactness, figures, initialization

CPU = torch.device("cpu")
EXACT = dataclasses.replace(
    profiles.get("smoke").ntk_exact,
    width=4, rank=2, points=6, spectrum_side=8, spectrum_size=6, top=3, side=3, seeds=2, widths=(8, 32), pseudo_rank=3,
)  # fmt: skip
LIMITS = dataclasses.replace(
    profiles.get("smoke").ntk_limits,
    side=3, seeds=3, sizes=(8, 64), rank=4, widths=(8, 16), ranks=(2, 8), rank_width=64, copies=300, test_width=64, samples=500,
)  # fmt: skip
TRAINING = dataclasses.replace(
    profiles.get("smoke").ntk_training,
    side=4, seeds=2, sizes=(8, 64), iterations=20, decay_side=4, decay_size=32, decay_seeds=1, decay_step=0.1, modes=3, spectrum_size=16,
    others=(("relu", 1.0), ("sine", 1.0)),
)  # fmt: skip


def test_the_exactness_table_covers_every_kind_of_network_and_holds():
    table = exactness.exactness(EXACT, 0, CPU)
    assert set(table.D) == {2, 3, 4}
    assert {name.split(",")[0] for name in table.network} == {"CP", "TT", "Tucker", "MLP"}
    assert table["Lemma 1"].max() < 1e-12
    grids = table[table.points.str.endswith("grid")]
    assert len(grids) == 6
    assert grids[["grid operator", "Eq. (9)"]].max().max() < 1e-12
    assert (table["Lemma 1"] > 0).any(), "two ways of computing agree, but not by being the same"


def test_top_spectra_are_those_of_the_dense_kernels():
    found = exactness.top_spectra(EXACT, 0, CPU)
    assert set(found) == {"exact", "pseudo"}
    assert all(values.shape == (3,) and (np.diff(values) <= 0).all() for values in found.values())
    generator = torch.Generator().manual_seed(0)
    model = CP([FactorMLP(6, width=6, depth=3, generator=generator) for _ in range(2)])
    axes = [torch.linspace(-1, 1, 8)] * 2
    for name, operator in {"exact": ntk.grid(model, axes), "pseudo": ntk.pseudo_grid(model, axes)}.items():
        slow = torch.linalg.eigvalsh(operator.dense())[0].flip(-1)[:3]
        assert found[name] == pytest.approx(slow.numpy(), rel=1e-9)


def test_pseudo_errors_fall_with_the_width():
    errors = exactness.pseudo_errors(EXACT, 0, CPU)
    assert set(errors) == {"R = 3", "R = W"}
    for runs in errors.values():
        assert runs.shape == (2, 2)
        assert runs.mean(0)[1] < runs.mean(0)[0]


def test_seed_differences_by_hand():
    to_limit, adjacent = initialization.seed_differences(LIMITS, 5, CPU)
    assert to_limit.shape == (3, 2)
    assert adjacent.shape == (2, 2)
    first, _ = initialization.seed_differences(dataclasses.replace(LIMITS, sizes=(64,), seeds=1), 5, CPU)
    assert first[0, 0] == to_limit[0, 1], "a seed means one network whatever stands beside it"
    fixed, _ = initialization.seed_differences(LIMITS, 5, CPU, rank=8)
    assert fixed[0, 0] == to_limit[0, 0], "rank 8 at width 8 is the first of R = W"
    assert fixed[0, 1] != to_limit[0, 1]


def test_the_spread_of_wide_networks_is_the_predicted_one():
    settings = dataclasses.replace(LIMITS, ranks=(4,), rank_width=512)
    _, (spread,) = initialization.spreads(settings, 0, CPU)
    assert spread == pytest.approx(initialization.predicted_spread(LIMITS, 4), rel=0.12)


def test_networks_come_in_batches_and_none_is_missing_or_too_many(monkeypatch):
    X = torch.tensor(initialization.TEST_POINTS)
    monkeypatch.setattr(initialization, "_BATCH", 4 * 8 * len(X))  # four networks of width 8 at a time
    assert [len(K) for K in initialization.kernels(8, 2, X, 10, "tanh", 0)] == [4, 4, 2]


def test_the_comparison_notices_a_wrong_mean_variance_or_law():
    wide, draws = initialization.random_entries(LIMITS, 0, CPU)
    good = initialization.compare_random(LIMITS, draws, draws)
    assert good[["mean, in errors", "variance, in errors"]].abs().max().max() < 4
    assert (good["p (Holm)"] == 1).all()
    shifted = initialization.compare_random(LIMITS, draws + 0.5, draws)
    assert (shifted["mean, in errors"] > 5).all()
    assert (shifted["p (Holm)"] < 1e-3).all()
    mean = good["mean"].to_numpy()
    wider = initialization.compare_random(LIMITS, mean + 1.5 * (draws - mean), draws)
    assert (wider["variance, in errors"] > 3).all()
    assert wide.shape == draws.shape == (500, 6)


def test_holms_correction():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(200, 6)), rng.normal(size=(200, 6)) + np.linspace(0, 0.5, 6)
    table = initialization.compare_random(LIMITS, a, b)
    p, corrected = table["p"].to_numpy(), table["p (Holm)"].to_numpy()
    for rank, index in enumerate(sorted(range(6), key=lambda i: p[i])):
        before = [min(1, (6 - r) * p[i]) for r, i in enumerate(sorted(range(6), key=lambda i: p[i])[: rank + 1])]
        assert corrected[index] == pytest.approx(max(before))


def test_drifts_and_decay():
    runs = drift.drifts(TRAINING, 0, CPU)
    assert all(values.shape == (2, 2) for values in runs.values())
    assert runs["drift"].mean(0)[1] < runs["drift"].mean(0)[0]
    assert (runs["moved"] <= 1.05 * runs["bound"]).all()
    assert (runs["loss"] < 1).all()
    (decay,) = drift.decay(TRAINING, 0, CPU)
    assert decay.measured.shape[1:] == (1, 3)
    assert torch.equal(decay.measured[0], torch.ones_like(decay.measured[0]))
    assert decay.predicted[-1].max() <= 0.1


def test_seeds_in_one_pass_are_the_seeds_one_by_one():
    together = drift.drifts(TRAINING, 4, CPU)
    alone = [drift.drifts(dataclasses.replace(TRAINING, seeds=1), 4 + i, CPU) for i in range(TRAINING.seeds)]
    for name, values in together.items():
        assert np.allclose(values, np.concatenate([one[name] for one in alone]), rtol=1e-10, atol=0)
    both = exactness.stack([exactness.network(5, 3, activation="tanh", seed=i) for i in (2, 9)])
    X = torch.rand(4, 2)
    for copy, i in zip(ntk.empirical(both, X), (2, 9)):
        assert torch.allclose(copy, ntk.empirical(exactness.network(5, 3, activation="tanh", seed=i), X)[0], rtol=1e-12)


def test_the_residual_starts_with_one_amplitude_in_every_mode():
    settings = dataclasses.replace(TRAINING, amplitude=1e-3)
    (decay,) = drift.decay(settings, 0, CPU)
    assert decay.deviation().max() < 0.3, (
        "with next to no residual the network is linear; what is left is Euler's error"
    )


def test_the_spectrum_table():
    found = drift.spectra(TRAINING, 0, CPU)
    assert list(found) == ["SepNN", "MLP", "relu", "sine, omega = 1", "limit"]
    assert all((np.diff(values, axis=1) <= 0).all() for values in found.values())
    table = drift.spectrum_table({"x": np.array([[8.0, 4.0, 2.0], [9.0, 1.0, 1.0]])})
    row = table.iloc[0]
    assert (row["largest / median"], row["smallest ratio"], row["largest ratio"]) == (5.5, 2.0, 9.0)


def test_slopes_with_their_interval():
    x = (1, 2, 4, 8)
    rng = np.random.default_rng(1)
    runs = 3 * np.power(x, -0.5) * np.exp(0.1 * rng.normal(size=(10, 4)))
    mean, low, high = metrics.slope(x, runs)
    slopes = [stats.linregress(np.log(x), np.log(run)).slope for run in runs]
    assert mean == pytest.approx(np.mean(slopes))
    half = stats.t.ppf(0.975, 9) * np.std(slopes, ddof=1) / math.sqrt(10)
    assert (low, high) == pytest.approx((mean - half, mean + half))
    assert low < -0.5 < high
    assert metrics.slope(x, runs[:1])[1:] == pytest.approx((slopes[0], slopes[0]))


def test_every_picture_can_be_drawn():
    two, three = np.full((2, 2), 0.5), np.full((3, 2), 0.5)
    (decay,) = drift.decay(TRAINING, 0, CPU)
    spectra = {
        "SepNN": np.array([[4.0, 2.0, 1.0]]),
        "MLP": np.array([[4.0, 1.0, 0.5]]),
        "limit": np.array([[4.0, 2.0, 1.0]]),
    }
    drawn = [
        figures.seed_differences((8, 16), two, two, three, 4, 0.3),
        figures.spreads((8, 16), np.ones(2), (2, 4), np.ones(2), np.ones(2), 4),
        figures.quantiles(np.arange(12.0).reshape(6, 2), np.arange(12.0).reshape(6, 2), ["(1, 1)", "(1, 2)"]),
        figures.drift((8, 16), {"drift": two, "moved": two, "bound": two}),
        figures.modes(decay),
        figures.spectra(spectra, ["SepNN", "limit"], ["MLP"]),
        figures.pseudo((8, 16), {"R = 3": two, "R = W": two}, {"exact": np.ones(3), "pseudo": np.ones(3)}),
    ]
    for figure in drawn:
        assert all(axes.get_xlabel() or axes.get_title() for axes in figure.axes)
        figure.canvas.draw()
    assert isinstance(drift.spectrum_table(spectra), pd.DataFrame)
