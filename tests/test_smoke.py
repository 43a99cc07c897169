"""Every number that a notebook shows at ``smoke`` is stored and compared, and a wrong one is noticed.

``results/smoke`` comes from ``make book``; ``tests/expected/smoke`` from ``make expected``.
"""

import ast
import csv
import json
import math
import os
import shutil
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from seplib.reproduce import claims, comparing, criteria, runner
from seplib.studies.images import convergence
from seplib.studies.pde import fitting
from seplib.studies.seppgd import kernel_ridge

ROOT = Path(__file__).parents[1]
EXPECTED, FOUND = ROOT / "tests" / "expected" / "smoke", ROOT / "results" / "smoke"
RULES = comparing.Rules.read(EXPECTED.with_suffix(".toml"))
NAMES = runner.notebook_names(ROOT)
# Cells whose text rests on times measured in the run; the record's cases are the same text, and are compared as stated there.
BY_THE_CLOCK = {("image_convergence", "15"), ("kernel_ridge", "14"), ("pde", "17")}


def code(name: str) -> list:
    cells = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells
    return [cell for cell in cells if cell.cell_type == "code"]


def values():
    """Every number and text that is expected: file, row, column, value."""
    for file, path in comparing.files(EXPECTED).items():
        for (row, column), value in comparing.read(path).items():
            yield file, row, column, value


@pytest.fixture
def results():
    """The results of this tree's notebooks."""
    if not all((FOUND / f"{name}.ipynb").is_file() for name in NAMES):
        assert "CI" not in os.environ, "results/smoke is missing"
        pytest.skip("needs results/smoke: run `make book`")
    return FOUND


def test_results_are_as_expected(results):
    told = comparing.differences(EXPECTED, results, RULES)
    assert not told, "\n" + "\n".join(told)


def test_verdicts_follow_from_their_cases(results):
    for path in (results / "claims.json", *EXPECTED.glob("*/record.json")):
        content = json.loads(path.read_text())
        for entry in content if isinstance(content, list) else content["claims"]:
            if entry["verdict"] != "not run":
                assert entry["verdict"] == criteria.verdict(entry["cases"]), (path, entry["id"])


def test_verdicts_that_rest_on_clocks_follow_from_the_tables_beside_them(results):
    found = claims.load(results / "claims.json")
    table = pd.read_csv(results / "image_convergence" / "convergence.csv")
    assert found["fig-2b"]["cases"] == criteria.held(convergence.cases(table))
    krr = pd.read_csv(results / "kernel_ridge" / "krr.csv")
    assert found["fig-2a"]["cases"] == criteria.held(kernel_ridge.cases(krr))
    assert (krr["twice as fast"] == (krr["time ratio"] <= 0.5)).all()
    for name, rows in pd.read_csv(results / "pde" / "methods.csv").groupby("equation"):
        seconds = rows.set_index("method").seconds
        assert next(iter(found[fitting.CLAIMS[name]]["cases"].values())) == (
            seconds["SPINN (SepPGD)"] / seconds["SPINN"] <= 0.8
        )


# What is compared, and how closely -----------------------------------------------------------------------------------


def mentions(tree: ast.AST, saved: set[str]) -> bool:
    """Whether an expression saves a table, makes use of one that was saved, or shows the record's own cases."""
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return bool(names & saved) or any(
        ast.unparse(node) in ("report.table", "report.margins") for node in ast.walk(tree)
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_table_that_is_shown_is_saved(name):
    saved: set[str] = set()
    for cell in code(name):
        tree = ast.parse(cell.source)
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and mentions(node.value, saved):
                saved |= {leaf.id for target in node.targets for leaf in ast.walk(target) if isinstance(leaf, ast.Name)}
        data = [output.get("data", {}) for output in cell.outputs]
        tables = [d for d in data if "text/html" in d and "display.HTML" not in d["text/plain"]]
        assert not tables or mentions(tree.body[-1], saved), f"{name}, cell {cell.id} shows a table that no CSV holds"


@pytest.mark.parametrize("name", NAMES)
def test_every_saved_table_and_every_text_is_expected(name):
    calls = [node for cell in code(name) for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Call)]
    tables = [call.args[0] for call in calls if ast.unparse(call.func) == "report.table"]
    assert all((EXPECTED / name / f"{t.value}.csv").is_file() for t in tables if isinstance(t, ast.Constant))
    assert len(tables) == len(list((EXPECTED / name).glob("*.csv"))) or any(
        isinstance(t, ast.JoinedStr) for t in tables
    )
    shown = comparing.read(EXPECTED / name / "shown.json")
    for cell in code(name):
        printed = any(output.output_type == "stream" for output in cell.outputs)
        glued = any(comparing.GLUED in output.get("data", {}) for output in cell.outputs)
        assert not printed or ("line 1", f"printed by cell {cell.id}") in shown
        assert not glued or any(row == f"cell {cell.id}" for row, _ in shown)


