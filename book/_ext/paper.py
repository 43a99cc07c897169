"""The paper's numbers for the paper's statements, and links from docstrings into the book.

A statement labelled ``thm-2`` is called Theorem 2 wherever it stands, an equation labelled ``eq-8`` is (8). Our own get
letters in the order of reading: Proposition C is unique in the book, (7c) is the third equation of chapter 7. "Eq. (8)" in
a docstring becomes a link to the page that says where that is in the book. Numbers of a run are set as numbers, its words as words.
"""

import itertools
import re
import string
import types
from collections import defaultdict

import bs4
from docutils import nodes

import seplib

_SHORT = {"theorem": "thm", "lemma": "lem", "corollary": "cor", "definition": "def", "remark": "rem"}

ANCHOR = re.compile(
    r"\b(?:Eq\. \((?P<eq>\d+)\)|Sec\. (?P<sec>A\.\d+(?:\.\d+)?|\d)|Fig\. (?P<fig>\d+)(?:\([a-d]\))?|Table (?P<table>\d)"
    r"|Theorem (?P<thm>\d)|Lemma (?P<lem>\d)|Corollary (?P<cor>\d)|Definition (?P<def>\d)|Remark (?P<rem>\d))"
)


def _letters(count):
    word = ""
    while count >= 0:
        word, count = string.ascii_lowercase[count % 26] + word, count // 26 - 1
    return word


def letter_equations(app, doctree):
    """Give every labelled equation its number on its page: the paper's for ``eq-N``, letters for ours."""
    equations = app.env.get_domain("math").equations
    own = 0
    for node in doctree.findall(nodes.math_block):
        label = node.get("label")
        if label is None:
            continue
        if match := re.fullmatch(r"eq-(\d+)", label):
            number = match[1]
        else:
            number, own = _letters(own), own + 1
        equations[label] = (app.env.docname, number)


def number_equations(app, env):
    """Put the chapter's number before the letter of an equation, once the chapters have theirs."""
    equations = env.get_domain("math").equations
    for label, (docname, number) in equations.items():
        if letter := re.search(r"[a-z]+$", number):
            chapter = env.toc_secnumbers.get(docname, {}).get("", ("",))[0]
            equations[label] = (docname, f"{chapter}{letter[0]}")
    return []


def print_numbers(app, doctree, docname):
    """Write the numbers of equations beside them, and those that a run has glued or tabulated as a reader writes them."""
    equations = app.env.get_domain("math").equations
    for node in doctree.findall(nodes.math_block):
        if node.get("label"):
            node["number"] = equations[node["label"]][1]
    for node in doctree.findall(nodes.inline):
        if "pasted-text" in node["classes"]:
            mantissa, exponent = _typeset(node.astext())
            node.children = [nodes.Text(mantissa)]
            if exponent:
                node += [nodes.Text("·10"), nodes.superscript("", exponent)]
    for node in doctree.findall(nodes.raw):
        if node["format"] == "html" and "</td>" in node.astext():
            node.children = [nodes.Text(_tables(node.astext()))]


_NUMBER = re.compile(r"[+−]?(?:[\d.]+(?:·10−?\d+)?%?|∞)")
_SIGNS = {"nan": "–", "inf": "∞", "-inf": "−∞", "<=": "≤", ">=": "≥"}


def _typeset(text):
    """Mantissa and exponent of a number, with signs for hyphens; signs for what has one, anything else as it is."""
    match = re.fullmatch(r"\s*([+-]?\d+(?:\.\d+)?)(?:e([+-]\d+))?\s*", text)
    if not match:
        return _SIGNS.get(text.strip(), text), ""
    exponent = int(match[2] or 0)
    return match[1].replace("-", "−"), f"{exponent}".replace("-", "−") if exponent else ""


def _tables(html):
    """Tables of a notebook: numbers and signs as a reader writes them, columns of words marked as such."""
    soup = bs4.BeautifulSoup(html, "html.parser")
    for table in soup.find_all("table"):
        rows = [row.find_all("td") for row in table.find_all("tr")]
        for cell in itertools.chain(*rows):
            mantissa, exponent = _typeset(cell.get_text())
            if exponent:
                cell.string = f"{mantissa}·10"
                cell.append(soup.new_tag("sup", string=exponent))
            elif mantissa != cell.get_text():
                cell.string = mantissa
        # Counted from the right: on the left a row may have headers, and fewer of them where one spans several rows.
        heads = [row.find_all("th") for row in table.select("thead tr")]
        for place, column in enumerate(itertools.zip_longest(*(row[::-1] for row in rows if row)), 1):
            cells = [cell for cell in column if cell]
            texts = [text for cell in cells if (text := cell.get_text().strip().strip("–"))]
            if texts and not any(_NUMBER.fullmatch(text) for text in texts):
                kind = ["words", "long"] if max(map(len, texts)) > 24 else ["words"]
                for cell in [*cells, *(head[-place] for head in heads if len(head) >= place)]:
                    cell["class"] = [*cell.get("class", []), *kind]
    return str(soup)


