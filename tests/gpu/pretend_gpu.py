"""A pretend GPU: the device ``pretend``, whose tensors are kept on the CPU and refuse what tensors on a GPU refuse.

Importing this module registers the device with torch, for the whole process and for good (torch's Python backend for
PrivateUse1); it must come before the first backward pass, when autograd counts the devices. The arithmetic is the CPU's, so that a run on it must end with the CPU's numbers. Like CUDA it

* raises where tensors of two devices meet, apart from numbers (zero dimensions) in pointwise operations, from indices in
  ``x[i]`` and from copies;
* has no ``numpy()``, and nothing is converted to an array on the quiet;
* raises where a generator of the CPU is to fill memory of the device.

Unlike CUDA it refuses to draw random numbers at all: those of a real GPU would not be the CPU's.

``waits`` counts where the host has to wait for the device, by kind and by the line of this project that asked: a value
that is fetched, a copy between the devices, an operation whose result the host has to look at (the number of nonzero entries,
the error code of an eigendecomposition).

What it does not see: ``.data`` of a parameter and ``torch.func`` go past it, and what a kernel of CUDA itself would do
wrong. It is no replacement for a run on a real GPU.
"""

import functools
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._utils import _rebuild_device_tensor_from_cpu_tensor
from torch.library import Library
from torch.serialization import register_package
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

import seplib

NAME = "pretend"
CPU = torch.device("cpu")
TESTS = f"{Path(__file__).parents[1]}/"
LIBRARY = f"{Path(seplib.__file__).parent}/"
aten = torch.ops.aten

COPIES = {aten._to_copy.default, aten.copy_.default}
INDEXING = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default}
# The host reads a value, or the size of the result depends on values.
FETCHES = {
    aten._local_scalar_dense.default: "value fetched",
    aten.equal.default: "value fetched",
    aten.is_nonzero.default: "value fetched",
    aten.nonzero.default: "size depends on values",
    aten.masked_select.default: "size depends on values",
    aten.bincount.default: "size depends on values",
    aten._unique2.default: "size depends on values",
    aten.unique_dim.default: "size depends on values",
    aten.repeat_interleave.Tensor: "size depends on values",
    aten._linalg_eigh.default: "error code of a decomposition",
    aten.linalg_eig.default: "error code of a decomposition",
    aten._linalg_svd.default: "error code of a decomposition",
    aten._linalg_check_errors.default: "error code of a decomposition",
    aten.linalg_lstsq.default: "error code of a decomposition",
}


class Waits(Counter[tuple[str, str]]):
    """How often the host waited, by kind and place (``file:line``)."""

    def add(self, kind: str) -> None:
        self[kind, _place()] += 1

    @contextmanager
    def during(self) -> Iterator[Counter[tuple[str, str]]]:
        """The waits of a ``with`` block alone."""
        before, found = self.copy(), Counter()
        yield found
        found.update(self - before)


def _place() -> str:
    """The innermost line of the library, or else of a test, that is being executed."""
    frame, outer = sys._getframe(1), "elsewhere"
    while frame := frame.f_back:
        path = frame.f_code.co_filename
        if path.startswith(LIBRARY):
            return f"{path.removeprefix(LIBRARY)}:{frame.f_lineno}"
        if outer == "elsewhere" and path.startswith(TESTS) and path != __file__:
            outer = f"{path.removeprefix(TESTS)}:{frame.f_lineno}"
    return outer


waits = Waits()
operations = 0


