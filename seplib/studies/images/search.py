"""The search for the settings of the image experiment that Sec. A.12 leaves open, judged by plain SepNN's printed numbers (Tables 3, 5, 6).

The protocol, fixed before the first run. SepPGD has no vote.

A *family* says everything that is open but the frequency: hidden and last layers' initial laws, biases or none, the coordinates,
1/sqrt(R) or not, three or four linear layers. A *reading* is a family with a frequency.

1. **Frequency.** For each family the frequency at which plain SepNN of rank 100 comes closest to its cell in Table 3. It starts at
   40 radians on half an axis and is doubled or halved until the cell lies between two runs, at most four times, and stops where the PSNR falls
   away from the cell; one last run lies between the two by linear interpolation in the logarithm.
2. **Cells.** A family that comes within 1 dB is judged by four cells: rank 500 (Table 3), width 100 (Table 6), cosine (Table 5), and rank 100 itself.
   Its distance is the root of the mean square of ours minus the paper's, in units of half a decibel.
3. **Where to look.** First the named readings below; then, round by round, every family that differs in one choice from the two
   nearest ones so far, and two drawn at random. It ends when a round brings no nearer one.
4. **Choice.** The four nearest readings train on all cells of Tables 3, 5 and 6 without Fourier features, three channels, and the nearest is frozen:
   the mean over the four groups of cells (ranks, widths, activations, headline) of the mean squared difference in units of half a decibel.

Steps 1 and 2 train on the green channel alone, a third of the work; the printed numbers are moved by the difference that green makes
to rank 100 of SIREN as its authors use it, whose three channels were measured before.
"""

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from seplib.reproduce import claims
from seplib.studies.images.fitting import image_course
from seplib.studies.images.settings import ImageSettings

# Radians that the frequency makes of half an axis: where the search of every family begins.
START = 40.0
STEPS = 4
UNIT = 0.5  # dB


@dataclass(frozen=True)
class Family:
    """A reading of what Sec. A.12 leaves open, all but its frequency.

    Attributes:
        hidden, last: initial laws, see :data:`seplib.studies.images.setups.LAWS`.
        bias: whether the layers have biases.
        axes: "centred" for [-1, 1], "unit" for [0, 1], "pixels" for 1, 2, ..., n.
        scale: "rank" for the factor 1/sqrt(R), None for none.
        depth: number of linear layers.
    """

    hidden: str = "siren"
    last: str = "siren"
    bias: bool = True
    axes: str = "centred"
    scale: str | None = "rank"
    depth: int = 3

    def settings(self, run: ImageSettings, phase: float) -> ImageSettings:
        """Settings of a run under this family, its frequency given by the radians that it makes of half an axis (Sec. A.12)."""
        low, high = {"centred": (-1.0, 1.0), "unit": (0.0, 1.0), "pixels": (1.0, float(run.size))}[self.axes]
        omega = phase * 2 / (high - low)
        own = dict(hidden=self.hidden, last=self.last, bias=self.bias, scale=self.scale, depth=self.depth)
        # SIREN's own laws are what nothing said means.
        own |= {name: None for name in ("hidden", "last") if own[name] == "siren"}
        return replace(run, omega=float(f"{omega:.4g}"), low=low, high=high, **own)

    def neighbours(self) -> Iterator["Family"]:
        """Families that differ in one choice (Sec. A.12)."""
        for name, values in CHOICES.items():
            yield from (replace(self, **{name: value}) for value in values if value != getattr(self, name))

    def __str__(self) -> str:
        return ", ".join(
            (
                f"{self.hidden} hidden", f"{self.last} last", "biases" if self.bias else "no biases", f"{self.axes} axes",
                "1/sqrt(R)" if self.scale else "no scale", f"{self.depth} layers",
            )
        )  # fmt: skip


CHOICES: dict[str, tuple] = dict(
    hidden=("siren", "torch", "inverse"),
    last=("siren", "torch"),
    bias=(True, False),
    axes=("centred", "unit", "pixels"),
    scale=("rank", None),
    depth=(3, 4),
)
# SIREN as its authors use it; its first layer's law throughout with PyTorch's last layer, as in LRTFR; PyTorch's own laws.
NAMED = tuple(
    Family(hidden=hidden, last=last, scale=scale, axes=axes)
    for (hidden, last), axes in (
        (("siren", "siren"), "centred"),
        (("inverse", "torch"), "centred"),
        (("inverse", "torch"), "pixels"),
        (("siren", "torch"), "centred"),
        (("torch", "torch"), "centred"),
    )
    for scale in ("rank", None)
)


