"""Files that are read back: written whole or not at all, checked whole before anything of them is taken.

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


class Checkpoint:
    """The file that a run is saved to and taken up from, made before the first update: it knows where the run began.

    Args:
        path: of the file.
        step: the loss, whose data the run belongs to, see :class:`seplib.training.Step`.
        model: the network, with the weights that the run begins with.
        optimizer: of its parameters.
        preconditioner: None, or with a state if it has one.
    """

    def __init__(self, path: Path, step: Any, model: torch.nn.Module, optimizer: Any, preconditioner: Any):
        self.path, self.model, self.optimizer, self.preconditioner = path, model, optimizer, preconditioner
        axes = [step.axes] if isinstance(step.axes, Tensor) else list(step.axes)
        mask = getattr(step, "mask", None)
        self._settings = _settings(model, optimizer, preconditioner)
        self._samples = {
            "data": _sample([step.target, *axes, *([] if mask is None else [mask])]),
            "initial weights": _sample(list(model.parameters())),
        }

    def save(self, history: dict[str, Any]) -> None:
        """Write the state of the run and its history, lists of numbers by name.

        Raises:
            OSError: as :func:`write_atomic`.
        """
        state = {
            "settings": self._settings,
            "samples": self._samples,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "preconditioner": self._state(),
            "history": history,
        }
        body = packed(state)
        write_atomic(self.path, _MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)

    def resume(self, iterations: int) -> dict[str, Any] | None:
        """Set network, optimizer and preconditioner to where the run was left, all of it or nothing.

        A file that is damaged is kept beside, as ``NAME.damaged``; a warning says so, and the run starts over.

        Args:
            iterations: that the run is to make in all.

        Returns:
            The history so far; None to start at the beginning.

        Raises:
            ValueError: no regular file; the checkpoint of another run, or of one with more updates. It is left as it is.
            OSError: the file cannot be read.
        """
        if not os.path.lexists(self.path):
            return None
        if not self.path.is_file():
            raise ValueError(f"checkpoint {self.path} is not a regular file")
        head, _, body = self.path.read_bytes().partition(b"\n")
        if not head.startswith(_MAGIC):
            return self._start_over("it does not begin as a checkpoint")
        if head.removeprefix(_MAGIC).decode("latin-1") != hashlib.sha256(body).hexdigest():
            return self._start_over("its checksum is wrong")
        try:
            state = unpacked(body)
            settings = dict(state["settings"])
            samples = {what: np.array(state["samples"][what], dtype=float) for what in self._samples}
            updates = _updates(state["history"])
        except Exception as error:  # intact, but not what is written here
            return self._start_over(f"{type(error).__name__}: {error}")
        self._check_run(settings, samples)
        if updates > iterations:
            raise ValueError(f"checkpoint {self.path} holds {updates} updates, more than the {iterations} asked for")
        before = copy.deepcopy((self.model.state_dict(), self.optimizer.state_dict(), self._state()))
        try:
            self._take(state["model"], state["optimizer"], state["preconditioner"])
        except Exception as error:
            self._take(*before)
            return self._start_over(f"{type(error).__name__}: {str(error).splitlines()[0]}")
        return state["history"]

    def _state(self) -> dict:
        return getattr(self.preconditioner, "state_dict", dict)()

    def _take(self, weights: dict, descent: dict, state: dict) -> None:
        self.model.load_state_dict(weights)
        self.optimizer.load_state_dict(descent)
        for parameter, moments in self.optimizer.state.items():
            for name, moment in moments.items():
                shape, wanted = tuple(getattr(moment, "shape", ())), tuple(parameter.shape)
                if len(shape) > len(wanted) or any(n not in (1, m) for n, m in zip(shape[::-1], wanted[::-1])):
                    raise ValueError(f"the optimizer's {name} has the shape {shape}, its parameter {wanted}")
        if hasattr(self.preconditioner, "load_state_dict"):
            self.preconditioner.load_state_dict(state)

    def _check_run(self, settings: dict[str, str], samples: dict[str, np.ndarray]) -> None:
        refused = f"checkpoint {self.path} belongs to another run: its"
        for name in [*self._settings, *settings]:
            found, wanted = (side.get(name, "missing") for side in (settings, self._settings))
            if found != wanted:
                raise ValueError(f"{refused} {name} is {found}, not {wanted}; name another file, or delete it")
        for what, found in samples.items():
            ours = np.array(self._samples[what])
            # What is computed differs in its last bits between machines.
            if found.shape != ours.shape or not np.allclose(found, ours, rtol=1e-3, atol=1e-6):
                raise ValueError(f"{refused} {what} are others; name another file, or delete it")

    def _start_over(self, reason: str) -> None:
        aside = self.path.with_name(f"{self.path.name}.damaged")
        self.path.replace(aside)
        warnings.warn(
            f"checkpoint {self.path} is damaged ({reason}); kept as {aside.name}, starting over", stacklevel=4
        )


def packed(tree: Any) -> bytes:
    """A tree of dictionaries, lists, tuples, tensors and plain values as bytes.

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
    """Undo :func:`packed`; the tensors lie on the CPU."""
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


def _settings(model: torch.nn.Module, optimizer: Any, preconditioner: Any) -> dict[str, str]:
    """What tells one run from another, in words."""
    found = {name: f"{tuple(p.shape)} {p.dtype}".replace("torch.", "") for name, p in model.state_dict().items()}
    found |= {"optimizer": type(optimizer).__name__, "preconditioner": type(preconditioner).__name__}
    found |= {name: repr(value) for name, value in optimizer.defaults.items() if name not in _MEANS}
    settings = {name: getattr(preconditioner, name, None) for name in ("k", "update_every", "g", "solver")}
    return found | {name: repr(value) for name, value in settings.items() if value is not None}


def _sample(tensors: list[Tensor]) -> list[float]:
    """Some numbers of each tensor, enough to tell it from another."""
    found: list[float] = []
    for tensor in tensors:
        found.append(float(tensor.numel()))
        if not tensor.is_meta:
            found += tensor.detach().flatten()[:: tensor.numel() // _SAMPLED + 1].double().tolist()
    return found


def _updates(history: dict[str, Any]) -> int:
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
