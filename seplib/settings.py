"""What each notebook can be told: one frozen dataclass a notebook, values in :mod:`seplib.profiles` (Sec. A.12)."""

from dataclasses import dataclass
from typing import Any


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
        activation, parametrization: of the factors, see :class:`seplib.FactorMLP`.
        scale: "rank" for the factor 1/sqrt(R), None for none, see :class:`seplib.CP`.
        low: the axes run from here to 1.
        features, frequency: number of Fourier features and their scale in cycles a unit; none if 0.
        g: modulation function, "flat" or "sqrt".
        eps: Adam's epsilon. The loss is a sum of squares over N pixels; their mean instead is the same training with an
            epsilon N / 2 times as large.
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
    activation: str = "sine"
    parametrization: str = "siren"
    scale: str | None = "rank"
    low: float = -1.0
    features: int = 0
    frequency: float = 0.0
    g: str = "flat"
    eps: float = 1e-8


@dataclass(frozen=True)
class ReadingSettings:
    """What Sec. A.12 leaves open of the image experiment (Tables 2-7).

    Attributes:
        run: the reading of reference.
        readings: name to what it changes.
    """

    run: ImageSettings
    readings: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class SensitivitySettings:
    """One setting of the image experiment varied at a time (Secs. A.1.4 and A.1.5, Tables 2-7).

    Attributes:
        run: what is not varied.
        ks: modulated eigenvalues (Table 2; all but the last again in Table 3).
        ranks, periods, widths: R (Table 3), iterations between two preconditioners (Table 4), W (Table 6).
        noises: standard deviations (Table 7).
        features, frequency: number of Fourier features and their scale in cycles a unit (Table 5), not stated in the paper.
    """

    run: ImageSettings
    ks: tuple[int, ...]
    ranks: tuple[int, ...]
    periods: tuple[int, ...]
    widths: tuple[int, ...]
    noises: tuple[float, ...]
    features: int
    frequency: float


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
