"""The one training loop: any model, any torch optimizer, any preconditioner (Eqs. (6) and (7), Sec. A.12)."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from seplib import metrics
from seplib.checkpoints import Checkpoint
from seplib.factors import Data, as_input
from seplib.separable import some_parameter
from seplib.streaming import FullResidual, Preconditioning, StreamedResidual

# Updates whose losses a GPU keeps until the host asks: asking is waiting, and meanwhile the GPU runs out of work.
BLOCK = 100


@dataclass(frozen=True)
class State:
    """What a callback sees after ``iteration`` updates (Sec. A.12).

    Beside what :func:`fit` was given it has ``prediction``, ``residual``, ``history`` and ``seconds``, formed when
    asked for.
    """

    iteration: int
    model: torch.nn.Module
    axes: Sequence[Tensor] | Tensor
    target: Tensor
    optimizer: torch.optim.Optimizer
    preconditioner: Any
    predict: Callable[[], Tensor]
    recall: Callable[[], "History"]

    @cached_property
    def prediction(self) -> Tensor:
        """Model output at the training inputs, of the target's shape; a streamed run must form it (Eq. (6))."""
        return self.predict()

    @cached_property
    def residual(self) -> Tensor:
        """Prediction minus target (Eq. (6))."""
        return self.prediction - self.target

    @cached_property
    def history(self) -> "History":
        """Course so far, this entry's loss included (Fig. 7): what to stop early by. A GPU is waited for."""
        return self.recall()

    @property
    def seconds(self) -> float:
        """Training time so far, callbacks and checkpoints left out; a GPU is waited for (Fig. 7)."""
        return self.history.seconds[-1]


