"""Build the book: ``python book/build.py`` from the repository's root.

Chapters, executed notebooks and generated pages are staged into ``_build/stage``; Jupyter Book renders that folder with
every warning an error; the result replaces ``_build/html`` in one move, so a failed build leaves the last good book. An
executed notebook comes from ``results/paper``, else from ``results/smoke`` under a banner, else the build stops.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import pages  # noqa: E402

ROOT = Path(__file__).parents[1]
GLUED = "application/papermill.record/text/plain"
SMOKE_BANNER = """:::{admonition} Smoke run
:class: warning smoke-run
This page shows a smoke run of this machine: small settings, to see that everything works. The paper-profile run hasn't been made;
{ref}`howto-rerun` says how to make it.
:::"""


SMOKE_NUMBERS = """:::{{admonition}} Smoke run
:class: warning smoke-run
Numbers on this page are from a smoke run of this machine, small settings to see that everything works: {}.
:::"""


# Cells that are needed to execute a notebook and not to read it: their tags, and what the line says under which they fold.
FOLDED = {
    "parameters": "Parameters and their defaults",
    "injected-parameters": "Parameters of this run",
    "hide-cell": "Imports and settings",
}


class Refused(Exception):
    """The book cannot be built, for a reason that one line can tell."""


def notebook_names(root: Path) -> list[str]:
    """Names of the notebooks in the table of contents; every notebook of the repository must be there."""
    toc = (root / "book" / "_toc.yml").read_text()
    listed = re.findall(r"^\s*- file: notebooks/(\S+)", toc, re.MULTILINE)
    present = sorted(path.stem for path in (root / "notebooks").glob("*.ipynb"))
    if missing := sorted(set(present) - set(listed)):
        raise Refused(f"notebooks/{missing[0]}.ipynb is not in book/_toc.yml")
    if unknown := sorted(set(listed) - set(present)):
        raise Refused(f"book/_toc.yml lists notebooks/{unknown[0]}, but there is no such notebook")
    return listed


def executed(root: Path, name: str) -> tuple[str, dict[str, Any]]:
    """Profile and content of the executed notebook that the book shows."""
    for profile in ("paper", "smoke"):
        path = root / "results" / profile / f"{name}.ipynb"
        if path.exists():
            notebook = json.loads(path.read_text())
            check_executed(notebook, path.relative_to(root))
            return profile, notebook
    raise Refused(
        f"notebook {name} has not been executed: neither results/paper/{name}.ipynb nor results/smoke/{name}.ipynb "
        f"is there; run `make figures PROFILE=smoke`"
    )


def check_executed(notebook: dict[str, Any], path: Path) -> None:
    """Refuse a notebook that holds an error or a code cell that never ran."""
    for number, cell in enumerate(notebook["cells"], 1):
        if cell["cell_type"] != "code":
            continue
        for output in cell["outputs"]:
            if output["output_type"] == "error":
                raise Refused(f"{path}, cell {number}: holds the error {output['ename']}: {output['evalue']}"[:300])
        if "".join(cell["source"]).strip() and cell["execution_count"] is None:
            raise Refused(f"{path}, cell {number}: was never executed")


def reworded(run: dict[str, Any], source: dict[str, Any]) -> dict[str, Any]:
    """The executed notebook with the words of the one in the repository: code and outputs are those of the run, text and
    what the cells' metadata say of the figures can be mended without another execution.
    """
    ran = {cell.get("id"): cell for cell in run["cells"]}
    injected = [cell for cell in run["cells"] if "injected-parameters" in cell["metadata"].get("tags", [])]
    cells = []
    for cell in source["cells"]:
        if cell["cell_type"] == "markdown":
            cells.append(cell)
        elif executed := ran.get(cell.get("id")):
            cells.append(executed | {"metadata": cell["metadata"]})
        if "parameters" in cell["metadata"].get("tags", []):
            cells += injected
    return run | {"cells": cells}


def dressed(notebook: dict[str, Any], note: str) -> dict[str, Any]:
    """The notebook as the book shows it: a note under its title; parameters, imports and settings folded away."""
    cells = notebook["cells"]
    first = "".join(cells[0]["source"]) if cells and cells[0]["cell_type"] == "markdown" else ""
    title = re.search(r"^# .+$", first, re.MULTILINE)
    if not title:
        raise Refused("the first cell must be Markdown and hold the title, a line `# Title`")
    cells[0]["source"] = f"{first[: title.end()]}\n\n{note}\n{first[title.end() :]}"
    for number, cell in enumerate(cells, 1):
        pictures = [kind for output in cell.get("outputs", []) for kind in output.get("data", {}) if "image/" in kind]
        if pictures and not cell["metadata"].get("mystnb", {}).get("image", {}).get("alt", "").strip():
            raise Refused(f"cell {number} shows a figure and its metadata no alternative text, mystnb.image.alt")
        tags = cell["metadata"].setdefault("tags", [])
        if folded := [FOLDED[tag] for tag in tags if tag in FOLDED]:
            cell["metadata"]["mystnb"] = {"code_prompt_show": folded[0]}
            if "hide-cell" not in tags:
                tags.append("hide-input")
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if GLUED in data:  # a glued numpy scalar prints its type, which no format understands
                data[GLUED] = re.sub(r"^np\.\w+\((.*)\)$", r"\1", "".join(data[GLUED]))
    notebook["cells"] = [part for cell in cells for part in said(cell)]
    return notebook


def said(cell: dict[str, Any]) -> list[dict[str, Any]]:
    """A cell that folds away, and what it printed, such as where the images come from, in one that does not."""
    printed = [output for output in cell.get("outputs", []) if output["output_type"] == "stream"]
    if "hide-cell" not in cell["metadata"]["tags"] or not printed:
        return [cell]
    rest = [output for output in cell["outputs"] if output not in printed]
    shown = {"id": f"{cell['id']}-printed", "outputs": printed, "metadata": {"tags": ["remove-input"]}}
    return [cell | {"outputs": rest}, cell | shown]


def note(root: Path, name: str, profile: str) -> str:
    """Note under a notebook's title: banner of a smoke run, provenance, downloads."""
    folder = root / "results" / profile / name
    run = pages.run_record(root, name, profile)
    seconds, what = (run["computing"], "computing") if run["computing"] else (run["seconds"], "execution")
    facts = [f"{profile} profile", run.get("device"), seconds and f"{pages.duration(seconds)} of {what}"]
    if run.get("commit"):
        facts.append(f"commit `{run['commit']}`")
    files = [path.name for path in sorted(folder.glob("*")) if path.suffix in (".csv", ".json")]
    links = " ".join(f"{{download}}`{file} <../downloads/{profile}/{name}/{file}>`" for file in files)
    lines = [" · ".join(filter(None, facts)), *([f"Data: {links}"] if links else [])]
    if run.get("stale"):
        lines.append("The notebook in the repository has changed since this run.")
    banner = f"{SMOKE_BANNER}\n\n" if profile == "smoke" else ""
    return banner + ":::{div} run-note\n" + "\\\n".join(lines) + "\n:::"


