"""Every number that a notebook shows at ``smoke`` is stored and compared, and a wrong one is noticed.

``results/smoke`` comes from ``make book``; ``tests/expected/smoke`` from ``make expected``.
"""

import ast
import json
import os
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from seplib import claims, comparing, convergence, pde_runs, ridge_tables, runner

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
                assert entry["verdict"] == claims.verdict(entry["cases"]), (path, entry["id"])


def test_verdicts_that_rest_on_clocks_follow_from_the_tables_beside_them(results):
    found = claims.load(results / "claims.json")
    assert found["fig-2b"]["cases"] == convergence.cases(pd.read_csv(results / "image_convergence" / "convergence.csv"))
    krr = pd.read_csv(results / "kernel_ridge" / "krr.csv")
    assert found["fig-2a"]["cases"] == ridge_tables.cases(krr)
    assert (krr["twice as fast"] == (krr["time ratio"] <= 0.5)).all()
    for name, rows in pd.read_csv(results / "pde" / "methods.csv").groupby("equation"):
        seconds = rows.set_index("method").seconds
        assert next(iter(found[pde_runs.CLAIMS[name]]["cases"].values())) == (
            seconds["SPINN (SepPGD)"] / seconds["SPINN"] <= 0.8
        )


# What is compared, and how closely -----------------------------------------------------------------------------------


def mentions(tree: ast.AST, saved: set[str]) -> bool:
    """Whether an expression saves a table, or makes use of one that was saved."""
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return bool(names & saved) or any(ast.unparse(node) == "report.table" for node in ast.walk(tree))


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
        assert not (printed or glued) or any(row.split(",")[0] == f"cell {cell.id}" for row, _ in shown)


def test_nbval_leaves_out_only_text_that_rests_on_clocks():
    ignored = {
        (n, cell.id) for n in NAMES for cell in code(n) if "nbval-ignore-output" in cell.metadata.get("tags", [])
    }
    assert ignored == BY_THE_CLOCK
    for name, cell in BY_THE_CLOCK:
        rows = [row for row, column in comparing.read(EXPECTED / name / "shown.json") if column == "printed"]
        assert any(row.startswith(f"cell {cell},") for row in rows)
        source = next(c.source for c in code(name) if c.id == cell)
        assert "report.record" in source, "its cases and verdict are in no record"


def test_every_rule_is_needed():
    used = {id(RULES.of(file, column)) for file, _, column, _ in values()}
    assert [rule.reason for rule in RULES.rules if id(rule) not in used] == []
