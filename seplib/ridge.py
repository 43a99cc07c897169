"""Kernel ridge regression on the gradient features of a network at initialisation (Eq. (15), Sec. A.12)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seplib.factors import EnsembleMLP
from seplib.separable import CP, MLP, check_axes, check_points, cp_tensor

Tape = tuple[list[Tensor], list[Tensor]]


class Linearised(nn.Module):
    """Linear model ``h(x) = <Theta', grad f_{Theta_0}(x)>`` of Eq. (15), a coefficient for each weight of the network.

    The features are never formed. On a grid a CP network's linearisation is separable itself, ``sum_d`` of CP tensors
    with one factor replaced by its derivative along Theta'_d (the product rule), so that a step costs what the
    network's own step costs and not ``n^D P``. Its kernel is the network's at Theta_0. It has the verbs of a network
    and trains with :func:`seplib.training.fit` under any preconditioner made from the network itself.

    The model has one copy, and its weights must not change afterwards; there are ``copies`` coefficient vectors, for as
    many targets.

    Raises:
        TypeError, ValueError: another kind of network, one with several copies, fewer than one copy asked for.

    >>> h = Linearised(MLP(2, width=8, depth=3, activation="relu", parametrization="torch"), copies=3)
    >>> h.points(torch.zeros(5, 2)).shape
    torch.Size([3, 5])
    """

    def __init__(self, model: nn.Module, copies: int = 1):
        super().__init__()
        if not isinstance(model, CP | MLP):
            raise TypeError(f"only a CP network or an MLP is linearised here, got {type(model).__name__}")
        self.separable = isinstance(model, CP)
        nets = list(model.factors) if self.separable else [model]
        if nets[0].ensemble != 1 or copies < 1:
            raise ValueError(f"linearise one copy for at least one target, got {nets[0].ensemble} and {copies}")
        self._nets, self.scale = nets, model.scale if self.separable else 1.0
        self._dims = len(nets) if self.separable else model.weights[0].shape[-1]
        self._tapes: dict[tuple[int, int], tuple[Tensor, int, Tape, Tensor]] = {}
        self.coefficients = nn.ModuleList(_Direction(net, copies) for net in nets)

    def grid(self, axes: Sequence[Tensor] | Tensor) -> Tensor:
        """Values on a grid, ``(E, n_1, ..., n_D)`` (Eq. (15)). Errors: as for the network."""
        check_axes(axes, self._dims)
        if not self.separable:
            return self.points(torch.cartesian_prod(*axes)).unflatten(1, [x.numel() for x in axes])
        values, tangents = self._evaluate(axes)
        values = [value.expand(len(tangents[0]), -1, -1) for value in values]
        terms = (cp_tensor(*values[:d], tangent, *values[d + 1 :]) for d, tangent in enumerate(tangents))
        return self.scale * sum(terms)

    def points(self, X: Tensor) -> Float[Tensor, "E N"]:
        """Values at scattered points, ``(N, D)`` to ``(E, N)`` (Eq. (15)). Errors: as for the network."""
        check_points(X, self._dims)
        if not self.separable:
            return self._evaluate([X])[1][0][..., 0]
        values, tangents = self._evaluate(X.unbind(1), X)
        total = 0
        for d, tangent in enumerate(tangents):
            for other, value in enumerate(values):
                tangent = tangent if other == d else tangent * value
            total = total + tangent.sum(-1)
        return self.scale * total

    def _evaluate(self, inputs: Sequence[Tensor], owner: Tensor | None = None) -> tuple[list[Tensor], list[Tensor]]:
        """Each network's output at Theta_0 and its derivative along the coefficients."""
        values, tangents = [], []
        for d, (net, direction, x) in enumerate(zip(self._nets, self.coefficients, inputs)):
            tape, value = self._tape(d, x, x if owner is None else owner)
            values.append(value)
            tangents.append(_tangent(net, tape, direction))
        return values, tangents

    @torch.no_grad()
    def _tape(self, d: int, x: Tensor, owner: Tensor) -> tuple[Tape, Tensor]:
        """What the network computes at Theta_0, kept for the tensors asked last: it is the same in every iteration."""
        key, net = (id(owner), d), self._nets[d]
        kept, version, *result = self._tapes.get(key, (None, None))
        if kept is not owner or version != owner._version:
            tape = net.tape(net.encode(x) if self.separable else x)
            result = [tape, net.linear(net.depth - 1, tape[0][-1])]
            while len(self._tapes) >= 4 * len(self._nets):
                self._tapes.pop(next(iter(self._tapes)))
            self._tapes[key] = (owner, owner._version, *result)
        return tuple(result)


