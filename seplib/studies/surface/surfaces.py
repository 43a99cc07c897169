"""A solid fitted as an occupancy volume, SepNN against SepPGD, judged by IoU (Sec. A.12, Fig. 3)."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from IPython.display import HTML, Image
from jaxtyping import Bool, Float
from matplotlib.figure import Figure
from torch import Tensor

from seplib import tensorops
from seplib.reproduce import plotting
from seplib.reproduce.criteria import Comparison, above
from seplib.reproduce.store import stored
from seplib.studies.images.fitting import take_turns, turns
from seplib.studies.images.setups import METHODS, prepare, run_arguments
from seplib.studies.surface import rendering
from seplib.studies.surface.settings import SurfaceSettings, SurfaceStudySettings
from seplib.targets.solids import VolumeTarget
from seplib.training import Callback, History, State, fit


@dataclass(frozen=True)
class SurfaceRun:
    """Result of fitting one volume with one method (Fig. 3).

    Attributes:
        history: loss and seconds after each update; the metric "IoU" after every ``every`` updates and the last.
        factors: D matrices ``(n_d, R)`` after the last update, whose CP product is the network's output on the grid; rounded
            to half precision, as they are stored to be drawn.
    """

    history: History
    factors: list[np.ndarray]

    @property
    def iou(self) -> np.ndarray:
        """IoU after every ``every`` updates and the last (Fig. 3)."""
        return np.array(self.history.metrics["IoU"])

    def values(self) -> Float[Tensor, "n1 n2 n3"]:
        """The network's output on the grid (Fig. 3)."""
        return tensorops.cp_product([torch.from_numpy(f)[None] for f in self.factors])[0]


Study = dict[tuple[tuple[int, ...], str], list[SurfaceRun]]
# Blur of what is drawn, in voxels; the data are zeros and ones, and without it only their steps would be seen.
_BLUR = 0.8


