"""The search for the image settings: what a family means, how its frequency is found, where the search goes and ends."""

import dataclasses
import math

import pytest
import torch

from seplib.reproduce import claims, profiles
from seplib.studies.images import search, setups
from seplib.studies.images.search import Family, Sieve

CPU = torch.device("cpu")
RUN = dataclasses.replace(profiles.get("smoke").image_settings.run, size=12, rank=4, width=6, iterations=5)


class Known(Sieve):
    """A sieve whose PSNRs are a formula of the phase, best where its family's is."""

    def psnr(self, family, phase, **change):
        wanted = claims.printed("table-3", "SepNN", "100", "rank R")
        cells = {"rank": 0.0, "width": -4.0, "activation": -5.0}
        away = sum(getattr(family, name) != value for name, value in dataclasses.asdict(Family(axes="unit")).items())
        return (
            wanted + cells.get(next(iter(change), ""), 0.0) + 2 * math.log2(phase / 100) - away * ("rank" not in change)
        )


def sieve(kind=Sieve):
    return kind(torch.zeros(1, 12, 12), RUN, 0.0, 0, CPU)


@pytest.mark.parametrize(
    "axes, ends, omega", [("centred", (-1, 1), 40.0), ("unit", (0, 1), 80.0), ("pixels", (1, 12), 80 / 11)]
)
def test_a_phase_is_what_the_frequency_makes_of_half_an_axis(axes, ends, omega):
    found = Family(axes=axes).settings(RUN, 40.0)
    assert (found.low, found.high) == ends and found.omega == pytest.approx(omega, rel=1e-3)


@pytest.mark.parametrize("law, bound", [("siren", math.sqrt(6 / 64) / 7), ("torch", 1 / 8), ("inverse", 1 / 64)])
def test_initial_laws_are_uniform_up_to_their_bound(law, bound):
    settings = dataclasses.replace(Family(hidden=law, last="torch", depth=4).settings(RUN, 7.0), rank=50, width=64)
    made = setups.run_arguments(torch.zeros(3, 12, 12), "SepNN", settings, 0, CPU)
    model = setups.prepare(torch.zeros(3, 12, 12), made["network"], made["descent"], None, 0)[0]
    first, *others = (weight.detach() for weight in model.factors[0].weights)
    assert first.abs().max() == pytest.approx(1, rel=0.02)
    for weight, end in zip(others, (bound, bound, 1 / 8)):
        assert weight.abs().max() == pytest.approx(end, rel=0.01) and weight.abs().max() <= end * (1 + 1e-6)
        assert weight.std() == pytest.approx(end / math.sqrt(3), rel=0.05)


def test_a_network_without_biases_has_none():
    made = setups.run_arguments(torch.zeros(3, 12, 12), "SepNN", Family(bias=False).settings(RUN, 7.0), 0, CPU)
    model = setups.prepare(torch.zeros(3, 12, 12), made["network"], made["descent"], None, 0)[0]
    assert all(len(factor.biases) == 0 for factor in model.factors)


def test_the_frequency_is_found_between_two_doublings():
    phase, miss = sieve(Known).frequency(Family(axes="unit"))
    assert phase == pytest.approx(100) and abs(miss) < 0.02


def test_a_family_is_judged_by_its_distance_from_the_printed_cells():
    row = sieve(Known).judge(Family(axes="unit"))
    misses = [row[name] for name in ("rank 100", "rank 500", "width 100", "cosine")]
    printed = [
        claims.printed(*cell) for cell in (("table-3", "SepNN", "100", "rank R"), ("table-3", "SepNN", "500", "rank R"))
    ]
    assert row["rank 500"] == pytest.approx(printed[0] - printed[1])
    assert row["distance"] == pytest.approx(math.sqrt(sum(miss**2 for miss in misses) / 4) / 0.5)


def test_the_search_walks_to_the_nearest_family_and_ends_there():
    found = search.search(sieve(Known), [Family(hidden="torch", scale=None)], search.families(0))
    best = found.iloc[0]
    nearest = Family(axes="unit")
    assert all(
        best[name] == value or (best[name] is None and value is None)
        for name, value in dataclasses.asdict(nearest).items()
    )
    assert found.distance.is_monotonic_increasing and len(found) < len(search.families(0)) / 2


def test_what_cannot_be_matched_is_not_judged(monkeypatch):
    monkeypatch.setattr(Known, "psnr", lambda self, family, phase, **change: 0.0)
    assert math.isnan(sieve(Known).judge(Family())["distance"])
    assert len(search.search(sieve(Known), [Family()], [])) == 1


def test_every_family_has_the_neighbours_that_differ_in_one_choice():
    every = search.families(0)
    assert len(every) == len(set(every)) == 144 and set(search.NAMED) <= set(every)
    assert every != search.families(1)
    for other in Family().neighbours():
        assert sum(a != b for a, b in zip(dataclasses.astuple(other), dataclasses.astuple(Family()))) == 1
    assert len(list(Family().neighbours())) == 8
