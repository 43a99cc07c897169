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
class NtkExactSettings:
    """Exact kernels, the grid's operator and the pseudo-NTK (Lemmas 1 and 3, Eq. (10)).

    Attributes:
        width, rank, depth: of the networks whose kernels are compared with the Jacobians' product; depth of the deep ones.
        points: number of scattered points.
        spectrum_side: points an axis of the grid whose spectrum is computed.
        spectrum_size: W = R of that network, SIREN with three layers.
        top: number of its eigenvalues.
        activation: of the networks of the pseudo-NTK's sweep, two layers as in Theorem 2.
        side: points an axis of that sweep's grid.
        seeds: number of seeds, counted from the notebook's ``seed``.
        widths: the sweep's W.
        pseudo_rank: its fixed R, that of Fig. 1(a).
    """

    width: int
    rank: int
    depth: int
    points: int
    spectrum_side: int
    spectrum_size: int
    top: int
    activation: str
    side: int
    seeds: int
    widths: tuple[int, ...]
    pseudo_rank: int


@dataclass(frozen=True)
class NtkLimitsSettings:
    """Kernels at initialization and their limits (Theorem 2, Corollary 1, Fig. 1(a), (b)).

    Attributes:
        activation: the paper does not name Fig. 1's.
        side: points an axis of the grid on [-1, 1]^2.
        seeds: number of seeds, counted from the notebook's ``seed``; the paper's ten.
        sizes: W = R.
        rank: fixed R of Fig. 1(a), the paper's 50.
        widths: W of the spread at fixed R.
        ranks, rank_width: R of the spread at fixed W, and that W.
        copies: independent networks behind each spread.
        test_rank, test_width: R and W of the networks whose kernel entries are compared with draws of the limit.
        samples: number of those networks, and of the draws.
    """

    activation: str
    side: int
    seeds: int
    sizes: tuple[int, ...]
    rank: int
    widths: tuple[int, ...]
    ranks: tuple[int, ...]
    rank_width: int
    copies: int
    test_rank: int
    test_width: int
    samples: int


@dataclass(frozen=True)
class NtkTrainingSettings:
    """Kernels in training, decay of modes, spectra (Theorem 3, Eq. (5), Fig. 1(c), (d)).

    Attributes:
        activation, side, seeds: as for :class:`NtkLimitsSettings`.
        sizes: W = R of the drift.
        step, iterations: of plain gradient descent; the paper's 100 steps, their size is not stated.
        decay_activation, decay_omega, decay_side: network and grid of the mode decay. A frequency above 1 brings
            the top eigenvalues so close together that all of them can be seen fall in one run.
        decay_size: W = R.
        decay_seeds: number of seeds.
        decay_step: step times the largest eigenvalue.
        modes: number of modes.
        amplitude: root mean square of the initial residual; 0.5 is the standard deviation of the network's own output.
        spectrum_size: W = R of the spectra.
        others: further activations with their omega.
    """

    activation: str
    side: int
    seeds: int
    sizes: tuple[int, ...]
    step: float
    iterations: int
    decay_activation: str
    decay_omega: float
    decay_side: int
    decay_size: int
    decay_seeds: int
    decay_step: float
    modes: int
    amplitude: float
    spectrum_size: int
    others: tuple[tuple[str, float], ...]


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
class RidgeSettings:
    """Kernel ridge regression on gradient features (Sec. A.12, Figs. 2(a) and 5).

    Attributes:
        seeds: number of seeds, counted from the notebook's ``seed``.
        points: n of the n x n training and test grids.
        rank, width, depth: R, W and L of the ReLU networks.
        k_seppgd, k_msk: modulated eigenvalues.
        update_every: iterations between two updates; here an accounting matter, the kernel stays fixed.
        learning_rate, weight_decay: of Adam; the decay is the ridge gamma of Eq. (15).
        noise: standard deviation on the training values of the noisy cases.
        iterations: of the separable methods; the time of as many plain SepNN steps is the budget, which A.12 leaves open.
        mlp_iterations: of the MLP, whose steps cost more.
        every: iterations between two measurements of the test error.
        timed: turns that each method takes when the time of a step is measured.
    """

    seeds: int
    points: int
    rank: int
    width: int
    depth: int
    k_seppgd: int
    k_msk: int
    update_every: int
    learning_rate: float
    weight_decay: float
    noise: float
    iterations: int
    mlp_iterations: int
    every: int
    timed: int


@dataclass(frozen=True)
class ScatteredSettings:
    """Functions at random points (Sec. A.2, Table 9), with the settings of A.12's small images where A.2 states none.

    Attributes:
        seeds: number of seeds, counted from the notebook's ``seed``.
        points, tested: number of training and test points in [-1, 1]^2.
        rank, width, depth, omega: of the SIREN factors.
        k_seppgd, k_msk: modulated eigenvalues.
        update_every: iterations between preconditioner updates.
        learning_rate: of Adam, no weight decay.
        iterations: number of updates, not stated in the paper.
        every: iterations between two measurements.
    """

    seeds: int
    points: int
    tested: int
    rank: int
    width: int
    depth: int
    omega: float
    k_seppgd: int
    k_msk: int
    update_every: int
    learning_rate: float
    iterations: int
    every: int


@dataclass(frozen=True)
class SpectrumSettings:
    """Spectra of preconditioned kernels (Secs. 4 and A.1.2).

    Attributes:
        instances: number of random small networks.
        points: n of the grid of the larger example.
        rank, width: of the larger example.
        k: modulated eigenvalues of SepPGD there; ``k**2`` for MSK.
        iterations: training before the spectrum is looked at again.
    """

    instances: int
    points: int
    rank: int
    width: int
    k: int
    iterations: int


