"""Execute one notebook with a profile through papermill, all or nothing."""

import ast
import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from seplib.checkpoints import write_atomic
from seplib.reproduce import profiles

# What papermill writes into a notebook's metadata beside these is a matter of one machine: paths and times of day.
_KEPT_METADATA = ("parameters", "duration", "version")
# In a run's own folder: the notebook that is executed and whole, as are then the records.
_READY = "ready.ipynb"
_CALLED = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


class NotebookError(RuntimeError):
    """A cell of a notebook failed; the message names notebook and cell."""


def notebook_names(root: Path) -> list[str]:
    """Names of the notebooks below ``root/notebooks``, in order."""
    return sorted(path.stem for path in (root / "notebooks").glob("*.ipynb"))


def parsed(items: Sequence[str]) -> dict[str, str]:
    """Parameters from a command line, ``NAME=VALUE``.

    Raises:
        ValueError: something else, or a name given twice.
    """
    values: dict[str, str] = {}
    for item in items:
        name, separator, value = item.partition("=")
        if not separator:
            raise ValueError(f"parameter must read NAME=VALUE, got {item!r}")
        if name in values:
            raise ValueError(f"parameter {name} is given twice, as {values[name]!r} and {value!r}")
        values[name] = value
    return values


def execute(
    name: str,
    profile: str = "smoke",
    device: str = "auto",
    parameters: Mapping[str, Any] | None = None,
    threads: int | None = None,
    root: Path | None = None,
) -> Path:
    """Run a notebook and put its results below ``results/<profile>`` once it has succeeded.

    ``results/<profile>/<name>.ipynb`` is the executed notebook, ``results/<profile>/<name>/`` what it recorded. The
    ``smoke`` profile always computes; other profiles keep finished training runs in ``$SEPLIB_CACHE`` (default
    ``.cache/seplib``) and go on from there after an interruption. Runs of one notebook at the same time do not meet: each
    has a folder of its own, and the last one to succeed leaves its results.

    Args:
        name: a notebook's name without its ending.
        profile: one of :data:`seplib.reproduce.profiles.NAMES`.
        device: one of :data:`seplib.reproduce.profiles.DEVICES`.
        parameters: further values for the notebook's parameters cell, of the type that the cell gives them, or as text.
        threads: CPU threads for torch and BLAS; as many as they like if None.
        root: the project's folder; the current one if None.

    Returns:
        Path of the executed notebook.

    Raises:
        ValueError: an unknown notebook, profile, device or parameter, or a parameter of another type.
        NotebookError: a cell failed. The partly executed notebook is left as ``<name>.failed.ipynb``.
        OSError: the results cannot be written.
    """
    root = (root or Path.cwd()).resolve()
    if name not in notebook_names(root):
        known = ", ".join(notebook_names(root)) or f"none: there is no folder notebooks/ in {root}"
        raise ValueError(f"notebook must be one of {known}, got {name!r}")
    profiles.get(profile)
    profiles.resolve_device(device)
    source = root / "notebooks" / f"{name}.ipynb"
    values = _checked_parameters(name, source, {"profile": profile, "device": device}, parameters or {})

    results = root / "results" / profile
    results.mkdir(parents=True, exist_ok=True)
    failed = results / f"{name}.failed.ipynb"
    with _own_folder(results, name) as part:
        draft = part / f"{name}.ipynb"
        (part / "records").mkdir()
        with _environment(_settings(root, profile, part / "records", threads)):
            try:
                _papermill(source, draft, values)
            except NotebookError as error:
                if draft.exists():
                    draft.replace(failed)
                    raise NotebookError(f"{error}; executed so far: {failed.relative_to(root)}") from None
                raise
        executed = _cleaned(draft).encode()
        with _alone(results):
            write_atomic(part / _READY, executed)
            _publish(part, results, name)
            failed.unlink(missing_ok=True)
    return results / f"{name}.ipynb"


