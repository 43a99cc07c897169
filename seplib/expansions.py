"""Separable expansions: the algebra behind Theorem 1, and how to find a small element of it near a given function.

An expansion is a :class:`seplib.CP`, :class:`seplib.TT` or :class:`seplib.Tucker` model whose factors are any univariate
modules (here Chebyshev series) instead of networks. Sums and products of expansions are expansions of the same form; that
is the closure that the Stone-Weierstrass theorem asks for. :func:`interpolate` finds a Tucker expansion of a function
without ever sampling all of a D-dimensional grid, :func:`compress` turns it into any form with small ranks.
"""

import inspect
import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import scipy.fft
import scipy.linalg
import torch
from jaxtyping import Float
from torch import Tensor, nn

from seplib.separable import CP, TT, Tucker
from seplib.tensorops import mode_product, unfold

FORMS = ("CP", "TT", "Tucker")
Interval = tuple[float, float]
# Entries of the largest core that interpolate() will sample: 160 MB in float64.
CORE = 20_000_000


class ChebyshevFactor(nn.Module):
    """R Chebyshev series on one interval, the ``g_d`` of Theorem 1's proof (Sec. A.5): x -> sum_k c_kr T_k(x).

    Args:
        coefficients: ``(m, R)``, float64.
        interval: ``(a, b)``, mapped to [-1, 1].

    >>> ChebyshevFactor(torch.tensor([[0.0], [0.0], [1.0]]), (0.0, 4.0))(torch.tensor([0.0, 2.0, 4.0])).flatten()
    tensor([ 1., -1.,  1.])
    """

    def __init__(self, coefficients: Float[Tensor, "m R"], interval: Interval):
        super().__init__()
        self.register_buffer("coefficients", coefficients)
        self.interval = interval
        self.ensemble = 1

    @property
    def rank(self) -> int:
        """Number of series, R of Eq. (2)."""
        return self.coefficients.shape[1]

    def forward(self, x: Float[Tensor, " n"]) -> Float[Tensor, "1 n R"]:
        """Values ``(1, n, R)`` (Sec. A.5). Cost: ``2 n m R``; x outside the interval is moved to its end."""
        a, b = self.interval
        angle = torch.arccos(((2 * x - a - b) / (b - a)).clamp(-1, 1))
        orders = torch.arange(len(self.coefficients), dtype=x.dtype, device=x.device)
        return (torch.cos(angle[:, None] * orders) @ self.coefficients)[None]


class _Scaled(nn.Module):
    """A factor times a number."""

    def __init__(self, part: nn.Module, by: float):
        super().__init__()
        self.part, self.by, self.rank, self.ensemble = part, by, part.rank, part.ensemble

    def forward(self, x: Tensor) -> Tensor:
        return self.by * self.part(x)


class _Joined(nn.Module):
    """Two factors as one: block diagonal (sum) or Kronecker (product), each factor read as a matrix a x b."""

    def __init__(self, parts: Sequence[nn.Module], shapes: Sequence[tuple[int, int]], join: Callable):
        super().__init__()
        self.parts, self.shapes, self.join = nn.ModuleList(parts), tuple(shapes), join
        self.ensemble = parts[0].ensemble
        self.rank = join(*(torch.empty(1, 1, *s, device="meta") for s in shapes)).numel()

    def forward(self, x: Tensor) -> Tensor:
        return self.join(*(p(x).unflatten(-1, s) for p, s in zip(self.parts, self.shapes))).flatten(2)


def _kronecker(a: Tensor, b: Tensor) -> Tensor:
    return torch.einsum("enij,enkl->enikjl", a, b).flatten(4, 5).flatten(2, 3)


def _beside(a: Tensor, b: Tensor) -> Tensor:
    return torch.cat([a, b], -1)


def _below(a: Tensor, b: Tensor) -> Tensor:
    return torch.cat([a, b], -2)


def _diagonal(a: Tensor, b: Tensor) -> Tensor:
    return _below(nn.functional.pad(a, (0, b.shape[-1])), nn.functional.pad(b, (a.shape[-1], 0)))


