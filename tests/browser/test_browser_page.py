"""The expert browser in a real browser: what it shows is what the study holds, and nothing in a text can act."""

import re
import time
from itertools import combinations
from urllib.parse import quote

import browser_cases
import numpy as np
import pytest
from browser_cases import DATASETS, EXPERTS, HOSTILE, LAYERS, MODES, SCRIPT, TEXT_TOKENS, TOKENS
from selenium.webdriver.common.keys import Keys

VIEWS = {
    "one expert": "tab=experts&l=3&e=0",
    "a pair": "tab=experts&l=7&e=2,0",
    "beside another": "tab=experts&l=3&e=1&with=7,2&show=mid&in=code",
    "a set that is not kept": "tab=experts&l=3&e=5,6,7&mode=ordered",
    "tokens": "tab=tokens&q=%3Cscript&l=7",
    "a token": f"tab=tokens&l=7&v={5 + TOKENS.index(SCRIPT)}",
    "a text with probabilities": "tab=texts&t=0&l=7&p=12",
    "a text without": "tab=texts&t=1&l=3&p=0",
    "all layers": "tab=texts&t=0&l=7&p=12&all=1",
    "a document": "tab=texts&d=code&at=60",
    "a wrong address": "tab=experts&l=4&e=1",
}
WRITTEN = [re.sub("[\u202a-\u202e\x07]", lambda found: f"\\u{ord(found[0]):04x}", text) for text in TOKENS]
SHOWN = [text if len(text) <= 48 else f"{text[:48]}…" for text in WRITTEN]
ALONE = [re.sub("^ +| +$", lambda spaces: "·" * len(spaces[0]), text) for text in SHOWN]
COMPLETE = """
const complete = () => document.querySelector("#browser[aria-busy=false]") !== null;
setTimeout(() => arguments[0](complete()), 20); // a new address is noticed in another task
"""
TABLE = """
const found = [...document.querySelectorAll("#browser table")].find(
    (table) => table.checkVisibility() && table.caption.textContent.startsWith(arguments[0]));
return found && [...found.tBodies[0].rows].map((row) => [...row.cells].map((cell) => cell.textContent));
"""
LINES = """
return [...document.querySelectorAll(`ol[aria-label^="${arguments[0]}"] > li`)].map((line) => [
    line.querySelector(".before").textContent, line.querySelector("mark").textContent,
    line.querySelector(".after").textContent, line.querySelector(".weight").textContent,
    line.querySelector("a").getAttribute("href"), line.querySelector("a").textContent]);
"""


class Page:
    """The expert browser of the small study."""

    def __init__(self, browser, path):
        self.browser, self.path = browser, path

    def show(self, fragment: str) -> None:
        """Load the page at a fragment and wait for its view."""
        self.browser.open(self.path, fragment)
        self.wait()

    def go(self, fragment: str) -> None:
        """Follow a link within the page."""
        self.browser.run("location.hash = arguments[0]", fragment)
        self.wait()

    def wait(self) -> None:
        """Wait until the view of the present address is complete."""
        until = time.monotonic() + 10
        while time.monotonic() < until:
            if self.browser.driver.execute_async_script(COMPLETE):
                return
        raise AssertionError("The view is still not complete.")

    def table(self, caption: str) -> list[list[str]]:
        """The text of the cells of the table whose caption begins so."""
        return self.browser.run(TABLE, caption)

    def text(self, selector: str) -> str:
        """The text of an element."""
        return self.browser.run("return document.querySelector(arguments[0]).textContent", selector)

    def press(self, *keys: str) -> None:
        """Press keys in the element that has the focus."""
        for key in keys:
            self.browser.driver.switch_to.active_element.send_keys(key)
        self.wait()

    def fragment(self) -> str:
        """What follows the # of the address."""
        return self.browser.run("return decodeURIComponent(location.hash.slice(1))")


@pytest.fixture(scope="module")
def study() -> browser_cases.Study:
    return browser_cases.Study()


@pytest.fixture(scope="module")
def path(study, tmp_path_factory):
    return browser_cases.write(tmp_path_factory.mktemp("browser"), study)


@pytest.fixture
def page(browser, path) -> Page:
    return Page(browser, path)


@pytest.fixture(scope="module")
def path_with_chapters(study, tmp_path_factory):
    return browser_cases.write(tmp_path_factory.mktemp("chapters"), study, chapters=True)


@pytest.fixture
def known(browser, path_with_chapters) -> Page:
    """The page of a report whose chapters found something about the experts."""
    return Page(browser, path_with_chapters)


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_is_accessible_in_both_themes_and_fits_a_phone(page, view):
    for dark in (False, True):
        page.browser.look(dark=dark)
        page.show(VIEWS[view])
        assert page.browser.violations() == []
    page.browser.look(width=390)
    assert page.browser.overflow() == 0


