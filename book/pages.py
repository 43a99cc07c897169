"""Generated parts of the book: scorecard, status, API, where things are. Each fragment replaces a marker in a chapter."""

import ast
import html
import json
import math
import pkgutil
import re
from collections import Counter
from pathlib import Path
from typing import Any

import yaml
from labels import Label, labels, reference

import seplib
from seplib.reproduce import claims, criteria

BADGES = {
    "reproduced": "yes",
    "partly": "partly",
    "not reproduced": "no",
    "not stated": "open",
    "not run": "idle",
}
_KINDS = {
    "sec": "Sec. {}",
    "eq": "Eq. ({})",
    "fig": "Fig. {}",
    "table": "Table {}",
    "thm": "Theorem {}",
    "lem": "Lemma {}",
    "cor": "Corollary {}",
    "def": "Definition {}",
    "rem": "Remark {}",
}


# Evidence and claims ------------------------------------------------------------------------------------------------


def evidence(root: Path) -> dict[str, dict[str, Any]]:
    """Where the evidence for each claim is: chapter, notebook, cell, function, test."""
    return yaml.safe_load((root / "book" / "evidence.yml").read_text())


def repository(root: Path) -> str:
    """Address of the repository, with the branch, for links to files."""
    config = yaml.safe_load((root / "_config.yml").read_text())["repository"]
    return f"{config['url']}/blob/{config['branch']}"


def badge(verdict: str) -> str:
    """HTML of a verdict."""
    text = "not run yet" if verdict == "not run" else verdict
    return f'<span class="verdict verdict-{BADGES[verdict]}">{text}</span>'


