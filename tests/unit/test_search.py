"""What the search of the report looks through."""

import json
import re

from report_cases import make_site

from gatebook.report import glossary, search


def profile(layer: int, expert: int, own: list[str]) -> dict:
    return {"layer": layer, "expert": expert, "own": own, "tokens": [" most"], "specific": [own[0]]}


def site_with(*files: str) -> dict:
    rows = [profile(0, 0, ["def", "</script>"]), profile(0, 1, ["é"])]
    variables = {"experts": {"model": "a", "rows": rows}}
    pages = [{"file": file, "title": file, "template": "", "variables": {}} for file in files]
    return make_site() | {"model_pages": [*pages, {"file": "experts-a.html", "title": "P", "variables": variables}]}


def test_every_finding_figure_measure_term_and_page_is_found_where_it_stands():
    site = site_with()
    entries = search.index(site)["entries"]
    by_kind = {kind: [entry[1:] for entry in entries if entry[0] == kind] for kind in {entry[0] for entry in entries}}
    assert by_kind.keys() == {"Page", "Finding", "Figure", "Measure", "Term"}
    parts = [(chapter["name"], section) for chapter in site["chapters"] for section in chapter["sections"]]
    assert [href for *_, href in by_kind["Finding"]] == [
        f"{name}.html#{finding['id']}" for name, section in parts for finding in section["findings"]
    ]
    assert [href for *_, href in by_kind["Figure"]] == [
        f"{name}.html#{figure['id']}" for name, section in parts for figure in section["figures"]
    ]
    assert len(by_kind["Measure"]) == len(site["methods"]["metrics"])
    assert len(by_kind["Term"]) == len(glossary.TERMS)
    assert [page for *_, page in by_kind["Page"]][-2:] == ["experts-a.html", "methods.html"]


def test_experts_have_their_tokens_what_they_serve_and_a_place():
    tile = {"expert": 1, "code": "", "style": "", "strong": False, "text": "Layer 0 expert 1 serves code: 5 %."}
    site = site_with("browser-a.html")
    site["pictures"] = [site["pictures"][0] | {"browser": "browser-a.html", "layers": [{"layer": 0, "tiles": [tile]}]}]
    (model,) = search.index(site)["models"]
    assert (model["label"], model["browser"]) == ("a", "browser-a.html")
    nothing = "nothing beyond its share."
    assert model["experts"] == [
        [0, 0, nothing, ["def", "</script>", " most"], "browser-a.html#tab=experts&l=0&e=0"],
        [0, 1, "code: 5 %.", ["é", " most"], "browser-a.html#tab=experts&l=0&e=1"],
    ]
    (model,) = search.index(site_with())["models"]
    assert (model["browser"], model["experts"][1][4]) == ("", "experts-a.html#layer-0-expert-1")


def test_the_script_is_one_call_in_ascii():
    found = search.index(site_with())
    text = search.script(found)
    assert text.isascii() and json.loads(re.fullmatch(r"putSearch\((.*)\);\n", text)[1]) == found