def test_clicking_through_asks_for_files_only_and_reports_no_error(page):
    page.show(VIEWS["one expert"])
    for fragment in VIEWS.values():
        page.go(fragment)
    assert page.browser.requests_elsewhere() == []
    assert page.browser.errors() == []


@pytest.mark.parametrize("view", ["one expert", "a pair", "beside another"])
def test_what_chapters_found_is_accessible_in_both_themes_and_fits_a_phone(known, view):
    for dark in (False, True):
        known.browser.look(dark=dark)
        known.show(VIEWS[view])
        assert known.browser.violations() == []
    known.browser.look(width=390)
    assert known.browser.overflow() == 0
    assert known.browser.errors() == []


FACTS = """
return Object.fromEntries([...document.querySelectorAll(`${arguments[0]} .facts > div`)].map(
    (row) => [row.querySelector("dt").textContent, row.querySelector("dd").textContent]));
"""


def test_an_expert_shows_what_chapters_found(known, study):
    known.show("tab=experts&l=7&e=2")
    facts = known.browser.run(FACTS, "#set-counts")
    members = study.members(1, (2,), "subset")
    load = len(members) / len(study.token)
    low, high = 100 * max(0, load - 0.01), 100 * (load + 0.01)
    shown = [float(number) for number in re.findall(r"[0-9.]+", facts["Load"])]
    assert shown[:3] == pytest.approx([100 * load, low, high], rel=0.005)
    even = browser_cases.TOP_K / EXPERTS
    assert shown[3:] == pytest.approx([load / even, low / 100 / even, high / 100 / even], rel=0.005)
    ranks = (study.selected[1] == 2).sum(axis=0)
    assert facts["Ranks"] == f"1st {ranks[0]}, 2nd {ranks[1]}, 3rd {ranks[2]}"
    assert facts["Router entropy"] == "0.5 [0.4, 0.6]; of all tokens 0.7, 1 if all experts are equally likely"
    assert facts["Token types"] == "number 20\xa0% (of all tokens 10\xa0%)"
    shares = np.array(study.by_dataset(members)) / study.sizes
    order = np.argsort(-shares, kind="stable")
    rows = known.table("Tokens by dataset")
    assert [row[0] for row in rows] == [DATASETS[i] for i in order]
    for row, i in zip(rows, order, strict=True):
        assert float(row[2].split()[0]) == pytest.approx(100 * shares[i], rel=0.005)
        points = 100 * (shares[i] - shares.mean())
        assert float(row[4].replace("−", "-").rstrip("\xa0✱")) == pytest.approx(points, abs=0.051)
        assert (row[4].endswith("✱"), row[5]) == ((True, "0.001") if i else (False, "0.5"))
    partners = known.table("Works with: all lifts")
    assert len(partners) == EXPERTS - 1
    lifts = []
    for name, both, expected, lift, q in partners:
        number = len(study.members(1, tuple(sorted((2, int(name.removeprefix("with "))))), "subset"))
        assert (int(both), expected, q) == (number, "20", "< 0.0001")
        assert lift == f"{float(f'{number / 20:.3g}'):g} [0.5, 1.5]"
        lifts.append(number)
    assert lifts == sorted(lifts, reverse=True)
    assert "3 0.25" in known.text("#set-counts")


def test_an_untested_pair_and_an_idle_expert_say_so(known):
    known.show("tab=experts&l=3&e=0,1")
    assert known.browser.run(FACTS, "#set")["q"] == "not tested: expected in too few tokens"
    known.go("tab=experts&l=3&e=7")
    assert known.browser.run(FACTS, "#set-counts")["Router entropy"].startswith("not available; of all tokens 0.7")


