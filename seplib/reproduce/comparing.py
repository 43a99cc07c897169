"""Compare two results folders number by number, within stated tolerances (all claims, Sec. A.12).

A results folder holds ``NOTEBOOK/*.csv``, ``NOTEBOOK/record.json``, executed notebooks ``NOTEBOOK.ipynb`` and, of a whole profile,
``claims.json``. An expected folder may hold ``NOTEBOOK/shown.json``, the notebook's text and glued values alone, in the executed
notebook's place; :func:`distil` makes such a folder. Pictures are not compared.
"""

import ast
import csv
import json
import math
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import nbformat

from seplib.checkpoints import write_atomic

GLUED = "application/papermill.record/text/plain"
# What tells of one run on one machine, and of no result; and the cases' distances, which restate numbers of tables and records.
_NOT_COMPARED = ("provenance", "seconds", "device", "threads", "commit", "versions", "margins")
_PICTURES = (".jpg", ".jpeg", ".png", ".svg")
# No sign: the minus of "1-5" is none, and a sign that changes is a difference of the text.
_NUMBER = re.compile(r"(\d+(?:\.\d+)?(?:e[-+]?\d+)?)")

Cells = dict[tuple[str, str], float | str]


@dataclass(frozen=True)
class Rule:
    """How far two values may lie apart, and why.

    Attributes:
        reason: why this much: the spread that was observed.
        file: pattern of the files that it is about, such as ``"pde/*.csv"``; notebooks are ``"pde.ipynb"``.
        columns: patterns of columns; a claim's are ``verdict``, ``case: NAME``, ``measured: NAME`` and so on, a notebook's the glued
            names and ``printed by cell ID``.
        relative: tolerance as a share of the expected number.
        absolute: tolerance added to it.
        clock: whether the values rest on times measured in the run. They must be there if expected, and numbers among them finite.
        never: of a clock, whether it may be infinite, the time of what never happened.
    """

    reason: str
    file: str = "*"
    columns: tuple[str, ...] = ("*",)
    relative: float = 0.0
    absolute: float = 0.0
    clock: bool = False
    never: bool = False

    def fits(self, file: str, column: str) -> bool:
        """Whether the rule is about this column."""
        return fnmatchcase(file, self.file) and any(fnmatchcase(column, pattern) for pattern in self.columns)


@dataclass(frozen=True)
class Rules:
    """Rules in order; the last one that fits a column holds for it."""

    rules: tuple[Rule, ...]

    @classmethod
    def read(cls, path: str | Path, clocks: bool = False) -> "Rules":
        """Read a TOML file of ``[[rule]]`` tables, the first of which must fit everything.

        Args:
            path: the file.
            clocks: compare clocks as well, by the other rules: where times are stored, as below ``results/paper``.

        Raises:
            ValueError: a rule without a reason, with an unknown or a negative entry, or no rule for everything.
        """
        rules = []
        for number, table in enumerate(tomllib.loads(Path(path).read_text()).get("rule", []), 1):
            if not str(table.get("reason", "")).strip():
                raise ValueError(f"{path}: rule {number} states no reason")
            if unknown := set(table) - set(Rule.__dataclass_fields__):
                raise ValueError(
                    f"{path}: rule {number} has {sorted(unknown)[0]!r}; a rule has {', '.join(Rule.__dataclass_fields__)}"
                )
            rule = Rule(**{**table, "columns": tuple(table.get("columns", ["*"]))})
            if not (0 <= rule.relative < math.inf and 0 <= rule.absolute < math.inf):
                raise ValueError(f"{path}: rule {number} has a tolerance that is negative or not finite")
            rules.append(rule)
        if not rules or rules[0].clock or (rules[0].file, rules[0].columns) != ("*", ("*",)):
            raise ValueError(f"{path}: the first rule must give the tolerance for everything")
        return cls(tuple(rule for rule in rules if not (clocks and rule.clock)))

    def of(self, file: str, column: str) -> Rule:
        """The rule for a column."""
        return next(rule for rule in reversed(self.rules) if rule.fits(file, column))


@dataclass(frozen=True)
class Deviation:
    """Two values of one place.

    Attributes:
        place: file, row and column.
        share: of the tolerance that their distance takes, infinite for texts that differ; above 1 is a difference.
        line: one line that says so.
    """

    place: tuple[str, str, str]
    share: float
    line: str


