"""Everything behind the training, executed again from the stored runs and compared with what is committed.

``results/paper/runs`` holds the runs that the records of ``results/paper`` name, and nothing else. An audit reads every one of
them, executes every notebook at ``paper`` with no other source of runs, and compares tables, verdicts and glued numbers with
those committed. A notebook that was executed before its runs were stored is named in ``waiting.txt`` and cannot be audited.
"""

import json
import os
import pkgutil
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import seplib
from seplib.reproduce import archive, claims, comparing, recipes, runner, store

# Names of notebooks without stored runs, one a line.
WAITING = "waiting.txt"


@dataclass
class Audit:
    """What an audit found.

    Attributes:
        findings: one line for each thing that is not as committed.
        checked: notebooks that were executed and compared.
        skipped: notebooks that were not, with the reason.
    """

    findings: list[str] = field(default_factory=list)
    checked: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


def audit(
    root: Path, jobs: int = 1, rules: Path | None = None, say: Callable[[str], None] = lambda line: None
) -> Audit:
    """Audit ``results/paper``.

    Args:
        root: the project's folder.
        jobs: notebooks at a time, one thread each.
        say: is told of each notebook as it is done.
        rules: tolerances, see :class:`seplib.reproduce.comparing.Rules`; ``tests/expected/paper.toml`` if None.
    """
    results = root / "results" / "paper"
    found = Audit(check_store(results) + check_claims(results))
    names = []
    for name in runner.notebook_names(root):
        if reason := _reason(results, name):
            found.skipped[name] = reason
        else:
            names.append(name)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        (scratch / "notebooks").symlink_to((root / "notebooks").resolve())
        os.environ["SEPLIB_AUDIT"] = str((results / "runs").resolve())
        try:
            with ProcessPoolExecutor(jobs) as pool:
                pending = {pool.submit(_execute, name, scratch): name for name in names}
                for done in as_completed(pending):
                    try:
                        done.result()
                    except (runner.NotebookError, OSError, ValueError) as error:
                        found.findings.append(str(error))
                        say(f"{pending[done]}: failed")
                    else:
                        found.checked.append(pending[done])
                        say(f"{pending[done]}: executed")
        finally:
            del os.environ["SEPLIB_AUDIT"]
        tolerances = comparing.Rules.read(rules or root / "tests" / "expected" / "paper.toml", clocks=True)
        found.findings += compare(results, scratch / "results" / "paper", found.checked, tolerances)
    found.checked.sort()
    return found


def _execute(name: str, scratch: Path) -> None:
    runner.execute(name, "paper", "cpu", threads=1, root=scratch)


def compare(committed: Path, executed: Path, names: list[str], rules: comparing.Rules) -> list[str]:
    """What differs between the committed and the executed results of some notebooks, one line each."""
    if not names:
        return []
    with tempfile.TemporaryDirectory() as folder:
        sides = {"committed": committed, "executed": executed}
        for side, source in sides.items():
            for name in names:  # and nothing else that lies there
                shutil.copytree(source / name, Path(folder) / side / name)
                shutil.copy(source / f"{name}.ipynb", Path(folder) / side)
        lines = comparing.differences(*(Path(folder) / side for side in sides), rules)
    for name in names:
        ours, theirs = ([run["run"] for run in _record(folder, name)["runs"]] for folder in (committed, executed))
        lines += [
            f"{name}/record.json names the run {run}, which the notebook does not use" for run in {*ours} - {*theirs}
        ]
        lines += [f"{name}/record.json does not name the run {run}" for run in {*theirs} - {*ours}]
    return [f"{committed.name}/{line}" for line in lines]


