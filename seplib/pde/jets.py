"""Value, first and second derivatives of networks in one batched pass, forward and backward by hand (Sec. A.12, PINNs).

A jet holds a function's value and its first and second derivatives along K directions, ``1 + 2 K`` numbers a point. All of
them pass a linear layer as rows of one matrix, and a hidden unit with ``z``, ``z'``, ``z''`` before it has behind it

    h = s(z),    h' = s'(z) z',    h'' = s''(z) z'^2 + s'(z) z''.

With cotangents g, g', g'' of the three, summed over the directions where K > 1, those in front of the unit are

    s' g + sum (s'' z' g' + (s''' z'^2 + s'' z'') g''),    s' g' + 2 s'' z' g'',    s' g''.

Nothing is recorded by autograd: at the sizes of a physics-informed network its book-keeping takes longer than the numbers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from seplib import tensorops
from seplib.factors import EnsembleMLP
from seplib.separable import CP, MLP, check_axes

# Entries of a hidden layer's values that one pass of an MLP keeps: its jets then stay in a core's cache.
CHUNK = 1 << 16


class Jet:
    """A jet's memory, ``(B, 1 + 2 K, n, m)``, with the views of it that the passes use (Sec. A.12).

    At these sizes a view takes as long as the sum done in it, so it is made once.
    """

    def __init__(self, tensor: Tensor):
        directions = tensor.shape[1] // 2
        self.all = tensor
        self.rows = tensor.flatten(1, 2)
        self.columns = self.rows.mT
        self.value, self.first, self.second = tensor.split([1, directions, directions], 1)
        self.plain, self.slopes = tensor[:, 0], tensor[:, 1:]

    def like(self, size: int) -> "Jet":
        """Uninitialised memory for a jet at the same points, of vectors of another size."""
        return Jet(self.all.new_empty(*self.all.shape[:-1], size))


class Plan:
    """The memory of a forward and backward pass at certain points, laid out once and used in every step (Sec. A.12).

    Fresh memory of megabytes is mapped page by page whenever it is asked for, which takes longer than the sums done in it.

    Args:
        start: the jet in front of the first layer.
        sizes: of the layers' outputs.
    """

    def __init__(self, start: Jet, sizes: Sequence[int]):
        self.inputs = [start, *(start.like(size) for size in sizes[:-1])]  # in front of each layer
        self.outputs = [start.like(size) for size in sizes]  # behind it
        self.units: list[tuple[Tensor, ...]] = [()] * (len(sizes) - 1)  # the activation's derivatives there


class JetPass:
    """Jets of several networks of one shape, stacked along the ensemble axis (Sec. A.12).

    The networks' parameters move into one flat tensor, ``parameter``, of which they become views, as their gradients are of
    ``gradient``. An optimizer may update the one tensor, which is faster, or the networks' parameters: both are the same numbers.

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
        groups = [list(group) for group in zip(*([*n.weights, *n.biases] for n in networks))]
        total = sum(p.numel() for group in groups for p in group)
        self.parameter = nn.Parameter(groups[0][0].new_empty(total))
        self.gradient = torch.zeros_like(self.parameter)
        tensors, gradients, start = [], [], 0
        self._shared: list[tuple[nn.Parameter, Tensor]] = []
        for group in groups:
            stop = start + len(group) * group[0].numel()
            shape = (-1, *group[0].shape[1:])
            tensors.append(self.parameter.detach()[start:stop].view(shape))
            gradients.append(self.gradient[start:stop].view(shape))
            with torch.no_grad():
                for parameter, place in zip(group, tensors[-1].chunk(len(group))):
                    parameter.set_(place.copy_(parameter))
            self._shared += zip(group, gradients[-1].chunk(len(group)))
            start = stop
        depth = len(self.scales)
        self._weights, self._transposed = tensors[:depth], [weight.mT for weight in tensors[:depth]]
        self._biases = [bias[:, None] for bias in tensors[depth:]]
        self._weight_gradients, self._bias_gradients = gradients[:depth], gradients[depth:]
        self._work: dict[torch.Size, list[Jet]] = {}

    def plan(self, start: Tensor) -> Plan:
        """Memory for passes from a jet ``(B, 1 + 2 K, n, in)`` in front of the first layer.

        Args:
            start: value first, then K first, then K second derivatives; B is the number of networks times their copies.
        """
        return Plan(Jet(start.contiguous()), [weight.shape[1] for weight in self._weights])

    @torch.no_grad()
    def forward(self, plan: Plan) -> Tensor:
        """Jet behind the last layer, ``(B, 1 + 2 K, n, out)``, in the plan's memory. Cost: ``1 + 2 K`` forward passes.

        Raises:
            RuntimeError: the networks' parameters are views of the flat tensor no longer; they would not be trained.
        """
        if self._shared[0][0].data_ptr() != self.parameter.data_ptr():
            raise RuntimeError(
                "the network's parameters have moved since the loss was made, by .to() or another loss: make it anew"
            )
        for layer, (jet, z) in enumerate(zip(plan.inputs, plan.outputs)):
            if jet.all.shape[-1] == 1:  # a fan-in of one is an outer product: broadcasting beats a matrix product
                torch.mul(jet.all, self._transposed[layer][:, None], out=z.all)
            else:
                torch.bmm(jet.rows, self._transposed[layer], out=z.rows)
            if self.scales[layer] != 1:
                z.all.mul_(self.scales[layer])
            if layer < len(self._biases):
                z.plain.add_(self._biases[layer])
            if layer < len(plan.units):
                value, *derivatives = self.activation.derivatives(z.value)
                plan.units[layer] = slope, curvature, _ = tuple(derivatives)
                ahead = plan.inputs[layer + 1]
                ahead.value.copy_(value)
                torch.mul(z.slopes, slope, out=ahead.slopes)
                ahead.second.addcmul_(z.first * z.first, curvature)
        return z.all

    @torch.no_grad()
    def backward(self, plan: Plan, cotangent: Tensor, accumulate: bool = False) -> None:
        """Write the parameters' gradient for a cotangent of what :meth:`forward` gave, ``(B, 1 + 2 K, n, out)``.

        Args:
            plan: as it was left by the forward pass.
            cotangent: contiguous.
            accumulate: add to the gradient instead.
        """
        behind = Jet(cotangent)
        for layer in reversed(range(len(self._weights))):
            if layer < len(plan.units):
                behind = self._through_unit(plan, layer)
            if layer < len(self._biases):
                gradient = self._bias_gradients[layer]
                gradient.add_(behind.plain.sum(1)) if accumulate else torch.sum(behind.plain, 1, out=gradient)
            jet, scale = plan.inputs[layer], self.scales[layer]
            self._weight_gradients[layer].baddbmm_(behind.columns, jet.rows, beta=int(accumulate), alpha=scale)
            if layer:
                ahead = self._work_for(jet)[0]
                torch.bmm(behind.rows, self._weights[layer], out=ahead.rows)
                if scale != 1:
                    ahead.all.mul_(scale)

    def hand_over(self) -> None:
        """Make the gradient that of the flat parameter and, as views, of the networks' own parameters."""
        self.parameter.grad = self.gradient
        for parameter, gradient in self._shared:
            parameter.grad = gradient

    def _work_for(self, jet: Jet) -> list[Jet]:
        """Cotangents in front of a layer and behind the one before, shared by all layers and plans of one shape."""
        if jet.all.shape not in self._work:
            self._work[jet.all.shape] = [jet.like(jet.all.shape[-1]) for _ in range(2)]
        return self._work[jet.all.shape]

    def _through_unit(self, plan: Plan, layer: int) -> Jet:
        z, (slope, curvature, third) = plan.outputs[layer], plan.units[layer]
        ahead, behind = self._work_for(z)
        torch.mul(ahead.all, slope, out=behind.all)
        mixed = z.first * ahead.second
        bent = (z.first * ahead.first).addcmul_(z.second, ahead.second).mul_(curvature)
        bent.addcmul_(z.first * mixed, third)
        behind.value.add_(bent if bent.shape[1] == 1 else bent.sum(1, keepdim=True))
        behind.first.addcmul_(mixed, curvature, value=2)
        return behind


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
        self._pass = JetPass(list(model.factors))
        self._plan = self._pass.plan(torch.cat(starts))
        self.parameter, self.gradient, self.hand_over = self._pass.parameter, self._pass.gradient, self._pass.hand_over

    def jets(self) -> Tensor:
        """Value, first and second derivatives of the factors, ``(D, E, 3, n, R)``, the model's scale in the first factor."""
        jets = self._pass.forward(self._plan).unflatten(0, (-1, self.copies))
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
        self._pass.backward(self._plan, jets.flatten(0, 1))


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
        rows = [sum((o - 1) * dims + d + 1 for d, o in enumerate(order) if o) for order in orders]
        self.rows = torch.tensor(rows, device=axes[0].device)
        self.axes, self.copies, self.shape = list(axes), model.ensemble, [x.numel() for x in axes]
        X = torch.cartesian_prod(*axes)
        directions = torch.eye(dims, dtype=X.dtype, device=X.device)[:, None].expand(-1, len(X), -1)
        start = torch.cat([X[None], directions, torch.zeros_like(directions)])
        self._pass = JetPass([model])
        self._chunk = max(1, CHUNK // (self.copies * model.weights[0].shape[1]))
        chunks = start.expand(self.copies, -1, -1, -1).split(self._chunk, dim=2)
        self._plans = [self._pass.plan(chunk) for chunk in chunks]
        self.parameter, self.gradient, self.hand_over = self._pass.parameter, self._pass.gradient, self._pass.hand_over

    def forward(self) -> Tensor:
        """The fields, ``(E, F, n_1, ..., n_D)``. Cost: ``2 (1 + 2 D) P`` a point and copy."""
        out = torch.cat([self._pass.forward(plan) for plan in self._plans], 2)
        return out[:, self.rows, :, 0].unflatten(2, self.shape)

    def backward(self, cotangent: Tensor) -> None:
        """Write the parameters' gradient for a cotangent of the fields, ``(E, F, n_1, ..., n_D)``. Cost: twice the forward's."""
        cotangent = cotangent.flatten(2)
        rows = cotangent.new_zeros(self.copies, 1 + 2 * len(self.axes), cotangent.shape[2])
        rows.index_add_(1, self.rows, cotangent)
        for index, (plan, chunk) in enumerate(zip(self._plans, rows.split(self._chunk, dim=2))):
            self._pass.backward(plan, chunk[..., None].contiguous(), accumulate=index > 0)
