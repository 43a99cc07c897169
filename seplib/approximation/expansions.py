"""Separable expansions, the algebra behind Theorem 1, with Chebyshev series as factors.

An expansion is a :class:`seplib.CP`, :class:`seplib.TT` or :class:`seplib.Tucker` model whose factors are any univariate
modules instead of networks. Sums, products and multiples of expansions are expansions of the same form; that is the
closure that the Stone-Weierstrass theorem asks for.
"""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import scipy.fft
import torch
from jaxtyping import Float
from torch import Tensor, nn

from seplib.separable import CP, TT, Tucker

FORMS = ("CP", "TT", "Tucker")
Interval = tuple[float, float]


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
    joins = [
        _beside if d == 0 or not isinstance(g, TT) else _below if d == last else _diagonal for d in range(last + 1)
    ]
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
    return TT([_Scaled(first, by), *rest], g.ranks) if isinstance(g, TT) else tucker([first, *rest], by * g.core)


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


def ranks(model: Model) -> tuple[int, ...]:
    """Ranks as Eqs. (2) and (3) have them: (R,) for CP, D - 1 for TT, D for Tucker."""
    if isinstance(model, CP):
        return (model.factors[0].rank,)
    return tuple(model.ranks) if isinstance(model, TT) else tuple(model.core.shape[1:])


def values_at_nodes(coefficients: np.ndarray, n: int) -> np.ndarray:
    """Values ``(n, R)`` of the series ``(m, R)`` at n >= m Chebyshev nodes by a fast cosine transform (Sec. A.5)."""
    padded = np.zeros((n, coefficients.shape[1]))
    padded[: len(coefficients)] = coefficients / 2
    padded[0] *= 2
    return scipy.fft.dct(padded, type=3, axis=0)


def at_nodes(series: ChebyshevFactor, n: int) -> Float[Tensor, "n R"]:
    """Values of the series at :func:`nodes` of its interval, n at least the number of coefficients (Sec. A.5).

    >>> at_nodes(ChebyshevFactor(torch.tensor([[0.0], [2.0]]), (0.0, 1.0)), 2).flatten()
    tensor([ 1.4142, -1.4142], dtype=torch.float64)
    """
    values = values_at_nodes(series.coefficients.cpu().numpy().astype(float), n)
    return torch.from_numpy(values).to(series.coefficients.device)


def nodes(n: int) -> Float[Tensor, " n"]:
    """Chebyshev nodes of the first kind on [-1, 1], the zeros of T_n (Sec. A.5), float64, descending."""
    return torch.cos(torch.pi * (torch.arange(n, dtype=torch.float64) + 0.5) / n)


def place(t, interval: Interval):
    """Map numbers (array or tensor) from [-1, 1] to an interval (a, b), the box of Theorem 1."""
    a, b = interval
    return (a + b) / 2 + (b - a) / 2 * t


def maxima(coefficients: Float[Tensor, "m R"]) -> Float[Tensor, " R"]:
    """Largest absolute value of each series, the M of Sec. A.5, at nodes eight times as many as its coefficients."""
    return torch.from_numpy(np.abs(values_at_nodes(coefficients.numpy(), 8 * len(coefficients))).max(0))
