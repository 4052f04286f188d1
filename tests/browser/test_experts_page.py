"""The table of expert profiles in a real browser, at full size: 16 layers x 64 experts, 12 datasets."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from gatebook.atlas import profiles
from gatebook.measures.token_types import TYPES
from gatebook.report import render
from tests.unit.report_cases import TEMPLATES, make_site

LAYERS, EXPERTS, DATASETS = 16, 64, [f"dataset_{number}" for number in range(12)]
HOSTILE = "<script>window.hacked = 1</script>\u202e\x07'\"" + "x" * 10_000
CELLS = """
const [name] = arguments, table = document.querySelector(".profiles");
window.dispatchEvent(new Event("beforeprint")); // all rows are drawn
const position = [...table.tHead.rows[0].cells].findIndex((cell) => cell.textContent === name);
return [...table.tBodies[0].rows].filter((row) => row.checkVisibility()).map((row) => row.cells[position].textContent);
"""
SORT = """
[...document.querySelectorAll(".profiles thead button")].find((button) => button.textContent === arguments[0]).click();
return [...document.querySelectorAll(".profiles [aria-sort]")].map((cell) => [cell.textContent, cell.ariaSort]);
"""
FILTER = """
const field = document.getElementById(`filter-${arguments[0]}`);
field.value = arguments[1];
field.dispatchEvent(new Event("input", {bubbles: true}));
return document.querySelector(".filters output").textContent;
"""


def interval(value: float) -> dict:
    """An estimate with an interval around it."""
    return {"estimate": round(value, 4), "low": round(0.9 * value, 4), "high": round(min(1.1 * value, 1), 4)}


def made_up(layer: int, expert: int, rng: np.random.Generator) -> dict:
    """The parts of a profile that the page shows; expert 5 of layer 3 is never selected."""
    idle = (layer, expert) == (3, 5)
    nothing = dict.fromkeys(("estimate", "low", "high"))
    share = 0.0 if idle else float(rng.uniform(0.05, 0.2))
    tokens = [HOSTILE, *(f" token{number}" for number in rng.integers(0, 1000, 4))] if expert == 7 else [" the", "ing"]
    others = [int(other) for other in rng.permutation(EXPERTS)[:3]]
    return {
        "layer": layer,
        "expert": expert,
        "tokens": 1_000_000,
        "load": {
            "selected_share": interval(share),
            "times_even": interval(8 * share),
            "first_share": interval(share / 8),
        },
        "ranks": [0] * 8 if idle else rng.integers(1, 10_000, 8).tolist(),
        "entropy": {"normalised": nothing if idle else interval(float(rng.uniform(0.3, 0.9)))},
        "domains": [
            {"dataset": name, "share": interval(float(rng.uniform(0, 0.5))), "adjusted_p": float(rng.uniform(0, 0.1))}
            for name in DATASETS
        ],
        "token_types": [
            {"type": name, "share": nothing if idle else interval(float(value)), "share_of_all_tokens": 1 / len(TYPES)}
            for name, value in zip(TYPES, rng.dirichlet(np.ones(len(TYPES))), strict=True)
        ],
        "top_tokens": {
            "input": {
                "most_frequent": [] if idle else [{"text": token} for token in tokens],
                "most_specific": [] if idle else [{"text": "specific"}],
            }
        },
        "own_tokens": [] if idle else [f"own{layer}_{expert}_{place}" for place in range(20)],
        "partners": [] if idle else [{"expert": other, "lift": interval(2.5)} for other in others],
        "nearest": [{"expert": other, "mean_removed_cosine": 0.25} for other in others],
    }


@pytest.fixture(scope="module")
def made() -> list[dict]:
    rng = np.random.default_rng(1)
    return [made_up(layer, expert, rng) for layer in range(LAYERS) for expert in range(EXPERTS)]


@pytest.fixture(scope="module")
def path(made, tmp_path_factory) -> Path:
    """The page in a report."""
    place = {"model": "demo", "checkpoint": "step1", "folder": "experts/demo/step1"}
    entry = {"title": "Expert profiles", "file": "experts-demo.html", "template": "experts.html.j2"}
    entry |= {"variables": {"experts": profiles.page(made, 0.05) | place}}
    folder = tmp_path_factory.mktemp("report")
    shutil.copytree(TEMPLATES.parent / "assets", folder / "assets")
    page = render.render(make_site() | {"model_pages": [entry]}, TEMPLATES)["experts-demo.html"]
    (folder / "experts-demo.html").write_text(page, encoding="utf-8")
    return folder / "experts-demo.html"


@pytest.fixture
def page(browser, path):
    browser.open(path)
    return browser


def test_it_is_small_and_asks_for_nothing_elsewhere(page, path):
    page.open(path)
    assert path.stat().st_size < 2_000_000
    assert page.errors() == [] and page.requests_elsewhere() == []


def test_hostile_tokens_do_nothing(page):
    assert page.run("return window.hacked") is None
    assert page.run("return document.querySelectorAll('.profiles script').length") == 0
    texts = page.run(CELLS, "Top tokens")
    assert all(len(text) < 200 for text in texts) and any("<script>" in text for text in texts)


@pytest.mark.parametrize(
    "name", ["Layer", "Expert", "Load", "Times even", "First", "Entropy", "Top dataset", "Partners"]
)
def test_buttons_sort_by_numbers_in_both_directions(page, made, name):
    word = {"Top dataset": 1, "Partners": 2}.get(name, 0)  # of the cell's text, the one that is the number

    for _ in range(2):
        ((header, direction),) = page.run(SORT, name)
        assert header == name
        cells = page.run(CELLS, name)
        known = [float(text.split()[word].strip(",")) for text in cells if text not in ("not available", "")]
        assert len(cells) == len(made)
        assert known == sorted(known, reverse=direction == "descending")
        assert cells[len(known) :] in ([], ["not available"], [""])


def test_filters_leave_the_experts_that_fit(page, made):
    assert page.run(FILTER, "layer", "3") == "64 of 1,024 experts"
    assert set(page.run(CELLS, "Layer")) == {"3"}
    assert page.run(FILTER, "expert", "7") == "1 of 1,024 experts"
    page.run(FILTER, "layer", "")
    assert page.run(FILTER, "token", "TOKEN1") == f"{len(page.run(CELLS, 'Top tokens'))} of 1,024 experts"
    assert all("token1" in text for text in page.run(CELLS, "Top tokens"))
    page.run(FILTER, "token", "x" * 5000)
    assert set(page.run(CELLS, "Expert")) == {"7"}
    page.run(FILTER, "expert", "")
    assert page.run(FILTER, "token", "specific") == "1,023 of 1,024 experts"
    assert page.run(FILTER, "token", "OWN9_12_19") == "1 of 1,024 experts"
    assert (page.run(CELLS, "Layer"), page.run(CELLS, "Expert")) == (["9"], ["12"])
    assert page.run("return location.hash") == "#token=OWN9_12_19"
    assert page.run(FILTER, "token", "") == "1,024 of 1,024 experts"


def mean_share(profile: dict, datasets: list[str]) -> float:
    """The mean over datasets of the share of their tokens that select the expert."""
    return float(np.mean([one["share"]["estimate"] for one in profile["domains"] if one["dataset"] in datasets]))


@pytest.mark.parametrize("datasets", [["dataset_3"], ["dataset_1", "dataset_11"]])
def test_all_experts_are_ranked_for_the_ticked_datasets(page, path, made, datasets):
    for name in datasets:
        page.driver.find_element("css selector", f".for [value='{name}']").send_keys(" ")
    assert page.run("return location.hash") == f"#for={','.join(datasets)}"
    for _ in range(2):
        places = list(zip(map(int, page.run(CELLS, "Layer")), map(int, page.run(CELLS, "Expert")), strict=True))
        assert len(set(places)) == len(made)
        shown = [made[layer * EXPERTS + expert] for layer, expert in places]
        assert np.all(np.diff([mean_share(one, datasets) for one in shown]) < 1e-9)
        shares, averages, differences = (page.run(CELLS, name) for name in ("Share", "Average", "Difference"))
        for share, average, difference, profile in zip(shares, averages, differences, shown, strict=True):
            domains = {one["dataset"]: one for one in profile["domains"]}
            mine, overall = mean_share(profile, datasets), mean_share(profile, DATASETS)
            assert float(share.split()[0]) == pytest.approx(100 * mine, abs=0.0501)
            assert float(average.split()[0]) == pytest.approx(100 * overall, abs=0.0501)
            change = float(difference.split()[0].replace("−", "-"))
            assert change == pytest.approx(100 * (mine - overall), abs=0.0501)
            assert ("✱" in difference) == all(domains[name]["adjusted_p"] <= 0.05 for name in datasets)
            assert ("[" in share) == (len(datasets) == 1)
        page.open(path, f"for={','.join(datasets)}")
    page.run(SORT, "Difference")
    assert page.run("return location.hash") == f"#for={','.join(datasets)}&sort=difference"
    page.open(path, f"for={','.join(datasets)}&sort=-difference&layer=3")
    differences = [float(text.split()[0].replace("−", "-")) for text in page.run(CELLS, "Difference")]
    assert len(differences) == EXPERTS and differences == sorted(differences)
    page.run("[...document.querySelectorAll('.profiles tbody tr')].slice(0, -40).forEach((row) => row.remove());")
    assert page.violations() == []


def test_without_a_ticked_dataset_there_is_no_ranking(page, path):
    page.open(path, "for=dataset_3")
    page.driver.find_element("css selector", ".for [value='dataset_3']").click()
    assert page.run("return document.querySelector('.profiles .ranked').checkVisibility()") is False
    assert page.run("return location.hash") in ("", "#")
    assert set(page.run(CELLS, "Layer")[:EXPERTS]) == {"0"}


@pytest.mark.parametrize("width", [1360, 390])
def test_header_and_expert_stay_in_sight(page, path, width):
    page.look(width=width)
    page.open(path, "for=dataset_3")
    page.driver.execute_async_script(
        "const box = document.querySelector('.scroll:has(.profiles)');"
        "box.scrollTo(400, 9000);"
        "box.scrollIntoView();"
        "requestAnimationFrame(() => requestAnimationFrame(() => arguments[0]()))"  # rows are laid out when seen
    )
    inside = page.run(
        "const place = document.querySelector('.scroll:has(.profiles)').getBoundingClientRect();"
        "const hit = (x, y) => document.elementFromPoint(place.left + x, place.top + y).closest('th, td');"
        "return [hit(place.width - 30, 12).closest('thead') !== null, hit(8, 12).textContent, hit(8, 200).cellIndex,"
        " hit(70, 200).cellIndex]"
    )
    assert inside == [True, "Layer", 0, 1]


def test_without_scripts_it_says_where_the_table_is(browser, path):
    browser.scripts(run=False)
    browser.open(path)
    (link,) = browser.driver.find_elements("css selector", "noscript a")
    assert link.is_displayed() and link.get_attribute("href").endswith("experts/demo/step1/experts.csv")
    hidden = browser.driver.find_elements("css selector", ".profiles, .filters, button")
    assert not any(each.is_displayed() for each in hidden)


def test_rows_are_drawn_as_they_are_needed(page, made):
    rows = "return document.querySelectorAll('.profiles tbody tr').length"
    assert page.run(rows) == 100
    page.run("const box = document.querySelector('.scroll:has(.profiles)'); box.scrollTop = box.scrollHeight;")
    page.settle()
    assert page.run(rows) == 200
    page.run("location.hash = '#layer-9-expert-12'")
    page.settle()
    assert page.run(rows) > 9 * EXPERTS
    row = page.driver.find_element("id", "layer-9-expert-12")
    assert page.run("return arguments[0].getBoundingClientRect().top < innerHeight", row)
    page.run(FILTER, "layer", "9")
    assert page.run(rows) == EXPERTS


def test_experts_that_are_named_are_links(path, browser, made):
    site = make_site()
    place = {"model": "demo", "checkpoint": "step1", "folder": "experts/demo/step1"}
    variables = {"experts": profiles.page(made[:70], 0.05) | place}
    entry = {"title": "Profiles", "file": "experts-demo.html", "template": "experts.html.j2", "variables": variables}
    pages = [entry, entry | {"file": "browser-demo.html"}]
    text = render.render(site | {"model_pages": pages}, TEMPLATES)["experts-demo.html"]
    other = path.with_name("with-browser.html")
    other.write_text(text, encoding="utf-8")
    browser.open(other)
    links = browser.run(
        "return [...arguments[0].querySelectorAll('a')].map((link) => link.getAttribute('href'))",
        browser.driver.find_element("id", "layer-1-expert-2"),
    )
    row = made[EXPERTS + 2]
    for one in [*row["partners"], *row["nearest"]]:
        pair = ",".join(map(str, sorted([2, one["expert"]])))
        assert f"browser-demo.html#tab=experts&l=1&e={pair}" in links
    assert links[:2] == ["experts/demo/step1/layer_1/expert_2.json", "browser-demo.html#tab=experts&l=1&e=2"]
    other.unlink()


@pytest.mark.parametrize("width", [1360, 390])
def test_the_table_scrolls_in_its_own_box(page, path, width):
    page.look(width=width)
    page.open(path)
    assert page.overflow() == 0
    assert page.run("const box = document.querySelector('.scroll'); return box.scrollWidth > box.clientWidth")


@pytest.mark.parametrize("dark", [False, True])
def test_axe_has_no_objections(page, path, dark):
    page.look(dark=dark)
    page.open(path)
    page.run("[...document.querySelectorAll('.profiles tbody tr')].slice(40).forEach((row) => row.remove());")
    assert page.violations() == []
