"""What readers explore in the place of figures, in a real browser: it says what the matrices hold."""

import csv
import io
import shutil
from itertools import pairwise

import explore_cases
import numpy as np
import pytest
from explore_cases import BROWSER, EXPERTS, LAYERS, PLACE
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.support.ui import Select

PIXEL = """
const canvas = document.querySelector(arguments[0]), cell = canvas.width / arguments[3];
const [y, x] = [arguments[1], arguments[2]].map((place) => Math.round((place + 0.15) * cell));
return [...canvas.getContext("2d").getImageData(x, y, 1, 1).data];
"""
TOP = """
const figure = document.querySelector(arguments[0]);
return [figure.getBoundingClientRect().top, !figure.querySelector(".explore").childElementCount];
"""
COPIED = """
window.copies = [];
navigator.clipboard.writeText = async (text) => window.copies.push(text);
"""


@pytest.fixture(scope="module")
def shown():
    return explore_cases.made()


@pytest.fixture(scope="module")
def path(tmp_path_factory, shown):
    return explore_cases.write(tmp_path_factory.mktemp("explore"), shown)


class Figure:
    """One of the two figures, once its data are there."""

    def __init__(self, browser, name: str):
        self.browser, self.name = browser, f"#figure-{name} "
        browser.run("document.querySelector(arguments[0]).scrollIntoView()", self.name)
        browser.settle()
        assert self.told

    def find(self, selector: str):
        return self.browser.driver.find_element("css selector", self.name + selector)

    def all(self, selector: str) -> list:
        return self.browser.driver.find_elements("css selector", self.name + selector)

    @property
    def told(self) -> str:
        return self.find("output").text

    def choose(self, label: str, value: str) -> None:
        (found,) = (each for each in self.all(".choices > label") if each.text.startswith(label))
        Select(found.find_element("css selector", "select")).select_by_value(value)
        self.browser.settle()

    def layer(self, number: int) -> None:
        self.browser.run("arguments[0].click()", self.find(f".layers input[value='{number}']"))
        self.browser.settle()

    def point(self, row: int, column: int, size: int = EXPERTS) -> None:
        """Point at the cell at a place."""
        cells = self.find(".cells")
        side = cells.size["width"] / size
        x, y = (round((place + 0.5) * side - cells.size["width"] / 2) for place in (column, row))
        ActionChains(self.browser.driver).move_to_element_with_offset(cells, x, y).perform()


@pytest.fixture
def figure(browser, path):
    browser.open(path)
    return Figure(browser, "lift")


def matrix(shown, name: str):
    return next(one for one in shown.matrices if one.name == name)


def test_it_stands_in_the_place_of_the_picture_and_breaks_nothing(browser, path):
    for dark, width in ((False, 1360), (True, 1360), (False, 390)):
        browser.look(dark=dark, width=width)
        browser.open(path)
        for name in ("lift", "share"):
            assert not Figure(browser, name).find("img").is_displayed()
        assert browser.violations() == []
        assert browser.overflow() == 0
        assert browser.errors() == [] and browser.requests_elsewhere() == []


@pytest.mark.parametrize("width", [1360, 390])
def test_what_is_looked_at_stays_when_data_come(browser, path, map_path, width):
    browser.look(width=width)
    for page, name in ((path, "share"), (map_path, "expert-output-first-expert")):
        browser.open(page)
        browser.run("document.documentElement.style.overflowAnchor = 'none'")  # the browser's own mend of a jump
        browser.run("document.querySelector(arguments[0]).scrollIntoView()", f"#figure-{name}")
        before, empty = browser.run(TOP, f"#figure-{name}")
        browser.settle()
        after, still = browser.run(TOP, f"#figure-{name}")
        assert not still
        assert abs(after - before) < 80, f"{'empty' if empty else 'filled'} at first"


