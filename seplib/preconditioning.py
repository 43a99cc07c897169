"""Separable preconditioned gradient descent (Sec. 4, Definition 1, Sec. A.1.4)."""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from seplib import ntk, tensorops
from seplib.factors import Data
from seplib.operators import KroneckerOperator
from seplib.separable import CP, check_axes, check_points

MODULATIONS = ("flat", "sqrt", "geometric")
SOLVERS = ("full", "lanczos")


@dataclass
class Preconditioner:
    """Factor preconditioner ``S = I - V diag(1 - g/lambda) V^T`` of Sec. 4, kept as a rank-k update.

    Attributes:
        vectors: ``(E, n, k)``, the top k eigenvectors V.
        damping: ``(E, k)``, the numbers ``1 - g(lambda_i)/lambda_i``.
    """

    vectors: Tensor
    damping: Tensor

    def correction(self, tensor: Tensor, mode: int) -> Tensor:
        """The part that S takes away, ``T x_d (V diag(1 - g/lambda) V^T)`` (Sec. 4). Cost: ``4 k N``."""
        inner = tensorops.mode_product(tensor, self.vectors.mT, mode)
        return tensorops.mode_product(inner, self._damped, mode)

    @cached_property
    def _damped(self) -> Tensor:
        return self.vectors * self.damping[:, None]

    def apply(self, tensor: Tensor, mode: int) -> Tensor:
        """``T x_d S`` of Definition 1, never forming S. Cost: ``4 k N`` for N entries, not ``2 n N``."""
        return tensor - self.correction(tensor, mode)

    def dense(self) -> Float[Tensor, "E n n"]:
        """S as a matrix, for inspection (Sec. 4)."""
        identity = torch.eye(self.vectors.shape[1], dtype=self.vectors.dtype, device=self.vectors.device)
        return identity - self._damped @ self.vectors.mT


def top_eigenpairs(K: Tensor, k: int, solver: str = "full") -> tuple[Float[Tensor, "E k"], Float[Tensor, "E n k"]]:
    """The k largest eigenvalues, falling, and their eigenvectors (Sec. 4, Table 1).

    The solver is ``"full"`` for the whole decomposition, ``O(n^3)``, as the paper counts it; or ``"lanczos"`` for
    ARPACK's Lanczos method, a few dozen products with K, ``O(k n^2)``, see
    :meth:`seplib.operators.SymmetricOperator.eigsh`.

    Raises:
        ValueError: k out of range, an unknown solver.

    >>> top_eigenpairs(torch.diag(torch.tensor([8., 4., 1.]))[None], 2, "lanczos")[0].round(decimals=4)
    tensor([[8., 4.]])
    """
    check_modulation(k, K.shape[-1], "kernel's size", solver=solver)
    if solver == "lanczos":
        return KroneckerOperator([[K]]).eigsh(k)
    values, vectors = torch.linalg.eigh(K)
    return values[:, -k:].flip(-1), vectors[:, :, -k:].flip(-1).contiguous()


@torch.no_grad()
def modulate(K: Tensor, k: int, g: str = "flat", solver: str = "full") -> Preconditioner:
    """Preconditioner that flattens the top of a kernel's spectrum, ``S_d`` of Sec. 4 with ``g_1`` or ``g_2`` of A.1.4.

    The eigenvalues of ``K S`` are ``g(lambda_i)`` for i <= k and ``lambda_i`` behind. Eigenvalues below the rounding
    error of the largest carry no information and could turn the sign of S; they are raised to that level.

    K holds ``(E, n, n)`` symmetric positive semi-definite kernels, whose top k eigenvalues are found by a solver of
    :func:`top_eigenpairs`. g is ``"flat"`` for g_1 (lambda_i becomes lambda_k), ``"sqrt"`` for g_2 (its square root),
    or ``"geometric"`` for g_2 of the kernel divided by lambda_k (the geometric mean of lambda_i and lambda_k); like g_1
    that does not depend on the kernel's unit.

    Cost: one symmetric eigendecomposition a copy, ``O(n^3)``, or a Lanczos iteration. The host waits for a GPU twice:
    for the check of K and for the decomposition's error code; with "lanczos" twice a product, too.

    Raises:
        ValueError: k out of range, an unknown modulation or solver, K not square or not symmetric.

    >>> S = modulate(torch.diag(torch.tensor([8., 4., 1.]))[None], k=2)
    >>> S.dense()[0].diagonal()
    tensor([0.5000, 1.0000, 1.0000])
    """
    if K.ndim != 3 or K.shape[1] != K.shape[2]:
        raise ValueError(f"a kernel must have shape (E, n, n), got {tuple(K.shape)}")
    check_modulation(k, K.shape[-1], "kernel's size", g=g, solver=solver)
    if not K.is_meta:  # a meta tensor has no values to look at
        _check_symmetric(K)
    values, vectors = top_eigenpairs(K, k, solver)
    values = values.clamp_min(torch.finfo(K.dtype).eps * values[:, :1])
    target = {"flat": values[:, -1:], "sqrt": values.sqrt(), "geometric": values.sqrt() * values[:, -1:].sqrt()}[g]
    return Preconditioner(vectors, (1 - target / values).nan_to_num())  # 0/0 in a kernel of zeros: S = I


