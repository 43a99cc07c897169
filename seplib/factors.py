"""Factor networks: univariate MLPs with an ensemble axis (Theorem 2, Sec. A.12, Table 5)."""

import itertools
import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seplib import activations, tensorops

PARAMETRIZATIONS = ("siren", "ntk", "torch")


class EnsembleMLP(nn.Module):
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

    with ``m`` the layer's number of inputs. "siren" is the scheme of Sitzmann et al. (2020); "ntk" with two layers is
    the network of Theorem 2. ``bias=False`` leaves out all biases. The entries are drawn in float64 on the generator's device and then cast, so one seed
    means one network on every device and, up to rounding, in every precision.
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
        """What backpropagation by hand needs: every layer's input and every hidden slope (design of Eq. (10)'s kernels).

        Returns:
            ``[h_0, ..., h_{L-1}]`` and ``[sigma'(z_1), ..., sigma'(z_{L-1})]``, each ``(E, n, size)``.
        """
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
        phase = x[:, None] * self.angular
        value = torch.cat([phase.sin(), phase.cos()], -1)
        first = torch.cat([self.angular * phase.cos(), -self.angular * phase.sin()], -1)
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

    Raises:
        ValueError: a size below 1, omega not positive, an unknown parametrization or activation.

    >>> factor = FactorMLP(5, width=8, depth=3, ensemble=2)
    >>> factor(torch.linspace(-1, 1, 7)).shape
    torch.Size([2, 7, 5])
    """

    def __init__(
        self,
        rank: int,
        *,
        width: int,
        depth: int,
        activation: str | activations.Activation = "sine",
        omega: float = 30.0,
        parametrization: str = "siren",
        encoding: nn.Module | None = None,
        bias: bool = True,
        ensemble: int = 1,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ):
        super().__init__(
            encoding.outputs if encoding is not None else 1,
            rank,
            width=width,
            depth=depth,
            activation=activation,
            omega=omega,
            parametrization=parametrization,
            bias=bias,
            ensemble=ensemble,
            generator=generator,
            dtype=dtype,
            device=device,
        )
        self.encoding = encoding

    @property
    def rank(self) -> int:
        """Number of outputs, R of Eq. (2)."""
        return self.weights[-1].shape[1]

    def encode(self, x: Tensor) -> Float[Tensor, "n m"]:
        """Inputs of the first layer, ``(n, m)``: the coordinate itself or its encoding (Table 5).

        Raises:
            ValueError: ``x`` is not a one-dimensional tensor.
        """
        _check_axis(x)
        return x[:, None] if self.encoding is None else self.encoding(x)

    def forward(self, x: Tensor) -> Float[Tensor, "E n R"]:
        """Factor matrix ``f_{Theta_d}(x)`` of Definition 1, transposed: ``(n,)`` coordinates to ``(E, n, R)``.

        Cost: ``2 E n P`` for P weights a copy.
        """
        return self.apply_layers(self.encode(x))

    def start_jet(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs of the first layer with their first and second derivative in x, each ``(n, m)`` (Sec. A.12, PINNs)."""
        value = self.encode(x)
        return (
            (value, torch.ones_like(value), torch.zeros_like(value)) if self.encoding is None else self.encoding.jet(x)
        )

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


def _check_axis(x: Tensor) -> None:
    if x.ndim != 1:
        raise ValueError(f"a factor takes a one-dimensional tensor of coordinates (n,), got shape {tuple(x.shape)}")
