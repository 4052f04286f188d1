import pytest

from gatebook.report import assemble

CONFIG = {"statistics": {"fewest_clusters": 8, "few_clusters": 30}}


def test_the_report_warns_of_datasets_that_rest_on_few_sources():
    datasets = [{"dataset": name, "clusters": clusters} for name, clusters in (("a", 30), ("b", 29), ("c", 7))]
    few = assemble._cautions(CONFIG, datasets, False)[assemble.FEW]
    assert "fewer than 30 independent sources: b (29), c (7)." in few
    assert few.endswith("With fewer than 8 there is no interval: c (7).")
    assert "there is no interval" not in assemble._cautions(CONFIG, datasets[:2], False)[assemble.FEW]
    assert assemble.FEW not in assemble._cautions(CONFIG, datasets[:1], False)


def test_a_package_that_is_named_in_two_ways_has_one_licence():
    demo = {"models": {"demo": {"source": "demo"}}, "study": {"models": ["demo"]}}
    found = assemble.packages(demo)
    assert found == sorted(found, key=str.lower) and len({name.lower() for name in found}) == len(found)


@pytest.mark.parametrize(
    ("sources", "datasets", "text"),
    [
        ({"demo": "demo"}, 14, assemble.EMBEDDED),
        ({"mine": "local"}, 1, "How the routers of mine treat 1 dataset."),
        (
            {"demo": "demo", "mine": "hub", "other": "hub"},
            2,
            "How the routers of demo, mine and other treat 2 datasets.",
        ),
    ],
)
def test_a_study_without_a_description_has_one_of_its_own(sources, datasets, text):
    study = {"models": list(sources), "datasets": list(range(datasets))}
    config = {"study": study, "models": {name: {"source": source} for name, source in sources.items()}}
    assert assemble._description(config) == text


def test_what_is_explored_in_the_place_of_a_figure_leads_to_the_browser_of_its_model():
    words = {"title": "Lift", "alt": "", "caption": "", "how_to_read": "", "names": [], "width": 1, "height": 1}
    figures = [words | {"name": "pairs", "explores": "lift"}, words | {"name": "lines", "explores": ""}]
    section = {"chapter": "coactivation", "label": "", "published": [], "absent": []}
    sections = [
        section | {"of": "a/main", "words": {"figures": figures, "findings": [], "explored": "ab12"}},
        section | {"of": "b/main", "words": {"figures": figures, "findings": [], "explored": "cd34"}},
        section | {"of": "c/main", "words": {"figures": figures, "findings": [], "explored": None}},
    ]
    parts = assemble._chapter(1, "coactivation", sections, {"a/main": "browser-a.html"})["sections"]
    found = [figure["explored"] for part in parts for figure in part["figures"]]
    assert found == [
        {
            "first": "lift",
            "build": "ab12",
            "folder": "figures/a/main/coactivation/explored",
            "browser": "browser-a.html",
        },
        None,
        {"first": "lift", "build": "cd34", "folder": "figures/b/main/coactivation/explored", "browser": ""},
        None,
        None,
        None,
    ]


@pytest.mark.parametrize(("of", "browser"), [("a", "browser-a.html"), ("a/main", "browser-a.html"), ("runs", "")])
def test_chapters_about_a_model_lead_to_the_browser_of_its_checkpoint_but_not_those_about_runs(of, browser):
    words = {"title": "Loss", "alt": "", "caption": "", "how_to_read": "", "names": [], "explores": "", "name": "loss"}
    words = {"figures": [words | {"width": 1, "height": 1}], "findings": [], "explored": None}
    section = {"chapter": "held_out_loss", "of": of, "label": "", "words": words, "published": [], "absent": []}
    pages = [{"kind": kind, "model": "a", "checkpoint": "main"} for kind in ("experts", "browser")]
    (part,) = assemble._chapter(1, "held_out_loss", [section], assemble._browsers(pages))["sections"]
    assert part["figures"][0]["browser"] == browser