def test_any_pair_has_its_lift_and_both_experts_beside_it(known, study):
    kept = study.sets(0, "subset", 2, browser_cases.PAIRS)
    pair = next(pair for pair in combinations(range(1, EXPERTS), 2) if pair not in kept)
    known.show(f"tab=experts&l=3&e={pair[0]},{pair[1]}")
    observed = len(study.members(0, pair, "subset"))
    facts = known.browser.run(FACTS, "#set")
    assert facts["Together"] == f"{'more' if observed > 20 else 'less'} often than chance"
    assert facts["Observed"] == f"{observed} tokens select both"
    assert facts["Expected"] == "20 if the loads alone decided"
    assert facts["Lift"] == f"{float(f'{observed / 20:.3g}'):g} [0.5, 1.5], 1 is chance"
    assert facts["q"] == "< 0.0001"
    columns = "return [...document.querySelectorAll('.columns > section > h3')].map((title) => title.textContent)"
    assert known.browser.run(columns) == [f"Layer 3, expert {pair[0]}", "Both", f"Layer 3, expert {pair[1]}"]
    assert "this set is not among them" in known.text(".columns section:nth-child(2)")
    known.go(f"tab=experts&l=3&e={kept[0][0]},{kept[0][1]}")
    members = study.members(0, kept[0], "subset")
    assert known.text(".columns section:nth-child(2) strong") == str(len(members))
    for token, number, _ in known.table("Most frequent tokens, both"):
        assert int(number) == sum(study.token[members] == ALONE.index(token))


def test_experts_are_compared_beside_each_other(page, study):
    page.show("tab=experts&l=3&e=1")
    field = page.browser.driver.find_element("id", "with-expert")
    page.browser.run("document.getElementById('with-layer').value = 7")
    field.send_keys("2", Keys.ENTER)
    page.browser.run("document.activeElement.blur()")
    page.wait()
    assert page.fragment() == "tab=experts&l=3&e=1&mode=subset&with=7,2"
    for layer, expert in ((0, 1), (1, 2)):
        members = study.members(layer, (expert,), "subset")
        rows = page.table(f"Most frequent tokens, layer {LAYERS[layer]}, expert {expert}")
        assert len(rows) == 10
        for token, number, _ in rows:
            assert int(number) == sum(study.token[members] == ALONE.index(token))
    page.browser.driver.find_element("id", "alone").click()
    page.wait()
    assert page.fragment() == "tab=experts&l=3&e=1&mode=subset"


def test_the_next_expert_of_a_layers_last_is_the_first_of_the_next_layer(page):
    page.show("tab=experts&l=3&e=7")
    page.browser.driver.find_element("id", "next").click()
    page.wait()
    assert page.text("#set h2") == "Layer 7, expert 0"
    page.browser.driver.find_element("id", "previous").click()
    page.wait()
    assert page.text("#set h2") == "Layer 3, expert 7"
    page.go("tab=experts&l=7&e=7")
    assert not page.browser.driver.find_element("id", "next").is_displayed()


def test_every_token_of_a_context_is_shaded_by_its_weight(page, study):
    page.show("tab=experts&l=7&e=2&show=rand")
    lines = page.browser.run(
        "return [...document.querySelectorAll('.contexts li')].map((line) => [line.querySelector('a').hash,"
        " [...line.querySelectorAll('.token')].map((e) => Number(e.style.getPropertyValue('--heat') || 0))])"
    )
    members = study.members(1, (2,), "subset")
    exact = np.zeros(len(study.token))
    exact[members] = [study.weight[1, i, study.selected[1, i].tolist().index(2)] for i in members]
    assert len(lines) == 20
    for link, heat in lines:
        text = dict(part.split("=") for part in link[1:].split("&"))
        dataset = int(text["t"]) if "t" in text else DATASETS.index(text["d"])
        place = sum(study.sizes[:dataset]) + int(text["p"] if "t" in text else text["at"])
        lengths = list(browser_cases.DOCUMENTS[DATASETS[dataset]].values())
        starts = sum(study.sizes[:dataset]) + np.cumsum([0, *lengths])
        start, end = max(starts[starts <= place]), min(starts[starts > place])
        mine = exact[max(start, place - 12) : min(end, place + 13)] / exact.max()
        assert np.array(heat) == pytest.approx(np.ceil(9 * mine - 1e-6) / 9)


