"""What a figure tells where a reader points at it, in a real browser."""

import shutil

import pytest
from explore_cases import BROWSER, REPORT, rendered
from selenium.webdriver import ActionChains, Keys

WIDTH, HEIGHT = 600, 300
PLACES = [[100, 500, "Layer 0: 1"], [500, 500, "Layer 1, expert 2: 3", 1, 2], [950, 20, "far <b>right</b>"]]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A page with one figure."""
    folder = tmp_path_factory.mktemp("told")
    shutil.copytree(REPORT / "assets", folder / "assets")
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"/>'
    (folder / "a.svg").write_text(svg, encoding="utf-8")
    figure = {
        "id": "figure-a",
        "number": "1.1",
        "name": "a",
        "title": "A",
        "alt": "Three places.",
        "caption": "n = 3.",
        "names": [],
    }
    figure |= {"how_to_read": "See.", "svg": "a.svg", "pdf": None, "csv": None, "netcdf": None, "rule": "plot_chapter"}
    figure |= {"browser": BROWSER, "command": "snakemake", "width": WIDTH, "height": HEIGHT}
    path = folder / "told.html"
    path.write_text(rendered([figure | {"places": PLACES, "explored": None}]), encoding="utf-8")
    return path


class Pointed:
    """The figure of the page."""

    def __init__(self, browser):
        self.browser, self.image = browser, browser.driver.find_element("css selector", "figure img")
        self.frame = browser.driver.find_element("css selector", ".frame")

    @property
    def told(self) -> str:
        return self.browser.driver.find_element("css selector", "output.place").text

    def point(self, x: float, y: float) -> None:
        """Point at thousandths of width and height."""
        size = self.image.size
        offset = (round((x / 1000 - 0.5) * size["width"]), round((y / 1000 - 0.5) * size["height"]))
        ActionChains(self.browser.driver).move_to_element_with_offset(self.image, *offset).perform()

    def press(self, key: str) -> None:
        self.browser.run("arguments[0].focus()", self.frame)
        ActionChains(self.browser.driver).send_keys(key).perform()


@pytest.fixture
def pointed(browser, path):
    browser.look(dark=False, width=1360)
    browser.open(path)
    return Pointed(browser)


def test_the_nearest_place_is_told_and_nothing_far_from_all(pointed):
    assert pointed.told == ""
    pointed.point(110, 520)
    assert pointed.told == "Layer 0: 1"
    pointed.point(520, 450)
    assert pointed.told == "Layer 1, expert 2: 3"
    pointed.point(300, 900)
    assert pointed.told == ""
    pointed.point(930, 60)
    assert pointed.told == "far <b>right</b>"


def test_the_mark_is_at_the_place_and_the_words_are_within_the_figure(pointed, browser):
    for place in PLACES:
        pointed.point(*place[:2])
        mark, words, image = (
            browser.run("return arguments[0].getBoundingClientRect().toJSON()", each)
            for each in (
                *(browser.driver.find_element("css selector", name) for name in (".mark", ".place")),
                pointed.image,
            )
        )
        assert abs(mark["x"] + mark["width"] / 2 - image["x"] - place[0] * image["width"] / 1000) < 1
        assert abs(mark["y"] + mark["height"] / 2 - image["y"] - place[1] * image["height"] / 1000) < 1
        assert image["x"] - 1 <= words["x"] and words["x"] + words["width"] <= image["x"] + image["width"] + 1


def test_a_click_leads_to_an_expert_and_only_there(pointed, browser):
    pointed.point(100, 500)
    ActionChains(browser.driver).click().perform()
    assert browser.driver.current_url.endswith("told.html")
    pointed.point(500, 500)
    ActionChains(browser.driver).click().perform()
    assert browser.driver.current_url.endswith(f"{BROWSER}#tab=experts&l=1&e=2")


def test_arrow_keys_go_from_place_to_place(pointed, browser):
    found = []
    for key in (Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT, Keys.ARROW_LEFT, Keys.ESCAPE):
        pointed.press(key)
        found.append(pointed.told)
    assert found == ["Layer 0: 1", "Layer 1, expert 2: 3", "Layer 0: 1", "Layer 0: 1", ""]
    pointed.press(Keys.ARROW_RIGHT)
    pointed.press(Keys.ARROW_RIGHT)
    pointed.press(Keys.ENTER)
    assert browser.driver.current_url.endswith(f"{BROWSER}#tab=experts&l=1&e=2")


def test_it_breaks_nothing(browser, path):
    for dark, width in ((False, 1360), (True, 1360), (False, 390)):
        browser.look(dark=dark, width=width)
        browser.open(path)
        shown = Pointed(browser)
        shown.press(Keys.ARROW_RIGHT)
        assert shown.told == "Layer 0: 1"
        assert browser.violations() == [] and browser.overflow() == 0
        assert browser.errors() == [] and browser.requests_elsewhere() == []
