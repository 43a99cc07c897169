"""Factor networks: univariate MLPs with an ensemble axis (Theorem 2, Sec. A.12, Table 5)."""

import itertools
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from seplib import activations, tensorops

PARAMETRIZATIONS = ("siren", "ntk", "torch")
Data = Tensor | np.ndarray


class Network(nn.Module):
    """What all networks share: ``model(X)``, and a state dict that says more than the weights (Sec. 1, Table 5).

    The weights of a network with another omega would fit and compute something else: ``load_state_dict`` raises a
    ValueError.
    """

    ensemble: int

    def traits(self) -> dict[str, Any]:
        """What else decides what the network computes, by name, in plain values (Table 5)."""
        raise NotImplementedError

    def forward(self, X: Data | Sequence[Data]) -> Tensor:
        """``points(X)`` for one array of points, ``grid(X)`` for a list of axes (Sec. 1)."""
        return self.points(X) if isinstance(X, Data) else self.grid(X)

    def get_extra_state(self) -> Tensor:
        """The traits as JSON, a row of bytes a copy: like all of a state dict it can be cut by copies (Sec. A.12)."""
        text = torch.tensor(list(json.dumps(self.traits()).encode()), dtype=torch.uint8)
        return text.repeat(self.ensemble, 1)

    def set_extra_state(self, state: Tensor) -> None:
        """Compare the traits (Sec. A.12)."""
        try:
            found = dict(json.loads(bytes(state[0].tolist())))
        except (ValueError, TypeError, IndexError):
            raise ValueError("a state dict that does not say whose weights it holds: damaged _extra_state") from None
        for name, ours in self.traits().items():
            if found.get(name) != ours:
                raise ValueError(f"these are weights of a network with {name} {found.get(name)}, this one has {ours}")


