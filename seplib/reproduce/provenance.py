"""Where a number comes from: commit, versions, device and threads."""

import functools
import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("seplib", "torch", "numpy", "scipy", "scikit-image", "matplotlib", "papermill")


def provenance(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Where a number comes from: commit, versions, device and threads.

    The commit ends in ``+`` if the working tree had changes in the library or the notebooks.
    """
    device = torch.device(device)
    if device.type == "cpu":
        name = f"cpu ({platform.machine()})"
    else:  # not every backend knows its device's name
        name = getattr(torch.get_device_module(device), "get_device_name", lambda one: one.type)(device)
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
            cwd=Path(__file__).parents[2],
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