@dataclass(frozen=True)
class ComplexitySettings:
    """Cost of the preconditioners against n (Table 1, Remark 4, Sec. A.1.1).

    Attributes:
        sizes: n by number of dimensions D.
        rank, width, k: of the network and the preconditioners, fixed while n grows.
        batches: number of mini-batches p of IGA.
        repeats: timed repetitions, the least counts.
    """

    sizes: dict[int, tuple[int, ...]]
    rank: int
    width: int
    k: int
    batches: int
    repeats: int


@dataclass(frozen=True)
class Profile:
    """Settings of every notebook (Sec. A.12)."""

    image_representation: ImageSettings
    ntk_exact: NtkExactSettings
    ntk_limits: NtkLimitsSettings
    ntk_training: NtkTrainingSettings
    approximation: ApproximationSettings
    approximation_rates: RateSettings
    image_rank: ImageRankSettings
    kernel_ridge: RidgeSettings
    non_grid: ScatteredSettings
    seppgd_spectrum: SpectrumSettings
    complexity: ComplexitySettings


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
        ntk_exact=NtkExactSettings(
            width=8,
            rank=3,
            depth=3,
            points=12,
            spectrum_side=64,
            spectrum_size=64,
            top=50,
            activation="tanh",
            side=6,
            seeds=4,
            widths=(32, 64, 128, 256),
            pseudo_rank=20,
        ),
        ntk_limits=NtkLimitsSettings(
            activation="tanh",
            side=8,
            seeds=10,
            sizes=(16, 32, 64, 128, 256),
            rank=20,
            widths=(32, 64, 128, 256),
            ranks=(2, 4, 8, 16, 32),
            rank_width=256,
            copies=100,
            test_rank=4,
            test_width=256,
            samples=1000,
        ),
        ntk_training=NtkTrainingSettings(
            activation="tanh",
            side=8,
            seeds=4,
            sizes=(16, 32, 64, 128),
            step=0.01,
            iterations=100,
            decay_activation="sine",
            decay_omega=3.0,
            decay_side=6,
            decay_size=128,
            decay_seeds=2,
            decay_step=0.02,
            modes=10,
            amplitude=0.05,
            spectrum_size=128,
            others=(("erf", 1.0), ("gelu", 1.0), ("relu", 1.0), ("sine", 1.0), ("sine", 3.0), ("sine", 10.0)),
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
        kernel_ridge=RidgeSettings(
            seeds=1,
            points=16,
            rank=32,
            width=48,
            depth=3,
            k_seppgd=5,
            k_msk=25,
            update_every=10,
            learning_rate=1e-3,
            weight_decay=1e-4,
            noise=0.01,
            iterations=200,
            mlp_iterations=80,
            every=10,
            timed=3,
        ),
        non_grid=ScatteredSettings(
            seeds=1,
            points=200,
            tested=500,
            rank=48,
            width=48,
            depth=3,
            omega=30.0,
            k_seppgd=10,
            k_msk=25,
            update_every=10,
            learning_rate=3e-4,
            iterations=100,
            every=10,
        ),
        seppgd_spectrum=SpectrumSettings(instances=200, points=16, rank=32, width=48, k=4, iterations=60),
        complexity=ComplexitySettings(
            sizes={2: (6, 8, 12, 16), 3: (4, 5, 6, 7)}, rank=8, width=16, k=4, batches=4, repeats=1
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
        ntk_exact=NtkExactSettings(
            width=24,
            rank=6,
            depth=4,
            points=40,
            spectrum_side=512,
            spectrum_size=500,
            top=50,
            activation="tanh",
            side=10,
            seeds=10,
            widths=(32, 64, 128, 256, 512, 1024, 2048),
            pseudo_rank=50,
        ),
        ntk_limits=NtkLimitsSettings(
            activation="tanh",
            side=10,
            seeds=10,
            sizes=(16, 32, 64, 128, 256, 512, 1024, 2048),
            rank=50,
            widths=(32, 64, 128, 256, 512, 1024, 2048),
            ranks=(2, 4, 8, 16, 32, 64, 128),
            rank_width=2048,
            copies=400,
            test_rank=8,
            test_width=2048,
            samples=4000,
        ),
        ntk_training=NtkTrainingSettings(
            activation="tanh",
            side=10,
            seeds=10,
            sizes=(16, 32, 64, 128, 256, 512, 1024, 2048),
            step=0.01,
            iterations=100,
            decay_activation="sine",
            decay_omega=3.0,
            decay_side=8,
            decay_size=2048,
            decay_seeds=3,
            decay_step=0.01,
            modes=20,
            amplitude=0.5,
            spectrum_size=1024,
            others=(("erf", 1.0), ("gelu", 1.0), ("relu", 1.0), ("sine", 1.0), ("sine", 3.0), ("sine", 10.0)),
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
        kernel_ridge=RidgeSettings(
            seeds=5,
            points=30,
            rank=100,
            width=200,
            depth=3,
            k_seppgd=5,
            k_msk=25,
            update_every=10,
            learning_rate=1e-3,
            weight_decay=1e-4,
            noise=0.01,
            iterations=2000,
            mlp_iterations=300,
            every=10,
            timed=40,
        ),
        non_grid=ScatteredSettings(
            seeds=5,
            points=500,
            tested=2000,
            rank=150,
            width=150,
            depth=3,
            omega=30.0,
            k_seppgd=10,
            k_msk=25,
            update_every=10,
            learning_rate=1e-4,
            iterations=300,
            every=10,
        ),
        seppgd_spectrum=SpectrumSettings(instances=200, points=30, rank=100, width=200, k=5, iterations=500),
        complexity=ComplexitySettings(
            sizes={2: (12, 16, 24, 32, 44), 3: (5, 6, 8, 10, 12)}, rank=100, width=200, k=5, batches=4, repeats=3
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
