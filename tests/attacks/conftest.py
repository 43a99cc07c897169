"""What the attacks share: the command run in this process, and a disk that is full."""

import contextlib
import os
import re
import resource
import shutil
import sys
from collections.abc import Callable

import pytest

from seplib import __main__ as command


@pytest.fixture
def seplib(monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """``python -m seplib ARGUMENTS`` without a new process: exit status, stdout, stderr."""

    def run(*arguments) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["seplib", *map(str, arguments)])
        status, line = 0, ""
        try:
            command.main()
        except SystemExit as end:  # a text is printed, and the status is 1
            status, line = (1, f"{end.code}\n") if isinstance(end.code, str) else (end.code or 0, "")
        out, err = capsys.readouterr()
        return status, out, err + line

    return run


@pytest.fixture
def full_disk() -> Callable[[int], contextlib.AbstractContextManager]:
    """A limit on the size of files: writing fails in the middle, as on a full disk."""

    @contextlib.contextmanager
    def limited(room: int):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited


@pytest.fixture
def unprivileged() -> list[str]:
    """What to put before a command so that file permissions bind it, as they do not bind root."""
    if os.geteuid():
        return []
    setpriv = shutil.which("setpriv")
    if not setpriv:
        pytest.skip("root needs setpriv to be bound by permissions")
    drop = "-dac_override,-dac_read_search"
    return [setpriv, f"--bounding-set={drop}", f"--inh-caps={drop}"]


@pytest.fixture
def exactly() -> Callable[[str], str]:
    """A pattern for ``match`` that only this text fits."""
    return lambda text: f"^{re.escape(text)}$"
