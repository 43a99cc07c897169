"""Every public name cites its place in the paper, every place is in the book, and all evidence is where it is said to be."""

import ast
import importlib
import inspect
import pkgutil
import re
import sys
import types
from pathlib import Path

import pytest

import seplib.studies
from seplib.reproduce import claims

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "book"), str(ROOT / "book" / "_ext")]

import pages  # noqa: E402
import paper  # noqa: E402

# "Eqs. (6) and (7)", "Figs. 3 and 7-9", "Secs. 2-5", "Tables 1-9": a plural counts as a citation of each number in it.
PLURAL = re.compile(r"\b(Eqs|Secs|Figs|Tables)\.? ([\d.A()a-d]+(?:(?:, | and |-)(?:\(?[\d.A]+\)?))*)")
BARE_SECTION = re.compile(r"(?<!Sec\. )\bA\.\d+(?:\.\d+)?")
KINDS = {"Eqs": "eq", "Secs": "sec", "Figs": "fig", "Tables": "table"}


def cited(docstring: str) -> set[str]:
    """Keys of the anchors that a docstring cites, such as ``eq-8``."""
    found = {paper.anchor_label(match).removeprefix("paper-") for match in paper.ANCHOR.finditer(docstring)}
    for kind, numbers in PLURAL.findall(docstring):
        for number in re.findall(r"A\.[\d.]*\d|\d+", numbers):
            found.add(f"{KINDS[kind]}-{number.lower().replace('.', '-')}")
    return found | {f"sec-{number.lower().replace('.', '-')}" for number in BARE_SECTION.findall(docstring)}


def modules():
    """What speaks of the paper: the library and the studies. Machinery need not."""
    studies = pkgutil.walk_packages(seplib.studies.__path__, "studies.")
    machinery = {"checkpoints", "targets.files"}
    return [name for name in [*pages.modules(), *(module.name for module in studies)] if name not in machinery]


def public_objects():
    """Public functions, classes and methods of modules that speak of the paper, defined there."""
    for module_name in modules():
        module = importlib.import_module(f"seplib.{module_name}")
        for name, thing in vars(module).items():
            if name.startswith("_") or getattr(thing, "__module__", None) != module.__name__:
                continue
            if inspect.isfunction(thing) or inspect.isclass(thing):
                yield f"{module_name}.{name}", thing
            if inspect.isclass(thing):
                for method_name, method in vars(thing).items():
                    function = getattr(method, "fget", None) or getattr(method, "__func__", method)
                    if not method_name.startswith("_") and inspect.isfunction(function):
                        yield f"{module_name}.{name}.{method_name}", function


OBJECTS = dict(public_objects())


@pytest.mark.parametrize("name", OBJECTS)
def test_docstring_cites_an_anchor_of_the_paper(name):
    doc = inspect.getdoc(OBJECTS[name]) or ""
    # A method may leave it to its class, whose docstring must then do it.
    owner = OBJECTS.get(name.rpartition(".")[0])
    texts = [doc, inspect.getdoc(owner) or ""] if owner else [doc]
    assert doc, f"{name} has no docstring"
    assert any(cited(text) or "all claims" in text for text in texts), (
        f"{name} cites no place in the paper: {doc[:80]!r}"
    )


@pytest.mark.parametrize("name", OBJECTS)
def test_every_cited_anchor_has_a_label_in_the_book(name):
    unknown = cited(inspect.getdoc(OBJECTS[name]) or "") - set(pages.anchor_list(ROOT))
    assert not unknown, f"{name} cites {sorted(unknown)}, which book/anchors.yml does not know"


def test_the_parser_of_citations():
    text = "Eq. (8), Eqs. (1)-(3), Sec. A.12, Secs. 2-5, Fig. 1(b), Figs. 3 and 7-9, Table 5, Tables 2, 3; A.1.4; Theorem 2"
    expected = "eq-8 eq-1 eq-3 sec-a-12 sec-2 sec-5 fig-1 fig-3 fig-7 fig-9 table-5 table-2 table-3 sec-a-1-4 thm-2"
    assert cited(text) == set(expected.split())
    assert cited("Shapes (3) of an equation 4, section 2") == set()


@pytest.mark.parametrize(
    "text, shown",
    [
        ("-0.44", ("−0.44", "")),
        ("+1.54", ("+1.54", "")),
        ("3e-16", ("3", "−16")),
        ("-1.2e+05", ("−1.2", "5")),
        ("6.1e+00", ("6.1", "")),
        ("nan", ("–", "")),
        ("inf", ("∞", "")),
        (" <= ", ("≤", "")),
        ("w0 = -40", ("w0 = -40", "")),
    ],
)
def test_numbers_of_a_run_are_set_as_numbers(text, shown):
    assert paper._typeset(text) == shown