def differences(expected: Path, found: Path, rules: Rules) -> list[str]:
    """What differs between two results folders, one line each: file, row, column, expected, found, tolerance.

    A file, column or row that only one of them has is a line too. Of ``record.json`` and ``claims.json`` verdicts, cases and texts
    are compared, not provenance, seconds, commit, threads and versions; ``claims.json``, which repeats the records, only where one
    is expected.

    Args:
        expected: the folder that is right.
        found: the folder in question.
        rules: tolerances.
    """
    return [deviation.line for deviation in deviations(expected, found, rules) if deviation.share > 1]


def deviations(expected: Path, found: Path, rules: Rules) -> Iterator[Deviation]:
    """How every value of one folder lies to that of the other, also inside the tolerance.

    Args:
        expected: as for :func:`differences`, as are the others.
        found: see there.
        rules: see there.
    """
    ours, theirs = files(expected), files(found)
    if "claims.json" not in ours:
        theirs.pop("claims.json", None)
    for file in sorted(ours.keys() | theirs.keys()):
        if file not in ours or file not in theirs:
            yield _refused(file, "missing" if file in ours else "not expected")
            continue
        try:
            yield from _compare(file, read(ours[file]), read(theirs[file]), rules)
        except (ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
            yield _refused(file, f"cannot be read: {str(error).splitlines()[0]}")


def distil(found: Path, target: Path) -> None:
    """Turn a results folder into an expected one: tables, records and what notebooks show, without pictures.

    Args:
        found: a results folder.
        target: where to write; files of notebooks or tables that are no more are removed.
    """
    sources = {file: path for file, path in files(found).items() if file != "claims.json"}
    kept = set()
    for file, path in sources.items():
        if path.suffix == ".csv":
            place, data = target / file, path.read_text()
        elif path.name == "record.json":
            content = json.loads(path.read_text())
            claims = [{k: v for k, v in claim.items() if k not in _NOT_COMPARED} for claim in content["claims"]]
            checks = content.get("checks", {})
            place, data = target / file, _json({"seed": content["seed"], "claims": claims, "checks": checks})
        else:
            place, data = target / Path(file).stem / "shown.json", _json(shown(path))
        write_atomic(place, data.encode())
        kept.add(place)
    for path in target.rglob("*"):
        if path.is_file() and path not in kept:
            path.unlink()


def files(folder: Path) -> dict[str, Path]:
    """Files that are compared, by name.

    Args:
        folder: a results folder, expected or found.

    Returns:
        Paths; both forms of a notebook have the name ``NOTEBOOK.ipynb``.

    Raises:
        ValueError: there is no such folder.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no results folder {folder}")
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and path.suffix not in _PICTURES and not any(part.startswith(".") for part in name.parts):
            found[f"{name.parent}.ipynb" if path.name == "shown.json" else name.as_posix()] = path
    return found


def read(path: Path) -> Cells:
    """Values of one file by row and column, numbers as floats.

    Args:
        path: of :func:`files`.

    Raises:
        ValueError: a table with rows of different lengths, or no JSON.
    """
    if path.suffix == ".csv":
        with path.open(newline="") as lines:
            rows = list(csv.reader(lines, strict=True))
        if any(len(row) != len(rows[0]) for row in rows):
            raise ValueError("rows of different lengths")
        cells = {("header", f"column {i}"): name for i, name in enumerate(rows[0], 1)}
        return cells | {
            (f"row {r}", name): number(text) for r, row in enumerate(rows[1:], 1) for name, text in zip(rows[0], row)
        }
    if path.name in ("record.json", "claims.json"):
        content = json.loads(path.read_text())
        if path.name == "claims.json":
            return dict(_claims(content))
        checks = {("checks", f"check: {name}"): _plain(holds) for name, holds in content.get("checks", {}).items()}
        return checks | dict(_claims(content["claims"]))
    cells = {}
    for cell, content in (shown(path) if path.suffix == ".ipynb" else json.loads(path.read_text())).items():
        cells |= {
            (f"line {i}", f"printed by cell {cell}"): line for i, line in enumerate(content.get("printed", []), 1)
        }
        cells |= {(f"cell {cell}", name): _plain(value) for name, value in content.get("glued", {}).items()}
    return cells


def _claims(entries: list[dict[str, Any]]) -> Iterator[tuple[tuple[str, str], float | str]]:
    """Values of claims: a mapping such as ``measured`` has a column for each name."""
    for entry in entries:
        for key, value in entry.items():
            if key in _NOT_COMPARED:
                continue
            if isinstance(value, dict):
                label = "case" if key == "cases" else key
                yield from (((entry["id"], f"{label}: {name}"), _plain(v)) for name, v in value.items())
            else:
                yield (entry["id"], key), _plain(value)


def shown(path: Path) -> dict[str, Any]:
    """Text that the cells of an executed notebook print, and values that they glue, by cell.

    Args:
        path: a notebook.

    Returns:
        For each cell that shows anything ``{"printed": lines, "glued": {name: number or text}}``. Tables and figures are left out.
    """
    found = {}
    for cell in nbformat.read(path, as_version=4).cells:
        printed, glued = [], {}
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if output.output_type == "stream":
                printed += output.text.splitlines()
            elif GLUED in data:
                glued[output.metadata["scrapbook"]["name"]] = _literal(data[GLUED])
            elif set(data) == {"text/plain"}:
                printed += data["text/plain"].splitlines()
        content = {key: value for key, value in (("printed", printed), ("glued", glued)) if value}
        if content:
            found[cell.id] = content
    return found


def _literal(text: str) -> Any:
    """A glued value from its repr: a number or a text."""
    text = re.sub(r"^np\.\w+\((.*)\)$", r"\1", text)
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):  # nan and inf are no literals
        return number(text)


def number(text: str) -> float | str:
    """A number where the text is one, the text where it is not.

    >>> number("1e-3"), number("SepPGD")
    (0.001, 'SepPGD')
    """
    try:
        return float(text)
    except ValueError:
        return text


def _plain(value: Any) -> float | str:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _json(data: Any) -> str:
    """Floats with the six digits of the tables."""

    def rounded(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: rounded(v) for key, v in value.items()}
        if isinstance(value, list):
            return [rounded(v) for v in value]
        return float(f"{value:.6g}") if isinstance(value, float) else value

    return json.dumps(rounded(data), indent=1, ensure_ascii=False) + "\n"


def _compare(file: str, expected: Cells, found: Cells, rules: Rules) -> Iterator[Deviation]:
    for row, column in expected | found:
        place = (file, row, column)
        if (row, column) not in expected or (row, column) not in found:
            yield _refused(f"{file}, {row}, {column}", "missing" if (row, column) in expected else "not expected")
            continue
        ours, theirs = expected[row, column], found[row, column]
        rule = rules.of(file, column)
        share, allowed = _share(ours, theirs, rule)
        line = f"{file}, {row}, {column}: expected {_say(ours)}, found {_say(theirs)}; {allowed}"
        yield Deviation(place, share, line)


def _share(ours: float | str, theirs: float | str, rule: Rule) -> tuple[float, str]:
    """Of the tolerance that a pair takes, and the tolerance in words."""
    if rule.clock:
        if isinstance(theirs, str):
            there = bool(theirs) or ours == ""
        else:
            there = math.isfinite(theirs) or (rule.never and theirs == math.inf)
        return (0.0 if there else math.inf), "a clock must be there and finite"
    if isinstance(ours, float) and isinstance(theirs, float):
        tolerance = rule.absolute + rule.relative * abs(ours)
        return _distance(ours, theirs, tolerance), f"allowed {tolerance:.3g}"
    if isinstance(ours, float) or isinstance(theirs, float):
        return math.inf, "a number and a text"
    left, right = _NUMBER.split(ours), _NUMBER.split(theirs)
    if left[::2] != right[::2]:
        return math.inf, "texts must agree"
    tolerances = [rule.absolute + rule.relative * float(a) for a in left[1::2]]
    shares = [_distance(float(a), float(b), t) for a, b, t in zip(left[1::2], right[1::2], tolerances)]
    return max(shares, default=0.0), f"numbers in it: allowed {', '.join(f'{t:.3g}' for t in tolerances)}"


def _distance(a: float, b: float, tolerance: float) -> float:
    if a == b or (math.isnan(a) and math.isnan(b)):
        return 0.0
    gap = abs(a - b)
    return gap / tolerance if tolerance and math.isfinite(gap) else math.inf


def _say(value: float | str) -> str:
    return f"{value:.6g}" if isinstance(value, float) else repr(value)


def _refused(place: str, why: str) -> Deviation:
    return Deviation((place, "", ""), math.inf, f"{place}: {why}")