def _checked_parameters(
    name: str, source: Path, options: Mapping[str, str], parameters: Mapping[str, Any]
) -> dict[str, Any]:
    """All values for the parameters cell, of the types that the cell's own have."""
    import papermill  # a second that the other commands do without

    try:
        known = papermill.inspect_notebook(str(source))
    except Exception as error:  # whatever a damaged file provokes
        raise ValueError(f"notebooks/{source.name} is not a readable notebook: {type(error).__name__}") from None
    values: dict[str, Any] = dict(options)
    for parameter, value in {**options, **parameters}.items():
        if parameter not in known:  # papermill itself would only warn
            raise ValueError(f"parameter must be one of {', '.join(known)} for notebook {name}, got {parameter!r}")
        if parameter in parameters:
            if parameter in options:
                raise ValueError(f"parameter {parameter} is set by the option --{parameter}, got {value!r}")
            values[parameter] = _typed(parameter, value, known[parameter]["default"])
    if "seed" in values:
        profiles.check_seed(values["seed"])
    return values


def _typed(parameter: str, value: Any, default: str) -> Any:
    """The value as what the notebook's own value is; text, as it comes from a command line, is read as that."""
    try:
        kind = type(ast.literal_eval(default))
    except (ValueError, SyntaxError):  # not written down but computed
        return value
    try:
        if isinstance(value, str) and kind is bool:
            return {"true": True, "false": False}[value.lower()]
        if isinstance(value, str) and kind in (int, float):
            return kind(value)
    except (KeyError, ValueError):
        raise ValueError(f"parameter {parameter} must be {_CALLED[kind]}, got {value!r}") from None
    if type(value) is not kind and (kind, type(value)) != (float, int):
        raise ValueError(f"parameter {parameter} must be {_CALLED.get(kind, kind.__name__)}, got {value!r}")
    return value


def _papermill(source: Path, draft: Path, values: Mapping[str, Any]) -> None:
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    try:
        papermill.execute_notebook(
            str(source), str(draft), parameters=dict(values), kernel_name="python3", cwd=str(source.parent)
        )
    except PapermillExecutionError as error:
        where = f"cell {error.cell_index} ({_first_line(error.source)})"
        raise NotebookError(f"notebook {source.stem}, {where}: {error.ename}: {_first_line(error.evalue)}") from None
    except DeadKernelError:
        raise NotebookError(
            f"notebook {source.stem}: its Python process ended in the middle, as it does when the memory runs out"
        ) from None


@contextlib.contextmanager
def _own_folder(results: Path, name: str) -> Iterator[Path]:
    """A folder for one run, removed behind it. What runs that were killed have left is published if it is whole, and removed."""
    with contextlib.ExitStack() as stack:
        with _alone(results):
            for old in results.glob(f".{name}.*.part"):
                with contextlib.suppress(BlockingIOError), _alone(old, wait=False) as dead:
                    if dead and (old / _READY).exists():
                        _publish(old, results, name)
                    if dead:
                        shutil.rmtree(old, ignore_errors=True)
            part = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=".part", dir=results))
            stack.callback(shutil.rmtree, part, ignore_errors=True)
            stack.enter_context(_alone(part))
        yield part


@contextlib.contextmanager
def _alone(folder: Path, wait: bool = True) -> Iterator[bool]:
    """Hold a folder's lock, which the system takes back from a process that ends, however it ends.

    Yields:
        Whether there is a lock: some file systems have none.

    Raises:
        BlockingIOError: another process holds it, and one is not to wait.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            held = True
        except BlockingIOError:
            raise
        except OSError:
            held = False
        yield held
    finally:
        os.close(handle)


def _publish(part: Path, results: Path, name: str) -> None:
    """Put the records and the executed notebook in the place of the old ones.

    The old notebook goes first and the new one comes last: where there is a notebook, the records beside it are its own. If the
    process is killed on the way, another can go on from there.
    """
    target, records = results / f"{name}.ipynb", results / name
    if (part / "records").exists():
        if target.exists():
            target.replace(part / "old.ipynb")
        if records.exists():
            records.replace(part / "old")
        (part / "records").replace(records)
    (part / _READY).replace(target)


def cache(root: Path) -> Path:
    """Folder of stored runs that notebooks read and fill: ``$SEPLIB_CACHE``, or ``.cache/seplib`` in the project."""
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
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    ours = notebook.metadata.get("papermill", {})
    notebook.metadata["papermill"] = {key: ours[key] for key in _KEPT_METADATA if key in ours}
    for cell in notebook.cells:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
    return json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
