"""Runs that are kept: computed once, stored under what determines them, checked by anyone.

A run is a pure function of its description, its data and the library's numerics. A function marked with :func:`stored` looks
for its result before it computes: with ``$SEPLIB_CACHE`` set in that folder, where it also stores what it has computed; with
``$SEPLIB_AUDIT`` set in that folder alone, where a missing run is an error. Without either, as in the ``smoke`` profile and
the tests, it computes and stores nothing.

A run's file, see :mod:`seplib.reproduce.archive`, is named by its kind and a hash of the description, in which no module, path, device
or clock occurs, so that code can move and another machine finds the same run.
"""

import functools
import inspect
import json
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from seplib.reproduce import recipes
from seplib.reproduce.archive import DamagedRun, Diverged, StoredRun, file_name, is_numeric, pack, read, unpack, write
from seplib.reproduce.provenance import provenance


class MissingRun(LookupError):
    """The store that everything has to come from lacks a run; the message says which."""


@dataclass(frozen=True)
class Kind:
    """One kind of run.

    Attributes:
        name: how files and descriptions call it; it must outlive modules and functions.
        numerics: version of the numbers, not of the code: raised when a change makes any run of this kind end differently.
        compute: from keyword arguments to the result.
        tolerance: two machines' results may differ by this share of the largest entry of an array; None for clocks, which
            no machine repeats.
        dump: from the result to dictionaries, lists, numbers, text, arrays and tables.
        load: the way back.
    """

    name: str
    numerics: int
    compute: Callable[..., Any]
    tolerance: float | None
    dump: Callable[[Any], Any]
    load: Callable[[Any], Any]


KINDS: dict[str, Kind] = {}
# Runs that this process has used, by file name, for the record of the notebook that asked.
_used: dict[str, dict[str, Any]] = {}


def stored(
    name: str,
    numerics: int = 1,
    tolerance: float | None = 1e-3,
    dump: Callable[[Any], Any] = lambda result: result,
    load: Callable[[Any], Any] = lambda result: result,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Mark a function whose results are kept, see :class:`Kind` for the arguments.

    Numbers, text, lists, mappings and data among its arguments describe the run; ``device`` says where to compute and
    ``checkpoint``, a path or None, where an interrupted run goes on from, and neither describes it. An argument that is None
    or not given describes nothing either, so that a new one leaves stored runs valid.

    >>> @stored("square")
    ... def square(number: float) -> float:
    ...     return number**2
    >>> square(3.0)
    9.0
    """

    def decorate(compute: Callable[..., Any]) -> Callable[..., Any]:
        kind = Kind(name, numerics, compute, tolerance, dump, load)
        KINDS[name] = kind

        signature = inspect.signature(compute)

        @functools.wraps(compute)
        def run(*args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(*args, **kwargs)
            more = [name for name, part in signature.parameters.items() if part.kind is part.VAR_KEYWORD]
            arguments = {name: value for name, value in bound.arguments.items() if name not in more}
            for name in more:
                arguments |= bound.arguments.get(name, {})
            found = _fetch(kind, arguments)
            if isinstance(found, Diverged):
                raise FloatingPointError(found.message)
            return kind.load(found)

        return run

    return decorate


def used() -> list[dict[str, Any]]:
    """The stored runs behind this process's results, with the commit, device and threads of each."""
    return [_used[name] for name in sorted(_used)]


def _fetch(kind: Kind, arguments: dict[str, Any]) -> Any:
    description = describe(kind, arguments)
    if audited := os.environ.get("SEPLIB_AUDIT"):
        path = Path(audited) / file_name(description)
        if not path.exists():
            raise MissingRun(f"{audited} holds no run {path.name}: {_summary(description)}")
        return _note(path, read(path, description))
    location = os.environ.get("SEPLIB_CACHE")
    if not location:
        return _compute(kind, arguments, None)
    path = Path(location) / file_name(description)
    if path.exists():
        try:
            return _note(path, read(path, description))
        except DamagedRun as error:
            warnings.warn(f"{error}; it is computed again", stacklevel=4)
    checkpoint = path.parent / "unfinished" / f"{path.stem}.pt"
    began = time.perf_counter()
    result = _compute(kind, arguments, checkpoint)
    where = provenance(arguments.get("device", "cpu")) | {"seconds": round(time.perf_counter() - began, 2)}
    found = StoredRun(description, result, where)
    try:
        write(path, found)
    except OSError as error:  # hours of training are worth more than their file
        warnings.warn(f"the run is finished but could not be stored: {error}", stacklevel=4)
    else:
        checkpoint.unlink(missing_ok=True)
    return _note(path, found)


def _compute(kind: Kind, arguments: dict[str, Any], checkpoint: Path | None) -> Any:
    """What the kind's ``dump`` gives, as it will be read back: a run computed now and a stored one are the same in every bit."""
    resumes = {"checkpoint": checkpoint} if "checkpoint" in inspect.signature(kind.compute).parameters else {}
    try:
        result = kind.dump(kind.compute(**arguments, **resumes))
    except FloatingPointError as error:
        return Diverged(str(error))
    arrays: list[np.ndarray] = []
    return unpack(pack(result, arrays), arrays)


def _note(path: Path, found: StoredRun) -> Any:
    _used[path.name] = {"run": path.name} | {
        key: found.provenance.get(key) for key in ("commit", "device", "threads", "seconds")
    }
    return found.result


def describe(kind: Kind, arguments: dict[str, Any]) -> dict[str, Any]:
    """What determines a run, in plain JSON."""
    known = {name: value for name, value in arguments.items() if name != "device" and value is not None}
    described = recipes.describe(known)
    return {"kind": kind.name, "numerics": kind.numerics, "arguments": described}


def replay(found: StoredRun, device: torch.device | str = "cpu") -> Any:
    """Compute a stored run anew from its own description, and return what the kind's ``dump`` gives.

    Raises:
        ValueError: an unknown kind, other numerics than the library's, or data that cannot be made again.
    """
    kind = _kind(found.description)
    arguments = recipes.rebuild(found.description["arguments"])
    if "device" in inspect.signature(kind.compute).parameters:
        arguments["device"] = torch.device(device)
    return _compute(kind, arguments, None)


def _kind(description: dict[str, Any]) -> Kind:
    name, numerics = description["kind"], description["numerics"]
    if name not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(sorted(KINDS))}, got {name!r}")
    if numerics != KINDS[name].numerics:
        raise ValueError(f"a {name} run of numerics {numerics}, but the library's are {KINDS[name].numerics}")
    return KINDS[name]