class OnDevice(Tensor):
    """A tensor on the pretend GPU; ``raw`` is where its numbers are."""

    raw: Tensor

    @staticmethod
    def __new__(cls, raw: Tensor) -> "OnDevice":
        made = Tensor._make_wrapper_subclass(
            cls, raw.size(), strides=raw.stride(), storage_offset=raw.storage_offset(), dtype=raw.dtype, device=DEVICE
        )
        made.raw = raw
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, op, types, args=(), kwargs=None):
        return _run(op, *args, **(kwargs or {}))

    def __repr__(self, **_: Any) -> str:
        return f"{self.raw!r} on {DEVICE}"

    def __format__(self, spec: str) -> str:
        return format(self.item() if self.dim() == 0 else self, spec)

    def tolist(self) -> Any:
        waits.add("value fetched")
        return self.raw.tolist()

    def numpy(self, *_: Any, **__: Any):
        raise TypeError(f"can't convert {DEVICE} device type tensor to numpy. Use Tensor.cpu() to copy it first.")

    __array__ = numpy

    def new_tensor(self, data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
        return torch.tensor(data, dtype=dtype or self.dtype, device=device or DEVICE, requires_grad=requires_grad)

    def __getitem__(self, index: Any) -> Tensor:
        return super().__getitem__(_indices(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(_indices(index), value)

    def __reduce_ex__(self, protocol: Any):
        waits.add("copy to the host")
        return _rebuild_device_tensor_from_cpu_tensor, (self.raw, self.dtype, str(DEVICE), self.requires_grad)


def _indices(index: Any) -> Any:
    """A list of indices becomes a tensor, which torch would do by itself where a Python backend cannot follow."""
    if isinstance(index, tuple):
        return tuple(map(_indices, index))
    return torch.tensor(index) if isinstance(index, list) else index


def _from_values(factory):
    """``torch.tensor`` and its like fill memory of the CPU first, in a way that torch's Python backends cannot follow."""

    @functools.wraps(factory)
    def made(data: Any, *args: Any, device: Any = None, requires_grad: bool = False, **kwargs: Any) -> Tensor:
        theirs = isinstance(data, OnDevice)
        if torch.device(device or (DEVICE if theirs else CPU)).type == NAME:
            result = (data if theirs else factory(data, *args, **kwargs)).to(DEVICE, kwargs.get("dtype"))
        else:
            result = factory(data.cpu() if theirs else data, *args, device=device, **kwargs)
        return result.requires_grad_() if requires_grad else result

    return made


torch.tensor, torch.as_tensor = _from_values(torch.tensor), _from_values(torch.as_tensor)


class Event:
    """A moment on the device's time line, as ``torch.cuda.Event``."""

    def __init__(self, enable_timing: bool = False):
        self.timing = enable_timing

    def record(self) -> None:
        self.moment, self.seen = time.perf_counter(), waits.total()

    def elapsed_time(self, end: "Event") -> float:
        """Milliseconds between two events, both of which the host has waited for since."""
        if not (self.timing and end.timing):
            raise RuntimeError("both events must be made with enable_timing=True")
        if waits.total() <= end.seen:
            raise RuntimeError("device not ready: the host has not waited since the event was recorded")
        return 1e3 * (end.moment - self.moment)


class Module(_DummyBackendModule):
    """What stands at ``torch.pretend``."""

    Event = Event

    def synchronize(self, device: Any = None) -> None:
        waits.add("synchronize")

    def set_device(self, device: Any) -> None:
        pass


_setup_privateuseone_for_python_backend(NAME, Module())
DEVICE = torch.device(NAME, 0)
# A file's numbers are read into memory of the CPU; rebuilding the tensor takes them to the device.
register_package(0, lambda storage: None, lambda storage, place: storage if place.startswith(NAME) else None)


@dataclass(frozen=True)
class Kind:
    """What has to be known of an operation, looked up once."""

    copies: bool
    indexes: bool
    numbers: bool  # takes numbers of the CPU beside tensors of the device
    random: bool
    waits: str | None
    writes: int  # how many of its first arguments it writes to


@functools.cache
def _kind(op) -> Kind:
    first = op._schema.arguments[0].alias_info if op._schema.arguments else None
    pointwise = torch.Tag.pointwise in op.tags or op in INDEXING or op is aten.fill_.Tensor
    return Kind(
        op in COPIES, op in INDEXING, pointwise, torch.Tag.nondeterministic_seeded in op.tags, FETCHES.get(op),
        int(first is not None and first.is_write),
    )  # fmt: skip


def _run(op, *args, **kwargs):
    """Every operation with a tensor on the device or for it: check, count, compute on the CPU, wrap."""
    global operations
    operations += 1
    kind, ours, hosts = _kind(op), [], []
    raw_args = [_raw(x, ours, hosts) for x in args]
    raw_kwargs = {key: _raw(x, ours, hosts) for key, x in kwargs.items()} if kwargs else kwargs
    wanted = kwargs.get("device")
    here = bool(ours) if wanted is None else torch.device(wanted).type == NAME
    if kind.copies:
        # copy_ says with its first argument where to, _to_copy with its device.
        here = isinstance(args[0], OnDevice) if kind.writes else here
        if hosts and here:
            waits.add("copy to the device")
        elif ours and not here:
            waits.add("copy to the host")
    elif hosts and ours:
        _check_mixture(op, kind, args, hosts)
    if here and kind.random:
        generator = kwargs.get("generator")
        raise RuntimeError(
            f"{op}: expected a generator of {NAME}, got one of the CPU" if generator is not None else
            f"{op}: random numbers of a GPU are not the CPU's; draw them from a generator of the CPU and copy"
        )  # fmt: skip
    if kind.waits:
        waits.add(kind.waits)
    elif kind.indexes and ours and any(x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1]):
        waits.add("size depends on values")
    if wanted is not None:
        raw_kwargs["device"] = CPU
    out = op(*raw_args, **raw_kwargs)
    if isinstance(out, Tensor) and not kind.writes and not raw_kwargs:
        return OnDevice(out) if here else out
    # An in-place or out= result is the very argument that was given.
    given = {id(x.raw): x for x in ours}
    for x in ours:
        if x.raw.shape != x.shape:
            raise NotImplementedError(f"{op} changes a tensor's shape in place, which the {NAME} GPU cannot follow")
    return _wrap(out, given, here)


def _check_mixture(op, kind: Kind, args, hosts: list[Tensor]) -> None:
    """Raise where CUDA would not take tensors of the CPU beside its own."""
    if kind.indexes and isinstance(args[0], OnDevice):  # x[i] takes indices from anywhere, at the price of a copy
        indices = [x for x in args[1] if x is not None and not isinstance(x, OnDevice)]
        if indices:
            waits.add("copy to the device")
            hosts = [x for x in hosts if all(x is not index for index in indices)]
    written = kind.writes and not isinstance(args[0], OnDevice)
    if strangers := [x for x in hosts if x.dim() or not kind.numbers or written]:
        raise RuntimeError(
            f"{op}: expected all tensors to be on the same device, but found at least two devices, {DEVICE} and "
            f"{strangers[0].device}, the latter for a tensor of shape {tuple(strangers[0].shape)}"
        )


def _raw(x, ours: list[OnDevice], hosts: list[Tensor]):
    """What the CPU computes with, the tensors sorted into those of the device and those of the host."""
    if isinstance(x, OnDevice):
        ours.append(x)
        return x.raw
    if isinstance(x, Tensor):
        hosts.append(x)
    return [_raw(part, ours, hosts) for part in x] if isinstance(x, list | tuple) else x


def _wrap(x, given: dict[int, OnDevice], here: bool):
    if isinstance(x, Tensor):
        return given[id(x)] if id(x) in given else OnDevice(x) if here else x
    return type(x)(_wrap(part, given, here) for part in x) if isinstance(x, list | tuple) else x


_fallback, _own = Library("_", "IMPL"), Library("aten", "IMPL")
_fallback.fallback(_run, "PrivateUse1")
# torch's own way to these changes the shape of an empty tensor.
_factories = [aten.eye.default, aten.eye.m, aten.arange.default, aten.arange.start, aten.arange.start_step]
for _op in (*_factories, aten.fft_fftfreq.default):
    _own.impl(_op, functools.partial(_run, _op), "PrivateUse1")
