"""Value, first and second derivatives of networks in one batched pass, forward and backward by hand (Sec. A.12, PINNs).

A jet holds a function's value and its first and second derivatives along K directions, ``1 + 2 K`` numbers a point. All of
them pass a linear layer as rows of one matrix, and a hidden unit with ``z``, ``z'``, ``z''`` before it has behind it

    h = s(z),    h' = s'(z) z',    h'' = s''(z) z'^2 + s'(z) z''.

With cotangents g, g', g'' of the three, summed over the directions where K > 1, those in front of the unit are

    s' g + sum (s'' z' g' + (s''' z'^2 + s'' z'') g''),    s' g' + 2 s'' z' g'',    s' g''.

Nothing is recorded by autograd: at the sizes of a physics-informed network its book-keeping takes longer than the numbers.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from seplib import tensorops
from seplib.factors import EnsembleMLP
from seplib.separable import CP, MLP, check_axes

CHUNK = (
    1 << 16
)  # entries of a hidden layer's values that one pass of an MLP keeps: its jets then stay in a core's cache


class Tape(NamedTuple):
    """What the backward pass needs of one layer: its input jet, and of the unit behind it the derivatives (Sec. A.12)."""

    inputs: Tensor  # (B, 1 + 2 K, n, m)
    before: Tensor  # (B, 1 + 2 K, n, W): z, z', z''
    slope: Tensor  # (B, 1, n, W), as the next two
    curvature: Tensor
    third: Tensor


class Scratch:
    """Tensors handed out in the same order again and again (Sec. A.12).

    Fresh memory of megabytes is mapped page by page whenever it is asked for, which takes longer than the sums done in it.
    """

    def __init__(self):
        self._tensors: list[Tensor] = []
        self._next = 0

    def rewind(self) -> None:
        """Start over: what was handed out may be overwritten from now on."""
        self._next = 0

    def like(self, tensor: Tensor, last: int | None = None) -> Tensor:
        """An uninitialised tensor of a given one's shape, the last size replaced."""
        shape = tensor.shape if last is None else (*tensor.shape[:-1], last)
        if self._next == len(self._tensors):
            self._tensors.append(tensor.new_empty(shape))
        elif self._tensors[self._next].shape != shape:
            self._tensors[self._next] = tensor.new_empty(shape)
        self._next += 1
        return self._tensors[self._next - 1]


