"""An audit of a small project passes, and every way of tampering with it is one line that names the file."""

import json
import re
import shutil
from pathlib import Path

import nbformat
import pytest

from seplib import targets
from seplib.reproduce import archive, audit, claims, comparing, recipes, runner, store

SOURCES = [
    """
import pandas as pd
import torch
from myst_nb import glue
from seplib.reproduce import claims
from seplib.studies.ntk import initialization
report = claims.Report("tiny", profile=profile, device="cpu", seed=seed)
""",
    """
shape = dict(rank=2, side=3, activation="tanh", copies=4, seed=seed, device=torch.device("cpu"))
spreads = [initialization._spread(width=width, **shape) for width in (4, 8)]
table = report.table("spreads", pd.DataFrame({"width": [4, 8], "spread": spreads}))
""",
    """
verdict = report.record("thm-2", cases={"falls": spreads[1] < 10}, paper={"spread": None}, measured={"spread": spreads[0]})
glue("spread", spreads[0], display=False)
print(verdict)
""",
]
RULES = Path(__file__).parent / "expected" / "paper.toml"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project of one notebook, executed at ``paper``, its runs kept."""
    root = tmp_path_factory.mktemp("project")
    (root / "notebooks").mkdir()
    parameters = nbformat.v4.new_code_cell('profile = "smoke"\ndevice = "auto"\nseed = 0')
    parameters.metadata["tags"] = ["parameters"]
    cells = [parameters, *map(nbformat.v4.new_code_cell, (source.strip() for source in SOURCES))]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "Python 3"}
    nbformat.write(notebook, root / "notebooks" / "tiny.ipynb")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEPLIB_CACHE", str(root / "cache"))
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
        runner.execute("tiny", "paper", "cpu", threads=1, root=root)
        patch.delenv("SEPLIB_CACHE")
    results = root / "results" / "paper"
    assert store.keep(results, root / "cache") == []
    claims.save_collected(results)
    return root


@pytest.fixture
def project(made, tmp_path, monkeypatch):
    """A copy to tamper with."""
    shutil.copytree(made, tmp_path / "project", symlinks=True)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    return tmp_path / "project"


def run(root):
    lines = []
    found = audit.audit(root, jobs=1, rules=RULES, say=lines.append)
    return lines, found


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def compared(project, made):
    """What a comparison with an untouched execution finds."""
    rules = comparing.Rules.read(RULES, clocks=True)
    return audit.compare(project / "results" / "paper", made / "results" / "paper", ["tiny"], rules)


def test_an_untouched_project_passes(project):
    lines, found = run(project)
    assert lines == ["tiny: executed"] and found == audit.Audit([], ["tiny"], {})


def test_what_is_committed_names_its_runs(project):
    results = project / "results" / "paper"
    record = json.loads((results / "tiny" / "record.json").read_text())
    assert len(record["runs"]) == 2 == len(list((results / "runs").iterdir()))
    for used in record["runs"]:
        provenance = store.check(results / "runs" / used["run"]).provenance
        assert {key: provenance[key] for key in ("commit", "device", "threads", "seconds")} == {
            key: used[key] for key in ("commit", "device", "threads", "seconds")
        }


def test_a_missing_run_stops_its_notebook_and_trains_nothing(project):
    results = project / "results" / "paper"
    first = sorted((results / "runs").iterdir())[0]
    first.unlink()
    lines, found = run(project)
    assert lines == ["tiny: failed"] and not found.checked
    assert found.findings[0] == f"{first} is missing; {results / 'tiny' / 'record.json'} rests on it"
    assert f"MissingRun: {results / 'runs'} holds no run {first.name}: kind kernel spread" in found.findings[1]
    assert not first.exists()


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("tiny/spreads.csv", r"paper/tiny/spreads\.csv, row 1, spread: expected \S+, found \S+; allowed \S+"),
        ("tiny.ipynb", r"paper/tiny\.ipynb, cell \w+, spread: expected \S+, found \S+; allowed \S+"),
        ("tiny/record.json", r"paper/tiny/record\.json, thm-2, measured: spread: expected \S+, found \S+; allowed \S+"),
    ],
)
def test_an_edited_digit_is_found(file, line, project, made):
    path = project / "results" / "paper" / file
    record = json.loads((project / "results" / "paper" / "tiny" / "record.json").read_text())
    digits = f"{record['claims'][0]['measured']['spread']:.3g}"
    changed = digits[:-1] + str((int(digits[-1]) + 1) % 10)
    edit(path, digits, changed)
    (found,) = compared(project, made)
    assert re.fullmatch(line, found), found


def test_a_changed_verdict_is_found_in_the_record_and_in_the_list_of_claims(project, made):
    results = project / "results" / "paper"
    edit(results / "tiny" / "record.json", '"verdict": "reproduced"', '"verdict": "partly"')
    assert compared(project, made) == [
        "paper/tiny/record.json, thm-2, verdict: expected 'partly', found 'reproduced'; texts must agree"
    ]
    assert audit.check_claims(results) == [
        f"{results / 'claims.json'}, thm-2, verdict: 'reproduced', but its record says 'partly'"
    ]


@pytest.mark.parametrize("change", ["verdict", "measured"])
def test_an_edited_list_of_claims_is_found(change, project):
    path = project / "results" / "paper" / "claims.json"
    entries = json.loads(path.read_text())
    (entry,) = (entry for entry in entries if entry["id"] == "thm-2")
    entry[change] = "partly" if change == "verdict" else {"spread": 1.0}
    path.write_text(json.dumps(entries))
    (found,) = audit.check_claims(path.parent)
    assert found.startswith(f"{path}, thm-2, {change}: {entry[change]!r}, but its record says")


def test_a_lost_entry_of_the_list_of_claims_is_found(project):
    path = project / "results" / "paper" / "claims.json"
    path.write_text(json.dumps([entry for entry in json.loads(path.read_text()) if entry["id"] != "lem-1"]))
    found = audit.check_claims(path.parent)
    assert f"{path}, lem-1, verdict: None, but its record says 'not run'" in found


def test_missing_and_added_tables_are_found(project, made):
    (project / "results" / "paper" / "tiny" / "spreads.csv").unlink()
    (project / "results" / "paper" / "tiny" / "more.csv").write_text("a\n1\n")
    assert compared(project, made) == ["paper/tiny/more.csv: missing", "paper/tiny/spreads.csv: not expected"]


def test_damaged_foreign_and_unused_runs_are_found(project, monkeypatch):
    results = project / "results" / "paper"
    first, second = sorted((results / "runs").iterdir())
    data = first.read_bytes()
    first.write_bytes(data[:100])
    (results / "runs" / "notes.txt").write_text("hello")
    shutil.copy(second, results / "runs" / "copy.npz")
    assert audit.check_store(results) == [
        f"{results / 'runs' / 'copy.npz'} is named by no record; nothing rests on it",
        f"{first} is damaged: its 100 bytes do not match their own checksum",
        f"{results / 'runs' / 'notes.txt'} is named by no record; nothing rests on it",
    ]
    first.write_bytes(second.read_bytes())
    assert f"{first} holds another run, {second.name}" in audit.check_store(results)


def test_runs_of_other_numerics_are_found(project, monkeypatch):
    results = project / "results" / "paper"
    audit.load_kinds()
    monkeypatch.setitem(vars(store.KINDS["kernel spread"]), "numerics", 7)
    found = audit.check_store(results)
    assert len(found) == 2 and all(
        "a kernel spread run of numerics 1, but the library's are 7" in line for line in found
    )


def test_a_record_with_another_provenance_than_its_run_is_found(project):
    results = project / "results" / "paper"
    path = results / "tiny" / "record.json"
    record = json.loads(path.read_text())
    record["runs"][0]["commit"] = "0123456789"
    path.write_text(json.dumps(record))
    (found,) = audit.check_store(results)
    assert found.startswith(f"{path} says commit '0123456789' of {record['runs'][0]['run']}, which says")


def test_what_waits_is_said_and_nothing_else_waits(project):
    results = project / "results" / "paper"
    waiting = results / audit.WAITING
    waiting.write_text("tiny\nother\n")
    assert audit.check_store(results) == [
        f"{results / 'tiny' / 'record.json'} names its runs, but is in {waiting}",
        f"{waiting} names other, which has no results",
    ]
    record = json.loads((results / "tiny" / "record.json").read_text())
    del record["runs"]
    (results / "tiny" / "record.json").write_text(json.dumps(record))
    waiting.unlink()
    assert f"{results / 'tiny' / 'record.json'} names no runs, but is not in {waiting}" in audit.check_store(results)
    for path in (results / "runs").iterdir():
        path.unlink()
    waiting.write_text("tiny\n")
    lines, found = run(project)
    assert lines == [] and found == audit.Audit([], [], {"tiny": "its runs are not stored yet"})


def test_a_drawn_run_computed_anew_agrees_and_a_changed_one_does_not(project):
    results = project / "results" / "paper"
    lines = list(audit.replays(results, 5, seed=0))
    assert len(lines) == 2 and all(agrees for _, agrees in lines)
    first = sorted((results / "runs").iterdir())[0]
    whole = archive.read(first)
    archive.write(first, archive.StoredRun(whole.description, whole.result * 1.01, whole.provenance))
    lines = dict(audit.replays(results, 5, seed=1))
    assert sorted(lines.values()) == [False, True]
    assert any(line.startswith(f"{first.name}: 9.9e-03 from commit") and "allowed 1e-06" in line for line in lines)


def test_runs_whose_data_are_not_at_hand_are_named(monkeypatch, tmp_path):
    recipe = {"make": "image", "name": "astronaut", "size": 24, "sha256": "0" * 64}
    wanted = {"arguments": {"target": {"make": "truncated", "rank": 3, "values": recipe}}}
    assert "the image 'astronaut' at hand is not the one" in audit.missing_data(wanted)
    wanted["arguments"]["target"]["values"] = recipes.of(targets.image("astronaut", 24).values)
    assert audit.missing_data(wanted) == ""


def test_runs_are_kept_and_those_of_yesterday_removed(project):
    results, cache = project / "results" / "paper", project / "cache"
    first, second = sorted((results / "runs").iterdir())
    first.unlink()
    (results / "runs" / "old.npz").write_bytes(b"")
    assert store.keep(results, cache) == []
    assert sorted((results / "runs").iterdir()) == [first, second]
    first.unlink()
    (cache / first.name).unlink()
    assert store.keep(results, cache) == [first.name]