def test_the_cell_under_the_pointer_is_told_with_its_interval_and_q(figure, shown):
    lift = matrix(shown, "lift")
    figure.choose("Order", "number")
    for row, column in ((2, 7), (7, 2), (0, 11)):
        figure.point(row, column)
        value, low, high, q = (
            array.values[0, row, column]
            for array in (lift.values, *(lift.beside[part] for part in ("low", "high", "q")))
        )
        decimals = max(0, 1 - int(np.floor(np.log10((high - low) / 2))))
        start, numbers = figure.told.split(": lift ")
        assert start == f"L0 {row} × {column}"
        found = [float(text.strip("[],")) for text in numbers.partition(", q")[0].split()]
        np.testing.assert_allclose(found, (value, low, high), atol=0.6 * 10.0**-decimals, rtol=5e-3)
        assert figure.told.endswith(f", q = {q:g}")
    figure.point(4, 2)
    assert figure.told == "L0 4 × 2: not known"
    figure.point(3, 3)
    assert figure.told == "L0 3 × 3: the same"


def test_it_begins_with_the_largest_value(figure, shown):
    values = np.where(np.tri(EXPERTS, dtype=bool), np.nan, matrix(shown, "lift").values.values[0])
    row, column = np.unravel_index(np.nanargmax(values), values.shape)
    assert figure.told.startswith(f"L0 {row} × {column}: lift ")


def test_orders_are_those_of_the_data_and_ids_stand_on_both_axes(figure, shown, browser):
    load = shown.load.values
    for layer, place in ((0, 0), (7, 2)):
        figure.layer(layer)
        figure.choose("Order", "load")
        names = [[int(label.text) for label in figure.all(f".{axis} span")] for axis in ("rows", "columns")]
        assert names[0] == names[1] == np.argsort(-load[place]).tolist()
        figure.choose("Order", "number")
        assert [int(label.text) for label in figure.all(".rows span")] == list(range(EXPERTS))
    figure.choose("Order", "cluster")
    clustered = [int(label.text) for label in figure.all(".rows span")]
    assert sorted(clustered) == list(range(EXPERTS)) != clustered


def test_colours_are_those_of_the_values(figure, shown, browser):
    figure.choose("Order", "number")
    lift = matrix(shown, "lift").values.values[0]

    def brightness(row, column):
        return sum(browser.run(PIXEL, f"{figure.name}canvas", row, column, EXPERTS)[:3])

    known = np.isfinite(lift)
    assert browser.run(PIXEL, f"{figure.name}canvas", 4, 2, EXPERTS)[3] == 0  # not known: the page behind it
    high = np.argwhere(known & (lift > 3))[0]
    low = np.argwhere(known & (lift < 1 / 3))[0]
    (red, _, blue), (red_low, _, blue_low) = (
        browser.run(PIXEL, f"{figure.name}canvas", *map(int, place), EXPERTS)[:3] for place in (high, low)
    )
    assert red > blue and blue_low > red_low
    near = np.argwhere(known & (np.abs(np.log2(lift)) < 0.2))[0]
    assert brightness(*map(int, near)) > 600


def test_the_keyboard_moves_the_cross_and_leads_to_the_browser(figure, browser):
    figure.choose("Order", "number")
    figure.point(5, 6)
    stops = browser.run(
        "return [...document.querySelectorAll(arguments[0])].map((e) => e.tabIndex)", f"{figure.name}.cells"
    )
    assert stops == [0]
    browser.run("arguments[0].focus()", figure.find(".cells"))
    ActionChains(browser.driver).send_keys(Keys.ARROW_UP, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT).perform()
    assert figure.told.startswith("L0 4 × 8: ")
    ActionChains(browser.driver).send_keys(Keys.ARROW_DOWN, *[Keys.ARROW_RIGHT] * 9).perform()
    assert figure.told.startswith("L0 5 × 11: ")  # the last one stays
    ActionChains(browser.driver).send_keys(Keys.ENTER).perform()
    assert browser.driver.current_url.endswith(f"{BROWSER}#tab=experts&l=0&e=5,11")


