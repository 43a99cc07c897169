"""Labels of the book: which there are, on which page, and how to refer to them."""

import json
import re
from pathlib import Path
from typing import NamedTuple


class Label(NamedTuple):
    """A label of the book: the role that refers to it, its page, and what a link to it says."""

    role: str
    page: str
    text: str


def labels(folder: Path) -> dict[str, Label]:
    """Every label of the chapters and notebooks below a folder."""
    found = {}
    for path in sorted([*folder.glob("*.md"), *folder.glob("notebooks/*.ipynb")]):
        page = path.relative_to(folder).with_suffix("").as_posix()
        text, figures = _markdown(path)
        title = re.search(r"^# (.+)$", text, re.MULTILINE)
        title = title[1] if title else page
        for match in re.finditer(r"^\(([\w.-]+)\)=\n+(?:#+ (.+))?", text, re.MULTILINE):
            found[match[1]] = Label("ref", page, match[2] or title)
        for match in re.finditer(r"^\$\$ ?\(([\w.-]+)\)$", text, re.MULTILINE):
            found[match[1]] = Label("eq", page, "")
        for match in re.finditer(r"^[`:]{3,}\{([\w:]+)\}[^\n]*\n((?::[\w-]+:[^\n]*\n)+)", text, re.MULTILINE):
            if option := re.search(r"^:(?:label|name): *(\S+)", match[2], re.MULTILINE):
                role = "prf:ref" if match[1].startswith("prf:") else "eq" if match[1] == "math" else "numref"
                found[option[1]] = Label(role, page, "")
        found |= {name: Label("numref", page, "") for name in figures}
    return found


def _markdown(path: Path) -> tuple[str, list[str]]:
    """Markdown of a chapter or of a notebook's text cells, and the names of the notebook's figures."""
    if path.suffix == ".md":
        return path.read_text(), []
    cells = json.loads(path.read_text())["cells"]
    figures = [cell["metadata"].get("mystnb", {}).get("figure", {}).get("name") for cell in cells]
    text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return text, list(filter(None, figures))


def reference(label: str, known: dict[str, Label]) -> str:
    """MyST for a link to a label; empty if nobody defines it."""
    if label not in known:
        return ""
    role, _, text = known[label]
    text = text.replace("$", "")  # a link's text is not typeset; a letter without its dollars reads as it should
    return f"{{{role}}}`{text} <{label}>`" if text else f"{{{role}}}`{label}`"
