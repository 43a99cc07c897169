"""``make figures``, killed at twenty random moments: nothing half there in between, and the same numbers in the end."""

import dataclasses
import random
import shutil
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from checkouts import ROOT, copied, ended, make, needs_ready_venv, processes

from seplib.reproduce import comparing, runner

NOTEBOOKS = ("ntk_exact", "image_settings")
# One machine repeats every bit; only what a clock says is free.
EXACT = comparing.Rules(
    tuple(
        rule if rule.clock else dataclasses.replace(rule, relative=0.0, absolute=0.0)
        for rule in comparing.Rules.read(ROOT / "tests" / "expected" / "smoke.toml").rules
    )
)


def killed(run: subprocess.Popen, draw: random.Random) -> str:
    """Kill a command with all that it has started, as a machine that stops, or one of these processes, as a lack of memory."""
    tree = [psutil.Process(run.pid), *psutil.Process(run.pid).children(recursive=True)]
    victims = tree if draw.random() < 0.5 else [draw.choice(tree)]
    names = []
    for process in victims:
        try:
            names.append(" ".join(process.cmdline())[-60:])
            process.kill()
        except psutil.NoSuchProcess:  # came to its own end meanwhile
            continue
    return f"{len(names)} of {len(tree)} processes: {', '.join(names)}"


def wrong(results: Path, calm: Path) -> list[str]:
    """What is published, while nobody publishes, and differs from the undisturbed run."""
    with runner._alone(results):
        whole = tuple(path.stem for path in results.glob("*.ipynb") if not path.name.endswith(".failed.ipynb"))
        belongs = tuple(f"{name}{end}" for name in whole for end in (".ipynb", "/"))
        return [line for line in comparing.differences(calm, results, EXACT) if line.startswith(belongs)]


def check(torn: Path, calm: Path) -> None:
    """When all has come to its end, the results are those of the undisturbed run, and nothing else is left."""
    deadline = time.monotonic() + 300
    while processes(torn) and time.monotonic() < deadline:  # whoever lost its parent ends by itself
        time.sleep(0.5)
    assert not processes(torn), "left running"
    results, expected = (folder / "results" / "smoke" for folder in (torn, calm))
    assert not (found := comparing.differences(expected, results, EXACT)), "\n".join(found)
    files = [{str(path.relative_to(folder)) for path in folder.rglob("*")} for folder in (results, expected)]
    assert files[0] == files[1]


def attacked(folder: Path, notebooks: tuple[str, ...], kills: int, seed: int) -> None:
    """Run notebooks in peace, then with kills after times drawn up to half of what that took, starting over when all is done."""
    calm, torn = (copied(folder / name, *(f"notebooks/{n}.ipynb" for n in notebooks)) for name in ("calm", "torn"))
    began = time.monotonic()
    ((status, said),) = ended(make(calm, "figures"))
    assert status == 0, said
    length = time.monotonic() - began
    expected, results = calm / "results" / "smoke", torn / "results" / "smoke"
    draw, count = random.Random(seed), 0
    with (torn / "log").open("w") as log:
        while count < kills:
            run = make(torn, "figures", stdout=log)
            moment = draw.uniform(0, length / 2)
            try:
                assert run.wait(moment) == 0, (torn / "log").read_text()[-3000:]
                print("done before the next kill: from the start")
                check(torn, calm)
                shutil.rmtree(results)
            except subprocess.TimeoutExpired:
                count += 1
                print(f"kill {count} after {moment:.2f} s of {length:.2f} s, {killed(run, draw)}")
                run.wait(600)
                assert not results.exists() or not (found := wrong(results, expected)), found
        run = make(torn, "figures", stdout=log)
        assert run.wait(1200) == 0, (torn / "log").read_text()[-3000:]
    check(torn, calm)


@pytest.mark.slow
@needs_ready_venv
def test_figures_killed_at_twenty_moments_are_the_same(tmp_path):
    attacked(tmp_path, NOTEBOOKS, kills=20, seed=0)
