"""Files that are read back: written whole or not at all, checked whole before anything of them is taken.

A checkpoint is a line with the SHA-256 of what follows, then an NPZ archive: arrays, and in JSON the tree that they
hang in. Reading one runs no code.
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
from torch import Tensor, nn

from seplib.factors import FactorMLP, FourierFeatures, Network
from seplib.separable import CP, MLP, TT, Tucker

# Of an optimizer's defaults: how it computes, not what.
_MEANS = {"foreach", "fused", "capturable", "differentiable"}
_SAMPLED = 256


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old or the new content, never half of it (checkpoints, Sec. A.12).

    Any number of processes may write the same path: the last one wins. When this returns, the content is on the disk.

    Raises:
        OSError: the file cannot be written, such as on a full disk; it names the path, and leaves no new content.
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

    The run belongs to the data of its ``step``, see :func:`seplib.training.descend`; its ``parts`` are model,
    optimizer, preconditioner and scheduler by name, each with a state if it has one.
    """

    def __init__(self, path: Path, step: Any, parts: dict[str, Any], clip: float | None):
        self.path, self.parts = path, {name: part for name, part in parts.items() if hasattr(part, "state_dict")}
        axes = [step.axes] if isinstance(step.axes, Tensor) else list(step.axes)
        mask = getattr(step, "mask", None)
        self._settings = _settings(**parts) | {"clip": repr(clip)}
        self._samples = {
            "data": _sample([step.target, *axes, *([] if mask is None else [mask])]),
            "initial weights": _sample(list(parts["model"].parameters())),
        }

    def save(self, history: dict[str, Any]) -> None:
        """Write the state of the run and its history, lists of numbers by name. OSError as :func:`write_atomic`."""
        state = {"settings": self._settings, "samples": self._samples, "history": history, **self._state()}
        write_atomic(self.path, _sealed("checkpoint", state))

    def resume(self, iterations: int) -> dict[str, Any] | None:
        """Set all parts, or none, to where the run of so many iterations was left; its history, None for a new one.

        A file that is damaged is kept beside, as ``NAME.damaged``; a warning says so, and the run starts over.

        Raises:
            OSError, ValueError: no regular file that can be read; the checkpoint of another run, or of a longer one.
        """
        if not os.path.lexists(self.path):
            return None
        if not self.path.is_file():
            raise ValueError(f"checkpoint {self.path} is not a regular file")
        data = self.path.read_bytes()
        try:
            state = _unsealed("checkpoint", data)
            settings = dict(state["settings"])
            samples = {what: np.array(state["samples"][what], dtype=float) for what in self._samples}
            updates = _updates(state["history"])
        except Exception as error:  # damaged; or intact, but not what is written here
            return self._start_over(str(error) if isinstance(error, _Broken) else f"{type(error).__name__}: {error}")
        self._check_run(settings, samples)
        if updates > iterations:
            raise ValueError(f"checkpoint {self.path} holds {updates} updates, more than the {iterations} asked for")
        before = copy.deepcopy(self._state())
        try:
            self._take(state)
        except Exception as error:
            self._take(before)
            return self._start_over(f"{type(error).__name__}: {str(error).splitlines()[0]}")
        return state["history"]

    def _state(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self.parts.items()}

    def _take(self, state: dict[str, Any]) -> None:
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        for parameter, moments in self.parts["optimizer"].state.items():
            for name, moment in moments.items():
                shape, wanted = tuple(getattr(moment, "shape", ())), tuple(parameter.shape)
                if len(shape) > len(wanted) or any(n not in (1, m) for n, m in zip(shape[::-1], wanted[::-1])):
                    raise ValueError(f"the optimizer's {name} has the shape {shape}, its parameter {wanted}")

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
        said = f"checkpoint {self.path} is damaged ({reason}); kept as {aside.name}, starting over"
        warnings.warn(said, stacklevel=4)


class _Broken(ValueError):
    """A file that is not whole."""


def _sealed(kind: str, tree: Any) -> bytes:
    body = packed(tree)
    return f"seplib {kind} 1, SHA-256 {hashlib.sha256(body).hexdigest()}\n".encode() + body


def _unsealed(kind: str, data: bytes) -> Any:
    head, _, body = data.partition(b"\n")
    magic = f"seplib {kind} 1, SHA-256 ".encode()
    if not head.startswith(magic):
        raise _Broken(f"it does not begin as a {kind}")
    if head.removeprefix(magic).decode("latin-1") != hashlib.sha256(body).hexdigest():
        raise _Broken("its checksum is wrong")
    return unpacked(body)


