"""Neural tangent kernels: at points, on grids as linear operators, and the pseudo-NTK (Lemmas 1 and 3, Eq. (10)).

Everything rests on one rule: a layer's share of a kernel is ``(delta delta'^T) * (s^2 h h'^T + 1)``, an elementwise
product of two Gram matrices, of the layer's cotangents delta and of its inputs h (the 1 is the bias's). No Jacobian of
size n x P is formed.
"""

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seplib import tensorops
from seplib.factors import EnsembleMLP, FactorMLP
from seplib.operators import SymmetricOperator
from seplib.separable import CP, MLP, TT, Tucker, check_axes, check_points

Tape = tuple[list[Tensor], list[Tensor]]


@torch.no_grad()
def empirical(model: nn.Module, X: Tensor, X2: Tensor | None = None) -> Float[Tensor, "E N N2"]:
    """Exact NTK of a network at scattered points, Eq. (4) of Lemma 1.

    Each factor network receives the cotangent ``a_d(x)``, the derivative of the output with respect to its outputs, and
    backpropagates it once; Lemma 1's quadratic form ``a_d(x)^T K_d(x_d, x'_d) a_d(x')`` is then a sum over layers. The
    rule needs only the cotangents, so it holds for TT and Tucker networks (where the core adds a term of its own)
    and, with cotangent 1, for an MLP.

    X and X2 are ``(N, D)`` and ``(N2, D)`` points; X2 is X itself if None. Cost a copy and factor:
    ``4 N P + 2 N^2 (R + 2 W (L - 1))`` operations and ``O(N (R + L W) + N^2)`` memory; the Jacobian's product would
    take ``2 N^2 P`` and ``N P``.

    Raises:
        TypeError, ValueError: no CP, TT or Tucker network of different FactorMLP factors, and no MLP; wrong points.

    >>> from seplib import CP, FactorMLP
    >>> model = CP([FactorMLP(3, width=4, depth=2) for _ in range(2)])
    >>> K = empirical(model, torch.rand(5, 2))
    >>> K.shape, torch.allclose(K, K.mT)
    (torch.Size([1, 5, 5]), True)
    """
    if not isinstance(model, CP | TT | Tucker | MLP):
        raise TypeError(f"the NTK is known for CP, TT, Tucker and MLP networks, got {type(model).__name__}")
    networks, left = _networks(model), _linearize(model, X)
    right = left if X2 is None else _linearize(model, X2)
    kernel = sum(_gram(net, a, b) for net, a, b in zip(networks, left, right))
    if isinstance(model, Tucker):  # the core is a parameter too: its gradient is the outer product of the values
        rows, columns = ([_value(f, tape) for f, (tape, _) in zip(model.factors, side)] for side in (left, right))
        kernel = kernel + math.prod(a @ b.mT for a, b in zip(rows, columns))
    return kernel


@torch.no_grad()
def pseudo(factor: nn.Module, x: Tensor) -> Float[Tensor, "E n n"]:
    """Pseudo-NTK of a factor network by the sum of its logits, K_d of Eq. (10).

    It is the exact kernel of the scalar network ``sum_r f(x)_r``, that is the sum over all r and s of Lemma 1's
    ``K_d^(r,s)``; divide by R for the mean over the outputs that Eq. (10) puts in place of each diagonal block.

    The factor is a :class:`seplib.FactorMLP`, or any module that maps ``(n,)`` to ``(E, n, R)`` point by point and that
    :mod:`torch.func` can differentiate. Cost a copy: ``4 (L - 2) n W^2 + 4 (L - 1) n^2 W`` operations, ``O(n W + n^2)``
    memory; for another module that of its Jacobian, ``2 n^2 P`` and ``n P``.

    >>> from seplib import FactorMLP
    >>> factor = FactorMLP(1, width=4, depth=1)          # f(x) = w x + b, so K(x, x') = x x' + 1
    >>> pseudo(factor, torch.tensor([0., 2.]))
    tensor([[[1., 1.],
             [1., 5.]]])
    """
    if type(factor).forward is not FactorMLP.forward:  # whatever else it computes, the layers do not tell
        return _jacobian_gram(factor, x)
    tape = factor.tape(factor.encode(x))
    # The same cotangent at every point: kept as one row.
    side = tape, tape[0][0].new_ones(factor.ensemble, 1, factor.rank)
    return _gram(factor, side, side).expand(-1, x.numel(), x.numel())