def test_cells_of_a_table_are_set_as_numbers_or_words():
    long = "a condition number no larger than before"
    table = (
        "<table><thead><tr><th></th><th>value</th><th>case</th><th>holds</th><th>gap</th></tr></thead><tbody>"
        f'<tr><th>a-1</th><td class="x-2">-0.50</td><td>{long}</td><td>&lt;=</td><td>nan</td></tr>'
        "<tr><th>b</th><td>1.5e-07</td><td>6x6, all</td><td>True</td><td></td></tr>"
        "<tr><th>c</th><td>nan</td><td></td><td>–</td><td>–</td></tr>"
        "</tbody></table>"
    )
    node = paper.nodes.raw("", table, format="html")
    document = paper.nodes.section("", node)
    app = types.SimpleNamespace(env=types.SimpleNamespace(get_domain=lambda _: types.SimpleNamespace(equations={})))
    paper.print_numbers(app, document, "page")
    assert node.astext() == (
        '<table><thead><tr><th></th><th>value</th><th class="words long">case</th><th class="words">holds</th><th>gap</th></tr></thead><tbody>'
        f'<tr><th>a-1</th><td class="x-2">−0.50</td><td class="words long">{long}</td><td class="words">≤</td><td>–</td></tr>'
        '<tr><th>b</th><td>1.5·10<sup>−7</sup></td><td class="words long">6x6, all</td><td class="words">True</td><td></td></tr>'
        '<tr><th>c</th><td>–</td><td class="words long"></td><td class="words">–</td><td>–</td></tr></tbody></table>'
    )


def test_everything_that_has_a_claim_or_a_label_has_a_place():
    known, places = sources(), pages.evidence(ROOT)
    lost = [
        key
        for key, (_, *ids) in pages.anchor_list(ROOT).items()
        if key not in known
        and not any(places[id]["cell" if key.startswith(("fig", "table")) else "chapter"] for id in ids)
    ]
    assert lost == []


def test_anchor_list_is_complete():
    numbered = {"eq": 18, "fig": 14, "table": 9, "thm": 3, "lem": 3, "cor": 1, "def": 1, "rem": 4}
    wanted = {f"{kind}-{number}" for kind, count in numbered.items() for number in range(1, count + 1)}
    anchors = pages.anchor_list(ROOT)
    assert wanted <= set(anchors)
    assert {key for key in anchors if key.split("-")[0] != "sec"} == wanted
    assert all(id in claims.claims() for _, *ids in anchors.values() for id in ids)


def sources():
    """Labels of the chapters and of the notebooks in the repository."""
    found = pages.labels(ROOT / "book")
    return found | {label: place for label, place in pages.labels(ROOT).items() if place.page.startswith("notebooks/")}


def test_evidence_has_every_claim_once_and_in_groups():
    evidence = pages.evidence(ROOT)
    assert sorted(evidence) == sorted(claims.claims())
    assert all(set(e) == {"group", "chapter", "notebook", "cell", "function", "test"} for e in evidence.values())
    groups = [entry["group"] for entry in evidence.values()]
    starts = [group for before, group in zip([None, *groups], groups) if group != before]
    assert len(starts) == len(set(starts)), "a group is split"


@pytest.mark.parametrize("id", claims.claims())
def test_evidence_is_where_it_is_said_to_be(id):
    entry, known = pages.evidence(ROOT)[id], sources()
    if entry["chapter"]:
        page, label = entry["chapter"].removesuffix(".md").split("#")
        assert known[label].page == page.removesuffix(".md"), f"{label} is not on page {page}"
    if entry["notebook"]:
        assert (ROOT / "notebooks" / f"{entry['notebook']}.ipynb").exists()
    if entry["cell"]:
        assert known[entry["cell"]].page == f"notebooks/{entry['notebook']}"
    if entry["function"]:
        assert callable(pkgutil.resolve_name(entry["function"]))
    if entry["test"]:
        path, name = entry["test"].split("::")
        tree = ast.parse((ROOT / path).read_text())
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_chapter_is_in_the_table_of_contents():
    toc = (ROOT / "book" / "_toc.yml").read_text()
    listed = set(re.findall(r"(?:file|root): (\S+)", toc))
    present = {path.stem for path in (ROOT / "book").glob("*.md")}
    present |= {f"notebooks/{path.stem}" for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert listed == present


def test_no_label_is_given_twice():
    seen: dict[str, str] = {}
    for path in sorted((ROOT / "book").glob("*.md")):
        for label in re.findall(
            r"^\(([\w.-]+)\)=$|^:label: *(\S+)|^\$\$ ?\(([\w.-]+)\)$", path.read_text(), re.MULTILINE
        ):
            label = "".join(label)
            assert label not in seen, f"{label} is in {seen.get(label)} and {path.name}"
            seen[label] = path.name
