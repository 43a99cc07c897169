"""The built book in a real Chromium: mathematics typeset, nothing asked of other hosts, nothing wider than a phone."""

import functools
import http.server
import os
import re
import shutil
import threading
from pathlib import Path

import pytest
import sample_book

from seplib import targets
from seplib.studies.surface import rendering

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # whatever is asked of another host fails at once
]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

# Contrast (WCAG 2) of every piece of text against what lies behind it, the lowest first.
CONTRAST = """() => {
  const parse = c => { const m = c.match(/[\\d.]+/g).map(Number); return m.length < 4 ? [...m, 1] : m; };
  const light = c => { const f = c.slice(0, 3).map(v => { v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; });
    return .2126 * f[0] + .7152 * f[1] + .0722 * f[2]; };
  const behind = e => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c[3] > .5) return c; }
    return [255, 255, 255, 1]; };
  const found = [];
  for (const e of document.querySelectorAll('article *, .bd-sidebar-primary *')) {
    if (e.closest('svg, mjx-container, script, style') || !e.offsetWidth) continue;
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())) continue;
    const style = getComputedStyle(e), a = light(parse(style.color)), b = light(behind(e));
    if (style.visibility === 'hidden' || +style.opacity < 1) continue;
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    found.push([ratio, `${e.tagName}.${e.className} "${e.textContent.trim().slice(0, 30)}" ${style.color}`]);
  }
  return found.sort((x, y) => x[0] - y[0]).slice(0, 3);
}"""


# What is wrong with the formulas of a page: a scroll bar under one in a line of text; an equation that is wider than its
# line, which at least must scroll; a number on top of its equation; a formula that the tab key stops at.
FORMULAS = """() => {
  const wider = e => e.scrollWidth > e.clientWidth + 1, where = e => e.closest('[id]').id + ': ' + e.textContent.slice(0, 30);
  const clip = e => { for (; e.tagName !== 'ARTICLE'; e = e.parentElement) if (wider(e) && getComputedStyle(e).overflowX !== 'visible') return e; };
  const all = [...document.querySelectorAll('article mjx-container')], display = all.filter(e => e.getAttribute('display') === 'true');
  const inline = all.filter(e => !display.includes(e));
  const covers = e => { const n = e.parentElement.querySelector('.eqno'); if (!n) return false;
    const a = e.getBoundingClientRect(), b = n.getBoundingClientRect();
    return Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1; };
  return {
    bars: inline.filter(e => e.offsetHeight > e.clientHeight + 3).map(where),
    long: inline.filter(e => e.querySelector('mjx-math').offsetWidth > e.clientWidth + 1).map(where),
    cut: display.filter(wider).map(where),
    stuck: display.filter(e => wider(e) && !['auto', 'scroll'].includes(getComputedStyle(clip(e)).overflowX)).map(where),
    covered: display.filter(covers).map(where),
    stops: all.filter(e => e.tabIndex >= 0 || e.hasAttribute('tabindex') && e.getAttribute('tabindex') !== '-1').map(where),
  };
}"""


# Tables that are cut where the page ends.
TABLES = """() => [...document.querySelectorAll('article table')].filter(t => {
  for (let e = t; e.tagName !== 'ARTICLE'; e = e.parentElement) if (e.scrollWidth > e.clientWidth + 1 && !/^T/.test(e.tagName)) return true;
  return false; }).map(t => t.innerText.slice(0, 60))"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def book() -> Path:
    return sample_book.real_book()


@pytest.fixture(scope="module")
def address(book):
    """The book over HTTP on this machine."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=book))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def chromium():
    """A headless Chromium; none is a failure on CI and a skip elsewhere."""
    found = next(filter(None, [os.environ.get("CHROMIUM"), *map(shutil.which, BROWSERS)]), None)
    if found is None:
        say = pytest.fail if os.environ.get("CI") else pytest.skip
        say(f"no browser: none of {', '.join(BROWSERS)} is installed and CHROMIUM is not set")
    sync_api = pytest.importorskip("playwright.sync_api") if not os.environ.get("CI") else None
    if sync_api is None:
        from playwright import sync_api
    with sync_api.sync_playwright() as playwright:
        # Scroll bars as on a desktop, where they take room and are seen.
        browser = playwright.chromium.launch(
            executable_path=found, args=FLAGS, ignore_default_args=["--hide-scrollbars"]
        )
        yield browser
        browser.close()


