"""The pages of the tiny study's report as a reader sees them."""

import io
import re
import zipfile
from base64 import b64decode
from pathlib import Path

import pytest
from PIL import Image
from selenium.webdriver import ActionChains, Keys

BROKEN_IMAGES = """
const done = arguments[0], images = [...document.images];
images.forEach((image) => (image.loading = "eager"));
Promise.all(images.map((image) => image.decode().then(() => null, () => image.getAttribute("src"))))
    .then((sources) => done(sources.filter(Boolean)));
"""
UNSEEN = """
return [...document.querySelectorAll("main :is(h1, h2, h3, p, li, table, img)")]
    .filter((element) => !element.closest("details, [hidden]") && !element.checkVisibility())
    .map((element) => element.outerHTML.slice(0, 100))
"""
CLICK = """
[...document.querySelectorAll("a")].find((link) => link.textContent.trim() === arguments[0]).click()
"""
SHOWN = "return [...document.querySelectorAll('.finding')].filter((e) => e.checkVisibility()).map((e) => e.id)"
OPEN = "return [...document.querySelectorAll('.finding[open]')].map((e) => e.id)"
OF_KIND = ".finding[data-kinds~='%s']"
COUNT_AT_PRINT = """
addEventListener("beforeprint", () => (window.atPrint = document.querySelectorAll("details[open]").length));
"""
CUT = """
return [...document.querySelectorAll("main *")]
    .filter((element) => element.scrollWidth > element.clientWidth + 1 && element.clientWidth)
    .filter((element) => getComputedStyle(element).overflowX !== "visible" || element.matches("table, pre"))
    .map((element) => element.outerHTML.slice(0, 100))
"""


@pytest.fixture(scope="module")
def site(tiny_study) -> Path:
    """The folder of the report."""
    return tiny_study.folder / "results" / "report"


@pytest.fixture(scope="module")
def pages(site) -> list[Path]:
    """Every page of it."""
    return sorted(site.glob("*.html"))


def brightness(browser, selector: str) -> float:
    """Mean grey value, from 0 (black) to 255, of what an element shows."""
    box = browser.run(
        "const e = document.querySelector(arguments[0]); e.scrollIntoView(); const r = e.getBoundingClientRect();"
        "return {x: r.x + scrollX, y: r.y + scrollY, width: r.width, height: r.height, scale: 1}",
        selector,
    )
    shot = browser.command("Page.captureScreenshot", clip=box, captureBeyondViewport=True)
    grey = Image.open(io.BytesIO(b64decode(shot["data"]))).convert("L")
    return sum(value * count for value, count in enumerate(grey.histogram())) / (grey.width * grey.height)


@pytest.mark.parametrize(
    ("dark", "width"), [pytest.param(False, 1360, marks=pytest.mark.long), (True, 1360), (False, 390)]
)
def test_every_page_is_accessible_and_fits_the_window(browser, pages, dark, width):
    browser.look(dark=dark, width=width)
    for page in pages:
        browser.open(page)
        assert browser.violations() == [], page.name
        assert browser.overflow() == 0, page.name


def test_every_page_loads_and_asks_for_nothing_but_its_files(browser, pages):
    assert len(pages) > 10
    for page in pages:
        browser.open(page)
        assert browser.driver.execute_async_script(BROKEN_IMAGES) == [], page.name
        assert browser.errors() == [], page.name
        assert browser.requests_elsewhere() == [], page.name


def test_every_figure_has_its_number_words_and_files(browser, site, pages):
    numbers = []
    for page in pages:
        browser.open(page)
        for figure in browser.driver.find_elements("css selector", "figure"):
            text = figure.text
            numbers += re.findall(r"^Figure ([0-9]+\.[0-9]+)$", text, flags=re.MULTILINE)
            assert len(figure.find_element("css selector", "img").get_attribute("alt")) >= 40
            assert "n = " in text and "How to read it." in text
            files = figure.find_elements("css selector", ".files a")
            assert [link.text for link in files] == ["CSV", "netCDF", "SVG", "PDF"]
            command = figure.find_element("css selector", "details pre").get_attribute("textContent")
            assert command.startswith("snakemake ")
    assert len(numbers) == len(set(numbers)) > 20
    assert len(numbers) == len(list((site / "figures").rglob("*.svg")))


