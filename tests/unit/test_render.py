"""Pages of the report: what stands on them, that links hold, and that no text does harm."""

import copy
import html
import json
import re
from itertools import pairwise
from urllib.parse import unquote, urlsplit

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_cases import NAN, TEMPLATES, Page, make_figure, make_site

from gatebook.report import render

BESIDE = {"assets/gatebook.css", "assets/gatebook.js", "assets/search.js", "assets/told.js", "run.js"}


FILES = {
    path
    for chapter in make_site()["chapters"]
    for section in chapter["sections"]
    for path in [
        *(figure[key] for figure in section["figures"] for key in ("svg", "pdf", "csv", "netcdf")),
        *(table["href"] for table in section["tables"]),
    ]
    if path is not None
}


def pages(site: dict) -> dict[str, Page]:
    return {name: Page(text) for name, text in render.render(site, TEMPLATES).items()}


def paths_to_keys(value, path=()):
    """Path (keys and list indices) of every dictionary key in nested dictionaries and lists."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*path, key)
            yield from paths_to_keys(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from paths_to_keys(inner, (*path, index))


def parent(site: dict, path: tuple):
    for step in path[:-1]:
        site = site[step]
    return site


# Dot-whisker


def test_whisker_places_all_values_on_one_scale():
    # From 0.13 to 0.83 with steps of 0.2: 0 to 1 on 200 pixels between the margins.
    at = render.whisker(0.4, 0.3, 0.5, null=0.13, reference=0.83, width=220, margin=10)
    assert at.ticks == [10, 50, 90, 130, 170, 210]
    assert (at.first_label, at.last_label) == ("0", "1.0")
    assert (at.estimate, at.low, at.high, at.null, at.reference) == (90, 70, 110, 36, 176)


def test_whisker_leaves_out_what_is_not_available():
    at = render.whisker(0.4, NAN, None, null=None, reference=NAN)
    assert (at.low, at.high, at.null, at.reference) == (None, None, None, None)
    assert render.whisker(NAN, 0.1, 0.2, null=0.3, reference=None) is None


def test_whisker_does_not_magnify_rounding_noise():
    # Half of 0.3 on both sides, 0.15 to 0.45, with steps of 0.1: 0.1 to 0.5.
    at = render.whisker(0.1 + 0.2, 0.3, 0.1 + 0.2, null=None, reference=None, width=220, margin=10)
    assert (at.first_label, at.last_label) == ("0.1", "0.5")
    assert (at.low, at.estimate, at.high) == (110, 110, 110)


numbers = st.floats(min_value=-1e9, max_value=1e9).filter(lambda value: value == 0 or abs(value) > 1e-3)


@given(st.lists(numbers, min_size=5, max_size=5))
def test_whisker_keeps_the_order_and_stays_inside(values):
    at = render.whisker(*values, width=220, margin=8)
    positions = [at.estimate, at.low, at.high, at.null, at.reference]
    assert all(8 <= position <= 212 for position in positions)
    by_value = [position for _, position in sorted(zip(values, positions, strict=True))]
    assert by_value == sorted(by_value)
    assert (at.ticks[0], at.ticks[-1]) == (8, 212)


# Pages


def test_there_is_a_page_for_the_summary_each_chapter_and_the_methods():
    assert set(render.render(make_site(), TEMPLATES)) == {
        "index.html",
        "decisiveness.html",
        "load.html",
        "methods.html",
    }


def test_equal_input_gives_equal_text_and_stays_unchanged():
    site = make_site()
    before = repr(site)
    assert render.render(site, TEMPLATES) == render.render(make_site(), TEMPLATES)
    assert repr(site) == before


def test_numbers_of_every_finding_stand_on_the_summary_and_on_its_chapter():
    rendered = pages(make_site())
    for name, expected, exact in [
        (
            "decisiveness.html",
            [
                "0.7356",
                "[0.7312, 0.7401]",
                "shuffled logits 0.971 [0.960, 0.980]",
                "untrained model 0.9900",
                "small to large",
            ],
            "0.73561",
        ),
        ("load.html", ["−3.2", "[−4.5, −2.0]", "not available", "interval not available"], "-3.25"),
    ]:
        for page in (rendered["index.html"], rendered[name]):
            text = " ".join(page.text.split())
            assert all(part in text for part in [*expected, "n = 4,800 documents"])
            assert exact in [attributes["value"] for attributes in page.all("data")]
    assert "nan" not in rendered["index.html"].text.lower()


def test_a_finding_names_the_class_of_its_effect_and_its_exceptions():
    text = " ".join(pages(make_site())["decisiveness.html"].text.split())
    assert "Verdict: The interval lies below the null.. Effect: small to large." in text
    assert "small to large differs by layer" in text
    assert "Yet against shuffled logits it is above in layer 3." in text


def test_a_plot_shows_the_interval_of_the_null_if_it_has_one():
    rendered = pages(make_site())
    for name, bands in (("decisiveness.html", 2), ("load.html", 0)):  # in the line, and in what opens
        assert len([a for a in rendered[name].all("path") if a.get("class") == "null-interval"]) == bands


def test_the_description_of_a_plot_holds_its_numbers():
    label = next(a["aria-label"] for a in pages(make_site())["load.html"].all("svg") if a.get("role") == "img")
    assert label == "Estimate −3.2 [−4.5, −2.0] share of ln 64"
    label = next(a["aria-label"] for a in pages(make_site())["decisiveness.html"].all("svg") if a.get("role") == "img")
    assert label == (
        "Estimate 0.7356 [0.7312, 0.7401] share of ln 64; shuffled logits 0.971 [0.960, 0.980]; untrained model 0.9900"
    )


def test_every_link_image_and_asset_resolves():
    rendered = pages(make_site())
    identifiers = {name: [a["id"] for _, a in page.elements if "id" in a] for name, page in rendered.items()}
    assert all(len(found) == len(set(found)) for found in identifiers.values())
    reached = set()
    for name, page in rendered.items():
        for _, attributes in page.elements:
            address = attributes.get("href") or attributes.get("src")
            if address is None or attributes.get("rel") == "external noreferrer":
                continue
            parts = urlsplit(address)
            assert not parts.scheme and not parts.netloc
            target = unquote(parts.path) or name
            assert target in FILES | BESIDE | set(rendered)
            assert not parts.fragment or parts.fragment in identifiers[target] or parts.fragment.startswith("tab=")
            reached.add(target)
    assert reached == FILES | BESIDE | set(rendered)


def test_findings_and_thumbnails_link_to_their_figure():
    links = [attributes["href"] for attributes in pages(make_site())["index.html"].all("a")]
    assert links.count("decisiveness.html#entropy-1") == 3
    assert links.count("decisiveness.html#entropy-2") == 1
    assert links.count("load.html#load-1") == 3


def test_nothing_is_loaded_from_elsewhere():
    for name, page in pages(make_site()).items():
        assert page.elements[3][1]["http-equiv"] == "Content-Security-Policy"  # after html, head and the charset
        policy = page.elements[3][1]["content"]
        assert policy.startswith("default-src 'none';")
        assert "unsafe" not in policy and "http" not in policy
        external = [a["href"] for a in page.all("a") if urlsplit(a["href"]).scheme]
        assert external == ["https://example.org/paper"] * {"methods.html": 2, "decisiveness.html": 1}.get(name, 0)
        assert not any(key == "style" or key.startswith("on") for _, a in page.elements for key in a)


def test_headings_are_in_order():
    for page in pages(make_site()).values():
        levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
        assert levels[0] == 1 and levels.count(1) == 1
        assert all(after <= before + 1 for before, after in pairwise(levels))


def test_pages_state_language_tables_have_captions_and_images_sizes():
    for name, page in pages(make_site()).items():
        assert page.all("html")[0]["lang"] == "en"
        assert len(page.all("caption")) == len(page.all("table"))
        assert all(attributes.get("scope") for attributes in page.all("th"))
        assert all(attributes["width"] == "720" and attributes["height"] == "400" for attributes in page.all("img"))
        if name not in ("index.html", "methods.html"):
            assert all(len(attributes["alt"]) >= 40 for attributes in page.all("img"))
        assert len([a for a in page.all("a") if a.get("aria-current") == "page"]) == 1


def test_methods_show_the_outputs_and_the_configuration():
    text = " ".join(pages(make_site())["methods.html"].text.split())
    assert "1 files, 999 B" in text
    assert "study:\n  seed: 1\n" in pages(make_site())["methods.html"].text


def test_run_times_stand_in_a_script_beside_the_pages():
    rules = [{"rule": "record", "jobs": 1200, "seconds": 185.2}, {"rule": "tally", "jobs": 3, "seconds": 4.04}]
    text = render.run_script(rules, ["maps/demo.log"], ["Linux", "a GPU"], ["2026-11-29", "2026-11-30"])
    assert text.startswith("showRun({") and text.endswith("});\n")
    assert json.loads(text[len("showRun(") : -3]) == {
        "facts": {
            "jobs": "1,203 finished, 1 failed or not finished: maps/demo.log",
            "time": "3 min 09 s, all jobs added up",
            "machine": "Linux; a GPU",
            "date": "2026-11-29 to 2026-11-30",
        },
        "rules": [["record", "1,200", "3 min 05 s"], ["tally", "3", "4.0 s"]],
    }
    assert "1,203 finished, none failed" in render.run_script(rules, [], [], [])
    assert '"date": "2026-11-30"' in render.run_script(rules, [], [], ["2026-11-30", "2026-11-30"])


def test_the_first_screen_holds_one_line_the_brief_with_its_examples_and_a_tile_for_every_expert():
    page = pages(make_site())["index.html"]
    text = " ".join(page.text.split())
    assert "a model: 2 layers × 3 experts." in text and "Somebody: Software." in text
    assert "Experts differ. Layer 0 expert 1 does most." in text and "Nothing shows more." in text
    tiles = [a for a in page.all("a") if "#tab=experts" in a["href"] and "title" in a]
    assert [(a["class"], a["href"], a["title"]) for a in tiles] == [
        ("colour-1 strong", "decisiveness.html#tab=experts&l=2&e=0", "Expert 0 serves colour-1."),
        ("others", "decisiveness.html#tab=experts&l=2&e=1", "Expert 1 serves others."),
        ("type", "decisiveness.html#tab=experts&l=5&e=0", "Expert 0 serves type."),
        ("nothing", "decisiveness.html#tab=experts&l=5&e=1", "Expert 1 serves nothing."),
    ]
    assert "Po poems layer 2 expert 0 90.1 % and 2 more Co code no expert" in text.replace(" ", " ")


def test_the_brief_has_six_sentences_and_the_rest_are_folded():
    site = make_site()
    site["brief"] = [site["brief"][0] | {"text": f"Sentence {number}."} for number in range(8)]
    text = render.render(site, TEMPLATES)["index.html"].partition("In brief")[2].partition("</section>")[0]
    shown, more, folded = text.partition("<summary>2 more</summary>")
    assert more and [shown.count("<li>"), folded.count("<li>")] == [6, 2]
    assert "Sentence 5." in shown and "Sentence 6." in folded
    assert "more</summary>" not in render.render(make_site(), TEMPLATES)["index.html"].partition("Findings")[0]


def test_findings_have_anchors_kinds_and_a_filter_for_each_kind_with_their_number():
    page = pages(make_site())["index.html"]
    found = {a["id"]: a["data-kinds"] for a in page.all("details") if "data-kinds" in a}
    assert found == {"finding-entropy-1": "surprising trained", "finding-load-1": "null", "finding-load-2": ""}
    text = " ".join(page.text.split())
    assert "All 3 Surprising 1 Changed by training 1 Null result 1" in text
    assert all(f"{name}: {meaning}." in text for name, meaning in render.KINDS.values())
    assert not any("open" in a for a in page.all("details"))
    assert all("open" in a for a in pages(make_site())["load.html"].all("details") if "data-kinds" in a)


def test_terms_and_measures_of_findings_lead_to_the_methods_with_their_meaning():
    links = [a for a in pages(make_site())["decisiveness.html"].all("a") if a.get("class") == "term"]
    assert ("methods.html#metric-decisiveness-entropy", "How undecided it is.") in [
        (a["href"], a["title"]) for a in links
    ]
    assert "methods.html#term-untrained-model" in [a["href"] for a in links]


def test_a_page_about_a_model_has_its_template_and_a_place_in_the_navigation(tmp_path):
    for path in TEMPLATES.iterdir():
        (tmp_path / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "zoo.html.j2").write_text(
        '{% extends "base.html.j2" %}{% block attributes %} data-zoo="{{ zoo.build }}"{% endblock %}'
        "{% block title %}{{ title }}{% endblock %}{% block main %}<h1>{{ zoo.name }}</h1>{% endblock %}"
    )
    site = make_site()
    zoo = {"file": "zoo-a.html", "title": "The zoo", "template": "zoo.html.j2"}
    site["model_pages"] = [zoo | {"variables": {"zoo": {"name": "<Bear>", "build": "c0de"}}}]
    rendered = render.render(site, tmp_path)
    page = Page(rendered["zoo-a.html"])
    assert page.all("html")[0]["data-zoo"] == "c0de"
    assert "<Bear>" in page.text
    for text in rendered.values():
        links = [attributes["href"] for attributes in Page(text).all("a")]
        assert links.index("load.html") < links.index("zoo-a.html") < links.index("methods.html")


def test_downloads_beyond_their_budget_are_left_out_the_largest_first():
    files = [{"path": f"data/{name}.nc", "bytes": size} for name, size in (("a", 2_000_000), ("b", 9_000_000))]
    files += [{"path": f"figures/a.{kind}", "bytes": 2_000_000} for kind in ("svg", "pdf")]
    files += [{"path": f"{name}.html", "bytes": 500_000} for name in ("index", "methods")]
    assert render.sizes(files, shown=True) == {"figures/*.svg": 2_000_000, "*.html": 1_000_000}
    assert render.sizes(files, shown=False) == {"data/*.nc": 11_000_000, "figures/*.pdf": 2_000_000}
    assert render.left_out(files, 13) == []
    assert render.left_out(files, 12) == ["data/b.nc"]
    assert render.left_out(files, 1) == ["data/b.nc", "data/a.nc"]  # a figure stays


def test_a_report_says_what_it_lacks_and_that_it_is_large():
    site = make_site()
    figures = [figure for chapter in site["chapters"] for part in chapter["sections"] for figure in part["figures"]]
    path = next(figure["netcdf"] for figure in figures if figure["netcdf"])
    assert render.without(site, []) == site
    text = "".join(page.text for page in pages(render.without(site, [path])).values())
    assert f"lacks {path}, which results/metrics has" in text
    addresses = [link["href"] for page in pages(render.without(site, [path])).values() for link in page.all("a")]
    assert path not in addresses
    assert render.oversized(site, 3_000_000, 3) == site
    (caution,) = render.oversized(site, 3_000_001, 3)["cautions"][len(site["cautions"]) :]
    assert caution["text"].startswith("It shows 3.00 MB, more than the 3 MB meant for a study of this size")


def test_a_figure_links_the_experts_that_it_names():
    site = make_site()
    figure = site["chapters"][0]["sections"][0]["figures"][0]
    figure |= {"browser": "browser-a.html", "alt": "The largest are layer 0, expert 3, and experts 1 and 2 of layer 4."}
    links = [link["href"] for link in pages(site)["decisiveness.html"].all("a")]
    assert {"browser-a.html#tab=experts&l=0&e=3", "browser-a.html#tab=experts&l=4&e=1,2"} <= set(links)


MARKUP = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'>&amp;{{ 7 * 7 }}"
HOSTILE = MARKUP + "\u202e\u2066\x00\x1b\u2028\ud800"
INERT = MARKUP + r"\u202e\u2066\u0000\u001b\u2028\ud800"
NOT_FREE_TEXT = {"verdict", "chapter", "figure", "id", "svg", "pdf", "csv", "netcdf", "href", "source_url", "browser"}


def test_hostile_strings_are_inert():
    site = make_site()
    changed = set()
    for path in paths_to_keys(make_site()):
        holder, key = parent(site, path), path[-1]
        is_name = key == "name" and path[:-1][0] == "chapters" and len(path) == 3
        is_name |= key == "rule" and path[0] == "methods"
        if isinstance(holder[key], str) and holder[key] and key not in NOT_FREE_TEXT and not is_name:
            holder[key] = HOSTILE
            changed.add(key)
    assert {"title", "alt", "answer", "command", "sha256", "formula", "configuration"} <= changed
    plain = make_site()
    for path in list(paths_to_keys(plain)):
        if parent(plain, path)[path[-1]] == "untrained model":  # a term, which becomes a link
            parent(plain, path)[path[-1]] = "another model"
    ordinary = pages(plain)
    for name, page in pages(site).items():
        assert [tag for tag, _ in page.elements] == [tag for tag, _ in ordinary[name].elements]
        assert [sorted(a) for _, a in page.elements] == [sorted(a) for _, a in ordinary[name].elements]
        assert INERT in page.text
    for text in render.render(site, TEMPLATES).values():
        assert text.encode("utf-8")
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", html.unescape(text))


# One place for each key of the data model, the last one: there the estimate is NaN, so that its bounds are not printed.
KEYS = {tuple(step for step in path if isinstance(step, str)): path for path in paths_to_keys(make_site())}


@pytest.mark.parametrize("path", KEYS.values(), ids=lambda path: ".".join(map(str, path)))
def test_a_missing_key_raises(path):
    site = copy.deepcopy(make_site())
    del parent(site, path)[path[-1]]
    with pytest.raises((jinja2.UndefinedError, KeyError)):
        render.render(site, TEMPLATES)


def test_none_is_never_printed():
    site = make_site()
    site["findings"][0]["answer"] = None
    with pytest.raises(ValueError, match="None"):
        render.render(site, TEMPLATES)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("findings", 0, "verdict"), "maybe"),
        (("findings", 0, "figure"), "no-such-figure"),
        (("findings", 0, "chapter"), "no_such_chapter"),
        (("findings", 0, "id"), "finding-load-1"),
        (("findings", 0, "id"), "two words"),
        (("chapters", 0, "name"), "index"),
        (("chapters", 0, "name"), "load"),
        (("chapters", 0, "name"), "../load"),
        (("chapters", 0, "sections", 0, "figures", 1, "id"), "entropy-1"),
        (("chapters", 0, "sections", 0, "figures", 1, "id"), "section-1"),
        (("chapters", 0, "sections", 0, "figures", 1, "id"), "two words"),
        (("chapters", 0, "sections", 0, "figures", 0, "svg"), "https://example.org/x.svg"),
        (("chapters", 0, "sections", 0, "figures", 0, "svg"), "//example.org/x.svg"),
        (("chapters", 0, "sections", 0, "figures", 0, "csv"), "javascript:alert(1)"),
        (("chapters", 0, "sections", 0, "tables", 0, "href"), "/etc/passwd"),
        (("chapters", 0, "sections", 0, "tables", 0, "href"), "tables/../../x.csv"),
        (("methods", "metrics", 0, "source_url"), "javascript:alert(1)"),
        (("brief", 1, "href"), "https://example.org/x.html"),
        (("pictures", 0, "browser"), "../x.html"),
    ],
)
def test_what_cannot_be_right_is_refused(path, value):
    site = make_site()
    parent(site, path)[path[-1]] = value
    with pytest.raises(ValueError, match=re.escape(repr(value))):
        render.render(site, TEMPLATES)


@pytest.mark.parametrize("browser", ["browser-a model.html", ""])
def test_a_figure_can_be_explored_where_it_has_data(browser):
    site = make_site()
    figure = site["chapters"][0]["sections"][0]["figures"][0]
    figure["explored"] = {"first": "lift", "build": "ab12", "folder": "figures/a model/explored", "browser": browser}
    found = pages(site)
    (host,) = (each for _, each in found["decisiveness.html"].elements if each.get("class") == "explore")
    assert (host["data-first"], host["data-build"]) == ("lift", "ab12")
    assert (host["data-folder"], host["data-browser"]) == ("figures/a%20model/explored", browser.replace(" ", "%20"))
    assert host["aria-label"] == f"Figure {figure['number']}, to explore" and "hidden" in host
    scripts = {
        name: {each.get("src") for tag, each in page.elements if tag == "script"} for name, page in found.items()
    }
    assert {name for name, sources in scripts.items() if "assets/explore.js" in sources} == {"decisiveness.html"}


def test_published_values_stand_beside_those_of_the_study():
    rendered = pages(make_site())
    text = " ".join(rendered["decisiveness.html"].text.split())
    assert "Source: A paper & its figures . Two runs differ." in text
    assert "Largest share, code 7 0.625 0.500 [0.375, 0.562] −0.125 no" in text
    assert "Published, but not in this study: Largest share, poems." in text
    assert "Beside published values" not in rendered["load.html"].text


def test_what_was_not_measured_is_named_and_never_compared():
    text = {name: " ".join(page.text.split()) for name, page in pages(make_site()).items()}
    assert "Not measured, because the data do not hold what it takes: Loss." in text["decisiveness.html"]
    assert "Saturation 10 % of training 0.6923" in text["methods.html"]
    assert not any("Saturation" in page for name, page in text.items() if name != "methods.html")


def test_experts_that_a_drawing_or_its_words_name_are_links_each_once():
    figure = make_figure("one", 1) | {"browser": "browser-a.html"}
    figure |= {"names": ["layer 0, expert 9", "experts 3 and 14 of layer 2"], "alt": "First layer 0 expert 9."}
    assert render.named(figure) == [
        {"words": "layer 0 expert 9", "href": "browser-a.html#tab=experts&l=0&e=9"},
        {"words": "layer 2 experts 3 and 14", "href": "browser-a.html#tab=experts&l=2&e=3,14"},
    ]
    assert render.named(figure | {"browser": ""}) == []
