"""Images of limited rank: the target, the floor, and the study of Table 8 at a toy size."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from seplib import metrics, targets
from seplib.reproduce import claims, profiles
from seplib.reproduce.criteria import held
from seplib.studies.images import fitting, truncation


def image(size: int = 24) -> targets.ImageTarget:
    values = torch.rand(3, size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return targets.ImageTarget("noise", values.float(), "made here")


def test_truncation_is_the_best_of_its_rank_and_the_floor_says_how_good():
    values = image().values
    for rank in (1, 5, 23):
        cut = targets.truncate(values, rank)
        assert cut.dtype == values.dtype
        singular = np.linalg.svd(values.double().numpy(), compute_uv=False)
        floor = np.sqrt((singular[:, rank:] ** 2).sum() / (singular**2).sum())
        assert metrics.eckart_young(values, rank) == pytest.approx(floor, rel=1e-10)
        assert ((cut.double() - values).norm() / values.double().norm()).item() == pytest.approx(floor, rel=1e-5)
    assert metrics.eckart_young(values, 24) == 0
    for rank in (0, 25):
        with pytest.raises(ValueError, match=f"rank must be between 1 and 24, got {rank}"):
            targets.truncate(values, rank)


def test_a_study_stands_above_the_floor_and_names_its_cases():
    small = dataclasses.replace(profiles.get("smoke").image_rank.run, rank=3, width=8, k=4, iterations=3)
    settings = profiles.images.ImageRankSettings(data_ranks=(2, 6), run=small)
    table = truncation.study(image(), settings, 0, torch.device("cpu"))
    assert list(table["data rank"]) == [2, 2, 6, 6] and list(table.method) == ["SepNN", "SepPGD"] * 2
    assert (table["relative error"] > table.floor).all()
    assert table.floor[0] < 1e-6 < table.floor[2]
    # The relative error is the root of MSE over the mean square of the truncated image, not of the original one.
    cut = targets.truncate(image().values, 6).double()
    assert table["relative error"][2] == pytest.approx(table.RMSE[2] / cut.square().mean().item() ** 0.5, rel=1e-6)
    assert table.RMSE[2] == pytest.approx(10 ** (-table.PSNR[2] / 20)) and (table.best <= table["relative error"]).all()
    assert list(truncation.errors(table)) == ["SepNN, rank 2", "SepPGD, rank 2", "SepNN, rank 6", "SepPGD, rank 6"]
    assert set(truncation.printed(table).values()) == {None}


def test_cases_follow_both_trends_and_the_paper_is_quoted():
    rows = [(r, m, e) for r, pair in ((100, (0.05, 0.02)), (500, (0.07, 0.03))) for m, e in zip(fitting.METHODS, pair)]
    table = pd.DataFrame(rows, columns=["data rank", "method", "relative error"])
    assert all(truncation.cases(table).values()) and len(truncation.cases(table)) == 4
    assert truncation.printed(table)["SepPGD, rank 500"] == 0.037
    table.loc[3, "relative error"] = 0.08
    assert held(truncation.cases(table)) == {
        "SepNN: error grows with the rank": True,
        "SepPGD: error grows with the rank": True,
        "rank 100: SepPGD lower": True,
        "rank 500: SepPGD lower": False,
    }
    table.loc[2, "relative error"] = 0.04
    assert not truncation.cases(table)["SepNN: error grows with the rank"]


def test_table_3_is_read_both_ways():
    table = truncation.readings(targets.ImageTarget("grey", torch.full((3, 4, 4), 0.5), "made here"))
    assert list(table.method) == ["SepNN", "SepPGD"] and list(table["Table 8"]) == [0.066, 0.037]
    assert table.RMSE[0] == pytest.approx(10 ** (-claims.printed("table-3", "SepNN", "100", varied="rank R") / 20))
    assert (table["relative error"] / table.RMSE).tolist() == pytest.approx([2, 2])
