"""How close Adam is to the edge of stability, and what a run looks like from inside (Secs. 4 and A.1.4, Fig. 7).

Linearised at the current weights, a step of Adam multiplies the residual's part along an eigenvector of
``S~ J P^-1 J^T`` (J the Jacobian on the grid, P the diagonal matrix of Adam's denominators, S~ the preconditioner's
Kronecker sum or the identity). With the first moments averaged at rate ``beta_1`` that part grows once its eigenvalue
exceeds ``(2 + 2 beta_1) / ((1 - beta_1) lr)`` (Cohen et al., 2022).
"""

from dataclasses import asdict, dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from seplib import metrics, ntk, tensorops
from seplib.preconditioning import SepPGD, kronecker_sum
from seplib.reproduce.store import stored
from seplib.studies.images.fitting import psnr_course, train_image
from seplib.studies.images.settings import ImageSettings
from seplib.studies.images.setups import run_arguments
from seplib.training import State


@torch.enable_grad()
def stability(
    model: torch.nn.Module,
    axes: list[Tensor],
    optimizer: torch.optim.Adam,
    preconditioner: SepPGD | None = None,
    products: int = 20,
) -> Float[Tensor, " E"]:
    """Largest eigenvalue of Adam's linearised step as a share of what it can bear; above 1 the step is unstable (Fig. 7).

    Args:
        model: a CP network whose copies ``optimizer`` has already moved.
        axes: D tensors ``(n_d,)``, the training grid.
        optimizer: Adam, with or without amsgrad, one group.
        preconditioner: whose matrices in force enter; None for plain gradients.
        products: of the power method with the step's matrix.

    Returns:
        One number a copy, a lower bound that grows with ``products``. Cost: about two training steps a product.

    Raises:
        ValueError: the optimizer has not made a step yet.
    """
    if not optimizer.state:
        raise ValueError("Adam's denominators are not known before its first step")
    outputs = [f(x) for f, x in zip(model.factors, axes)]
    values = [out.detach() for out in outputs]
    weights = [list(f.parameters()) for f in model.factors]
    denominators = [[_denominator(optimizer, p) for p in own] for own in weights]
    # The gradients are linear in the cotangent, so backpropagating through them, anywhere, gives J times a vector.
    probes = [torch.zeros_like(out, requires_grad=True) for out in outputs]
    pulled = [
        torch.autograd.grad(out, own, probe, create_graph=True) for out, own, probe in zip(outputs, weights, probes)
    ]
    shape = (values[0].shape[0], *(x.numel() for x in axes))
    draw = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = draw.to(values[0])
    for _ in range(products):
        u = x if preconditioner is None else kronecker_sum(x, preconditioner.preconditioners)
        y = torch.zeros_like(x)
        for d, cotangent in enumerate(tensorops.mttkrp(u, values)):
            gradients = torch.autograd.grad(outputs[d], weights[d], cotangent, retain_graph=True)
            step = [g / scale for g, scale in zip(gradients, denominators[d])]
            (tangent,) = torch.autograd.grad(pulled[d], probes[d], step, retain_graph=True)
            y += tensorops.cp_product([*values[:d], tangent, *values[d + 1 :]])
        y *= model.scale**2
        rayleigh = (u * y).flatten(1).sum(1) / (x * u).flatten(1).sum(1)
        x = y / torch.linalg.vector_norm(y.flatten(1), dim=1).view(-1, *[1] * len(axes))
    group = optimizer.param_groups[0]
    momentum = group["betas"][0]
    return rayleigh * group["lr"] * (1 - momentum) / (2 + 2 * momentum)


def _denominator(optimizer: torch.optim.Adam, parameter: Tensor) -> Tensor:
    group, state = optimizer.param_groups[0], optimizer.state[parameter]
    squares = state["max_exp_avg_sq"] if group["amsgrad"] else state["exp_avg_sq"]
    return (squares / (1 - group["betas"][1] ** state["step"].item())).sqrt() + group["eps"]


@dataclass(frozen=True)
class Course:
    """An image run looked at from inside every so many iterations (Figs. 3 and 7). T looks, E copies, D = 2 axes.

    Attributes:
        psnr: dB after each update.
        moments: ``(T,)`` iterations of the looks.
        stability: ``(T, E)``, see :func:`stability`.
        eigenvalues: ``(T, D, E, n)`` of the factors' pseudo-NTKs, falling.
        inside: ``(T, E, n)``, share of the squared residual in the first k x k pairs of their eigenvectors, by k.
        energy: ``(T, bins)``, the error by spatial frequency, see :func:`seplib.metrics.error_spectrum`.
        frequency: ``(bins,)`` in cycles per pixel.
    """

    psnr: np.ndarray
    moments: np.ndarray
    stability: np.ndarray
    eigenvalues: np.ndarray
    inside: np.ndarray
    energy: np.ndarray
    frequency: np.ndarray


def course(
    target: Tensor, method: str, settings: ImageSettings, seed: int, device: torch.device, every: int, products: int
) -> Course:
    """Train as :func:`seplib.studies.images.fitting.fit_image` does and look inside every ``every`` iterations (Figs. 3 and 7). Stored.

    Raises:
        ValueError: whatever :func:`seplib.studies.images.fitting.fit_image` refuses.
    """
    return _look(every=every, products=products, **run_arguments(target, method, settings, seed, device))


@stored("image course", tolerance=0.05, dump=asdict, load=lambda found: Course(**found))
def _look(
    *,
    target: Tensor,
    network: dict,
    descent: dict,
    seed: int,
    every: int,
    products: int,
    device: torch.device,
    modulation: dict | None = None,
) -> Course:
    looks: dict[str, list] = {name: [] for name in ("moments", "stability", "eigenvalues", "inside", "energy")}
    frequency = []

    def look(state: State) -> None:
        if not state.iteration or state.iteration % every:
            return
        found = stability(state.model, state.axes, state.optimizer, state.preconditioner, products)
        pairs = [torch.linalg.eigh(ntk.pseudo(f, x)) for f, x in zip(state.model.factors, state.axes)]
        vectors = [v.flip(-1) for _, v in pairs]
        modes = (vectors[0].mT @ state.residual @ vectors[1]).square()
        within = modes.cumsum(1).cumsum(2).diagonal(dim1=1, dim2=2)
        rings, energy = metrics.error_spectrum(state.prediction, state.target)
        frequency[:] = rings.tolist()
        looks["moments"].append(state.iteration)
        looks["stability"].append(found.cpu().numpy())
        looks["eigenvalues"].append(np.stack([values.flip(-1).cpu().numpy() for values, _ in pairs]))
        looks["inside"].append((within / within[:, -1:]).cpu().numpy())
        looks["energy"].append(energy.cpu().numpy())

    history, _ = train_image(target, network, descent, modulation, seed=seed, device=device, callbacks=[look])
    arrays = {name: np.array(part) for name, part in looks.items()}
    return Course(psnr_course(history, target), frequency=np.array(frequency), **arrays)
