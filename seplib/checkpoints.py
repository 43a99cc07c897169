"""Files that are read back: written whole or not at all, checked whole before anything of them is taken (Sec. A.12).

A checkpoint is a line with the SHA-256 of what follows, then an NPZ archive: arrays, and in JSON the tree that they hang in.
Reading one runs no code.
"""

import contextlib
import copy
import hashlib
import io
import json
import os
import secrets
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

_MAGIC = b"seplib checkpoint 1, SHA-256 "
# Of an optimizer's defaults: how it computes, not what.
_MEANS = {"foreach", "fused", "capturable", "differentiable"}
_SAMPLED = 256


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old or the new content, never half of it (checkpoints, Sec. A.12).

    Any number of processes may write the same path: the last one wins. When this returns, the content is on the disk.

    Raises:
        OSError: the file cannot be written, such as on a full disk; it names the path, and leaves no part of the new content.
    """
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not every system can bring a folder to the disk
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def save(path: Path, step: Any, model: torch.nn.Module, optimizer, preconditioner, history: dict[str, Any]) -> None:
    """Write the checkpoint of a run (Sec. A.12).

    Args:
        path: of the file.
        step: the loss, whose data the run belongs to, see :class:`seplib.training.Step`.
        model: the network.
        optimizer: of its parameters.
        preconditioner: None, or with a state if it has one.
        history: lists of numbers by name, "loss" and "seconds" with one entry more than updates were made.

    Raises:
        OSError: as :func:`write_atomic`.
    """
    state = {
        "run": _run(model, optimizer, preconditioner),
        "data": _sample(step),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "preconditioner": _state(preconditioner),
        "history": history,
    }
    body = packed(state)
    write_atomic(path, _MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)


def resume(
    path: Path, step: Any, model: torch.nn.Module, optimizer, preconditioner, iterations: int
) -> dict[str, Any] | None:
    """Take up a run where its checkpoint left it, all of it or nothing (Sec. A.12).

    A file that is damaged is kept beside, as ``NAME.damaged``; a warning says so, and the run starts over.

    Args:
        path: of the file, which need not be there.
        step: as for :func:`save`, as are the next three.
        model: its state is set.
        optimizer: likewise.
        preconditioner: likewise.
        iterations: that the run is to make in all.

    Returns:
        The history so far; None to start at the beginning.

    Raises:
        ValueError: no regular file; the checkpoint of another run, or of one with more updates. It is left as it is.
        OSError: the file cannot be read.
    """
    if not os.path.lexists(path):
        return None
    if not path.is_file():
        raise ValueError(f"checkpoint {path} is not a regular file")
    data = path.read_bytes()
    head, _, body = data.partition(b"\n")
    if not head.startswith(_MAGIC):
        return _start_over(path, "it does not begin as a checkpoint")
    if head.removeprefix(_MAGIC).decode("latin-1") != hashlib.sha256(body).hexdigest():
        return _start_over(path, "its checksum is wrong")
    try:
        state = unpacked(body)
        run, data = dict(state["run"]), np.array(state["data"], dtype=float)
        updates = _checked(state["history"])
    except Exception as error:
        return _start_over(path, f"{type(error).__name__}: {error}")
    _check_run(path, run, _run(model, optimizer, preconditioner))
    ours = np.array(_sample(step))
    # Computed data differ in their last bits between machines.
    if data.shape != ours.shape or not np.allclose(data, ours, rtol=1e-3, atol=1e-6):
        raise ValueError(f"checkpoint {path} belongs to a run with other data; name another file, or delete it")
    if updates > iterations:
        raise ValueError(f"checkpoint {path} holds {updates} updates, more than the {iterations} asked for")
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict(), _state(preconditioner)))
    try:
        _take(state["model"], state["optimizer"], state["preconditioner"], model, optimizer, preconditioner)
    except Exception as error:
        _take(*before, model, optimizer, preconditioner)
        return _start_over(path, f"{type(error).__name__}: {str(error).splitlines()[0]}")
    return state["history"]


def packed(tree: Any) -> bytes:
    """A tree of dictionaries, lists, tuples, tensors and plain values as bytes (Sec. A.12).

    Raises:
        TypeError: something else hangs in it.

    >>> unpacked(packed({"a": (1, [torch.arange(3)]), 2: None}))
    {'a': (1, [tensor([0, 1, 2])]), 2: None}
    """
    arrays: list[np.ndarray] = []

    def plain(node: Any) -> Any:
        if isinstance(node, Tensor):
            arrays.append(node.detach().cpu().numpy())
            return {"tensor": len(arrays) - 1}
        if isinstance(node, dict):
            return {"dict": [[plain(key), plain(value)] for key, value in node.items()]}
        if isinstance(node, list | tuple):
            return {type(node).__name__: [plain(entry) for entry in node]}
        return node

    buffer = io.BytesIO()
    text = json.dumps(plain(tree))
    np.savez(buffer, tree=text, **{str(i): array for i, array in enumerate(arrays)})
    return buffer.getvalue()


def unpacked(data: bytes) -> Any:
    """Undo :func:`packed`; the tensors lie on the CPU (Sec. A.12)."""
    with np.load(io.BytesIO(data), allow_pickle=False) as stored:
        tree = json.loads(str(stored["tree"]))

        def grown(node: Any) -> Any:
            if not isinstance(node, dict):
                return node
            ((kind, content),) = node.items()
            if kind == "tensor":
                return torch.from_numpy(stored[str(content)])
            if kind == "dict":
                return {grown(key): grown(value) for key, value in content}
            return {"list": list, "tuple": tuple}[kind](map(grown, content))

        return grown(tree)


def _start_over(path: Path, reason: str) -> None:
    aside = path.with_name(f"{path.name}.damaged")
    path.replace(aside)
    warnings.warn(f"checkpoint {path} is damaged ({reason}); kept as {aside.name}, starting over", stacklevel=4)


def _state(preconditioner: Any) -> dict:
    return getattr(preconditioner, "state_dict", dict)()


def _run(model: torch.nn.Module, optimizer, preconditioner) -> dict[str, str]:
    """What tells one run from another, in words."""
    found = {name: f"{tuple(p.shape)} {p.dtype}".replace("torch.", "") for name, p in model.state_dict().items()}
    found |= {"optimizer": type(optimizer).__name__, "preconditioner": type(preconditioner).__name__}
    found |= {name: repr(value) for name, value in optimizer.defaults.items() if name not in _MEANS}
    settings = {name: getattr(preconditioner, name, None) for name in ("k", "update_every", "g", "solver")}
    return found | {name: repr(value) for name, value in settings.items() if value is not None}


def _check_run(path: Path, theirs: dict[str, str], ours: dict[str, str]) -> None:
    for name in [*ours, *theirs]:
        if ours.get(name) != theirs.get(name):
            found, wanted = (side.get(name, "missing") for side in (theirs, ours))
            raise ValueError(
                f"checkpoint {path} belongs to another run: its {name} is {found}, not {wanted}; "
                "name another file, or delete it"
            )


def _sample(step: Any) -> list[float]:
    """Some numbers of the data, enough to tell them from others."""
    axes = [step.axes] if isinstance(step.axes, Tensor) else list(step.axes)
    mask = getattr(step, "mask", None)
    found: list[float] = []
    for tensor in (step.target, *axes, *([] if mask is None else [mask])):
        found.append(float(tensor.numel()))
        if not tensor.is_meta:
            found += tensor.detach().flatten()[:: tensor.numel() // _SAMPLED + 1].double().tolist()
    return found


def _checked(history: dict[str, Any]) -> int:
    """Number of updates that a history belongs to."""
    loss, seconds, metrics = history["loss"], history["seconds"], history["metrics"]
    if not loss or len(loss) != len(seconds) or any(len(entry) != len(loss[0]) for entry in loss):
        raise ValueError("its history has gaps")
    if not np.isfinite(np.array(loss, dtype=float)).all() or set(history) != {"loss", "seconds", "metrics"}:
        raise ValueError("its history is not one of losses")
    for name, values in metrics.items():
        if not isinstance(name, str) or not all(isinstance(value, float) for value in values):
            raise ValueError(f"its metric {name!r} is not one of numbers")
    return len(loss) - 1


def _take(weights: dict, descent: dict, state: dict, model: torch.nn.Module, optimizer, preconditioner) -> None:
    model.load_state_dict(weights)
    optimizer.load_state_dict(descent)
    for parameter, moments in optimizer.state.items():
        for name, moment in moments.items():
            shape, wanted = tuple(getattr(moment, "shape", ())), tuple(parameter.shape)
            if len(shape) > len(wanted) or any(n not in (1, m) for n, m in zip(shape[::-1], wanted[::-1])):
                raise ValueError(f"the optimizer's {name} has the shape {shape}, its parameter {wanted}")
    if hasattr(preconditioner, "load_state_dict"):
        preconditioner.load_state_dict(state)