class EnsembleMLP(Network):
    """E independent multilayer perceptrons of one shape, evaluated in one batched pass.

    Layer ``l`` computes ``z_l = s_l W_l h_{l-1} + b_l`` and ``h_l = sigma(z_l)``; the last layer is linear. Three
    parametrizations fix the weight scale ``s_l`` and the initial law of the entries:

    ========  ===============  =============================================  ==========================
    name      ``s_l``          weights                                        biases
    ========  ===============  =============================================  ==========================
    "siren"   1                first U(-1/m, 1/m), then U(-c, c) with         U(-1/sqrt(m), 1/sqrt(m))
                               c = sqrt(6/m)/omega
    "ntk"     1, then m^-1/2   N(0, 1)                                        N(0, 1), none at the output
    "torch"   1                U(-1/sqrt(m), 1/sqrt(m))                       U(-1/sqrt(m), 1/sqrt(m))
    ========  ===============  =============================================  ==========================

    with ``m`` the layer's number of inputs. Others, sizes below 1 and an omega that is not positive are a ValueError.
    "siren" is the scheme of Sitzmann et al. (2020); "ntk" with two layers is the network of Theorem 2. ``bias=False``
    leaves out all biases. The entries are drawn in float64 on the generator's device and then cast, so one seed means
    one network on every device and, up to rounding, in every precision.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        width: int,
        depth: int,
        activation: str | activations.Activation = "sine",
        omega: float = 30.0,
        parametrization: str = "siren",
        bias: bool = True,
        ensemble: int = 1,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ):
        super().__init__()
        if parametrization not in PARAMETRIZATIONS:
            raise ValueError(f"parametrization must be one of {', '.join(PARAMETRIZATIONS)}, got {parametrization!r}")
        for name, size in dict(inputs=inputs, outputs=outputs, width=width, depth=depth, ensemble=ensemble).items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if not omega > 0:
            raise ValueError(f"omega must be positive, got {omega}")
        self.activation = activations.get(activation, omega)
        sizes = [inputs, *[width] * (depth - 1), outputs]
        ntk = parametrization == "ntk"
        # The first layer of Theorem 2's network is not scaled: its fan-in stays fixed as the width grows.
        self.scales = [m**-0.5 if ntk and layer else 1.0 for layer, m in enumerate(sizes[:-1])]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for layer, (m, out) in enumerate(itertools.pairwise(sizes)):
            weight = torch.empty(ensemble, out, m, dtype=torch.float64, device=generator and generator.device)
            offset = weight.new_empty(ensemble, out)
            if ntk:
                weight.normal_(generator=generator)
                offset.normal_(generator=generator)
            else:
                fan = m**-0.5
                bound = fan if parametrization == "torch" else math.sqrt(6) * fan / omega if layer else 1 / m
                weight.uniform_(-bound, bound, generator=generator)
                offset.uniform_(-fan, fan, generator=generator)
            dtype = dtype or torch.get_default_dtype()
            self.weights.append(nn.Parameter(weight.to(device, dtype)))
            if bias and not (ntk and layer == depth - 1):
                self.biases.append(nn.Parameter(offset.to(device, dtype)))

    @property
    def depth(self) -> int:
        """Number of linear layers, L of Sec. A.12."""
        return len(self.weights)

    @property
    def ensemble(self) -> int:
        """Number of independent copies, E."""
        return self.weights[0].shape[0]

    def traits(self) -> dict[str, Any]:
        """Activation, its frequency if it has one, and the weight scales ``s_l`` (Table 5)."""
        name, omega = self.activation.source or (self.activation.name, None)
        return {"activation": name, "omega": omega if name in ("sine", "cos") else None, "scales": self.scales}

    def linear(self, layer: int, h: Tensor) -> Float[Tensor, "E n out"]:
        """One affine layer ``s W h + b``; ``h`` is ``(E, n, in)`` or, equal for all copies, ``(1, n, in)``."""
        weight, scale = self.weights[layer], self.scales[layer]
        if h.shape[-1] == 1:  # a fan-in of one is an outer product: broadcasting beats a matrix product
            z = h * weight.mT if scale == 1 else h * (scale * weight.mT)
            return z + self.biases[layer][:, None] if layer < len(self.biases) else z
        h = h.expand(weight.shape[0], -1, -1)
        if layer >= len(self.biases):
            z = tensorops.product(h, weight.mT)
            return z if scale == 1 else scale * z
        bias = self.biases[layer][:, None]
        if tensorops.one_by_one(h, weight.mT):
            copies = zip(bias.unbind(), h.unbind(), weight.mT.unbind())
            return torch.stack([torch.addmm(b, x, w, alpha=scale) for b, x, w in copies])
        return torch.baddbmm(bias, h, weight.mT, alpha=scale)

    def apply_layers(self, h: Tensor) -> Float[Tensor, "E n out"]:
        """Output for the inputs ``h`` of shape ``(n, in)`` or ``(E, n, in)``. Cost: ``2 E n P`` for P weights."""
        h = h if h.ndim == 3 else h[None]
        for layer in range(self.depth - 1):
            h = self.activation.value(self.linear(layer, h))
        return self.linear(self.depth - 1, h)

    def tape(self, h: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """All ``h_{l-1}`` and ``sigma'(z_l)``, each ``(E, n, size)``, for backpropagation by hand (Eq. (10))."""
        inputs, slopes = [h if h.ndim == 3 else h[None]], []
        for layer in range(self.depth - 1):
            z = self.linear(layer, inputs[-1])
            inputs.append(self.activation.value(z))
            slopes.append(self.activation.slope(z))
        return inputs, slopes


class FourierFeatures(nn.Module):
    """Random Fourier features of a coordinate, ``x -> [sin(2 pi b x), cos(2 pi b x)]`` (Table 5).

    Args:
        features: number of frequencies m; the encoding has 2m entries.
        scale: standard deviation of the frequencies b, in cycles per unit of x.
        generator, dtype, device: as for :class:`FactorMLP`. The frequencies are fixed, not trained.
    """

    def __init__(
        self,
        features: int,
        scale: float,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ):
        super().__init__()
        if features < 1 or not scale > 0:
            raise ValueError(f"features and scale must be positive, got {features} and {scale}")
        draw = torch.randn(features, dtype=torch.float64, device=generator and generator.device, generator=generator)
        self.register_buffer("angular", (2 * math.pi * scale * draw).to(device, dtype or torch.get_default_dtype()))

    @property
    def outputs(self) -> int:
        """Length of the encoding, 2m."""
        return 2 * self.angular.numel()

    def forward(self, x: Float[Tensor, " n"]) -> Float[Tensor, "n m"]:
        """Encode ``(n,)`` coordinates as ``(n, 2m)`` (Table 5)."""
        phase = x[:, None] * self.angular
        return torch.cat([phase.sin(), phase.cos()], -1)

    def jet(self, x: Float[Tensor, " n"]) -> tuple[Tensor, Tensor, Tensor]:
        """Encoding with its first and second derivative in x, each ``(n, 2m)`` (Table 5)."""
        value = self(x)
        sine, cosine = value.chunk(2, -1)
        first = torch.cat([self.angular * cosine, -self.angular * sine], -1)
        return value, first, -(torch.cat([self.angular, self.angular]) ** 2) * value


