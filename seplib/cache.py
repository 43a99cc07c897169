"""Results that outlive the process: stored under what determines them (Sec. A.12)."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib


def cached(function: Callable[..., Any], *arguments: Any) -> Any:
    """The stored result of a training run, or the run itself where there is none (Sec. A.12).

    Args:
        function: takes the arguments and ``checkpoints``, the folder for an unfinished run or None. joblib drops its stored
            results when its own source changes, so it should only hand on to the one that trains.
        arguments: what determines the run.
    """
    location = os.environ.get("SEPLIB_CACHE")
    checkpoints = Path(location) / "checkpoints" if location else None
    return joblib.Memory(location, verbose=0).cache(function, ignore=["checkpoints"])(
        *arguments, checkpoints=checkpoints
    )
