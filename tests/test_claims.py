import csv
import json
import math
import operator
from importlib.resources import files

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seplib.reproduce import claims, criteria


@pytest.fixture
def report(tmp_path, monkeypatch):
    monkeypatch.setenv("SEPLIB_RESULTS", str(tmp_path / "demo"))
    return claims.Report("demo", profile="smoke", device="cpu", seed=7)


def test_the_claim_list_is_the_file_row_by_row():
    with (files("seplib.reproduce") / "claims.csv").open() as stream:
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
    assert criteria.verdict({"a": True, "b": True}) == "reproduced"
    assert criteria.verdict({"a": True, "b": False}) == "partly"
    assert criteria.verdict({"a": False}) == "not reproduced"
    with pytest.raises(ValueError, match="at least one case"):
        criteria.verdict({})


# --- cases that know their distance ----------------------------------------------------------------------------------

RELATIONS = [
    (criteria.at_most, operator.le, -1),
    (criteria.below, operator.lt, -1),
    (criteria.at_least, operator.ge, 1),
    (criteria.above, operator.gt, 1),
]
# A few numbers of each size, so that equal ones are drawn too.
numbers = st.one_of(st.integers(-3, 3).map(float), st.floats(-1e6, 1e6, width=32))
scales = st.floats(1e-3, 1e3)


@pytest.mark.parametrize(("compare", "relation", "side"), RELATIONS, ids=[r[0].__name__ for r in RELATIONS])
@given(value=numbers, bound=numbers, scale=scales)
def test_a_case_is_true_where_its_relation_holds_and_its_distance_has_that_sign(
    compare, relation, side, value, bound, scale
):
    case = compare(value, bound, scale)
    assert bool(case) is relation(value, bound) and str(case) == str(relation(value, bound))
    assert (case.value, case.bound) == (value, bound)
    assert np.sign(case.distance) == side * np.sign(value - bound)
    assert bound + side * case.distance * scale == pytest.approx(value, rel=1e-9, abs=1e-9)
    if value == bound:
        assert case.distance == 0 and bool(case) is (relation in (operator.le, operator.ge))


@pytest.mark.parametrize(("compare", "side"), [(r[0], r[2]) for r in RELATIONS], ids=[r[0].__name__ for r in RELATIONS])
@given(value=numbers, bound=st.floats(1e-3, 1e3), unit=st.floats(1e-3, 1e3), sign=st.sampled_from([-1, 1]))
def test_a_distance_is_relative_to_the_threshold(compare, side, value, bound, unit, sign):
    """It does not depend on the unit, and a change by more than this share of the threshold turns the case, a smaller does not."""
    bound *= sign
    case = compare(value, bound)
    assert case.scale == abs(bound)
    assert compare(unit * value, unit * bound).distance == pytest.approx(case.distance, rel=1e-9, abs=1e-9)
    if abs(case.distance) > 1e-6:
        for share, same in ((0.999, True), (1.001, False)):
            moved = value - side * share * case.distance * abs(bound)
            assert (bool(compare(moved, bound)) == bool(case)) is same


@given(st.lists(st.tuples(st.sampled_from([r[0] for r in RELATIONS]), numbers, numbers), min_size=1, max_size=4))
def test_all_hold_exactly_if_the_nearest_to_failing_does(parts):
    cases = [compare(value, bound, 1) for compare, value, bound in parts]
    whole = criteria.all_of(*cases)
    assert bool(whole) is all(map(bool, cases)) and whole in cases
    assert whole.distance == min(case.distance for case in cases)


def test_of_two_cases_on_their_threshold_the_strict_one_decides():
    on = [criteria.at_most(1, 1), criteria.below(1, 1)]
    assert not criteria.all_of(*on) and not criteria.all_of(*on[::-1])


@given(numbers, numbers, st.floats(0, 10))
def test_between_is_judged_by_the_nearer_end(value, low, width):
    case = criteria.between(value, low, low + width, scale=1)
    assert bool(case) is (low <= value <= low + width)
    assert case.distance == min(value - low, low + width - value)


@given(numbers, numbers, st.floats(1e-3, 1e3))
def test_a_case_within_one_spread_of_its_threshold_says_so(value, bound, spread):
    case = criteria.at_most(value, bound, scale=1, spread=spread)
    assert case.within_spread is (abs(value - bound) < spread)
    assert ("note" in case.margin()) is case.within_spread
    assert case.margin()["spread"] == spread
    for unknown in (None, math.nan):
        assert not criteria.at_most(value, bound, scale=1, spread=unknown).within_spread


@given(st.dictionaries(st.text(max_size=3), st.tuples(numbers, numbers), min_size=1, max_size=4))
def test_comparisons_give_the_verdict_of_the_bools_they_stand_for(pairs):
    cases = {name: criteria.above(*pair, scale=1) for name, pair in pairs.items()}
    bools = {name: a > b for name, (a, b) in pairs.items()}
    assert criteria.held(cases) == bools and criteria.verdict(cases) == criteria.verdict(bools)


