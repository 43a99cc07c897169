"""From results to pages: what is staged, what is refused, and that the built book is whole and needs no other host."""

import html.parser
import json
import re
import sys
import urllib.parse
from pathlib import Path

import pytest
import sample_book

from seplib.reproduce import claims

sys.path[:0] = [str(sample_book.ROOT / "book")]

import build  # noqa: E402
import pages  # noqa: E402

NAME = sample_book.NAME


def staged(root: Path) -> str:
    """Source of the staged notebook's text cells."""
    build.stage(root, root / "_build" / "stage")
    cells = json.loads((root / "_build" / "stage" / "notebooks" / f"{NAME}.ipynb").read_text())["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def edit(path: Path, change) -> None:
    """Change a JSON file in place."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


# Staging ------------------------------------------------------------------------------------------------------------


def test_a_smoke_run_stands_under_a_banner_after_the_title(tmp_path):
    text = staged(sample_book.make(tmp_path, paper=False))
    assert text.startswith("# Images\n")
    assert text.index("# Images") < text.index("Smoke run") < text.index("What is tested")
    assert "smoke profile · cpu" in text


@pytest.mark.parametrize("paper", [False, True])
def test_a_chapter_with_numbers_of_a_smoke_run_says_so(tmp_path, paper):
    staged(sample_book.make(tmp_path, paper=paper))
    text = (tmp_path / "_build" / "stage" / "index.md").read_text()
    assert (f"from a smoke run of this machine, small settings to see that everything works: [{NAME}]" in text) != paper
    assert text.startswith("# Sample\n")


def test_a_paper_run_is_preferred_and_carries_a_note_instead(tmp_path):
    text = staged(sample_book.make(tmp_path, paper=True))
    assert "Smoke run" not in text
    assert "paper profile · cpu" in text and "1 min 16 s of computing" in text
    assert f"<../downloads/paper/{NAME}/psnr.csv>" in text
    assert not re.search(r"20\d\d-\d\d-\d\d", text), "provenance holds no dates"


def test_only_a_notebook_with_claims_knows_what_its_runs_took(tmp_path):
    root = sample_book.make(tmp_path, paper=True)
    record = root / "results" / "paper" / NAME / "record.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"claims": []}))
    text = staged(root)
    assert "of execution" in text and "of computing" not in text


def test_parameters_imports_and_settings_are_folded_away_but_not_what_they_print(tmp_path):
    root = sample_book.make(tmp_path, paper=True)
    printed = {"output_type": "stream", "name": "stdout", "text": "Plane, checksum verified"}
    settings = {
        "output_type": "execute_result",
        "data": {"text/plain": "Settings()"},
        "metadata": {},
        "execution_count": 3,
    }
    setup = sample_book.code("setup", "import seplib", 3, [printed, settings], tags=["hide-cell"])
    for path in (root / "notebooks", root / "results" / "paper"):
        edit(path / f"{NAME}.ipynb", lambda nb: nb["cells"].insert(-2, setup))
    staged(root)
    cells = json.loads((root / "_build" / "stage" / "notebooks" / f"{NAME}.ipynb").read_text())["cells"]
    assert [(cell["id"], cell["metadata"]["tags"]) for cell in cells] == [
        ("words", []),
        ("parameters", ["parameters", "hide-input"]),
        ("injected", ["injected-parameters", "hide-input"]),
        ("setup", ["hide-cell"]),
        ("setup-printed", ["remove-input"]),
        ("figure", []),
        ("glue", []),
    ]
    prompts = [cell["metadata"].get("mystnb", {}).get("code_prompt_show") for cell in cells[1:4]]
    assert prompts == ["Parameters and their defaults", "Parameters of this run", "Imports and settings"]
    assert cells[3]["outputs"] == [settings] and cells[4]["outputs"] == [printed]


def test_glued_numpy_scalars_become_numbers(tmp_path):
    root = sample_book.make(tmp_path, paper=True)
    key = build.GLUED
    edit(
        root / "results" / "paper" / f"{NAME}.ipynb",
        lambda nb: nb["cells"][4]["outputs"][0]["data"].update({key: "np.float64(6.125)"}),
    )
    staged(root)
    cells = json.loads((root / "_build" / "stage" / "notebooks" / f"{NAME}.ipynb").read_text())["cells"]
    assert cells[4]["outputs"][0]["data"][key] == "6.125"


def test_a_notebook_changed_since_its_run_says_so(tmp_path):
    root = sample_book.make(tmp_path, paper=True)
    edit(root / "notebooks" / f"{NAME}.ipynb", lambda nb: nb["cells"][2].update(source="show( )  # formatted"))
    assert "has changed since" not in staged(root)
    edit(root / "notebooks" / f"{NAME}.ipynb", lambda nb: nb["cells"][2].update(source="show(1)"))
    assert "has changed since this run" in staged(root)


def test_words_come_from_the_repository_and_outputs_from_the_run(tmp_path):
    root = sample_book.make(tmp_path, paper=True)

    def change(notebook):
        notebook["cells"][0]["source"] += " Mended."
        notebook["cells"][2]["source"] = "show(1)"
        notebook["cells"][2]["metadata"]["mystnb"]["figure"]["caption"] = "Another caption."
        notebook["cells"].insert(1, sample_book.markdown("new", "A new paragraph."))
        notebook["cells"].append(sample_book.code("later", "later()", None))

    edit(root / "notebooks" / f"{NAME}.ipynb", change)
    assert "Mended." in staged(root)
    cells = json.loads((root / "_build" / "stage" / "notebooks" / f"{NAME}.ipynb").read_text())["cells"]
    assert [cell["id"] for cell in cells] == ["words", "new", "parameters", "injected", "figure", "glue"]
    assert cells[4]["source"] == "show()" and "image/png" in cells[4]["outputs"][0]["data"]
    assert cells[4]["metadata"]["mystnb"]["figure"]["caption"] == "Another caption."


def test_nothing_stale_stays_in_the_stage(tmp_path):
    root = sample_book.make(tmp_path, paper=False)
    staged(root)
    leftover = root / "_build" / "stage" / "leftover.md"
    leftover.write_text("# Old page")
    old_output = root / "_build" / "stage" / "_build" / "html" / "old.html"
    old_output.parent.mkdir(parents=True)
    old_output.touch()
    sample_book.write_results(root, "smoke", "9.75")
    staged(root)
    assert not leftover.exists() and not old_output.exists()
    assert "9.75" in (root / "_build" / "stage" / "notebooks" / f"{NAME}.ipynb").read_text()


# Refusals -----------------------------------------------------------------------------------------------------------


def break_error(root):
    error = {"output_type": "error", "ename": "ValueError", "evalue": "k is too large", "traceback": []}
    edit(root / "results" / "smoke" / f"{NAME}.ipynb", lambda nb: nb["cells"][3].update(outputs=[error]))


def break_count(root):
    edit(root / "results" / "smoke" / f"{NAME}.ipynb", lambda nb: nb["cells"][3].update(execution_count=None))


def break_title(root):
    edit(root / "notebooks" / f"{NAME}.ipynb", lambda nb: nb["cells"][0].update(source="No title"))


def break_figure(root):
    edit(root / "notebooks" / f"{NAME}.ipynb", lambda nb: nb["cells"][2]["metadata"]["mystnb"].pop("image"))


def break_results(root):
    (root / "results" / "smoke" / f"{NAME}.ipynb").unlink()


def break_toc(root):
    toc = root / "book" / "_toc.yml"
    toc.write_text(toc.read_text().replace(f"  - file: notebooks/{NAME}\n", ""))


def break_notebooks(root):
    (root / "notebooks" / f"{NAME}.ipynb").unlink()


def break_fragment(root):
    (root / "book" / "index.md").write_text("# Index\n\n<!-- seplib:weather -->\n")


@pytest.mark.parametrize(
    "damage, message",
    [
        (break_error, rf"results/smoke/{NAME}.ipynb, cell 4: holds the error ValueError: k is too large"),
        (break_count, rf"results/smoke/{NAME}.ipynb, cell 4: was never executed"),
        (break_title, rf"notebooks/{NAME}.ipynb: the first cell must be Markdown and hold the title"),
        (break_figure, rf"notebooks/{NAME}.ipynb: cell 4 shows a figure and its metadata no alternative text"),
        (break_results, rf"notebook {NAME} has not been executed: .*run `make figures PROFILE=smoke`"),
        (break_toc, rf"notebooks/{NAME}.ipynb is not in book/_toc.yml"),
        (break_notebooks, rf"book/_toc.yml lists notebooks/{NAME}, but there is no such notebook"),
        (break_fragment, r"book/index.md asks for the fragment 'weather'; there are .*scorecard"),
    ],
    ids=lambda value: getattr(value, "__name__", "said"),
)
def test_what_cannot_be_shown_is_refused_in_one_line(damage, message, tmp_path, capsys):
    root = sample_book.make(tmp_path, paper=False)
    damage(root)
    assert build.main(root=root) == 1
    said = capsys.readouterr().err
    assert re.fullmatch(rf"book: {message}.*\n", said), said


def test_a_failed_build_leaves_the_last_good_book(tmp_path, monkeypatch, capsys):
    root = sample_book.make(tmp_path, paper=False)
    good = root / "_build" / "html" / "index.html"
    good.parent.mkdir(parents=True)
    good.write_text("good")

    def fail(*_):
        raise build.Refused("no")

    monkeypatch.setattr(build, "render", fail)
    assert build.main(root=root) == 1
    assert good.read_text() == "good"


def test_replacing_leaves_exactly_the_new_folder(tmp_path):
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    build.replace(tmp_path / "new", tmp_path / "old")
    assert [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")] == ["old", "old/new"]


# Fragments ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value, text",
    [
        (None, "–"),
        (26.48, "26.48"),
        (33.3, "33.30"),
        (-0.05, "−0.05"),
        (7, "7"),
        (1234.5, "1234"),
        (49500.0, "49500"),
        (0.0, "0"),
        (3.14e-16, "3.14·10<sup>−16</sup>"),
        ("below <1>", "below &lt;1&gt;"),
    ],
)
def test_numbers_are_printed_for_readers(value, text):
    assert pages._number(value) == text


@pytest.mark.parametrize("seconds, text", [(0.2, "1 s"), (75.2, "1 min 16 s"), (3600, "1 h"), (3725, "1 h 2 min")])
def test_durations_are_printed_for_readers(seconds, text):
    assert pages.duration(seconds) == text


def test_every_verdict_has_a_badge():
    assert set(pages.BADGES) == set(claims.VERDICTS)


def test_labels_are_found_in_every_form(tmp_path):
    (tmp_path / "page.md").write_text(
        "(here)=\n# Title\n\n(there)=\nText\n\n$$\na\n$$ (eq-1)\n\n```{prf:lemma} L\n:label: lem-9\n:nonumber:\n\nx\n```\n"
        "```{math}\n:label: eq-2\nb\n```\n:::{figure} a.png\n:name: fig-a\n:::\n"
    )
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "n.ipynb").write_text(json.dumps(sample_book.notebook("1")))
    found = pages.labels(tmp_path)
    assert {label: (place.role, place.page) for label, place in found.items()} == {
        "here": ("ref", "page"),
        "there": ("ref", "page"),
        "eq-1": ("eq", "page"),
        "eq-2": ("eq", "page"),
        "lem-9": ("prf:ref", "page"),
        "fig-a": ("numref", "page"),
        "fig-sample": ("numref", "notebooks/n"),
    }
    assert found["there"].text == "Title"


def test_a_link_says_its_title_without_the_source_of_formulas():
    known = {"here": pages.Label("ref", "page", "Modulation and $k$"), "eq-1": pages.Label("eq", "page", "")}
    assert pages.reference("here", known) == "{ref}`Modulation and k <here>`"
    assert pages.reference("eq-1", known) == "{eq}`eq-1`" and pages.reference("nowhere", known) == ""


# The built book -----------------------------------------------------------------------------------------------------


class Page(html.parser.HTMLParser):
    """What a page holds: addresses that a browser loads by itself, links that a reader may follow, the identifiers that
    these lead to, and of its article the pictures and the text outside of code.
    """

    def __init__(self, page: Path):
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.pictures: list[dict[str, str]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(page.read_text())

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag):
        if tag in self._open:  # with it ends whatever was left open inside
            del self._open[len(self._open) - 1 - self._open[::-1].index(tag) :]

    def handle_data(self, data):
        if "article" in self._open and not {"pre", "code", "script", "style"} & set(self._open):
            self.text += data

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag not in ("img", "input", "br", "hr", "meta", "link", "source", "embed", "path", "circle", "rect"):
            self._open.append(tag)
        self.ids |= {attributes[name] for name in ("id", "name") if attributes.get(name)}
        if tag == "a" and attributes.get("href"):
            self.links.append(attributes["href"])
        if tag == "img" and "article" in self._open:
            self.pictures.append(attributes)
        if tag in ("script", "img", "iframe", "source", "video", "audio", "embed"):
            self.loaded.append(attributes.get("src"))
        if tag == "object":
            self.loaded.append(attributes.get("data"))
        if tag == "link" and attributes.get("rel") not in ("next", "prev", "index", "search", "canonical", "author"):
            self.loaded.append(attributes.get("href"))


def read(book: Path) -> dict[Path, Page]:
    """Every page of a book, by its whole path: pages in different folders have the same name."""
    book = book.resolve()
    return {page: Page(page) for page in sorted(set(book.rglob("*.html")) - set((book / "_static").rglob("*")))}


def check_assets(book: Path) -> None:
    """Everything that the pages load lies in the book."""
    for page, content in read(book).items():
        for address in filter(None, content.loaded):
            if address.startswith("data:"):
                continue
            assert not re.match(r"(?:\w+:)?//", address), f"{page.name} loads {address}"
            assert (page.parent / re.split(r"[?#]", address)[0]).exists(), f"{page.name}: {address} is missing"
    for sheet in book.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", sheet.read_text()), (
            f"{sheet.name} loads from a host"
        )


@pytest.fixture(scope="session")
def sample(tmp_path_factory) -> Path:
    """The sample book, rendered."""
    root = sample_book.make(tmp_path_factory.mktemp("book"), paper=True)
    assert build.main(root=root) == 0
    return root / "_build" / "html"


def text_of(page: Path) -> str:
    """A page's article without its tags."""
    article = re.search(r"<article.*</article>", page.read_text(), re.DOTALL)[0]
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", article))


def test_every_picture_and_script_of_the_sample_is_there(sample):
    check_assets(sample)


def test_every_picture_and_script_of_the_book_is_there():
    check_assets(sample_book.real_book())


def test_no_source_stands_on_a_page():
    found = {
        page: re.findall(
            r"\{(?:prf|glue|ref|numref|eq|cite|py|doc|math|margin)[:}].{,40}|^\([\w.-]+\)=|:::|\$\$", text.text, re.M
        )
        for page, text in read(sample_book.real_book()).items()
    }
    assert {page: source for page, source in found.items() if source} == {}
    assert len(found) > 40


def test_every_figure_says_what_it_shows():
    pages_read = read(sample_book.real_book())
    alts = [
        (page, picture.get("alt", ""))
        for page, content in pages_read.items()
        for picture in content.pictures
        if page.name != "py-modindex.html"
    ]
    assert [(page, alt) for page, alt in alts if len(alt) < 5 or re.search(r"/|\.(svg|png|jpe?g)$", alt)] == []
    figures = [alt for _, alt in alts if alt.endswith(".")]
    assert len(figures) == len(set(figures)) >= 43, "a sentence of its own for each"


def test_every_link_inside_the_book_leads_somewhere():
    pages_read, dead = read(sample_book.real_book()), []
    for page, content in pages_read.items():
        for link in content.links if "_modules" not in page.parts else []:  # there Sphinx guesses where things are
            address, _, fragment = urllib.parse.unquote(link).partition("#")
            if re.match(r"\w+:|//", link):
                continue
            target = (page.parent / address).resolve() if address else page.resolve()
            if not target.exists() or (fragment and target in pages_read and fragment not in pages_read[target].ids):
                dead.append(f"{page}: {link}")
    assert dead == []


def test_statements_and_equations_carry_the_papers_numbers(sample):
    text = text_of(sample / "index.html")
    assert "Definition 1 (A thing)" in text and "Lemma A" in text
    assert "see Fig. 1 , Definition 1 , Lemma A and (8)" in text
    assert re.findall(r'<span class="eqno">\((\w+)', (sample / "index.html").read_text()) == ["8", "a"]
    assert re.findall(r'<span class="eqno">\((\w+)', (sample / "chapter.html").read_text()) == ["1a", "1b"]
    assert "is 6.1 , see Lemma B and (1b) , after Lemma A and (a)" in text_of(sample / "chapter.html")


def test_glue_and_picture_come_from_the_paper_run(sample):
    assert "The gain is 6.12 dB" in text_of(sample / "index.html")
    assert "overview.jpg" in (sample / "index.html").read_text()
    assert "The gain is 6.12 dB" in text_of(sample / "notebooks" / f"{NAME}.html")


def test_scorecard_shows_every_claim_with_verdict_and_evidence(sample):
    page = (sample / "scorecard.html").read_text()
    for id in claims.claims():
        assert f'id="claim-{id}"' in page
    rows = {
        m[1]: m[0]
        for m in re.finditer(
            r'<tr class="row-\w+"><td>.*?id="claim-([\w-]+)".*?</tr>(?=\s*(?:<tr class="row|</tbody>\s*</table>\s*</div>))',
            page,
            re.DOTALL,
        )
    }
    assert set(rows) == set(claims.claims())
    badges = {id: re.findall(r'<span class="verdict [^>]*>([^<]+)', row) for id, row in rows.items()}
    assert badges["lem-2"] == ["reproduced", "reproduced"]
    assert badges["fig-3-image"] == ["partly", "partly"]
    assert badges["table-3"] == ["not reproduced", "not reproduced"]
    assert badges["thm-2"] == ["not run yet", "not re-run"]
    assert "fails: Peppers<" in rows["fig-3-image"], "only the failing cases are named"
    assert "nearest: all, 3.10·10<sup>−16</sup> ≤ 1.00·10<sup>−10</sup>, distance 1.000<" in rows["lem-2"]
    near = "nearest: signs, −0.4 &gt; 0, distance −0.0921 (within one spread of its threshold)<"
    assert near in rows["table-3"] and "nearest" not in rows["fig-3-image"], "bare cases have no distance"
    assert "25.43" in rows["fig-3-image"] and "± 0.08" in rows["fig-3-image"] and "26.48" in rows["fig-3-image"]
    assert "<summary>7 numbers</summary>" in rows["table-3"]
    assert f"notebooks/{NAME}.html" in rows["fig-3-image"]
    assert "api.html#seplib.preconditioning.SepPGD" in rows["fig-3-image"]
    assert ">cotangents<" in rows["lem-2"] and ">CP.grid<" in rows["a-1-1"]
    assert "https://github.com/seplib/seplib/blob/main/tests/test_seppgd.py" in rows["lem-2"]


def test_counts_at_a_glance_are_those_of_the_claims(sample):
    for page in ("index", "scorecard"):
        tiles = re.findall(r"<strong>(\d+)</strong><span>([^<]+)", (sample / f"{page}.html").read_text())
        assert {name: int(n) for n, name in tiles} == {
            "reproduced": 1,
            "partly": 1,
            "not reproduced": 1,
            "not run yet": len(claims.claims()) - 3,
        }


def test_results_can_be_downloaded(sample):
    names = {path.name for path in (sample / "_downloads").rglob("*.*")}
    assert {"claims.json", "psnr.csv", "record.json"} <= names


def test_status_has_a_row_for_each_profile(sample):
    text = text_of(sample / "status.html")
    assert re.search(r"image_representation paper as executed 1 min 16 s 1 min 16 s 7 cpu", text)
    assert re.search(r"image_representation smoke as executed 2 h 1 min 16 s 7 cpu", text)


def test_docstrings_link_to_the_place_in_the_paper(sample):
    page = (sample / "api.html").read_text()
    assert 'href="anchors.html#paper-eq-8"' in page
    assert 'id="seplib.preconditioning.SepPGD"' in page
    assert "jaxtyping" not in text_of(sample / "api.html")


def test_edit_buttons_point_to_the_sources(sample):
    assert "/edit/main/book/howto-rerun.md" in (sample / "howto-rerun.html").read_text()
    notebook = (sample / "notebooks" / f"{NAME}.html").read_text()
    assert f"/edit/main/notebooks/{NAME}.ipynb" in notebook
    assert f"colab.research.google.com/github/seplib/seplib/blob/main/notebooks/{NAME}.ipynb" in notebook


def test_a_warning_fails_the_build_and_is_shown(tmp_path, capsys):
    root = sample_book.make(tmp_path, paper=False)
    with (root / "book" / "index.md").open("a") as chapter:
        chapter.write("\nSee {prf:ref}`thm-99`.\n")
    assert build.main(root=root) == 1
    said = capsys.readouterr().err
    assert "Jupyter Book failed" in said and "index.md" in said and "thm-99" in said
    assert not (root / "_build" / "html").exists()