def check_store(results: Path) -> list[str]:
    """Whether every run that the records name is in ``runs``, whole and of this library's numerics, and none else."""
    load_kinds()
    folder, named, lines = results / "runs", {}, []
    waiting = _waiting(results)
    for record in sorted(results.glob("*/record.json")):
        name = record.parent.name
        runs = _record(results, name).get("runs")
        if (runs is None) != (name in waiting):
            state = "names no runs, but is not in" if runs is None else "names its runs, but is in"
            lines.append(f"{record} {state} {results / WAITING}")
        named |= {run["run"]: (record, run) for run in runs or ()}
    lines += [
        f"{results / WAITING} names {name}, which has no results" for name in waiting if not (results / name).is_dir()
    ]
    stored = {path.name: path for path in folder.glob("*")} if folder.is_dir() else {}
    lines += [
        f"{folder / run} is missing; {record} rests on it" for run, (record, _) in named.items() if run not in stored
    ]
    for name, path in sorted(stored.items()):
        if name not in named:
            lines.append(f"{path} is named by no record; nothing rests on it")
            continue
        try:
            provenance = store.check(path).provenance
        except (archive.DamagedRun, OSError) as error:
            lines.append(str(error))
            continue
        record, run = named[name]
        for key, value in run.items():
            if key != "run" and provenance.get(key) != value:
                lines.append(f"{record} says {key} {value!r} of {name}, which says {provenance.get(key)!r}")
    return lines


def check_claims(results: Path) -> list[str]:
    """Whether ``claims.json`` says what the records say."""
    path = results / "claims.json"
    ours, theirs = claims.load(path), {entry["id"]: entry for entry in json.loads(json.dumps(claims.collect(results)))}
    lines = []
    for id in theirs | ours:
        for key in theirs.get(id, {}) | ours.get(id, {}):
            one, two = (entries.get(id, {}).get(key) for entries in (ours, theirs))
            if one != two:
                lines.append(f"{path}, {id}, {key}: {one!r}, but its record says {two!r}")
    return lines


def replays(results: Path, count: int, seed: int | None = None) -> Iterator[tuple[str, bool]]:
    """Draw stored runs at random, compute them anew and compare within their kind's tolerance; a line and whether it agrees.

    Clocks, which no machine repeats, and runs whose data are not at hand are not drawn.

    Args:
        results: ``results/paper``.
        count: number of runs.
        seed: of the draw; another one each time if None.
    """
    load_kinds()
    paths = sorted((results / "runs").glob("*.npz"))
    random.Random(seed).shuffle(paths)
    for path in paths:
        if not count:
            return
        found = store.check(path)
        tolerance = store.KINDS[found.description["kind"]].tolerance
        if tolerance is None or missing_data(found.description):
            continue
        count -= 1
        gap = store.difference(found.result, store.replay(found))
        yield (
            f"{path.name}: {gap:.1e} from commit {found.provenance['commit']}'s, allowed {tolerance:.0e}",
            gap <= tolerance,
        )


def missing_data(description: Any) -> str:
    """Why the data of a run are not at hand, or nothing."""
    if isinstance(description, list):
        return next(filter(None, map(missing_data, description)), "")
    if not isinstance(description, dict):
        return ""
    if description.get("make") in ("image", "solid"):
        try:
            recipes.rebuild(description)
        except (ValueError, OSError) as error:
            return str(error)
    return next(filter(None, map(missing_data, description.values())), "")


def load_kinds() -> None:
    """Import every module of the library, so that :data:`seplib.reproduce.store.KINDS` is whole."""
    for module in pkgutil.walk_packages(seplib.__path__, "seplib."):
        if not module.name.endswith("__main__"):
            import_module(module.name)


def _reason(results: Path, name: str) -> str:
    """Why a notebook cannot be audited here, or nothing."""
    if name in _waiting(results):
        return "its runs are not stored yet"
    if not (results / name / "record.json").exists():
        return ""  # the comparison will say that results are missing
    for run in _record(results, name).get("runs", ()):
        path = results / "runs" / run["run"]
        try:
            description = archive.read(path).description
        except (archive.DamagedRun, OSError):
            continue
        if reason := missing_data(description):
            return reason
    return ""


def _waiting(results: Path) -> list[str]:
    path = results / WAITING
    return path.read_text().split() if path.exists() else []


def _record(results: Path, name: str) -> dict[str, Any]:
    return json.loads((results / name / "record.json").read_text())