def save(model: nn.Module, path: str | Path) -> None:
    """Save a network, weights and configuration, in a file without pickle, with a checksum, whole or not at all.

    Raises:
        TypeError: no CP, TT or Tucker network of :class:`seplib.FactorMLP` factors, nor an MLP, with the library's
            activations and no encoding but :class:`seplib.FourierFeatures`: only its maker knows how to make it again.
        OSError: the file cannot be written.
    """
    write_atomic(Path(path), _sealed("network", {"made": _recipe(model), "state": model.state_dict()}))


def load(path: str | Path) -> nn.Module:
    """Network that :func:`save` wrote, on the CPU, in the precision that it had. Reading runs no code of the file.

    Raises:
        OSError, ValueError: the file cannot be read; it is damaged or holds something else.

    >>> from seplib import CP, FactorMLP
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(CP([FactorMLP(3, width=4, depth=2) for _ in range(2)]), folder + "/model")
    ...     load(folder + "/model").points(torch.zeros(5, 2)).shape
    torch.Size([1, 5])
    """
    data = Path(path).read_bytes()
    try:
        content = _unsealed("network", data)
        with torch.device("meta"):  # nothing is drawn
            model = _made(**content["made"])
        model.load_state_dict(content["state"], assign=True)
        return model
    except Exception as error:
        reason = str(error) if isinstance(error, _Broken) else type(error).__name__
        raise ValueError(f"{path} is damaged, or not written by seplib.save: {reason}") from None


def _recipe(network: nn.Module) -> dict[str, Any]:
    """What :func:`_made` makes the network from, in plain values."""
    kind, encoding = type(network), getattr(network, "encoding", None)
    if kind in (CP, TT, Tucker):
        ranks = list(network.core.shape[1:]) if kind is Tucker else network.traits().get("ranks")
        different = list(dict.fromkeys(network.factors))
        factors = [[_recipe(factor) for factor in different], [different.index(factor) for factor in network.factors]]
        return {"kind": kind.__name__, "factors": factors, "ranks": ranks, "scale": getattr(network, "scale", None)}
    if kind not in (MLP, FactorMLP):
        own = kind.__name__
    elif network.activation.source is None:
        own = repr(network.activation.name)
    elif encoding is not None and type(encoding) is not FourierFeatures:
        own = f"the encoding {type(encoding).__name__}"
    else:
        (activation, omega), (width, inputs) = network.activation.source, network.weights[0].shape[1:]
        shape = dict(width=width, depth=network.depth, ensemble=network.ensemble, bias=len(network.biases) > 0)
        # The law that the weights were drawn from is past; what is left of it are the scales.
        law = "ntk" if any(s != 1 for s in network.scales) or 0 < len(network.biases) < network.depth else "torch"
        return {
            "kind": kind.__name__,
            "size": inputs if kind is MLP else network.rank,
            "features": encoding and encoding.angular.numel(),
            "network": dict(activation=activation, omega=omega, parametrization=law, **shape),
        }
    raise TypeError(
        f"seplib.save knows networks of FactorMLP factors, and MLP, with activations of seplib, not {own}; "
        "save its state_dict(), and load that into a network made by the same code"
    )


def _made(kind: str, **recipe: Any) -> nn.Module:
    if kind == "MLP":
        return MLP(recipe["size"], **recipe["network"])
    if kind == "FactorMLP":
        encoding = recipe["features"] and FourierFeatures(recipe["features"], 1.0)
        return FactorMLP(recipe["size"], encoding=encoding, **recipe["network"])
    different, places = recipe["factors"]
    made = [_made(**factor) for factor in different]
    factors = [made[place] for place in places]
    if kind == "CP":
        return CP(factors, None if recipe["scale"] == 1 else "rank")
    return {"TT": TT, "Tucker": Tucker}[kind](factors, recipe["ranks"])


def packed(tree: Any) -> bytes:
    """A tree of dictionaries, lists, tuples, tensors and plain values as bytes; TypeError for anything else.

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


def _settings(model: nn.Module, optimizer: Any, preconditioner: Any, scheduler: Any) -> dict[str, str]:
    """What tells one run from another, in words."""
    found = {name: f"{tuple(p.shape)} {p.dtype}".replace("torch.", "") for name, p in model.named_parameters()}
    for place, module in model.named_modules():
        traits = module.traits() if isinstance(module, Network) else {}
        found |= {f"{place} {name}".strip(): repr(value) for name, value in traits.items()}
    parts = dict(optimizer=optimizer, preconditioner=preconditioner, scheduler=scheduler)
    found |= {name: type(part).__name__ for name, part in parts.items()}
    found |= {name: repr(value) for name, value in optimizer.defaults.items() if name not in _MEANS}
    settings = {name: getattr(preconditioner, name, None) for name in ("k", "update_every", "g", "solver")}
    rates = scheduler.state_dict().items() if scheduler else ()
    settings |= {f"scheduler's {name}": value for name, value in rates if isinstance(value, int | float)}
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