class Reader:
    """One browser window that notes whatever goes wrong while it opens pages."""

    def __init__(self, browser, width: int, theme: str):
        self.faults: list[str] = []
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)
        self.context.set_default_timeout(180_000)  # a loaded machine is slow, not wrong
        self.page = self.context.new_page()
        self.own = ""
        self.page.on("request", self._watch)
        self.page.on("console", lambda m: self.faults.append(f"console: {m.text}") if m.type == "error" else None)
        self.page.on("pageerror", lambda error: self.faults.append(f"script: {error}"))
        self.page.on("requestfailed", self._missed)
        self.page.on("response", lambda r: self.faults.append(f"{r.status}: {r.url}") if r.status >= 400 else None)

    def _watch(self, request):
        if not request.url.startswith((self.own, "data:", "blob:")):
            self.faults.append(f"asks another host: {request.url}")

    def _missed(self, request):
        if request.failure != "net::ERR_ABORTED":  # as when the next page is opened before an icon is there
            self.faults.append(f"failed: {request.url}")

    def open(self, url: str):
        """Open a page and wait until its formulas are typeset."""
        self.own = "file:///" if url.startswith("file") else "/".join(url.split("/")[:3])
        self.page.goto(url, wait_until="load")
        self.page.evaluate("window.MathJax?.startup?.promise?.then(() => true)")
        return self.page


@pytest.fixture
def read(chromium):
    """Open single pages; faults fail the test when it is over."""
    readers = []

    def open_page(url, width=1280, theme="light"):
        readers.append(Reader(chromium, width, theme))
        return readers[-1].open(url)

    yield open_page
    for reader in readers:
        reader.context.close()
    assert [fault for reader in readers for fault in reader.faults] == []


@pytest.fixture(scope="module")
def survey(chromium, address, book):
    """Every page opened on a phone in light mode and on a desktop in dark mode, and what was seen there."""
    seen = {}
    for width, theme in [(390, "light"), (1280, "dark")]:
        reader = Reader(chromium, width, theme)
        for file in sorted(set(book.rglob("*.html")) - set((book / "_static").rglob("*"))):
            name = file.relative_to(book).as_posix()
            if theme == "dark" and name.startswith("_modules"):
                continue
            before = len(reader.faults)
            page = reader.open(f"{address}/{name}")
            seen[name, theme] = {
                "wide": page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"),
                "formulas": page.locator("span.math, div.math").count(),
                "typeset": page.locator("mjx-container").count(),
                "misspelt": page.locator("mjx-merror, [data-mjx-error]").count(),
                "theme": page.evaluate("document.documentElement.dataset.theme"),
                "contrast": page.evaluate(CONTRAST),
                **page.evaluate(FORMULAS),
                "tables": page.evaluate(TABLES),
                "faults": reader.faults[before:],
            }
        reader.context.close()
    return seen


def test_every_page_opens_without_a_fault(survey):
    assert {key: seen["faults"] for key, seen in survey.items() if seen["faults"]} == {}
    assert len(survey) >= 20


def test_every_formula_is_typeset_without_error(survey):
    wrong = {key: seen for key, seen in survey.items() if seen["formulas"] != seen["typeset"] or seen["misspelt"]}
    assert not wrong
    assert survey["seppgd.html", "dark"]["typeset"] > 100


@pytest.mark.parametrize(
    "fault, widths",
    [
        ("bars", ["light", "dark"]),
        ("long", ["light", "dark"]),
        ("cut", ["dark"]),
        ("stuck", ["light", "dark"]),
        ("covered", ["light", "dark"]),
        ("stops", ["light", "dark"]),
    ],
)
def test_formulas_have_room(fault, widths, survey):
    assert {name: seen[fault] for (name, theme), seen in survey.items() if theme in widths and seen[fault]} == {}


def test_tables_have_room_on_a_desktop(survey):
    assert {name: seen["tables"] for (name, theme), seen in survey.items() if theme == "dark" and seen["tables"]} == {}


def test_a_notebook_begins_with_what_it_is_about(read, address):
    page = read(f"{address}/notebooks/image_noise.html")
    folded = page.locator("details.hide")
    assert folded.all_inner_texts() == [
        "Parameters and their defaults",
        "Parameters of this run",
        "Imports and settings",
    ]
    printed = page.locator(".cell_output:visible").first.inner_text()
    assert re.search(r"checksum verified|scikit-image", printed), "where the image comes from stays in sight"
    folded.last.locator("summary").click()
    assert "claims.Report(" in folded.last.inner_text() and "NoiseSettings(" in folded.last.inner_text()


def test_print_cuts_nothing(chromium, address, book):
    reader = Reader(chromium, 720, "light")  # A4 between its margins
    reader.page.emulate_media(media="print")
    cut = """() => [...document.querySelectorAll('article pre, article mjx-container[display=true], article .cell_output')].filter(
        e => e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX !== 'visible').map(e => e.textContent.slice(0, 40))"""
    found = {}
    for name in ("index", "ntk", "ntk-training", "notebooks/kernel_ridge", "notebooks/image_sensitivity"):
        page = reader.open(f"{address}/{name}.html")
        found |= {name: page.evaluate(cut)} if page.evaluate(cut) else {}
        wide = "[...document.querySelectorAll('article pre')].filter(e => e.scrollWidth > e.clientWidth + 1).length"
        assert page.evaluate(wide) == 0, "lines of code wrap"
    reader.context.close()
    assert found == {}


