"""Every notebook's cells on the pretend GPU, with small settings: no crash, and the CPU's numbers."""

import dataclasses
import json
import sys
import time
import types
from itertools import count
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import pretend_gpu
import pytest
import torch

from seplib.reproduce import profiles, runner

ROOT = Path(__file__).parents[2]
# What makes a notebook long, and what is enough here: two renewals of a preconditioner and some updates behind each.
FEW = dict(
    iterations=20, mlp_iterations=20, compared=10, every=2, judge_every=5, products=3, copies=20, samples=50, k_msk=8, points=12,
    instances=20,
)  # fmt: skip

# The CPU's numbers, up to double precision's rounding: torch splits a product with a matrix that all copies share in another
# way where a Python backend listens. Where the product is in single precision, training makes more of it.
CLOSE = 1e-9
ROUNDED = {"kernel_ridge": 1e-3}


def small(settings, name=""):
    """The same settings with less of what makes a notebook long."""
    if dataclasses.is_dataclass(settings):
        fields = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
        return type(settings)(**{key: small(value, key) for key, value in fields.items()})
    if isinstance(settings, dict):
        return {key: small(value, name) for key, value in settings.items()}
    return min(settings, FEW[name]) if name in FEW and isinstance(settings, int) else settings


@pytest.fixture
def execute(monkeypatch, tmp_path):
    """Run a notebook's cells on a device; gives the tables and the record it saved and the values it glued."""
    whole = profiles.get
    monkeypatch.setattr(profiles, "get", lambda name: small(whole(name)))
    torch.set_default_dtype(torch.float32)

    def run(name: str, device: str) -> tuple[dict[str, pd.DataFrame], dict, dict]:
        ticks, glued, folder = count(), {}, tmp_path / device
        # A clock that ticks when it is looked at: what is made of times can be compared as well.
        monkeypatch.setattr(time, "perf_counter", lambda: next(ticks) / 1024)
        monkeypatch.setenv("SEPLIB_RESULTS", str(folder))
        book = types.ModuleType("myst_nb")
        book.glue = lambda key, value, display=True: glued.update({key: value})
        monkeypatch.setitem(sys.modules, "myst_nb", book)
        space: dict = {}
        for cell in nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells:
            if cell.cell_type == "code":
                exec(compile(cell.source, f"{name}, {cell.id}", "exec"), space)
            if "parameters" in cell.metadata.get("tags", ()):
                space["device"] = device
        plt.close("all")
        tables = {path.stem: pd.read_csv(path) for path in folder.glob("*.csv")}
        return tables, json.loads((folder / "record.json").read_text()), glued

    return run


@pytest.mark.filterwarnings("ignore")  # a notebook's own business
@pytest.mark.parametrize("name", runner.notebook_names(ROOT))
def test_a_notebook_gives_the_numbers_of_the_cpu(name, execute):
    tables, record, glued = execute(name, "cpu")
    used = pretend_gpu.operations
    found, its_record, its_glued = execute(name, pretend_gpu.NAME)
    assert pretend_gpu.operations > used, "the notebook never used its device"
    close = dict(rtol=ROUNDED.get(name, CLOSE), atol=0)
    assert found.keys() == tables.keys()
    for key, table in tables.items():
        pd.testing.assert_frame_equal(found[key], table, obj=f"table {key}", **close)
    pd.testing.assert_series_equal(values(its_glued), values(glued), obj="glued values", **close)
    for one, other in zip(its_record["claims"], record["claims"], strict=True):
        assert {key: one[key] for key in ("id", "verdict", "cases")} == {
            key: other[key] for key in ("id", "verdict", "cases")
        }
        for key in ("measured", "spread"):
            pd.testing.assert_series_equal(values(one[key]), values(other[key]), obj=f"{one['id']}, {key}", **close)


def values(by_name: dict | None) -> pd.Series:
    return pd.Series(by_name or {}, dtype=object)