Model = CP | TT | Tucker


def add(g: Model, h: Model) -> Model:
    """Sum of two expansions of one form, in that form: closure under addition (Theorem 1, Sec. A.5).

    Ranks add: ``R_g + R_h`` for CP, ``R_d^g + R_d^h`` for TT (block-diagonal factors) and Tucker (block-diagonal core).

    Raises:
        ValueError: the two are not of one form and one number of dimensions.
    """
    shapes = _matrices(g, h)
    last = len(shapes) - 1
    joins = [_beside if d == 0 or not isinstance(g, TT) else _below if d == last else _diagonal for d in range(last + 1)]
    factors = [_Joined(*pair, join) for pair, join in zip(_pairs(g, h, shapes), joins)]
    if isinstance(g, CP):
        return CP(factors, scale=None)
    if isinstance(g, TT):
        return TT(factors, [r + s for r, s in zip(g.ranks, h.ranks)])
    sizes = g.core.shape[1:]
    core = g.core.new_zeros(g.core.shape[0], *(r + s for r, s in zip(sizes, h.core.shape[1:])))
    core[(slice(None), *map(slice, sizes))] = g.core
    core[(slice(None), *(slice(r, None) for r in sizes))] = h.core
    return tucker(factors, core)


def multiply(g: Model, h: Model) -> Model:
    """Product of two expansions of one form, in that form: closure under multiplication (Theorem 1, Sec. A.5).

    Ranks multiply. The pair (r, s) gets the index ``t = (r - 1) R_h + s``, that of the Kronecker product.

    Raises:
        ValueError: the two are not of one form and one number of dimensions.
    """
    shapes = _matrices(g, h)
    factors = [_Joined(*pair, _kronecker) for pair in _pairs(g, h, shapes)]
    if isinstance(g, CP):
        return CP(factors, scale=None)
    if isinstance(g, TT):
        return TT(factors, [r * s for r, s in zip(g.ranks, h.ranks)])
    cores = [torch.kron(a.detach(), b.detach()) for a, b in zip(g.core, h.core)]
    return tucker(factors, torch.stack(cores))


def scale(g: Model, by: float) -> Model:
    """A number times an expansion, in its form: closure under scalar multiplication (Theorem 1, Sec. A.5)."""
    first, *rest = g.factors
    if isinstance(g, CP):
        return CP([_Scaled(first, by * g.scale), *rest], scale=None)
    return TT([_Scaled(first, by), *rest], g.ranks) if isinstance(g, TT) else tucker(g.factors, by * g.core)


def constant(value: float, domain: Sequence[Interval], form: str) -> Model:
    """A constant as an expansion with all ranks 1: the algebra's unit, times a number (Theorem 1, Sec. A.5).

    Raises:
        ValueError: no such form.

    >>> constant(3.0, [(0, 1), (0, 1)], "TT").points(torch.zeros(1, 2, dtype=torch.float64))
    tensor([[3.]], dtype=torch.float64)
    """
    ones = [ChebyshevFactor(torch.ones(1, 1, dtype=torch.float64), interval) for interval in domain]
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
    if form == "Tucker":
        return tucker(ones, torch.full((1, *[1] * len(ones)), float(value), dtype=torch.float64))
    return scale(CP(ones, scale=None) if form == "CP" else TT(ones, [1] * (len(ones) - 1)), value)


def tucker(factors: Sequence[nn.Module], core: Tensor) -> Tucker:
    """Tucker model with a given core ``(E, R_1, ..., R_D)``, Eq. (3)."""
    model = Tucker(factors, core.shape[1:])
    model.core = nn.Parameter(core.detach(), requires_grad=model.core.requires_grad)
    return model


def _matrices(g: Model, h: Model) -> list[list[tuple[int, int]]]:
    if type(g) is not type(h) or len(g.factors) != len(h.factors):
        names = [f"{type(m).__name__} in {len(m.factors)} dimensions" for m in (g, h)]
        raise ValueError(f"expansions must share form and dimensions, got {names[0]} and {names[1]}")
    if isinstance(g, TT):
        return [list(pair) for pair in zip(*(itertools.pairwise((1, *m.ranks, 1)) for m in (g, h)))]
    return [[(1, a.rank), (1, b.rank)] for a, b in zip(g.factors, h.factors)]


