"""What the search in the header of every page looks through, in one script: pages opened from a folder load no JSON."""

import json
from collections.abc import Mapping
from typing import Any

from gatebook.report import glossary, places

FILE = "search-index.js"
"""The script's name in the report's folder."""


def index(site: Mapping[str, Any]) -> dict:
    """What can be found, from the `site` of `render`.

    Returns
    -------
    dict
        `entries`: a list of [kind, what is shown first, more words, where it leads], of the kinds Page, Finding,
        Figure, Measure and Term. `models`: a list of {label, browser, experts} for every model with profiles; browser
        is the page of its expert browser, or "", and experts a list of [layer, expert, what it serves, texts of its
        tokens, where it leads].
    """
    chapters = site["chapters"]
    entries = [["Page", chapter["title"], chapter["question"], f"{chapter['name']}.html"] for chapter in chapters]
    entries += [["Page", page["title"], "", page["file"]] for page in site["model_pages"]]
    entries.append(["Page", "Methods", "How it was measured and how to rebuild it", "methods.html"])
    for chapter in chapters:
        page = f"{chapter['name']}.html"
        for section in chapter["sections"]:
            entries += [
                ["Finding", one["question"], one["answer"], f"{page}#{one['id']}"] for one in section["findings"]
            ]
            entries += [
                ["Figure", f"Figure {one['number']} {one['title']}", one["caption"], f"{page}#{one['id']}"]
                for one in section["figures"]
            ]
    entries += [
        ["Measure", one["name"], one["definition"], f"methods.html#{one['id']}"] for one in site["methods"]["metrics"]
    ]
    entries += [
        ["Term", name, meaning, f"methods.html#{places.term(name)}"] for name, meaning in glossary.TERMS.items()
    ]
    return {"entries": entries, "models": _models(site)}


def _models(site: Mapping[str, Any]) -> list[dict]:
    served = {
        (picture["browser"], row["layer"], tile["expert"]): tile["text"].split(" serves ", 1)[-1]
        for picture in site["pictures"]
        for row in picture["layers"]
        for tile in row["tiles"]
        if " serves " in tile["text"]
    }
    files = {page["file"] for page in site["model_pages"]}
    found = []
    for page in (page["variables"]["experts"] for page in site["model_pages"] if "experts" in page["variables"]):
        browser, experts = places.model_page("browser", page["model"]), []
        for row in page["rows"]:
            place = row["layer"], row["expert"]
            href = f"{places.model_page('experts', page['model'])}#layer-{place[0]}-expert-{place[1]}"
            href = places.in_browser(browser, place[0], [place[1]]) if browser in files else href
            own = [*row["own"], *row["specific"], *row["tokens"]]
            words = served.get((browser, *place), "nothing beyond its share.")
            experts.append([*place, words, list(dict.fromkeys(own)), href])
        found.append({"label": page["model"], "browser": browser if browser in files else "", "experts": experts})
    return found


def script(found: Mapping) -> str:
    """The text of the script: a call of `putSearch` with what `index` returns, in ASCII."""
    return f"putSearch({json.dumps(found, separators=(',', ':'))});\n"