class FactorMLP(EnsembleMLP):
    """Univariate factor network ``f_{Theta_d}``: R -> R^R of Eqs. (1)-(3), E copies at once.

    Args:
        rank: number of outputs R (for TT ``R_{d-1} R_d``).
        width: hidden width W.
        depth: number of linear layers L; ``parametrization="ntk"`` with depth 2 is the network of Theorem 2.
        activation: one of :data:`seplib.activations.NAMES`, or an :class:`seplib.activations.Activation`.
        omega: frequency of the periodic activations, w_0 of SIREN.
        parametrization: "siren", "ntk" or "torch", see :class:`EnsembleMLP`.
        encoding: module that maps ``(n,)`` to ``(n, m)`` before the first layer, such as :class:`FourierFeatures`.
        bias: whether the layers have biases.
        ensemble: number of independent copies E: colour channels, seeds.
        generator: source of the initial values; torch's default generator if None.
        dtype, device: of the parameters; torch's defaults if None.

    >>> factor = FactorMLP(5, width=8, depth=3, ensemble=2)
    >>> factor(torch.linspace(-1, 1, 7)).shape
    torch.Size([2, 7, 5])
    """

    def __init__(self, rank: int, *, encoding: nn.Module | None = None, **network):
        super().__init__(1 if encoding is None else encoding.outputs, rank, **network)
        self.encoding = encoding

    @property
    def rank(self) -> int:
        """Number of outputs, R of Eq. (2)."""
        return self.weights[-1].shape[1]

    def encode(self, x: Data) -> Float[Tensor, "n m"]:
        """Inputs of the first layer, ``(n, m)``: the coordinate or its encoding; ValueError for no axis (Table 5)."""
        x = as_input(x, self.weights[0])
        if x.ndim != 1:
            raise ValueError(f"a factor takes a one-dimensional tensor of coordinates (n,), got shape {tuple(x.shape)}")
        return x[:, None] if self.encoding is None else self.encoding(x)

    def forward(self, x: Data) -> Float[Tensor, "E n R"]:
        """Factor matrix ``f_{Theta_d}(x)`` of Definition 1, transposed: ``(n,)`` to ``(E, n, R)``, in ``2 E n P``."""
        return self.apply_layers(self.encode(x))

    def start_jet(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs of the first layer with their first and second derivative in x, each ``(n, m)`` (Sec. A.12, PINNs)."""
        if self.encoding is not None:
            return self.encoding.jet(x)
        value = self.encode(x)
        return value, torch.ones_like(value), torch.zeros_like(value)

    def jet(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Value, first and second derivative in x, each ``(E, n, R)`` (Sec. A.12, PINNs).

        The three travel through the layers together, so the cost is three forward passes and no graph is needed for the
        derivatives in x.
        """
        jet = self.start_jet(x)
        for layer in range(self.depth):
            z = self.linear(layer, jet[0])
            weight = self.scales[layer] * self.weights[layer].mT
            z1, z2 = jet[1] @ weight, jet[2] @ weight
            if layer == self.depth - 1:
                break
            slope = self.activation.slope(z)
            jet = self.activation.value(z), slope * z1, self.activation.curvature(z) * z1 * z1 + slope * z2
        return z, z1, z2


def as_input(x: Data, like: Tensor | None, what: str = "input") -> Tensor:
    """A tensor as it is, a NumPy array as one like ``like``, a parameter of the network (Sec. A.12).

    Raises:
        ValueError: a tensor of another dtype or device: which of the two is meant, nobody but the caller knows.
    """
    if not isinstance(x, Tensor):
        dtype, device = (torch.get_default_dtype(), None) if like is None else (like.dtype, like.device)
        return torch.as_tensor(np.array(x, order="C"), dtype=dtype, device=device)  # a copy: views may not be writable
    if like is not None and (x.dtype, x.device) != (like.dtype, like.device):
        raise ValueError(f"the {what} is {x.dtype} on {x.device}, the network is {like.dtype} on {like.device}")
    return x
