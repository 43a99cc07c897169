"""Tensor algebra on grids: the one place that fixes the vec and Kronecker order (Sec. 1, Definition 1).

Every tensor carries a leading ensemble axis ``E`` of independent copies and then its ``D`` modes,
``(E, n_1, ..., n_D)``. Modes are counted from 0. The order of the entries is row-major ("C"), the last mode running
fastest, so that

    vec(T x_d A) = (I x ... x A x ... x I) vec(T)        with A in the d-th place from the left.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

# Largest intermediate of the streamed products, in elements: 4 MiB in float32 stays inside a laptop's cache hierarchy.
SLAB = 1 << 20


def one_by_one(left: Tensor, right: Tensor) -> bool:
    """Whether a batched product of E copies is faster as E products, each on all threads (Sec. A.12, the batched pass).

    On a CPU, BLAS gives every copy of a batch to one thread: three copies on two threads leave one of them idle for a
    quarter of the time. For a few large matrices that costs more than the loop does. Both ways give the same bits.

    >>> one_by_one(torch.zeros(1, 512, 512), torch.zeros(1, 512, 512))
    False
    """
    copies, rows, inner = left.shape
    large = rows * inner * right.shape[-1] >= 1 << 24 and 1 < copies == right.shape[0] <= 16
    return large and left.device.type == "cpu" and copies % torch.get_num_threads() != 0


def product(left: Tensor, right: Tensor) -> Float[Tensor, "E n m"]:
    """Matrix product copy by copy, ``(E, n, k)`` times ``(E, k, m)``, see :func:`one_by_one` (Sec. A.12).

    >>> product(torch.ones(2, 3, 4), torch.ones(2, 4, 5))[0, 0]
    tensor([4., 4., 4., 4., 4.])
    """
    if one_by_one(left, right):
        return torch.stack([a @ b for a, b in zip(left.unbind(), right.unbind())])
    return left @ right


def unfold(tensor: Tensor, mode: int) -> Float[Tensor, "E rest n"]:
    """Unfold ``(E, n_1, ..., n_D)`` along one mode, ``unfold_d`` of Definition 1: the mode's fibres become rows.

    Raises:
        ValueError: the tensor has no such mode.

    >>> unfold(torch.arange(6.).reshape(1, 2, 3), 0)
    tensor([[[0., 3.],
             [1., 4.],
             [2., 5.]]])
    """
    _check_mode(tensor, mode)
    moved = tensor.movedim(mode + 1, -1)
    return moved.reshape(tensor.shape[0], -1, moved.shape[-1])


def mode_product(tensor: Tensor, matrix: Tensor, mode: int) -> Tensor:
    """Mode product ``T x_d A``: apply ``A``, ``(E, m, n_d)`` or ``(m, n_d)``, to each fibre of a mode (Definition 1).

    Cost: ``2 m N`` for ``N`` entries.

    Raises:
        ValueError: the tensor has no such mode, or its size is not the matrix's number of columns.

    >>> mode_product(torch.ones(1, 2, 3), torch.eye(3) * 2, 1)
    tensor([[[2., 2., 2.],
             [2., 2., 2.]]])
    """
    _check_mode(tensor, mode)
    shape = tensor.shape
    if matrix.shape[-1] != shape[mode + 1]:
        raise ValueError(f"mode {mode} has size {shape[mode + 1]}, but the matrix has {matrix.shape[-1]} columns")
    sizes = (*shape[: mode + 1], matrix.shape[-2], *shape[mode + 2 :])
    if mode == len(shape) - 2:  # the last mode is contiguous: one large product instead of many thin ones
        return (tensor.reshape(shape[0], -1, shape[-1]) @ matrix.mT).reshape(sizes)
    blocks = tensor.reshape(shape[0], math.prod(shape[1 : mode + 1]), shape[mode + 1], -1)
    return (matrix.reshape(-1, 1, *matrix.shape[-2:]) @ blocks).reshape(sizes)


def khatri_rao(factors: Sequence[Tensor]) -> Float[Tensor, "E N R"]:
    """Column-wise Kronecker product of factor matrices ``(E, n_d, R)``, the left operand of Eq. (8), transposed.

    The last factor's index runs fastest.

    >>> a, b = torch.tensor([[[1.], [2.]]]), torch.tensor([[[3.], [5.]]])
    >>> khatri_rao([a, b]).flatten()
    tensor([ 3.,  5.,  6., 10.])
    """
    product = factors[0]
    for factor in factors[1:]:
        product = (product[:, :, None] * factor[:, None]).flatten(1, 2)
    return product


def cp_product(factors: Sequence[Tensor]) -> Tensor:
    """Tensor of a CP decomposition, the sum over r of the outer products of the factors' columns, Eq. (2).

    D >= 2 factors ``(E, n_d, R)`` make ``(E, n_1, ..., n_D)``. Streamed over slabs of the first mode: beside the result
    nothing larger than ``SLAB`` elements (or one slab of ``n_2 R`` entries, if that is more) is formed. Cost: ``2 R N``
    for ``N`` entries and one ensemble member.

    >>> cp_product([torch.ones(1, 2, 4), torch.ones(1, 3, 4)])
    tensor([[[4., 4., 4.],
             [4., 4., 4.]]])
    """
    _check_factors(factors)
    first, *rest = factors
    if len(rest) == 1:
        return product(first, rest[0].mT)
    slabs = _slabs(first, rest[0])
    parts = (cp_product([khatri_rao([first[:, slab], rest[0]]), *rest[1:]]) for slab in slabs)
    if len(slabs) == 1:
        return next(parts).unflatten(1, (-1, rest[0].shape[1]))
    result = first.new_empty(first.shape[0], *(f.shape[1] for f in factors))
    for slab, part in zip(slabs, parts):
        result[:, slab] = part.unflatten(1, (-1, rest[0].shape[1]))
    return result


def mttkrp(tensor: Tensor, factors: Sequence[Tensor]) -> list[Float[Tensor, "E n R"]]:
    """Matricised tensor times Khatri-Rao product, all D modes in one pass over the data: Eq. (8)'s matrix product.

    Entry ``d`` is ``unfold(T, d)^T khatri_rao(factors without d)``. The data are read once, in slabs of the first mode;
    the Khatri-Rao product, of size ``N R / n_d``, is never formed. Cost: ``4 R N`` for ``N`` entries, two matrix
    products for any D >= 2, since the partial product over the modes behind the first two is shared by both.

    Raises:
        ValueError: tensor and factors do not fit together.

    >>> T, A, B = torch.ones(1, 2, 3), torch.ones(1, 2, 1), torch.ones(1, 3, 1)
    >>> [m.flatten().tolist() for m in mttkrp(T, [A, B])]
    [[3.0, 3.0], [2.0, 2.0, 2.0]]
    """
    _check_factors(factors)
    sizes = tuple(f.shape[1] for f in factors)
    if tuple(tensor.shape[1:]) != sizes:
        raise ValueError(f"the tensor is {tuple(tensor.shape[1:])}, but the factors have {sizes} rows")
    first, second, *rest = factors
    if not rest:
        return [product(tensor, second), product(tensor.mT, first)]
    slabs = _slabs(first, second)
    if len(slabs) == 1:  # small data: nothing to add up
        return _mttkrp_slab(tensor, first, second, rest)
    results = [torch.zeros_like(f) for f in factors]
    for slab in slabs:
        head, *tails = _mttkrp_slab(tensor[:, slab], first[:, slab], second, rest)
        results[0][:, slab] = head
        for result, tail in zip(results[1:], tails):
            result += tail
    return results


def _mttkrp_slab(tensor: Tensor, first: Tensor, second: Tensor, rest: Sequence[Tensor]) -> list[Tensor]:
    partial, *tails = mttkrp(tensor.flatten(1, 2), [khatri_rao([first, second]), *rest])
    partial = partial.unflatten(1, (-1, second.shape[1]))
    return [(partial * second[:, None]).sum(2), (partial * first[:, :, None]).sum(1), *tails]


def _slabs(first: Tensor, second: Tensor) -> list[slice]:
    """Ranges of the first mode whose Khatri-Rao product with the second keeps to ``SLAB`` elements."""
    n = first.shape[1]
    step = max(1, SLAB // max(1, second.numel()))
    return [slice(i, min(i + step, n)) for i in range(0, n, step)]


def _check_mode(tensor: Tensor, mode: int) -> None:
    modes = tensor.ndim - 1
    if not 0 <= mode < modes:
        raise ValueError(f"mode must be 0 to {modes - 1} for a tensor with {modes} modes, got {mode}")


def _check_factors(factors: Sequence[Tensor]) -> None:
    if len(factors) < 2:
        raise ValueError(f"a separable function needs at least 2 factors, got {len(factors)}")
    if len({(f.shape[0], f.shape[-1]) for f in factors}) > 1 or any(f.ndim != 3 for f in factors):
        shapes = [tuple(f.shape) for f in factors]
        raise ValueError(f"factors must be (E, n_d, R) with one E and one R, got {shapes}")
