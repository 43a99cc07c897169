"""Claims of the paper, what was measured of them, and the verdicts (Secs. 2-5, Appendix A).

A notebook opens a :class:`Report`, records claims, tables and figures in it, and the report writes them below
``$SEPLIB_RESULTS`` if that is set, as the runner does; without it (a notebook opened by hand) nothing is written.
"""

import functools
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from pandas.io.formats.style import Styler

from seplib.checkpoints import write_atomic
from seplib.reproduce import store
from seplib.reproduce.criteria import Case, held, margins, verdict
from seplib.reproduce.provenance import provenance

VERDICTS = ("reproduced", "partly", "not reproduced", "not stated", "not run")


@dataclass(frozen=True)
class Claim:
    """One row of the claim list: a statement of the paper and the criterion fixed before any run (Secs. 2-5).

    Attributes:
        id: short name, such as ``"thm-2"``.
        where: place in the paper.
        claim: the statement in our words.
        criterion: what must hold for the verdict "reproduced".
    """

    id: str
    where: str
    claim: str
    criterion: str


@functools.cache
def claims() -> dict[str, Claim]:
    """Every claim of the paper by id, in the paper's order (Secs. 2-5, Appendix A).

    >>> claims()["lem-2"].where
    'Lemma 2'
    """
    frame = pd.read_csv(files("seplib.reproduce") / "claims.csv")
    return {row.id: Claim(row.id, row.where, row.claim, row.criterion) for row in frame.itertuples()}


@functools.cache
def _printed() -> pd.DataFrame:
    return pd.read_csv(files("seplib.reproduce") / "tables.csv", dtype={"value": str})


def printed(table: str, method: str, value: str, varied: str | None = None) -> float:
    """A number as the paper prints it (Tables 2-9).

    Args:
        table: such as ``"table-3"``.
        method: such as ``"SepPGD"``.
        value: the varied setting's value, such as ``"500"``.
        varied: which setting is varied, where the table varies more than one.

    Raises:
        KeyError: the paper prints no such number, or more than one.

    >>> printed("table-3", "SepPGD", "500", varied="rank R")
    33.3
    """
    found = printed_or_nan(table, method, value, varied)
    if math.isnan(found):
        raise KeyError(f"0 numbers in {table} for method {method!r}, {varied or 'value'} {value!r}; one expected")
    return found


def printed_or_nan(table: str, method: str, value: str, varied: str | None = None) -> float:
    """As :func:`printed`, NaN where the paper prints nothing: most settings of the ``smoke`` profile (Tables 2-9).

    Raises:
        KeyError: the paper prints more than one such number.

    >>> printed_or_nan("table-3", "SepPGD", "12", varied="rank R")
    nan
    """
    frame = _printed()
    rows = frame[(frame.table == table) & (frame.method == method) & (frame.value == str(value))]
    if varied is not None:
        rows = rows[rows.varied == varied]
    if len(rows) > 1:
        raise KeyError(
            f"{len(rows)} numbers in {table} for method {method!r}, {varied or 'value'} {value!r}; one expected"
        )
    return float(rows.reported.iloc[0]) if len(rows) else float("nan")


class Report:
    """What one notebook measured. Saved after every record, so a failure later on loses nothing.

    Args:
        notebook: the notebook's name without its ending.
        profile: "smoke" or "paper".
        device: where the runs took place.
        seed: the first seed.
    """

    def __init__(self, notebook: str, *, profile: str, device: torch.device | str, seed: int):
        self.notebook, self.profile, self.seed = notebook, profile, seed
        self._began = time.perf_counter()
        self._provenance = provenance(device)
        self._claims: dict[str, dict[str, Any]] = {}
        self._checks: dict[str, Case] = {}
        root = os.environ.get("SEPLIB_RESULTS")
        self.folder = Path(root) if root else None
        self._save_record()

    def record(
        self,
        id: str,
        *,
        cases: Mapping[str, Case],
        paper: Mapping[str, float | str | None],
        measured: Mapping[str, float | str],
        spread: Mapping[str, float] | None = None,
        seconds: float | None = None,
        assumed: str | None = None,
    ) -> str:
        """Record one claim and return its verdict.

        Args:
            id: a claim's id.
            cases: the criterion's cases by name, each a comparison, such as :func:`seplib.reproduce.criteria.at_most`; a bare bool only where no
                numbers are compared.
            paper: the paper's numbers by name, None where it prints none.
            measured: our numbers by the same names.
            spread: standard deviations over seeds, by name.
            seconds: computing time behind the numbers; the time since the report was opened if None.
            assumed: what the paper leaves out and was assumed here; with it the verdict "not stated" can be told apart.

        Raises:
            KeyError: no such claim.
            ValueError: no case, or a measured number that is not finite.
        """
        if id not in claims():
            raise KeyError(f"no claim {id!r}; the claims are {', '.join(claims())}")
        for name, value in measured.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"claim {id}: the measured {name} is {value}, not a finite number")
        self._claims[id] = {
            "id": id,
            "paper": dict(paper),
            "measured": dict(measured),
            "spread": dict(spread) if spread else None,
            "criterion": claims()[id].criterion,
            "verdict": verdict(cases),
            "cases": held(cases),
            "margins": margins(cases),
            "assumed": assumed,
            "notebook": self.notebook,
            "profile": self.profile,
            "seed": self.seed,
            "seconds": round(time.perf_counter() - self._began if seconds is None else seconds, 2),
            "device": self._provenance["device"],
            "threads": self._provenance["threads"],
            "commit": self._provenance["commit"],
            "versions": self._provenance["versions"],
        }
        self._save_record()
        return self._claims[id]["verdict"]

    def check(self, checks: Mapping[str, Case]) -> None:
        """Print whether each of some statements holds, no claim of the paper's, and record them with their distances.

        Args:
            checks: the statements by name, as the cases of :meth:`record`.
        """
        self._checks |= checks
        self._save_record()
        for name, holds in held(checks).items():
            print(f"{name}: {holds}")

    def margins(self, *ids: str) -> Styler:
        """Table of cases with the distance of each to its threshold, nearest first.

        A distance is relative to the threshold, or what the case was given as its scale; it is negative where the case fails.

        Args:
            ids: claims recorded here, for their cases; none for the statements of :meth:`check`.
        """
        kept = {id: self._claims[id]["margins"] for id in ids} if ids else {"": margins(self._checks)}
        rows = [{"claim": id, "case": name} | margin for id, cases in kept.items() for name, margin in cases.items()]
        columns = ["claim"] * (len(ids) > 1) + ["case", "value", "relation", "bound", "distance", "spread", "note"]
        frame = (
            pd.DataFrame(rows, columns=columns)
            .sort_values("distance", key=lambda d: d.astype(float).abs())
            .dropna(axis="columns", how="all")
        )
        shown = dict.fromkeys(frame.select_dtypes("number"), "{:.3g}")
        return frame.style.format(shown, na_rep="–").hide(axis="index")

    def table(self, name: str, frame: pd.DataFrame) -> pd.DataFrame:
        """Save a table as ``NAME.csv`` and return it (Tables 1-9)."""
        self._save(f"{name}.csv", frame.to_csv(index=False, float_format="%.6g").encode())
        self._save_record()  # with the runs that the table rests on
        return frame

    def figure(self, name: str, data: bytes) -> None:
        """Save a figure's bytes under ``NAME``, ending included (Figs. 1-14)."""
        self._save(name, data)

    def _save_record(self) -> None:
        content = {"provenance": self._provenance, "seed": self.seed, "runs": store.used()}
        content |= {
            "claims": list(self._claims.values()),
            "checks": held(self._checks),
            "margins": margins(self._checks),
        }
        self._save("record.json", _json(content))

    def _save(self, name: str, data: bytes) -> None:
        if self.folder is not None:
            write_atomic(self.folder / name, data)


