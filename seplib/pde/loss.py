"""Physics-informed training: one loss of four parts on a grid, its gradient written down (Sec. A.12, PINNs).

On a grid that ends on the boundary, all four parts live in one array: the data loss is the mean square of the error ``e = u - Y``
on the grid, the initial and the boundary loss that on its faces, the residual loss that of the residual. So is the gradient:
``d loss / d u`` is e times the number of losses that see the point, each with its weight, plus what the residual adds.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from seplib import tensorops
from seplib.pde.equations import Equation
from seplib.pde.jets import PointFields, SeparableFields
from seplib.preconditioning import SepPGD, kronecker_sum
from seplib.separable import CP, check_axes

LOSSES = ("residual", "data", "initial", "boundary")


class GramResidual:
    """``|L u - q|^2`` and its gradient for a CP function u and a linear L, nothing of size ``n^D R`` formed (Sec. A.12).

    With T terms, ``L u = sum_t c_t u_t`` is a CP function of rank T R: the columns of its factors A_d are those of the T
    terms side by side. Hence ::

        |L u - q|^2 = sum of the entries of  prod_d Gamma_d  - 2 <q, L u> + |q|^2,    Gamma_d = A_d^T A_d,

    and q enters through MTTKRPs only, which its Tucker form ``q = core x_1 U_1 ... x_D U_D``, found once, takes to the core.

    Args:
        equation: a linear equation with constant coefficients.
        axes: D tensors ``(n_d,)``.

    Raises:
        ValueError: another equation.
    """

    def __init__(self, equation: Equation, axes: Sequence[Tensor]):
        if equation.rest is not None or not equation.linear:
            raise ValueError(f"Gram matrices serve linear equations with constant coefficients, not {equation.name}")
        source = equation.sources(axes)
        self.orders = torch.tensor([equation.order(name) for name in equation.linear], device=source.device).T
        self.coefficients = source.new_tensor(list(equation.linear.values()))[:, None]
        self.square = source.square().sum()
        self.core, self.bases = source[None], []
        for mode in range(source.ndim):
            left, values, _ = torch.linalg.svd(tensorops.unfold(source[None], mode)[0].T, full_matrices=False)
            kept = max(1, int((values > torch.finfo(values.dtype).eps * values[0]).sum()))
            self.bases.append(left[:, :kept])
            self.core = tensorops.mode_product(self.core, left[:, :kept].T, mode)

    def __call__(self, jets: Tensor) -> tuple[Tensor, Tensor]:
        """Squared norm ``(E,)`` and the cotangent of half of it.

        Args:
            jets: ``(D, E, 3, n, R)``, as :meth:`seplib.pde.jets.SeparableFields.jets` gives them.

        Returns:
            The squared norm, a difference of large numbers: in float32 its error is about 1e-6 of ``|q|^2``; and
            ``(D, E, 3, n, R)``. Cost: ``4 D n (T R)^2`` a copy, and a product with the core.
        """
        copies, _, _, rank = jets.shape[1:]
        terms = [jet.index_select(1, order) for jet, order in zip(jets, self.orders)]
        terms[0] = terms[0] * self.coefficients[:, None]
        factors = [term.transpose(1, 2).flatten(2) for term in terms]  # (E, n, T R)
        grams = [A.mT @ A for A in factors]
        small = [U.T @ A for U, A in zip(self.bases, factors)]
        core = self.core.expand(copies, *self.core.shape[1:])
        mixed = [U @ product for U, product in zip(self.bases, tensorops.mttkrp(core, small))]
        cotangents = []
        for d, (A, M) in enumerate(zip(factors, mixed)):
            others = [gram for e, gram in enumerate(grams) if e != d]
            product = others[0]
            for other in others[1:]:
                product = product * other
            cotangents.append(A @ product - M)
        square = (factors[0] * (cotangents[0] - mixed[0])).sum((1, 2)) + self.square
        result = torch.zeros_like(jets)
        for d, (cotangent, order) in enumerate(zip(cotangents, self.orders)):
            split = cotangent.unflatten(2, (-1, rank)).transpose(1, 2)
            result[d].index_add_(1, order, split * self.coefficients[:, None] if d == 0 else split)
        return square, result


class PhysicsLoss:
    """The weighted sum of residual, data, initial and boundary loss on a grid, each a mean square (Sec. A.12).

    It is the step that :func:`seplib.training.descend` takes.

    Args:
        equation: what is solved.
        model: a CP network, or an MLP; its parameters become views of ``parameter``. An optimizer updates that one, or ``model.parameters()``.
        axes: D tensors ``(n,)``, from end to end of the domain.
        target: ``(n, ..., n)``, the solution on the grid; its faces hold the initial and boundary values.
        weights: of the four losses by name; a loss without weight is left out.
        preconditioners: loss to its :class:`seplib.SepPGD` on the axes, for data, initial and boundary loss; a face takes the
            S_d of its own D - 1 axes.

    Raises:
        ValueError: an unknown loss, a target that does not fit the axes or is not finite, a preconditioned residual.
        TypeError: another kind of model.
    """

    def __init__(
        self,
        equation: Equation,
        model: torch.nn.Module,
        axes: Sequence[Tensor],
        target: Tensor,
        weights: Mapping[str, float],
        preconditioners: Mapping[str, SepPGD] | None = None,
    ):
        preconditioners = dict(preconditioners or {})
        if unknown := {*weights, *preconditioners} - set(LOSSES):
            raise ValueError(f"a loss must be one of {', '.join(LOSSES)}, got {', '.join(sorted(unknown))}")
        if "residual" in preconditioners:
            raise ValueError("SepPGD preconditions data, initial and boundary loss, not the residual of an equation")
        check_axes(axes, len(equation.domain))
        if tuple(target.shape) != tuple(x.numel() for x in axes):
            raise ValueError(f"the target must be {tuple(x.numel() for x in axes)}, got {tuple(target.shape)}")
        if not torch.isfinite(target).all():
            raise ValueError("the target holds NaN or infinite values")
        self.equation, self.axes, self.target, self.preconditioners = equation, list(axes), target, preconditioners
        self.weights = {name: weights.get(name, 0.0) for name in LOSSES}
        self._faces = {name: self._find_faces(name) for name in ("initial", "boundary")}
        self._gram = GramResidual(equation, axes) if self._gram_is_cheaper(model) else None
        orders = equation.orders[:1] if self._gram or not self.weights["residual"] else equation.orders
        self.fields = (SeparableFields if isinstance(model, CP) else PointFields)(model, axes, orders)
        self.parameter = self.fields.parameter
        self._source = equation.sources(axes)
        self._share = sum(self._seen(name) for name in LOSSES[1:])
        self._plain = sum(self._seen(name) for name in LOSSES[1:] if name not in preconditioners)

    def _gram_is_cheaper(self, model: torch.nn.Module) -> bool:
        """Whether Gram matrices, ``4 D n (T R)^2``, take fewer operations than the fields and back, ``6 T R n^D``."""
        if self.equation.rest is not None or not self.equation.linear or not isinstance(model, CP):
            return False
        n, dims, rank = self.axes[0].numel(), len(self.axes), model.factors[0].rank * len(self.equation.linear)
        return 2 * dims * rank < 3 * n ** (dims - 1)

    def _find_faces(self, name: str) -> dict[int, Tensor]:
        """Faces that a loss sees: axis to the indices of its ends."""
        wanted = {axis: c == "t" for axis, c in enumerate(self.equation.domain) if (c == "t") == (name == "initial")}
        return {
            axis: torch.tensor([0] if time else [0, self.axes[axis].numel() - 1], device=self.target.device)
            for axis, time in wanted.items()
        }

    def _entries(self, name: str) -> int:
        """Number of squares that a loss is the mean of."""
        if name in ("residual", "data"):
            return self.target.numel()
        faces = self._faces[name].items()
        return max(1, sum(len(ends) * self.target.numel() // self.target.shape[axis] for axis, ends in faces))

    def _seen(self, name: str) -> Tensor:
        """Weight with which a loss counts the square of each point's error, ``(n, ..., n)``."""
        weight = self.weights[name] / self._entries(name)
        if name == "data":
            return torch.full_like(self.target, weight)
        seen = torch.zeros_like(self.target)
        for axis, ends in self._faces[name].items():
            seen.index_add_(axis, ends, torch.ones_like(seen).index_select(axis, ends), alpha=weight)
        return seen

    @torch.no_grad()
    def forward(self) -> None:
        """Evaluate the fields, the error and the residual (Sec. A.12)."""
        self._fields = self.fields.forward()
        self.error = self._fields[:, 0] - self.target
        if not self.weights["residual"]:
            self._square = self.error.new_zeros(len(self.error))
        elif self._gram:
            self._square, self._cotangent = self._gram(self.fields.values)
        else:
            self.residual = self.equation.operator(self._fields, self.axes) - self._source
            self._square = self.residual.square().flatten(1).sum(1)

    def prediction(self) -> Tensor:
        """U on the grid, ``(E, n, ..., n)``."""
        return self._fields[:, 0]

    def loss(self) -> Tensor:
        """The weighted sum, ``(E,)`` (Sec. A.12)."""
        error = (self._share * self.error.square()).flatten(1).sum(1)
        return error + self.weights["residual"] / self.target.numel() * self._square

    def parts(self) -> dict[str, Tensor]:
        """The four mean squares by name, each ``(E,)``, without their weights (Sec. A.12)."""
        parts = {"residual": self._square / self.target.numel(), "data": self.error.square().flatten(1).mean(1)}
        for name in ("initial", "boundary"):
            faces = [
                self.error.index_select(a + 1, ends).square().flatten(1).sum(1) for a, ends in self._faces[name].items()
            ]
            parts[name] = sum(faces, torch.zeros_like(self._square)) / self._entries(name)
        return parts

    @torch.no_grad()
    def backward(self, iteration: int) -> None:
        """Set the parameters' gradient, with SepPGD for the losses that have one (Definition 1, Sec. A.12)."""
        on_error = 2 * self._plain * self.error
        for name in self.preconditioners:
            on_error += self._preconditioned(name, iteration)
        self._send(on_error, 2 * self.weights["residual"] / self.target.numel())
        self.fields.hand_over()

    def _preconditioned(self, name: str, iteration: int) -> Tensor:
        """Cotangent of u from a loss with SepPGD: ``sum_d e x_d S_d`` on the grid, or on each face over the face's own axes."""
        matrices, weight = self.preconditioners[name].current(iteration), 2 * self.weights[name] / self._entries(name)
        if name == "data":
            return weight * kronecker_sum(self.error, matrices)
        result = torch.zeros_like(self.error)
        for axis, ends in self._faces[name].items():
            faces = self.error.index_select(axis + 1, ends)  # both ends of an axis go together
            across = [None if d == axis else S for d, S in enumerate(matrices)]
            result.index_add_(axis + 1, ends, kronecker_sum(faces, across), alpha=weight)
        return result

    def _send(self, on_error: Tensor, weight: float) -> None:
        """Backward from a cotangent of u and ``weight / 2`` times the residual's square."""
        if not weight:
            self.fields.backward(self._padded(on_error))
        elif self._gram:
            self.fields.backward(on_error[:, None], weight * self._cotangent)
        else:
            cotangent = self.equation.pull_back(weight * self.residual, self._fields, self.axes)
            cotangent[:, 0] += on_error
            self.fields.backward(cotangent)

    def _padded(self, on_error: Tensor) -> Tensor:
        if self._fields.shape[1] == 1:
            return on_error[:, None]
        return torch.cat([on_error[:, None], torch.zeros_like(self._fields[:, 1:])], 1)

    def gradient_norms(self, iteration: int) -> dict[str, float]:
        """Norm of what each loss adds to the gradient, SepPGD and weights included (Sec. A.12). Between forward and backward."""
        norms = {}
        for name in LOSSES:
            if name == "residual":
                self._send(torch.zeros_like(self.error), 2 * self.weights["residual"] / self.target.numel())
            elif name in self.preconditioners:
                self._send(self._preconditioned(name, iteration), 0)
            else:
                self._send(2 * self._seen(name) * self.error, 0)
            norms[name] = self.fields.gradient.norm().item()
        return norms

    def begin(self) -> None:
        """Every preconditioner begins anew (Definition 1)."""
        for preconditioner in self.preconditioners.values():
            preconditioner.begin()

    def state_dict(self) -> dict[str, Any]:
        """Tensors that a checkpoint must hold to go on exactly (Definition 1)."""
        return {name: preconditioner.state_dict() for name, preconditioner in self.preconditioners.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo :meth:`state_dict`."""
        for name, preconditioner in self.preconditioners.items():
            preconditioner.load_state_dict(state[name])