def test_contexts_are_those_of_one_dataset(page):
    page.show("tab=experts&l=3&e=0")
    everything = [line[5].split(", ")[0] for line in page.browser.run(LINES, "Highest")]
    page.browser.run(
        "const filter = document.getElementById('context-dataset');"
        "filter.value = 'code'; filter.dispatchEvent(new Event('change'))"
    )
    page.wait()
    assert page.fragment().endswith("in=code")
    shown = [line[5].split(", ")[0] for line in page.browser.run(LINES, "Highest")]
    assert shown == ["code"] * everything.count("code") and 0 < len(shown) < 30


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [1, 2, 3])
def test_counts_are_those_of_the_study(page, study, mode, size):
    layer = 1
    experts = study.sets(layer, mode, size, 1)[0] if size > 1 else (4,)
    members = study.members(layer, experts, mode)
    page.show(f"tab=experts&l={LAYERS[layer]}&e={','.join(map(str, experts))}&mode={mode}")
    assert page.text("#set strong") == str(len(members))
    shown = page.table("Tokens by dataset, both" if (mode, size) == ("subset", 2) else "Tokens by dataset")
    assert [(name, int(number)) for name, number, *_ in shown] == list(
        zip(DATASETS, study.by_dataset(members), strict=True)
    )
    for row, number, tokens in zip(shown, study.by_dataset(members), study.sizes, strict=True):
        share = number / tokens
        assert float(row[2].split()[0]) == pytest.approx(100 * share, rel=0.005)
        assert float(row[3]) == pytest.approx(share / (len(members) / len(study.token)), rel=0.005)
    total = np.bincount(study.token)
    of = ", both" if (mode, size) == ("subset", 2) else ""
    assert page.text(".columns section:nth-child(2) strong" if of else "#set strong") == str(len(members))
    for token, number, share in page.table(f"Most specific tokens{of}, of those with at least 10"):
        place = ALONE.index(token)
        assert int(number) == sum(study.token[members] == place) and total[place] >= 10
        assert float(share.split()[0]) == pytest.approx(100 * int(number) / total[place], rel=0.005)
    for token, number, share in page.table(f"Most frequent tokens{of}"):
        assert int(number) == sum(study.token[members] == ALONE.index(token))
        assert float(share.split()[0]) == pytest.approx(100 * int(number) / len(members), rel=0.005)


def test_contexts_are_the_source_text(page, study):
    page.show(f"tab=experts&l={LAYERS[0]}&e=0")
    highest = page.browser.run(LINES, "Highest")
    page.go(f"tab=experts&l={LAYERS[0]}&e=0&show=mid")
    middle = page.browser.run(LINES, "Middle")
    page.go(f"tab=experts&l={LAYERS[0]}&e=0&show=rand")
    random = page.browser.run(LINES, "Random")
    assert (len(highest), len(middle), len(random)) == (30, 15, 20)
    weights = [float(line[3]) for line in highest]
    assert weights == sorted(weights, reverse=True)
    places = set()
    for before, token, after, weight, link, label in highest + middle + random:
        name, document = label.split(", ", 1)
        start = 0
        for other, length in browser_cases.DOCUMENTS[name].items():
            if re.sub("\u202e", r"\\u202e", other) == document:
                break
            start += length
        dataset = DATASETS.index(name)
        text = dict(part.split("=") for part in link[1:].split("&"))
        position = start + int(text["p"]) if "t" in text else int(text["at"])
        assert "t" not in text or (start == 0 and int(text["t"]) == dataset)
        words = study.token[study.dataset == dataset]
        assert token == SHOWN[words[position]]
        assert before == "".join(SHOWN[i] for i in words[max(start, position - 12) : position])
        assert after == "".join(SHOWN[i] for i in words[position : min(start + length, position + 13)])
        place = sum(study.sizes[:dataset]) + position
        rank = study.selected[0, place].tolist().index(0)
        assert float(weight) == pytest.approx(study.weight[0, place, rank], rel=0.005)
        places.add(place)
    assert len(places) == 65


def test_a_context_leads_to_its_text(page):
    page.show("tab=experts&l=7&e=0")
    lines = page.browser.run(LINES, "Highest")
    for kept, marked in ((True, "[aria-selected=true]"), (False, "mark")):
        (_, token, _, _, link, _), *_ = [line for line in lines if ("&t=" in line[4]) == kept]
        page.go(link[1:])
        assert page.text(f"#reading {marked}").removesuffix("\n") == token


@pytest.mark.parametrize("mode", ["subset", "prefix"])
def test_the_order_of_a_set_does_not_matter(page, study, mode):
    a, b = study.sets(0, mode, 2, 1)[0]
    shown = []
    for experts in (f"{a},{b}", f"{b},{a}"):
        page.show(f"tab=experts&l=3&e={experts}&mode={mode}")
        shown.append(page.text("#experts"))
    assert shown[0] == shown[1]


def test_a_pair_that_is_not_kept_still_has_its_count(page, study):
    kept = study.sets(0, "subset", 2, browser_cases.PAIRS)
    pair = next(pair for pair in combinations(range(EXPERTS), 2) if pair not in kept)
    page.show(f"tab=experts&l=3&e={pair[0]},{pair[1]}")
    assert page.text("#set strong") == str(len(study.members(0, pair, "subset")))
    assert "6 most frequent pairs and the 3 most frequent triples" in page.text("#set-counts")
    page.show(f"tab=experts&l=3&e={pair[0]},{pair[1]}&mode=ordered")
    assert "Its count is not kept" in page.text("#set")


