"""Readings of what Sec. A.12 leaves open: what is changed, and what is compared."""

import dataclasses

import pytest
import torch

from seplib.reproduce import profiles
from seplib.studies.images import readings
from seplib.studies.images.fitting import fit_image

CPU = torch.device("cpu")


def test_each_reading_is_the_plain_run_with_its_change():
    run = dataclasses.replace(profiles.get("smoke").image_settings.run, size=12, rank=4, width=6, iterations=5)
    values = torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    table = readings.compare(values, run, {"as it is": {}, "slower": {"omega": 2.0}}, 20.0, 0, CPU).set_index("reading")
    for name, omega in (("as it is", run.omega), ("slower", 2.0)):
        found = fit_image(values, "SepNN", dataclasses.replace(run, omega=omega), 0, CPU)
        assert table.PSNR[name] == found.psnr[-1] and table.best[name] == found.psnr.max()
        assert table.distance[name] == pytest.approx(abs(found.psnr[-1] - 20))
        clipped = (torch.from_numpy(found.image).clamp(0, 1) - values).double().square().mean()
        assert table.clipped[name] == pytest.approx(-10 * clipped.log10().item(), abs=1e-4)
    assert table.PSNR.nunique() == 2
