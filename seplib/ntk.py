"""Neural tangent kernels (Lemma 1, Eq. (10))."""

import torch
from jaxtyping import Float
from torch import Tensor

from seplib.factors import FactorMLP


@torch.no_grad()
def pseudo(factor: FactorMLP, x: Tensor) -> Float[Tensor, "E n n"]:
    """Pseudo-NTK of a factor network by the sum of its logits, K_d of Eq. (10).

    It is the exact kernel of the scalar network ``sum_r f(x)_r``, that is the sum over all r and s of Lemma 1's
    ``K_d^(r,s)``; divide by R for the mean over the outputs that Eq. (10) puts in place of each diagonal block.

    A layer's share of the kernel is ``(delta delta^T) * (s^2 h h^T + 1)``, an elementwise product of two n x n Gram
    matrices of the layer's cotangents delta and inputs h (the 1 is the bias's). No Jacobian of size n x P is formed.

    Args:
        factor: a factor network with R outputs.
        x: ``(n,)`` coordinates.

    Returns:
        ``(E, n, n)``, symmetric positive semi-definite. Cost a copy: ``4 (L - 2) n W^2 + 4 (L - 1) n^2 W``
        operations, ``O(n W + n^2)`` memory; the Jacobian's product would take ``2 n^2 P`` and ``n P``.

    >>> from seplib import FactorMLP
    >>> factor = FactorMLP(1, width=4, depth=1)          # f(x) = w x + b, so K(x, x') = x x' + 1
    >>> pseudo(factor, torch.tensor([0., 2.]))
    tensor([[[1., 1.],
             [1., 5.]]])
    """
    inputs, slopes = factor.tape(factor.encode(x))
    n, last = x.numel(), factor.depth - 1
    delta = inputs[0].new_ones(factor.ensemble, 1, factor.rank)  # the same cotangent at every point: kept as one row
    kernel = inputs[0].new_zeros(factor.ensemble, n, n)
    for layer in range(last, -1, -1):
        gram = inputs[layer] @ inputs[layer].mT
        bias = 1.0 if layer < len(factor.biases) else 0.0
        kernel += (delta @ delta.mT) * (factor.scales[layer] ** 2 * gram + bias)
        if layer:
            delta = factor.scales[layer] * (delta @ factor.weights[layer]) * slopes[layer - 1]
    return kernel
