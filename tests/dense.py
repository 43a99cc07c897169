"""A deliberately slow, obvious oracle: autograd Jacobians and explicit Kronecker products, in float64.

Nothing here shares code with the library beyond the models' forward passes; the fast code is compared with it.
"""

import math

import torch


def agree(fast: torch.Tensor, slow: torch.Tensor, tolerance: float = 1e-10) -> None:
    """Fast and slow results agree in shape, dtype and, relative to the slow one's norm, in value."""
    assert fast.shape == slow.shape, (fast.shape, slow.shape)
    assert fast.dtype == slow.dtype == torch.float64
    size = slow.norm().item()
    assert size > 0, "comparing with zero would prove nothing"
    assert (fast - slow).norm().item() <= tolerance * size, ((fast - slow).norm() / size).item()


def jacobian(output: torch.Tensor, parameters: list[torch.Tensor]) -> torch.Tensor:
    """Rows: the output's entries; columns: all parameters, one ``backward`` a row."""
    rows = []
    for entry in output.flatten():
        grads = torch.autograd.grad(entry, parameters, retain_graph=True, allow_unused=True)
        rows.append(torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in zip(grads, parameters)]))
    return torch.stack(rows)


def pseudo_ntk(factor, x: torch.Tensor) -> torch.Tensor:
    """``J J^T`` of the sum of the outputs, copy by copy, with the full n x P Jacobian."""
    kernels = []
    for e in range(factor.ensemble):
        J = jacobian(factor(x)[e].sum(-1), list(factor.parameters()))
        kernels.append(J @ J.T)
    return torch.stack(kernels)


def modulation(K: torch.Tensor, k: int, g: str) -> torch.Tensor:
    """The matrix S of Sec. 4, written down eigenpair by eigenpair."""
    S = []
    for kernel in K:
        values, vectors = torch.linalg.eigh(kernel)
        order = values.argsort(descending=True)
        values, vectors = values[order], vectors[:, order]
        matrix = torch.eye(len(values), dtype=K.dtype)
        for i in range(k):
            target = {
                "flat": values[k - 1],
                "sqrt": math.sqrt(values[i]),
                "geometric": math.sqrt(values[i] * values[k - 1]),
            }[g]
            matrix = matrix - (1 - target / values[i]) * torch.outer(vectors[:, i], vectors[:, i])
        S.append(matrix)
    return torch.stack(S)


def kronecker_sum(matrices: list[torch.Tensor]) -> torch.Tensor:
    """``sum_d I x ... x S_d x ... x I`` as one dense matrix, first mode leftmost."""
    total = 0
    for d in range(len(matrices)):
        product = torch.ones(1, 1, dtype=matrices[0].dtype)
        for other, matrix in enumerate(matrices):
            size = matrix.shape[0]
            product = torch.kron(product, matrix if other == d else torch.eye(size, dtype=matrix.dtype))
        total = total + product
    return total


def grid_points(axes: list[torch.Tensor]) -> torch.Tensor:
    """All points of the grid, last coordinate fastest, one by one."""
    points = [[]]
    for axis in axes:
        points = [[*point, value] for point in points for value in axis]
    return torch.stack([torch.stack(point) for point in points])


def cp_value(model, X: torch.Tensor) -> torch.Tensor:
    """Eq. (2) point by point and rank by rank, ``(E, N)``."""
    values = [f(X[:, d].contiguous()) for d, f in enumerate(model.factors)]
    total = torch.zeros(values[0].shape[:2], dtype=X.dtype)
    for r in range(values[0].shape[-1]):
        term = torch.ones_like(total)
        for value in values:
            term = term * value[..., r]
        total = total + term
    return total * model.scale