def _number(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return html.escape(str(value))
    if isinstance(value, int) or value == 0:
        text = f"{value:g}"
    elif 1e-3 <= abs(value) < 1e5:
        text = (
            f"{value:.3g}" if abs(value) < 1 else f"{value:.0f}" if abs(value) >= 1e4 else f"{value:#.4g}".rstrip(".")
        )
    else:
        mantissa, exponent = f"{value:.2e}".split("e")
        text = f"{mantissa}·10<sup>{int(exponent)}</sup>"
    return text.replace("-", "−")


def numbers_table(entry: dict[str, Any]) -> str:
    """HTML of the paper's numbers beside ours; long ones are folded."""
    if not entry["measured"]:
        return ""
    names = [*entry["measured"], *(n for n in entry["paper"] or {} if n not in entry["measured"])]
    rows = []
    for name in names:
        ours = _number(entry["measured"].get(name))
        spread = (entry["spread"] or {}).get(name)
        if spread is not None:
            ours += f' <span class="spread">± {_number(spread)}</span>'
        cells = f"<td>{_number((entry['paper'] or {}).get(name))}</td><td>{ours}</td>"
        rows.append(f'<tr><th scope="row">{html.escape(name)}</th>{cells}</tr>')
    head = '<thead><tr><th></th><th scope="col">paper</th><th scope="col">ours</th></tr></thead>'
    table = f'<table class="numbers">{head}<tbody>{"".join(rows)}</tbody></table>'
    if len(rows) > 6:
        return f"<details><summary>{len(rows)} numbers</summary>{table}</details>"
    return table


def _verdict_cell(entry: dict[str, Any]) -> str:
    parts = [badge(entry["verdict"])]
    if entry["verdict"] in ("partly", "not reproduced") and entry["cases"]:
        failing = [name for name, holds in entry["cases"].items() if not holds]
        parts.append(f'<p class="cases">fails: {html.escape(", ".join(failing))}</p>')
    if nearest := criteria.nearest(entry):
        parts.append(f'<p class="cases">{_margin(*nearest)}</p>')
    if entry.get("assumed"):
        parts.append(f"<details><summary>assumed</summary>{html.escape(entry['assumed'])}</details>")
    return "".join(parts)


def _margin(name: str, margin: dict[str, Any]) -> str:
    """The case of a claim that is nearest to its threshold, in words."""
    value, bound, distance = (_number(float(f"{margin[key]:.3g}")) for key in ("value", "bound", "distance"))
    relation = {"<=": "≤", ">=": "≥"}.get(margin["relation"], html.escape(margin["relation"]))
    text = f"nearest: {html.escape(name)}, {value} {relation} {bound}, distance {distance}"
    return text + (f" ({margin['note']})" if "note" in margin else "")


def _links(root: Path, place: dict[str, Any], known: dict[str, Label]) -> str:
    links = []
    if place["chapter"]:
        links.append(reference(place["chapter"].split("#")[1], known))
    name = place["notebook"]
    if name and (root / "notebooks" / f"{name}.ipynb").exists():
        links.append(f"[notebook](notebooks/{name}.ipynb)")
    if place["cell"]:
        links.append(reference(place["cell"], known))
    if place["function"]:
        *_, owner, name = place["function"].split(".")
        links.append(f"{{py:obj}}`{name if owner.islower() else f'{owner}.{name}'} <{place['function']}>`")
    if place["test"]:
        path, _, test = place["test"].partition("::")
        links.append(f'[test]({repository(root)}/{path} "{test}")')
    return " · ".join(filter(None, links)) or "not written yet"


def scorecard(root: Path, staged: Path) -> str:
    """The scorecard: a table for each group of claims."""
    paper = claims.load(root / "results" / "paper" / "claims.json")
    smoke = claims.load(root / "results" / "smoke" / "claims.json")
    blank = {entry["id"]: entry for entry in claims.collect(root / "results" / "nowhere")}
    places, known = evidence(root), labels(staged)
    blocks, group = [], None
    for id, place in places.items():
        claim, entry = claims.claims()[id], paper.get(id, blank[id])
        if place["group"] != group:
            group = place["group"]
            blocks.append(
                f"## {group}\n\n:::::{{list-table}}\n:header-rows: 1\n:class: scorecard\n\n* - Claim\n  - Paper and ours\n"
                "  - Verdict\n  - Evidence\n  - Re-run on this machine"
            )
        again = smoke.get(id, blank[id])["verdict"]
        rerun = badge(again) if again != "not run" else '<span class="verdict verdict-idle">not re-run</span>'
        criterion = f"<details><summary>criterion</summary>{html.escape(claim.criterion)}</details>"
        cells = [
            f"(claim-{id})=\n`{id}` [{claim.where}]{{.where}}\n\n{_plain(claim.claim)}\n\n{criterion}",
            numbers_table(entry) or '<span class="none">–</span>',
            _verdict_cell(entry),
            _links(root, place, known),
            rerun,
        ]
        row = "\n".join(f"  - {_indent(cell)}" for cell in cells)
        blocks[-1] += "\n* " + row[2:]
    return "\n:::::\n\n".join(blocks) + "\n:::::\n"


def _plain(text: str) -> str:
    """Text that Markdown leaves as it is."""
    return re.sub(r"([*_`\[\]$<>\\])", r"\\\1", text)


def _indent(text: str) -> str:
    return text.replace("\n", "\n    ")


def glance(root: Path, staged: Path) -> str:
    """Counts of the verdicts over all claims, as a row of figures."""
    paper = claims.load(root / "results" / "paper" / "claims.json")
    counts = Counter(paper[id]["verdict"] if id in paper else "not run" for id in claims.claims())
    tiles = [
        f'<div class="tile tile-{BADGES[verdict]}"><strong>{counts[verdict]}</strong>'
        f"<span>{'not run yet' if verdict == 'not run' else verdict}</span></div>"
        for verdict in claims.VERDICTS
        if counts[verdict] or verdict in ("reproduced", "partly", "not reproduced")
    ]
    total = len(claims.claims())
    return f'<div class="glance" role="group" aria-label="Verdicts on {total} claims">{"".join(tiles)}</div>\n'


def downloads(root: Path, staged: Path) -> str:
    """Download links for the claims of each profile as JSON."""
    found = [p for p in ("paper", "smoke") if (root / "results" / p / "claims.json").exists()]
    links = [f"{{download}}`{p} profile, claims.json <downloads/{p}/claims.json>`" for p in found]
    return "Download: " + ", ".join(links) if links else "No results have been collected yet."


# Runs ---------------------------------------------------------------------------------------------------------------


def duration(seconds: float) -> str:
    """Seconds in words.

    >>> duration(75)
    '1 min 15 s'
    """
    whole = math.ceil(seconds)
    hours, minutes = divmod(whole // 60, 60)
    parts = [(hours, "h"), (minutes, "min"), (whole % 60, "s")]
    shown = [f"{value} {unit}" for value, unit in parts if value]
    return " ".join(shown[:2])


def run_record(root: Path, name: str, profile: str) -> dict[str, Any]:
    """What is known of one notebook's run: provenance, seed, seconds, and whether the notebook has changed since."""
    folder = root / "results" / profile
    notebook = json.loads((folder / f"{name}.ipynb").read_text())
    record = folder / name / "record.json"
    content = json.loads(record.read_text()) if record.exists() else {"provenance": {}, "seed": None, "claims": []}
    papermill = notebook["metadata"].get("papermill", {})
    source, took = root / "notebooks" / f"{name}.ipynb", [c["seconds"] or 0 for c in content["claims"]]
    runs = content.get("runs", ())
    if runs:  # their time beside that of the execution
        took = [sum(run["seconds"] or 0 for run in runs) + (papermill.get("duration") or 0)]
    return {
        "runs": len(runs),
        "run commits": list(dict.fromkeys(run["commit"] for run in runs if run["commit"])),
        "seed": papermill.get("parameters", {}).get("seed", content["seed"]),
        "seconds": papermill.get("duration"),
        # A notebook whose training runs are stored is quick; the runs, or else its claims, know what they took.
        "computing": max([papermill.get("duration") or 0, *took]) if took else None,
        "stale": source.exists() and _sources(json.loads(source.read_text())) != _sources(notebook),
        **content["provenance"],
    }


def _sources(notebook: dict[str, Any]) -> list[str]:
    """What the code cells say, whatever their formatting and comments; the injected parameters left out."""
    cells = (cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    return [
        _parsed("".join(cell["source"]))
        for cell in cells
        if "injected-parameters" not in cell["metadata"].get("tags", [])
    ]


def _parsed(source: str) -> str:
    try:
        return ast.dump(ast.parse(source))
    except SyntaxError:  # a line magic
        return source


def _place(run: dict[str, Any]) -> str:
    """Where a run took place, short enough for a column: a CPU's make is of no interest, a GPU's is."""
    device = run.get("device", "").removesuffix(" (x86_64)")
    return device + (f" × {run['threads']}" if run.get("threads") else "")


def status(root: Path, staged: Path) -> str:
    """One row for each notebook and profile that has been executed, and the versions that they ran with."""
    rows, versions = [], Counter()
    for name in sorted(path.stem for path in (root / "notebooks").glob("*.ipynb")):
        for profile in ("paper", "smoke"):
            if not (root / "results" / profile / f"{name}.ipynb").exists():
                rows.append([f"[{name}](notebooks/{name}.ipynb)", profile, "not executed", *[""] * 6])
                continue
            run = run_record(root, name, profile)
            versions[", ".join(f"{k} {v}" for k, v in run.get("versions", {}).items())] += 1
            state = "changed since the run" if run["stale"] else "as executed"
            rows.append(
                [
                    f"[{name}](notebooks/{name}.ipynb)",
                    profile,
                    state,
                    duration(run["computing"]) if run["computing"] else "",
                    duration(run["seconds"]) if run["seconds"] else "",
                    str(run["seed"]) if run["seed"] is not None else "",
                    _place(run),
                    f"`{run['commit']}`" if run.get("commit") else "",
                    f"{run['runs']} of {', '.join(f'`{commit}`' for commit in run['run commits'])}"
                    if run["runs"]
                    else "",
                ]
            )
    if not rows:
        return "No notebook is in the book yet."
    head = [
        "Notebook",
        "Profile",
        "Source",
        "Computing",
        "Execution",
        "Seed",
        "Device",
        "Commit",
        "Stored runs",
    ]
    lines = [f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows]]
    used = [f"- {count} of the runs: {names}" for names, count in versions.most_common() if names]
    return ":::{div} wide\n" + "\n".join(lines) + "\n:::\n\nVersions:\n\n" + "\n".join(used) + "\n"


def overview(root: Path, staged: Path) -> str:
    """The landing page's picture, ``overview.jpg`` of the notebook on images, if there is one."""
    for profile in ("paper", "smoke"):
        if (root / "results" / profile / "image_representation" / "overview.jpg").exists():
            return (
                f":::{{div}} overview\n![An image, its fit by Adam with plain gradients and by Adam with separably "
                "preconditioned ones, two magnified details below each]"
                f"(downloads/{profile}/image_representation/overview.jpg)\n\n"
                "The same network, from the same initial weights, after the same number of steps of Adam: with plain gradients "
                f"(SepNN) and with separably preconditioned ones (SepPGD). This is the first seed of the {profile} profile; "
                "[the notebook](notebooks/image_representation.ipynb) has the means over all seeds.\n:::\n"
            )
    return ""


def schematic(root: Path, staged: Path) -> str:
    """The drawing of a separable network, inline so that it takes the page's colours."""
    return f'<figure class="schematic">\n{(root / "book" / "static" / "schematic.svg").read_text()}</figure>\n'


# API and anchors ----------------------------------------------------------------------------------------------------

# The order of the paper; a module that is not named here comes last.
_ORDER = [
    "tensorops",
    "activations",
    "factors",
    "separable",
    "ntk",
    "operators",
    "limits",
    "dynamics",
    "ridge",
    "preconditioning",
    "baselines",
    "streaming",
    "training",
    "metrics",
    "checkpoints",
    "approximation",
    "pde",
    "targets",
]
# What is no library: the paper's experiments, what makes results of them, the command.
_ROOMS = ["studies", "reproduce", "own"]


def modules(rooms: bool = False) -> list[str]:
    """Public modules of the library, in the paper's order, a package's own ones after it; or those of the other rooms."""
    found = [module.name.removeprefix("seplib.") for module in pkgutil.walk_packages(seplib.__path__, "seplib.")]
    order = _ROOMS if rooms else _ORDER
    names = [name for name in found if name.partition(".")[0] in order]
    return sorted(names, key=lambda name: (order.index(name.partition(".")[0]), name))


def api(root: Path, staged: Path) -> str:
    """One section of autodoc for each public module of the library."""
    return "\n".join(map(_section, modules()))


def rooms(root: Path, staged: Path) -> str:
    """The same for the modules behind the chapters."""
    return "\n".join(map(_section, modules(rooms=True)))


def _section(name: str) -> str:
    package = (Path(seplib.__file__).parent / name.replace(".", "/")).is_dir()  # whose names are those of its modules
    members = "" if package else "   :members:\n"
    return f"(api-{name})=\n## seplib.{name}\n\n```{{eval-rst}}\n.. automodule:: seplib.{name}\n{members}```\n"


def anchors(root: Path, staged: Path) -> str:
    """A row for each numbered thing of the paper, with a label and the place in the book where it is.

    That is the place with its label; without one, those of the evidence for its claims: for a figure or table the cells that
    draw it, for anything else the chapters.
    """
    known, places = labels(staged), evidence(root)
    rows = [
        ":::{list-table}\n:header-rows: 1\n:class: anchors\n\n* - In the paper\n  - What it is\n  - In the book\n  - Claims"
    ]
    for key, (text, *claim_ids) in anchor_list(root).items():
        kind, number = key.split("-", 1)
        shown = _KINDS[kind].format(number.upper().replace("-", ".") if kind == "sec" else number)
        scored = ", ".join(f"{{ref}}`{id} <claim-{id}>`" for id in claim_ids)
        targets = [places[id]["cell" if kind in ("fig", "table") else "chapter"].split("#")[-1] for id in claim_ids]
        found = [reference(target, known) for target in ([key] if key in known else dict.fromkeys(targets))]
        place = ", ".join(filter(None, found)) or "–"
        rows.append(f"* - (paper-{key})=\n    {shown}\n  - {text}\n  - {place}\n  - {scored or '–'}")
    return "\n".join(rows) + "\n:::\n"


def anchor_list(root: Path) -> dict[str, list[str]]:
    """Numbered things of the paper by key, such as ``eq-8``: what each is, and the claims that are about it."""
    entries = yaml.safe_load((root / "book" / "anchors.yml").read_text())
    return {key: [value] if isinstance(value, str) else value for key, value in entries.items()}


FRAGMENTS = {
    "scorecard": scorecard,
    "glance": glance,
    "downloads": downloads,
    "status": status,
    "overview": overview,
    "schematic": schematic,
    "api": api,
    "rooms": rooms,
    "anchors": anchors,
}