def stage(root: Path, target: Path) -> None:
    """Fill ``target`` with everything that Jupyter Book reads; what was there before is gone."""
    if target.exists():
        shutil.rmtree(target)
    names = notebook_names(root)
    notebooks = {name: executed(root, name) for name in names}
    shutil.copytree(
        root / "book", target, ignore=shutil.ignore_patterns("*.py", "*.yml", "static", "_ext", "__pycache__")
    )
    shutil.copytree(root / "book" / "_ext", target / "_ext", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(root / "book" / "static", target / "_static")
    shutil.copy(root / "_config.yml", target)
    shutil.copy(root / "book" / "_toc.yml", target)
    (target / "notebooks").mkdir(exist_ok=True)
    for name, (profile, notebook) in notebooks.items():
        try:
            source = json.loads((root / "notebooks" / f"{name}.ipynb").read_text())
            notebook = dressed(reworded(notebook, source), note(root, name, profile))
        except Refused as reason:
            raise Refused(f"notebooks/{name}.ipynb: {reason}") from None
        (target / "notebooks" / f"{name}.ipynb").write_text(json.dumps(notebook))
    for profile in ("paper", "smoke"):
        results = root / "results" / profile
        for path in [results / "claims.json", *(path for name in names for path in (results / name).glob("*.*"))]:
            if path.exists():
                copy = target / "downloads" / profile / path.relative_to(results)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, copy)
    warn(target, {name for name, (profile, _) in notebooks.items() if profile == "smoke"})
    fill(root, target)