def test_a_timed_case_says_so_and_stays_what_it_was():
    case = criteria.at_most(0.75, 0.8, spread=0.1)
    timed = criteria.timed(case)
    assert timed.timed and not case.timed and (bool(timed), timed.distance) == (bool(case), case.distance)
    assert timed.margin()["note"] == "within one spread of its threshold, in seconds of one machine"
    assert criteria.timed(criteria.at_most(0.75, 0.8)).margin()["note"] == "in seconds of one machine"


def test_cases_that_move_as_far_as_their_threshold_are_named(tmp_path, monkeypatch):
    values = {
        "fixed": (1.0, 1.0),
        "firm": (0.5, 0.6),
        "turned": (0.999, 1.002),
        "near": (0.99, 0.98),
        "clock": (0.9, 1.1),
    }
    for run in (0, 1):
        monkeypatch.setenv("SEPLIB_RESULTS", str(tmp_path / str(run) / "demo"))
        report = claims.Report("demo", profile="smoke", device="cpu", seed=0)
        cases = {name: criteria.at_most(pair[run], 1) for name, pair in values.items()}
        cases["clock"] = criteria.timed(cases["clock"])
        report.record("table-6", cases=cases | {"bare": True}, paper={}, measured={})
        report.check({"floor": criteria.above(1 + 1e-9 * (-1) ** run, 1)})
    assert claims.undecided([tmp_path / "0", tmp_path / "1"]) == [
        "table-6, turned: distance 0.001 from its threshold, but it moves by 0.003",
        "table-6, near: distance 0.01 from its threshold, but it moves by 0.01",
        "demo, floor: distance 1e-09 from its threshold, but it moves by 2e-09",
    ]
    assert claims.undecided([tmp_path / "0"]) == []


def test_decibels_make_a_distance_relative():
    """A gain of 0.1 dB turns once the mean squared error changes by its share of 2.3%."""
    gain = criteria.above(0.1, 0, criteria.DECIBELS)
    assert gain.distance == pytest.approx(math.log(10**0.01))


def test_comparisons_that_mean_nothing_are_refused():
    with pytest.raises(ValueError, match=r"0\.5 >= 0: a distance to 0 is not relative to it, give a scale"):
        criteria.at_least(0.5, 0)
    with pytest.raises(ValueError, match=r"a comparison needs two numbers, got Comparison\(value=nan, relation='<'"):
        criteria.below(math.nan, 1)
    for scale in (0, -1.0, math.nan):
        with pytest.raises(ValueError, match=rf"a distance needs a positive scale, got .*scale={scale:.1f}"):
            criteria.below(1, 2, scale)
    with pytest.raises(ValueError, match="all_of needs at least one comparison"):
        criteria.all_of()


def test_a_goal_never_reached_is_recorded_without_numbers(report, tmp_path):
    report.record("fig-4", cases={"time": criteria.at_most(math.inf, 0.8)}, paper={}, measured={})
    ((entry,),) = [json.loads((tmp_path / "demo" / "record.json").read_text())["claims"]]
    assert entry["cases"] == {"time": False} and entry["verdict"] == "not reproduced"
    assert entry["margins"]["time"] == {
        "value": None, "bound": 0.8, "distance": None, "spread": None, "relation": "<=", "timed": False,
    }  # fmt: skip
    assert criteria.nearest(entry) is None


def test_a_record_keeps_the_distances_and_the_nearest_is_found(report, tmp_path):
    cases = {
        "far": criteria.above(3, 1),
        "lost": criteria.above(-9, 1),
        "near": criteria.at_most(np.float32(1.25), 1, spread=0.5),
        "bare": True,
    }
    report.record("table-6", cases=cases, paper={}, measured={})
    report.check({"floor": criteria.above(2.0, 1), "counted": False})
    record = json.loads((tmp_path / "demo" / "record.json").read_text())
    (entry,) = record["claims"]
    assert entry["cases"] == {"far": True, "lost": False, "near": False, "bare": True}
    assert set(entry["margins"]) == {"far", "lost", "near"}
    name, margin = criteria.nearest(entry)
    assert name == "near" and margin == {
        "value": 1.25, "bound": 1.0, "distance": -0.25, "spread": 0.5, "relation": "<=", "timed": False,
        "note": "within one spread of its threshold",
    }  # fmt: skip
    assert record["checks"] == {"floor": True, "counted": False} and record["margins"]["floor"]["distance"] == 1
    for old in ({"cases": {"a": True}}, {"cases": None, "margins": None}):
        assert criteria.nearest(old) is None


def test_checks_are_printed_and_shown_with_their_distances(report, capsys):
    assert "–" not in report.margins().to_string(), "nothing to show yet"
    report.check({"floor": criteria.above(2.0, 1), "counted": False})
    assert capsys.readouterr().out == "floor: True\ncounted: False\n"
    assert report.margins().to_string(delimiter="|").splitlines()[:2] == [
        "case|value|relation|bound|distance",
        "floor|2|>|1|1",
    ]
    for id, value in (("table-6", 1.5), ("table-7", 0.9)):
        report.record(id, cases={"a": criteria.at_most(value, 1)}, paper={}, measured={})
    lines = report.margins("table-6", "table-7").to_string(delimiter="|").splitlines()
    assert [line.split("|")[0] for line in lines[1:3]] == ["table-7", "table-6"], "the nearest first"
    assert "floor" not in "".join(lines)


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
