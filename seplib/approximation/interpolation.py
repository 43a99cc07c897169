"""From a function to a separable expansion with small ranks: the first step of Theorem 1, made constructive.

:func:`interpolate` finds a Tucker expansion without ever sampling all of a D-dimensional grid, :func:`expand` cuts it to the
ranks of a form as long as the error keeps to a tolerance.
"""

import inspect
import math
from collections.abc import Callable, Sequence

import numpy as np
import scipy.fft
import scipy.linalg
import torch
from torch import Tensor

from seplib.approximation.compression import compress
from seplib.approximation.expansions import (
    FORMS,
    ChebyshevFactor,
    Interval,
    Model,
    nodes,
    place,
    ranks,
    tucker,
    values_at_nodes,
)
from seplib.separable import Tucker
from seplib.tensorops import mode_product

# Entries of the largest core that interpolate() will sample: 160 MB in float64.
CORE = 20_000_000


def expand(
    f: Callable,
    domain: Sequence[Interval],
    eps: float,
    form: str = "CP",
    *,
    max_rank: int = 1500,
    max_degree: int = 16_384,
    seed: int = 0,
) -> Model:
    """Separable Chebyshev expansion with measured sup error below eps and ranks as small as found (Theorem 1, step 1).

    An accurate Tucker expansion is interpolated, then cut to the form's ranks, the cut's tolerance lowered until the error
    at random points and on a coarse grid keeps to eps.

    Args:
        f: as for :func:`interpolate`.
        domain: D >= 2 intervals (a, b).
        eps: bound on the measured error.
        form: "CP", "TT" or "Tucker".
        max_rank: largest rank; needing more is an error.
        max_degree: largest degree; needing more is an error.
        seed: of the random points.

    Raises:
        ValueError: eps not positive, f not finite on the box, an unknown form, or eps out of reach within the limits.
    """
    if not eps > 0 or not math.isfinite(eps):
        raise ValueError(f"eps must be positive and finite, got {eps}")
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
    check = Check(f, domain, seed)
    rounding = 256 * torch.finfo(torch.float64).eps * check.wanted.abs().max().item()
    if eps < rounding:
        raise ValueError(f"an error of {eps:g} is out of reach in float64, where f alone is rounded by {rounding:.0e}")
    tolerance, best, anchors = eps / 2, math.inf, check.X[:0]
    while True:
        full = interpolate(f, domain, tolerance, anchors=anchors, max_degree=max_degree, seed=seed)
        error, worst = check.error(full)
        best = min(best, error)
        if error < 0.8 * eps:
            break
        # Either the fibres missed a feature of f, or they were cut too early.
        anchors, tolerance = torch.cat([anchors, worst[None]]), tolerance / 1.5
        if len(anchors) > 40:
            raise ValueError(
                f"an error of {eps:g} is out of reach: the Chebyshev expansion stays at an error of {best:.1e}"
            )
    tolerance = eps * 2
    while True:
        g = compress(full, form, tolerance)
        error, _ = check.error(g)
        if max(ranks(g)) > max_rank:
            raise ValueError(
                f"an error of {eps:g} is out of reach with ranks up to {max_rank}: {name(g)} are needed to come to {error:.1e}"
            )
        if error < 0.95 * eps:
            return g
        tolerance /= 1.5


def interpolate(
    f: Callable,
    domain: Sequence[Interval],
    tolerance: float,
    *,
    anchors: Tensor | None = None,
    max_degree: int = 16_384,
    seed: int = 0,
) -> Tucker:
    """Tucker expansion of a function in Chebyshev series by cross interpolation (Theorem 1, step 1 made constructive).

    For each dimension, fibres through random points of the others are interpolated at Chebyshev nodes, the degree
    doubling until the coefficients behind it sum up to less than the tolerance; an SVD of the fibres gives a basis of
    ``R_d`` series, pivoted QR as many nodes, and f on the product of those nodes gives the core. Nothing of size
    ``n^D`` is formed; f is asked ``sum_d n_d S + prod_d R_d`` times, S being twice the rank or more.

    Args:
        f: vectorised, real-valued: of D arguments ``(N,)`` or of one argument ``(N, D)``; float64 tensors.
        domain: D >= 2 intervals (a, b).
        tolerance: what the neglected coefficients of a fibre may sum up to.
        anchors: ``(K, D)`` points through which fibres are taken beside the random ones.
        max_degree: largest degree tried.
        seed: of the random fibres.

    Returns:
        Tucker model with :class:`seplib.approximation.expansions.ChebyshevFactor` factors whose coefficient vectors are orthonormal.

    Raises:
        ValueError: not D >= 2 finite intervals, f not finite or not vectorised, or a degree or a core that is too large.
    """
    ask, D = evaluator(f, domain), len(domain)
    generator = np.random.default_rng(seed)
    known = np.empty((0, D)) if anchors is None else anchors.numpy()
    bases, places = [], []
    for d in range(D):
        coefficients = _fibres(ask, domain, d, tolerance, known, max_degree, generator)
        U, s, _ = np.linalg.svd(coefficients, full_matrices=False)
        # One fibre's share in the sum over all; small enough to leave the cutting to compress().
        keep = max(1, int((s > 1e-2 * tolerance).sum()), int(s[0] == 0))
        n = len(coefficients)
        values = values_at_nodes(U[:, :keep], n)
        pivots = scipy.linalg.qr(values.T, pivoting=True, mode="r")[1][:keep]
        bases.append((U[:, :keep], values[pivots]))
        places.append(place(nodes(n).numpy()[pivots], domain[d]))
    ranks = [len(x) for x in places]
    if math.prod(ranks) > CORE:
        raise ValueError(f"f has multilinear ranks {tuple(ranks)} at this accuracy, a core of more than {CORE} entries")
    core = ask(torch.cartesian_prod(*(torch.from_numpy(x) for x in places))).reshape(1, *ranks)
    for d, (_, values) in enumerate(bases):
        core = mode_product(core, torch.from_numpy(np.linalg.inv(values)), d)
    factors = [ChebyshevFactor(torch.from_numpy(U.copy()), tuple(i)) for (U, _), i in zip(bases, domain)]
    return tucker(factors, core)


