"""What the approximation notebooks can be told (Theorem 1, Sec. A.1.2)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ApproximationSettings:
    """Networks constructed for given functions (Theorem 1).

    Attributes:
        functions: names in :data:`seplib.studies.approximation.gallery.FUNCTIONS`.
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
        size: grid points per axis for training.
        iterations: of Adam.
        seeds: number of seeds.
    """

    ranks: tuple[int, ...]
    trained_ranks: tuple[int, ...]
    size: int
    iterations: int
    seeds: int


SMOKE = dict(
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
)
PAPER = dict(
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
)
