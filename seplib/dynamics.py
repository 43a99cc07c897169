"""Training in function space: kernel drift, decay of the residual's modes, spectra (Theorem 3, Eq. (5), Fig. 1)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seplib import activations
from seplib.training import State, fit


@dataclass(frozen=True)
class Descent:
    """Plain gradient descent with a small step, followed in function space (Eq. (5)).

    Times are step times number of updates; residuals are prediction minus target on the grid's points; ``moved`` is the
    distance that all parameters together have moved, ``||Theta(t) - Theta(0)||`` of Theorem 3.
    """

    times: Float[Tensor, " T"]
    residuals: Float[Tensor, "T E N"]
    moved: Float[Tensor, " E"]

    def bound(self) -> Float[Tensor, " E"]:
        """Bound ``sqrt(t (L(0) - L(t)))`` of ``moved`` for the gradient flow, L half the squared residual (Theorem 3).

        It holds at every width and rank, without any assumption on the network.
        """
        loss = self.residuals[[0, -1]].square().sum(-1) / 2
        return (self.times[-1] * (loss[0] - loss[1]).clamp_min(0)).sqrt()


def descend(model: nn.Module, axes: Sequence[Tensor], target: Tensor, step: float, iterations: int) -> Descent:
    """Train on a grid by plain gradient descent, Euler's method for the gradient flow of Theorem 3 and Eq. (5).

    The step, on half the squared residual norm, must be below ``2 / lambda_1`` of the kernel to converge; the rest is
    as for :func:`seplib.training.fit`. The course has ``iterations + 1`` entries of E N numbers.

    >>> from seplib import CP, FactorMLP
    >>> axes = [torch.linspace(-1, 1, 4)] * 2
    >>> model = CP([FactorMLP(8, width=8, depth=2, parametrization="ntk", activation="tanh") for _ in range(2)])
    >>> run = descend(model, axes, torch.ones(4, 4), step=1e-3, iterations=10)
    >>> run.residuals.shape, bool((run.moved <= 1.01 * run.bound()).all())
    (torch.Size([11, 1, 16]), True)
    """
    if not step > 0:
        raise ValueError(f"step must be positive, got {step}")
    residuals: list[Tensor] = []

    def keep(state: State) -> None:
        residuals.append(state.residual.flatten(1).clone())

    before = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=step)
    fit(model, axes, target, optimizer, iterations=iterations, callbacks=[keep])
    moved = sum((p.detach() - old).square().flatten(1).sum(1) for p, old in zip(model.parameters(), before)).sqrt()
    course = torch.stack(residuals)
    times = step * torch.arange(len(course), dtype=course.dtype, device=course.device)
    return Descent(times, course, moved)


def drift(before: Tensor, after: Tensor) -> Float[Tensor, " E"]:
    """Relative change of a kernel, ``||K(t) - K(0)||_F / ||K(0)||_F`` (Theorem 3, Fig. 1(c)).

    Also the distance of two seeds (Fig. 1(a), (b)) or of a kernel to its limit (Theorem 2), relative to ``before``,
    which may be one ``(N, N)`` for all.

    >>> drift(torch.eye(2), 1.5 * torch.eye(2)[None])
    tensor([0.5000])
    """
    if before.shape[-2:] != after.shape[-2:]:
        raise ValueError(
            f"kernels of sizes {tuple(before.shape[-2:])} and {tuple(after.shape[-2:])} cannot be compared"
        )
    return torch.linalg.matrix_norm(after - before) / torch.linalg.matrix_norm(before)


@dataclass(frozen=True)
class ModeDecay:
    """Residual in the kernel's top eigenvectors, measured and predicted by Eq. (5).

    The rates are eigenvalues, the largest first; measured are amplitudes ``v_i^T (u(t) - y)`` divided by those at time
    0; predicted are ``exp(-lambda_i t)``.
    """

    rates: Float[Tensor, "E k"]
    times: Float[Tensor, " T"]
    measured: Float[Tensor, "T E k"]
    predicted: Float[Tensor, "T E k"]

    def deviation(self, floor: float = 0.1) -> Float[Tensor, "E k"]:
        """Largest ``|measured / predicted - 1|`` of each mode while ``predicted >= floor`` (Eq. (5)).

        Raises:
            ValueError: the run is too short for a mode to fall to the floor.
        """
        slowest = (self.rates.min() * self.times[-1]).item()
        if slowest < -torch.tensor(floor).log().item():
            raise ValueError(f"the slowest mode has only fallen to exp(-{slowest:.2g}), not to {floor}")
        deviation = (self.measured / self.predicted - 1).abs()
        return torch.where(self.predicted >= floor, deviation, 0).amax(0)


@torch.no_grad()
def mode_decay(K: Tensor, times: Tensor, residuals: Tensor, k: int) -> ModeDecay:
    """Split a run's residuals into the kernel's eigenvectors, Eq. (5); ValueError for sizes that do not fit.

    K holds ``(E, N, N)`` kernels at time 0; times ``(T,)`` and residuals ``(T, E, N)`` are those of :func:`descend`.
    The k modes are those of the largest eigenvalues.

    >>> times = torch.tensor([0., 1.])
    >>> decay = mode_decay(torch.eye(2)[None], times, torch.tensor([[[1., 1.]], [[0.5, 0.25]]]), k=2)
    >>> decay.predicted[1, 0]
    tensor([0.3679, 0.3679])
    """
    points = K.shape[-1]
    if residuals.shape[1:] != K.shape[:2] or len(times) != len(residuals):
        raise ValueError(
            f"{len(times)} times and residuals of shape {tuple(residuals.shape)} do not fit kernels of {tuple(K.shape)}"
        )
    if not 1 <= k <= points:
        raise ValueError(f"k must be between 1 and the kernel's size, {points}, got {k}")
    values, vectors = torch.linalg.eigh(K)
    rates, modes = values[:, -k:].flip(-1), vectors[..., -k:].flip(-1)
    amplitudes = torch.einsum("ten,enk->tek", residuals, modes)
    return ModeDecay(rates, times, amplitudes / amplitudes[0], torch.exp(-times[:, None, None] * rates))


def effective_rank(values: Tensor) -> Float[Tensor, " E"]:
    """Effective rank of ``(E, m)`` eigenvalues, ``exp(entropy of their shares)`` (Fig. 1(d); Roy and Vetterli, 2007).

    Negative ones are rounding errors and count as 0.

    >>> effective_rank(torch.tensor([[1., 1., 0.]]))
    tensor([2.])
    """
    share = values.clamp_min(0) / values.clamp_min(0).sum(-1, keepdim=True)
    return torch.exp(torch.special.entr(share).sum(-1))


def lipschitz(activation: str, omega: float = 1.0) -> tuple[float, float]:
    """Lipschitz constants of sigma and of its derivative, which Theorem 3 assumes to be finite.

    Raises:
        ValueError: an unknown activation, or one whose derivative jumps.

    >>> lipschitz("sine", omega=3.0)
    (3.0, 9.0)
    """
    value, slope = activations.get(activation, omega).lipschitz
    if slope == float("inf"):
        smooth = ", ".join(n for n in activations.NAMES if activations.get(n).lipschitz[1] < float("inf"))
        raise ValueError(f"Theorem 3 needs a Lipschitz derivative, but that of {activation} jumps at 0; use {smooth}")
    return value, slope
