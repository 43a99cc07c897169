"""Inpainting: masks, what is judged, and the criterion."""

import dataclasses
import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from outputs import output

from seplib import SepPGD, targets
from seplib.reproduce import profiles
from seplib.studies.images import inpainting

CPU = torch.device("cpu")


def test_masks_have_their_share_and_follow_the_seed():
    known = inpainting.known_pixels(40, 0.3, 5)
    assert known.sum() == 1120 and torch.equal(known, inpainting.known_pixels(40, 0.3, 5))
    assert not torch.equal(known, inpainting.known_pixels(40, 0.3, 6))
    rows = (~known).sum(1)
    assert rows.min() > 2 and rows.max() < 22, "missing pixels are spread over the image"
    for share in (0.0, 1.0, -0.1):
        with pytest.raises(
            ValueError, match=f"missing must leave some of the 1600 pixels known and some not, got {share}"
        ):
            inpainting.known_pixels(40, share, 0)


def test_a_study_is_judged_on_what_it_did_not_see():
    small = profiles.get("smoke").image_inpainting
    run = dataclasses.replace(small.run, size=12, rank=4, width=6, k=2, iterations=3, seeds=(2, 1))
    settings = dataclasses.replace(small, run=run)
    images = [targets.image(name, 12) for name in ("astronaut", "chelsea")]
    runs = inpainting.study(images, settings, 4, CPU)
    assert [len(runs[image.name, "SepPGD"]) for image in images] == [2, 1]
    found = inpainting.table(images, runs).set_index(["image", "method"])
    missing = ~inpainting.known_pixels(12, 0.3, 4)
    fitted = output(images[1].values, "SepNN", run, 4, mask=~missing)
    error = (fitted - images[1].values)[:, missing].double().square().mean().item()
    assert found.missing["chelsea", "SepNN"] == pytest.approx(-10 * np.log10(error), abs=1e-4)
    assert np.isnan(found.spread["chelsea", "SepNN"]) and found.spread["astronaut", "SepNN"] > 0


def test_the_criterion():
    def held(*gains):
        rows = [(str(i), m, 20 + g * (m == "SepPGD")) for i, g in enumerate(gains) for m in ("SepNN", "SepPGD")]
        return inpainting.cases(pd.DataFrame(rows, columns=["image", "method", "missing"]))

    assert all(held(0.1, 0.2, -0.1).values())
    assert [name for name, holds in held(1, 1, -0.3).items() if not holds] == ["2: not below SepNN by more than 0.2 dB"]
    assert [name for name, holds in held(1, -0.1, 0).items() if not holds] == ["above SepNN on at least two images"]


@pytest.mark.parametrize("missing", [0.3, 0.8])
def test_a_mask_leaves_this_much_of_a_damping(make_cp, missing):
    model, axes = make_cp((3, 2), rank=2)
    S = SepPGD(model, axes, k=1).operator().dense()[0]
    damping, directions = torch.linalg.eigh(S)
    masks = torch.tensor(list(itertools.product([0.0, 1.0], repeat=6)))  # all of them, with their probabilities
    weights = (missing ** (1 - masks) * (1 - missing) ** masks).prod(1)
    for s, v in zip(damping, directions.T):
        expected = (weights * torch.einsum("mi,ij,mj->m", masks * v, S, masks * v)).sum()
        formula = (1 - missing) ** 2 * s + missing * (1 - missing) * (v.square() * S.diagonal()).sum()
        assert abs(expected - formula) < 1e-12