def test_specific_sets_are_listed_by_score_and_by_dataset(page, study):
    page.show("tab=experts&l=3&e=0")
    experts = study.sets(0, "subset", 3, browser_cases.TRIPLES + 1)[-1]
    tokens = str(len(study.members(0, experts, "subset")))
    rows = page.table("The 3 with the highest score of 5 sets; layer 3")
    assert rows[0] == [", ".join(map(str, experts)), "code", f"2 of {tokens}", "0.9 [0.7, 1]", "0.001"]
    page.browser.run(
        "const filter = document.getElementById('specific-dataset');"
        "filter.value = '1'; filter.dispatchEvent(new Event('change'))"
    )
    page.wait()
    assert [row[1] for row in page.table(f"The 1 with the highest score of 1 sets of {DATASETS[1]}")] == [DATASETS[1]]
    page.browser.driver.find_element("css selector", "#specific a").click()
    page.wait()
    assert page.text("#set strong") == str(len(study.members(0, study.sets(0, "subset", 3, 5)[-1], "subset")))


def test_search_finds_tokens_and_their_experts(page, study):
    page.show("tab=tokens&q=THE&l=7")
    assert {row[0] for row in page.table("Tokens and")} == {"the", "·the"}
    page.show(f"tab=tokens&q={quote(' the')}&how=whole&l=7")
    ((token, number, datasets, first, selected),) = page.table("Tokens and")
    members = np.flatnonzero(study.token == TOKENS.index(" the"))
    assert (token, int(number)) == ("·the", len(members))
    assert dict(each.split(" ") for each in datasets.split(", ")) == {
        name: str(count) for name, count in zip(DATASETS, study.by_dataset(members), strict=True) if count
    }
    for shown, chosen in ((first, study.selected[1, members, :1]), (selected, study.selected[1, members])):
        expert, share = re.match(r"(\d) ([\d.]+)", shown).groups()
        assert float(share) == pytest.approx(100 * (chosen == int(expert)).sum() / len(members), rel=0.005)
        assert (chosen == int(expert)).sum() == max(np.bincount(chosen.ravel()))


def test_typing_searches(page):
    page.show("tab=tokens&l=3")
    field = page.browser.driver.find_element("id", "query")
    field.send_keys("cat")
    page.wait()
    assert [row[0] for row in page.table("Tokens and")] == ["·cat"]
    assert field.get_attribute("value") == "cat"


@pytest.mark.parametrize("layer", range(len(LAYERS)))
def test_a_token_shows_its_routing_at_any_layer(page, study, layer):
    position = 12
    page.show(f"tab=texts&t=0&l={LAYERS[layer]}&p={position}")
    rows = page.table("Selected experts")
    assert [int(row[0]) for row in rows] == study.selected[layer, position].tolist()
    for row, weight in zip(rows, study.weight[layer, position], strict=True):
        for text in row[1:]:
            value, error = map(float, text.split(" ± "))
            assert value == pytest.approx(weight, abs=error) and error < 0.006
    bars = page.browser.run(
        "return [...document.querySelectorAll('svg.routing rect')]"
        ".map((bar) => [bar.className.baseVal, Number(bar.getAttribute('height'))])"
    )
    chosen = [place for place, (kind, _) in enumerate(bars) if kind == "chosen"]
    assert chosen == sorted(study.selected[layer, position])
    heights = np.array([height for _, height in bars])
    probability = study.probability[layer, position]
    np.testing.assert_allclose(heights / heights.max(), probability / probability.max(), atol=0.02)


def test_a_character_in_several_tokens_is_shown_once_with_a_mark_for_its_other_tokens(browser, tmp_path, monkeypatch):
    study = browser_cases.Study()
    pieces = [" a⟨e2⟩", "⟨80⟩", "⟨99⟩s"]
    monkeypatch.setattr(browser_cases, "TOKENS", [*pieces, *TOKENS[3:]])
    study.token[:9] = [3, 0, 1, 2, 3, 2, 0, 1, 3]
    page = Page(browser, browser_cases.write(tmp_path, study))
    page.show("tab=texts&t=0&l=3&p=1")
    shown = "return [...document.querySelectorAll('#reading [data-p]')].slice(0, 9).map((token) => token.textContent)"
    assert page.browser.run(shown) == [
        *(" cat", " a’", "◂", "◂s", " cat"),
        *("⟨99⟩s", " a⟨e2⟩", "⟨80⟩", " cat"),
    ]
    assert page.text("#routing h2") == "·a⟨e2⟩"


