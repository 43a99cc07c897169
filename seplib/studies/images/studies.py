"""What the notebooks that study the image experiment can be told: its open settings, one setting at a time, its runs from inside, noise, its optimizer (Tables 2-7)."""

from dataclasses import dataclass, replace
from typing import Any

from seplib.studies.images.settings import FULL, SMALL, ImageSettings


@dataclass(frozen=True)
class ReadingSettings:
    """What Sec. A.12 leaves open of the image experiment (Tables 2-7).

    Attributes:
        run: SIREN as its authors use it.
        readings: name to what it changes of ``run``.
        frozen: the reading that is used everywhere.
        encodings: name to what it changes of ``frozen``, for the Fourier features of Table 5.
    """

    run: ImageSettings
    readings: dict[str, dict[str, Any]]
    frozen: ImageSettings
    encodings: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class SensitivitySettings:
    """One setting of the image experiment varied at a time (Secs. A.1.4 and A.1.5, Tables 2-7).

    Attributes:
        run: what is not varied; its seeds are those of the cells where nothing is.
        ks: modulated eigenvalues (Table 2; all but the last again in Table 3).
        ranks, periods, widths: R (Table 3), iterations between two preconditioners (Table 4), W (Table 6).
        noises: standard deviations (Table 7).
        features, frequency: number of Fourier features and their scale in cycles per unit (Table 5), not stated in the paper.
        relu_ks: modulated eigenvalues that are tried with ReLU.
    """

    run: ImageSettings
    ks: tuple[int, ...]
    ranks: tuple[int, ...]
    periods: tuple[int, ...]
    widths: tuple[int, ...]
    noises: tuple[float, ...]
    features: int
    frequency: float
    relu_ks: tuple[int, ...]


@dataclass(frozen=True)
class DynamicsSettings:
    """Image runs looked at from inside (Sec. A.1.4: what Table 2 leaves unexplained).

    Attributes:
        run: the image, the seed and what is not varied.
        variants: name of a run to its method and what it changes.
        every, products: see :func:`seplib.studies.images.beyond.stability.course`.
        ks: modulated eigenvalues of the runs with g_1, with g_2 and with its variant in units of lambda_k.
    """

    run: ImageSettings
    variants: dict[str, tuple[str, dict[str, Any]]]
    every: int
    products: int
    ks: tuple[int, ...]


@dataclass(frozen=True)
class NoiseSettings:
    """Noisy images, stopped or smoothed (Sec. A.1.5: what Table 7 leaves to later work).

    Attributes:
        run: the image and its training.
        noises: standard deviations.
    """

    run: ImageSettings
    noises: tuple[float, ...]


@dataclass(frozen=True)
class OptimizerSettings:
    """How much of SepPGD's gain hangs on Adam's settings (Sec. A.12 states the learning rate and nothing else).

    Attributes:
        run: images, seeds and Adam as usual.
        short: the other averaging rate of Adam's second moments.
        rates: learning rates that are tried on the first image.
        restarts: updates after which Adam forgets, a run each, see :class:`seplib.studies.images.settings.ImageSettings`.
        periods: iterations between two preconditioners; one as long as the run leaves it with the first.
    """

    run: ImageSettings
    short: float
    rates: tuple[float, ...]
    restarts: tuple[int, ...]
    periods: tuple[int, ...]


# Readings of what Sec. A.12 leaves open. The mean of the squares in place of their sum is a larger epsilon.
_READINGS: dict[str, dict[str, Any]] = {
    "w0 = 30, as SIREN's authors": {},
    "without 1/sqrt(R)": {"scale": None},
    "w0 = 20": {"omega": 20.0},
    "w0 = 40": {"omega": 40.0},
    "w0 = 60": {"omega": 60.0},
    "axes in [0, 1]": {"low": 0.0},
    "PyTorch's initial weights": {"parametrization": "torch"},
    "PyTorch's initial weights in the last layer": {"last": "torch"},
    "mean in place of sum": {"eps": 1e-8 * 512**2 / 2},
    "mean, without 1/sqrt(R)": {"eps": 1e-8 * 512**2 / 2, "scale": None},
}

