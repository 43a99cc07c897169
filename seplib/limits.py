"""Limit kernels of wide CP networks: deterministic (Theorem 2) and random (Corollary 1).

The network is that of Theorem 2, two-layer factors in the "ntk" parametrization. Nothing here is random or finite-width
except the draws of :func:`sample_random`. Everywhere ``activation`` is one of :data:`seplib.activations.NAMES`,
``omega`` the frequency of "sine" and "cos", which are ``sin(omega z)`` and ``cos(omega z)``, and ``X`` stands for
``(N, D)`` points. Other names, other shapes and a rank below 1 are a ValueError.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from seplib import activations
from seplib.activations import Activation
from seplib.operators import KroneckerOperator
from seplib.separable import check_points

# The trapezoidal rule's step and cut are chosen for this many nats: e^-46 = 1e-20, of which the singularities of the
# slopes' product, poles of fourth order for tanh, take up to 46^3 / 6.
_NATS = 46.0


def c(activation: str, x: Tensor, y: Tensor, omega: float = 1.0) -> Float[Tensor, "n m"]:
    """Covariance of a factor's outputs in the limit, ``c(x, y) = E[sigma(w x + b) sigma(w y + b)]``, Theorem 2.

    ``(n,)`` and ``(m,)`` coordinates give ``(n, m)``. Closed forms, exact up to rounding; for tanh, which has none, a
    trapezoidal rule in (w, b) with about ``(97 max(1, |x|, |y|)) 97`` nodes and an error below 1e-14 in float64.

    >>> c("relu", torch.tensor([0.]), torch.tensor([0.]))      # E[relu(b)^2] = 1/2
    tensor([[0.5000]])
    """
    return _expectations(activation, x, y, omega)[0]


def k(activation: str, x: Tensor, y: Tensor, omega: float = 1.0) -> Float[Tensor, "n m"]:
    """Limit of a factor's NTK, ``k(x, y) = c(x, y) + (x y + 1) E[sigma'(w x + b) sigma'(w y + b)]``, Theorem 2.

    Arguments, accuracy and errors as for :func:`c`. The theorem asks for a differentiable sigma; at the kink of "relu"
    and "leaky_relu" the slope's value does not matter, since ``w x + b`` meets it with probability zero.

    >>> k("relu", torch.tensor([0.]), torch.tensor([0.]))      # 1/2 + P(b > 0)
    tensor([[1.]])
    """
    covariance, slopes = _expectations(activation, x, y, omega)
    return covariance + (x[:, None] * y + 1) * slopes


def deterministic(activation: str, X: Tensor, X2: Tensor | None = None, *, omega: float = 1.0) -> Float[Tensor, "N N2"]:
    """Limit kernel of a wide CP network of high rank, ``sum_d k(x_d, x'_d) prod_{d' != d} c(x_d', x'_d')``, Theorem 2.

    It is also the exact mean of the NTK over the initialization, at any finite width and rank. X2 is X itself if None.
    Cost: D times that of :func:`c` and :func:`k`, and ``O(D^2 N N2)``.

    >>> deterministic("relu", torch.zeros(1, 3))               # 3 k c^2 = 3 * 1 * 1/4
    tensor([[0.7500]])
    """
    covariances, kernels = _coordinates(activation, X, X2, omega)
    return sum(kernel * _others(covariances, d) for d, kernel in enumerate(kernels))


def grid(activation: str, axes: list[Tensor], *, omega: float = 1.0) -> KroneckerOperator:
    """Limit kernel of Theorem 2 on a grid as a linear operator: D Kronecker products of ``n_d x n_d`` matrices.

    >>> x = torch.linspace(-1, 1, 3)
    >>> K = grid("erf", [x, x]).dense()
    >>> torch.allclose(K[0], deterministic("erf", torch.cartesian_prod(x, x)))
    True
    """
    covariances = [c(activation, x, x, omega)[None] for x in axes]
    kernels = [k(activation, x, x, omega)[None] for x in axes]
    terms = [[kernels[e] if e == d else covariances[e] for e in range(len(axes))] for d in range(len(axes))]
    return KroneckerOperator(terms)


def sample_random(
    activation: str, X: Tensor, rank: int, samples: int, generator: torch.Generator | None = None, *, omega: float = 1.0
) -> Float[Tensor, "samples N N"]:
    """Random draws of the limit kernel of fixed rank at infinite width, ``sum_d k(x_d, x'_d) V_d(x, x')``, Corollary 1.

    ``V_d(x, x')`` is the mean over r of ``prod_{d' != d} g_d'r(x_d') g_d'r(x'_d')`` with independent Gaussian processes
    ``g_d'r`` of covariance c; one draw of the processes serves all d, since the V_d share them.

    The draws are made on the generator's device: a seed means the same draws wherever X is. Cost: ``4 D samples R N^2``
    operations, ``O(samples (D R N + N^2))`` numbers of memory.

    >>> generator = torch.Generator().manual_seed(0)
    >>> sample_random("tanh", torch.rand(4, 2), rank=3, samples=5, generator=generator).shape
    torch.Size([5, 4, 4])
    """
    if rank < 1 or samples < 1:
        raise ValueError(f"rank and samples must be at least 1, got {rank} and {samples}")
    covariances, kernels = _coordinates(activation, X, None, omega)
    paths = []
    for covariance in covariances:
        # Points with a coordinate in common make it singular: a symmetric root bears that, Cholesky's does not.
        values, vectors = torch.linalg.eigh(covariance)
        root = vectors * values.clamp_min(0).sqrt()
        source = dict(generator=generator, device=generator and generator.device)
        paths.append(torch.randn(samples, rank, len(X), dtype=X.dtype, **source).to(X.device) @ root.mT)
    total = 0
    for d, kernel in enumerate(kernels):
        a = _others(paths, d)
        total = total + kernel * (a.mT @ a / rank)
    return total


def random_moments(
    activation: str, X: Tensor, rank: int, *, omega: float = 1.0
) -> tuple[Float[Tensor, "N N"], Float[Tensor, "N N"]]:
    """Mean and variance, entry by entry, of the random limit kernel in closed form, Corollary 1.

    With ``m = c(x,x) c(x',x') + 2 c(x,x')^2``, the second moment of ``g(x) g(x')`` by Isserlis' formula,

        Var V_d      = (prod_{d' != d} m_d' - prod_{d' != d} c_d'^2) / R
        Cov(V_d,V_e) = c_d c_e (prod_{d' != d,e} m_d' - prod_{d' != d,e} c_d'^2) / R,

    and the variance of ``sum_d k_d V_d`` follows. The covariances vanish for D = 2. Cost: that of :func:`c` and
    ``O(D^3 N^2)``.

    >>> mean, variance = random_moments("relu", torch.zeros(1, 2), rank=4)  # 2 k^2 (3 c^2 - c^2) / R, k = 1, c = 1/2
    >>> variance
    tensor([[0.2500]])
    """
    if rank < 1:
        raise ValueError(f"rank must be at least 1, got {rank}")
    covariances, kernels = _coordinates(activation, X, None, omega)
    squares = [C**2 for C in covariances]
    fourth = [C.diagonal()[:, None] * C.diagonal() + 2 * C**2 for C in covariances]
    mean = sum(kernel * _others(covariances, d) for d, kernel in enumerate(kernels))
    variance = 0
    for d, kernel in enumerate(kernels):
        variance = variance + kernel**2 * (_others(fourth, d) - _others(squares, d))
        for e in range(d):
            shared = kernel * covariances[d] * kernels[e] * covariances[e]
            variance = variance + 2 * shared * (_others(fourth, d, e) - _others(squares, d, e))
    return mean, variance / rank


def _others(tensors: list[Tensor], *without: int) -> Tensor:
    """Elementwise product of all but the named ones."""
    return math.prod((t for e, t in enumerate(tensors) if e not in without), start=torch.ones_like(tensors[0]))


def _coordinates(activation: str, X: Tensor, X2: Tensor | None, omega: float) -> tuple[list[Tensor], list[Tensor]]:
    """Theorem 2's c and k of every coordinate between all points."""
    check_points(X, X.shape[-1])
    X2 = X if X2 is None else X2
    check_points(X2, X.shape[1])
    pairs = list(zip(X.unbind(1), X2.unbind(1)))
    return [c(activation, x, y, omega) for x, y in pairs], [k(activation, x, y, omega) for x, y in pairs]


def _expectations(activation: str, x: Tensor, y: Tensor, omega: float) -> tuple[Tensor, Tensor]:
    """``E[sigma sigma]`` and ``E[sigma' sigma']`` for the pairs ``(w x + b, w y + b)``."""
    if x.ndim != 1 or y.ndim != 1:
        raise ValueError(f"coordinates must be (n,) and (m,), got {tuple(x.shape)} and {tuple(y.shape)}")
    sigma = activations.get(activation, omega)
    if sigma.covariance is None:
        return _quadrature(sigma, x, y)
    x, y = x[:, None], y[None]
    pair = 1 + x * x, 1 + y * y, 1 + x * y, (x - y) ** 2
    return sigma.covariance(*pair), sigma.slope_covariance(*pair)


def _quadrature(sigma: Activation, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The same by a product trapezoidal rule in (w, b): two matrix products of deterministic features.

    For a function analytic in a strip of half-width s around the real axis the rule with step h converges like
    ``exp(-2 pi s / h)``, against ``exp(-O(sqrt(nodes)))`` for Gauss-Hermite.
    """
    reach = max(1.0, x.abs().max().item(), y.abs().max().item())  # w x + b is singular at Im w = strip / |x|
    w, weights_w = _normal_rule(sigma.strip / reach, x)
    b, weights_b = _normal_rule(sigma.strip, x)
    weights = (weights_w[:, None] * weights_b).flatten()
    left, right = ((w[:, None, None] * t + b[:, None]).flatten(0, 1) for t in (x, y))
    return tuple((weights[:, None] * f(left)).mT @ f(right) for f in (sigma.value, sigma.slope))


def _normal_rule(strip: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes and weights of the trapezoidal rule for the standard normal law and integrands analytic in a strip."""
    step, cut = 2 * math.pi * strip / _NATS, math.sqrt(2 * _NATS)
    count = math.ceil(cut / step)
    nodes = step * torch.arange(-count, count + 1, dtype=like.dtype, device=like.device)
    return nodes, step / math.sqrt(2 * math.pi) * torch.exp(-nodes * nodes / 2)
