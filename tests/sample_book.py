"""A small repository to build a book from: the real chapters, one made-up notebook with results of both profiles."""

import base64
import json
import os
import shutil
from pathlib import Path

import pytest

from seplib.reproduce import claims, criteria

ROOT = Path(__file__).parents[1]
NAME = "image_representation"
PNG = base64.b64encode(
    bytes.fromhex(
        "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
        "1f15c4890000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
    )
).decode()
INDEX = """# Sample

<!-- seplib:schematic -->

<!-- seplib:glance -->

<!-- seplib:overview -->

The gain is {glue:text}`notebooks/image_representation.ipynb::gain:.2f` dB, see {numref}`fig-sample`, {prf:ref}`def-1`, {prf:ref}`lem-own`
and {eq}`eq-8`.

```{prf:definition} A thing
:label: def-1

$$
a = b
$$ (eq-8)
```

```{prf:lemma}
:label: lem-own

$$
a = c
$$ (own-equation)
```
"""
SECOND = """# Second

```{prf:lemma}
:label: lem-after

$$
a = d
$$ (first-of-second)

$$
a = e
$$ (second-of-second)
```

The largest is {glue:text}`notebooks/image_representation.ipynb::gain:.1e`, see {prf:ref}`lem-after` and {eq}`second-of-second`, after
{prf:ref}`lem-own` and {eq}`own-equation`.
"""


def markdown(id: str, source: str) -> dict:
    return {"cell_type": "markdown", "id": id, "metadata": {}, "source": source}


def code(id: str, source: str, count: int | None, outputs=(), **metadata) -> dict:
    return {
        "cell_type": "code",
        "id": id,
        "execution_count": count,
        "metadata": metadata,
        "outputs": list(outputs),
        "source": source,
    }


def notebook(number: str, title: str = "# Images") -> dict:
    """Executed notebook with a figure, a glued number and papermill's injected parameters."""
    figure = {"output_type": "display_data", "data": {"image/png": PNG, "text/plain": "<Figure>"}, "metadata": {}}
    glued = {
        "output_type": "display_data",
        "data": {"application/papermill.record/text/plain": number},
        "metadata": {"scrapbook": {"mime_prefix": "application/papermill.record/", "name": "gain"}},
    }
    look = {"figure": {"caption": "A curve.", "name": "fig-sample"}, "image": {"alt": "A curve that rises."}}
    cells = [
        markdown("words", f"{title}\n\nWhat is tested. The gain is {{glue:text}}`gain:.2f` dB."),
        code("parameters", "profile = 'smoke'", 1, tags=["parameters"]),
        code("injected", "profile = 'paper'", 2, tags=["injected-parameters"]),
        code("figure", "show()", 3, [figure], mystnb=look),
        code("glue", "glue('gain', gain)", 4, [glued]),
    ]
    metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "papermill": {"duration": 75.2, "parameters": {"seed": 7}},
    }
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def write_results(root: Path, profile: str, number: str) -> None:
    """What a runner leaves of the notebook in ``results/<profile>``."""
    folder = root / "results" / profile
    (folder / NAME).mkdir(parents=True, exist_ok=True)
    (folder / f"{NAME}.ipynb").write_text(json.dumps(notebook(number)))
    report = claims.Report(NAME, profile=profile, device="cpu", seed=7)
    report.folder = folder / NAME
    report.record(
        "fig-3-image",
        cases={"Plane": True, "Baboon": profile == "paper", "Peppers": False},
        paper={"Plane SepNN": 26.48, "Plane SepPGD": 33.3},
        measured={"Plane SepNN": 25.43, "Plane SepPGD": 31.61},
        spread={"Plane SepNN": 0.08, "Plane SepPGD": 0.11},
        seconds=7200.0 if profile == "smoke" else 0.5,
    )
    same = {"all": criteria.at_most(3.1e-16, 1e-10)}
    report.record("lem-2", cases=same, paper={"difference": 0.0}, measured={"difference": 3.1e-16})
    report.record(
        "table-3",
        cases={"signs": criteria.above(-0.4, 0, criteria.DECIBELS, spread=0.5)},
        paper={f"R = {r}": 31.0 + r / 700 for r in range(100, 800, 100)},
        measured={f"R = {r}": 30.0 + r / 700 for r in range(100, 800, 100)},
    )
    (folder / NAME / "psnr.csv").write_text("image,psnr\nPlane,31.6\n")
    (folder / NAME / "overview.jpg").write_bytes(base64.b64decode(PNG))
    claims.save_collected(folder)


def make(root: Path, *, paper: bool, smoke: bool = True) -> Path:
    """A book with the real generated pages and style, one chapter and one notebook."""
    pages = ["scorecard", "status", "howto-rerun", "api", "anchors", "rooms", "references"]
    (root / "book").mkdir(parents=True)
    for folder in ("_ext", "static", "vendor"):
        shutil.copytree(ROOT / "book" / folder, root / "book" / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in [*(f"{page}.md" for page in pages), "references.bib", "evidence.yml", "anchors.yml"]:
        shutil.copy(ROOT / "book" / file, root / "book")
    shutil.copy(ROOT / "_config.yml", root)
    (root / "book" / "index.md").write_text(INDEX)
    (root / "book" / "chapter.md").write_text(SECOND)
    toc = ["format: jb-book", "root: index", "parts:", "- numbered: true", "  chapters:", "  - file: chapter"]
    toc += ["- chapters:", *(f"  - file: {page}" for page in pages), f"  - file: notebooks/{NAME}"]
    (root / "book" / "_toc.yml").write_text("\n".join(toc) + "\n")
    (root / "notebooks").mkdir()
    source = notebook("1.0")
    del source["cells"][2]  # the injected parameters are of a run alone
    (root / "notebooks" / f"{NAME}.ipynb").write_text(json.dumps(source))
    if smoke:
        write_results(root, "smoke", "1.25")
    if paper:
        write_results(root, "paper", "6.125")
    return root


def real_book() -> Path:
    """The built book: ``$SEPLIB_BOOK``, else ``_build/html``. Missing, it is a failure on CI and a skip elsewhere."""
    folder = Path(os.environ.get("SEPLIB_BOOK", ROOT / "_build" / "html"))
    if not (folder / "index.html").exists():
        say = pytest.fail if os.environ.get("CI") else pytest.skip
        say(f"there is no built book in {folder}: run `make book`")
    return folder
