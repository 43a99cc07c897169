"""What the notebooks on preconditioning can be told (Secs. 4, A.1, A.2 and A.12)."""

from dataclasses import dataclass


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
        sizes: n by number of dimensions D, for the preconditioners.
        epoch_sizes: the same for the epochs of SepNN and MLP.
        rank, width, k: of the network and the preconditioners, fixed while n grows.
        batches: number of mini-batches p of IGA.
        repeats: timed repetitions, the least counts.
    """

    sizes: dict[int, tuple[int, ...]]
    epoch_sizes: dict[int, tuple[int, ...]]
    rank: int
    width: int
    k: int
    batches: int
    repeats: int


SMOKE = dict(
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
        sizes={2: (6, 8, 12, 16), 3: (4, 5, 6, 7)},
        epoch_sizes={2: (16, 32, 64), 3: (6, 9, 12)},
        rank=8,
        width=16,
        k=4,
        batches=4,
        repeats=1,
    ),
)
PAPER = dict(
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
        sizes={2: (12, 16, 24, 32, 44), 3: (5, 6, 8, 10, 12)},
        epoch_sizes={2: (64, 128, 256, 512), 3: (16, 24, 32, 48, 64)},
        rank=100,
        width=200,
        k=5,
        batches=4,
        repeats=3,
    ),
)
