"""What a profile means, notebook by notebook: the one place for experimental settings (Sec. A.12).

``smoke`` runs the whole book on two CPU cores in minutes; ``paper`` holds the settings of Sec. A.12.
"""

from dataclasses import dataclass

import torch

DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class ImageSettings:
    """Image representation with a CP network on a full grid (Sec. A.12, Figs. 3 and 7-9).

    Attributes:
        images: names for :func:`seplib.targets.image`.
        size: side length in pixels.
        seeds: number of seeds for each image, counted from the notebook's ``seed``.
        rank, width, depth: R, W and the number of linear layers L.
        omega: frequency w_0 of SIREN; the paper does not state it, 30 is its source's value.
        k: modulated eigenvalues.
        update_every: iterations between preconditioner updates.
        learning_rate: of Adam, no weight decay.
        iterations: number of updates.
    """

    images: tuple[str, ...]
    size: int
    seeds: tuple[int, ...]
    rank: int
    width: int
    depth: int
    omega: float
    k: int
    update_every: int
    learning_rate: float
    iterations: int


@dataclass(frozen=True)
class ApproximationSettings:
    """Networks constructed for given functions (Theorem 1).

    Attributes:
        functions: names in :data:`seplib.gallery.FUNCTIONS`.
        eps: accuracies for every function.
        eps_analytic: accuracies for the analytic ones beside these.
        widths: of the curves of factor error over width.
        polynomial_widths: the same for the polynomial activations.
        mlp_widths: of the two-layer MLPs without separable structure.
    """

    functions: tuple[str, ...]
    eps: tuple[float, ...]
    eps_analytic: tuple[float, ...]
    widths: tuple[int, ...]
    polynomial_widths: tuple[int, ...]
    mlp_widths: tuple[int, ...]


@dataclass(frozen=True)
class RateSettings:
    """Error over rank: bounds, best approximation, training (Sec. A.1.2).

    Attributes:
        ranks: of the curves.
        trained_ranks: of the trained networks.
        size: grid points an axis for training.
        iterations: of Adam.
        seeds: number of seeds.
    """

    ranks: tuple[int, ...]
    trained_ranks: tuple[int, ...]
    size: int
    iterations: int
    seeds: int


@dataclass(frozen=True)
class ImageRankSettings:
    """Images of limited rank (Table 8).

    Attributes:
        data_ranks: ranks the image is truncated to.
        run: image, size and training; ``run.rank`` is the networks' rank.
    """

    data_ranks: tuple[int, ...]
    run: ImageSettings


@dataclass(frozen=True)
class Profile:
    """Settings of every notebook (Sec. A.12)."""

    image_representation: ImageSettings
    approximation: ApproximationSettings
    approximation_rates: RateSettings
    image_rank: ImageRankSettings


_PROFILES = {
    "smoke": Profile(
        image_representation=ImageSettings(
            images=("astronaut", "chelsea"),
            size=96,
            seeds=(1, 1),
            rank=96,
            width=96,
            depth=3,
            omega=30.0,
            k=20,
            update_every=10,
            learning_rate=5e-4,
            iterations=250,
        ),
        approximation=ApproximationSettings(
            functions=("cosine", "ridge-3"),
            eps=(1e-1, 1e-2),
            eps_analytic=(1e-5,),
            widths=(16, 32, 64, 128),
            polynomial_widths=(16, 32, 64, 128),
            mlp_widths=(64, 256),
        ),
        approximation_rates=RateSettings(
            ranks=(1, 2, 3, 4, 6, 8, 12, 16), trained_ranks=(1, 2, 4, 8), size=32, iterations=300, seeds=1
        ),
        image_rank=ImageRankSettings(
            data_ranks=(12, 48),
            run=ImageSettings(
                images=("astronaut",),
                size=64,
                seeds=(1,),
                rank=12,
                width=64,
                depth=3,
                omega=30.0,
                k=20,
                update_every=10,
                learning_rate=5e-4,
                iterations=200,
            ),
        ),
    ),
    "paper": Profile(
        image_representation=ImageSettings(
            images=("plane", "baboon", "peppers"),
            size=512,
            seeds=(3, 1, 1),  # the spread is taken on Plane, whose gain the claim puts a number on
            rank=500,
            width=500,
            depth=3,
            omega=30.0,
            k=70,
            update_every=10,
            learning_rate=1e-4,
            iterations=1300,
        ),
        approximation=ApproximationSettings(
            functions=(
                "cosine",
                "wave",
                "front",
                "crease",
                "bump-3",
                "ridge-3",
                "creases-3",
                "ridge-4",
                "wave-4",
                "sum-6",
            ),
            eps=(1e-1, 1e-2, 1e-3),
            eps_analytic=(1e-5,),
            widths=(8, 16, 32, 64, 128, 256, 512),
            polynomial_widths=(8, 16, 32, 64, 128, 256, 512),
            mlp_widths=(64, 128, 256, 512, 1024),
        ),
        approximation_rates=RateSettings(
            ranks=(1, 2, 3, 4, 6, 8, 12, 16, 24, 32), trained_ranks=(1, 2, 4, 8, 16), size=64, iterations=3000, seeds=3
        ),
        image_rank=ImageRankSettings(
            data_ranks=(100, 200, 300, 400, 500),
            run=ImageSettings(
                images=("plane",),
                size=512,
                seeds=(1,),
                rank=100,
                width=500,
                depth=3,
                omega=30.0,
                k=70,
                update_every=10,
                learning_rate=1e-4,
                iterations=1300,
            ),
        ),
    ),
}

NAMES = tuple(_PROFILES)


def get(name: str) -> Profile:
    """Settings of a profile by name (Sec. A.12).

    Raises:
        ValueError: no such profile.

    >>> get("paper").image_representation.k
    70
    """
    if name not in _PROFILES:
        raise ValueError(f"profile must be one of {', '.join(NAMES)}, got {name!r}")
    return _PROFILES[name]


def resolve_device(name: str) -> torch.device:
    """Device for ``"auto"`` (CUDA where there is one), ``"cpu"`` or ``"cuda"`` (Sec. A.12).

    Raises:
        ValueError: an unknown name, or CUDA asked for where there is none.
    """
    if name not in DEVICES:
        raise ValueError(f"device must be one of {', '.join(DEVICES)}, got {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device 'cuda' was asked for, but torch finds no CUDA device here; use 'cpu' or 'auto'")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")