def _check_symmetric(K: Tensor) -> None:
    gap, size = torch.stack([(K - K.mT).abs().max(), K.abs().max()]).tolist()  # together: the host waits once
    if not math.isfinite(size):
        raise ValueError("the kernel holds NaN or infinite values")
    if gap > 1e3 * torch.finfo(K.dtype).eps * size:
        found = f"K and its transpose differ by {gap:.3g} (largest entry {size:.3g})"
        raise ValueError(f"the kernel must be symmetric, but {found}")


def kronecker_sum(residual: Tensor, preconditioners: Sequence[Preconditioner | None]) -> Tensor:
    """Preconditioned residual ``sum_d R x_d S_d`` of Eq. (8), the ``S~ r`` of Lemma 2.

    A mode whose preconditioner is None is left out of the sum, such as the one that counts the faces of a grid. Cost:
    ``4 k D N`` for N entries.

    Raises:
        ValueError: not one preconditioner a mode.
    """
    modes = residual.ndim - 1
    if len(preconditioners) != modes:
        raise ValueError(f"a residual with {modes} modes takes {modes} preconditioners, got {len(preconditioners)}")
    present = [(mode, p) for mode, p in enumerate(preconditioners) if p is not None]
    total = len(present) * residual
    for mode, p in present:
        total -= p.correction(residual, mode)
    return total


def cotangents(
    factors: Sequence[Tensor], residual: Tensor, preconditioners: Sequence[Preconditioner]
) -> list[Float[Tensor, "E n R"]]:
    """Mode-d preconditioners ``M_d`` of Eq. (8), transposed: what each factor network receives backward.

    Eq. (8) is written for the factors as they are, ``(E, n_d, R)``: multiply by the model's scale for the gradient of a
    network with the factor 1/sqrt(R) in front. All M_d share one sum ``sum_e R x_e S_e``: sent backward through the CP
    product it gives each of them. Cost: ``(4 R + 4 k D) N`` for N grid points.

    >>> F = [torch.ones(1, 2, 3), torch.ones(1, 4, 3)]
    >>> S = [modulate(torch.eye(n)[None], k=1) for n in (2, 4)]
    >>> [M[0, 0, 0].item() for M in cotangents(F, torch.ones(1, 2, 4), S)]
    [8.0, 4.0]
    """
    return tensorops.mttkrp(kronecker_sum(residual, preconditioners), factors)


class Method(ABC):
    """Preconditioners S that are kept and computed anew every few steps: what SepPGD and MSK share (Sec. 4, Table 4).

    A method maps the cotangent of the network's output, dLoss/dZ, to the preconditioned one. In
    :func:`seplib.training.fit` it is the preconditioner; in a loop of one's own, with any loss, it is a hook::

        Z = model.grid(axes)
        Z.register_hook(method)
        loss(Z, Y).backward()

    It then counts its calls itself: each backward pass is one step. The count belongs to :meth:`state_dict`.
    """

    solver = "full"
    step = 0  # of the next call that brings no number
    made: Any = None  # at which step the preconditioners were

    def __init__(self, sizes: Sequence[int], like: Tensor, k: int, update_every: int, g: str):
        self.sizes, self.like, self.k, self.update_every, self.g = list(sizes), like, k, update_every, g
        self.preconditioners: list[Any] = []

    def __call__(self, cotangent: Tensor, iteration: int | None = None) -> Tensor:
        """Preconditioned cotangent, of the same shape, for the step that is named or the next one (Table 1)."""
        iteration = self.step if iteration is None else iteration
        result = self.precondition(cotangent, iteration)
        self.step = iteration + 1
        return result

    def begin(self) -> None:
        """Count from 0 again: the next step computes every S anew (Sec. A.12)."""
        self.step, self.made = 0, None

    @abstractmethod
    def precondition(self, cotangent: Tensor, iteration: int) -> Tensor:
        """What the call does (Table 1)."""

    @abstractmethod
    def kernels(self) -> Iterable[Tensor]:
        """Kernels of the network as it is, one a preconditioner (Sec. 4)."""

    def update(self) -> None:
        """Compute every S anew (Sec. 4): a kernel, an eigendecomposition, and two waits for a GPU each."""
        self.preconditioners = [modulate(K, self.k, self.g, self.solver) for K in self.kernels()]

    def current(self, iteration: int) -> list[Preconditioner]:
        """The S in force at a step, computed anew at multiples of ``update_every``, once if asked twice (Table 4)."""
        if not self.preconditioners or (iteration % self.update_every == 0 and iteration != self.made):
            self.update()
            self.made = iteration
        return self.preconditioners

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold to go on exactly (Sec. 4)."""
        pairs = [p and (p.vectors, p.damping) for p in self.preconditioners]
        return {"step": self.step, "made": copy.copy(self.made), "preconditioners": pairs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo :meth:`state_dict`; ValueError for preconditioners of another number or size (Sec. 4)."""
        pairs = state["preconditioners"]
        if pairs and len(pairs) != len(self.sizes):
            raise ValueError(f"{len(self.sizes)} preconditioners are needed, the state holds {len(pairs)}")
        self.preconditioners = [pair and self._restored(pair, n) for pair, n in zip(pairs, self.sizes)]
        self.step, self.made = state["step"], copy.copy(state["made"])

    def _restored(self, pair: Sequence[Tensor], points: int) -> Preconditioner:
        vectors, damping = pair
        if tuple(vectors.shape[1:]) != (points, self.k) or tuple(damping.shape) != (len(vectors), self.k):
            found = f"{tuple(vectors.shape)} and {tuple(damping.shape)}"
            raise ValueError(f"a preconditioner of {points} points and k = {self.k} cannot have {found}")
        return Preconditioner(vectors.to(self.like.device), damping.to(self.like.device))


