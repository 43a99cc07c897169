"""Execute one notebook with a profile through papermill, all or nothing (Sec. A.12)."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
import papermill
from papermill.exceptions import PapermillExecutionError

from seplib import profiles
from seplib.checkpoints import write_atomic

# What papermill writes into a notebook's metadata beside these is a matter of one machine: paths and times of day.
_KEPT_METADATA = ("parameters", "duration", "version")


class NotebookError(RuntimeError):
    """A cell of a notebook failed; the message names notebook and cell (Sec. A.12)."""


def notebook_names(root: Path) -> list[str]:
    """Names of the notebooks below ``root/notebooks``, in order (Sec. A.12)."""
    return sorted(path.stem for path in (root / "notebooks").glob("*.ipynb"))


def execute(
    name: str,
    profile: str = "smoke",
    device: str = "auto",
    parameters: Mapping[str, Any] | None = None,
    threads: int | None = None,
    root: Path | None = None,
) -> Path:
    """Run a notebook and put its results below ``results/<profile>`` once it has succeeded (Sec. A.12).

    ``results/<profile>/<name>.ipynb`` is the executed notebook, ``results/<profile>/<name>/`` what it recorded. The
    ``smoke`` profile always computes; other profiles keep finished training runs in ``$SEPLIB_CACHE`` (default
    ``.cache/seplib``) and go on from there after an interruption.

    Args:
        name: a notebook's name without its ending.
        profile: one of :data:`seplib.profiles.NAMES`.
        device: one of :data:`seplib.profiles.DEVICES`.
        parameters: further values for the notebook's parameters cell, plain JSON.
        threads: CPU threads for torch and BLAS; as many as they like if None.
        root: the project's folder; the current one if None.

    Returns:
        Path of the executed notebook.

    Raises:
        ValueError: an unknown notebook, profile, device or parameter.
        NotebookError: a cell failed. The partly executed notebook is left as ``<name>.failed.ipynb``.
    """
    root = (root or Path.cwd()).resolve()
    source = root / "notebooks" / f"{name}.ipynb"
    if not source.is_file():
        known = ", ".join(notebook_names(root)) or f"none: there is no folder notebooks/ in {root}"
        raise ValueError(f"notebook must be one of {known}, got {name!r}")
    profiles.get(profile)
    profiles.resolve_device(device)
    values = {"profile": profile, "device": device, **(parameters or {})}
    known = papermill.inspect_notebook(str(source))
    for parameter in values:  # papermill itself would only warn
        if parameter not in known:
            raise ValueError(f"parameter must be one of {', '.join(known)} for notebook {name}, got {parameter!r}")

    results = root / "results" / profile
    part = results / f".{name}.part"
    shutil.rmtree(part, ignore_errors=True)
    (part / "records").mkdir(parents=True)
    draft = part / f"{name}.ipynb"
    failed = results / f"{name}.failed.ipynb"
    failed.unlink(missing_ok=True)
    with _environment(_settings(root, profile, part / "records", threads)):
        try:
            papermill.execute_notebook(
                str(source), str(draft), parameters=values, kernel_name="python3", cwd=str(source.parent)
            )
        except PapermillExecutionError as error:
            draft.replace(failed)
            shutil.rmtree(part)
            where = f"cell {error.cell_index} ({_first_line(error.source)})"
            raise NotebookError(
                f"notebook {name}, {where}: {error.ename}: {_first_line(error.evalue)}; "
                f"executed so far: {failed.relative_to(root)}"
            ) from None
    target = results / f"{name}.ipynb"
    shutil.rmtree(results / name, ignore_errors=True)
    (part / "records").replace(results / name)
    write_atomic(target, _cleaned(draft).encode())
    shutil.rmtree(part)
    return target


def cache(root: Path) -> Path:
    """Folder of stored runs that notebooks read and fill: ``$SEPLIB_CACHE``, or ``.cache/seplib`` in the project (Sec. A.12)."""
    return Path(os.environ.get("SEPLIB_CACHE", root / ".cache" / "seplib"))


def _settings(root: Path, profile: str, records: Path, threads: int | None) -> dict[str, str | None]:
    """Environment of the notebook's kernel; None removes a variable."""
    settings: dict[str, str | None] = {"SEPLIB_RESULTS": str(records), "TQDM_DISABLE": "1"}
    settings["SEPLIB_CACHE"] = None if profile == "smoke" else str(cache(root))
    if data := os.environ.get("SEPLIB_DATA"):  # the kernel runs in another folder
        settings["SEPLIB_DATA"] = str(Path(data).resolve())
    if threads is not None:
        settings |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    return settings


class _environment:
    """Set variables for the time of a ``with`` block."""

    def __init__(self, settings: dict[str, str | None]):
        self.settings = settings

    def __enter__(self) -> None:
        self.before = {key: os.environ.get(key) for key in self.settings}
        self._apply(self.settings)

    def __exit__(self, *_: object) -> None:
        self._apply(self.before)

    @staticmethod
    def _apply(settings: dict[str, str | None]) -> None:
        for key, value in settings.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


def _first_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[0] if lines else ""


def _cleaned(path: Path) -> str:
    notebook = nbformat.read(path, as_version=4)
    ours = notebook.metadata.get("papermill", {})
    notebook.metadata["papermill"] = {key: ours[key] for key in _KEPT_METADATA if key in ours}
    for cell in notebook.cells:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
    return json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
