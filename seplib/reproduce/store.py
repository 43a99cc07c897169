"""Runs that are kept: computed once, stored under what determines them, checked by anyone (Sec. A.12).

A run is a pure function of its description, its data and the library's numerics. A function marked with :func:`stored` looks
for its result before it computes: with ``$SEPLIB_CACHE`` set in that folder, where it also stores what it has computed; with
``$SEPLIB_AUDIT`` set in that folder alone, where a missing run is an error. Without either, as in the ``smoke`` profile and
the tests, it computes and stores nothing.

A run's file is a zip archive of ``run.json`` (description, result, provenance), one ``.npy`` or ``.png`` for each array, and
a SHA-256 of all bytes before it as the archive's comment. Its name is the kind and a hash of the description, in which no
module, path, device or clock occurs, so that code can move and another machine finds the same run. Nothing is unpickled.
"""

import functools
import hashlib
import inspect
import io
import json
import os
import time
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from seplib.checkpoints import write_atomic
from seplib.reproduce.provenance import provenance
from seplib.targets import recipes

# What a file says of itself first; another layout gets another number.
_FORMAT = "seplib run 1"
_DIGEST = 64  # hexadecimal digits of SHA-256
# Longer lists of numbers become arrays.
_INLINE = 8


class DamagedRun(ValueError):
    """A file in the store is not what was written there; the message names it (Sec. A.12)."""


class MissingRun(LookupError):
    """The store that everything has to come from lacks a run; the message says which (Sec. A.12)."""


@dataclass(frozen=True)
class Kind:
    """One kind of run (Sec. A.12).

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


@dataclass(frozen=True)
class Diverged:
    """The result of a training that came to nothing, a finding like any other; asking for it raises again (Sec. A.12)."""

    message: str


@dataclass(frozen=True)
class StoredRun:
    """A run's file, read (Sec. A.12).

    Attributes:
        description: ``kind``, ``numerics`` and ``arguments``.
        result: what the kind's ``dump`` gave.
        provenance: commit, versions, device and threads, and ``seconds`` of computing.
    """

    description: dict[str, Any]
    result: Any
    provenance: dict[str, Any]


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
    """Mark a function whose results are kept, see :class:`Kind` for the arguments (Sec. A.12).

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
    """The stored runs behind this process's results, with the commit, device and threads of each (Sec. A.12)."""
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
    return _unpack(_pack(result, arrays), arrays)


def _note(path: Path, found: StoredRun) -> Any:
    _used[path.name] = {"run": path.name} | {
        key: found.provenance.get(key) for key in ("commit", "device", "threads", "seconds")
    }
    return found.result


def describe(kind: Kind, arguments: dict[str, Any]) -> dict[str, Any]:
    """What determines a run, in plain JSON (Sec. A.12)."""
    known = {name: value for name, value in arguments.items() if name != "device" and value is not None}
    described = recipes.describe(known)
    return {"kind": kind.name, "numerics": kind.numerics, "arguments": described}


def file_name(description: dict[str, Any]) -> str:
    """Name of a run's file: its kind and a hash of its description (Sec. A.12).

    >>> file_name({"kind": "square", "numerics": 1, "arguments": {"number": 3.0}})
    'square-081fcb049d996148f6da.npz'
    """
    text = json.dumps(description, sort_keys=True, separators=(",", ":"))
    return f"{description['kind'].replace(' ', '-')}-{hashlib.sha256(text.encode()).hexdigest()[:20]}.npz"


