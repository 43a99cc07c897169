"""Time as the device has it: the host only hands work to a GPU and is told nothing of when it is done (Sec. A.1.1)."""

import time
from collections.abc import Callable
from typing import Any

import torch


def now(device: torch.device) -> Any:
    """A moment for :func:`between`: when the work handed to the device so far is done. Waits for nothing (Sec. A.1.1).

    The CPU works at once, so there it is the time; elsewhere an event among the device's work.
    """
    if device.type in ("cpu", "meta"):
        return time.perf_counter()
    with torch.accelerator.device_index(device.index):
        event = torch.get_device_module(device).Event(enable_timing=True)
        event.record()
    return event


def between(start: Any, end: Any) -> float:
    """Seconds between two moments of one device, for both of which the host has waited by now (Sec. A.1.1).

    >>> start, end = now(torch.device("cpu")), now(torch.device("cpu"))
    >>> 0 <= between(start, end) < 1
    True
    """
    return end - start if isinstance(end, float) else start.elapsed_time(end) / 1e3


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """Time of a call whose work is done on a device (Sec. A.1.1)."""
    start = now(device)
    call()
    end = now(device)
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()
    return between(start, end)