def _jacobian_gram(factor: nn.Module, x: Tensor) -> Float[Tensor, "E n n"]:
    """The kernel of the sum of the outputs of any module, from its Jacobian, parameter by parameter."""
    trained = {name: p.detach() for name, p in factor.named_parameters() if p.requires_grad}

    def logits(parameters: dict[str, Tensor], point: Tensor) -> Tensor:
        return torch.func.functional_call(factor, parameters, (point[None],))[:, 0].sum(-1)

    rows = torch.vmap(torch.func.jacrev(logits), (None, 0), out_dims=1)
    jacobians = rows(trained, x) if trained else {}  # (E, n, ...) each
    flat = (J.reshape(*J.shape[:2], -1) for J in jacobians.values())
    return sum((J @ J.mT for J in flat), x.new_zeros(factor.ensemble, x.numel(), x.numel()))


@torch.no_grad()
def blocks(factor: FactorMLP, x: Tensor) -> Float[Tensor, "E R R n n"]:
    """Kernels ``K_d^(r,s)`` between every two of the R outputs of a factor network, Lemma 3.

    Entry (r, s, i, j) is the inner product of the gradients of output r at x_i and of output s at x_j. Cost a copy:
    ``2 L n^2 R^2 W`` operations, ``R^2 n^2`` memory: for small n and R.

    >>> from seplib import FactorMLP
    >>> factor = FactorMLP(2, width=4, depth=1)
    >>> blocks(factor, torch.tensor([2.]))[0, :, :, 0, 0]       # each output has its own weight and bias
    tensor([[5., 0.],
            [0., 5.]])
    """
    tape = factor.tape(factor.encode(x))
    unit = torch.eye(factor.rank, dtype=tape[0][0].dtype, device=x.device)
    delta = unit[:, None, None].expand(-1, factor.ensemble, x.numel(), -1)  # (R, E, n, R): one cotangent an output
    return sum(
        torch.einsum("reiw,sejw->ersij", delta, delta) * _inputs_gram(factor, layer, h, h)[:, None, None]
        for layer, delta, h in _layers(factor, tape, delta)
    )


class _GridKernel(SymmetricOperator):
    """``s^2 sum_d`` of a kernel of factor d, coupled to the other factors' values: what Eqs. (9) and (10) share."""

    def __init__(self, model: nn.Module, axes: Sequence[Tensor]):
        if not isinstance(model, CP):
            raise TypeError(f"the grid's Kronecker form is that of a CP network, got {type(model).__name__}")
        self.axes = check_axes(axes, len(model.factors), model)
        super().__init__(model.ensemble, [x.numel() for x in self.axes])
        self.factors, self.scale = _networks(model), model.scale
        with torch.no_grad():
            self.tapes = [f.tape(f.encode(x)) for f, x in zip(self.factors, self.axes)]
            self.values = [_value(f, tape) for f, tape in zip(self.factors, self.tapes)]
        self.dtype, self.device = self.values[0].dtype, self.values[0].device

    @torch.no_grad()
    def product(self, V: Tensor, members: slice) -> Tensor:
        """``J (J^T V)``: MTTKRP down to the factors, each factor's kernel, CP product up again (Lemma 3)."""
        values = [F[members] for F in self.values]
        pushed = [self._push(d, M, members) for d, M in enumerate(tensorops.mttkrp(V, values))]
        # sum_d [F_1, ..., K_d M_d, ..., F_D] is one CP product of rank D R.
        dims = range(len(values))
        merged = [torch.cat([pushed[d] if e == d else values[d] for e in dims], -1) for d in dims]
        return self.scale**2 * tensorops.cp_product(merged)

    @torch.no_grad()
    def dense(self) -> Float[Tensor, "E N N"]:
        """The matrix, literally the Kronecker products of Eq. (9) or (10), in ``2 R N^2`` operations a factor."""
        modes, total = len(self.sizes), 0
        for d, n in enumerate(self.sizes):
            a = tensorops.khatri_rao([F for e, F in enumerate(self.values) if e != d])
            rest = [size for e, size in enumerate(self.sizes) if e != d]
            term = self._kronecker(d, a).reshape(self.ensemble, n, *rest, n, *rest)
            # Mode d stands first in rows and in columns: put it back in its place.
            total = total + term.movedim((1, 1 + modes), (1 + d, 1 + modes + d))
        return self.scale**2 * total.reshape(self.ensemble, *self.shape)

    @abstractmethod
    def _push(self, d: int, M: Tensor, members: slice) -> Tensor:
        """The kernel of factor d applied to a cotangent ``(len(members), n_d, R)``."""

    @abstractmethod
    def _kronecker(self, d: int, a: Tensor) -> Tensor:
        """Term d with its mode in front, ``(E, n_d, N/n_d, n_d, N/n_d)``, from the others' Khatri-Rao product."""