def check(path: Path) -> StoredRun:
    """Read a file of the store and see that it is one of this library's runs under its own name.

    Raises:
        DamagedRun: it is not.
    """
    found = read(path)
    try:
        _kind(found.description)
    except ValueError as error:
        raise DamagedRun(f"{path}: {error}") from None
    return found


def keep(results: Path, cache: Path) -> list[str]:
    """Bring the runs that the records name from the cache into ``runs``, and remove those that none names.

    Args:
        results: ``results/paper``.
        cache: where the notebooks have stored them.

    Returns:
        Names of runs that neither holds.
    """
    folder, missing = results / "runs", []
    named = {
        run["run"] for path in results.glob("*/record.json") for run in json.loads(path.read_text()).get("runs", ())
    }
    for name in sorted(named):
        if (folder / name).exists():
            continue
        if (cache / name).exists():
            write(folder / name, read(cache / name))
        else:
            missing.append(name)
    for path in folder.glob("*"):
        if path.name not in named:
            path.unlink()
    return missing


def difference(one: Any, other: Any) -> float:
    """Largest difference of two results, as a share of the largest entry of each array; infinite if they are not alike.

    >>> difference({"psnr": np.array([1.0, 2.0])}, {"psnr": np.array([1.0, 2.5])})
    0.2
    """
    if isinstance(one, Diverged) or isinstance(other, Diverged):
        return 0.0 if isinstance(one, Diverged) and isinstance(other, Diverged) else np.inf
    if isinstance(one, pd.DataFrame):
        one = one.to_dict("list")
        other = other.to_dict("list") if isinstance(other, pd.DataFrame) else other
    if isinstance(one, dict):
        if not isinstance(other, dict) or one.keys() != other.keys():
            return np.inf
        # No machine repeats another's clock.
        return max((difference(one[key], other[key]) for key in one if key != "seconds"), default=0.0)
    if isinstance(one, list) and not is_numeric(one):
        if not isinstance(other, list) or len(one) != len(other):
            return np.inf
        return max((difference(a, b) for a, b in zip(one, other)), default=0.0)
    if isinstance(one, str | bool | None):
        return 0.0 if one == other else np.inf
    one, other = (np.asarray(values) for values in (one, other))
    if one.shape != other.shape or one.dtype.kind not in "biuf" or other.dtype.kind not in "biuf":
        return np.inf
    one, other = one.astype(float), other.astype(float)
    finite = np.isfinite(one)
    if not np.array_equal(one[~finite], other[~finite], equal_nan=True) or not np.isfinite(other[finite]).all():
        return np.inf
    largest = max(np.abs(one[finite]).max(initial=0.0), np.abs(other[finite]).max(initial=0.0))
    return float(np.abs(one[finite] - other[finite]).max(initial=0.0) / largest) if largest else 0.0


def _summary(description: dict[str, Any]) -> str:
    text = json.dumps(description["arguments"], sort_keys=True)
    return f"kind {description['kind']}, {text if len(text) < 300 else text[:300] + ' ...'}"