def families(seed: int) -> list[Family]:
    """All families in a random order (Sec. A.12)."""
    every = [Family(**dict(zip(CHOICES, values))) for values in itertools.product(*CHOICES.values())]
    return [every[i] for i in torch.randperm(len(every), generator=torch.Generator().manual_seed(seed))]


@dataclass(frozen=True)
class Sieve:
    """Plain runs on one channel, against printed numbers (steps 1 and 2 of the protocol).

    Attributes:
        target: ``(1, H, W)``.
        run: settings that the families change.
        offset: what this channel alone adds to the printed numbers, in dB.
        seed: of the initial weights.
        device: where to compute.
    """

    target: Tensor
    run: ImageSettings
    offset: float
    seed: int
    device: torch.device

    def psnr(self, family: Family, phase: float, **change: Any) -> float:
        """PSNR of the last iteration in dB, -inf for a run that diverged (Tables 3, 5, 6)."""
        settings = family.settings(replace(self.run, **change), phase)
        try:
            return float(image_course(self.target, "SepNN", settings, self.seed, self.device).psnr[-1])
        except FloatingPointError:
            return -math.inf

    def frequency(self, family: Family) -> tuple[float, float]:
        """Step 1 of the protocol: the best phase found, and how far its PSNR is from the printed one (Table 3)."""
        wanted = claims.printed("table-3", "SepNN", "100", "rank R") + self.offset
        tried = {START: self.psnr(family, START, rank=100) - wanted}
        factor = 2.0 if tried[START] < 0 else 0.5
        phase = START
        for _ in range(STEPS):
            here, phase = tried[phase], phase * factor
            tried[phase] = self.psnr(family, phase, rank=100) - wanted
            if here * tried[phase] <= 0:
                if math.isfinite(tried[phase]):
                    share = here / (here - tried[phase])
                    between = float(f"{phase / factor * factor**share:.3g}")
                    tried[between] = self.psnr(family, between, rank=100) - wanted
                break
            if abs(tried[phase]) > abs(here):
                break
        best = min(tried, key=lambda one: abs(tried[one]))
        return best, tried[best]

    def judge(self, family: Family) -> dict[str, Any]:
        """Steps 1 and 2 of the protocol: one row of the search's table, ``distance`` NaN where step 1 has failed (Tables 3, 5, 6)."""
        phase, miss = self.frequency(family)
        row = {field.name: getattr(family, field.name) for field in fields(family)} | {"phase": phase, "rank 100": miss}
        row |= dict.fromkeys(("rank 500", "width 100", "cosine", "distance"), math.nan)
        if abs(miss) <= 1:
            row["rank 500"] = self._miss(family, phase, "table-3", "500", "rank R")
            row["width 100"] = self._miss(family, phase, "table-6", "100", "width W", width=100)
            row["cosine"] = self._miss(family, phase, "table-5", "cos", "activation", activation="cos")
            row["distance"] = float(
                np.sqrt(np.mean([(row[name] / UNIT) ** 2 for name in ("rank 100", "rank 500", "width 100", "cosine")]))
            )
        return row

    def _miss(self, family: Family, phase: float, table: str, value: str, varied: str, **change: Any) -> float:
        return self.psnr(family, phase, **change) - claims.printed(table, "SepNN", value, varied) - self.offset


def search(sieve: Sieve, start: Iterable[Family], drawn: Iterable[Family]) -> pd.DataFrame:
    """Step 3 of the protocol: rounds of neighbours and of two drawn families, until a round brings none that is nearer (Tables 3, 5, 6).

    Args:
        sieve: judges a family.
        start: the families of the first round.
        drawn: families in a random order, see :func:`families`.

    Returns:
        One row a family, see :meth:`Sieve.judge`, nearest first.
    """
    rows: dict[Family, dict[str, Any]] = {}
    wanted, others, before = list(start), iter(drawn), math.inf
    while wanted:
        rows |= {family: sieve.judge(family) for family in wanted}
        ranked = sorted((f for f in rows if rows[f]["distance"] >= 0), key=lambda f: rows[f]["distance"])
        if not ranked or rows[ranked[0]]["distance"] >= before:
            break
        before = rows[ranked[0]]["distance"]
        near = [f for one in ranked[:2] for f in one.neighbours()]
        fresh = itertools.islice((f for f in others if f not in rows and f not in near), 2)
        wanted = [f for f in dict.fromkeys([*near, *fresh]) if f not in rows]
    return pd.DataFrame(rows.values()).sort_values("distance", ignore_index=True)
