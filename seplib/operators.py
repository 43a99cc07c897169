"""Symmetric matrices on a grid that are applied, never formed (Lemma 3, Eq. (10))."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from seplib import tensorops


class SymmetricOperator(ABC):
    """E symmetric ``N x N`` matrices on a grid of ``N = n_1 ... n_D`` points, known by their products (Lemma 3).

    Subclasses set ``dtype`` and ``device`` and define ``product`` and ``dense``.
    """

    dtype: torch.dtype
    device: torch.device

    def __init__(self, ensemble: int, sizes: Sequence[int]):
        self.ensemble, self.sizes = ensemble, tuple(sizes)
        self.points = math.prod(self.sizes)
        self.shape = (self.points, self.points)

    @abstractmethod
    def product(self, V: Tensor, members: slice) -> Tensor:
        """Apply the matrices of some ensemble members to ``(len(members), n_1, ..., n_D)`` (Lemma 3)."""

    @abstractmethod
    def dense(self) -> Float[Tensor, "E N N"]:
        """The matrices themselves, rows and columns in the order of :mod:`seplib.tensorops` (Eq. (9))."""

    def matvec(self, v: Tensor) -> Tensor:
        """Product ``K v`` for ``(E, N)``, ``(E, n_1, ..., n_D)``, or of a single member ``(N,)`` (Lemma 3).

        Raises:
            ValueError: v has another number of entries than E N.
        """
        if v.numel() != self.ensemble * self.points:
            raise ValueError(
                f"this operator takes {self.ensemble} x {self.points} numbers, for a grid of {self.sizes}; "
                f"got a tensor of shape {tuple(v.shape)}"
            )
        return self.product(v.reshape(self.ensemble, *self.sizes), slice(None)).reshape(v.shape)

    def eigsh(self, k: int) -> tuple[Float[Tensor, "E k"], Float[Tensor, "E N k"]]:
        """The k largest eigenvalues, in descending order, and their eigenvectors (Fig. 1).

        ARPACK's Lanczos method with a fixed start, one ensemble member after the other; where k is no small part of N,
        the dense matrix's decomposition. Memory: ``O(k N)``.

        Raises:
            ValueError: k is not between 1 and N.
        """
        if not 1 <= k <= self.points:
            raise ValueError(f"k must be between 1 and the number of grid points, {self.points}, got {k}")
        if 4 * k > self.points:
            values, vectors = torch.linalg.eigh(self.dense())
            return values[:, -k:].flip(-1), vectors[..., -k:].flip(-1)
        found = [self._lanczos(member, k) for member in range(self.ensemble)]
        values, vectors = zip(*found)
        return torch.stack(values), torch.stack(vectors)

    def _lanczos(self, member: int, k: int) -> tuple[Tensor, Tensor]:
        from scipy.sparse.linalg import LinearOperator, eigsh  # half a second that few need

        def product(v: np.ndarray) -> np.ndarray:
            V = torch.from_numpy(v).to(self.device, self.dtype).reshape(1, *self.sizes)
            return self.product(V, slice(member, member + 1)).double().flatten().cpu().numpy()

        # A generic start: a smooth one could be orthogonal to a whole symmetry class of eigenvectors.
        start = np.random.default_rng(0).standard_normal(self.points)
        operator = LinearOperator(self.shape, matvec=product, dtype=np.float64)
        tolerance = 100 * torch.finfo(self.dtype).eps
        values, vectors = eigsh(operator, k, which="LA", v0=start, tol=tolerance)
        pair = (torch.from_numpy(array).to(self.device, self.dtype) for array in (values, vectors))
        return tuple(part.flip(-1) for part in pair)  # scipy's order is ascending


class KroneckerOperator(SymmetricOperator):
    """Sum of Kronecker products ``sum_t A_t1 x ... x A_tD`` as a linear operator, the form of Eqs. (9) and (10).

    Args:
        terms: for each t the D symmetric matrices ``(E, n_d, n_d)``.

    Raises:
        ValueError: terms of unequal shapes.

    >>> K = KroneckerOperator([[torch.eye(2)[None], 2 * torch.eye(3)[None]]])
    >>> K.matvec(torch.ones(6))
    tensor([2., 2., 2., 2., 2., 2.])
    """

    def __init__(self, terms: Sequence[Sequence[Tensor]]):
        shapes = {tuple(tuple(A.shape) for A in term) for term in terms}
        if len(shapes) != 1 or any(len(s) != 3 or s[1] != s[2] for s in next(iter(shapes))):
            raise ValueError(f"every term takes the same D shapes (E, n_d, n_d), got {sorted(shapes)}")
        super().__init__(terms[0][0].shape[0], [A.shape[1] for A in terms[0]])
        self.terms = [list(term) for term in terms]
        self.dtype, self.device = terms[0][0].dtype, terms[0][0].device

    def product(self, V: Tensor, members: slice) -> Tensor:
        """Apply the terms one after the other, mode product by mode product (Eq. (10)). Cost: ``2 T N sum_d n_d``."""
        total = torch.zeros_like(V)
        for term in self.terms:
            image = V
            for mode, A in enumerate(term):
                image = tensorops.mode_product(image, A[members], mode)
            total += image
        return total

    def dense(self) -> Float[Tensor, "E N N"]:
        """The matrices, Kronecker product by Kronecker product (Eq. (10)). Cost: ``T N^2``."""
        total = 0
        for term in self.terms:
            matrix = term[0]
            for A in term[1:]:
                blocks = matrix[:, :, None, :, None] * A[:, None, :, None, :]
                matrix = blocks.flatten(3, 4).flatten(1, 2)
            total = total + matrix
        return total
