"""What one step of descent needs of the training data: held in full, or streamed (Eqs. (6)-(8), Table 1).

On a grid of D >= 3 axes the prediction Z and the residual Z - Y are as large as the data, and neither is needed. With
CP factors F_d (the scale taken into the first) every part of Eq. (8) splits into R x R Gram matrices, for Z, and
matricised products of the data, for Y:

    MTTKRP_d(Z x_e S_e) = S_d F_d  prod_{d' != d} Gamma_d'                    for e = d
                        = F_d  (F_e^T S_e F_e) prod_{d' != d, e} Gamma_d'     for e != d,     Gamma_d = F_d^T F_d,

    Y x_e S_e = Y - C_e x_e (V_e diag(w_e)),     C_e = Y x_e V_e^T  with n_e replaced by k,

products of Gram matrices taken entry by entry. The C_e change only when the preconditioners do. The same numbers give
the loss, ``|Z|^2/2 - <Z, Y> + |Y|^2/2``, with ``<Z, Y> = <F_1, MTTKRP_1(Y)>``.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from seplib import tensorops
from seplib.preconditioning import SepPGD

Preconditioning = Callable[[Tensor, int], Tensor]
Inputs = Sequence[Tensor] | Tensor


class FullResidual:
    """Descent with the prediction and the residual in memory: any model, grid or points, any preconditioner, Eq. (7).

    Arguments are those of :func:`seplib.training.fit`. With the mask M the loss is ``|M r|^2 / 2`` and ``M S~ M r``
    goes backward, the part of S~ that belongs to the known entries: positive where S~ is.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Inputs,
        target: Tensor,
        preconditioner: Preconditioning | None,
        mask: Tensor | None = None,
    ):
        self.evaluate = model.points if isinstance(inputs, Tensor) else model.grid
        self.axes, self.target, self.preconditioner, self.mask = inputs, target, preconditioner, mask

    def forward(self) -> None:
        """Evaluate the network, the Z of Eq. (6)."""
        self._output = self.evaluate(self.axes)
        self.residual = self._masked(self._output.detach() - self.target)

    def prediction(self) -> Tensor:
        """Network output at the training inputs, ``(E, n_1, ..., n_D)`` or ``(E, N)`` (Eq. (6))."""
        return self._output.detach()

    def loss(self) -> Tensor:
        """Half the squared residual norm of Eq. (6), ``(E,)``."""
        return self.residual.flatten(1).square().sum(1) / 2

    def backward(self, iteration: int) -> None:
        """Send the (preconditioned) residual backward, Eq. (7)."""
        residual = self.residual
        if self.preconditioner is not None:
            residual = self._masked(self.preconditioner(residual, iteration))
        self._output.backward(residual)

    def _masked(self, residual: Tensor) -> Tensor:
        return residual if self.mask is None else residual * self.mask


class StreamedResidual:
    """The same step for a CP network on a grid of any D >= 2, and nothing of the data's size is formed (Eq. (8)).

    Beside the data it holds the compressed tensors C_e, a share ``k sum_d 1/n_d`` of the data, and one slab. A step
    costs ``4 R N (1 + k sum_d 1/n_d)`` operations for N grid points beside the networks' own, a new preconditioner
    ``2 k D N``. The loss is a difference of large numbers: in float32 its error is about 1e-6 of ``|Y|^2 / 2``.

    Raises:
        TypeError, ValueError: no CP network, another preconditioner than SepPGD, scattered points, target of one copy.
    """

    def __init__(self, model: nn.Module, inputs: Inputs, target: Tensor, preconditioner: Preconditioning | None):
        if not hasattr(model, "matrices"):
            raise TypeError(f"only a CP network can be streamed, got {type(model).__name__}")
        if isinstance(inputs, Tensor):
            raise ValueError(f"only a grid can be streamed, got scattered points {tuple(inputs.shape)}")
        if preconditioner is not None and not isinstance(preconditioner, SepPGD):
            raise TypeError(f"a streamed step takes SepPGD or no preconditioner, got {type(preconditioner).__name__}")
        if target.shape[0] != model.factors[0].ensemble:
            raise ValueError(f"a streamed target needs {model.factors[0].ensemble} copies, got {target.shape[0]}")
        self.model, self.axes, self.target, self.preconditioner = model, inputs, target, preconditioner
        # Slab by slab, so that no second array of the data's size is formed here either.
        self._square = sum(part.double().flatten(1).square().sum(1) for part in target.split(_rows(target), dim=1))
        self._compressed: list[Tensor] = []
        self._made_for = None

    def forward(self) -> None:
        """Evaluate the factors and the data's products with them (Eq. (8))."""
        self._outputs = self.model.matrices(self.axes)
        self.factors = [f.detach() for f in self._outputs]
        self._grams = [f.mT @ f for f in self.factors]
        self._data = tensorops.mttkrp(self.target, self.factors)

    def prediction(self) -> Tensor:
        """Network output on the grid, formed on demand, ``(E, n_1, ..., n_D)`` (Eq. (6))."""
        return tensorops.cp_product(self.factors)

    def loss(self) -> Tensor:
        """Half the squared residual norm of Eq. (6), ``(E,)``, from Gram matrices in float64."""
        grams = [f.double().mT @ f.double() for f in self.factors]
        prediction = math.prod(grams[1:], start=grams[0]).sum((1, 2))
        mixed = (self.factors[0].double() * self._data[0]).sum((1, 2))
        return (prediction / 2 - mixed + self._square / 2).clamp_min(0).to(self.target.dtype)

    def backward(self, iteration: int) -> None:
        """Send the cotangents M_d of Eq. (8) backward through the factor networks."""
        torch.autograd.backward(self._outputs, self.cotangents(iteration))

    def cotangents(self, iteration: int) -> list[Tensor]:
        """The M_d of Eq. (8), transposed and times the model's scale for d > 1: D tensors ``(E, n_d, R)``."""
        factors, modes = self.factors, range(len(self.factors))
        if self.preconditioner is None:
            return [factors[d] @ self._gram_product(without=(d,)) - self._data[d] for d in modes]
        preconditioners = self.preconditioner.current(iteration)
        if self._made_for is not preconditioners:
            self._compressed.clear()  # the old ones go before the new ones come
            self._compressed = [
                tensorops.mode_product(self.target, p.vectors.mT, d) for d, p in enumerate(preconditioners)
            ]
            self._made_for = preconditioners
        totals = [-len(factors) * data for data in self._data]
        for e, (p, compressed) in enumerate(zip(preconditioners, self._compressed)):
            inner = p.vectors.mT @ factors[e]
            weighted = p.damping[..., None] * inner
            shrunk = factors[e] - p.vectors @ weighted  # S_e F_e
            modulated = self._grams[e] - inner.mT @ weighted  # F_e^T S_e F_e
            taken = tensorops.mttkrp(compressed, [*factors[:e], weighted, *factors[e + 1 :]])
            for d in modes:
                if d == e:
                    totals[d] += shrunk @ self._gram_product(without=(d,)) + (p.vectors * p.damping[:, None]) @ taken[d]
                else:
                    totals[d] += factors[d] @ (modulated * self._gram_product(without=(d, e))) + taken[d]
        return totals

    def _gram_product(self, without: tuple[int, ...]) -> Tensor:
        kept = [gram for d, gram in enumerate(self._grams) if d not in without]
        return math.prod(kept[1:], start=kept[0]) if kept else torch.ones_like(self._grams[0])


def _rows(target: Tensor) -> int:
    """Rows of the first mode that keep to an eighth of a slab."""
    return max(1, tensorops.SLAB // 8 * target.shape[1] // max(1, target.numel()))