class SepPGD(Method):
    """Separable preconditioned gradient descent, on a grid of any D >= 2 or at scattered points (Definition 1).

    On a grid a cotangent R becomes ``sum_d R x_d S_d``; sent backward through ``model.grid(axes)`` that becomes Eq.
    (7), since the CP product's backward is Eq. (8): for the loss of Eq. (6) R is the residual. At scattered points it
    becomes ``sum_d S_d r``, the non-grid form after Lemma 2, each S_d from the factor kernel on the points' d-th
    coordinates. Plug it into a loop of one's own as a hook, see :class:`Method`, or into :func:`seplib.training.fit`,
    with any optimizer.

    Args:
        model: the CP network whose factor kernels make the preconditioners.
        axes: D tensors ``(n_d,)``, the training grid; or one tensor ``(N, D)`` of scattered points.
        k: number of modulated eigenvalues of each factor kernel, 1 to the smallest n_d.
        update_every: steps between two computations of the preconditioners, each ``O(D (n^3 + n^2 W L + n W^2 L))``
            (Table 4).
        g: ``"flat"``, ``"sqrt"`` or ``"geometric"``, see :func:`modulate`.

    Raises:
        TypeError, ValueError: no CP network, wrong axes, k out of range, update_every below 1, an unknown modulation;
            when called, a cotangent that does not belong to the axes or points.
    """

    def __init__(
        self, model: torch.nn.Module, axes: Sequence[Data] | Data, k: int = 70, update_every: int = 10, g: str = "flat"
    ):
        if not isinstance(model, CP):
            raise TypeError(f"SepPGD preconditions a CP network, got {type(model).__name__}")
        self.scattered, dims = isinstance(axes, Data), len(model.factors)
        self.axes = list(check_points(axes, dims, model).unbind(1)) if self.scattered else check_axes(axes, dims, model)
        super().__init__([x.numel() for x in self.axes], self.axes[0], k, update_every, g)
        self.shape = tuple(self.sizes[:1] if self.scattered else self.sizes)
        what = "number of points" if self.scattered else "shortest axis"
        check_modulation(k, min(self.shape), what, update_every, g)
        self.model = model

    def kernels(self) -> Iterable[Tensor]:
        """The factors' pseudo-NTKs, Eq. (10), one by one."""
        return (ntk.pseudo(f, x) for f, x in zip(self.model.factors, self.axes))

    def precondition(self, cotangent: Tensor, iteration: int) -> Tensor:
        """The sum of Eq. (8), or its counterpart at points."""
        if tuple(cotangent.shape[1:]) != self.shape:
            kind = "scattered points" if self.scattered else "a grid"
            found = tuple(cotangent.shape)
            raise ValueError(f"SepPGD was made for {kind} of shape {self.shape}, got a residual {found}")
        made = self.current(iteration)
        if not self.scattered:
            return kronecker_sum(cotangent, made)
        return len(made) * cotangent - sum(p.correction(cotangent, 0) for p in made)

    def operator(self) -> KroneckerOperator:
        """The ``S~`` in force as an operator: ``sum_d I x ... S_d ... x I`` on a grid, Lemma 2."""
        matrices = [p.dense() for p in self.preconditioners or self.current(0)]
        if self.scattered:
            return KroneckerOperator([[S] for S in matrices])
        identities = [torch.eye(S.shape[-1], dtype=S.dtype, device=S.device).expand_as(S) for S in matrices]
        terms = [[S if d == e else identities[d] for d, S in enumerate(matrices)] for e in range(len(matrices))]
        return KroneckerOperator(terms)


def check_modulation(k: int, points: int, what: str, update_every: int = 1, g: str = "flat", solver: str = "full"):
    """Refuse settings that no kernel of this size can serve, by a ValueError (Sec. 4)."""
    if not 1 <= k <= points:
        raise ValueError(f"k must be between 1 and the {what}, {points} points, got {k}")
    if update_every < 1:
        raise ValueError(f"update_every must be at least 1, got {update_every}")
    if g not in MODULATIONS:
        raise ValueError(f"modulation g must be one of {', '.join(MODULATIONS)}, got {g!r}")
    if solver not in SOLVERS:
        raise ValueError(f"solver must be one of {', '.join(SOLVERS)}, got {solver!r}")