def test_the_summary_leads_from_the_findings_to_their_figures(browser, site):
    browser.open(site / "index.html")
    headings = [heading.text for heading in browser.driver.find_elements("css selector", "main h2")]
    first = ["In brief", "What each expert serves"]
    assert headings == [*first, "Findings", "Read before you quote", "How to cite", "All figures"]
    rows = browser.driver.find_elements("css selector", ".finding")
    assert len(rows) > 10
    assert {row.find_element("css selector", ".verdict").text for row in rows} <= {"Yes", "No", "Unclear"}
    rows[0].find_element("css selector", "summary").click()
    rows[0].find_element("link text", "Figure 1.1").click()
    target = browser.run("return document.querySelector(':target')")
    assert "Figure 1.1" in target.text
    assert abs(browser.run("return arguments[0].getBoundingClientRect().top", target)) < 200


def test_a_filter_leaves_the_findings_of_a_kind_and_stands_in_the_address(browser, site):
    page = site / "index.html"
    browser.open(page)
    everything = browser.run(SHOWN)
    assert len(everything) == len(browser.driver.find_elements("css selector", ".finding"))
    for kind in ("surprising", "trained", "null"):
        expected = browser.run("return [...document.querySelectorAll(arguments[0])].map((e) => e.id)", OF_KIND % kind)
        link = browser.driver.find_element("css selector", f"[href='#show={kind}']")
        assert int(link.find_element("css selector", ".n").text) == len(expected) < len(everything)
        link.click()
        assert browser.run(SHOWN) == expected
        browser.scripts(run=False)  # the address alone is enough
        browser.open(page, f"show={kind}")
        browser.scripts(run=True)
        assert browser.run(SHOWN) == expected
        browser.open(page)
    browser.open(page, "show=null")
    browser.driver.find_element("css selector", ".filters [href='#findings']").click()
    assert browser.run(SHOWN) == everything


def test_a_finding_opens_when_the_address_names_it(browser, site):
    page = site / "index.html"
    browser.open(page)
    assert browser.run(OPEN) == []
    *_, last = browser.run(SHOWN)
    browser.open(page, last)
    assert browser.run(OPEN) == [last]
    assert 0 <= browser.run("return document.querySelector(':target').getBoundingClientRect().top") < 900
    browser.open(page, "show=null")
    assert browser.run(OPEN) == []


def test_the_tiles_are_one_tab_stop_with_arrows_and_say_what_each_expert_serves(browser, site):
    browser.open(site / "index.html")
    tiles = browser.driver.find_elements("css selector", ".tiles a")
    assert len(tiles) == 16  # two layers of eight experts
    assert [tile.get_attribute("tabindex") for tile in tiles].count("0") == 1
    browser.run("arguments[0].focus()", tiles[0])
    ActionChains(browser.driver).send_keys(Keys.ARROW_RIGHT, Keys.ARROW_DOWN).perform()
    here = browser.driver.switch_to.active_element
    assert here == tiles[9]
    told = browser.driver.find_element("css selector", ".told").text
    assert told == here.get_attribute("title") and told.startswith("Layer 1 expert 1 serves ")
    here.click()
    assert browser.driver.current_url.endswith("browser-demo.html#tab=experts&l=1&e=1")


def test_the_summary_and_the_methods_tell_how_the_jobs_went(browser, site):
    browser.open(site / "index.html")
    browser.driver.find_element("css selector", "details.identity summary").click()
    facts = {
        fact.find_element("css selector", "dt").text: fact.find_element("css selector", "dd").text
        for fact in browser.driver.find_elements("css selector", ".card > div")
    }
    date = browser.driver.find_element("css selector", ".identity [data-run=date]")
    assert re.fullmatch("[0-9]{4}-[0-9]{2}-[0-9]{2}( to .+)?", date.text)
    assert re.fullmatch("[0-9]+ finished, none failed", facts["Jobs"])
    assert facts["Wall time"].endswith("all jobs added up")
    assert "cores" in facts["Hardware"]
    assert facts["Left out"] == "0 documents of the datasets"
    assert facts["Data"].startswith("3 datasets, ")
    browser.open(site / "methods.html")
    rules = {
        row.get_attribute("id"): [cell.text for cell in row.find_elements("css selector", "td")]
        for row in browser.driver.find_elements("css selector", "#rules ~ .scroll tbody tr")
    }
    _, reads, jobs, time = rules["rule-extract_routing"]
    assert (reads, jobs, time[-1]) == ("describe_model, tokenize_dataset, train_model", "6", "s")
    assert rules["rule-build_report"][2:] == ["", ""]
    assert sum(int(jobs or 0) for _, _, jobs, _ in rules.values()) == int(facts["Jobs"].split()[0])