class JetPass:
    """Jets of several networks of one shape, stacked along the ensemble axis (Sec. A.12).

    The networks' parameters move into one flat tensor, ``parameter``, of which they become views: the networks stay as
    usable as before, and an optimizer has one tensor to update. Its gradient is ``gradient``.

    Args:
        networks: one or more :class:`seplib.factors.EnsembleMLP` of one shape, such as the D factors of a CP network.

    Raises:
        ValueError: their shapes, scales or activations differ.
    """

    def __init__(self, networks: Sequence[EnsembleMLP]):
        shapes = [[tuple(p.shape) for p in network.parameters()] for network in networks]
        kinds = {(network.activation.name, network.activation.lipschitz, *network.scales) for network in networks}
        if len(kinds) > 1 or any(shape != shapes[0] for shape in shapes):
            raise ValueError(f"networks in one pass must have one shape and activation, got weights {shapes}")
        self.activation, self.scales = networks[0].activation, networks[0].scales
        self._ahead, self._brief, self._back = Scratch(), Scratch(), Scratch()
        groups = [list(group) for group in zip(*([*n.weights, *n.biases] for n in networks))]
        total = sum(p.numel() for group in groups for p in group)
        self.parameter = nn.Parameter(groups[0][0].new_empty(total))
        self.gradient = torch.zeros_like(self.parameter)
        tensors, gradients, start = [], [], 0
        for group in groups:
            stop = start + len(group) * group[0].numel()
            shape = (-1, *group[0].shape[1:])
            tensors.append(self.parameter.detach()[start:stop].view(shape))
            gradients.append(self.gradient[start:stop].view(shape))
            with torch.no_grad():
                for parameter, place in zip(group, tensors[-1].chunk(len(group))):
                    parameter.data = place.copy_(parameter)
            start = stop
        depth = len(self.scales)
        self.weights, self.biases = tensors[:depth], tensors[depth:]
        self.weight_gradients, self.bias_gradients = gradients[:depth], gradients[depth:]

    @torch.no_grad()
    def forward(self, jet: Tensor, keep: bool = False) -> tuple[Tensor, list[Tape]]:
        """Jet behind the last layer, and the tape for :meth:`backward`. Cost: ``1 + 2 K`` forward passes.

        Args:
            jet: ``(B, 1 + 2 K, n, in)`` in front of the first layer, value first, then K first, then K second derivatives; B
                is the number of networks times their copies.
            keep: do not overwrite what the calls before returned.

        Returns:
            ``(B, 1 + 2 K, n, out)``, and one entry a layer, of which only the input counts for the last.
        """
        if not keep:
            self._ahead.rewind()
        tape, last = [], len(self.weights) - 1
        for layer, weight in enumerate(self.weights):
            z = self._ahead.like(jet, weight.shape[1])
            torch.bmm(jet.flatten(1, 2), weight.mT, out=z.flatten(1, 2))
            if self.scales[layer] != 1:
                z *= self.scales[layer]
            if layer < len(self.biases):
                z[:, 0] += self.biases[layer][:, None]
            if layer == last:
                tape.append(Tape(jet, z, z, z, z))
                return z, tape
            value, first, _ = self._parts(z)
            ahead, slope, curvature, third = self.activation.derivatives(value)
            tape.append(Tape(jet, z, slope, curvature, third))
            jet = torch.mul(z, slope, out=self._ahead.like(z))
            jet[:, :1] = ahead
            self._brief.rewind()
            self._parts(jet)[2].addcmul_(torch.mul(first, first, out=self._brief.like(first)), curvature)
        raise AssertionError("a network has at least one layer")

    @torch.no_grad()
    def backward(self, tape: list[Tape], cotangent: Tensor, accumulate: bool = False) -> None:
        """Write the parameters' gradient for a cotangent of the output jet, ``(B, 1 + 2 K, n, out)`` (Sec. A.12).

        Args:
            tape: of :meth:`forward`.
            cotangent: of its jet; may be overwritten.
            accumulate: add to the gradient instead.
        """
        self._back.rewind()
        beta = float(accumulate)
        for layer in reversed(range(len(self.weights))):
            if layer < len(self.weights) - 1:
                cotangent = self._through_unit(tape[layer], cotangent)
            rows = cotangent.flatten(1, 2)
            if layer < len(self.biases):
                total = cotangent[:, 0].sum(1)
                self.bias_gradients[layer].add_(total) if accumulate else self.bias_gradients[layer].copy_(total)
            inputs, scale = tape[layer].inputs.flatten(1, 2), self.scales[layer]
            self.weight_gradients[layer].baddbmm_(rows.mT, inputs, beta=beta, alpha=scale)
            if layer:
                cotangent = self._back.like(tape[layer].inputs)
                torch.bmm(rows, self.weights[layer], out=cotangent.flatten(1, 2))
                if scale != 1:
                    cotangent *= scale

    def _through_unit(self, tape: Tape, cotangent: Tensor) -> Tensor:
        _, first, second = self._parts(tape.before)
        _, g1, g2 = self._parts(cotangent)
        result, mixed, bent = self._back.like(cotangent), self._back.like(first), self._back.like(first)
        torch.mul(cotangent, tape.slope, out=result)
        value, ahead, _ = self._parts(result)
        torch.mul(first, g2, out=mixed)
        torch.mul(first, g1, out=bent)
        bent.addcmul_(second, g2).mul_(tape.curvature)
        bent.addcmul_(torch.mul(first, mixed, out=self._back.like(first)), tape.third)
        value += bent if bent.shape[1] == 1 else bent.sum(1, keepdim=True)
        ahead.addcmul_(mixed, tape.curvature, value=2)
        return result

    @staticmethod
    def _parts(jet: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Value ``(B, 1, n, m)``, first and second derivatives ``(B, K, n, m)``."""
        directions = jet.shape[1] // 2
        return jet.split([1, directions, directions], 1)


class SeparableFields:
    """Derivatives of a CP network on a grid, all of them in one pass, and their way back (Sec. A.12, PINNs).

    A derivative of a CP function is the CP function with the factors' derivatives in place of the factors; the three axes'
    networks share one :class:`JetPass`.

    Args:
        model: a CP network; its parameters become views of ``parameter``.
        axes: D tensors ``(n,)`` of one length.
        orders: F tuples of D numbers 0 to 2: how often each field is differentiated along each axis.

    Raises:
        TypeError: another kind of model.
        ValueError: axes of unequal length; whatever :class:`JetPass` refuses.
    """

    def __init__(self, model: nn.Module, axes: Sequence[Tensor], orders: Sequence[tuple[int, ...]]):
        if not isinstance(model, CP):
            raise TypeError(f"separable fields are those of a CP network, got {type(model).__name__}")
        check_axes(axes, len(model.factors))
        if len({x.numel() for x in axes}) > 1:
            raise ValueError(f"axes that share a pass must have one length, got {[x.numel() for x in axes]}")
        self.axes, self.scale, self.copies = list(axes), model.scale, model.factors[0].ensemble
        self.orders = torch.tensor(orders, device=axes[0].device).T.contiguous()
        starts = [torch.stack(f.start_jet(x)).expand(self.copies, -1, -1, -1) for f, x in zip(model.factors, axes)]
        self._inputs = torch.cat(starts).contiguous()
        self._pass = JetPass(list(model.factors))
        self.parameter, self.gradient = self._pass.parameter, self._pass.gradient

    def jets(self) -> Tensor:
        """Value, first and second derivatives of the factors, ``(D, E, 3, n, R)``, the model's scale in the first factor."""
        out, self._tape = self._pass.forward(self._inputs)
        jets = out.unflatten(0, (-1, self.copies))
        jets[0] *= self.scale
        return jets

    def forward(self) -> Tensor:
        """The fields, ``(E, F, n, ..., n)``. Cost: ``2 F R n^D`` a copy beside the factors' three passes."""
        self.values = self.jets()
        self._picks = [jet.index_select(1, order).flatten(0, 1) for jet, order in zip(self.values, self.orders)]
        return tensorops.cp_product(self._picks).unflatten(0, (self.copies, -1))

    def backward(self, cotangent: Tensor, more: Tensor | None = None) -> None:
        """Write the parameters' gradient. Cost: ``4 F R n^D`` a copy beside the factors' passes.

        Args:
            cotangent: of the fields, ``(E, F, n, ..., n)``.
            more: of the factors' jets ``values`` directly, ``(D, E, 3, n, R)``; may be overwritten.
        """
        products = tensorops.mttkrp(cotangent.flatten(0, 1), self._picks)
        jets = torch.zeros_like(self.values) if more is None else more
        for jet, order, product in zip(jets, self.orders, products):
            jet.index_add_(1, order, product.unflatten(0, (self.copies, -1)))
        jets[0] *= self.scale
        self._pass.backward(self._tape, jets.flatten(0, 1))


class PointFields:
    """Derivatives of a plain MLP at all points of a grid, the baseline's counterpart of :class:`SeparableFields` (Sec. A.12).

    Every point carries the jet of all D directions, 1 + 2 D numbers a hidden unit, chunk by chunk through the layers.

    Args:
        model: a plain network; its parameters become views of ``parameter``.
        axes: D tensors ``(n_d,)``.
        orders: as for :class:`SeparableFields`; no derivative is mixed.

    Raises:
        TypeError: another kind of model.
        ValueError: a mixed derivative.
    """

    def __init__(self, model: nn.Module, axes: Sequence[Tensor], orders: Sequence[tuple[int, ...]]):
        if not isinstance(model, MLP):
            raise TypeError(f"fields at points are those of a plain MLP, got {type(model).__name__}")
        dims = model.weights[0].shape[-1]
        check_axes(axes, dims)
        if any(sum(map(bool, order)) > 1 for order in orders):
            raise ValueError(f"a plain network's jets hold no mixed derivatives, got orders {list(orders)}")
        # Row of the jet that holds each field: 0 is the value, 1 + d and 1 + D + d are the derivatives along axis d.
        self.rows = torch.tensor([sum((o - 1) * dims + d + 1 for d, o in enumerate(order) if o) for order in orders])
        self.axes, self.copies, self.shape = list(axes), model.ensemble, [x.numel() for x in axes]
        X = torch.cartesian_prod(*axes)
        directions = torch.eye(dims, dtype=X.dtype, device=X.device)[:, None].expand(-1, len(X), -1)
        start = torch.cat([X[None], directions, torch.zeros_like(directions)])
        self._chunk = max(1, CHUNK // (self.copies * model.weights[0].shape[1]))
        chunks = start.expand(self.copies, -1, -1, -1).split(self._chunk, dim=2)
        self._inputs = [chunk.contiguous() for chunk in chunks]
        self._pass = JetPass([model])
        self.parameter, self.gradient = self._pass.parameter, self._pass.gradient

    def forward(self) -> Tensor:
        """The fields, ``(E, F, n_1, ..., n_D)``. Cost: ``2 (1 + 2 D) P`` a point and copy."""
        passes = [self._pass.forward(chunk, keep=index > 0) for index, chunk in enumerate(self._inputs)]
        self._tapes = [tape for _, tape in passes]
        out = torch.cat([out for out, _ in passes], 2)
        return out[:, self.rows, :, 0].unflatten(2, self.shape)

    def backward(self, cotangent: Tensor) -> None:
        """Write the parameters' gradient for a cotangent of the fields, ``(E, F, n_1, ..., n_D)``. Cost: twice the forward's."""
        cotangent = cotangent.flatten(2)
        rows = cotangent.new_zeros(self.copies, self._inputs[0].shape[1], cotangent.shape[2])
        rows.index_add_(1, self.rows, cotangent)
        for index, (tape, chunk) in enumerate(zip(self._tapes, rows.split(self._chunk, dim=2))):
            self._pass.backward(tape, chunk[..., None].contiguous(), accumulate=index > 0)
