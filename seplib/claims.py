"""Claims of the paper, what was measured of them, and the verdicts (Secs. 2-5, Appendix A).

A notebook opens a :class:`Report`, records claims, tables and figures in it, and the report writes them below
``$SEPLIB_RESULTS`` if that is set, as the runner does; without it (a notebook opened by hand) nothing is written.
"""

import functools
import importlib.metadata
import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from seplib.checkpoints import write_atomic

VERDICTS = ("reproduced", "partly", "not reproduced", "not stated", "not run")
_PACKAGES = ("seplib", "torch", "numpy", "scipy", "scikit-image", "matplotlib", "papermill")


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
    frame = pd.read_csv(files("seplib") / "claims.csv")
    return {row.id: Claim(row.id, row.where, row.claim, row.criterion) for row in frame.itertuples()}


@functools.cache
def _printed() -> pd.DataFrame:
    return pd.read_csv(files("seplib") / "tables.csv", dtype={"value": str})


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


def verdict(cases: Mapping[str, bool]) -> str:
    """Verdict from the cases of a claim's criterion: all hold, some hold, none holds (all claims).

    >>> verdict({"Plane": True, "Baboon": False})
    'partly'
    """
    if not cases:
        raise ValueError("a verdict needs at least one case")
    held = sum(map(bool, cases.values()))
    return "reproduced" if held == len(cases) else "partly" if held else "not reproduced"


def provenance(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Where a number comes from: commit, versions, device and threads (Sec. A.12).

    The commit ends in ``+`` if the working tree had changes in the library or the notebooks.
    """
    device = torch.device(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu ({platform.machine()})"
    versions = {"python": platform.python_version()}
    versions |= {package: _version(package) for package in _PACKAGES}
    return {"commit": _commit(), "versions": versions, "device": name, "threads": torch.get_num_threads()}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # used from its sources
        return "not installed"


@functools.cache
def _commit() -> str | None:
    def git(*args: str) -> str:
        return subprocess.run(
            ["git", *args],
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        ).stdout.strip()

    try:
        dirty = git("status", "--porcelain", "--", "seplib", "notebooks")
        return git("rev-parse", "--short=10", "HEAD") + ("+" if dirty else "")
    except (OSError, subprocess.SubprocessError):
        return None


class Report:
    """What one notebook measured (all claims). Saved after every record, so a failure later on loses nothing.

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
        root = os.environ.get("SEPLIB_RESULTS")
        self.folder = Path(root) if root else None
        self._save_record()

    def record(
        self,
        id: str,
        *,
        cases: Mapping[str, bool],
        paper: Mapping[str, float | str | None],
        measured: Mapping[str, float | str],
        spread: Mapping[str, float] | None = None,
        seconds: float | None = None,
        assumed: str | None = None,
    ) -> str:
        """Record one claim and return its verdict (all claims).

        Args:
            id: a claim's id.
            cases: the criterion's cases by name, and whether each holds.
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
            "cases": {name: bool(holds) for name, holds in cases.items()},
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

    def table(self, name: str, frame: pd.DataFrame) -> pd.DataFrame:
        """Save a table as ``NAME.csv`` and return it (Tables 1-9)."""
        self._save(f"{name}.csv", frame.to_csv(index=False, float_format="%.6g").encode())
        return frame

    def figure(self, name: str, data: bytes) -> None:
        """Save a figure's bytes under ``NAME``, ending included (Figs. 1-14)."""
        self._save(name, data)

    def _save_record(self) -> None:
        record = {"provenance": self._provenance, "seed": self.seed, "claims": list(self._claims.values())}
        self._save("record.json", _json(record))

    def _save(self, name: str, data: bytes) -> None:
        if self.folder is not None:
            write_atomic(self.folder / name, data)


def collect(folder: str | Path) -> list[dict[str, Any]]:
    """Gather the records of all notebooks of a profile, one entry for each claim, run or not (all claims).

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


def save_collected(folder: str | Path) -> Path:
    """Write ``claims.json`` of a profile from its notebooks' records, atomically (all claims)."""
    path = Path(folder) / "claims.json"
    write_atomic(path, _json(collect(folder)))
    return path


def load(path: str | Path) -> dict[str, dict[str, Any]]:
    """Read a ``claims.json`` as a mapping from id to entry; empty if there is none (all claims)."""
    path = Path(path)
    return {entry["id"]: entry for entry in json.loads(path.read_text())} if path.exists() else {}


def as_rows() -> list[dict[str, str]]:
    """The claim list as plain dictionaries, for tables (all claims)."""
    return [asdict(claim) for claim in claims().values()]


def _json(data: Any) -> bytes:
    return (json.dumps(data, indent=1, allow_nan=False) + "\n").encode()
