# Executes the notebooks with papermill: one rule a notebook, resumed where it was cut, JOBS at a time.
# Use it through `make figures PROFILE=... DEVICE=... [NOTEBOOK=...] [JOBS=...]`.
import sys

from seplib import profiles, runner

PROFILE, DEVICE, JOBS = config["profile"], config["device"], int(config["jobs"])
NAMES = runner.notebook_names(Path("."))
WANTED = [config["notebook"]] if config.get("notebook") else NAMES
try:
    profiles.get(PROFILE)
    ACCELERATED = profiles.resolve_device(DEVICE).type != "cpu"
    if set(WANTED) - set(NAMES):
        raise ValueError(f"notebook must be one of {', '.join(NAMES)}, got {WANTED[0]!r}")
except ValueError as error:
    sys.exit(f"seplib: error: {error}")


rule all:
    input:
        f"results/{PROFILE}/claims.json",
        # Asked for by name: an old claims.json would hide that a notebook was added or its result lost.
        expand(f"results/{PROFILE}/{{name}}.ipynb", name=WANTED),


rule notebook:
    input:
        notebook="notebooks/{name}.ipynb",
        library=sorted(path for path in Path("seplib").rglob("*.*") if path.suffix != ".pyc"),
    output:
        notebook=f"results/{PROFILE}/{{name}}.ipynb",
        record=f"results/{PROFILE}/{{name}}/record.json",
    params:
        device=DEVICE,
    # All jobs together use the machine's cores once: threads that wait for each other cost more than they bring.
    threads: max(1, workflow.cores // JOBS)
    resources:
        mem_mb=4000,
        gpu=int(ACCELERATED),
    shell:
        "{sys.executable} -m seplib run {wildcards.name} --profile {PROFILE} --device {params.device} --threads {threads}"


rule claims:
    input:
        expand(f"results/{PROFILE}/{{name}}/record.json", name=WANTED),
    output:
        f"results/{PROFILE}/claims.json",
    shell:
        "{sys.executable} -m seplib collect --profile {PROFILE}"