def search(small: VolumeTarget, settings: SurfaceStudySettings, seed: int, device: torch.device) -> pd.DataFrame:
    """What Sec. A.12 leaves open, tried with plain SepNN on a smaller grid: IoU by frequency and scale.

    The columns: w_0, the scale, IoU after the last update, the best, and the mean over the second half of the training. The
    last column decides: with this learning rate a training can collapse at any time and recover.

    Args:
        small: on a grid of ``settings.search_sizes``.
        settings: of the profile.
        seed: of the initial weights.
        device: where to compute.
    """
    rows = []
    for omega in settings.omegas:
        for scale in settings.scales:
            tried = replace(settings.run, sizes=settings.search_sizes, omega=omega, scale=scale)
            iou = fit_surface(small.values, "SepNN", tried, seed, device).iou
            name = "1/sqrt(R)" if scale == "rank" else "none"
            rows.append((omega, name, iou[-1], iou.max(), iou[len(iou) // 2 :].mean()))
    return pd.DataFrame(rows, columns=["w0", "scale", "last", "best", "second half"])


def study(
    target: VolumeTarget, small: VolumeTarget, settings: SurfaceStudySettings, seed: int, device: torch.device
) -> Study:
    """Both methods at full size with one seed and on the smaller grid with several, each run cached (Fig. 3).

    Args:
        target: on a grid of ``settings.run.sizes``.
        small: on a grid of ``settings.search_sizes``.
        settings: of the profile.
        seed: the first.
        device: where to compute.

    Returns:
        The runs by (sizes, method), one for each seed, full size first.
    """
    runs: Study = {}
    for volume, seeds in ((target.values, 1), (small.values, settings.seeds)):
        run = replace(settings.run, sizes=tuple(volume.shape))
        for method in METHODS:
            fits = [fit_surface(volume, method, run, seed + step, device) for step in range(seeds)]
            runs[run.sizes, method] = fits
    return runs


def paces(target: VolumeTarget, settings: SurfaceStudySettings, seed: int, device: torch.device) -> dict[str, float]:
    """Mean seconds of one iteration at full size by method, see :func:`seplib.studies.images.fitting.take_turns` (Fig. 3)."""

    def untested(method: str, short: SurfaceSettings) -> dict[str, Any]:  # the IoU is measured at the end alone
        return _arguments(target.values, method, replace(short, every=short.iterations), seed, device)

    runs = turns(dict.fromkeys(METHODS, settings.run), untested)
    paces = _surface_clock(target=target.values, runs=runs, seed=seed, device=device)
    return {method: float(pace.mean()) for method, pace in paces.items()}


def table(runs: Study, steps: dict[str, float], every: int) -> pd.DataFrame:
    """IoU by grid and method (Fig. 3).

    The columns: IoU after the last update, mean and standard deviation over seeds; the best; updates until SepNN's last IoU is
    first reached; and, at full size and at the pace of :func:`paces`, the seconds of these and of all updates.

    Args:
        runs: from :func:`study`.
        steps: seconds of an iteration at full size.
        every: iterations between two measurements.
    """
    rows, full = [], next(iter(runs))[0]
    for (sizes, method), fits in runs.items():
        last = np.array([run.iou[-1] for run in fits])
        course = np.mean([run.iou for run in fits], axis=0)
        goal = np.mean([run.iou[-1] for run in runs[sizes, METHODS[0]]])
        updates = len(fits[0].history.loss) - 1
        reached = min(every * int(np.argmax(course >= goal)), updates) if (course >= goal).any() else np.nan
        pace = steps[method] if sizes == full else np.nan
        rows.append(
            {
                "grid": " x ".join(map(str, sizes)),
                "method": method,
                "IoU": last.mean(),
                "spread": last.std(ddof=1) if len(fits) > 1 else np.nan,
                "best": np.mean([run.iou.max() for run in fits]),
                "updates to SepNN's IoU": reached,
                "seconds to SepNN's IoU": reached * pace,
                "seconds": updates * pace,
            }
        )
    return pd.DataFrame(rows)


def cases(runs: Study) -> dict[str, Comparison]:
    """The case of the claim ``fig-3-surface``: IoU of SepPGD above that of SepNN after the last update at full size (Fig. 3).

    One seed runs at full size; the spread beside the case is that of the difference between the seeds on the smaller grid.
    """
    full, small = next(iter(runs))[0], list(runs)[-1][0]
    plain, ours = (runs[full, method][0] for method in METHODS)
    several = [[run.iou[-1] for run in runs[small, method]] for method in METHODS]
    spread = np.hypot(*np.std(several, axis=1, ddof=1)) if len(several[0]) > 1 else None
    return {
        f"IoU above SepNN's after {len(plain.history.loss) - 1} updates": above(
            ours.iou[-1], plain.iou[-1], spread=spread
        )
    }


def share_above(runs: Study) -> float:
    """Share of the measurements at full size, the first left out, at which SepPGD's IoU is above SepNN's (Fig. 3)."""
    full = next(iter(runs))[0]
    plain, ours = (runs[full, method][0].iou[1:] for method in METHODS)
    return float((ours > plain).mean())


def draw(runs: Study, steps: dict[str, float], every: int) -> Figure:
    """What the IoU lacks to 1, over iterations and over time at full size, over iterations on the smaller grid (Fig. 3).

    Args:
        runs: from :func:`study`.
        steps: seconds of an iteration at full size.
        every: iterations between two measurements.
    """
    grids = list(dict.fromkeys(sizes for sizes, _ in runs))
    figure, row = plotting.panels(1, 3, 3.2, sharey=True)
    for panel, (axes, sizes) in enumerate(zip(row[0], [grids[0], grids[0], grids[-1]])):
        for method in METHODS:
            courses = np.array([run.iou for run in runs[sizes, method]])
            updates = len(runs[sizes, method][0].history.loss) - 1
            at = np.minimum(every * np.arange(courses.shape[1]), updates)
            plotting.band(axes, at * (steps[method] if panel == 1 else 1), 1 - courses, method)
        axes.set(yscale="log", title=" × ".join(map(str, sizes)), xlabel="seconds" if panel == 1 else "iteration")
    row[0, 0].set_ylabel("1 − IoU")
    plotting.legend(figure)
    return figure


def pictures(target: VolumeTarget, runs: Study) -> Image:
    """Surfaces of the data and of both networks, below each the two details in which the networks differ most (Fig. 3).

    Args:
        target: at full size.
        runs: from :func:`study`.
    """
    height = min(700, 6 * max(target.values.shape))  # in pixels; more would only show the voxels
    meshes = {
        label: rendering.oriented(rendering.isosurface(values, _BLUR), target.up)
        for label, values in _labelled(target, runs)
    }
    first = next(iter(meshes.values())).vertices
    box = np.stack([first.min(0), first.max(0)])
    panels = {label: rendering.picture(mesh, box, height) for label, mesh in meshes.items()}
    shown = list(panels.values())[-2:]
    side = min(shown[0].shape[1:]) // 5
    return plotting.jpeg(plotting.comparison(panels, rendering.differing(shown[0], shown[-1], side), side))


def solids(target: VolumeTarget, runs: Study) -> HTML:
    """The same surfaces as solids to turn (Fig. 3)."""
    return rendering.solids(dict(_labelled(target, runs)), target.up, _BLUR)


def _labelled(target: VolumeTarget, runs: Study) -> Iterator[tuple[str, np.ndarray]]:
    """What is shown, with its label; a network whose training has collapsed has no surface and is left out."""
    yield "data", target.values.numpy().astype(np.float32)
    for method in METHODS:
        run = runs[tuple(target.values.shape), method][0]
        if run.iou[-1] > 0:
            yield f"{method}, IoU {run.iou[-1]:.3f}", run.values().numpy()


def fit_surface(
    volume: Bool[Tensor, "n1 n2 n3"], method: str, settings: SurfaceSettings, seed: int, device: torch.device
) -> SurfaceRun:
    """Fit an occupancy volume, streamed: nothing of its size times R is formed (Sec. A.12). Stored.

    Args:
        volume: whether each voxel is inside; the networks are fitted to 0 and 1.
        method: "SepNN" for plain gradients, "SepPGD" for Definition 1; both from the same initial weights.
        settings: of the profile.
        seed: of the initial weights.
        device: where to compute.

    Raises:
        ValueError: an unknown method; whatever :func:`seplib.training.fit` and :class:`seplib.SepPGD` refuse.
    """
    return _fit_surface(**_arguments(volume, method, settings, seed, device))


def _arguments(volume, method, settings, seed, device) -> dict[str, Any]:
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    made = run_arguments(volume, method, settings, seed, device)
    return made | {"descent": made["descent"] | {"every": settings.every}}


def _dump(run: SurfaceRun) -> dict[str, Any]:
    return {"history": asdict(run.history), "factors": [matrix.astype(np.float16) for matrix in run.factors]}


def _load(found: dict[str, Any]) -> SurfaceRun:
    return SurfaceRun(History(**found["history"]), [matrix.astype(np.float32) for matrix in found["factors"]])


@stored("surface", tolerance=0.05, dump=_dump, load=_load)
def _fit_surface(
    *,
    target: Bool[Tensor, "n1 n2 n3"],
    network: dict,
    descent: dict,
    seed: int,
    device: torch.device,
    modulation: dict | None = None,
    checkpoint: Path | None = None,
) -> SurfaceRun:
    volume = target.to(device)
    values = volume[None].float()
    model, axes, optimizer, preconditioner = prepare(values, network, descent, modulation, seed)
    last = descent["iterations"]
    callbacks = [judge(volume, descent["every"], last)]
    history = fit(
        model, axes, values, optimizer, preconditioner, last, callbacks, checkpoint, checkpoint_every=50, streamed=True
    )
    with torch.no_grad():
        return SurfaceRun(history, [matrix[0].cpu().numpy() for matrix in model.matrices(axes)])


@stored("surface clock", tolerance=None)
def _surface_clock(*, target: Tensor, runs: dict, seed: int, device: torch.device) -> dict[str, np.ndarray]:
    def train(**own: Any) -> History:
        # What is timed is not stored: the computation behind the stored function.
        return _fit_surface.__wrapped__(target=target, seed=seed, device=device, **own).history

    return take_turns(train, runs, rounds=1)


def judge(volume: Bool[Tensor, "n1 n2 n3"], every: int, last: int) -> Callback:
    """A callback that measures the metric "IoU" after every ``every`` updates and the last (Fig. 3)."""

    def measure(state: State) -> dict[str, float] | None:
        if state.iteration % every and state.iteration != last:
            return None
        with torch.no_grad():
            return {"IoU": iou(state.model.matrices(state.axes), volume)}

    return measure


def iou(factors: Sequence[Tensor], volume: Bool[Tensor, "n1 n2 n3"]) -> float:
    """Intersection over union of a CP product at threshold 1/2 and a volume, slab by slab (Sec. 5, Fig. 3).

    Args:
        factors: three matrices ``(1, n_d, R)``.
        volume: whether each voxel is inside.

    >>> iou([torch.ones(1, n, 1) for n in (2, 3, 4)], torch.ones(2, 3, 4, dtype=torch.bool))
    1.0
    """
    first, *rest = factors
    step = max(1, 4 * tensorops.SLAB // volume[0].numel())
    both = either = 0
    for rows, inside in zip(first.split(step, dim=1), volume.split(step)):
        found = tensorops.cp_product([rows, *rest])[0] > 0.5
        both += (found & inside).sum().item()
        either += (found | inside).sum().item()
    return both / either if either else 1.0