def test_a_click_leads_to_the_experts_and_the_layer_is_kept(figure, browser):
    figure.layer(3)
    figure.choose("Order", "number")
    figure.point(9, 1)
    assert figure.find(".go").text == "Show experts 1 and 9"
    ActionChains(browser.driver).click().perform()
    assert browser.driver.current_url.endswith(f"{BROWSER}#tab=experts&l=3&e=1,9")


def test_layers_are_one_tab_stop_with_arrows(figure, browser):
    browser.run("arguments[0].focus()", figure.find(".layers input:checked"))
    ActionChains(browser.driver).send_keys(Keys.ARROW_RIGHT).perform()
    browser.settle()
    assert figure.told.startswith(f"L{LAYERS[1]} ")


def test_a_row_and_the_matrix_are_copied_as_csv(figure, browser, shown):
    browser.run(COPIED)
    figure.choose("Order", "number")
    figure.point(7, 3)
    for button in figure.all(".beside button"):
        button.click()
    row, whole = ([*csv.DictReader(io.StringIO(text))] for text in browser.run("return window.copies"))
    assert list(row[0]) == ["layer", "expert", "other", "lift", "low", "high", "q"]
    assert {line["expert"] for line in row} == {"7"} and len(row) == EXPERTS - 2  # itself and 4 are not known
    assert len(whole) == (EXPERTS - 1) * (EXPERTS - 2)
    lift = matrix(shown, "lift")
    for line in whole:
        place = 0, int(line["expert"]), int(line["other"])
        assert float(line["lift"]) == pytest.approx(lift.values.values[place], rel=5e-3)
        assert float(line["q"]) == lift.beside["q"].values[place]


def test_without_a_clipboard_what_would_be_copied_is_selected(figure, browser):
    browser.run("navigator.clipboard.writeText = async () => { throw new Error('no'); }")
    figure.all(".beside button")[0].click()
    browser.settle()
    assert figure.find("textarea").get_attribute("value").startswith("layer,expert,other,lift,low,high,q\n0,")


def test_a_matrix_that_is_not_symmetric_and_one_between_layers(browser, path, shown):
    browser.open(path)
    Figure(browser, "lift")  # once what is above is there, nothing moves
    figure = Figure(browser, "share")
    figure.choose("Order", "number")
    values = matrix(shown, "share").values.values[0]
    for row, column in ((1, 8), (8, 1), (5, 5)):
        figure.point(row, column)
        assert figure.told.startswith(f"L0 {row} × {column} (router row): share ")
        assert float(figure.told.rpartition(" ")[2]) == pytest.approx(values[row, column], abs=6e-4)
    figure.choose("Matrix", "overlap")
    between = matrix(shown, "overlap").values.values
    figure.point(2, 0, len(LAYERS))
    assert figure.told.startswith("Layers 7 × 0: overlap ")
    assert float(figure.told.rpartition(" ")[2]) == pytest.approx(between[2, 0], rel=5e-3)
    assert not figure.find(".layers").is_displayed() and not figure.find(".go").is_displayed()


def test_a_figure_can_begin_with_a_layer_and_says_what_its_words_are_about(browser, tmp_path, shown):
    browser.open(explore_cases.write(tmp_path / "site", shown, names=("share, 7", "lift")))
    figure = Figure(browser, "share-7")
    assert figure.told.startswith("L7 ")
    assert "The words at the figure" not in figure.find(".about").text
    figure.choose("Matrix", "lift")
    assert "The words at the figure are about “Share of a row”." in figure.find(".about").text


def test_the_null_is_on_the_scale(browser, path):
    browser.open(path)
    for name, text in (("lift", "Null: loads explain all, 1"), ("share", "Null: even, 0.0833")):
        figure = Figure(browser, name)
        assert figure.find(".nulls").text == text
        (line,) = figure.all(".strip b")
        share = float(line.value_of_css_property("left")[:-2]) / figure.find(".strip").size["width"]
        assert (share == pytest.approx(0.5, abs=0.01)) == (name == "lift")


