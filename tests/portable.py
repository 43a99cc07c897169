"""The notebooks on one and two threads under every instruction set of this processor: ``make portable [NOTEBOOK=name]``.

Each notebook is executed at ``smoke`` below ``_build/portable`` and must agree with ``tests/expected/smoke`` within the tolerances
of ``tests/expected/smoke.toml``, and print what the committed notebook prints, letter by letter, wherever nbval compares it.
Exit status 1 if one does not.
"""

import os
import subprocess
import sys
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import torch

from seplib.reproduce import claims, comparing, runner

ROOT = Path(__file__).parents[1]
EXPECTED = ROOT / "tests" / "expected"
THREADS = (1, 2)
# What torch, MKL and OpenBLAS are told to use; names as torch reports them.
SETS = {
    "DEFAULT": ("SSE4.2", dict(ATEN_CPU_CAPABILITY="default", MKL_ENABLE_INSTRUCTIONS="SSE4_2", OPENBLAS_CORETYPE="Nehalem")),
    "AVX2": ("AVX2", dict(ATEN_CPU_CAPABILITY="avx2", MKL_ENABLE_INSTRUCTIONS="AVX2", OPENBLAS_CORETYPE="Haswell")),
    "AVX512": ("AVX-512", dict(ATEN_CPU_CAPABILITY="avx512", MKL_ENABLE_INSTRUCTIONS="AVX512", OPENBLAS_CORETYPE="SkylakeX")),
}  # fmt: skip


def instruction_sets(capability: str) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Environment by name of the sets up to a processor's best, and the names of those beyond it.

    A processor that is none of x86-64's has its own set alone.
    """
    if capability not in SETS:
        return {capability: {}}, [name for name, _ in SETS.values()]
    last = list(SETS).index(capability)
    names = list(SETS.values())
    return dict(names[: last + 1]), [name for name, _ in names[last + 1 :]]


def execute(name: str, root: Path, threads: int, environment: dict[str, str]) -> str:
    """Run one notebook in a folder of its own kind; what went wrong, or nothing."""
    command = [
        sys.executable,
        "-m",
        "seplib",
        "run",
        name,
        "--profile",
        "smoke",
        "--device",
        "cpu",
        "--threads",
        str(threads),
    ]
    # Threads that wait passively give the same numbers, and do not stop each other on a busy machine.
    environment = (
        os.environ | environment | {"PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    )
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    return done.stderr.strip().splitlines()[-1] if done.returncode else ""


def unlike_committed(name: str, executed: Path) -> list[str]:
    """Cells that nbval would find changed: their text is not letter by letter that of the committed notebook."""
    committed = ROOT / "notebooks" / f"{name}.ipynb"
    cells = [cell for cell in nbformat.read(committed, as_version=4).cells if cell.cell_type == "code"]
    compared = [cell.id for cell in cells if "nbval-ignore-output" not in cell.metadata.get("tags", [])]
    before, now = (comparing.shown(path) for path in (committed, executed))
    changed = [c for c in compared if before.get(c, {}).get("printed") != now.get(c, {}).get("printed")]
    return [f"{name}.ipynb, cell {c}: prints another text than the committed notebook" for c in changed]


def check(names: list[str], rules: comparing.Rules, root: Path, threads: int, environment: dict[str, str]) -> dict:
    """What is wrong with each notebook of one configuration, and the largest share of a tolerance that was taken."""
    root.mkdir(parents=True, exist_ok=True)
    if not (root / "notebooks").exists():
        (root / "notebooks").symlink_to(ROOT / "notebooks")
    jobs = max(1, (os.cpu_count() or 1) // threads)
    with ThreadPoolExecutor(jobs) as pool:
        failures = dict(zip(names, pool.map(lambda name: execute(name, root, threads, environment), names)))
    wrong, shares = defaultdict(list), defaultdict(float)
    for deviation in comparing.deviations(EXPECTED / "smoke", root / "results" / "smoke", rules):
        name = deviation.place[0].replace(".", "/").split("/")[0]
        if deviation.share > 1:
            wrong[name].append(deviation.line)
        shares[name] = max(shares[name], deviation.share)
    for name, failure in failures.items():
        wrong[name] += [failure] if failure else unlike_committed(name, root / "results" / "smoke" / f"{name}.ipynb")
    return {name: (wrong[name], shares[name]) for name in names}


def main(names: list[str]) -> int:
    """Print one row a notebook and one column a configuration; 0 if all pass."""
    names = names or runner.notebook_names(ROOT)
    rules = comparing.Rules.read(EXPECTED / "smoke.toml")
    sets, left_out = instruction_sets(torch.backends.cpu.get_cpu_capability())
    if left_out:
        print(f"this processor lacks {', '.join(left_out)}: left out")
    found, lines, folders = {}, [], []
    for threads in THREADS:
        for label, environment in sets.items():
            began, title = time.perf_counter(), f"{label}, {threads}"
            root = ROOT / "_build" / "portable" / f"{label}-{threads}"
            found[title] = check(names, rules, root, threads, environment)
            folders.append(root / "results" / "smoke")
            lines += [f"{title}: {line}" for wrong, _ in found[title].values() for line in wrong]
            print(f"{title} thread{'s' * (threads > 1)}: {time.perf_counter() - began:.0f} s", flush=True)
    lines += claims.undecided(folders)
    print(f"\n{'share of the tolerance taken':30s}" + "".join(f"{title:>12s}" for title in found))
    for name in names:
        cells = [f"{'FAILS' if result[name][0] else format(result[name][1], '.0%'):>12s}" for result in found.values()]
        print(f"{name:30s}" + "".join(cells))
    print("\n".join(["", *lines]) if lines else "all pass")
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
