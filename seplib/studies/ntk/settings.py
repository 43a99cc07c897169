"""What the notebooks on the tangent kernel can be told (Lemmas 1 and 3, Theorems 2 and 3, Corollary 1, Eqs. (5) and (10))."""

from dataclasses import dataclass


@dataclass(frozen=True)
class NtkExactSettings:
    """Exact kernels, the grid's operator and the pseudo-NTK (Lemmas 1 and 3, Eq. (10)).

    Attributes:
        width, rank, depth: of the networks whose kernels are compared with the Jacobians' product; depth of the deep ones.
        points: number of scattered points.
        spectrum_side: points per axis of the grid whose spectrum is computed.
        spectrum_size: W = R of that network, SIREN with three layers.
        top: number of its eigenvalues.
        activation: of the networks of the pseudo-NTK's sweep, two layers as in Theorem 2.
        side: points per axis of that sweep's grid.
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
        side: points per axis of the grid on [-1, 1]^2.
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


SMOKE = dict(
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
)
PAPER = dict(
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
)