def test_the_largest_of_a_row_are_links_in_order(figure):
    links = figure.all(".best a")
    assert len(links) == 5
    numbers = [float(text.partition(")")[0]) for text in figure.find(".best").text.split("(")[1:]]
    assert all(one >= other for one, other in pairwise(numbers))


@pytest.mark.parametrize("fault", ["missing", "another build", "damaged"])
def test_without_its_data_the_picture_stays_and_a_sentence_names_the_file(browser, tmp_path, shown, fault):
    path = explore_cases.write(tmp_path / "site", shown, build="0" * 12 if fault == "another build" else None)
    file = path.parent / PLACE / "explored/index.js"
    if fault == "missing":
        shutil.rmtree(file.parent)
    elif fault == "damaged":
        file.write_text(file.read_text().replace('"json","', '"json","AAAA'))
    browser.open(path)
    browser.run("document.querySelector('#figure-lift').scrollIntoView()")
    browser.settle()
    (problem,) = browser.driver.find_elements("css selector", "#figure-lift [role=alert]")
    assert problem.text.startswith(f"The file {PLACE}/explored/index.js is ")
    assert problem.text.endswith(": copy the whole report again.")
    assert browser.driver.find_element("css selector", "#figure-lift img").is_displayed()


def test_print_and_pages_without_scripts_have_the_picture(browser, path):
    browser.open(path)
    Figure(browser, "lift")
    browser.look(print_=True)
    assert browser.driver.find_element("css selector", "#figure-lift img").is_displayed()
    assert not browser.driver.find_element("css selector", "#figure-lift .explore").is_displayed()
    browser.look()
    browser.scripts(run=False)
    browser.open(path)
    assert browser.driver.find_element("css selector", "#figure-lift img").is_displayed()
    assert not browser.driver.find_element("css selector", "#figure-lift .explore").is_displayed()


# ---------------------------------------------------------------- maps


BY = ("router input, dataset", "expert output, first expert")
MARKED = "#figure-router-input-dataset "
MARKS = """
return [...document.querySelectorAll(arguments[0] + ".points path")].map((mark) => [
    mark.getAttribute("transform"), mark.classList.contains("faint"), mark.classList.contains("here")]);
"""


@pytest.fixture(scope="module")
def points():
    return explore_cases.made_points()


@pytest.fixture(scope="module")
def map_path(tmp_path_factory, points):
    return explore_cases.write(tmp_path_factory.mktemp("maps"), points, names=BY)


@pytest.fixture
def map_(browser, map_path):
    browser.open(map_path)
    return Figure(browser, "router-input-dataset")


def places(points, layer=0, space=0, projection=0):
    """Positions of the points as the page draws them."""
    found = points.positions.values[layer, space, projection]
    low, high = found.min(axis=0), found.max(axis=0)
    x, y = np.rint(1000 * (found - low) / (high - low)).T
    return np.stack([x, 1000 - y], axis=1)


def point_at(figure, x, y):
    """Point at a place of the drawing."""
    plot = figure.find(".points svg")
    scale = plot.size["width"] / 1040
    offsets = ((x + 20) * scale - plot.size["width"] / 2, (y + 20) * scale - plot.size["height"] / 2)
    ActionChains(figure.browser.driver).move_to_element_with_offset(plot, *map(round, offsets)).perform()


def test_a_map_stands_in_the_place_of_the_picture_and_breaks_nothing(browser, map_path):
    for dark, width in ((False, 1360), (True, 1360), (False, 390)):
        browser.look(dark=dark, width=width)
        browser.open(map_path)
        for name in ("router-input-dataset", "expert-output-first-expert"):
            assert not Figure(browser, name).find("img").is_displayed()
        assert browser.violations() == []
        assert browser.overflow() == 0
        assert browser.errors() == [] and browser.requests_elsewhere() == []


