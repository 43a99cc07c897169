"""Two results folders side by side: what is a difference, what is not, and one clear line for each."""

import json
import shutil
from pathlib import Path

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seplib.reproduce import comparing
from seplib.reproduce.comparing import Rule, Rules

EVERYTHING = Rule("the default", relative=1e-3)
RULES = Rules((EVERYTHING,))
CLAIM = {
    "id": "thm-1", "measured": {"error": 0.5, "text": "never"}, "spread": None, "verdict": "partly", "seed": 0,
    "cases": {"a": True, "b": False}, "seconds": 1.0, "threads": 1, "commit": "abc", "versions": {}, "device": "cpu",
}  # fmt: skip


def glued(name: str, text: str):
    data = {comparing.GLUED: text}
    return nbformat.v4.new_output("display_data", data=data, metadata={"scrapbook": {"name": name}})


def make(root: Path) -> Path:
    """A results folder with one of everything."""
    folder = root / "found"
    (folder / "one").mkdir(parents=True)
    (folder / "one" / "table.csv").write_text("name,PSNR,seconds\nSepNN,25.5,0.1\nSepPGD,31,0.2\n")
    (folder / "one" / "record.json").write_text(
        json.dumps({"provenance": {"commit": "abc"}, "seed": 0, "claims": [CLAIM]})
    )
    (folder / "one" / "picture.jpg").write_bytes(b"\xff\xd8")
    (folder / "claims.json").write_text(json.dumps([CLAIM]))
    cell = nbformat.v4.new_code_cell("show()", id="7")
    table = nbformat.v4.new_output(
        "execute_result", data={"text/html": "<table>", "text/plain": "0.1"}, execution_count=1
    )
    cell.outputs = [
        nbformat.v4.new_output("stream", name="stdout", text="held: True\n12 of 18 at 1.5e-03\n"),
        glued("gain", "np.float64(5.5)"), glued("rate", "'2.0e-3'"), glued("image", "'plane'"), table,
    ]  # fmt: skip
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), folder / "one.ipynb")
    return folder


@pytest.fixture
def folders(tmp_path):
    """An expected folder and a found one that agrees with it."""
    found = make(tmp_path)
    return Path(shutil.copytree(found, tmp_path / "expected")), found


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_a_folder_agrees_with_itself_and_with_what_is_distilled_of_it(folders, tmp_path):
    expected, found = folders
    assert comparing.differences(expected, found, RULES) == []
    stale = tmp_path / "distilled" / "gone" / "table.csv"
    stale.parent.mkdir(parents=True)
    stale.write_text("a\n1\n")
    comparing.distil(found, tmp_path / "distilled")
    assert comparing.differences(tmp_path / "distilled", found, RULES) == []
    files = sorted(p.relative_to(tmp_path / "distilled").as_posix() for p in (tmp_path / "distilled").rglob("*.*"))
    assert files == ["one/record.json", "one/shown.json", "one/table.csv"]
    shown = json.loads((tmp_path / "distilled" / "one" / "shown.json").read_text())
    assert shown == {
        "7": {
            "printed": ["held: True", "12 of 18 at 1.5e-03"],
            "glued": {"gain": 5.5, "rate": "2.0e-3", "image": "plane"},
        }
    }