def test_nbval_leaves_out_only_text_that_rests_on_clocks():
    ignored = {
        (n, cell.id) for n in NAMES for cell in code(n) if "nbval-ignore-output" in cell.metadata.get("tags", [])
    }
    assert ignored == BY_THE_CLOCK
    for name, cell in BY_THE_CLOCK:
        assert RULES.of(f"{name}.ipynb", f"printed by cell {cell}").clock
        source = next(c.source for c in code(name) if c.id == cell)
        assert "report.record" in source, "its cases and verdict are in no record"


def test_every_rule_is_needed():
    used = {id(RULES.of(file, column)) for file, _, column, _ in values()}
    assert [rule.reason for rule in RULES.rules if id(rule) not in used] == []


# Share of a number by which it must be wrong to be noticed, where 5% is not enough: the least stable numbers there are.
COARSE = {
    ("approximation/widths.csv", "delta"): 0.5,
    ("approximation/widths.csv", "slope"): 0.7,
    ("approximation/record.json", "measured: gelu: delta at the largest width"): 0.5,
    ("image_dynamics/roots.csv", "g2"): 0.4,
    ("surface/surface.csv", "spread"): 5,
    ("surface.ipynb", "small_sepnn_spread"): 5,
    ("surface.ipynb", "small_seppgd_spread"): 0.4,
}
NOISE = 1e-6  # in what is 0 but for rounding: clipping that clips nothing, in dB; all others are below 1e-14


def test_a_wrong_number_is_noticed():
    """A change of 5% of any number is, beside the coarse ones and the rounding errors, which are noticed when they are none."""
    compared = [
        (file, column, abs(value), RULES.of(file, column))
        for file, _, column, value in values()
        if isinstance(value, float) and math.isfinite(value) and value and not RULES.of(file, column).clock
    ]
    noise = [c for c in compared if c[2] <= c[3].absolute and c[2] < NOISE]
    assert len(noise) < 0.03 * len(compared)
    assert all(rule.absolute <= 1e-10 for file, _, _, rule in noise if file != "image_settings.ipynb")
    unnoticed = {
        (f, c) for f, c, v, rule in set(compared) - set(noise) if rule.relative * v + rule.absolute >= 0.05 * v
    }
    assert unnoticed == COARSE.keys()
    for file, column, value, rule in compared:
        if (file, column) in COARSE and value > 1e-13:
            assert rule.relative * value + rule.absolute < COARSE[file, column] * value, (file, column)


def test_clocks_are_few():
    clocks = [RULES.of(file, column).clock for file, _, column, _ in values()]
    assert sum(clocks) < 0.1 * len(clocks)


@given(st.data())
def test_a_changed_number_in_a_folder_is_a_line(tmp_path_factory, data):
    """The whole way: one number of one table is made wrong, and the comparison says where."""
    name = data.draw(st.sampled_from(sorted(path.name for path in EXPECTED.iterdir())))
    table = data.draw(st.sampled_from(sorted((EXPECTED / name).glob("*.csv"))))
    rows = list(csv.reader(table.read_text().splitlines()))
    places = [
        (r, c)
        for r, row in enumerate(rows[1:], 1)
        for c, text in enumerate(row)
        if isinstance(value := comparing.number(text), float) and abs(value) > 1e-6
        and not RULES.of(f"{name}/{table.name}", rows[0][c]).clock
        and (f"{name}/{table.name}", rows[0][c]) not in COARSE
    ]  # fmt: skip
    assume(places)
    r, c = data.draw(st.sampled_from(places))
    rows[r][c] = repr(1.05 * float(rows[r][c]))
    folder = tmp_path_factory.mktemp("changed")
    shutil.copytree(EXPECTED / name, folder / "found" / name)
    shutil.copytree(EXPECTED / name, folder / "expected" / name)
    with (folder / "found" / name / table.name).open("w", newline="") as lines:
        csv.writer(lines).writerows(rows)
    told = comparing.differences(folder / "expected", folder / "found", RULES)
    assert len(told) == 1 and told[0].startswith(f"{name}/{table.name}, row {r}, {rows[0][c]}: expected ")