def test_figures_follow_the_theme_of_the_system_and_the_choice_of_the_reader(browser, site):
    page = site / "router_decisiveness.html"
    seen = {}
    for dark in (False, True):
        browser.look(dark=dark)
        browser.open(page)
        for choice in ("auto", "light", "dark"):
            browser.driver.find_element("css selector", f"#theme option[value={choice}]").click()
            seen[dark, choice] = brightness(browser, "figure img")
    assert seen[False, "auto"] == seen[False, "light"] == seen[True, "light"]
    assert seen[True, "auto"] == seen[True, "dark"] == seen[False, "dark"]
    assert seen[False, "light"] > 200 and seen[True, "dark"] < 60
    browser.open(page)
    assert browser.run("return document.documentElement.dataset.theme") == "dark"  # the choice is remembered
    browser.run("localStorage.clear()")


def test_print_is_light_opens_details_and_cuts_nothing(browser, pages):
    width = round(210 / 25.4 * 96 - 2 * 0.4 * 96)  # A4 less the browser's margins
    for page in pages:
        browser.look(dark=True)
        browser.open(page)
        browser.run(COUNT_AT_PRINT)
        closed = browser.run("return document.querySelectorAll('details:not([open])').length")
        pdf = b64decode(browser.command("Page.printToPDF")["data"])
        assert pdf.startswith(b"%PDF")
        assert browser.run("return window.atPrint") == browser.run("return document.querySelectorAll('details').length")
        assert browser.run("return document.querySelectorAll('details:not([open])').length") == closed
        browser.look(dark=True, width=width, print_=True)
        browser.run("document.querySelectorAll('details').forEach((details) => (details.open = true))")
        assert browser.overflow() == 0, page.name
        assert browser.run(CUT) == [], page.name
        if browser.run("return document.querySelector('figure img') !== null"):
            assert brightness(browser, "figure img") > 130, page.name


def test_without_javascript_every_page_is_complete(browser, pages):
    for page in (page for page in pages if not page.name.startswith("browser-")):
        browser.scripts(run=False)
        browser.open(page)
        browser.scripts(run=True)
        assert browser.run(UNSEEN) == [], page.name
        assert browser.driver.execute_async_script(BROKEN_IMAGES) == [], page.name
        assert browser.run("return document.querySelectorAll('button').length") == 0


def test_the_keyboard_skips_the_navigation(browser, site):
    browser.open(site / "index.html")
    ActionChains(browser.driver).send_keys(Keys.TAB).perform()
    assert browser.driver.switch_to.active_element.text == "Skip to the content"
    ActionChains(browser.driver).send_keys(Keys.ENTER).perform()
    assert browser.driver.switch_to.active_element.get_attribute("id") == "main"


def test_a_copy_button_stands_beside_every_command(browser, site):
    browser.open(site / "methods.html")
    assert len(browser.driver.find_elements("css selector", "pre.command")) == len(
        browser.driver.find_elements("css selector", "button")
    )
    browser.driver.find_element("xpath", "//h2[@id='rebuild']/..//button").click()
    assert browser.run("return document.getSelection().toString()") in ("", "make study\nsnakemake --cores all")


def test_the_current_page_is_in_sight_in_the_navigation_of_a_narrow_screen(browser, site):
    browser.look(width=390)
    browser.open(site / "methods.html")
    left, right = browser.run(
        "const r = document.querySelector('[aria-current]').getBoundingClientRect(); return [r.left, r.right]"
    )
    assert left >= 0 and right <= 390


def test_snakemakes_own_report_opens_with_every_figure_and_the_site(browser, snakemake_report, site, tmp_path):
    with zipfile.ZipFile(snakemake_report) as archive:
        archive.extractall(tmp_path)
    folders = sorted({figure.parent for figure in (site / "figures").rglob("*.svg")})
    assert len(folders) == 30
    for folder in folders:
        browser.open(tmp_path / "report" / "report.html")
        browser.run(CLICK, folder.parent.relative_to(site / "figures").as_posix())
        if len(list(folder.parent.glob("*/*.svg"))) > len(list(folder.glob("*.svg"))):
            browser.run(CLICK, folder.name)  # of a single chapter the report shows the figures at once
        shown = browser.run("return document.body.innerText").split()
        assert {figure.stem for figure in folder.glob("*.svg")} <= set(shown), folder
    (index,) = (tmp_path / "report").glob("data/raw/*/index.html")
    browser.open(index)
    assert browser.driver.execute_async_script(BROKEN_IMAGES) == []
    assert browser.run("return document.querySelector('h1').textContent") == "A tiny study"
    assert browser.errors() == []
    assert browser.requests_elsewhere() == []