CHANGES = {
    "number": ("one/table.csv", "25.5", "26.5", "one/table.csv, row 1, PSNR: expected 25.5, found 26.5; allowed 0.0255"),
    "text": ("one/table.csv", "SepNN", "SepNn", "one/table.csv, row 1, name: expected 'SepNN', found 'SepNn'; texts must agree"),
    "not a number": ("one/table.csv", "25.5", "nan", "one/table.csv, row 1, PSNR: expected 25.5, found nan; allowed 0.0255"),
    "no number": ("one/table.csv", "25.5", "", "one/table.csv, row 1, PSNR: expected 25.5, found ''; a number and a text"),
    "infinite": ("one/table.csv", "25.5", "inf", "one/table.csv, row 1, PSNR: expected 25.5, found inf; allowed 0.0255"),
    "verdict": ("one/record.json", "partly", "reproduced", "one/record.json, thm-1, verdict: expected 'partly', found 'reproduced'; texts"),
    "case": ("one/record.json", "true", "false", "one/record.json, thm-1, case: a: expected 'True', found 'False'; texts must agree"),
    "measured": ("one/record.json", "0.5", "0.6", "one/record.json, thm-1, measured: error: expected 0.5, found 0.6; allowed 0.0005"),
    "collected": ("claims.json", "never", "always", "claims.json, thm-1, measured: text: expected 'never', found 'always'; texts"),
    "glued": ("one.ipynb", "5.5", "5.6", "one.ipynb, cell 7, gain: expected 5.5, found 5.6; allowed 0.0055"),
    "glued text": ("one.ipynb", "'2.0e-3'", "'2.1e-3'", "one.ipynb, cell 7, rate: expected '2.0e-3', found '2.1e-3'; numbers in it: allowed 2e-06"),
    "printed": ("one.ipynb", "12 of 18", "13 of 18", "one.ipynb, line 2, printed by cell 7: expected '12 of 18 at 1.5e-03', found '13 of 18 at 1.5e-03'"),
    "boolean": ("one.ipynb", "held: True", "held: False", "one.ipynb, line 1, printed by cell 7: expected 'held: True', found 'held: False'; texts"),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_wrong_value_is_one_line_with_file_row_column_both_values_and_tolerance(folders, change):
    expected, found = folders
    file, old, new, line = CHANGES[change]
    edit(found / file, old, new)
    (told,) = comparing.differences(expected, found, RULES)
    assert told.startswith(line)


def test_what_tells_of_one_machine_only_may_differ(folders):
    expected, found = folders
    for file in ("one/record.json", "claims.json"):
        for old, new in {
            '"seconds": 1.0': '"seconds": 9',
            '"threads": 1': '"threads": 8',
            "abc": "def",
            "cpu": "cuda",
        }.items():
            edit(found / file, old, new)
    (found / "one" / "picture.jpg").unlink()
    edit(found / "one.ipynb", '"<table>"', '"<table><tr>"')  # a table is compared as its CSV
    assert comparing.differences(expected, found, RULES) == []


def test_files_rows_and_columns_that_one_side_lacks_are_lines(folders):
    expected, found = folders
    shutil.copy(found / "one" / "table.csv", found / "one" / "more.csv")
    shutil.move(found / "one.ipynb", found / "two.ipynb")
    (found / "one" / "table.csv").write_text("name,SSIM,seconds\nSepNN,25.5,0.1\n")
    assert comparing.differences(expected, found, RULES) == [
        "one.ipynb: missing",
        "one/more.csv: not expected",
        "one/table.csv, header, column 2: expected 'PSNR', found 'SSIM'; texts must agree",
        "one/table.csv, row 1, PSNR: missing",
        "one/table.csv, row 2, name: missing",
        "one/table.csv, row 2, PSNR: missing",
        "one/table.csv, row 2, seconds: missing",
        "one/table.csv, row 1, SSIM: not expected",
        "two.ipynb: not expected",
    ]


@pytest.mark.parametrize("file", ["one/table.csv", "one/record.json", "one.ipynb"])
def test_a_truncated_file_is_a_line(folders, file):
    expected, found = folders
    text = (found / file).read_text()
    (found / file).write_text(text[: 2 * len(text) // 3].rstrip("\n"))
    told = comparing.differences(expected, found, RULES)
    assert told and all(line.startswith(file) for line in told)


def test_a_missing_folder_is_named(folders):
    with pytest.raises(ValueError, match=r"there is no results folder .*nowhere"):
        comparing.differences(folders[0], folders[1] / "nowhere", RULES)


def test_a_clock_must_be_there_and_finite_and_is_compared_where_it_is_stored(folders, tmp_path):
    expected, found = folders
    path = tmp_path / "rules.toml"
    path.write_text(
        '[[rule]]\nreason = "all"\nrelative = 1e-3\n'
        '[[rule]]\nreason = "a clock"\nfile = "*.csv"\ncolumns = ["seconds"]\nclock = true\n'
    )
    edit(found / "one" / "table.csv", "0.1", "7")
    assert comparing.differences(expected, found, Rules.read(path)) == []
    (stored,) = comparing.differences(expected, found, Rules.read(path, clocks=True))
    assert stored == "one/table.csv, row 1, seconds: expected 0.1, found 7; allowed 0.0001"
    for wrong in ("inf", "nan", ""):
        (found / "one" / "table.csv").write_text(f"name,PSNR,seconds\nSepNN,25.5,{wrong}\nSepPGD,31,0.2\n")
        (told,) = comparing.differences(expected, found, Rules.read(path))
        assert told.endswith("a clock must be there and finite")


@pytest.mark.parametrize("found", ["1e-3", "inf", "nan", "-inf", ""])
def test_a_time_of_what_never_happened_is_infinite(found):
    rule = Rule("a clock", clock=True, never=True)
    share, _ = comparing._share(0.5, comparing.number(found), rule)
    assert (share == 0) == (found in ("1e-3", "inf"))


def test_the_last_rule_that_fits_holds():
    narrow = Rule("narrow", file="one/*.csv", columns=("PSNR", "best *"), absolute=0.5)
    rules = Rules((EVERYTHING, narrow))
    assert rules.of("one/table.csv", "best PSNR") is rules.of("one/table.csv", "PSNR") is narrow
    assert rules.of("one/table.csv", "MSE") is rules.of("two/table.csv", "PSNR") is EVERYTHING


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the first rule must give the tolerance for everything"),
        ('[[rule]]\nreason = "a"\nfile = "x"', "the first rule must give the tolerance for everything"),
        ("[[rule]]\nrelative = 1", "rule 1 states no reason"),
        ('[[rule]]\nreason = "a"\nrelativ = 1', "rule 1 has 'relativ'; a rule has reason, file, columns, relative, absolute, clock, never"),
        ('[[rule]]\nreason = "a"\nabsolute = -1', "rule 1 has a tolerance that is negative or not finite"),
        ('[[rule]]\nreason = "a"\nrelative = inf', "rule 1 has a tolerance that is negative or not finite"),
    ],
)  # fmt: skip
def test_a_wrong_rule_is_refused(tmp_path, text, message):
    (tmp_path / "rules.toml").write_text(text)
    with pytest.raises(ValueError, match=message):
        Rules.read(tmp_path / "rules.toml")


@given(st.floats(1e-6, 1e6), st.floats(0, 1e-2), st.floats(-0.02, 0.02))
def test_numbers_agree_exactly_within_the_tolerance(value, relative, change):
    rule = Rule("any", relative=relative)
    found = value * (1 + change)
    share, _ = comparing._share(value, found, rule)
    assert (share <= 1) == (abs(found - value) <= relative * abs(value))
    assert comparing._share(f"a {value:.6f} b", f"a {value:.6f} b", rule)[0] == 0
