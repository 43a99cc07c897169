"""Files of one's own: refused in one line before they are read, and written so that nothing computed is lost (Sec. 5)."""

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from seplib.checkpoints import write_atomic


def check_input(path: Path, what: str) -> None:
    """Refuse what is no file with something in it, before anything is opened (Sec. 5).

    Args:
        path: of the file.
        what: should be in it, in a word such as "image".

    Raises:
        ValueError: there is no such file, it cannot be read, is empty, a folder, or a pipe or device that might never end.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        raise ValueError(f"there is no {what} file {path}") from None
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    if stat.S_ISDIR(found.st_mode):
        raise ValueError(f"{path} is a folder, not a file")
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{path} is not a regular file")
    if not os.access(path, os.R_OK):
        raise ValueError(f"cannot read {path}: Permission denied")
    if not found.st_size:
        raise ValueError(f"{path} is empty")


def check_output(paths: Sequence[Path], room: int) -> None:
    """Find out before a long training run whether its results can be written (Sec. 5).

    Args:
        paths: of the results, in one folder, which is made if it is not there.
        room: bytes that they need.

    Raises:
        ValueError: they cannot, or there is less room.
    """
    folder = paths[0].parent
    try:
        probe = folder / f".seplib-probe-{os.getpid()}"
        write_atomic(probe, b"")
        probe.unlink()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise ValueError(f"cannot write to {folder}: {error.strerror}") from None
    for path in paths:
        if path.is_dir():
            raise ValueError(f"cannot write {path}: it is a folder")
    if room > free:
        raise ValueError(
            f"cannot write to {folder}: about {room / 1e9:.3f} GB are needed, {free / 1e9:.3f} GB are free"
        )


def write_all(results: Sequence[tuple[Path, Callable[[], bytes]]]) -> list[Path]:
    """Write the files of a result, the first of which is what cost the time (Sec. 5).

    If that one cannot be written where it should be, it is kept in the folder for temporary files, in the home or here.

    Args:
        results: paths, and what makes their content.

    Returns:
        The paths.

    Raises:
        ValueError: a file could not be written; the message says where the first one is.
    """
    kept: Path | None = None
    for path, content in results:
        try:
            data = content()
            write_atomic(path, data)
        except (OSError, MemoryError) as error:
            reason = "out of memory" if isinstance(error, MemoryError) else error.strerror
            if kept is None:
                kept = _elsewhere(path.name, data)
            where = f"what was trained is in {kept}" if kept else "what was trained could be kept nowhere else"
            raise ValueError(f"cannot write {path}: {reason}; {where}") from None
        kept = kept or path
    return [path for path, _ in results]


def _elsewhere(name: str, data: bytes) -> Path | None:
    for place in (tempfile.gettempdir(), os.path.expanduser("~"), Path.cwd()):  # noqa: PTH111 - never raises
        with contextlib.suppress(OSError):
            folder = Path(tempfile.mkdtemp(prefix="seplib-", dir=place))
            try:
                write_atomic(folder / name, data)
            except OSError:
                folder.rmdir()
                raise
            return folder / name
    return None
