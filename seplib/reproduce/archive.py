"""One run in one file: a zip archive of JSON and arrays with a checksum, written whole or not at all, never unpickled.

``run.json`` holds description, result and provenance, beside it lies one ``.npy`` or ``.png`` for each array, and the archive's
comment is a SHA-256 of all bytes before it. The file's name is the kind and a hash of the description.
"""

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from seplib.checkpoints import write_atomic

# What a file says of itself first; another layout gets another number.
_FORMAT = "seplib run 1"
_DIGEST = 64  # hexadecimal digits of SHA-256
# Longer lists of numbers become arrays.
_INLINE = 8


class DamagedRun(ValueError):
    """A file in the store is not what was written there; the message names it."""


@dataclass(frozen=True)
class Diverged:
    """The result of a training that came to nothing, a finding like any other; asking for it raises again."""

    message: str


@dataclass(frozen=True)
class StoredRun:
    """A run's file, read.

    Attributes:
        description: ``kind``, ``numerics`` and ``arguments``.
        result: what the kind's ``dump`` gave.
        provenance: commit, versions, device and threads, and ``seconds`` of computing.
    """

    description: dict[str, Any]
    result: Any
    provenance: dict[str, Any]


def file_name(description: dict[str, Any]) -> str:
    """Name of a run's file: its kind and a hash of its description.

    >>> file_name({"kind": "square", "numerics": 1, "arguments": {"number": 3.0}})
    'square-081fcb049d996148f6da.npz'
    """
    text = json.dumps(description, sort_keys=True, separators=(",", ":"))
    return f"{description['kind'].replace(' ', '-')}-{hashlib.sha256(text.encode()).hexdigest()[:20]}.npz"


def write(path: Path, run: StoredRun) -> None:
    """Write a run's file, whole or not at all.

    Raises:
        OSError: the folder cannot be written.
        TypeError: a result that is not made of numbers, text, arrays and tables.
    """
    arrays: list[np.ndarray] = []
    packed = {"diverged": run.result.message} if isinstance(run.result, Diverged) else pack(run.result, arrays)
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
    """Read a run's file.

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
            result = Diverged(packed["diverged"]) if diverged else unpack(packed, archive)
            found = StoredRun(content["description"], result, content["provenance"])
            name = file_name(found.description)
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError) as error:
        raise DamagedRun(f"{path} is not a stored run: {type(error).__name__}: {error}") from None
    if name != path.name or description not in (None, found.description):
        raise DamagedRun(f"{path} holds another run, {name}")
    return found


def pack(value: Any, arrays: list[np.ndarray]) -> Any:
    """JSON in which every array is a number in a list of arrays."""
    if value is None or isinstance(value, bool | str | int) or (isinstance(value, float) and np.isfinite(value)):
        return value
    if isinstance(value, np.generic):
        return pack(value.item(), arrays)
    if isinstance(value, float):
        return {"float": str(value)}
    if isinstance(value, dict):
        return {"dict": [[key, pack(part, arrays)] for key, part in value.items()]}
    if isinstance(value, pd.DataFrame):
        columns = [[name, pack(value[name].tolist(), arrays)] for name in value]
        return {"table": columns, "index": pack(value.index.tolist(), arrays)}
    if isinstance(value, list | tuple) and not (len(value) > _INLINE and is_numeric(value)):
        return [pack(part, arrays) for part in value]
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"a run's result is numbers, text, arrays and tables, got {type(value).__name__}")
    arrays.append(array)
    return {"list" if isinstance(value, list | tuple) else "array": len(arrays) - 1}


def unpack(value: Any, source: zipfile.ZipFile | list[np.ndarray]) -> Any:
    """The way back from :func:`pack`; the arrays are in a list or in an archive."""
    if isinstance(value, list):
        return [unpack(part, source) for part in value]
    if not isinstance(value, dict):
        return value
    if "float" in value:
        return float(value["float"])
    if "dict" in value:
        return {key: unpack(part, source) for key, part in value["dict"]}
    if "table" in value:
        columns = {name: unpack(part, source) for name, part in value["table"]}
        return pd.DataFrame(columns, index=unpack(value["index"], source))
    (form, index), *_ = value.items()
    array = source[index] if isinstance(source, list) else _array(source, index)
    return array.tolist() if form == "list" else array


def is_numeric(values: list | tuple) -> bool:
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