@dataclass
class History:
    """Course of a training run (Fig. 7). Entry t of every list belongs to the weights after t updates.

    The loss is half the squared residual norm of Eq. (6), one list of E numbers an entry; seconds are those of
    training, callbacks and checkpoints left out, on a GPU of its own work and not the host's; metrics are what the
    callbacks returned, by name.
    """

    loss: list[list[float]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    metrics: dict[str, list[float]] = field(default_factory=dict)


class Stop(Exception):
    """Raised by a callback to end the training with the updates made so far (Sec. A.12)."""


Callback = Callable[[State], Mapping[str, float] | None]


def fit(
    model: torch.nn.Module,
    axes: Sequence[Data] | Data,
    target: Data,
    optimizer: torch.optim.Optimizer | None = None,
    preconditioner: Preconditioning | None = None,
    iterations: int = 1000,
    callbacks: Sequence[Callback] = (),
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 100,
    streamed: bool = False,
    mask: Data | None = None,
    scheduler: Any = None,
    clip: float | None = None,
) -> History:
    """Fit a model to data on a grid or at points: the square loss of Eq. (6), plain or preconditioned descent, Eq. (7).

    Each iteration evaluates ``Z = model.grid(axes)`` and sends the residual ``R = Z - Y``, the gradient of
    ``||R||^2 / 2``, or the preconditioner's answer to it backward through Z; the optimizer does the rest. Copies along
    the ensemble axis do not interact if it acts element by element (SGD, Adam). Data are NumPy arrays, or tensors on
    the network's device; axes and points have its dtype, a target takes it.

    Args:
        model: a network with ``grid``; its parameters are changed in place.
        axes: D tensors ``(n_d,)`` for data on a grid; one tensor ``(N, D)`` for data at scattered points, where
            ``model.points`` takes the place of ``model.grid``.
        target: ``(E, n_1, ..., n_D)`` or, for all copies the same, ``(n_1, ..., n_D)``; ``(E, N)`` or ``(N,)`` at
            points.
        optimizer: any torch optimizer over the model's parameters; Adam with lr 1e-4 (Sec. A.12) if None.
        preconditioner: maps ``(residual, iteration)`` to the preconditioned residual, such as :class:`seplib.SepPGD`.
        iterations: number of updates.
        callbacks: called with a :class:`State` after 0, 1, ..., ``iterations`` updates; the numbers they return are
            kept in the history. One that fetches a number from a GPU, or asks for ``seconds``, makes the host wait, so
            it should do that only when it measures. One that raises :class:`Stop` ends the training; if it decides by
            ``state.history``, which a checkpoint holds, a resumed run ends where an uninterrupted one does.
        checkpoint: file to resume from if it is there, and to save to. A run that was killed goes on from its last
            checkpoint and ends with the same numbers. A damaged file is kept aside with a warning, and the run starts
            over.
        checkpoint_every: updates between two saves.
        streamed: form neither Z nor R but their products with the factors only, for large grids of D >= 3; see
            :class:`seplib.streaming.StreamedResidual`.
        mask: booleans of the target's shape, with or without its ensemble axis: the entries that are known (inpainting,
            Figs. 10-12). Loss and gradient leave out the others, whose target values do not matter as long as they are
            finite.
        scheduler: torch learning-rate scheduler of the optimizer, asked after each update; its state is in the
            checkpoint.
        clip: largest norm of the gradient of all parameters together, by which it is scaled down. Copies then interact.

    Returns:
        The history, ``iterations + 1`` entries long unless stopped before.

    Raises:
        ValueError: target, mask or grid do not fit; no finite target; nothing to do; a checkpoint of another run.
        TypeError: a streamed run of a model or with a preconditioner that cannot be streamed, or with a mask.
        FloatingPointError: the loss became NaN or infinite.

    >>> from seplib import CP, FactorMLP
    >>> axes = [torch.linspace(-1, 1, 8)] * 2
    >>> model = CP([FactorMLP(4, width=8, depth=2, generator=torch.Generator().manual_seed(d)) for d in range(2)])
    >>> history = fit(model, axes, torch.ones(8, 8), torch.optim.Adam(model.parameters(), 1e-2), iterations=50)
    >>> history.loss[-1] < history.loss[0]
    True
    """
    if optimizer is None:
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    like = some_parameter(model)
    scattered = isinstance(axes, Data)
    axes = as_input(axes, like, "array of points") if scattered else [as_input(x, like, "axis") for x in axes]
    if isinstance(target, Tensor) and like is not None:
        target = target.to(like.dtype)
    target = _checked_target(axes, as_input(target, like, "target"))
    if not streamed:
        data = FullResidual(model, axes, target, preconditioner, _checked_mask(mask, target))
    elif mask is not None:
        raise TypeError("a streamed run takes no mask")
    else:
        data = StreamedResidual(model, axes, target, preconditioner)
    return descend(
        data, model, optimizer, preconditioner, iterations, callbacks, checkpoint, checkpoint_every, scheduler, clip
    )


def descend(
    step: Any,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    preconditioner: Any = None,
    iterations: int = 1000,
    callbacks: Sequence[Callback] = (),
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 100,
    scheduler: Any = None,
    clip: float | None = None,
) -> History:
    """The loop behind :func:`fit`, for any loss that can say its value and its gradient (Sec. A.12).

    The step has ``axes`` and ``target``; ``forward()`` evaluates the model, ``loss()`` is the value of each copy,
    ``(E,)``, in memory of its own, ``prediction()`` the output at the training inputs, and ``backward(iteration)`` sets
    the gradients, such as :class:`seplib.streaming.FullResidual`. The optimizer moves the model's parameters, or what
    they are views of; the rest is as for :func:`fit`. Checkpoints hold the states of model, optimizer, preconditioner
    and scheduler.

    On a GPU the host runs ahead: it fetches the losses every :data:`BLOCK` updates, before a checkpoint and at the end,
    and waits for nothing in between that the callbacks and the preconditioner do not ask for. Divergence is noticed
    there, by the first loss that is not finite; the model has then been updated beyond it, and callbacks may have seen
    it so.
    """
    if iterations < 1 or checkpoint_every < 1:
        raise ValueError(f"iterations and checkpoint_every must be at least 1, got {iterations}, {checkpoint_every}")
    if clip is not None and not clip > 0:
        raise ValueError(f"clip must be positive, got {clip}")
    if getattr(scheduler, "optimizer", optimizer) is not optimizer:
        raise ValueError("the scheduler belongs to another optimizer than the one given")
    history, start, stopped = History(), 0, False
    parts = dict(model=model, optimizer=optimizer, preconditioner=preconditioner, scheduler=scheduler)
    saved = None if checkpoint is None else Checkpoint(Path(checkpoint), step, parts, clip)
    if saved and (found := saved.resume(iterations)):
        history, start = History(**found), len(found["loss"]) - 1
    elif hasattr(preconditioner, "begin"):  # one that has served another run
        preconditioner.begin()
    recorded = len(history.loss)  # a resumed run has already recorded the entry of its first iteration
    recorder = _Recorder(history, step.target.device)
    common = step.axes, step.target, optimizer, preconditioner, step.prediction, recorder.recall
    steps = range(start, iterations + 1)
    try:
        for iteration in tqdm(steps, initial=start, total=iterations + 1, disable=None, leave=False):
            last = iteration == iterations
            with torch.set_grad_enabled(not last):
                step.forward()
            if iteration >= recorded:
                due = saved and not last and iteration > start and iteration % checkpoint_every == 0
                recorder.record(step.loss(), fetch=bool(last or due))
                state = State(iteration, model, *common)
                for callback in callbacks:
                    try:
                        for name, value in (callback(state) or {}).items():
                            history.metrics.setdefault(name, []).append(float(value))
                    except Stop:
                        stopped = True
                if due and not stopped:  # a stopped run that is called again goes back a little, and stops again
                    saved.save(vars(history))
                recorder.go_on()
            if last or stopped:
                break
            optimizer.zero_grad(set_to_none=True)
            step.backward(iteration)
            if clip is not None:
                torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip)
            optimizer.step()
            if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
                scheduler.step(sum(recorder.recall().loss[-1]))
            elif scheduler is not None:
                scheduler.step()
    except Exception:
        recorder.recall()  # what fails on NaN fails because training diverged
        raise
    return recorder.recall()