def _pairs(g: Model, h: Model, shapes: list) -> list[tuple[list[nn.Module], list[tuple[int, int]]]]:
    # A CP network's own 1/sqrt(R) goes into its first factor.
    parts = [list((scale(m, 1.0) if isinstance(m, CP) else m).factors) for m in (g, h)]
    return [([a, b], shape) for a, b, shape in zip(*parts, shapes)]


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
        Tucker model with :class:`ChebyshevFactor` factors whose coefficient vectors are orthonormal.

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
        values = _values(U[:, :keep], n)
        pivots = scipy.linalg.qr(values.T, pivoting=True, mode="r")[1][:keep]
        bases.append((U[:, :keep], values[pivots]))
        places.append(place(_nodes(n)[pivots], domain[d]))
    ranks = [len(x) for x in places]
    if math.prod(ranks) > CORE:
        raise ValueError(
            f"f has multilinear ranks {tuple(ranks)} at this accuracy, a core of more than {CORE} entries"
        )
    core = ask(torch.cartesian_prod(*(torch.from_numpy(x) for x in places))).reshape(1, *ranks)
    for d, (_, values) in enumerate(bases):
        core = mode_product(core, torch.from_numpy(np.linalg.inv(values)), d)
    factors = [ChebyshevFactor(torch.from_numpy(U.copy()), tuple(i)) for (U, _), i in zip(bases, domain)]
    return tucker(factors, core)


def _fibres(ask, domain, d, tolerance, known, max_degree, generator) -> np.ndarray:
    """Chebyshev coefficients (degree + 1, samples) of f along dimension d, at known and enough random other points."""
    degree, samples = 16, 32
    while True:
        # Crowded towards the ends as Chebyshev nodes are: fibres at the faces differ most from the others.
        t = np.cos(np.pi * generator.random((samples, len(domain))))
        X = np.stack([place(x, interval) for x, interval in zip(t.T, domain)], -1)
        X = np.concatenate([known, X])
        X = np.repeat(X[None], degree + 1, 0)
        X[..., d] = place(_nodes(degree + 1), domain[d])[:, None]
        values = ask(torch.from_numpy(X.reshape(-1, len(domain)))).numpy().reshape(degree + 1, -1)
        coefficients = scipy.fft.dct(values, axis=0) / (degree + 1)
        coefficients[0] /= 2
        tails = np.abs(coefficients)[::-1].cumsum(0)[::-1].max(1)  # what is lost by cutting at each order
        length = max(1, int((tails > tolerance).sum()))
        if length > degree // 2 + 1:
            degree *= 2
            if degree > max_degree:
                raise ValueError(
                    f"f needs a degree above {max_degree} in dimension {d + 1}: cut at {degree // 4}, its Chebyshev "
                    f"coefficients still lose {tails[degree // 4]:.1e}, more than {tolerance:.1e}"
                )
            continue
        singular = np.linalg.svd(coefficients[:length], compute_uv=False)
        if 2 * (singular > 1e-2 * tolerance).sum() <= values.shape[1] or samples >= 4 * length:
            return coefficients[:length]
        samples *= 2


def _values(coefficients: np.ndarray, n: int) -> np.ndarray:
    """Values (n, R) of the series (m, R) at n >= m Chebyshev nodes, by a fast cosine transform."""
    padded = np.zeros((n, coefficients.shape[1]))
    padded[: len(coefficients)] = coefficients / 2
    padded[0] *= 2
    return scipy.fft.dct(padded, type=3, axis=0)


