"""A spline KAN layer, and the separable network that it is (Sec. A.1.3)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from seplib.separable import check_points


def spline_basis(x: Tensor, knots: Tensor, degree: int) -> Float[Tensor, "n K"]:
    """B-spline basis functions ``B_1(x), ..., B_K(x)`` by the recursion of Cox and de Boor (Sec. A.1.3).

    Args:
        x: ``(n,)``.
        knots: ``(K + degree + 1,)``, strictly rising.
        degree: of the pieces, at least 0.

    Returns:
        ``(n, K)``; every row sums to 1 between ``knots[degree]`` and ``knots[K]``, and is 0 outside all knots.

    Raises:
        ValueError: a negative degree, too few knots, or knots that do not rise.

    >>> spline_basis(torch.tensor([0.5]), torch.arange(4.), degree=1)
    tensor([[0.5000, 0.0000]])
    """
    if degree < 0 or len(knots) < degree + 2:
        raise ValueError(
            f"degree {degree} needs at least {degree + 2} knots and must not be negative, got {len(knots)}"
        )
    if not (knots[1:] > knots[:-1]).all():
        raise ValueError("the knots must rise strictly")
    x = x[:, None]
    basis = ((x >= knots[:-1]) & (x < knots[1:])).to(x.dtype)
    for p in range(1, degree + 1):
        rising = (x - knots[: -p - 1]) / (knots[p:-1] - knots[: -p - 1])
        falling = (knots[p + 1 :] - x) / (knots[p + 1 :] - knots[1:-p])
        basis = rising * basis[:, :-1] + falling * basis[:, 1:]
    return basis


class KANLayer(nn.Module):
    """KAN layer ``Phi(x)_e = sum_j w_ej [b(x_j) + sum_k c_ejk B_k(x_j)]`` with b = SiLU (Sec. A.1.3).

    Args:
        inputs: number of inputs, the n of Sec. A.1.3 and the D of the separable network.
        outputs: number of outputs E.
        intervals: number of spline intervals on [-1, 1].
        degree: of the splines; K = intervals + degree basis functions.
        generator, dtype, device: of the initial coefficients, which are drawn on the generator's device.

    Raises:
        ValueError: a size below 1 or a negative degree.

    >>> KANLayer(3, 2)(torch.zeros(5, 3)).shape
    torch.Size([5, 2])
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        intervals: int = 5,
        degree: int = 3,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ):
        super().__init__()
        if min(inputs, outputs, intervals) < 1 or degree < 0:
            raise ValueError(f"sizes must be positive, got {inputs}, {outputs}, {intervals} and degree {degree}")
        dtype = dtype or torch.get_default_dtype()
        knots = -1 + 2 / intervals * torch.arange(-degree, intervals + degree + 1, dtype=dtype)
        self.register_buffer("knots", knots.to(device))
        self.degree = degree
        source = dict(generator=generator, device=generator and generator.device)
        draw = torch.randn(outputs, inputs, intervals + degree + 1, dtype=torch.float64, **source).to(device, dtype)
        self.weight = nn.Parameter(draw[..., 0] / inputs**0.5)
        self.spline = nn.Parameter(draw[..., 1:])

    def univariate(self, j: int, x: Tensor) -> Float[Tensor, "E n"]:
        """The functions ``phi_ej`` of input j for all outputs: ``(n,)`` to ``(E, n)`` (Sec. A.1.3)."""
        splines = self.spline[:, j] @ spline_basis(x, self.knots, self.degree).mT
        return self.weight[:, j, None] * (F.silu(x) + splines)

    def forward(self, X: Tensor) -> Float[Tensor, "N E"]:
        """Outputs for ``(N, D)`` inputs (Sec. A.1.3).

        Raises:
            ValueError: ``X`` is not ``(N, D)``.
        """
        check_points(X, self.weight.shape[1])
        return sum(self.univariate(j, X[:, j]) for j in range(X.shape[1])).mT


class AdditiveFactor(nn.Module):
    """Factor j of a KAN layer as CP network of rank D: ``phi_ej`` in column j, ones elsewhere (Sec. A.1.3, Eq. (2)).

    ``sum_j phi_j(x_j) = sum_r prod_j f_j(x_j)_r`` if ``f_j(x)_r`` is ``phi_j(x)`` for r = j and 1 for the others: a sum of
    univariate functions is a CP separable network of rank D. The layer's outputs take the ensemble axis.

    Args:
        layer: the KAN layer.
        j: which input, 0 to D - 1.

    Raises:
        ValueError: the layer has no such input.

    >>> from seplib import CP
    >>> layer = KANLayer(2, 3)
    >>> CP([AdditiveFactor(layer, j) for j in range(2)], scale=None).points(torch.zeros(4, 2)).shape
    torch.Size([3, 4])
    """

    def __init__(self, layer: KANLayer, j: int):
        super().__init__()
        self.ensemble, self.rank = layer.weight.shape
        if not 0 <= j < self.rank:
            raise ValueError(f"j must be between 0 and the layer's last input {self.rank - 1}, got {j}")
        self.layer, self.j = layer, j

    def forward(self, x: Tensor) -> Float[Tensor, "E n R"]:
        """Factor matrix: ``(n,)`` to ``(E, n, R)`` (Eq. (2))."""
        columns = [torch.ones(self.ensemble, x.numel(), dtype=x.dtype, device=x.device)] * self.rank
        columns[self.j] = self.layer.univariate(self.j, x)
        return torch.stack(columns, -1)
