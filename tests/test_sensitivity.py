"""Tables 2 to 7: which runs they ask for, how cells are judged, and the criteria."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from outputs import output

from seplib import ntk, targets
from seplib.reproduce import claims, profiles
from seplib.studies.images import sensitivity, setups
from seplib.studies.images.fitting import fit_image

CPU = torch.device("cpu")


def test_the_paper_profile_asks_for_every_printed_cell_and_no_other():
    asked = {(c.table, c.varied, c.value, c.row) for c in sensitivity.cells(profiles.get("paper").image_sensitivity)}
    printed = {
        (row.table, row.varied, row.value, row.method)
        for row in claims._printed().itertuples()
        if row.table in {f"table-{i}" for i in range(2, 8)}
    }
    assert asked == printed


def test_a_cell_changes_what_its_table_says_and_nothing_else():
    study = profiles.get("paper").image_sensitivity
    field = {"table-2": {"k", "g"}, "table-3": {"rank", "k"}, "table-4": {"update_every"}, "table-6": {"width"}}
    field |= {"table-5": {"activation", "parametrization", "features", "frequency"}, "table-7": set()}
    for cell in sensitivity.cells(study):
        before, after = (dataclasses.asdict(s) for s in (study.run, cell.settings))
        assert {name for name in before if before[name] != after[name]} <= field[cell.table]
        assert bool(cell.noise) == (cell.table == "table-7")


def test_noise_is_the_same_draw_at_every_deviation():
    values = torch.rand(3, 64, 64)
    little, much = (targets.noisy(values, s, 3) - values for s in (0.01, 0.05))
    assert torch.allclose(5 * little, much) and little.std() == pytest.approx(0.01, rel=0.05)
    assert targets.noisy(values, 0.0, 3) is values


def test_cells_of_a_study_share_runs_and_noise_is_judged_by_the_clean_image(monkeypatch):
    small = profiles.get("smoke").image_sensitivity
    run = dataclasses.replace(small.run, size=12, rank=4, width=6, k=2, iterations=2)
    study = dataclasses.replace(
        small, run=run, ks=(2, 3), ranks=(3,), periods=(1,), widths=(5,), noises=(0.3,), features=2
    )
    calls, fit_image = [], sensitivity.fit_image
    monkeypatch.setattr(sensitivity, "fit_image", lambda *args, **kw: calls.append(args) or fit_image(*args, **kw))
    values = torch.rand(3, 12, 12, dtype=torch.float32)
    frame = sensitivity.run_cells(values, study, 0, CPU)
    plain = frame[frame.row == "SepNN"]
    assert plain[plain.table.isin(["table-2", "table-4"])].PSNR.nunique() == 1
    distinct = {(c.method, c.settings, c.noise) for c in sensitivity.cells(study)}
    assert len(calls) == len(distinct) + 2 < len(frame)  # a second seed for the two cells with nothing varied
    head = [fit_image(values, "SepNN", run, seed, CPU).psnr[-1] for seed in (0, 1)]
    assert plain.PSNR.iloc[0] == pytest.approx(sum(head) / 2)
    assert plain.spread.iloc[0] == pytest.approx(abs(head[0] - head[1]) / 2**0.5)
    assert frame[frame.table == "table-7"].spread.isna().all()
    noisy = frame[frame.table == "table-7"].iloc[0]
    fitted = output(targets.noisy(values, 0.3, 0), "SepNN", run, 0)
    judged = -10 * ((fitted - values).double().square().mean()).log10().item()
    assert abs(noisy.PSNR - judged) < 1e-4


def test_relu_is_tried_with_fewer_modulated_eigenvalues():
    small = profiles.get("smoke").image_sensitivity
    run = dataclasses.replace(small.run, size=12, rank=4, width=6, k=3, iterations=5)
    values = torch.rand(3, 12, 12, dtype=torch.float32)
    study = dataclasses.replace(small, run=run, relu_ks=(1, 3), ks=(2,))
    table = sensitivity.rectified(values, study, 0, CPU).set_index(["activation", "k"])
    assert list(table.index) == [("relu", 1), ("relu", 3), ("sin", 2)]
    settings = dataclasses.replace(run, activation="relu", parametrization="torch")
    for name, k, own in (("relu", 1, settings), ("relu", 3, settings), ("sin", 2, run)):
        plain = fit_image(values, "SepNN", own, 0, CPU).psnr
        psnr = fit_image(values, "SepPGD", dataclasses.replace(own, k=k), 0, CPU).psnr
        row = table.loc[(name, k)]
        assert psnr[-1] == row.PSNR and row.best == psnr.max()
        assert row.gain == psnr[-1] - plain[-1] and row["best gain"] == psnr.max() - plain.max()
    assert table.ratio["relu", 1] == pytest.approx(1)
    arguments = setups.run_arguments(values, "SepNN", settings, 0, CPU)
    model, axes, _, _ = setups.prepare(
        values, arguments["network"], arguments["descent"], arguments.get("modulation"), 0
    )
    kernels = [ntk.pseudo(f, x)[c].double().numpy() for f, x in zip(model.factors, axes) for c in range(3)]
    falling = [np.linalg.svd(K, compute_uv=False) for K in kernels]
    assert table.ratio["relu", 3] == pytest.approx(np.mean([s[0] / s[2] for s in falling]), rel=1e-4)


def table(name: str, rows: list[tuple]) -> pd.DataFrame:
    varied = {"table-2": "k", "table-3": "k", "table-4": "iterations between preconditioner updates"}
    frame = pd.DataFrame(rows, columns=["value", "row", "PSNR", "paper"])
    other = {"table-5": "activation", "table-7": "noise standard deviation"}
    best = frame.PSNR + 0.5 + (frame.row != "SepNN")  # all runs lose something at the end, the preconditioned ones more
    return frame.assign(table=name, varied=(varied | other)[name], spread=np.nan, **{"best PSNR": best})


def test_gains_are_over_the_plain_network_of_the_same_column():
    found = sensitivity.gains(
        table(
            "table-3",
            [("30", "SepNN", 20, 25), ("30", "SepPGD", 24, 26), ("40", "SepNN", 21, 25), ("40", "SepPGD", 20, 28)],
        )
    )
    assert found.ours.tolist() == [4, -1] and found.paper.tolist() == [1, 3] and found.difference.tolist() == [3, -4]
    assert found.best.tolist() == [5, 0]


def test_every_cell_has_its_own_verdict():
    rows = [("30", "SepNN", 20, 25), ("30", "SepPGD", 24, 26), ("40", "SepNN", 21, 25), ("40", "SepPGD", 20, 28)]
    rows += [
        ("50", "SepNN", 20, 25),
        ("50", "SepPGD", 22, 26),
        ("60", "SepNN", 20, 25),
        ("60", "SepPGD", 21, float("nan")),
    ]
    found = sensitivity.compare(table("table-3", rows).assign(spread=0.1))
    assert found.verdict.tolist() == ["", "sign", "", "neither", "", "sign and size", "", ""]
    assert found.difference.tolist()[:4] == [-5, -2, -4, -8] and found.gain.tolist()[1::2] == [4, -1, 2, 1]


def test_the_summary_counts_and_bounds_the_gains_of_each_row():
    rows = [("30", "SepNN", 20, 25), ("30", "SepPGD g1", 24, 26), ("30", "SepPGD g2", 19, 27)]
    rows += [("40", "SepNN", 20, 25), ("40", "SepPGD g1", 22, 26), ("40", "SepPGD g2", 21, 28)]
    frame = pd.concat(
        [
            table("table-2", rows),
            table("table-3", [("30", "SepNN", 20, 25), ("30", "SepPGD", 24, 26)]),
            table("table-3", [("30", "SepNN", 20, 25), ("30", "SepPGD", 19, 26)]).assign(varied="rank R"),
        ]
    ).assign(spread=0.1)
    g1, g2, other, rank = sensitivity.summary(sensitivity.compare(frame), sensitivity.gains(frame)).to_dict("records")
    assert (g1["row"], g1["cells"], g1["sign and size"], g1["sign"], g1["neither"]) == ("SepPGD g1", 2, 1, 1, 0)
    assert (g2["sign and size"], g2["sign"], g2["neither"]) == (0, 1, 1)
    assert (g1["least"], g1["largest"], g1["best least"], g1["best largest"]) == (2, 4, 3, 5)
    assert (g2["least"], g2["paper least"], g2["paper largest"]) == (-1, 2, 3)
    assert (other["table"], other["varied"], other["cells"], other["sign"], other["neither"]) == (
        "table-3",
        "k",
        1,
        1,
        0,
    )
    assert (rank["varied"], rank["cells"], rank["sign"], rank["neither"]) == ("rank R", 1, 0, 1)


def test_totals_count_a_run_once():
    rows = [("30", "SepNN", 20, 25), ("30", "SepPGD", 24, 26), ("40", "SepNN", 20, 25), ("40", "SepPGD", 21.2, 26)]
    frame = table("table-3", rows).assign(spread=0.1)
    frame["best PSNR"] = [20, 24.4, 20, 21.8]
    apart = sensitivity.totals(frame.assign(run=[0, 1, 2, 3]), sensitivity.compare(frame))
    assert apart == {"runs": 4, "fallen": 1, "gains": 2, "sign": 2, "size": 1}
    shared = sensitivity.totals(frame.assign(run=[0, 1, 0, 1]), sensitivity.compare(frame))
    assert shared == {"runs": 2, "fallen": 0, "gains": 1, "sign": 1, "size": 0}


def test_criteria_of_table_2():
    rows = [("60", "SepNN", 25, 26), ("60", "SepPGD g1", 31, 33), ("60", "SepPGD g2", 30, 30)]
    assert all(sensitivity.cases("table-2", table("table-2", rows)).values())
    rows[1] = ("60", "SepPGD g1", 29, 33)
    held = sensitivity.cases("table-2", table("table-2", rows))
    assert not held["k = 60: g1 above g2"] and not held["gains differ by at most 1.5 dB on average"]
    assert held["SepPGD g1, k 60: gain of the paper's sign"]


def test_the_spread_of_the_cells_with_several_seeds_stands_for_all():
    rows = [("30", "SepNN", 25, 26), ("30", "SepPGD", 30, 30), ("40", "SepNN", 25, 26), ("40", "SepPGD", 32.45, 32)]
    frame = table("table-3", rows)
    frame["spread"] = [0.3, np.nan, 0.3, 0.4]  # of a gain: 0.5
    cases = sensitivity.cases("table-3", frame)
    mean = cases["gains differ by at most 1.5 dB on average"]
    assert mean.value == pytest.approx((1 + 1.45) / 2) and mean.spread == pytest.approx(0.5 / 2**0.5)
    assert mean.within_spread and not cases["SepPGD, k 30: gain of the paper's sign"].within_spread
    assert all(case.spread == pytest.approx(0.5) for name, case in cases.items() if "sign" in name)
    assert sensitivity.cases("table-3", table("table-3", rows))["SepPGD, k 30: gain of the paper's sign"].spread is None


def test_criteria_of_table_4():
    rows = [
        (p, row, psnr, psnr)
        for p, ours in (("10", 30.0), ("100", 29.5))
        for row, psnr in (("SepNN", 25), ("SepPGD", ours))
    ]
    assert all(sensitivity.cases("table-4", table("table-4", rows)).values())
    rows[3] = ("100", "SepPGD", 28.9, 28.9)
    held = sensitivity.cases("table-4", table("table-4", rows))
    assert not held["spread over the periods at most 1 dB"] and not held["period 100: gain at least 4 dB"]


def test_criteria_of_table_5():
    rows = [
        ("sin", "SepNN", 26, 26),
        ("sin", "SepPGD", 31, 33),
        ("relu", "SepNN", 18, 18.2),
        ("relu", "SepPGD", 19, 20),
    ]
    assert all(sensitivity.cases("table-5", table("table-5", rows)).values())
    rows[2], rows[3] = ("relu", "SepNN", 27, 18.2), ("relu", "SepPGD", 26, 20)
    held = sensitivity.cases("table-5", table("table-5", rows))
    assert not held["SepNN: order of the activations"] and held["SepPGD: order of the activations"]
    assert not held["SepPGD, activation relu: gain of the paper's sign"]


def test_a_loss_in_the_paper_must_be_a_loss_here():
    rows = [("0.09", "SepNN", 25, 25.29), ("0.09", "SepPGD", 24, 25.06)]
    assert all(sensitivity.cases("table-7", table("table-7", rows)).values())
    rows[1] = ("0.09", "SepPGD", 26, 25.06)
    assert not any(sensitivity.cases("table-7", table("table-7", rows)).values())
