"""Runs that survive: stored under what determines them, resumed where they were cut (Sec. A.12)."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib


def stored(function: Callable, arguments: tuple) -> Any:
    """Call a run's function, or read its result from ``$SEPLIB_CACHE`` if that is set and holds it (Sec. A.12).

    Args:
        function: takes the arguments and ``checkpoints``, the folder for unfinished runs, None without a cache. joblib drops
            what it has stored when the function's own source changes, so it should only hand on to the one that computes.
        arguments: what determines the run, such as :func:`seplib.setups.run_arguments`.
    """
    location = os.environ.get("SEPLIB_CACHE")
    run = joblib.Memory(location, verbose=0).cache(function, ignore=["checkpoints"])
    return run(*arguments, checkpoints=Path(location) / "checkpoints" if location else None)


def checkpoint_path(checkpoints: Path | None, arguments: tuple) -> Path | None:
    """File that an interrupted run with these :func:`seplib.setups.run_arguments` goes on from, None without a cache (Sec. A.12)."""
    return None if checkpoints is None else checkpoints / f"{joblib.hash(arguments)}.pt"
