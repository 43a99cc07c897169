"""What a profile means, notebook by notebook: the one place for experimental settings.

``smoke`` runs the whole book on two CPU cores in minutes; ``paper`` holds the settings of Sec. A.12. Each module has the frozen
dataclasses of its notebooks and their values in both profiles.
"""

from dataclasses import dataclass

import torch

from seplib.studies.approximation import settings as approximation
from seplib.studies.images import settings as images
from seplib.studies.images import studies as image_studies
from seplib.studies.ntk import settings as kernels
from seplib.studies.pde import settings as equations
from seplib.studies.seppgd import settings as preconditioning
from seplib.studies.surface import settings as surfaces

DEVICES = "auto, cpu, cuda, cuda:1, mps, xpu or whatever else torch finds"


@dataclass(frozen=True)
class Profile:
    """Settings of every notebook."""

    image_representation: images.ImageSettings
    ntk_exact: kernels.NtkExactSettings
    ntk_limits: kernels.NtkLimitsSettings
    ntk_training: kernels.NtkTrainingSettings
    approximation: approximation.ApproximationSettings
    approximation_rates: approximation.RateSettings
    image_rank: images.ImageRankSettings
    image_inpainting: images.InpaintingSettings
    image_convergence: images.ConvergenceSettings
    image_settings: image_studies.ReadingSettings
    image_sensitivity: image_studies.SensitivitySettings
    image_dynamics: image_studies.DynamicsSettings
    image_noise: image_studies.NoiseSettings
    image_optimizer: image_studies.OptimizerSettings
    kernel_ridge: preconditioning.RidgeSettings
    non_grid: preconditioning.ScatteredSettings
    seppgd_spectrum: preconditioning.SpectrumSettings
    complexity: preconditioning.ComplexitySettings
    surface: surfaces.SurfaceStudySettings
    pde: equations.EquationSettings


_GROUPS = (images, image_studies, kernels, approximation, preconditioning, surfaces, equations)
_PROFILES = {
    "smoke": Profile(**{name: value for group in _GROUPS for name, value in group.SMOKE.items()}),
    "paper": Profile(**{name: value for group in _GROUPS for name, value in group.PAPER.items()}),
}

NAMES = tuple(_PROFILES)


def get(name: str) -> Profile:
    """Settings of a profile by name.

    Raises:
        ValueError: no such profile.

    >>> get("paper").image_representation.k
    70
    """
    if name not in _PROFILES:
        raise ValueError(f"profile must be one of {', '.join(NAMES)}, got {name!r}")
    return _PROFILES[name]


def resolve_device(name: str) -> torch.device:
    """Device by name; one with a number becomes torch's current one, so that its type alone then stands for it.

    Args:
        name: ``"auto"``, CUDA where there is one, else the CPU; or any device that torch finds here.

    Raises:
        ValueError: a name that torch does not know, or a device that is not there.

    >>> resolve_device("cpu")
    device(type='cpu')
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        module = torch.get_device_module(device)
    except RuntimeError:
        raise ValueError(f"device must be one of {DEVICES}, got {name!r}") from None
    if not module.is_available() or (device.index or 0) >= module.device_count():
        raise ValueError(f"device {name!r} was asked for, but torch finds none here; use 'cpu' or 'auto'")
    if device.index is not None and device.type != "cpu":
        torch.accelerator.set_device_index(device.index)
    return device


def check_seed(seed: int) -> int:
    """The seed, if torch's generators take it.

    Raises:
        ValueError: negative, or 2^63 and more.
    """
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed must be between 0 and 2^63 - 1, got {seed}")
    return seed
