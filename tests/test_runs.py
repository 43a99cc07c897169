import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from outputs import output

from seplib import targets
from seplib.reproduce import profiles, store
from seplib.studies.images import fitting, representation

SETTINGS = dataclasses.replace(
    profiles.get("smoke").image_representation,
    size=16,
    rank=8,
    width=12,
    omega=30.0,
    k=4,
    iterations=60,
    images=("astronaut",),
    seeds=(2,),
)
CPU = torch.device("cpu")


@pytest.fixture
def image():
    return targets.image("astronaut", 16)


def test_golden_run(image):
    """A run's numbers belong to its kind's numerics. If they change on purpose, raise them and write the new ones here."""
    assert store.KINDS["image"].numerics == 1
    golden = {"SepNN": [5.8527, 7.2985, 10.7480, 14.1792], "SepPGD": [5.8527, 7.2449, 9.9351, 14.2295]}
    for method, numbers in golden.items():
        assert fitting.fit_image(image.values, method, SETTINGS, 3, CPU).psnr[::20] == pytest.approx(numbers, abs=0.02)


def test_both_methods_start_from_the_same_weights(image):
    plain, ours = (fitting.fit_image(image.values, method, SETTINGS, 0, CPU) for method in fitting.METHODS)
    assert plain.psnr[0] == ours.psnr[0] and plain.psnr[-1] != ours.psnr[-1]


def test_psnr_is_that_of_the_reconstruction(image):
    run = fitting.fit_image(image.values, "SepPGD", SETTINGS, 0, CPU)
    mse = np.mean((run.image.astype(float) - image.values.numpy()) ** 2)
    assert run.psnr[-1] == pytest.approx(-10 * np.log10(mse), abs=0.05), (
        "the picture is clipped and rounded, the PSNR not"
    )
    assert len(run.psnr) == SETTINGS.iterations + 1
    arguments = fitting.run_arguments(image.values, "SepPGD", SETTINGS, 0, CPU)
    history, output = fitting.train_image(**arguments)
    mse = (output.double() - image.values.double()).square().mean().item()
    assert run.psnr[-1] == pytest.approx(-10 * np.log10(mse), abs=1e-4) and run.history.loss == history.loss
    assert np.abs(run.image - output.clamp(0, 1).numpy()).max() <= 0.5001 / 255


def test_a_finished_run_is_read_from_the_cache(image, tmp_path, monkeypatch):
    monkeypatch.setenv("SEPLIB_CACHE", str(tmp_path))
    first = fitting.fit_image(image.values, "SepNN", SETTINGS, 0, CPU)
    monkeypatch.setattr(store, "_compute", lambda *_: pytest.fail("computed again"))
    again = fitting.fit_image(image.values, "SepNN", SETTINGS, 0, CPU)
    assert np.array_equal(first.image, again.image) and first.history == again.history
    assert [path.suffix for path in tmp_path.rglob("*.*")] == [".npz"]


def test_unknown_pixels_are_not_seen_and_judge_the_run(image):
    """A masked run does not change with what lies under the mask, and is judged there alone."""
    mask = torch.rand(16, 16, generator=torch.Generator().manual_seed(0)) < 0.7
    settings = dataclasses.replace(SETTINGS, iterations=20)
    spoiled = torch.where(mask, image.values, 0.5)
    for method in fitting.METHODS:
        run, blind = (
            fitting.fit_image(values, method, settings, 0, CPU, mask, image.values)
            for values in (image.values, spoiled)
        )
        assert np.array_equal(run.image, blind.image) and np.array_equal(run.psnr, blind.psnr)
        last = output(image.values, method, settings, 0, mask=mask)
        error = (last - image.values).double().numpy() ** 2
        assert run.psnr[-1] == pytest.approx(-10 * np.log10(error[:, mask].mean()), abs=1e-3)
        judged = run.history.metrics["judged"]
        assert len(judged) == 3 and judged[-1] == pytest.approx(-10 * np.log10(error[:, ~mask].mean()), abs=1e-3)


def test_a_run_is_judged_by_its_reference(image):
    noisy = 1 - image.values
    run = fitting.fit_image(noisy, "SepNN", SETTINGS, 0, CPU, reference=image.values)
    error = (output(noisy, "SepNN", SETTINGS, 0) - image.values).double().numpy() ** 2
    assert run.history.metrics["judged"][-1] == pytest.approx(-10 * np.log10(error.mean()), abs=1e-3)
    assert abs(run.psnr[-1] - run.history.metrics["judged"][-1]) > 0.5


class Computed(Exception):
    pass


def _computed(*_):
    raise Computed


CHOICES = dict(
    activation="cos",
    parametrization="torch",
    scale=None,
    low=0.0,
    features=2,
    frequency=2.0,
    g="sqrt",
    eps=1e-3,
    amsgrad=True,
    beta2=0.9,
    last="torch",
    hidden="inverse",
    bias=False,
    high=2.0,
    decay=0.9,
)