def _fibres(ask, domain, d, tolerance, known, max_degree, generator) -> np.ndarray:
    """Chebyshev coefficients (degree + 1, samples) of f along dimension d, at known and enough random other points."""
    degree, samples = min(16, max_degree), 32
    while True:
        # Crowded towards the ends as Chebyshev nodes are: fibres at the faces differ most from the others.
        t = np.cos(np.pi * generator.random((samples, len(domain))))
        X = np.stack([place(x, interval) for x, interval in zip(t.T, domain)], -1)
        X = np.concatenate([known, X])
        X = np.repeat(X[None], degree + 1, 0)
        X[..., d] = place(nodes(degree + 1).numpy(), domain[d])[:, None]
        values = ask(torch.from_numpy(X.reshape(-1, len(domain)))).numpy().reshape(degree + 1, -1)
        coefficients = scipy.fft.dct(values, axis=0) / (degree + 1)
        coefficients[0] /= 2
        tails = np.abs(coefficients)[::-1].cumsum(0)[::-1].max(1)  # what is lost by cutting at each order
        length = max(1, int((tails > tolerance).sum()))
        if length > degree // 2 + 1:
            if degree >= max_degree:
                raise ValueError(
                    f"f needs a degree above {max_degree} in dimension {d + 1}: cut at {degree // 2}, its Chebyshev "
                    f"coefficients still lose {tails[degree // 2]:.1e}, more than {tolerance:.1e}"
                )
            degree = min(2 * degree, max_degree)
            continue
        singular = np.linalg.svd(coefficients[:length], compute_uv=False)
        if 2 * (singular > 1e-2 * tolerance).sum() <= values.shape[1] or samples >= 4 * length:
            return coefficients[:length]
        samples *= 2


def evaluator(f: Callable, domain: Sequence[Interval]) -> Callable[[Tensor], Tensor]:
    """A function as ``(N, D) -> (N,)``, checked at every call (Theorem 1: f is real and continuous on a compact box).

    Args:
        f: of D arguments ``(N,)`` or of one argument ``(N, D)``; arguments with a default do not count.
        domain: D >= 2 intervals (a, b).

    Raises:
        ValueError: not D >= 2 finite intervals; on a call, a result of the wrong shape or with a value that is not real or
            not finite.

    >>> evaluator(lambda x, y: x * y, [(0, 1), (0, 2)])(torch.tensor([[0.5, 2.0]], dtype=torch.float64))
    tensor([1.], dtype=torch.float64)
    """
    if len(domain) < 2:
        raise ValueError(f"the domain must have at least 2 intervals, got {len(domain)}")
    for interval in domain:
        if len(interval) != 2 or not -math.inf < interval[0] < interval[1] < math.inf:
            raise ValueError(f"each interval must be (a, b) with finite a < b, got {interval}")
    try:
        parameters = [p for p in inspect.signature(f).parameters.values() if p.default is p.empty]
        apart = len(parameters) != 1 or any(p.kind == p.VAR_POSITIONAL for p in parameters)
    except ValueError:  # a builtin without a signature, such as torch.hypot
        apart = True

    def ask(X: Tensor) -> Tensor:
        values = torch.as_tensor(f(*X.unbind(1)) if apart else f(X)).detach()
        if values.is_complex():
            raise ValueError(f"f must have real values, got {values.dtype}")
        if values.shape != X.shape[:1]:
            raise ValueError(f"f must map {len(X)} points to {len(X)} values, got shape {tuple(values.shape)}")
        if not (finite := torch.isfinite(values)).all():
            where = X[~finite][0].tolist()
            raise ValueError(f"f must be finite on the box, but f({', '.join(f'{x:.6g}' for x in where)}) is not")
        return values.to(X)

    return ask


def random_points(domain: Sequence[Interval], count: int, generator: torch.Generator) -> Tensor:
    """Points ``(count, D)`` spread evenly over the box of Theorem 1."""
    low, high = torch.tensor(domain, dtype=torch.float64).T
    return low + (high - low) * torch.rand(count, len(domain), dtype=torch.float64, generator=generator)


def name(g: Model) -> str:
    """Form and ranks in words, for messages (Eqs. (2) and (3))."""
    return f"{type(g).__name__} rank{'s' if len(ranks(g)) > 1 else ''} {', '.join(map(str, ranks(g)))}"


class Check:
    """Values of f at random points and on a coarse grid with ends and middles, to compare expansions with (Theorem 1)."""

    def __init__(self, f: Callable, domain: Sequence[Interval], seed: int):
        ask = evaluator(f, domain)
        side = max(3, int(20_000 ** (1 / len(domain))) // 2 * 2 + 1)
        self.axes = [torch.linspace(a, b, side, dtype=torch.float64) for a, b in domain]
        self.X = random_points(domain, 4_000, torch.Generator().manual_seed(seed))
        self.places = torch.cat([torch.cartesian_prod(*self.axes), self.X])
        self.wanted = ask(self.places)

    def error(self, g: Model) -> tuple[float, Tensor]:
        """Largest error, and the point where it is."""
        with torch.no_grad():
            errors = (torch.cat([g.grid(self.axes).flatten(), g.points(self.X)[0]]) - self.wanted).abs()
        return errors.max().item(), self.places[errors.argmax()]