@pytest.mark.parametrize("equal", [True, False])
def test_a_weight_that_is_the_probability_is_told_once(browser, study, tmp_path, monkeypatch, equal):
    add = browser_cases.DataScripts.add

    def marked(self, name, content):
        add(self, name, content | {"weight_is_probability": equal} if name == "index" else content)

    monkeypatch.setattr(browser_cases.DataScripts, "add", marked)
    page = Page(browser, browser_cases.write(tmp_path, study))
    page.show("tab=texts&t=0&l=3&p=1")
    assert {len(row) for row in page.table("Selected experts")} == {2 if equal else 3}


def test_a_text_is_coloured_by_its_six_most_frequent_first_choices(page, study):
    page.show("tab=texts&t=1&l=7")
    first = study.selected[1, study.dataset == 1][:TEXT_TOKENS, 0]
    counts = np.bincount(first, minlength=EXPERTS)
    most = sorted(range(EXPERTS), key=lambda expert: (-counts[expert], expert))[:6]
    classes = page.browser.run(
        "return [...document.querySelectorAll('#reading [role=option]')].map((token) => token.className)"
    )
    expected = [f"token colour-{most.index(expert)}" if expert in most else "token" for expert in first]
    assert [each.strip() for each in classes] == expected
    assert page.text("#legend li") == f"Expert {most[0]} {counts[most[0]]}"


def test_links_restore_views_and_back_works(page):
    page.show("tab=experts&l=7&e=2,5&mode=ordered")
    assert page.text("#set h2") == "Layer 7, experts 2 → 5"
    page.go("tab=texts&t=1&l=3&p=17")
    assert "Token 18 of 32, layer 3" in page.text("#routing")
    page.browser.driver.back()
    page.wait()
    assert page.text("#set h2") == "Layer 7, experts 2 → 5"
    page.browser.run("document.querySelector('.skip').click()")
    page.wait()
    assert page.text("#set h2") == "Layer 7, experts 2 → 5"


def test_a_link_below_brings_the_reader_to_what_it_shows(page):
    page.show("tab=experts&l=3&e=0")
    page.browser.driver.find_element("css selector", "#specific a").click()
    page.wait()
    assert "experts" in page.text("#set h2")
    assert 0 <= page.browser.run("return document.querySelector('#set h2').getBoundingClientRect().top") < 400


def test_the_grid_is_one_tab_stop_and_follows_the_keys(page):
    page.show("tab=experts&l=3&e=1")
    assert len(page.browser.driver.find_elements("css selector", "#grid [tabindex='0']")) == 1
    page.browser.run("document.querySelector('#grid [tabindex=\"0\"]').focus()")
    page.press(Keys.ARROW_DOWN, Keys.ARROW_RIGHT, Keys.ENTER)
    assert page.fragment() == "tab=experts&l=7&e=2&mode=subset"
    page.press(Keys.END, Keys.SPACE)
    assert page.fragment() == "tab=experts&l=7&e=2,7&mode=subset"
    page.press(Keys.HOME, Keys.SPACE)
    assert page.text("#set h2") == "Layer 7, experts 0, 2, 7"
    page.press(Keys.SPACE, Keys.ARROW_UP, Keys.ENTER)
    assert page.fragment() == "tab=experts&l=3&e=0&mode=subset"
    assert len(page.browser.driver.find_elements("css selector", "#grid [aria-selected='true']")) == 1


def test_the_tabs_and_the_text_follow_the_keys(page):
    page.show("tab=experts&l=7&e=1")
    page.browser.run("document.getElementById('tab-experts').focus()")
    page.press(Keys.ARROW_LEFT)
    assert page.text("[role=tab][aria-selected=true]") == "Texts"
    page.browser.run("document.querySelector('#reading [tabindex=\"0\"]').focus()")
    page.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_UP)
    assert page.fragment() == "tab=texts&t=0&l=3&p=2"
    page.press(Keys.END, Keys.ARROW_LEFT)
    assert "Token 31 of 32, layer 3" in page.text("#routing")


def test_hostile_texts_are_inert(page):
    for fragment in (*VIEWS.values(), f"tab=experts&l=3&e={quote(SCRIPT)}", f"tab=tokens&q={quote(SCRIPT)}"):
        page.show(fragment)
        assert page.browser.run("return window.hacked") is None
        assert page.browser.run("return document.querySelectorAll('main script, main img, main [onerror]').length") == 0
        assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e\u2066-\u2069]", page.text("main"))
    place = TOKENS.index(HOSTILE[4])
    page.show(f"tab=tokens&l=3&v={5 + place}")
    assert page.text("#token h2") == f"Token {'x' * 48}…"
    assert page.text("#token details p") == "x" * 10_000


