"""Morozov's rule for when to stop and how much to smooth."""

import dataclasses

import numpy as np
import pytest
import torch
from outputs import output

from seplib import metrics, targets
from seplib.reproduce import profiles
from seplib.studies.images.beyond import denoising
from seplib.studies.images.fitting import ImageRun
from seplib.training import History


def run_with(training: list[float], judged: list[float]) -> ImageRun:
    return ImageRun(History(metrics={"judged": judged}), np.array(training), np.zeros(0))


def test_training_stops_where_the_error_has_the_noise_s_size():
    training = np.linspace(10, 30, 31)  # judged after 0, 10, 20 and 30 updates, at 10, 16.7, 23.3 and 30 dB
    run = run_with(training, [8.0, 14.0, 16.0, 12.0])
    assert denoising.stop(run, 0.1) == 2  # 20 dB
    assert denoising.stop(run, 0.3) == 1  # 10.46 dB
    assert denoising.stop(run, 1e-3) == 3  # never


def stripes(noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    """An image of two flat halves, and the same with noise."""
    clean = torch.zeros(3, 32, 32)
    clean[:, :, 16:] = 1
    return clean, clean + noise * torch.randn(clean.shape, generator=torch.Generator().manual_seed(3))


def test_total_variation_falls_until_the_noise_is_gone_and_no_further():
    clean, observed = stripes(0.1)
    found = denoising.smooth(observed, observed, 0.1)
    assert (found - observed).square().mean().item() == pytest.approx(0.01, rel=0.02)
    assert found.diff(dim=1).abs().sum() < 0.1 * observed.diff(dim=1).abs().sum()
    assert metrics.psnr(found, clean) > metrics.psnr(observed, clean) + 8
    assert torch.equal(denoising.smooth(clean, observed, 0.05), clean)  # farther away than that already
    with pytest.raises(ValueError, match=r"noise 2.0 is as large as what the image itself varies by, 0\.5"):
        denoising.smooth(observed, observed, 2.0)


def test_noisy_runs_are_judged_by_the_clean_image():
    study = profiles.get("smoke").image_noise
    run = dataclasses.replace(study.run, size=32, rank=4, width=6, k=3, iterations=20)
    clean, observed = stripes(0.1)[0], targets.noisy(stripes(0.1)[0], 0.3, 0)
    found = denoising.runs(clean, dataclasses.replace(study, run=run, noises=(0.3,)), 0, torch.device("cpu"))
    assert list(found) == [(0.3, "SepNN"), (0.3, "SepPGD")]
    for (_, method), one in found.items():
        last = output(observed, method, run, 0)
        assert one.history.metrics["judged"][-1] == pytest.approx(metrics.psnr(last, clean), abs=1e-3)
        assert one.psnr[-1] == pytest.approx(metrics.psnr(last, observed), abs=1e-3)


def test_the_table_of_noise_has_every_run_and_the_noisy_image():
    clean, _ = stripes(0.1)
    judged = [8.0, 14.0, 16.0, 12.0]
    run = dataclasses.replace(run_with(np.linspace(10, 30, 31), judged), image=clean.numpy() + 0.05)
    table = denoising.table({(0.1, "SepNN"): run}, clean, 0)
    row, alone = (row for _, row in table.iterrows())
    assert (row["last"], row.best, row.stopped, row.after) == (12.0, 16.0, 16.0, 20)
    assert row["with TV"] == pytest.approx(-20 * np.log10(0.05))  # farther from the data than the noise: it stays
    assert alone.method == "no network" and alone["last"] == pytest.approx(20, abs=0.3)
    assert alone["with TV"] > alone["last"] + 8 and np.isnan(alone.best)


def test_judged_updates_are_every_tenth_and_the_last():
    assert denoising.judged_at(run_with([0.0] * 26, [])).tolist() == [0, 10, 20, 25]
