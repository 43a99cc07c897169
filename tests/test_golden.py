"""A tiny run of every stored kind. If its numbers change on purpose, raise the kind's numerics and write the new ones here."""

import dataclasses

import numpy as np
import pytest
import torch

from seplib import targets
from seplib.reproduce import audit, profiles, store
from seplib.studies.approximation import gallery
from seplib.studies.images import fitting
from seplib.studies.images.beyond import stability
from seplib.studies.ntk import drift, exactness, initialization
from seplib.studies.pde import comparison
from seplib.studies.pde.fitting import case, fit_equation
from seplib.studies.seppgd import complexity, kernel_ridge, non_grid
from seplib.studies.surface import surfaces

CPU = torch.device("cpu")
SMOKE = profiles.get("smoke")
RIDGE = dataclasses.replace(SMOKE.kernel_ridge, points=8, rank=6, width=8, iterations=20, every=10)
SCATTERED = dataclasses.replace(SMOKE.non_grid, points=20, tested=20, rank=6, width=8, iterations=20, every=10)
IMAGE = dataclasses.replace(SMOKE.image_representation, size=12, rank=6, width=8, k=3, iterations=20)
SURFACE = dataclasses.replace(SMOKE.surface.run, sizes=(8, 10, 6), rank=4, width=8, k=2, iterations=20, every=10)
EQUATION = dataclasses.replace(
    SMOKE.pde, points=6, test=7, copies=1, rank=4, width=8, iterations=20, judge_every=10, ks=(2, 1, 1)
)
RATES = dataclasses.replace(SMOKE.approximation_rates, trained_ranks=(2,), size=12, iterations=20, seeds=1)
COSTS = dataclasses.replace(SMOKE.complexity, sizes={2: (4, 6, 8)}, epoch_sizes={2: (4, 6)}, repeats=1)
KERNEL = dict(side=3, activation="tanh", seed=0, device=CPU)


def image():
    return targets.image("astronaut", 12).values


def ridge():
    return kernel_ridge.ridge_run("SepNN (SepPGD)", RIDGE, 0, CPU).test


def scattered_points():
    return non_grid.scattered_run("SepNN (SepPGD)", SCATTERED, 0, CPU).test


def decays():
    shape = dict(side=4, activation="sine", omega=3.0, size=8, modes=3, amplitude=0.01, fraction=0.5, seed=0)
    return drift._decay(**shape, device=CPU)[0]


def drifts():
    return drift._drift(size=6, step=0.1, iterations=5, seeds=2, **KERNEL)["drift"]


def helmholtz():
    own = case(EQUATION, "Helmholtz", "SPINN (SepPGD)", omega=2.0, learning_rate=1e-3)
    return fit_equation(own, 0, CPU).errors


RUNS = {
    "image": lambda: fitting.fit_image(image(), "SepPGD", IMAGE, 0, CPU).psnr,
    "image history": lambda: fitting.image_course(targets.channel(image(), 1), "SepPGD", IMAGE, 0, CPU).psnr,
    "image course": lambda: stability.course(image(), "SepPGD", IMAGE, 0, CPU, 10, 3).stability,
    "surface": lambda: (
        surfaces.fit_surface(targets.surface("column", SURFACE.sizes).values, "SepPGD", SURFACE, 0, CPU).iou
    ),
    "equation": helmholtz,
    "ridge": ridge,
    "scattered": scattered_points,
    "kernel spectra": lambda: exactness._top_spectra(side=8, size=6, k=3, seed=0, device=CPU)["exact"],
    "pseudo kernel": lambda: exactness._pseudo_error(width=6, rank=4, seeds=2, **KERNEL),
    "kernel drift": drifts,
    "mode decay": decays,
    "seed difference": lambda: initialization._seed_difference(width=6, rank=4, seeds=2, **KERNEL)[0],
    "kernel spread": lambda: np.array([initialization._spread(width=6, rank=4, copies=4, **KERNEL)]),
    "random kernel entries": lambda: initialization._random_entries(
        width=6, activation="tanh", rank=3, samples=4, seed=0, device=CPU
    )[0],
    "certificates": lambda: gallery.certificates(["cosine"], [0.1], [], 0, CPU).delta.to_numpy(),
    "activation widths": lambda: gallery.activation_study(1e-2, (8, 16), (8, 16), device=CPU).delta.to_numpy()[:4],
    "ridge networks": lambda: gallery.parameter_table(["cosine"], [16], 0, CPU).error.to_numpy(),
    "trained ranks": lambda: gallery.trained_curve("cosine", RATES, 0, CPU).error.to_numpy(),
    "diffusion reference": lambda: comparison._measure_reference((5, 10, 20), (6, 7)).largest.to_numpy(),
    "costs": lambda: complexity.measure(COSTS, 0, CPU).operations.to_numpy(),
}
# Sum and last entry of each, and by how much they may differ on another processor.
GOLDEN = {
    "image": (1, 140.0918, 7.294912, 0.0001),
    "image history": (1, 152.7513, 7.882851, 0.0001),
    "image course": (1, 0.006731551, 0.002388701, 0.01),
    "surface": (1, 1.52434, 0.7916667, 0.01),
    "equation": (1, 0.02779909, 0.007507451, 0.001),
    "ridge": (1, 0.2728313, 0.04282199, 0.0001),
    "scattered": (1, 0.1943766, 0.04969067, 0.0001),
    "kernel spectra": (1, 56.55966, 13.83653, 1e-05),
    "pseudo kernel": (1, 0.5708166, 0.1744477, 1e-06),
    "kernel drift": (1, 0.2045778, 0.1241871, 1e-06),
    "mode decay": (1, 203.4126, 36.78973, 0.001),
    "seed difference": (1, 1.29268, 0.5838219, 1e-06),
    "kernel spread": (1, 0.8005489, 0.8005489, 1e-06),
    "random kernel entries": (1, 8.601411, 0.9965013, 1e-06),
    "certificates": (1, 0.006904658, 0.0001831006, 0.0001),
    "activation widths": (1, 0.04103757, 0.0003428518, 0.0001),
    "ridge networks": (1, 0.704532, 0.704532, 1e-06),
    "trained ranks": (1, 0.1173969, 0.1173969, 0.001),
    "diffusion reference": (1, 0.1350922, 0.01641606, 1e-4),
    "costs": (1, 5729861, 63360, 1e-12),
}


@pytest.mark.parametrize("kind", RUNS)
def test_golden_run(kind):
    found = np.asarray(RUNS[kind](), dtype=float).ravel()
    numerics, total, last, tolerance = GOLDEN[kind]
    assert store.KINDS[kind].numerics == numerics
    assert (found.sum(), found[-1]) == pytest.approx((total, last), rel=tolerance)


def test_every_kind_but_clocks_has_a_golden_run():
    audit.load_kinds()
    timed = {name for name, kind in store.KINDS.items() if kind.tolerance is None}
    made_here = {"solid", "square", "test kind"}  # a volume's own tests compare its voxels; the others are made up
    assert set(store.KINDS) - timed - made_here == set(RUNS) == set(GOLDEN)
    assert timed == {"image clock", "surface clock", "ridge clock"}


if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    for kind, run in RUNS.items():
        found = np.asarray(run(), dtype=float).ravel()
        print(f'    "{kind}": (1, {found.sum():.7g}, {found[-1]:.7g}, ),')