def replay(found: StoredRun, device: torch.device | str = "cpu") -> Any:
    """Compute a stored run anew from its own description, and return what the kind's ``dump`` gives (Sec. A.12).

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
    """Read a file of the store and see that it is one of this library's runs under its own name (Sec. A.12).

    Raises:
        DamagedRun: it is not.
    """
    found = read(path)
    try:
        _kind(found.description)
    except ValueError as error:
        raise DamagedRun(f"{path}: {error}") from None
    return found


def write(path: Path, run: StoredRun) -> None:
    """Write a run's file, whole or not at all (Sec. A.12).

    Raises:
        OSError: the folder cannot be written.
        TypeError: a result that is not made of numbers, text, arrays and tables.
    """
    arrays: list[np.ndarray] = []
    packed = {"diverged": run.result.message} if isinstance(run.result, Diverged) else _pack(run.result, arrays)
    content = {"format": _FORMAT, "description": run.description, "result": packed, "provenance": run.provenance}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        # A fixed date: the same run is the same file, byte for byte.
        archive.writestr(zipfile.ZipInfo("run.json"), json.dumps(content, indent=1), zipfile.ZIP_DEFLATED)
        for index, array in enumerate(arrays):
            name, data = (f"{index}.png", _png(array)) if _is_picture(array) else (f"{index}.npy", _npy(array))
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
        archive.comment = b"0" * _DIGEST
    body = buffer.getvalue()[:-_DIGEST]
    write_atomic(path, body + hashlib.sha256(body).hexdigest().encode())


def read(path: Path, description: dict[str, Any] | None = None) -> StoredRun:
    """Read a run's file (Sec. A.12).

    Args:
        path: the file.
        description: what it must be a run of; None for whatever its name says.

    Raises:
        DamagedRun: truncated, changed, foreign, or under another run's name.
    """
    data = path.read_bytes()
    body, digest = data[:-_DIGEST], data[-_DIGEST:]
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise DamagedRun(f"{path} is damaged: its {len(data)} bytes do not match their own checksum")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            content = json.loads(archive.read("run.json"))
            if content["format"] != _FORMAT:
                raise ValueError(content["format"])
            packed = content["result"]
            diverged = isinstance(packed, dict) and "diverged" in packed
            result = Diverged(packed["diverged"]) if diverged else _unpack(packed, archive)
            found = StoredRun(content["description"], result, content["provenance"])
            name = file_name(found.description)
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError) as error:
        raise DamagedRun(f"{path} is not a stored run: {type(error).__name__}: {error}") from None
    if name != path.name or description not in (None, found.description):
        raise DamagedRun(f"{path} holds another run, {name}")
    return found


def keep(results: Path, cache: Path) -> list[str]:
    """Bring the runs that the records name from the cache into ``runs``, and remove those that none names (Sec. A.12).

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
    """Largest difference of two results, as a share of the largest entry of each array; infinite if they are not alike (Sec. A.12).

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
    if isinstance(one, list) and not _is_numeric(one):
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


def _pack(value: Any, arrays: list[np.ndarray]) -> Any:
    """JSON in which every array is a number in a list of arrays."""
    if value is None or isinstance(value, bool | str | int) or (isinstance(value, float) and np.isfinite(value)):
        return value
    if isinstance(value, np.generic):
        return _pack(value.item(), arrays)
    if isinstance(value, float):
        return {"float": str(value)}
    if isinstance(value, dict):
        return {"dict": [[key, _pack(part, arrays)] for key, part in value.items()]}
    if isinstance(value, pd.DataFrame):
        columns = [[name, _pack(value[name].tolist(), arrays)] for name in value]
        return {"table": columns, "index": _pack(value.index.tolist(), arrays)}
    if isinstance(value, list | tuple) and not (len(value) > _INLINE and _is_numeric(value)):
        return [_pack(part, arrays) for part in value]
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"a run's result is numbers, text, arrays and tables, got {type(value).__name__}")
    arrays.append(array)
    return {"list" if isinstance(value, list | tuple) else "array": len(arrays) - 1}


def _unpack(value: Any, source: zipfile.ZipFile | list[np.ndarray]) -> Any:
    if isinstance(value, list):
        return [_unpack(part, source) for part in value]
    if not isinstance(value, dict):
        return value
    if "float" in value:
        return float(value["float"])
    if "dict" in value:
        return {key: _unpack(part, source) for key, part in value["dict"]}
    if "table" in value:
        columns = {name: _unpack(part, source) for name, part in value["table"]}
        return pd.DataFrame(columns, index=_unpack(value["index"], source))
    (form, index), *_ = value.items()
    array = source[index] if isinstance(source, list) else _array(source, index)
    return array.tolist() if form == "list" else array


def _is_numeric(values: list | tuple) -> bool:
    """Whether a list is one array of whole or of real numbers, so that nothing changes its type on the way."""
    try:
        array = np.asarray(values)
    except ValueError:  # ragged
        return False
    leaves = np.asarray(values, dtype=object).ravel()
    return array.dtype.kind in "if" and len({type(leaf) for leaf in leaves} & {int, float, bool}) == 1


def _array(archive: zipfile.ZipFile, index: int) -> np.ndarray:
    if f"{index}.png" in archive.namelist():
        with Image.open(io.BytesIO(archive.read(f"{index}.png"))) as picture:
            return np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1))
    return np.load(io.BytesIO(archive.read(f"{index}.npy")), allow_pickle=False)


def _is_picture(array: np.ndarray) -> bool:
    return array.dtype == np.uint8 and array.ndim == 3 and array.shape[0] == 3


def _png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array.transpose(1, 2, 0))).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _summary(description: dict[str, Any]) -> str:
    text = json.dumps(description["arguments"], sort_keys=True)
    return f"kind {description['kind']}, {text if len(text) < 300 else text[:300] + ' ...'}"