def features(model: CP | MLP, X: Tensor) -> Float[Tensor, "N P"]:
    """Feature matrix ``phi(x) = grad f_{Theta_0}(x)`` of Eq. (15), row by row, for small problems only.

    One backward pass through N linearised copies, the n-th asked for the n-th point. Memory: ``N P`` numbers.

    >>> phi = features(MLP(2, width=4, depth=1), torch.tensor([[2., 3.]]))      # f(x) = w x + b
    >>> phi
    tensor([[2., 3., 1.]])
    """
    linear = Linearised(model, copies=len(X))
    linear.points(X).diagonal().sum().backward()
    return torch.cat([p.grad.flatten(1) for p in linear.parameters()], 1)


class _Direction(nn.Module):
    """Coefficients Theta'_d of one network, zero at first: a point in weight space for each copy."""

    def __init__(self, net: EnsembleMLP, copies: int):
        super().__init__()
        self.weights = nn.ParameterList(w.new_zeros(copies, *w.shape[1:]) for w in net.weights)
        self.biases = nn.ParameterList(b.new_zeros(copies, *b.shape[1:]) for b in net.biases)


def _tangent(net: EnsembleMLP, tape: Tape, direction: _Direction) -> Float[Tensor, "E n out"]:
    """Derivative of a network's output along a direction in weight space, layer by layer: a Jacobian-vector product."""
    inputs, slopes = tape
    tangent = None
    for layer, (h, weight) in enumerate(zip(inputs, direction.weights)):
        change = net.scales[layer] * (h @ weight.mT)
        if layer < len(direction.biases):
            change = change + direction.biases[layer][:, None]
        if layer:
            change = change + net.scales[layer] * (tangent @ net.weights[layer].detach().mT)
        tangent = slopes[layer] * change if layer < len(slopes) else change
    return tangent


def ridge_weights(K: Tensor, targets: Tensor, gamma: float, S: Tensor | None = None) -> Float[Tensor, "E N"]:
    """Dual weights ``alpha`` of the minimiser of Eq. (15): its values are ``h(x) = sum_j K(x, x_j) alpha_j``.

    Setting the gradient to zero gives ``Theta' = Phi^T alpha`` with ``(K + gamma S^{-1}) alpha = y``; it is solved as
    ``alpha = S^{1/2} (S^{1/2} K S^{1/2} + gamma I)^{-1} S^{1/2} y``, which stays well-posed where S is nearly singular.

    K is the ``(N, N)`` kernel at the training points, the targets are ``(E, N)``, gamma is the ridge, positive, or 0
    for a nonsingular K; S is a symmetric positive definite preconditioner, the identity if None.

    Raises:
        ValueError: a negative ridge, targets that are not ``(E, N)``.

    >>> ridge_weights(torch.tensor([[3.]]), torch.tensor([[2.]]), gamma=1.0)
    tensor([[0.5000]])
    """
    if not gamma >= 0:
        raise ValueError(f"the ridge gamma must not be negative, got {gamma}")
    if targets.ndim != 2 or targets.shape[1] != len(K):
        raise ValueError(f"the targets must be (E, {len(K)}) for this kernel, got {tuple(targets.shape)}")
    identity = torch.eye(len(K), dtype=K.dtype, device=K.device)
    if S is None:
        return torch.linalg.solve(K + gamma * identity, targets.mT).mT
    values, vectors = torch.linalg.eigh(S)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.mT
    return (root @ torch.linalg.solve(root @ K @ root + gamma * identity, root @ targets.mT)).mT