class _Recorder:
    """Enters losses and times in a history, on a GPU block by block, so that the host need not wait for each."""

    def __init__(self, history: History, device: torch.device):
        self.history, self.device = history, device
        self.block = 1 if device.type == "cpu" else BLOCK
        self.losses: list[Tensor] = []
        self.spans: list[tuple[Any, Any]] = []
        self.go_on()

    def go_on(self) -> None:
        """The time from here to the next entry is training time."""
        self.start = metrics.now(self.device)

    def record(self, loss: Tensor, fetch: bool) -> None:
        if loss.is_meta:
            return
        self.losses.append(loss)
        self.spans.append((self.start, metrics.now(self.device)))
        if fetch or len(self.losses) >= self.block:
            self.recall()

    def recall(self) -> History:
        """The history with the losses that are still on the device; FloatingPointError if one is NaN or infinite."""
        if not self.losses:
            return self.history
        values, spans = torch.stack(self.losses).tolist(), self.spans
        self.losses, self.spans = [], []
        for loss, span in zip(values, spans):
            if not all(map(math.isfinite, loss)):
                raise FloatingPointError(
                    f"training diverged: the loss is {loss} after {len(self.history.loss)} updates"
                )
            self.history.loss.append(loss)
            self.history.seconds.append(metrics.between(*span) + sum(self.history.seconds[-1:]))
        return self.history


def _checked_target(axes: Sequence[Tensor] | Tensor, target: Tensor) -> Tensor:
    sizes = (axes.shape[0],) if isinstance(axes, Tensor) else tuple(x.numel() for x in axes)
    if target.ndim == len(sizes):
        target = target[None]
    if tuple(target.shape[1:]) != sizes:
        raise ValueError(f"the target must be (E, *{sizes}) for these axes, got {tuple(target.shape)}")
    # The sum of finite numbers costs no memory; only where it is not finite are the entries looked at one by one.
    if not target.is_meta and not torch.isfinite(target.sum()) and not (finite := torch.isfinite(target)).all():
        where = tuple((~finite).nonzero()[0].tolist())
        raise ValueError(
            f"the target must be finite, but {(~finite).sum()} of its values are not, the first at {where}"
        )
    return target


def _checked_mask(mask: Data | None, target: Tensor) -> Tensor | None:
    if mask is None:
        return None
    if isinstance(mask, np.ndarray):
        mask = torch.as_tensor(np.array(mask), device=target.device)
    if mask.device != target.device:
        raise ValueError(f"the mask is on {mask.device}, the target on {target.device}")
    if mask.dtype != torch.bool or mask.shape not in (target.shape, target.shape[1:]):
        found = f"{tuple(target.shape)}, got {mask.dtype}, {tuple(mask.shape)}"
        raise ValueError(f"the mask must hold booleans of the target's shape {found}")
    if not mask.is_meta and not mask.any():
        raise ValueError("the mask leaves no entry to fit")
    return mask