def test_points_stand_where_the_map_has_them(map_, browser, points):
    for layer, projection in ((0, "PCA"), (3, "t-SNE")):
        map_.layer(layer)
        map_.choose("Map", projection)
        at = LAYERS.index(layer), 0, points.positions["projection"].values.tolist().index(projection)
        expected = {f"translate({x:g} {y:g}) scale(1.5)" for x, y in places(points, *at)}
        assert {transform for transform, *_ in browser.run(MARKS, MARKED)} == expected
        trust = points.trustworthiness.values[at]
        assert f"Trustworthiness of this map: {float(f'{trust:.3g}'):g}." in map_.find(".about").text


def test_the_nearest_token_is_told_with_its_context(map_, points):
    found = places(points)
    distances = np.linalg.norm(found[:, None] - found[None], axis=-1) + 1e9 * np.eye(len(found))
    alone = np.argsort(-distances.min(axis=1))[:3]  # no other one is near
    for point in alone.tolist():
        point_at(map_, *found[point])
        expert = points.categories["first expert"].values[0, point]
        dataset = points.categories["dataset"].values[point]
        assert map_.told.rstrip() == f"{dataset}, L0 expert {expert}: before {point} text {point} after {point}"
        assert map_.find("mark").text.strip() == f"text {point}"
    map_.find(".points").click()
    assert f"{BROWSER}#tab=experts&l=0&e=" in map_.browser.driver.current_url


def test_text_is_inert(map_, browser, points):
    point_at(map_, *places(points)[0])
    assert "<script>" in map_.told or map_.told.startswith("poems")
    assert browser.run("return window.hacked") is None


def test_a_press_on_the_legend_lets_a_dataset_stand_out(map_, browser, points):
    names = [button.text for button in map_.all(".looks button")]
    assert names == ["poems", "code", "web"]
    button = map_.all(".looks button")[1]
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    faint = {transform for transform, is_faint, _ in browser.run(MARKS, MARKED) if is_faint}
    others = places(points)[np.arange(30) % 3 != 1]
    assert faint == {f"translate({x:g} {y:g}) scale(1.5)" for x, y in others}
    browser.run("arguments[0].focus()", map_.find(".points"))
    for key in (Keys.ARROW_LEFT, Keys.ARROW_DOWN, Keys.ARROW_RIGHT):
        ActionChains(browser.driver).send_keys(key).perform()
        assert map_.told.startswith("code, ")  # the keys go to what stands out
    button.click()
    assert not any(is_faint for _, is_faint, _ in browser.run(MARKS, MARKED))


def test_arrow_keys_go_in_their_direction_and_enter_leads_to_the_expert(map_, browser, points):
    browser.run("arguments[0].focus()", map_.find(".points"))

    def here():
        (found,) = (transform for transform, _, is_here in browser.run(MARKS, MARKED) if is_here)
        return [float(number) for number in found[10:].partition(")")[0].split()]

    for key, axis, direction in (
        (Keys.ARROW_RIGHT, 0, 1),
        (Keys.ARROW_LEFT, 0, -1),
        (Keys.ARROW_DOWN, 1, 1),
        (Keys.ARROW_UP, 1, -1),
    ):
        before = here()
        ActionChains(browser.driver).send_keys(key).perform()
        after = here()
        ahead = direction * (places(points)[:, axis] - before[axis]) > 0
        assert (direction * (after[axis] - before[axis]) > 0) == ahead.any()
    expert = map_.find(".go").text.split()[-1]
    ActionChains(browser.driver).send_keys(Keys.ENTER).perform()
    assert browser.driver.current_url.endswith(f"{BROWSER}#tab=experts&l=0&e={expert}")


def test_the_experts_that_most_tokens_choose_have_colours(browser, map_path, points):
    browser.open(map_path)
    figure = Figure(browser, "expert-output-first-expert")
    counts = np.bincount(points.categories["first expert"].values[0], minlength=EXPERTS)
    most = np.argsort(-counts, kind="stable")[:6]
    assert [button.text for button in figure.all(".looks button")] == [f"expert {expert}" for expert in most]
    assert "Grey: others." in figure.find(".about").text