@pytest.mark.parametrize(
    ("fragment", "sentence"),
    [
        ("tab=experts&l=3&e=1&with=4,1", "“4,1” is not a layer and an expert to compare with, such as 7,3."),
        ("tab=experts&l=3&e=1&show=low", "There are no contexts “low”: choose high, mid and rand."),
        ("tab=experts&l=3&e=1&in=poems", "There is no dataset “poems”."),
        ("tab=experts&l=4&e=1", "There is no layer “4”: the layers are 3 and 7."),
        ("tab=experts&l=3&e=8", "There is no expert “8”: choose one from 0 to 7."),
        ("tab=experts&l=3&e=1,1", "“1,1” is not one to 3 different experts, such as 3, 17."),
        ("tab=experts&l=3&e=1&mode=any", "There is no mode “any”: the modes are subset, ordered and prefix."),
        ("tab=tokens&v=4", "The token id “4” does not occur in this study."),
        ("tab=texts&t=2", "There is no text “2”: choose one from 0 to 1."),
        ("tab=texts&t=0&p=32", "There is no token “32”: choose one from 0 to 31."),
        ("tab=texts&d=poems&at=0", "There is no dataset “poems”."),
    ],
)
def test_a_wrong_address_gets_one_sentence(page, fragment, sentence):
    page.show(fragment)
    assert page.text("#problem") == sentence
    shown = "return [...document.querySelectorAll('.view')].filter((view) => view.checkVisibility()).length"
    assert page.browser.run(shown) == 0
    page.go("tab=tokens&l=3")
    assert page.text("#problem") == ""
    assert page.browser.run(shown) == 1


@pytest.mark.parametrize("name", ["experts/7", "vocabulary"])
def test_data_that_are_missing_foreign_or_damaged_gets_one_sentence(browser, study, tmp_path, name):
    page = Page(browser, browser_cases.write(tmp_path, study))
    script = tmp_path / "browser/tiny/main" / f"{name}.js"
    text = script.read_text()
    build = text.split('"')[3]
    for changed, sentence in (
        (text.replace(build, "f" * 12), f"is of build {'f' * 12}, but this page is of build {build}: copy"),
        (text.replace(text.split('"')[7][100:140], ""), "is damaged: copy"),
        (None, "is missing or cannot be read: copy"),
    ):
        script.unlink() if changed is None else script.write_text(changed)
        page.show("tab=experts&l=7&e=1")
        assert page.text("#problem").startswith(f"The file browser/tiny/main/{name}.js {sentence}")


def test_what_is_left_out_to_save_space_is_said(page):
    page.show(VIEWS["one expert"])
    assert page.text("#dropped") == "To stay within 12 MB these data do without: shades in a context."


@pytest.mark.parametrize("layer", range(len(LAYERS)))
def test_all_layers_of_a_text_show_every_first_choice_and_follow_the_keys(page, study, layer):
    page.show("tab=texts&t=0&l=3&p=3&all=1")
    rows = page.browser.run(
        "return [...document.querySelectorAll('.all-layers tbody tr')].map("
        "(row) => [...row.querySelectorAll('td')].map((cell) => [cell.textContent, cell.className]))"
    )
    first = study.selected[layer, study.dataset == 0][:TEXT_TOKENS, 0]
    assert [int(row[layer][0]) for row in rows] == first.tolist()
    counts = np.bincount(first, minlength=EXPERTS)
    most = sorted(range(EXPERTS), key=lambda expert: (-counts[expert], expert))[:6]
    assert [row[layer][1] for row in rows] == [f"colour-{most.index(one)}" if one in most else "" for one in first]
    cells = page.browser.driver.find_elements("css selector", ".all-layers [tabindex='0'][data-p]")
    assert [cell.get_attribute("data-p") for cell in cells] == ["3"]
    page.browser.run("arguments[0].focus()", cells[0])
    page.press(Keys.ARROW_DOWN, Keys.ARROW_RIGHT)
    assert page.fragment() == "tab=texts&t=0&l=7&p=4&all=1"
    assert "Token 5 of 32, layer 7" in page.text("#routing")
    page.browser.driver.find_element("id", "all").click()
    page.wait()
    assert page.text("#reading [aria-selected=true]") == SHOWN[study.token[4]]