def at_nodes(series: ChebyshevFactor, n: int) -> Float[Tensor, "n R"]:
    """Values of the series at :func:`nodes` of its interval, n at least the number of coefficients (Sec. A.5).

    >>> at_nodes(ChebyshevFactor(torch.tensor([[0.0], [2.0]]), (0.0, 1.0)), 2).flatten()
    tensor([ 1.4142, -1.4142], dtype=torch.float64)
    """
    return torch.from_numpy(_values(series.coefficients.numpy().astype(float), n))


def nodes(n: int) -> Float[Tensor, " n"]:
    """Chebyshev nodes of the first kind on [-1, 1], the zeros of T_n (Sec. A.5), float64, descending."""
    return torch.from_numpy(_nodes(n))


def _nodes(n: int) -> np.ndarray:
    return np.cos(np.pi * (np.arange(n) + 0.5) / n)


def place(t, interval: Interval):
    """Map numbers (array or tensor) from [-1, 1] to an interval (a, b), the box of Theorem 1."""
    a, b = interval
    return (a + b) / 2 + (b - a) / 2 * t


def compress(g: Tucker, form: str, tolerance: float, max_rank: int | None = None) -> Model:
    """Tucker expansion in any form, its ranks cut to a tolerance (Theorem 1; Eqs. (2) and (3)).

    Tucker: the core's higher-order SVD. TT: the core's TT-SVD, each bond's singular values shared evenly between its two
    sides. CP: the SVD for D = 2; for D > 2 one term for each index of all modes but the one that is left out to make
    the fewest terms, the smallest terms dropped. Each CP term and each Tucker factor is balanced (equal maxima), since
    the error bound of Theorem 1 grows with the largest factor.

    Args:
        g: from :func:`interpolate`.
        form: "CP", "TT" or "Tucker".
        tolerance: error of the cut, in the Euclidean norm of the Chebyshev coefficients.
        max_rank: cut every rank here, whatever the tolerance.

    Raises:
        ValueError: no such form.
    """
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
    D, core = len(g.factors), g.core.detach()
    series = [f.coefficients for f in g.factors]
    rotations = []
    for d in range(D):
        U, s, _ = torch.linalg.svd(unfold(core, d)[0].mT, full_matrices=False)
        keep = _kept(s, tolerance / D**0.5, max_rank if form == "Tucker" else None)
        rotations.append(U[:, :keep])
    for d, U in enumerate(rotations):
        core = mode_product(core, U.mT.contiguous(), d)
    series = [c @ U for c, U in zip(series, rotations)]
    intervals = [f.interval for f in g.factors]
    if form == "Tucker":
        return _balanced_tucker(series, core, intervals)
    if form == "TT" or D == 2:
        cores = _tt_svd(core[0], tolerance / max(1, D - 1) ** 0.5, max_rank)
        ranks = [c.shape[-1] for c in cores[:-1]]
        series = [torch.einsum("mi,aib->mab", c, G).flatten(1) for c, G in zip(series, cores)]
        if form == "TT":
            return TT([ChebyshevFactor(c, i) for c, i in zip(series, intervals)], ranks)
    else:
        series = _cp_terms(series, core[0], tolerance, max_rank)
    return _balanced_cp(series, intervals)


def _kept(s: Tensor, tolerance: float, max_rank: int | None) -> int:
    tails = s.square().flip(0).cumsum(0).flip(0).sqrt()
    return min(max(1, int((tails > tolerance).sum())), max_rank or len(s))


def _tt_svd(core: Tensor, tolerance: float, max_rank: int | None) -> list[Tensor]:
    cores, rest, left = [], core[None], torch.ones(1, dtype=core.dtype)
    for _ in range(core.ndim - 1):
        a, i = rest.shape[:2]
        U, s, V = torch.linalg.svd(rest.flatten(2).flatten(0, 1), full_matrices=False)
        keep = _kept(s, tolerance, max_rank)
        U, s, V = U[:, :keep], s[:keep], V[:keep]
        root = s.clamp_min(torch.finfo(s.dtype).tiny).sqrt()
        # U's rows carry the singular values of the bond before: half of them goes back to that bond's other side.
        cores.append(U.unflatten(0, (a, i)) * root / left[:, None, None])
        rest, left = (s[:, None] * V).unflatten(1, rest.shape[2:]), root
    cores.append(rest[..., None] / left[:, None, None])
    return cores