@pytest.mark.parametrize("change", ["seed", "settings", "target", "numerics", "mask", "reference", *CHOICES])
def test_whatever_determines_a_run_is_in_its_key(change, image, tmp_path, monkeypatch):
    monkeypatch.setenv("SEPLIB_CACHE", str(tmp_path))
    settings, values, seed, data = dataclasses.replace(SETTINGS, iterations=1), image.values, 0, {}
    fitting.fit_image(values, "SepPGD", settings, seed, CPU)
    monkeypatch.setattr(store, "_compute", _computed)
    if change == "seed":
        seed = 1
    elif change == "settings":
        settings = dataclasses.replace(settings, learning_rate=1e-3)
    elif change == "target":
        values = values.clone()
        values[0, 0, 0] += 0.5
    elif change == "numerics":
        monkeypatch.setitem(vars(store.KINDS["image"]), "numerics", 2)
    elif change == "mask":
        data["mask"] = torch.ones(16, 16, dtype=torch.bool)
    elif change == "reference":
        data["reference"] = values
    else:
        settings = dataclasses.replace(settings, **{change: CHOICES[change]})
    with pytest.raises(Computed):
        fitting.fit_image(values, "SepPGD", settings, seed, CPU, **data)


@pytest.mark.parametrize("change", CHOICES)
def test_every_choice_changes_the_run(change, image):
    settings = dataclasses.replace(SETTINGS, iterations=40)
    if change == "frequency":
        settings = dataclasses.replace(settings, features=2, frequency=1.0)
    more = {"frequency": 1.0} if change == "features" else {}
    other = dataclasses.replace(settings, **{change: CHOICES[change]}, **more)
    one, two = (fitting.fit_image(image.values, "SepPGD", s, 0, CPU).psnr for s in (settings, other))
    assert one[-1] != two[-1]


SCRIPT = """
import dataclasses, sys, torch
from seplib import targets
from seplib.reproduce import profiles
from seplib.studies.images import fitting
torch.set_num_threads(1)
settings = dataclasses.replace(profiles.get("smoke").image_representation, rank=48, width=48, k=8, iterations=900)
run = fitting.fit_image(targets.image("astronaut", 48).values, "SepPGD", settings, 0, torch.device("cpu"))
print(run.psnr.tobytes().hex(), run.image.tobytes().hex())
"""


def test_a_killed_run_resumes_to_the_same_numbers(tmp_path):
    def start(cache):
        environment = {**os.environ, "SEPLIB_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
        root = Path(__file__).parents[1]
        return subprocess.Popen(
            [sys.executable, "-c", SCRIPT], env=environment, cwd=root, stdout=subprocess.PIPE, text=True
        )

    whole = start(tmp_path / "whole")
    killed = start(tmp_path / "killed")
    deadline = time.monotonic() + 120
    while not list((tmp_path / "killed").glob("unfinished/*.pt")):
        assert killed.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL and list((tmp_path / "killed").glob("unfinished/*.pt"))
    resumed = start(tmp_path / "killed")
    assert resumed.communicate(timeout=120)[0] == whole.communicate(timeout=120)[0] != ""
    assert not list((tmp_path / "killed").glob("unfinished/*.pt"))


def test_the_table_and_cases_follow_the_runs(image):
    study = representation.study([image], SETTINGS, 0, CPU)
    steps = {"SepNN": 0.5, "SepPGD": 2.0}
    table, gains = representation.table([image], study, steps), representation.gains([image], study)
    assert list(table.seconds) == [0.5 * SETTINGS.iterations, 2.0 * SETTINGS.iterations]
    assert list(table.method) == list(fitting.METHODS)
    assert len(gains["astronaut"]) == 2
    assert gains["astronaut"].mean() == pytest.approx(table.PSNR[1] - table.PSNR[0])
    assert representation.error_left(table)["all"] == pytest.approx(10 ** (-gains["astronaut"].mean() / 10))
    cases = representation.cases(table, gains)
    assert bool(cases["astronaut: gain positive"]) == (gains["astronaut"].mean() > 0)
    assert bool(cases["astronaut: gain at least 4 dB"]) == (gains["astronaut"].mean() >= 4)
    for gain, positive, four in ((-5.0, False, False), (0.1, True, False), (3.9, True, False), (4.0, True, True)):
        cases = representation.cases(table, {"astronaut": np.array([gain])})
        assert bool(cases["astronaut: gain positive"]) is positive
        assert bool(cases["astronaut: gain at least 4 dB"]) is four
        assert cases["astronaut: gain positive"].spread is None


def test_steps_are_timed_side_by_side_and_their_runs_not_stored(image, tmp_path, monkeypatch):
    monkeypatch.setenv("SEPLIB_CACHE", str(tmp_path))
    steps = fitting.step_seconds(image.values, SETTINGS, 0, CPU, rounds=1)
    assert set(steps) == set(fitting.METHODS) and min(steps.values()) > 0
    (clock,) = tmp_path.iterdir()
    assert clock.name.startswith("image-clock-")
    assert fitting.step_seconds(image.values, SETTINGS, 0, CPU, rounds=1) == steps, "a stored clock does not run again"


def test_unknown_method_is_named(image):
    with pytest.raises(
        ValueError, match=r"method must be one of MLP, MLP \(MSK\), SepNN, SepNN \(MSK\), SepPGD, got 'SGD'"
    ):
        fitting.fit_image(image.values, "SGD", SETTINGS, 0, CPU)
