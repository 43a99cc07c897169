"""Preconditioned descent with the network's own kernel on all points: MSK and IGA (Sec. 4, prior arts; Table 1).

Both know nothing of a grid's structure, so they serve any network whose kernel :func:`seplib.ntk.empirical` computes,
on a grid or at scattered points, and pay for it with a kernel as large as the square of the number of points.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from seplib import ntk
from seplib.factors import Data, as_input
from seplib.preconditioning import Method, check_modulation, modulate
from seplib.separable import some_parameter


def as_points(axes: Sequence[Data] | Data, network: torch.nn.Module | None = None) -> Tensor:
    """All points of a grid, ``(n_1 ... n_D, D)``, last coordinate fastest; scattered points as they are (Sec. 4).

    >>> as_points([torch.tensor([0., 1.]), torch.tensor([2., 3.])]).tolist()
    [[0.0, 2.0], [0.0, 3.0], [1.0, 2.0], [1.0, 3.0]]
    """
    like = some_parameter(network)
    if isinstance(axes, Data):
        return as_input(axes, like, "array of points")
    return torch.cartesian_prod(*(as_input(x, like, "axis") for x in axes))


class MSK(Method):
    """Descent with a modified kernel spectrum, ``grad f(X)^T S r``, S from the N x N kernel itself (Sec. 4, Table 1).

    Called with a residual it returns ``S r``: the eigenvalues of ``K S`` are exactly ``g(lambda_i)``.

    The model is any that :func:`seplib.ntk.empirical` knows, k goes up to N, the solver is ``"lanczos"`` for the top k
    eigenpairs alone or ``"full"`` for the decomposition of the prior art; the rest is as for :class:`seplib.SepPGD`.

    Cost: an update takes the ``O(N^2 W L)`` operations of the kernel, ``8 E N^2`` bytes in float64, and ``O(k N^2)`` or
    ``O(N^3)`` for the eigenpairs; a step ``4 k N`` for applying S.

    Raises:
        ValueError: k, update_every, g or solver out of range; when called, a residual of other points.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        axes: Sequence[Data] | Data,
        k: int = 25,
        update_every: int = 10,
        g: str = "flat",
        solver: str = "lanczos",
    ):
        self.model, self.points = model, as_points(axes, model)
        super().__init__([len(self.points)], self.points, k, update_every, g)
        check_modulation(k, len(self.points), "number of points", update_every, g, solver)
        self.solver = solver

    def kernels(self) -> Iterable[Tensor]:
        """The network's own kernel (Sec. 4)."""
        return [ntk.empirical(self.model, self.points)]

    def precondition(self, cotangent: Tensor, iteration: int) -> Tensor:
        """``S r`` (Table 1)."""
        flat = _flat(cotangent, self.points)
        return self.current(iteration)[0].apply(flat, 0).view_as(cotangent)


class IGA(Method):
    """Inductive gradient adjustment, the mini-batch method ``grad f(X_i)^T S_i r_i`` of Table 1 (Sec. 4).

    The points are shuffled once into p batches; iteration t serves batch ``t mod p`` with the modulated kernel of that
    batch alone, computed when the batch is met and kept for ``update_every`` iterations. The residual outside the batch
    is set to zero, which makes the gradient that of the batch, times p to keep the full gradient's size on average.

    There are p = ``batches``, k goes up to the smallest one, the generator shuffles; the rest is as for :class:`MSK`.
    Cost: an update ``O((N/p)^2 W L + (N/p)^3)``, a step ``4 k N / p`` for applying S_i.

    Raises:
        ValueError: batches, k, update_every or g out of range; when called, a residual of other points.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        axes: Sequence[Data] | Data,
        batches: int = 4,
        k: int = 25,
        update_every: int = 10,
        g: str = "flat",
        generator: torch.Generator | None = None,
    ):
        self.model, self.points = model, as_points(axes, model)
        if not 1 <= batches <= len(self.points):
            raise ValueError(f"batches must be between 1 and the number of points {len(self.points)}, got {batches}")
        check_modulation(k, len(self.points) // batches, "smallest batch", update_every, g)
        order = torch.randperm(len(self.points), generator=generator, device=generator and generator.device)
        self.batches = order.to(self.points.device).tensor_split(batches)
        super().__init__([len(rows) for rows in self.batches], self.points, k, update_every, g)
        self.preconditioners = [None] * batches
        self.begin()

    def begin(self) -> None:
        """Count from 0 again: the next step of each batch computes its S anew (Table 1)."""
        super().begin()
        self.made = [None] * len(self.batches)

    def kernels(self) -> Iterable[Tensor]:
        """The kernels of all batches, one by one (Sec. 4)."""
        return (ntk.empirical(self.model, self.points[rows]) for rows in self.batches)

    def precondition(self, cotangent: Tensor, iteration: int) -> Tensor:
        """``S_i r_i`` for this step's batch, zero elsewhere (Table 1)."""
        flat, index = _flat(cotangent, self.points), iteration % len(self.batches)
        rows = self.batches[index]
        made = self.made[index]
        if made is None or iteration - made >= self.update_every:
            kernel = ntk.empirical(self.model, self.points[rows])
            self.preconditioners[index], self.made[index] = modulate(kernel, self.k, self.g), iteration
        result = torch.zeros_like(flat)
        result[:, rows] = len(self.batches) * self.preconditioners[index].apply(flat[:, rows], 0)
        return result.view_as(cotangent)


def _flat(residual: Tensor, points: Tensor) -> Tensor:
    if residual[0].numel() != len(points):
        raise ValueError(
            f"this preconditioner was made for {len(points)} points, got a residual {tuple(residual.shape)}"
        )
    return residual.flatten(1)