# ---------------------------------------------------------------- flows


@pytest.fixture(scope="module")
def ribbons():
    return explore_cases.made_ribbons()


@pytest.fixture(scope="module")
def flow_path(tmp_path_factory, ribbons):
    return explore_cases.write(tmp_path_factory.mktemp("flows"), ribbons, names=("0",))


@pytest.fixture
def flow(browser, flow_path):
    browser.open(flow_path)
    return Figure(browser, "0")


def told_of(ribbons, step: int, row: int, column: int) -> str:
    """How the sentence about a flow begins."""
    names = ["expert 7", "expert 3", "others"]
    one, other = (ribbons.layers[step + side] for side in (0, 1))
    share = float(f"{ribbons.steps[step].tokens[row, column] / 2:.3g}")
    return f"Layer {one} {names[row]} → layer {other} {names[column]}: {share:g} % of tokens, "


def test_flows_stand_in_the_place_of_the_picture_and_break_nothing(browser, flow_path):
    for dark, width in ((False, 1360), (True, 1360), (False, 390)):
        browser.look(dark=dark, width=width)
        browser.open(flow_path)
        assert not Figure(browser, "0").find("img").is_displayed()
        assert browser.violations() == []
        assert browser.overflow() == 0
        assert browser.errors() == [] and browser.requests_elsewhere() == []


def test_a_flow_is_told_with_its_interval_and_keys_follow_it(flow, browser, ribbons):
    assert flow.told.startswith(told_of(ribbons, 0, 0, 0))
    value, low, high = (getattr(ribbons.steps[0], part)[0, 0] for part in ("ratio", "low", "high"))
    numbers = flow.told.rpartition("tokens, ")[2].split(" times")[0].replace("[", "").replace("]", "").split(", ")
    found = [float(number) for part in numbers for number in part.split()]
    np.testing.assert_allclose(found, (value, low, high), rtol=0.02)
    assert flow.told.endswith("times as many as token ids alone give")
    browser.run("arguments[0].focus()", flow.find(".ribbons"))
    for key, at in (
        (Keys.ARROW_DOWN, (0, 0, 2)),
        (Keys.ARROW_RIGHT, (1, 2, 2)),
        (Keys.ARROW_UP, (1, 2, 1)),
        (Keys.ARROW_LEFT, (0, 2, 2)),
        (Keys.ARROW_DOWN, (0, 2, 2)),
    ):
        ActionChains(browser.driver).send_keys(key).perform()
        assert flow.told.startswith(told_of(ribbons, *at)), key
    assert not flow.find(".go").is_displayed()  # the others are no expert
    assert len(flow.all(".ribbons [tabindex]")) == 0
    ActionChains(browser.driver).send_keys(Keys.ARROW_UP, Keys.ENTER).perform()
    assert (
        browser.driver.current_url.endswith(f"{BROWSER}#tab=experts&l=0&e=3") or "l=1&e=3" in browser.driver.current_url
    )


def test_a_bar_tells_its_largest_flow_and_the_table_has_all(flow, browser, ribbons):
    bar = flow.find("[data-bar='1 1']")
    ActionChains(browser.driver).move_to_element(bar).perform()
    assert flow.told.startswith(told_of(ribbons, 0, 1, 1))
    flow.find("summary").click()
    rows = [[cell.text for cell in row.find_elements("css selector", "td")] for row in flow.all("tbody tr")]
    assert len(rows) == 8 and rows[0][:3] == ["layer 0 others", "layer 1 others", "50"]
    assert sum(float(row[2]) for row in rows) == pytest.approx(100)


def test_layers_that_do_not_fit_are_chosen(flow, ribbons):
    assert [tab.text for tab in flow.all(".layers span")] == ["0", "1", "2"]
    flow.layer(2)
    assert flow.told.startswith("Layer 2 ")
    titles = [text.text for text in flow.all(".ribbons text") if text.text.startswith("Layer")]
    assert titles == ["Layer 2", "Layer 4", "Layer 5", "Layer 6"]


