import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seplib.metrics import error_spectrum, iou, psnr, ssim


def test_psnr_of_known_errors():
    target = torch.zeros(3, 4, 4)
    assert psnr(target + 0.01, target) == pytest.approx(40)
    assert psnr(target + 2.55, target, peak=255) == pytest.approx(40)
    assert psnr(target, target) == math.inf


def test_ssim_is_one_only_for_equal_images():
    g = torch.Generator().manual_seed(0)
    image = torch.rand(3, 16, 16, generator=g)
    assert ssim(image, image) == pytest.approx(1)
    assert ssim((image + 0.2 * torch.randn(3, 16, 16, generator=g)).clamp(0, 1), image) < 0.95


@given(st.integers(8, 20), st.integers(8, 20), st.integers(0, 100))
def test_ring_energies_add_up_to_the_mean_squared_error(height, width, seed):
    g = torch.Generator().manual_seed(seed)
    a, b = torch.rand(2, 3, height, width, generator=g)
    frequency, energy = error_spectrum(a, b)
    assert energy.sum().item() == pytest.approx((a - b).square().mean().item())
    assert frequency.min() > 0 and frequency.max() < math.sqrt(0.5)


@pytest.mark.parametrize("cycles", [0, 3, 8])
def test_a_wave_lands_in_its_ring(cycles):
    n = 32
    x = torch.arange(n) / n
    wave = torch.cos(2 * math.pi * cycles * x).expand(1, n, n)
    frequency, energy = error_spectrum(wave, torch.zeros(1, n, n))
    ring = energy.argmax()
    assert abs(frequency[ring] - cycles / n) <= 0.5 / (math.sqrt(2) * n / 2) + 1e-9
    assert energy[ring] == pytest.approx(energy.sum().item())


def test_iou_and_relative_error():
    a, b = torch.tensor([0.9, 0.1, 0.7, 0.2]), torch.tensor([1.0, 1.0, 0.0, 0.0])
    assert iou(a, b) == pytest.approx(1 / 3) and iou(b, b) == 1
    assert iou(torch.zeros(3), torch.zeros(3)) == 1