def test_a_token_is_shown_where_it_occurs(page, study):
    place = TOKENS.index(" cat")
    page.show(f"tab=tokens&l=7&v={5 + place}&where={DATASETS[1]}")
    lines = page.browser.run(LINES, "In context")
    total = int((study.token[study.dataset == 1] == place).sum())
    assert f"{min(20, total)} of {total} occurrences in the first {study.sizes[1]} tokens" in page.text("#occurrences")
    assert len(lines) == min(20, total) and {line[1] for line in lines} == {" cat"}
    ends = np.cumsum(list(browser_cases.DOCUMENTS[DATASETS[1]].values())) + study.sizes[0]
    names = [re.sub("\u202e", r"\\u202e", name) for name in browser_cases.DOCUMENTS[DATASETS[1]]]
    spans = dict(zip(names, zip([study.sizes[0], *ends], ends, strict=False), strict=True))
    for before, _, after, _, link, link_text in lines:
        text = dict(part.split("=") for part in link[1:].split("&"))
        at = sum(study.sizes[:1]) + int(text["p"] if "t" in text else text["at"])
        assert study.token[at] == place
        document = link_text.split(", ", 1)[1]
        start, end = spans[document]
        shown = [SHOWN[token] for token in study.token]
        assert before == "".join(shown[max(start, at - 12) : at])
        assert after == "".join(shown[at : min(end, at + 13)])


MAP = """
return [...document.querySelectorAll("#set-counts .inputs > :not(circle)")].reverse().map((each) => [
    each.getAttribute("href"), each.querySelector("title").textContent,
    (each.matches("path") ? each : each.querySelector("path")).getAttribute("transform")]);
"""


def test_router_inputs_of_an_expert_are_on_a_map_that_leads_to_their_texts(page, study):
    page.show("tab=experts&l=7&e=2")
    marks = page.browser.run(MAP)
    mine = np.flatnonzero((study.selected[1] == 2).any(axis=1))
    weights = np.where(study.selected[1] == 2, study.weight[1], 0).sum(axis=1)
    expected = sorted(mine, key=lambda token: -weights[token])[:5]
    assert len(marks) == 5 and page.browser.run("return document.querySelectorAll('.inputs circle').length") == 2
    for (href, title, transform), token in zip(marks, expected, strict=True):
        name, place = DATASETS[study.dataset[token]], study.position[token]
        assert href == f"#tab=texts&l=7&d={name}&at={place}"
        assert title.startswith(f"{name}: {WRITTEN[study.token[token]]}, weight ")
        x, y = (float(number) for number in transform[10:-1].split())
        most = max(100, *(study.position[expected]))
        assert x == pytest.approx(1000 * place / most, abs=0.6)
        assert y == pytest.approx(1000 * (1 - weights[token]), abs=0.6)
    page.show("tab=experts&l=7&e=2&mode=prefix")
    assert page.browser.run(MAP) == []


def test_sets_of_four_are_listed_or_said_not_to_be_counted(page):
    page.show("tab=experts&l=3&e=0")
    assert "the tokens that select all of them:0, 1, 2, 3 1,234" in page.text("#set-counts")
    page.go(f"tab=experts&l=3&e={EXPERTS - 1}")
    assert "four" not in page.text("#set-counts")


def test_what_comes_from_profiles_is_said_to_be_missing_without_them(page, known):
    for each, missing in ((page, True), (known, False)):
        each.show("tab=experts&l=3&e=0")
        assert ("which this report does not have" in each.text("#browser")) == missing


def test_a_grid_of_many_layers_scrolls_to_the_chosen_expert_in_its_own_box(page):
    page.show("tab=experts&l=7&e=5")
    page.browser.run(
        "const grid = document.getElementById('grid'), last = grid.lastElementChild;"
        "for (let i = 0; i < 60; i++) grid.insertBefore(grid.children[1].cloneNode(true), last);"
    )
    page.go("tab=experts&l=7&e=6")
    inside, top, moved = page.browser.run(
        "const [box, cell, set] = ['.scroll:has(#grid)', '#grid [aria-selected=true]', '#set'].map("
        "(each) => document.querySelector(each).getBoundingClientRect());"
        "return [cell.top > box.top && cell.bottom < box.bottom, set.top, scrollY];"
    )
    assert inside and top < 900 and moved == 0


def test_print_shows_the_view_without_controls(page):
    page.show(VIEWS["one expert"])
    page.browser.look(print_=True)
    visible = (
        "return [...document.querySelectorAll(arguments[0])].filter((element) => element.checkVisibility()).length"
    )
    assert page.browser.run(visible, "#browser form, #browser .tabs, #grid, #tokens, #texts") == 0
    assert page.browser.run(visible, "#set, #set-counts table, .contexts li") > 30


def test_without_scripts_the_page_names_where_to_look(browser, path):
    browser.scripts(run=False)
    browser.open(path)
    assert "experts-tiny.html" in browser.driver.find_element("css selector", "noscript").get_attribute("innerHTML")
    assert not browser.driver.find_element("id", "browser").is_displayed()