def test_a_word_is_followed_by_meaning_and_another_one_chosen(browser, tmp_path):
    path = explore_cases.write(tmp_path, explore_cases.made_words(), names=("light",))
    browser.look(dark=True)
    browser.open(path)
    word = Figure(browser, "light")
    assert browser.violations() == [] and not word.find("img").is_displayed()
    flow = "Layer 0 expert 4 → layer 3 expert 1: 3 of 3 occurrences of “light” that mean lamp"
    at_first = f"{flow}. Layer 3 expert 1: 3 of 3 that mean lamp, 3 of 3 that mean weight"
    assert word.told == at_first
    browser.run("arguments[0].focus()", word.find(".ribbons"))
    for key, told in (
        (Keys.ARROW_LEFT, f"{flow}. Layer 0 expert 4: 3 of 3 that mean lamp, 2 of 3 that mean weight"),
        (Keys.ARROW_DOWN, "Layer 0 expert 4 → layer 3 expert 1: 2 of 3 occurrences of “light” that mean weight"),
        (Keys.ARROW_RIGHT, "Layer 3 expert 1 → layer 7 expert 2: 3 of 3 occurrences of “light” that mean weight"),
    ):
        ActionChains(browser.driver).send_keys(key).perform()
        assert word.told.startswith(told), key
    ActionChains(browser.driver).move_to_element(word.find("[data-bar='2 0']")).perform()
    assert word.told.endswith("that mean lamp. Layer 7 expert 7: 3 of 3 that mean lamp")
    assert [len(word.all(f"path.colour-{number}")) for number in (1, 2)] == [2, 3]
    assert [label.text for label in word.all(".ribbons text")] == [
        "4",
        "6",
        "Layer 0",
        "1",
        "Layer 3",
        "7",
        "2",
        "Layer 7",
    ]
    word.find("summary").click()
    rows = [[cell.text for cell in row.find_elements("css selector", "td")] for row in word.all("tbody tr")]
    assert rows == [
        ["layer 3 expert 1", f"layer 7 expert {to}", "3", name] for to, name in ((7, "lamp"), (2, "weight"))
    ]
    word.choose("Word", "1")
    assert "1 of 1 occurrences of “bar” that mean </b>" in word.told and not browser.run("return window.hacked")
    assert len(word.all(".ribbons path")) == 2 and browser.errors() == []


# ---------------------------------------------------------------- circuits


@pytest.fixture(scope="module")
def circuit_path(tmp_path_factory):
    names = ("operator", "bracket")
    return explore_cases.write(tmp_path_factory.mktemp("circuits"), explore_cases.made_graphs(), names=names)


@pytest.fixture
def circuit(browser, circuit_path):
    browser.open(circuit_path)
    return Figure(browser, "operator")


def test_circuits_stand_in_the_place_of_the_picture_and_break_nothing(browser, circuit_path):
    for dark, width in ((False, 1360), (True, 1360), (False, 390)):
        browser.look(dark=dark, width=width)
        browser.open(circuit_path)
        assert not Figure(browser, "operator").find("img").is_displayed()
        assert browser.violations() == []
        assert browser.overflow() == 0
        assert browser.errors() == [] and browser.requests_elsewhere() == []


def test_an_edge_is_told_with_its_interval_and_keys_follow_it(circuit, browser):
    assert circuit.told == "embedding → L0E3: 0.900 [0.850, 0.950] of the gap"
    browser.run("arguments[0].focus()", circuit.find(".graph"))
    for key, told in (
        (Keys.ARROW_DOWN, "L1E5 → output: 0.700"),
        (Keys.ARROW_LEFT, "L0E3 → L1E5: 0.60"),
        (Keys.ARROW_DOWN, "L0E3 → output: −0.200"),
        (Keys.ARROW_LEFT, "embedding → L0E3: 0.900"),
        (Keys.ARROW_RIGHT, "L0E3 → L1E5: 0.60"),
        (Keys.ARROW_UP, "L1E5 → output: 0.700"),
    ):
        ActionChains(browser.driver).send_keys(key).perform()
        assert circuit.told.startswith(told), key
    assert len(circuit.all(".graph .against")) == 1
    ActionChains(browser.driver).send_keys(Keys.ENTER).perform()
    assert browser.driver.current_url.endswith(f"{BROWSER}#tab=experts&l=1&e=5")


