"""The search in the header of every page."""

import time

import browser_cases
import pytest
from selenium.webdriver.common.keys import Keys

from gatebook.report import search

HOSTILE = "<img src=x onerror='window.hacked = 1'>"
EXPERTS = [
    [
        3,
        0,
        "code: 30 % of its tokens; also prose.",
        ["def", " define", HOSTILE],
        "browser-tiny.html#tab=experts&l=3&e=0",
    ],
    [3, 1, "prose: 20 % of its tokens; also code.", [" cat"], "browser-tiny.html#tab=experts&l=3&e=1"],
    [7, 1, "nothing beyond its share.", ["def"], "browser-tiny.html#tab=experts&l=7&e=1"],
]
ENTRIES = [
    ["Finding", "Do experts work together?", "Yes, in pairs.", "pairs.html#finding-1"],
    ["Figure", "Figure 2.1 Lift of pairs", "Per layer.", "pairs.html#figure-1"],
    ["Page", "Methods", "", "methods.html"],
]
INDEX = {"entries": ENTRIES, "models": [{"label": "tiny", "browser": "browser-tiny.html", "experts": EXPERTS}]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("search")
    browser_cases.write(made, browser_cases.Study())
    (made / search.FILE).write_text(search.script(INDEX))
    return made


@pytest.fixture
def asked(browser, folder):
    """A function that types a query after the key / and returns the text and address of every hit."""

    def ask(query: str) -> list[list[str]]:
        browser.open(folder / "browser-tiny.html", "tab=experts&l=3&e=0")
        browser.driver.switch_to.active_element.send_keys("/")
        browser.driver.switch_to.active_element.send_keys(query)
        for _ in range(200):
            if browser.run("return document.querySelectorAll('#found a, #found p').length"):
                break
            time.sleep(0.02)
        return browser.run(
            "return [...document.querySelectorAll('#found a')].map("
            "(link) => [link.querySelector('strong').textContent, link.getAttribute('href')])"
        )

    return ask


def test_experts_are_found_by_name_and_by_what_they_serve_first(asked):
    assert asked("layer 7 expert 1")[0] == ["Layer 7 expert 1", EXPERTS[2][4]]
    assert asked("L3E0")[0] == ["Layer 3 expert 0", EXPERTS[0][4]]
    pair = ["Layer 3 experts 0 and 1", "browser-tiny.html#tab=experts&l=3&e=0,1"]
    assert asked("l3e0,1")[:3] == [pair, ["Layer 3 expert 0", EXPERTS[0][4]], ["Layer 3 expert 1", EXPERTS[1][4]]]
    assert asked("layer 3 experts 0 and 9")[0] == ["Layer 3 expert 0", EXPERTS[0][4]]
    assert [name for name, _ in asked("code")][:2] == ["Layer 3 expert 0", "Layer 3 expert 1"]
    assert [name for name, _ in asked("prose")][:2] == ["Layer 3 expert 1", "Layer 3 expert 0"]


def test_tokens_findings_figures_and_pages_are_found(asked, browser):
    assert asked("def")[:3] == [
        ["def", "browser-tiny.html#tab=tokens&q=def"],
        ["·define", "browser-tiny.html#tab=tokens&q=+define"],
        ["All tokens that contain “def”", "browser-tiny.html#tab=tokens&q=def"],
    ]
    assert "layer 3 expert 0, layer 7 expert 1" in browser.run("return document.querySelector('#found').textContent")
    assert ["Do experts work together?", "pairs.html#finding-1"] in asked("together pairs")
    assert ["Figure 2.1 Lift of pairs", "pairs.html#figure-1"] in asked("lift")
    assert ["Methods", "methods.html"] in asked("meth")


def test_the_keyboard_goes_through_the_hits_and_closes_them(asked, browser):
    hits = asked("def")
    for key in (Keys.ARROW_DOWN, Keys.ARROW_DOWN):
        browser.driver.switch_to.active_element.send_keys(key)
    assert browser.driver.switch_to.active_element.get_attribute("href").endswith(hits[1][1])
    browser.driver.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert browser.driver.switch_to.active_element.get_attribute("id") == "search"
    assert not browser.driver.find_element("id", "found").is_displayed()
    asked("def")
    browser.driver.switch_to.active_element.send_keys(Keys.ENTER)
    assert browser.driver.current_url.endswith("#tab=tokens&q=def")


@pytest.mark.parametrize(("dark", "width"), [(False, 1360), (True, 1360), (True, 390)])
def test_hits_are_accessible_inert_and_fit_the_window(asked, browser, dark, width):
    browser.look(dark=dark, width=width)
    asked("e")
    assert browser.violations() == [] and browser.overflow() == 0
    asked("<img")
    assert browser.run("return window.hacked") is None and browser.errors() == []
    assert browser.run("return document.querySelectorAll('#found img').length") == 0


def test_a_missing_index_gets_a_sentence(asked, browser, folder):
    (folder / search.FILE).unlink()
    asked("def")
    assert "search-index.js is missing" in browser.run("return document.querySelector('#found').textContent")