def warn(target: Path, smoke: set[str]) -> None:
    """Put a banner under the title of every staged chapter that takes numbers from a notebook's smoke run."""
    for path in target.glob("*.md"):
        text = path.read_text()
        if named := sorted(smoke & set(re.findall(r"\{glue:\w+\}`notebooks/(\w+)\.ipynb::", text))):
            links = ", ".join(f"[{name}](notebooks/{name}.ipynb)" for name in named)
            end = re.search(r"^# .*\n", text, re.MULTILINE).end()
            path.write_text(f"{text[:end]}\n{SMOKE_NUMBERS.format(links)}\n{text[end:]}")


def fill(root: Path, target: Path) -> None:
    """Replace every ``<!-- seplib:NAME -->`` in the staged chapters by the generated fragment of that name."""
    for path in sorted(target.glob("*.md")):
        text = path.read_text()
        for name in re.findall(r"<!-- seplib:(\w+) -->", text):
            if name not in pages.FRAGMENTS:
                raise Refused(
                    f"book/{path.name} asks for the fragment {name!r}; there are {', '.join(pages.FRAGMENTS)}"
                )
            text = text.replace(f"<!-- seplib:{name} -->", pages.FRAGMENTS[name](root, target))
        path.write_text(text)


def render(source: Path, builder: str, log: Path) -> None:
    """Run Jupyter Book on the staged folder with warnings as errors; say what went wrong if it fails."""
    call = "from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", call, "build", ".", "-W", "-n", "--keep-going", "--all"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    result = subprocess.run(
        [*command, "--builder", builder],
        cwd=source,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    output = re.sub(r"\x1b\[[0-9;]*m", "", result.stdout)
    log.write_text(output)
    if result.returncode:
        lines = output.splitlines()
        telling = [line for line in lines if re.search(r"WARNING|ERROR|broken", line)] or lines[-15:]
        raise Refused("\n".join([f"Jupyter Book failed; the whole log is {log}", *telling]))


def replace(new: Path, old: Path) -> None:
    """Put the new folder in the old one's place, by renaming."""
    retired = old.with_name(f".{old.name}.retired")
    shutil.rmtree(retired, ignore_errors=True)
    if old.exists():
        old.rename(retired)
    new.rename(old)
    shutil.rmtree(retired, ignore_errors=True)


def main(builder: str = "html", root: Path = ROOT) -> int:
    """Build the book and print where it is; the exit status is 1, after one line that says why, if it cannot be built."""
    build = root / "_build"
    build.mkdir(exist_ok=True)
    try:
        stage(root, build / "stage")
        render(build / "stage", builder, build / "book.log")
    except Refused as reason:
        print(f"book: {reason}", file=sys.stderr)
        return 1
    if builder == "html":
        replace(build / "stage" / "_build" / "html", build / "html")
        print(build / "html" / "index.html")
    return 0


def command(
    builder: Annotated[Literal["html", "linkcheck"], typer.Option(help="linkcheck asks other hosts")] = "html",
) -> None:
    """Build the book into _build/html."""
    raise typer.Exit(main(builder))


if __name__ == "__main__":
    typer.run(command)