def test_a_node_tells_its_strongest_edge_and_leads_to_its_expert(circuit, browser):
    node = circuit.find("[data-node='2']")
    ActionChains(browser.driver).move_to_element(node).perform()
    assert circuit.told.startswith("L0E3 → L1E5") and circuit.find(".go").text == "Show expert 5 of layer 1"
    circuit.find("summary").click()
    rows = [[cell.text for cell in row.find_elements("css selector", "td")] for row in circuit.all("tbody tr")]
    assert [row[:2] for row in rows][::3] == [["embedding", "L0E3"], ["L0E3", "output"]]
    ActionChains(browser.driver).click(node).perform()
    assert browser.driver.current_url.endswith(f"{BROWSER}#tab=experts&l=1&e=5")


# ---------------------------------------------------------------- paths


@pytest.fixture(scope="module")
def tree_path(tmp_path_factory):
    return explore_cases.write(tmp_path_factory.mktemp("trees"), explore_cases.made_tree(), names=("7",))


@pytest.fixture
def tree(browser, tree_path):
    browser.open(tree_path)
    return Figure(browser, "7")


def test_paths_stand_in_the_place_of_the_picture_and_break_nothing(browser, tree_path):
    for dark, width in ((False, 1360), (True, 1360), (False, 390)):
        browser.look(dark=dark, width=width)
        browser.open(tree_path)
        assert not Figure(browser, "7").find("img").is_displayed()
        assert browser.violations() == []
        assert browser.overflow() == 0
        assert browser.errors() == [] and browser.requests_elsewhere() == []


def test_keys_go_through_the_tree(tree, browser):
    assert tree.told == "Layer 0, expert 1: 35 % of tokens"
    browser.run("arguments[0].focus()", tree.find(".tree"))
    for key, told in (
        (Keys.ARROW_DOWN, "Layers 0 to 3, experts 1 → 2: 30 % of tokens"),
        (Keys.ARROW_RIGHT, "Layers 0 to 3, experts 1 → 5: 5 % of tokens"),
        (Keys.ARROW_DOWN, "Layers 0 to 7, experts 1 → 5 → 3: 5 % of tokens"),
        (Keys.ARROW_LEFT, "Layers 0 to 7, experts 1 → 2 → 4: 10 % of tokens"),
        (Keys.ARROW_UP, "Layers 0 to 3, experts 1 → 2: 30 % of tokens"),
    ):
        ActionChains(browser.driver).send_keys(key).perform()
        assert tree.told == told
    assert tree.find(".go").get_attribute("href").endswith("#tab=experts&l=3&e=2")


def test_narrow_blocks_are_merged_and_a_block_is_widened_and_back(tree, browser):
    assert len(tree.all(".tree rect")) == 4 + 6 + 1 + 1
    browser.run("arguments[0].focus()", tree.find(".tree"))
    ActionChains(browser.driver).send_keys(Keys.ENTER).perform()
    widths = [float(rect.get_attribute("width")) for rect in tree.all(".tree rect")]
    assert widths[0] == 1000 and widths[1] == pytest.approx(1000 * 6 / 7)
    assert tree.told == "Layer 0, expert 1: 35 % of tokens"
    ActionChains(browser.driver).send_keys(Keys.ENTER).perform()
    assert len(tree.all(".tree rect")) == 12


def test_another_window_is_loaded(tree):
    tree.layer(8)
    assert tree.told == "Layer 3, expert 1: 35 % of tokens"
    assert "The 4 most frequent paths, 39.5 % of tokens" in tree.find(".about").text
