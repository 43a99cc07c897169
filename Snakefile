# Executes the notebooks with papermill: one rule a notebook, resumed where it was cut, JOBS at a time.
# Use it through `make figures PROFILE=... DEVICE=... [NOTEBOOK=...] [JOBS=...]`.
import hashlib
import os
import sys
import time

from seplib.reproduce import profiles, runner

PROFILE, DEVICE, JOBS = str(config["profile"]), str(config["device"]), config["jobs"]
NAMES = runner.notebook_names(Path("."))
WANTED = [config["notebook"]] if config.get("notebook") else NAMES
try:
    if type(JOBS) is not int or JOBS < 1:
        raise ValueError(f"JOBS must be a whole number of at least 1, got {JOBS}")
    profiles.get(PROFILE)
    ACCELERATED = profiles.resolve_device(DEVICE).type != "cpu"
    if set(WANTED) - set(NAMES):
        raise ValueError(f"notebook must be one of {', '.join(NAMES)}, got {WANTED[0]!r}")
except ValueError as error:
    sys.exit(f"seplib: error: {error}")

LIBRARY = sorted(path for path in Path("seplib").rglob("*.*") if path.suffix != ".pyc")


def content(wildcards):
    """What a run is made of: file times alone would miss a change made while the clock was wrong."""
    files = [Path("notebooks") / f"{wildcards.name}.ipynb", *LIBRARY]
    return hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in files)).hexdigest()


def results(name):
    return [Path("results") / PROFILE / f"{name}.ipynb", Path("results") / PROFILE / name / "record.json"]


# What a rule makes is a mark that the run is done, not the results: Snakemake deletes what a rule makes before it starts, and after
# a failure. The runner replaces results by others that are whole, so that the old ones are there until then.
DONE = f"results/{PROFILE}/.done/{{name}}"
for name in WANTED:
    if not all(path.exists() for path in results(name)):
        Path(DONE.format(name=name)).unlink(missing_ok=True)

# Snakemake gives up on files from the future, which a clock that was set back leaves behind.
for path in [*Path("notebooks").glob("*.ipynb"), *LIBRARY, *Path("results", PROFILE).glob(".done/*")]:
    if path.stat().st_mtime > time.time():
        os.utime(path)


rule all:
    input:
        f"results/{PROFILE}/claims.json",
        # Asked for by name: an old claims.json would hide that a notebook was added or its result lost.
        expand(DONE, name=WANTED),


rule notebook:
    input:
        notebook="notebooks/{name}.ipynb",
        library=LIBRARY,
    output:
        touch(DONE),
    params:
        device=DEVICE,
        content=content,
    # All jobs together use the machine's cores once: threads that wait for each other cost more than they bring.
    threads: max(1, workflow.cores // JOBS)
    resources:
        mem_mb=4000,
        gpu=int(ACCELERATED),
    shell:
        "{sys.executable:q} -m seplib run {wildcards.name} --profile {PROFILE} --device {params.device} --threads {threads}"


rule claims:
    input:
        expand(DONE, name=WANTED),
    output:
        f"results/{PROFILE}/claims.json",
    shell:
        "{sys.executable:q} -m seplib collect --profile {PROFILE}"