def test_figures_stay_legible_on_a_phone(read, address):
    page = read(f"{address}/notebooks/kernel_ridge.html", width=390)
    figure = page.locator("#fig-krr-time")
    assert figure.locator("img").bounding_box()["width"] >= 500, "9 points are more than 9 pixels"
    assert figure.evaluate("e => getComputedStyle(e).overflowX") == "auto"
    caption = figure.locator("figcaption")
    before = caption.bounding_box()
    figure.evaluate("e => e.scrollTo(150, 0)")
    assert figure.evaluate("e => e.scrollLeft") == 150
    assert abs(caption.bounding_box()["x"] - before["x"]) < 1 and before["width"] < 390


def test_no_page_is_wider_than_a_phone(survey):
    assert {name: seen["wide"] for (name, theme), seen in survey.items() if theme == "light" and seen["wide"] > 0} == {}


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_stands_out_from_its_background(theme, survey):
    pages = {name: seen for (name, mode), seen in survey.items() if mode == theme}
    assert {seen["theme"] for seen in pages.values()} == {theme}
    weak = {name: seen["contrast"] for name, seen in pages.items() if seen["contrast"] and seen["contrast"][0][0] < 4.5}
    assert weak == {}


def test_the_definition_is_typeset(read, address):
    page = read(f"{address}/seppgd.html")
    statement = page.locator("#def-1")
    assert "Definition 1" in statement.inner_text()
    assert statement.locator("mjx-container").count() > 5
    assert statement.locator("mjx-container[display=true]").first.bounding_box()["width"] > 200


def test_it_reads_from_a_file_without_a_server(read, book):
    page = read(f"file://{book}/seppgd.html")
    assert page.locator("#def-1 mjx-container").count() > 5
    page.evaluate("document.fonts.ready.then(() => true)")
    assert (
        page.evaluate("[...document.fonts].filter(f => f.family.includes('MJX') && f.status === 'loaded').length") > 0
    )


def test_scorecard_rows_become_cards_on_a_phone(read, address):
    display = "getComputedStyle(document.querySelector('table.scorecard > tbody > tr')).display"
    assert read(f"{address}/scorecard.html").evaluate(display) == "table-row"
    assert read(f"{address}/scorecard.html", width=390).evaluate(display) == "block"


def test_search_finds_a_chapter(read, address):
    page = read(f"{address}/search.html?q=Kronecker")
    page.wait_for_selector("#search-results li a")
    assert "seppgd" in " ".join(a.get_attribute("href") for a in page.locator("#search-results li a").all())


PIXELS = """() => { const c = document.querySelector('canvas'), d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
  let drawn = 0, sum = 0; for (let i = 0; i < d.length; i += 4) { drawn += d[i + 3] > 0; sum += d[i] * (i % 97); } return [drawn / d.length * 4, sum]; }"""


@pytest.mark.parametrize("width", [390, 1280])
def test_a_solid_turns_and_zooms_without_any_other_file(width, read, tmp_path):
    volume = targets.surface("column", (24, 40, 22)).values.numpy()
    page = rendering.solids({"data": volume, "upside down": volume[:, ::-1]}, (0, 1, 0), 0.8).data
    (tmp_path / "page.html").write_text(f"<!doctype html><meta name=viewport content='width=device-width'>{page}")
    opened = read(f"file://{tmp_path}/page.html", width=width)

    def look():
        opened.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))")
        return opened.evaluate(PIXELS)

    begun = look()
    assert 0.1 < begun[0] < 0.5, "the solid is drawn, and not over all of the canvas"
    canvas = opened.locator("canvas")
    canvas.focus()
    seen = [begun]
    for key in ("ArrowRight", "ArrowUp", "+"):
        opened.keyboard.press(key)
        seen.append(look())
    assert len({tuple(state) for state in seen}) == 4, "every key does something"
    assert seen[-1][0] > 1.1 * seen[-2][0], "and + enlarges"
    opened.keyboard.press("0")
    assert look() == begun
    opened.get_by_role("button", name="upside down").click()
    assert look() != begun and opened.locator("button[aria-pressed=true]").inner_text() == "upside down"
    opened.get_by_role("button", name="data").click()
    box = canvas.bounding_box()
    opened.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    opened.mouse.down()
    opened.mouse.move(box["x"] + box["width"] / 2 + 60, box["y"] + box["height"] / 2)
    opened.mouse.up()
    turned = look()
    assert turned != begun
    opened.mouse.wheel(0, -300)
    assert look()[0] > turned[0]
    assert opened.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