def keep_punctuation(app, doctree):
    """Keep an inline formula and the punctuation behind it on one line; a browser would break between them."""
    for formula in list(doctree.findall(nodes.math)):
        following = formula.next_node(descend=False, siblings=True)
        if not isinstance(following, nodes.Text) or not (mark := re.match(r"[,.;:!?)’]+", following)):
            continue
        parent, place = formula.parent, formula.parent.index(formula)
        rest = nodes.Text(following[mark.end() :])
        parent[place : place + 2] = [nodes.inline("", "", formula, nodes.Text(mark[0]), classes=["nobr"]), rest]


def number_statements(app, env):
    """Give every theorem-like statement its number, after Sphinx has numbered all of them in its own way."""
    own = defaultdict(int)
    for docname in _reading_order(env, env.config.root_doc):
        for kind, numbers in env.toc_fignumbers.get(docname, {}).items():
            for label in numbers:
                if label not in getattr(env, "proof_list", {}):
                    continue
                match = re.fullmatch(rf"{_SHORT.get(kind, kind)}-(\d+)", label)
                if match:
                    numbers[label] = (match[1],)
                else:
                    numbers[label] = (_letters(own[kind]).upper(),)
                    own[kind] += 1
    return []


def _reading_order(env, docname):
    yield docname
    for below in env.toctree_includes.get(docname, []):
        yield from _reading_order(env, below)


def anchor_label(match):
    """Label of the anchor page's row for a match of :data:`ANCHOR`: ``paper-eq-8``, ``paper-sec-a-12``."""
    kind, number = next((k, v) for k, v in match.groupdict().items() if v)
    return f"paper-{kind}-{number.lower().replace('.', '-')}"


def plain_returns(app, what, name, obj, options, lines):
    """Keep napoleon from taking the words before the first colon of a "Returns:" section for a type."""
    for i in range(len(lines) - 1):
        if lines[i].strip() == "Returns:":
            indent = len(lines[i + 1]) - len(lines[i + 1].lstrip())
            lines[i + 1] = lines[i + 1][:indent] + ": " + lines[i + 1][indent:]


def link_anchors(app, what, name, obj, options, lines):
    """Turn anchors in a docstring into links."""
    for i, line in enumerate(lines):
        if ">>>" not in line and "::" not in line:
            lines[i] = ANCHOR.sub(lambda m: f":ref:`{m[0]} <{anchor_label(m)}>`", line)


def resolve_reexport(app, env, node, contnode):
    """Resolve ``seplib.SepPGD`` to ``seplib.preconditioning.SepPGD``, where it is documented, and so on in the rooms."""
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or not target.startswith("seplib."):
        return None
    thing, (first, *rest) = seplib, target.split(".")[1:]
    while isinstance(thing := getattr(thing, first, None), types.ModuleType) and rest:
        first, *rest = rest
    home = getattr(thing, "__module__", None)
    full = ".".join([home or "", first, *rest])
    if home is None or full == target:
        return None
    domain = env.get_domain("py")
    return domain.resolve_xref(env, node["refdoc"], app.builder, node["reftype"], full, node, contnode)


def source_folder(app, pagename, templatename, context, doctree):
    """Chapters lie in ``book/``, notebooks in ``notebooks/``: point the edit button at the right one."""
    context["doc_path"] = "" if pagename.startswith("notebooks/") else "book"


def without_thebe(app, pagename, templatename, context, doctree):
    """Leave out Thebe's scripts: nobody uses them here, and loaded twice, as they are, Chromium reports an error."""
    context["script_files"] = [
        script for script in context["script_files"] if "thebe" not in f"{script.filename} {script.attributes}".lower()
    ]


def setup(app):
    """Connect to Sphinx."""
    app.connect("doctree-read", letter_equations)
    app.connect("doctree-read", keep_punctuation)
    app.connect("env-get-updated", number_statements, priority=900)
    app.connect("env-get-updated", number_equations, priority=900)
    app.connect("doctree-resolved", print_numbers)
    app.connect("autodoc-process-docstring", link_anchors, priority=900)
    app.connect("autodoc-process-docstring", plain_returns, priority=100)
    app.connect("missing-reference", resolve_reexport)
    app.connect("html-page-context", source_folder, priority=100)
    app.connect("html-page-context", without_thebe, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