class _ExactGridKernel(_GridKernel):
    def __init__(self, model: nn.Module, axes: Sequence[Tensor]):
        super().__init__(model, axes)
        with torch.no_grad():
            self.grams = [
                [_inputs_gram(f, layer, h, h).expand(self.ensemble, -1, -1) for layer, h in enumerate(tape[0])]
                for f, tape in zip(self.factors, self.tapes)
            ]

    def _push(self, d: int, M: Tensor, members: slice) -> Tensor:
        """``J_d (J_d^T M)``: cotangents down through the layers, tangents up again."""
        factor, (_, slopes), grams = self.factors[d], self.tapes[d], self.grams[d]
        weights = [scale * w[members] for scale, w in zip(factor.scales, factor.weights)]
        deltas = [M]
        for layer in range(factor.depth - 1, 0, -1):
            deltas.append((deltas[-1] @ weights[layer]) * slopes[layer - 1][members])
        tangent = grams[0][members] @ deltas.pop()
        for layer in range(1, factor.depth):
            tangent = (slopes[layer - 1][members] * tangent) @ weights[layer].mT
            tangent += grams[layer][members] @ deltas.pop()
        return tangent

    def _kronecker(self, d: int, a: Tensor) -> Tensor:
        return torch.einsum("ersij,ekr,els->eikjl", blocks(self.factors[d], self.axes[d]), a, a)


class _PseudoGridKernel(_GridKernel):
    def __init__(self, model: nn.Module, axes: Sequence[Tensor]):
        super().__init__(model, axes)
        self.kernels = [pseudo(f, x) / f.rank for f, x in zip(self.factors, self.axes)]

    def _push(self, d: int, M: Tensor, members: slice) -> Tensor:
        return self.kernels[d][members] @ M

    def _kronecker(self, d: int, a: Tensor) -> Tensor:
        return torch.einsum("eij,ekl->eikjl", self.kernels[d], a @ a.mT)


def grid(model: nn.Module, axes: Sequence[Tensor]) -> SymmetricOperator:
    """Exact NTK of a CP network on a grid, as a linear operator: Lemma 3 for any D.

    ``K v = J (J^T v)``: the MTTKRP of v gives each factor its cotangent, ``K_d`` acts on it layer by layer, and the CP
    product of the answers is K v. Nothing of size ``n^D x P``, ``n^D x n^D`` or ``n^D x R`` is formed. The operator is
    that of
    the weights of this moment: train further, and it is out of date. A product costs a copy
    ``2 (D + 2) R N + sum_d (4 n_d P + 2 n_d^2 (R + L W))`` operations for ``N = n_1 ... n_D`` points.

    Raises:
        TypeError, ValueError: no CP network of :class:`seplib.FactorMLP` factors, all different; wrong axes.

    >>> from seplib import CP, FactorMLP
    >>> model = CP([FactorMLP(3, width=4, depth=2) for _ in range(2)])
    >>> K = grid(model, [torch.linspace(-1, 1, 4), torch.linspace(-1, 1, 5)])
    >>> v = torch.rand(1, 20)
    >>> torch.allclose(K.matvec(v), (K.dense() @ v[..., None])[..., 0], rtol=1e-4)
    True
    """
    return _ExactGridKernel(model, axes)


