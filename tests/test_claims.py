import csv
import json
from importlib.resources import files

import pandas as pd
import pytest

from seplib import claims


@pytest.fixture
def report(tmp_path, monkeypatch):
    monkeypatch.setenv("SEPLIB_RESULTS", str(tmp_path / "demo"))
    return claims.Report("demo", profile="smoke", device="cpu", seed=7)


def test_the_claim_list_is_the_file_row_by_row():
    with (files("seplib") / "claims.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(claims.claims()) == 34
    assert claims.as_rows() == rows


def test_printed_numbers_are_unambiguous():
    assert claims.printed("table-6", "SepPGD", "700") == 34.35
    with pytest.raises(KeyError, match=r"0 numbers in table-6 for method 'SepPGD', value '701'"):
        claims.printed("table-6", "SepPGD", "701")


def test_a_number_that_is_printed_twice_is_asked_for_in_vain(monkeypatch):
    twice = pd.concat(2 * [claims._printed()])
    monkeypatch.setattr(claims, "_printed", lambda: twice)
    for ask in (claims.printed, claims.printed_or_nan):
        with pytest.raises(KeyError, match="2 numbers in table-6 for method 'SepPGD', value '700'; one expected"):
            ask("table-6", "SepPGD", "700")


def test_verdicts_follow_the_cases():
    assert claims.verdict({"a": True, "b": True}) == "reproduced"
    assert claims.verdict({"a": True, "b": False}) == "partly"
    assert claims.verdict({"a": False}) == "not reproduced"
    with pytest.raises(ValueError, match="at least one case"):
        claims.verdict({})


def test_a_record_holds_all_that_a_reader_needs(report, tmp_path):
    verdict = report.record(
        "table-6", cases={"signs": True, "size": False}, paper={"W=700": 34.35}, measured={"W=700": 33.9},
        spread={"W=700": 0.2}, assumed="w0 = 30",
    )  # fmt: skip
    report.table("widths", pd.DataFrame({"W": [700], "PSNR": [33.9]}))
    report.figure("a.svg", b"<svg/>")
    assert verdict == "partly"
    record = json.loads((tmp_path / "demo" / "record.json").read_text())
    (entry,) = record["claims"]
    assert entry["id"] == "table-6" and entry["criterion"] == claims.claims()["table-6"].criterion
    assert entry["cases"] == {"signs": True, "size": False} and entry["seed"] == 7 and entry["seconds"] >= 0
    assert {"torch", "python", "seplib"} <= set(entry["versions"]) and entry["device"].startswith("cpu")
    assert (tmp_path / "demo" / "widths.csv").read_text() == "W,PSNR\n700,33.9\n"
    assert (tmp_path / "demo" / "a.svg").read_bytes() == b"<svg/>"


def test_collecting_gives_one_entry_a_claim(report, tmp_path):
    report.record("table-6", cases={"signs": True}, paper={}, measured={})
    path = claims.save_collected(tmp_path)
    entries = json.loads(path.read_text())
    assert [entry["id"] for entry in entries] == list(claims.claims())
    verdicts = claims.load(path)
    assert verdicts["table-6"]["verdict"] == "reproduced" and verdicts["lem-1"]["verdict"] == "not run"
    assert set(verdicts["lem-1"]) == set(verdicts["table-6"])
    assert claims.load(tmp_path / "none.json") == {}


def test_two_notebooks_cannot_claim_the_same(report, tmp_path, monkeypatch):
    report.record("table-6", cases={"signs": True}, paper={}, measured={})
    monkeypatch.setenv("SEPLIB_RESULTS", str(tmp_path / "other"))
    other = claims.Report("other", profile="smoke", device="cpu", seed=0)
    other.record("table-6", cases={"signs": True}, paper={}, measured={})
    with pytest.raises(ValueError, match="claim table-6 is recorded by demo and other"):
        claims.collect(tmp_path)


def test_bad_records_are_refused(report):
    with pytest.raises(KeyError, match="no claim 'thm-9'; the claims are thm-1-cp"):
        report.record("thm-9", cases={"a": True}, paper={}, measured={})
    with pytest.raises(ValueError, match="the measured gain is nan, not a finite number"):
        report.record("table-6", cases={"a": True}, paper={}, measured={"gain": float("nan")})


def test_without_a_results_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    claims.Report("demo", profile="smoke", device="cpu", seed=0).table("t", pd.DataFrame({"a": [1]}))
    assert not list(tmp_path.iterdir())
