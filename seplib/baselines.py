"""Preconditioned descent with the network's own kernel on all points: MSK and IGA (Sec. 4, prior arts; Table 1).

Both know nothing of a grid's structure, so they serve any network whose kernel :func:`seplib.ntk.empirical` computes, on a
grid or at scattered points, and pay for it with a kernel as large as the square of the number of points.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from seplib import ntk
from seplib.preconditioning import Preconditioner, check_modulation, modulate, restored


def as_points(axes: Sequence[Tensor] | Tensor) -> Tensor:
    """All points of a grid, ``(n_1 ... n_D, D)``, last coordinate fastest; scattered points as they are (Sec. 4).

    >>> as_points([torch.tensor([0., 1.]), torch.tensor([2., 3.])]).tolist()
    [[0.0, 2.0], [0.0, 3.0], [1.0, 2.0], [1.0, 3.0]]
    """
    return axes if isinstance(axes, Tensor) else torch.cartesian_prod(*axes)


class MSK:
    """Descent with a modified kernel spectrum, ``grad f(X)^T S r``, S from the N x N kernel itself (Sec. 4, Table 1).

    Called with a residual it returns ``S r``: the eigenvalues of ``K S`` are exactly ``g(lambda_i)``. Plug it into
    :func:`seplib.training.fit`.

    Args:
        model: any network that :func:`seplib.ntk.empirical` knows.
        axes: D tensors ``(n_d,)``, or ``(N, D)`` scattered points.
        k: number of modulated eigenvalues, 1 to N.
        update_every: iterations between two computations of S.
        g: ``"flat"``, ``"sqrt"`` or ``"geometric"``, see :func:`seplib.preconditioning.modulate`.
        solver: ``"lanczos"`` for the top k eigenpairs alone, ``"full"`` for the decomposition of the prior art.

    Cost: an update takes the ``O(N^2 W L)`` operations of the kernel, ``8 E N^2`` bytes in float64, and ``O(k N^2)`` or
    ``O(N^3)`` for the eigenpairs; a step ``4 k N`` for applying S.

    Raises:
        ValueError: k out of range, update_every below 1, an unknown modulation or solver; when called, a residual that does
            not belong to the points.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        axes: Sequence[Tensor] | Tensor,
        k: int = 25,
        update_every: int = 10,
        g: str = "flat",
        solver: str = "lanczos",
    ):
        self.model, self.points = model, as_points(axes)
        check_modulation(k, len(self.points), "number of points", update_every, g, solver)
        self.k, self.update_every, self.g, self.solver = k, update_every, g, solver
        self.preconditioner: Preconditioner | None = None

    def update(self) -> None:
        """Compute S anew from the network's kernel (Sec. 4)."""
        self.preconditioner = modulate(ntk.empirical(self.model, self.points), self.k, self.g, self.solver)

    def __call__(self, residual: Tensor, iteration: int) -> Tensor:
        """Preconditioned residual ``S r``, of the residual's shape (Table 1)."""
        flat = _flat(residual, self.points)
        if iteration % self.update_every == 0 or self.preconditioner is None:
            self.update()
        return self.preconditioner.apply(flat, 0).view_as(residual)

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors that a checkpoint must hold to go on exactly (Sec. 4)."""
        made = self.preconditioner
        return {} if made is None else {"vectors": made.vectors, "damping": made.damping}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Undo :meth:`state_dict`."""
        pair = (state["vectors"], state["damping"]) if state else None
        self.preconditioner = pair and restored(pair, len(self.points), self.k, self.points)


class IGA:
    """Inductive gradient adjustment, the mini-batch method ``grad f(X_i)^T S_i r_i`` of Table 1 (Sec. 4).

    The points are shuffled once into p batches; iteration t serves batch ``t mod p`` with the modulated kernel of that
    batch alone, computed when the batch is met and kept for ``update_every`` iterations. The residual outside the batch
    is set to zero, which makes the gradient that of the batch, times p to keep the full gradient's size on average.

    Args:
        model: any network that :func:`seplib.ntk.empirical` knows.
        axes: D tensors ``(n_d,)``, or ``(N, D)`` scattered points.
        batches: number of batches p.
        k: number of modulated eigenvalues, 1 to the smallest batch.
        update_every: iterations for which a batch's S_i is kept.
        g: ``"flat"``, ``"sqrt"`` or ``"geometric"``, see :func:`seplib.preconditioning.modulate`.
        generator: source of the shuffle; torch's default generator if None.

    Cost: an update ``O((N/p)^2 W L + (N/p)^3)``, a step ``4 k N / p`` for applying S_i.

    Raises:
        ValueError: fewer than one batch or more batches than points, k out of range, an unknown modulation; when called, a
            residual that does not belong to the points.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        axes: Sequence[Tensor] | Tensor,
        batches: int = 4,
        k: int = 25,
        update_every: int = 10,
        g: str = "flat",
        generator: torch.Generator | None = None,
    ):
        self.model, self.points = model, as_points(axes)
        if not 1 <= batches <= len(self.points):
            raise ValueError(f"batches must be between 1 and the number of points {len(self.points)}, got {batches}")
        check_modulation(k, len(self.points) // batches, "smallest batch", update_every, g)
        self.k, self.update_every, self.g = k, update_every, g
        order = torch.randperm(len(self.points), generator=generator, device=generator and generator.device)
        self.batches = order.to(self.points.device).tensor_split(batches)
        self.preconditioners: dict[int, tuple[int, Preconditioner]] = {}

    def __call__(self, residual: Tensor, iteration: int) -> Tensor:
        """Preconditioned residual of this iteration's batch, zero elsewhere (Table 1)."""
        flat, index = _flat(residual, self.points), iteration % len(self.batches)
        rows = self.batches[index]
        made, preconditioner = self.preconditioners.get(index, (None, None))
        if made is None or iteration - made >= self.update_every:
            preconditioner = modulate(ntk.empirical(self.model, self.points[rows]), self.k, self.g)
            self.preconditioners[index] = (iteration, preconditioner)
        result = torch.zeros_like(flat)
        result[:, rows] = len(self.batches) * preconditioner.apply(flat[:, rows], 0)
        return result.view_as(residual)

    def state_dict(self) -> dict[int, tuple[int, Tensor, Tensor]]:
        """Tensors that a checkpoint must hold to go on exactly (Sec. 4)."""
        return {i: (made, p.vectors, p.damping) for i, (made, p) in self.preconditioners.items()}

    def load_state_dict(self, state: dict[int, tuple[int, Tensor, Tensor]]) -> None:
        """Undo :meth:`state_dict`."""
        self.preconditioners = {
            i: (made, restored(pair, len(self.batches[i]), self.k, self.points)) for i, (made, *pair) in state.items()
        }


def _flat(residual: Tensor, points: Tensor) -> Tensor:
    if residual[0].numel() != len(points):
        raise ValueError(
            f"this preconditioner was made for {len(points)} points, got a residual {tuple(residual.shape)}"
        )
    return residual.flatten(1)