def pseudo_grid(model: nn.Module, axes: Sequence[Tensor]) -> SymmetricOperator:
    """Pseudo-NTK of a CP network on a grid as a linear operator, Eq. (10) for any D.

    Every ``K_d^(r,s)`` of Lemma 3 is replaced by ``K_d / R`` for r = s, with K_d from :func:`pseudo`, and by 0 for r !=
    s, so that D terms are left of D R^2. The rest is as for :func:`grid`. A product costs
    ``2 (D + 2) R N + 2 R sum_d n_d^2`` operations.

    >>> from seplib import CP, FactorMLP
    >>> model = CP([FactorMLP(1, width=4, depth=2) for _ in range(2)])
    >>> axes = [torch.linspace(-1, 1, 4), torch.linspace(-1, 1, 5)]
    >>> torch.allclose(pseudo_grid(model, axes).dense(), grid(model, axes).dense(), rtol=1e-4)   # R = 1: the same
    True
    """
    return _PseudoGridKernel(model, axes)


def _networks(model: nn.Module) -> list[EnsembleMLP]:
    networks = [model] if isinstance(model, MLP) else list(model.factors)
    if foreign := [type(f).__name__ for f in networks if not isinstance(f, EnsembleMLP)]:
        raise TypeError(f"the NTK is known for factors of type FactorMLP, got {foreign[0]}")
    if len(set(networks)) < len(networks):
        raise ValueError("Lemma 1 needs factors that share no parameters, got one network in two places")
    return networks


def _linearize(model: nn.Module, X: Tensor) -> list[tuple[Tape, Tensor]]:
    """For each network its tape and the cotangent ``(E, N, outputs)`` that the scalar output sends into it."""
    if isinstance(model, MLP):
        X = check_points(X, model.weights[0].shape[-1], model)
        return [(model.tape(X), X.new_ones(model.ensemble, 1, 1))]
    X = check_points(X, len(model.factors), model)
    tapes = [f.tape(f.encode(x)) for f, x in zip(model.factors, X.unbind(1))]
    values = [_value(f, tape).requires_grad_() for f, tape in zip(model.factors, tapes)]
    with torch.enable_grad():
        cotangents = torch.autograd.grad(model.combine(values).sum(), values)
    return list(zip(tapes, cotangents))


def _value(network: EnsembleMLP, tape: Tape) -> Tensor:
    return network.linear(network.depth - 1, tape[0][-1])


def _layers(network: EnsembleMLP, tape: Tape, delta: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Every layer's number, cotangent and input, from the last layer to the first."""
    inputs, slopes = tape
    for layer in range(network.depth - 1, -1, -1):
        yield layer, delta, inputs[layer]
        if layer:
            delta = network.scales[layer] * (delta @ network.weights[layer]) * slopes[layer - 1]


def _inputs_gram(network: EnsembleMLP, layer: int, h: Tensor, h2: Tensor) -> Tensor:
    """``s^2 h h'^T + 1``, what a layer's weight and bias gradients share."""
    bias = 1.0 if layer < len(network.biases) else 0.0
    return network.scales[layer] ** 2 * tensorops.product(h, h2.mT) + bias


def _gram(network: EnsembleMLP, left: tuple[Tape, Tensor], right: tuple[Tape, Tensor]) -> Tensor:
    """Inner products of the network's gradients for the cotangents of both sides, the sum over its layers."""
    rows = _layers(network, *left)
    pairs = ((row, row) for row in rows) if right is left else zip(rows, _layers(network, *right))
    return sum(
        tensorops.product(d, d2.mT) * _inputs_gram(network, layer, h, h2) for (layer, d, h), (_, d2, h2) in pairs
    )