def collect(folder: str | Path) -> list[dict[str, Any]]:
    """Gather the records of all notebooks of a profile, one entry for each claim, run or not.

    Args:
        folder: ``results/<profile>``, with one ``<notebook>/record.json`` for each notebook that was run.

    Returns:
        The content of ``claims.json``. A claim that no notebook recorded has the verdict "not run".
    """
    recorded: dict[str, dict[str, Any]] = {}
    for path in sorted(Path(folder).glob("*/record.json")):
        for entry in json.loads(path.read_text())["claims"]:
            if entry["id"] in recorded:
                raise ValueError(
                    f"claim {entry['id']} is recorded by {recorded[entry['id']]['notebook']} and {entry['notebook']}"
                )
            recorded[entry["id"]] = entry
    return [recorded.get(c.id) or {**_BLANK, "id": c.id, "criterion": c.criterion} for c in claims().values()]


_BLANK = dict.fromkeys(
    [
        "id",
        "paper",
        "measured",
        "spread",
        "criterion",
        "verdict",
        "cases",
        "margins",
        "assumed",
        "notebook",
        "profile",
        "seed",
        "seconds",
        "device",
        "threads",
        "commit",
        "versions",
    ]
) | {"verdict": "not run"}


def undecided(folders: Sequence[str | Path]) -> list[str]:
    """Cases that rounding can turn: they move between runs by as much as they are away from their threshold.

    Args:
        folders: of :func:`collect`, the same notebooks run under different threads or instruction sets.

    Returns:
        One line for each such case of a claim or check. Cases that count in seconds are left out.
    """
    seen: dict[tuple[str, str], list[float]] = {}
    for path in (path for folder in folders for path in sorted(Path(folder).glob("*/record.json"))):
        record = json.loads(path.read_text())
        kept = {entry["id"]: entry for entry in record["claims"]} | {path.parent.name: record}
        for id, entry in kept.items():
            for name, margin in (entry.get("margins") or {}).items():
                if not margin["timed"] and margin["distance"] is not None:
                    seen.setdefault((id, name), []).append(margin["distance"])
    moved = {case: (min(map(abs, found)), max(found) - min(found)) for case, found in seen.items()}
    return [
        f"{id}, {name}: distance {distance:.2g} from its threshold, but it moves by {by:.2g}"
        for (id, name), (distance, by) in moved.items()
        if 0 < by >= distance
    ]


def save_collected(folder: str | Path) -> Path:
    """Write ``claims.json`` of a profile from its notebooks' records, atomically."""
    path = Path(folder) / "claims.json"
    write_atomic(path, _json(collect(folder)))
    return path


def load(path: str | Path) -> dict[str, dict[str, Any]]:
    """Read a ``claims.json`` as a mapping from id to entry; empty if there is none."""
    path = Path(path)
    return {entry["id"]: entry for entry in json.loads(path.read_text())} if path.exists() else {}


def as_rows() -> list[dict[str, str]]:
    """The claim list as plain dictionaries, for tables."""
    return [asdict(claim) for claim in claims().values()]


def _json(data: Any) -> bytes:
    return (json.dumps(data, indent=1, allow_nan=False) + "\n").encode()