# Number of Fourier features and their scale in cycles per unit, two units to an axis: not stated in the paper either.
_FEATURES = 256
_ENCODINGS: dict[str, dict[str, Any]] = {
    f"{scale:g} cycles a unit": {
        "activation": "relu", "parametrization": "torch", "features": _FEATURES, "frequency": scale
    }
    for scale in (5.0, 10.0, 20.0, 40.0, 80.0)
}  # fmt: skip

_VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "SepNN": ("SepNN", {}),
    "SepPGD": ("SepPGD", {}),
    "SepPGD, AMSGrad": ("SepPGD", {"amsgrad": True}),
    "SepPGD, falling rate": ("SepPGD", {"decay": 0.2}),
    "SepNN, beta2 0.95": ("SepNN", {"beta2": 0.95}),
    "SepPGD, beta2 0.95": ("SepPGD", {"beta2": 0.95}),
}

SMOKE = dict(
    image_settings=ReadingSettings(
        run=replace(
            SMALL, images=("astronaut",), size=32, seeds=(1,), rank=24, width=24, omega=30.0, k=8, iterations=60
        ),
        readings=_READINGS,
        frozen=replace(SMALL, images=("astronaut",), size=32, seeds=(1,), rank=24, width=24, k=8, iterations=60),
        encodings=_ENCODINGS,
    ),
    image_sensitivity=SensitivitySettings(
        run=replace(SMALL, images=("astronaut",), size=32, seeds=(2,), rank=24, width=24, k=8, iterations=60),
        ks=(4, 8, 12),
        ranks=(12, 36),
        periods=(10, 30),
        widths=(16, 32),
        noises=(0.03, 0.09),
        features=16,
        frequency=5.0,
        relu_ks=(2, 8),
    ),
    image_dynamics=DynamicsSettings(
        run=replace(SMALL, images=("astronaut",), size=48, seeds=(1,), rank=48, width=48, k=12, iterations=100),
        variants=_VARIANTS,
        every=25,
        products=10,
        ks=(4, 8, 12),
    ),
    image_noise=NoiseSettings(
        run=replace(SMALL, images=("astronaut",), size=48, seeds=(1,), rank=48, width=48, k=12, iterations=200),
        noises=(0.09,),
    ),
    image_optimizer=OptimizerSettings(
        # As long as rounding stays rounding: by 200 updates, or at twice the rate, two processors differ by up to 0.2 dB.
        run=replace(SMALL, size=48, seeds=(2, 1), rank=48, width=48, k=12, iterations=100),
        short=0.95,
        rates=(2.5e-4, 5e-4),
        restarts=(10, 50),
        periods=(10, 25, 75, 100),
    ),
)
PAPER = dict(
    image_settings=ReadingSettings(
        run=replace(FULL, images=("plane",), seeds=(1,), omega=30.0),
        readings=_READINGS,
        frozen=replace(FULL, images=("plane",), seeds=(1,)),
        encodings=_ENCODINGS,
    ),
    image_sensitivity=SensitivitySettings(
        run=replace(FULL, images=("plane",), seeds=(3,)),
        ks=(30, 40, 50, 60, 70, 80, 90, 100),
        ranks=(100, 200, 300, 400, 500, 600, 700),
        periods=(10, 100, 300, 500, 700, 900, 1100),
        widths=(100, 200, 300, 400, 500, 600, 700),
        noises=(0.01, 0.03, 0.05, 0.07, 0.09),
        features=_FEATURES,
        frequency=20.0,
        relu_ks=(10, 30, 70),
    ),
    image_dynamics=DynamicsSettings(
        run=replace(FULL, images=("plane",), seeds=(1,)),
        variants=_VARIANTS,
        every=100,
        products=20,
        ks=(30, 40, 50, 60, 70, 80, 90, 100),
    ),
    image_noise=NoiseSettings(run=replace(FULL, images=("plane",), seeds=(1,)), noises=(0.05, 0.09)),
    image_optimizer=OptimizerSettings(
        run=FULL, short=0.95, rates=(1e-4, 3e-4), restarts=(100, 650), periods=(10, 300, 900, 1100, 1300)
    ),
)
