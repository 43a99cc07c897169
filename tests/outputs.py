"""What a network gives after a run, neither clipped nor rounded as the stored picture is."""

import torch

from seplib.studies.images.fitting import train_image
from seplib.studies.images.setups import run_arguments


def output(target, method, settings, seed, mask=None, reference=None):
    """``(3, H, W)`` after the last update of :func:`seplib.studies.images.fitting.fit_image` with these arguments."""
    return train_image(**run_arguments(target, method, settings, seed, torch.device("cpu"), mask, reference))[1]