def _cp_terms(series: list[Tensor], core: Tensor, tolerance: float, max_rank: int | None) -> list[Tensor]:
    free = max(range(core.ndim), key=lambda d: core.shape[d])
    fibres = core.movedim(free, 0).flatten(1)
    sizes, order = fibres.norm(dim=0).sort(descending=True)
    order = order[: _kept(sizes, tolerance, max_rank)]
    others = [n for d, n in enumerate(core.shape) if d != free]
    indices = iter(torch.unravel_index(order, others))
    return [c @ fibres[:, order] if d == free else c[:, next(indices)] for d, c in enumerate(series)]


def _balanced_cp(series: list[Tensor], intervals: Sequence[Interval]) -> CP:
    maxima = torch.stack([_maxima(c) for c in series])
    level = maxima.prod(0) ** (1 / len(series))
    series = [c * torch.where(m > 0, level / m, 1.0) for c, m in zip(series, maxima)]
    return CP([ChebyshevFactor(c, i) for c, i in zip(series, intervals)], scale=None)


def _balanced_tucker(series: list[Tensor], core: Tensor, intervals: Sequence[Interval]) -> Tucker:
    """Largest factor 1, each in proportion to the D-th root of its slice's largest entry, no core entry increased."""
    for d, c in enumerate(series):
        maxima = _maxima(c)
        series[d] = c / maxima
        core = mode_product(core, torch.diag(maxima), d)
    slices = [unfold(core, d)[0].abs().amax(0) for d in range(len(series))]
    for d, largest in enumerate(slices):
        share = (largest / largest.max()).clamp_min(torch.finfo(core.dtype).eps) ** (1 / len(series))
        series[d] = series[d] * share
        core = mode_product(core, torch.diag(1 / share), d)
    return tucker([ChebyshevFactor(c, i) for c, i in zip(series, intervals)], core)


def _maxima(coefficients: Tensor) -> Tensor:
    """Largest absolute value of each series at nodes eight times as many as its coefficients."""
    return torch.from_numpy(np.abs(_values(coefficients.numpy(), 8 * len(coefficients))).max(0))


def evaluator(f: Callable, domain: Sequence[Interval]) -> Callable[[Tensor], Tensor]:
    """A function as ``(N, D) -> (N,)``, checked at every call (Theorem 1: f is real and continuous on a compact box).

    Args:
        f: of D arguments ``(N,)`` or of one argument ``(N, D)``.
        domain: D >= 2 intervals (a, b).

    Raises:
        ValueError: not D >= 2 finite intervals; on a call, a result of the wrong shape or with a value that is not finite.

    >>> evaluator(lambda x, y: x * y, [(0, 1), (0, 2)])(torch.tensor([[0.5, 2.0]], dtype=torch.float64))
    tensor([1.], dtype=torch.float64)
    """
    if len(domain) < 2:
        raise ValueError(f"the domain must have at least 2 intervals, got {len(domain)}")
    for interval in domain:
        if len(interval) != 2 or not -math.inf < interval[0] < interval[1] < math.inf:
            raise ValueError(f"each interval must be (a, b) with finite a < b, got {interval}")
    try:
        parameters = inspect.signature(f).parameters.values()
        apart = len(parameters) != 1 or any(p.kind == p.VAR_POSITIONAL for p in parameters)
    except ValueError:  # a builtin without a signature, such as torch.hypot
        apart = True

    def ask(X: Tensor) -> Tensor:
        values = torch.as_tensor(f(*X.unbind(1)) if apart else f(X), dtype=X.dtype)
        if values.shape != X.shape[:1]:
            raise ValueError(f"f must map {len(X)} points to {len(X)} values, got shape {tuple(values.shape)}")
        if not (finite := torch.isfinite(values)).all():
            where = X[~finite][0].tolist()
            raise ValueError(f"f must be finite on the box, but f({', '.join(f'{x:.6g}' for x in where)}) is not")
        return values

    return ask
