"""Neural tangent kernels (Lemma 1, Eq. (10))."""

import torch
from jaxtyping import Float
from torch import Tensor

from seplib.factors import FactorMLP
from seplib.separable import CP, MLP


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


@torch.no_grad()
def empirical(model: CP | MLP, X: Tensor, X2: Tensor | None = None) -> Float[Tensor, "E N N2"]:
    """Neural tangent kernel of a CP network or an MLP at points, exact, Lemma 1.

    Args:
        model: the network.
        X: ``(N, D)`` points.
        X2: ``(N2, D)`` points of the columns; X if None.
    """
    left = _tapes(model, X)
    right = left if X2 is None else _tapes(model, X2)
    kernel = 0
    for (net, inputs, deltas), (_, inputs2, deltas2) in zip(left, right):
        for layer in range(net.depth):
            bias = 1.0 if layer < len(net.biases) else 0.0
            gram = net.scales[layer] ** 2 * (inputs[layer] @ inputs2[layer].mT) + bias
            kernel = kernel + (deltas[layer] @ deltas2[layer].mT) * gram
    return kernel


def _tapes(model, X):
    nets = model.factors if isinstance(model, CP) else [model]
    coordinates = [net.encode(X[:, d]) for d, net in enumerate(nets)] if isinstance(model, CP) else [X]
    outputs = [net.apply_layers(h) for net, h in zip(nets, coordinates)]
    tapes = []
    for d, (net, h) in enumerate(zip(nets, coordinates)):
        inputs, slopes = net.tape(h)
        delta = torch.ones_like(outputs[d])
        if isinstance(model, CP):
            delta = delta * model.scale
            for other, output in enumerate(outputs):
                delta = delta if other == d else delta * output
        deltas = [delta]
        for layer in range(net.depth - 1, 0, -1):
            delta = net.scales[layer] * (delta @ net.weights[layer]) * slopes[layer - 1]
            deltas.insert(0, delta)
        tapes.append((net, inputs, deltas))
    return tapes
